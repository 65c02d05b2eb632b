"""Finds shots in content scores: PySceneDetect's detectors, without their reading of pictures.

The scores come from the one decode that everything shares (`operators.video.measures`) and are kept, so that another
detector or threshold decodes nothing again.
"""

from __future__ import annotations

from collections import deque
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
    """Ascending, the first 0."""
    content: NDArray[np.float32]
    """PySceneDetect's content score: how much a frame differs from the one before, 0 to 255."""


def shot_starts(scores: Scores, detector: Detector, threshold: float) -> tuple[int, ...]:
    """Times (us) at which shots begin, the first 0."""
    shots = ShotDetector(detector, threshold)
    for time_us, score in zip(scores.times_us.tolist(), scores.content.tolist(), strict=True):
        shots.add(time_us, score)
    return shots.starts()


class ShotDetector:
    """Fed with every frame's content score, in order of time.

    The adaptive detector takes ten microseconds for a frame. It is shown only frames that differ enough to begin a
    shot, with the window of frames on both sides by which it judges them, and the first frame.
    """

    def __init__(self, detector: Detector, threshold: float) -> None:
        self._starts_us: list[int] = [0]
        self._last_us: int | None = None
        self._detector: _Adaptive | _Content
        if detector is Detector.ADAPTIVE:
            self._detector = _Adaptive(adaptive_threshold=threshold, min_scene_len=SHORTEST_SHOT_US)
            self._least_score, self._window = self._detector.min_content_val, self._detector.window_width
        else:
            self._detector = _Content(threshold=threshold, min_scene_len=SHORTEST_SHOT_US)
            self._least_score, self._window = 0.0, 0
        self._not_shown: deque[tuple[int, float]] = deque(maxlen=self._window)
        self._to_show = 1

    def add(self, time_us: int, score: float) -> None:
        self._last_us = time_us
        if score >= self._least_score:
            while self._not_shown:
                self._show(*self._not_shown.popleft())
            self._to_show = 1 + self._window
        if self._to_show:
            self._to_show -= 1
            self._show(time_us, score)
        else:
            self._not_shown.append((time_us, score))

    def starts(self) -> tuple[int, ...]:
        """Times (us) at which shots begin, the first 0. To be asked once, after the last frame."""
        if self._last_us is not None:
            self._starts_us += self._detector.post_process(_Microseconds(self._last_us))
        return tuple(sorted({int(start) for start in self._starts_us}))

    def _show(self, time_us: int, score: float) -> None:
        self._starts_us += self._detector.process_frame(_Microseconds(time_us), score)


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
