"""Finds shots in content scores: PySceneDetect's detectors, without their reading of pictures.

The scores come from the one decode that everything shares (`operators.video.measures`) and are kept, so that
the other detector or another threshold decodes nothing again.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scenedetect import AdaptiveDetector, ContentDetector

from operators.video.packets import SECOND_US
from schemas.config import Detector

SHORTEST_SHOT_US = 600_000
"""Boundaries closer than this are flashes (PySceneDetect's default for `min_scene_len` on the command line)."""


@dataclass(frozen=True)
class Scores:
    """What frames are judged by. Arrays of shape [frames]."""

    times_us: NDArray[np.int64]
    """In order."""
    content: NDArray[np.float32]
    """PySceneDetect's content score: how much a frame differs from the one before, 0 to 255."""


def shot_starts(scores: Scores, detector: Detector, threshold: float) -> tuple[int, ...]:
    """Times (us) at which shots begin, the first 0.

    PySceneDetect's adaptive detector takes ten microseconds for a frame. It is shown only frames that differ enough to
    begin a shot, with the window of frames on both sides by which it judges them, and the first frame.
    """
    times_us, content = scores.times_us, scores.content
    if not len(times_us):
        return (0,)
    judge: _Adaptive | _Content
    if detector is Detector.ADAPTIVE:
        judge = _Adaptive(adaptive_threshold=threshold, min_scene_len=SHORTEST_SHOT_US)
        shown = _around(np.flatnonzero(content >= judge.min_content_val), judge.window_width, len(content))
    else:
        judge = _Content(threshold=threshold, min_scene_len=SHORTEST_SHOT_US)
        shown = np.arange(len(content))
    starts_us = [0]
    for time_us, score in zip(times_us[shown].tolist(), content[shown].tolist(), strict=True):
        starts_us += judge.process_frame(_Microseconds(time_us), score)
    starts_us += judge.post_process(_Microseconds(times_us[-1]))
    return tuple(sorted({int(start_us) for start_us in starts_us}))


def _around(frames: NDArray[np.int64], width: int, count: int) -> NDArray[np.int64]:
    """These frames' numbers, those of `width` frames on both sides, and 0. Ascending, below `count`."""
    near = np.append(0, frames[:, None] + np.arange(-width, width + 1))
    return np.unique(near.clip(0, count - 1))


class _Microseconds(int):
    """A time as the detectors use it: all they do is compare differences with the shortest shot.

    Their own `FrameTimecode` does that in fractions, and costs five times as much as judging.
    """

    frame_rate = SECOND_US


class _Scored:
    """Makes PySceneDetect's detectors take a frame's score where they take its picture (`frame_img`)."""

    def _calculate_frame_score(self, timecode: _Microseconds, frame_img: float) -> float:
        return frame_img


class _Adaptive(_Scored, AdaptiveDetector):
    pass


class _Content(_Scored, ContentDetector):
    pass
