"""Frames spread evenly over each clip of a video, from one decode of it or, better, of its proxy.

Every clip is divided into equal cells and one frame stands for each. The cells tile the video as the clips do, so what
is seen in frames becomes spans of the timeline that neither overlap nor leave gaps. A proxy has the source's times, so
only the density of frames differs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice, pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from operators.video.frames import PATCH, VideoFrame, frame_times, frames_at
from operators.video.packets import SECOND_US
from operators.video.proxy import FPS
from schemas.base import Span
from schemas.tables import Clip

STEP_US = SECOND_US // FPS
"""Between frames of a proxy that are this far apart there were others."""


@dataclass(frozen=True)
class Sample:
    """A frame and the cell that it stands for.

    `time_us` is the frame's own time or, where that lies outside the cell, the cell's nearest moment.
    """

    cell: Span
    time_us: int
    rgb: NDArray[np.uint8]


def sample_clips(
    path: Path, clips: Sequence[Clip], counts: Sequence[int], side: int, multiple: int = PATCH
) -> Iterator[list[Sample]]:
    """For each clip at most `counts` samples, at least one; clips are in order of time.

    A cell's frame is, of those that start in it, the one nearest to its middle. If none does, it is the one on screen
    since before the cell; but at a clip's start not one from before the clip, which a cut may have ended, if a frame
    of the clip follows within `STEP_US`.

    Frames are (height, width, 3) RGB with a longest side of `side` pixels, in multiples of `multiple`. A frame that
    stands for several cells makes one sample of them all. Errors are those of `frames_at`.
    """
    times_us = frame_times(path)
    cells = [spread(clip.start_us, clip.end_us, count) for clip, count in zip(clips, counts, strict=True)]
    chosen = [_chosen(times_us, clip, cell) for clip, own in zip(clips, cells, strict=True) for cell in own]
    frames = frames_at(path, chosen, side, multiple)
    for own in cells:
        shown = zip(own, islice(frames, len(own)), strict=True)
        yield [_sample(list(same)) for _, same in groupby(shown, key=lambda pair: pair[1].time_us)]


def spread(start_us: int, end_us: int, count: int) -> list[Span]:
    """A span divided into `count` cells whose lengths differ by at most a microsecond; no cell is empty."""
    count = min(count, end_us - start_us)
    edges = [start_us + (end_us - start_us) * i // count for i in range(count + 1)]
    return [Span(start_us=a, end_us=b) for a, b in pairwise(edges)]


def _chosen(times_us: NDArray[np.int64], clip: Clip, cell: Span) -> int:
    """The time of the frame that stands for a cell of a clip."""
    first, end = np.searchsorted(times_us, (cell.start_us, cell.end_us))
    if first < end:
        distances = np.abs(times_us[first:end] - (cell.start_us + cell.end_us) // 2)
        return int(times_us[first + np.argmin(distances)])
    before_us = int(times_us[max(0, first - 1)])
    follows = first < len(times_us) and times_us[first] < min(clip.start_us + STEP_US, clip.end_us)
    return int(times_us[first]) if before_us < clip.start_us and follows else before_us


def _sample(shown: Sequence[tuple[Span, VideoFrame]]) -> Sample:
    """One frame, shown in one cell or in several that follow one another."""
    (first, frame), (last, _) = shown[0], shown[-1]
    cell = Span(start_us=first.start_us, end_us=last.end_us)
    return Sample(cell, min(max(frame.time_us, cell.start_us), cell.end_us - 1), frame.rgb)
