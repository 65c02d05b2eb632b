"""One decode of a whole video: where shots begin, and how much each frame moves, how sharp and how bright it is.

Decoding is what costs, so everything that needs every frame shares this pass. Memory is constant but for 20 bytes a
frame (4 MB for an hour at 60 frames a second): frames are reduced to 256 pixels in width at once. Rotation changes none
of the measures, so it is left alone.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from fractions import Fraction

import cv2
import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray
from scenedetect import AdaptiveDetector, ContentDetector, FrameTimecode, SceneDetector
from scenedetect.common import Timecode

from operators.video.packets import SECOND_US, UnreadableVideo, decode, open_video
from operators.video.probe import VideoProbe
from schemas.config import Detector

ANALYSIS_WIDTH = 256
"""Width of the reduced frames: PySceneDetect's own default for its automatic downscaling."""

SHORTEST_SHOT_SECONDS = 0.6
"""Boundaries closer than this are flashes (PySceneDetect's default for `min_scene_len` on the command line)."""

_MICROSECOND = Fraction(1, SECOND_US)


@dataclass(frozen=True)
class SpanStatistics:
    """Means over the frames of a span. Units as in `schemas.tables.Clip`."""

    frame_count: int
    motion: float
    sharpness: float
    brightness: float


@dataclass(frozen=True)
class Analysis:
    """What one decode has shown."""

    shot_starts_us: tuple[int, ...]
    """Ascending frame times; the first is 0."""
    times_us: NDArray[np.int64]
    """Shape [frames], ascending: the frames that really could be decoded."""
    motion: NDArray[np.float32]
    """Shape [frames]: mean absolute difference of luma to the frame before, 0 to 1; 0 for the first."""
    sharpness: NDArray[np.float32]
    """Shape [frames]: variance of the Laplacian of luma, in 8-bit levels."""
    brightness: NDArray[np.float32]
    """Shape [frames]: mean luma, 0 to 1."""
    unreadable_us: int
    """Time for which the index promises frames that could not be decoded."""

    def statistics(self, start_us: int, end_us: int) -> SpanStatistics:
        """Of the frames that start in `[start_us, end_us)`, or of the one standing there when none does.

        Motion is between frames of the span only, so a shot boundary at its start does not count as motion.
        """
        first, end = (int(position) for position in np.searchsorted(self.times_us, (start_us, end_us)))
        shown = slice(first, end) if end > first else slice(max(0, first - 1), max(1, first))
        moving = self.motion[first + 1 : end]
        return SpanStatistics(
            frame_count=end - first,
            motion=float(moving.mean()) if len(moving) else 0.0,
            sharpness=float(self.sharpness[shown].mean()),
            brightness=float(self.brightness[shown].mean()),
        )


def analyse(video: VideoProbe, detector: Detector, threshold: float) -> Analysis:
    """Decode every frame once.

    Raises:
        UnreadableVideo: `damaged` when half of the video or more cannot be decoded.
    """
    shots = _ShotDetector(detector, threshold, video.fps)
    statistics = _FrameStatistics()
    times_us = array("q")
    with open_video(video.path) as (container, stream):
        for time_us, frame in decode(container, stream, video.index.timeline):
            if times_us and time_us <= times_us[-1]:
                continue  # a second picture for the same moment
            small = _reduced(frame)
            shots.add(time_us, small)
            statistics.add(small)
            times_us.append(time_us)
    times = np.array(times_us, dtype=np.int64)
    unreadable_us = _unreadable(times, video)
    if 2 * unreadable_us >= video.duration_us:
        raise UnreadableVideo(
            "damaged",
            f"{video.path.name}: {unreadable_us / SECOND_US:.1f} s of {video.duration_us / SECOND_US:.1f} s cannot be "
            f"decoded; fetch it again",
        )
    return Analysis(
        shot_starts_us=shots.starts(),
        times_us=times,
        motion=np.array(statistics.motion, dtype=np.float32),
        sharpness=np.array(statistics.sharpness, dtype=np.float32),
        brightness=np.array(statistics.brightness, dtype=np.float32),
        unreadable_us=unreadable_us,
    )


class _ShotDetector:
    """PySceneDetect's detector, fed with exact times."""

    def __init__(self, detector: Detector, threshold: float, fps: float) -> None:
        self._fps = fps
        self._starts_us: list[int] = [0]
        self._last: FrameTimecode | None = None
        self._detector: SceneDetector = (
            AdaptiveDetector(adaptive_threshold=threshold, min_scene_len=SHORTEST_SHOT_SECONDS)
            if detector is Detector.ADAPTIVE
            else ContentDetector(threshold=threshold, min_scene_len=SHORTEST_SHOT_SECONDS)
        )

    def add(self, time_us: int, bgr: NDArray[np.uint8]) -> None:
        self._last = FrameTimecode(Timecode(time_us, _MICROSECOND), self._fps)
        self._starts_us += [cut.pts for cut in self._detector.process_frame(self._last, bgr)]

    def starts(self) -> tuple[int, ...]:
        if self._last is not None:
            self._starts_us += [cut.pts for cut in self._detector.post_process(self._last)]
        return tuple(sorted(set(self._starts_us)))


class _FrameStatistics:
    """Grows one number of each kind with each frame."""

    def __init__(self) -> None:
        self.motion = array("f")
        self.sharpness = array("f")
        self.brightness = array("f")
        self._before: NDArray[np.uint8] | None = None

    def add(self, bgr: NDArray[np.uint8]) -> None:
        luma = np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY), dtype=np.uint8)
        before = luma if self._before is None else self._before
        _, deviation = cv2.meanStdDev(cv2.Laplacian(luma, cv2.CV_16S))
        self.motion.append(cv2.norm(luma, before, cv2.NORM_L1) / (255 * luma.size))
        self.sharpness.append(float(deviation[0, 0]) ** 2)
        self.brightness.append(cv2.mean(luma)[0] / 255)
        self._before = luma


def _reduced(frame: VideoFrame) -> NDArray[np.uint8]:
    """The frame as BGR, shape [height, width <= 256, 3]."""
    scale = min(1.0, ANALYSIS_WIDTH / frame.width)
    width, height = round(frame.width * scale), max(1, round(frame.height * scale))
    small = frame.reformat(width=width, height=height, format="bgr24", interpolation="AREA")
    return np.asarray(small.to_ndarray(), dtype=np.uint8)


def _unreadable(times_us: NDArray[np.int64], video: VideoProbe) -> int:
    """Time in holes between decoded frames that are wider than packets explain.

    Twice the longest step between packets is allowed, as a packet may hold one field of a frame only.
    """
    promised = np.append(video.index.frame_times_us, video.duration_us)
    longest = int(np.diff(promised).max())
    gaps = np.diff(np.concatenate(([0], times_us, [video.duration_us])))
    return int(np.sum(gaps[gaps > 2 * longest] - longest))
