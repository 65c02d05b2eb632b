"""From a source to a video: opens the file, measures it, and gives it two identities, of its bytes and of its looks."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from operators.stage import Context, Stage
from operators.video.frames import frames_at
from operators.video.packets import UnreadableVideo
from operators.video.probe import VideoProbe, probe
from schemas.tables import Reject, Source, Video

HASHED_FRAMES = 8
"""Difference hashes in a perceptual hash, of frames in the middle of equal parts of the video."""


def run(context: Context, sources: list[Source]) -> Iterator[Video | Reject]:
    """One video for each readable source, a reject with the reason for each other."""
    for source in sources:
        try:
            path = context.files.fetch(source.uri, context.scratch)
            yield _video(source, path)
        except UnreadableVideo as error:
            yield context.reject(source.source_id, error.reason, f"{source.source_id}: {error}")


def _video(source: Source, path: Path) -> Video:
    measured = probe(path)
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return Video(
        video_id=source.source_id,
        uri=source.uri,
        sha256=sha256,
        perceptual_hash=perceptual_hash(measured),
        size_bytes=path.stat().st_size,
        duration_us=measured.duration_us,
        width=measured.width,
        height=measured.height,
        fps=measured.fps,
        variable_frame_rate=measured.variable_frame_rate,
        frame_count=measured.frame_count,
        rotation=measured.rotation,
        codec=measured.codec,
        pixel_format=measured.pixel_format,
        transfer=measured.transfer,
        audio_codec=measured.audio_codec,
        title=source.title,
        category=source.category,
        licence=source.licence,
        origin=source.origin,
        split_hint=source.split_hint,
        annotations=source.annotations,
    )


def perceptual_hash(video: VideoProbe) -> str:
    """128 hex digits that change little when a video is encoded or scaled anew.

    Eight frames, each as a 64-bit difference hash (dHash: N. Krawetz, "Kind of Like That", 2013).
    """
    times_us = [(2 * part + 1) * video.duration_us // (2 * HASHED_FRAMES) for part in range(HASHED_FRAMES)]
    return "".join(_difference_hash(frame.rgb) for frame in frames_at(video.path, times_us))


def _difference_hash(rgb: NDArray[np.uint8]) -> str:
    """Of a frame reduced to 9x8 pixels: is each pixel darker than its right neighbour? 16 hex digits."""
    luma = cv2.resize(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), (9, 8), interpolation=cv2.INTER_AREA)
    return np.packbits(luma[:, :-1] < luma[:, 1:]).tobytes().hex()


STAGE = Stage(
    name="ingest",
    version=1,
    row=Video,
    reads=("source",),
    run=run,
    section=lambda config: None,
    isolated=True,
)
