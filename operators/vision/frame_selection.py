"""Decides which frames of each clip the captioner sees, or `caption` measures, and decodes them.

The caller decides how many there are (`CaptionConfig.frames_per_clip`, `text_fps`) and how large. Which file they are
read from is decided in `operators.vision.request_frames`. The target's frames are the middles of equal parts of the
video (`operators.stages.difficulty`), and those of training are chosen by `trainer_plugin`.

Every clip is divided into equal cells, and one frame represents each cell. The cells tile the video as the clips do, so
observations in frames become spans of the timeline without overlaps or gaps. A proxy has the source's times and differs
only in the density of frames.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice, pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from operators.video.analysis.proxy import FPS
from operators.video.decode.frames import PATCH, VideoFrame, frame_times, frames_at
from schemas.base import Span
from schemas.tables import Clip
from schemas.video.clock import SECOND_US

STEP_US = SECOND_US // FPS
"""Frame interval of a proxy. The source may have more frames within it."""


@dataclass(frozen=True)
class ClipFrame:
    """An RGB frame of shape (height, width, 3) and the cell that it represents.

    `time_us` is the frame's own time, clamped to the cell.
    """

    cell: Span
    time_us: int
    rgb: NDArray[np.uint8]


def sample_clip_frames(
    path: Path, clips: Sequence[Clip], counts: Sequence[int], side: int, multiple: int = PATCH
) -> Iterator[list[ClipFrame]]:
    """Yield the samples of each clip, at least one per clip.

    A cell's frame is the one nearest to the cell's middle among those that start in the cell. If no frame starts in
    it, the frame on screen since before the cell is taken. At the start of a clip that frame would belong to the
    previous clip, and a cut may lie between them: if a frame of the clip follows within `STEP_US`, it is taken instead.

    A frame that represents several cells becomes one sample whose cell covers them all.

    Args:
        path: the video or its proxy.
        clips: clips of the video in order of time.
        counts: maximum number of samples of each clip.
        side: longest side of the frames in pixels.
        multiple: both sides are rounded to a multiple of this number of pixels.

    Raises:
        UnreadableVideo: the file cannot be read, or nothing of it can be decoded.
        ValueError: a clip ends after the video.
    """
    times_us = frame_times(path)
    cells = [spread(clip.start_us, clip.end_us, count) for clip, count in zip(clips, counts, strict=True)]
    chosen = [_choose_time(times_us, clip, cell) for clip, own in zip(clips, cells, strict=True) for cell in own]
    frames = frames_at(path, chosen, side, multiple)
    for own in cells:
        shown = zip(own, islice(frames, len(own)), strict=True)
        yield [_sample(list(same)) for _, same in groupby(shown, key=lambda pair: pair[1].time_us)]


def spread(start_us: int, end_us: int, count: int) -> list[Span]:
    """The span divided into `count` cells whose lengths differ by at most 1 µs.

    A span shorter than `count` microseconds has one cell per microsecond, so that no cell is empty.
    """
    count = min(count, end_us - start_us)
    edges = [start_us + (end_us - start_us) * i // count for i in range(count + 1)]
    return [Span(start_us=a, end_us=b) for a, b in pairwise(edges)]


def _choose_time(times_us: NDArray[np.int64], clip: Clip, cell: Span) -> int:
    """Time of the frame that represents a cell of a clip."""
    first, end = np.searchsorted(times_us, (cell.start_us, cell.end_us))
    if first < end:
        distances = np.abs(times_us[first:end] - (cell.start_us + cell.end_us) // 2)
        return int(times_us[first + np.argmin(distances)])
    before_us = int(times_us[max(0, first - 1)])
    follows = first < len(times_us) and times_us[first] < min(clip.start_us + STEP_US, clip.end_us)
    return int(times_us[first]) if before_us < clip.start_us and follows else before_us


def _sample(shown: Sequence[tuple[Span, VideoFrame]]) -> ClipFrame:
    """The sample of a frame that represents one cell or several consecutive ones."""
    (first, frame), (last, _) = shown[0], shown[-1]
    cell = Span(start_us=first.start_us, end_us=last.end_us)
    return ClipFrame(cell, min(max(frame.time_us, cell.start_us), cell.end_us - 1), frame.rgb)
