"""Finds shots in content scores: PySceneDetect's detectors, without their reading of pictures.

The scores come from the one decode that everything shares (`operators.video.measures`), so that they can be computed
wherever a frame is at hand and judged later, in order.
"""

from __future__ import annotations

from fractions import Fraction

from scenedetect import AdaptiveDetector, ContentDetector, FrameTimecode
from scenedetect.common import Timecode

from operators.video.packets import SECOND_US
from schemas.config import Detector

SHORTEST_SHOT_SECONDS = 0.6
"""Boundaries closer than this are flashes (PySceneDetect's default for `min_scene_len` on the command line)."""

_MICROSECOND = Fraction(1, SECOND_US)


class ShotDetector:
    """Fed with every frame's content score, in order of time."""

    def __init__(self, detector: Detector, threshold: float, fps: float) -> None:
        self._fps = fps
        self._starts_us: list[int] = [0]
        self._last: FrameTimecode | None = None
        self._detector: _Adaptive | _Content = (
            _Adaptive(adaptive_threshold=threshold, min_scene_len=SHORTEST_SHOT_SECONDS)
            if detector is Detector.ADAPTIVE
            else _Content(threshold=threshold, min_scene_len=SHORTEST_SHOT_SECONDS)
        )

    def add(self, time_us: int, score: float) -> None:
        self._last = FrameTimecode(Timecode(time_us, _MICROSECOND), self._fps)
        self._starts_us += [cut.pts for cut in self._detector.process_frame(self._last, score)]

    def starts(self) -> tuple[int, ...]:
        """Times (us) at which shots begin, the first 0. To be asked once, after the last frame."""
        if self._last is not None:
            self._starts_us += [cut.pts for cut in self._detector.post_process(self._last)]
        return tuple(sorted(set(self._starts_us)))


class _Scored:
    """Makes PySceneDetect's detectors take a frame's score where they take its picture (`frame_img`)."""

    def _calculate_frame_score(self, timecode: FrameTimecode, frame_img: float) -> float:
        return frame_img


class _Adaptive(_Scored, AdaptiveDetector):
    pass


class _Content(_Scored, ContentDetector):
    pass
