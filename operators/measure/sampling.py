"""Frames spread evenly over each clip of a video, from one decode.

Every clip is divided into equal cells and the frame on screen in the middle of a cell stands for it. The cells tile the
video as the clips do, so what is seen in frames becomes spans of the timeline that neither overlap nor leave gaps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice, pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from operators.video.frames import VideoFrame, frames_at
from schemas.base import Span
from schemas.tables import Clip


@dataclass(frozen=True)
class Sample:
    """A frame and the cell that it stands for.

    `time_us` lies in the cell: the frame's own time, or the cell's start when the frame was on screen before.
    """

    cell: Span
    time_us: int
    rgb: NDArray[np.uint8]


def sample_clips(path: Path, clips: Sequence[Clip], counts: Sequence[int], side: int) -> Iterator[list[Sample]]:
    """For each clip at most `counts` samples, at least one; clips are in order of time.

    Frames are (height, width, 3) RGB with a longest side of `side` pixels. A frame that is on screen for several cells
    stands for them all. Errors are those of `frames_at`.
    """
    cells = [spread(clip.start_us, clip.end_us, count) for clip, count in zip(clips, counts, strict=True)]
    frames = frames_at(path, [(cell.start_us + cell.end_us) // 2 for each in cells for cell in each], side)
    for own in cells:
        shown = zip(own, islice(frames, len(own)), strict=True)
        yield [_sample(list(same)) for _, same in groupby(shown, key=lambda pair: pair[1].time_us)]


def spread(start_us: int, end_us: int, count: int) -> list[Span]:
    """A span divided into `count` cells whose lengths differ by at most a microsecond; no cell is empty."""
    count = min(count, end_us - start_us)
    edges = [start_us + (end_us - start_us) * i // count for i in range(count + 1)]
    return [Span(start_us=a, end_us=b) for a, b in pairwise(edges)]


def _sample(shown: Sequence[tuple[Span, VideoFrame]]) -> Sample:
    """One frame, shown in one cell or in several that follow one another."""
    (first, frame), (last, _) = shown[0], shown[-1]
    cell = Span(start_us=first.start_us, end_us=last.end_us)
    return Sample(cell, max(frame.time_us, cell.start_us), frame.rgb)
