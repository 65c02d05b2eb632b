"""Decides which frames of each clip the captioner sees and which are searched for text, and decodes them.

The caller decides how many there are (`CaptionConfig.frames_per_clip`, `text_fps`) and how large. Which file they are
read from is decided in `operators.vision.request_frames`. The target's frames are the middles of equal parts of the
video (`operators.stages.difficulty`), and those of training are chosen by `trainer_plugin`.

Every clip is divided into cells, and one frame represents each cell. The cells are equal (`spread`), or equal within
each shot (`spread_over_shots`). They tile the video as the clips do, so observations in frames become spans of the
timeline without overlaps or gaps. A proxy has the source's times and differs only in the density of frames.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice, pairwise
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from operators.video.analysis.proxy import FPS
from operators.video.decode.frames import PATCH, VideoFrame, fitted_size, frame_times, frames_at
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


@dataclass(frozen=True)
class FrameSampling:
    """The cells of every clip, and the size of the frames that represent them."""

    cells: Sequence[Sequence[Span]]
    """For each clip the cells that tile it, at least one."""
    side: int
    """Longest side of the frames in pixels."""
    multiple: int = PATCH
    """Both sides are rounded to a multiple of this number of pixels."""


def sample_clip_frames(
    path: Path, clips: Sequence[Clip], samplings: Sequence[FrameSampling]
) -> Iterator[list[list[ClipFrame]]]:
    """Yield the samples of each clip by each sampling, at least one per clip and sampling, from one decode.

    A cell's frame is the one nearest to the cell's middle among those that start in the cell. If no frame starts in
    it, the frame on screen since before the cell is taken. At the start of a clip that frame would belong to the
    previous clip, and a cut may lie between them: if a frame of the clip follows within `STEP_US`, it is taken instead.

    A frame that represents several cells becomes one sample whose cell covers them all.

    Args:
        path: the video or its proxy.
        clips: clips of the video in order of time.
        samplings: at least one.

    Raises:
        UnreadableVideo: the file cannot be read, or nothing of it can be decoded.
        ValueError: a clip ends after the video.
    """
    times_us = frame_times(path)
    chosen = [
        [[_choose_time(times_us, clip, cell) for cell in sampling.cells[index]] for sampling in samplings]
        for index, clip in enumerate(clips)
    ]
    distinct = [sorted({time for times in of_clip for time in times}) for of_clip in chosen]
    side = max(sampling.side for sampling in samplings)
    multiple = min(sampling.multiple for sampling in samplings)
    frames = frames_at(path, [time for times in distinct for time in times], side, multiple)
    for index, times in enumerate(distinct):
        shown = dict(zip(times, islice(frames, len(times)), strict=True))
        yield [
            _samples(sampling, sampling.cells[index], [shown[time] for time in own])
            for sampling, own in zip(samplings, chosen[index], strict=True)
        ]


def spread(start_us: int, end_us: int, count: int) -> list[Span]:
    """The span divided into `count` cells whose lengths differ by at most 1 µs.

    A span shorter than `count` microseconds has one cell per microsecond, so that no cell is empty.
    """
    count = min(count, end_us - start_us)
    edges = [start_us + (end_us - start_us) * i // count for i in range(count + 1)]
    return [Span(start_us=a, end_us=b) for a, b in pairwise(edges)]


def spread_over_shots(clip: Clip, count: int) -> list[Span]:
    """The clip divided into `count` cells of which none crosses the start of a shot.

    Every shot has at least one cell, and long shots have more, so that the longest cell is as short as possible. A clip
    with more than `count` shots is divided evenly, whatever its shots.
    """
    edges = [clip.start_us, *(time for time in clip.shot_starts_us if clip.start_us < time < clip.end_us), clip.end_us]
    shots = list(pairwise(edges))
    if len(shots) > count:
        return spread(clip.start_us, clip.end_us, count)
    cells = [1] * len(shots)
    for _ in range(count - len(shots)):
        longest = max(range(len(shots)), key=lambda i: (shots[i][1] - shots[i][0]) / cells[i])
        cells[longest] += 1
    return [
        cell for (start_us, end_us), own in zip(shots, cells, strict=True) for cell in spread(start_us, end_us, own)
    ]


def _choose_time(times_us: NDArray[np.int64], clip: Clip, cell: Span) -> int:
    """Time of the frame that represents a cell of a clip."""
    first, end = np.searchsorted(times_us, (cell.start_us, cell.end_us))
    if first < end:
        distances = np.abs(times_us[first:end] - (cell.start_us + cell.end_us) // 2)
        return int(times_us[first + np.argmin(distances)])
    before_us = int(times_us[max(0, first - 1)])
    follows = first < len(times_us) and times_us[first] < min(clip.start_us + STEP_US, clip.end_us)
    return int(times_us[first]) if before_us < clip.start_us and follows else before_us


def _samples(sampling: FrameSampling, cells: Sequence[Span], frames: Sequence[VideoFrame]) -> list[ClipFrame]:
    """One sample for each distinct frame, in the sampling's size."""
    shown = zip(cells, frames, strict=True)
    return [_sample(sampling, list(same)) for _, same in groupby(shown, key=lambda pair: pair[1].time_us)]


def _sample(sampling: FrameSampling, shown: Sequence[tuple[Span, VideoFrame]]) -> ClipFrame:
    """The sample of a frame that represents one cell or several consecutive ones."""
    (first, frame), (last, _) = shown[0], shown[-1]
    cell = Span(start_us=first.start_us, end_us=last.end_us)
    height, width = frame.rgb.shape[:2]
    size = fitted_size(width, height, sampling.side, sampling.multiple)
    rgb = frame.rgb if size == (width, height) else cv2.resize(frame.rgb, size, interpolation=cv2.INTER_AREA)
    return ClipFrame(cell, min(max(frame.time_us, cell.start_us), cell.end_us - 1), rgb.astype(np.uint8, copy=False))
