"""Detects shots from content scores with PySceneDetect's detectors, without their decoding of pictures.

The scores come from the one shared decode (`operators.video.analysis.measures`) and are kept, so that another detector
or threshold needs no second decode.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scenedetect import AdaptiveDetector, ContentDetector

from schemas.config import Detector
from schemas.video.clock import SECOND_US

SHORTEST_SHOT_US = 600_000
"""Boundaries closer than this are flashes (PySceneDetect's command-line default for `min_scene_len`)."""


@dataclass(frozen=True)
class Scores:
    """Content scores of frames. Arrays have the shape [frames]."""

    times_us: NDArray[np.int64]
    """Frame times in microseconds, ascending."""
    content: NDArray[np.float32]
    """PySceneDetect's content score: difference from the previous frame, 0 to 255."""


def shot_starts(scores: Scores, detector: Detector, threshold: float) -> tuple[int, ...]:
    """Shot start times (us), ascending, the first 0.

    PySceneDetect's adaptive detector takes ten microseconds per frame. It therefore receives only frames that differ
    enough to begin a shot, the window of frames on both sides that it judges them by, and the first frame.

    Raises:
        ValueError: the detector is not one of PySceneDetect's.
    """
    times_us, content = scores.times_us, scores.content
    if not len(times_us):
        return (0,)
    judge: _Adaptive | _Content
    match detector:
        case Detector.ADAPTIVE:
            judge = _Adaptive(adaptive_threshold=threshold, min_scene_len=SHORTEST_SHOT_US)
            shown = _with_neighbours(np.flatnonzero(content >= judge.min_content_val), judge.window_width, len(content))
        case Detector.CONTENT:
            judge = _Content(threshold=threshold, min_scene_len=SHORTEST_SHOT_US)
            shown = np.arange(len(content))
        case _:
            raise ValueError(
                f"shot detector {detector.value!r} does not use PySceneDetect's scores; choose 'adaptive' or "
                f"'content', or call `Analysis.shot_starts`"
            )
    starts_us = [0]
    for time_us, score in zip(times_us[shown].tolist(), content[shown].tolist(), strict=True):
        starts_us += judge.process_frame(_Microseconds(time_us), score)
    starts_us += judge.post_process(_Microseconds(times_us[-1]))
    return tuple(sorted({int(start_us) for start_us in starts_us}))


def _with_neighbours(frames: NDArray[np.int64], width: int, count: int) -> NDArray[np.int64]:
    """Indices of these frames and of `width` frames on both sides, and 0. Ascending, below `count`."""
    near = np.append(0, frames[:, None] + np.arange(-width, width + 1))
    return np.unique(near.clip(0, count - 1))


class _Microseconds(int):
    """A time for the detectors, which only compare differences with the shortest shot.

    Their own `FrameTimecode` uses fractions for that, which costs five times as much as the detection.
    """

    frame_rate = SECOND_US


class _PrecomputedScores:
    """Makes PySceneDetect's detectors take a frame's score in place of its picture (`frame_img`)."""

    def _calculate_frame_score(self, timecode: _Microseconds, frame_img: float) -> float:
        return frame_img


class _Adaptive(_PrecomputedScores, AdaptiveDetector):
    pass


class _Content(_PrecomputedScores, ContentDetector):
    pass
