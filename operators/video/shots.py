"""Finds shots in content scores: PySceneDetect's detectors, without their reading of pictures.

The scores come from the one decode that everything shares (`operators.video.measures`), so that they can be computed
wherever a frame is at hand and judged later, in order.
"""

from __future__ import annotations

from scenedetect import AdaptiveDetector, ContentDetector

from operators.video.packets import SECOND_US
from schemas.config import Detector

SHORTEST_SHOT_US = 600_000
"""Boundaries closer than this are flashes (PySceneDetect's default for `min_scene_len` on the command line)."""


class ShotDetector:
    """Fed with every frame's content score, in order of time."""

    def __init__(self, detector: Detector, threshold: float) -> None:
        self._starts_us: list[int] = [0]
        self._last: _Microseconds | None = None
        self._detector: _Adaptive | _Content = (
            _Adaptive(adaptive_threshold=threshold, min_scene_len=SHORTEST_SHOT_US)
            if detector is Detector.ADAPTIVE
            else _Content(threshold=threshold, min_scene_len=SHORTEST_SHOT_US)
        )

    def add(self, time_us: int, score: float) -> None:
        self._last = _Microseconds(time_us)
        self._starts_us += self._detector.process_frame(self._last, score)

    def starts(self) -> tuple[int, ...]:
        """Times (us) at which shots begin, the first 0. To be asked once, after the last frame."""
        if self._last is not None:
            self._starts_us += self._detector.post_process(self._last)
        return tuple(sorted({int(start) for start in self._starts_us}))


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
