"""Decodes a whole video once: measures every frame and passes sampled frames to consumers.

Decoding dominates the cost, so all consumers of every frame share this pass. Shot boundaries are detected later from
the stored measures, as often as needed. Long videos are decoded in parallel (`operators.video.decode.ranges`), and the
result is byte-identical. Memory is constant except for 95 bytes per frame (10 MB for an hour at 30 frames per second).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import assert_never

import cv2
import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from operators.video.analysis import shots, transnet
from operators.video.analysis.measures import (
    DESCRIPTOR_BYTES,
    HASH_BYTES,
    FrameMeasures,
    Measurer,
    Picture,
    visual_distance,
)
from operators.video.analysis.shots import Scores
from operators.video.decode.packets import DecodedFrame, UnreadableVideo
from operators.video.decode.probe import VideoProbe
from operators.video.decode.ranges import decode_spans
from schemas.config import Detector
from schemas.tables import PictureFormat
from schemas.video.clock import SECOND_US

Consumer = Callable[[int, VideoFrame], None]
"""Takes a frame and its time (us). Called in order of time, never concurrently."""

LONG_VIDEO_US = 120 * SECOND_US
"""Shorter videos are decoded on one core: there are many of them, and files are processed in parallel."""

MOST_WORKERS = 8
"""Limit for the workers. Each holds a decoder and the results of two spans: about 100 MB for 1080p."""

BLACK_SHARE = 0.98
"""A frame with at least this share of dark pixels is black (ffmpeg's `blackdetect`, `picture_black_ratio_th`)."""

FROZEN_MOTION = 0.001
"""A frame whose motion is below this is frozen (ffmpeg's `freezedetect`, -60 dB)."""

HASHED_FRAMES = 8
"""Number of difference hashes in a perceptual hash: of the frames in the middle of equal parts of the video."""


def keep_frame(frame: VideoFrame) -> VideoFrame:
    """Return the frame unchanged."""
    return frame


@dataclass(frozen=True)
class FrameSampling:
    """A consumer of frames on a regular grid: the first frame at or after each multiple of 1/rate seconds."""

    rate: int | Fraction
    """Frames per second."""
    take: Consumer
    reduce: Callable[[VideoFrame], VideoFrame] = keep_frame
    """Reduces a frame before it is queued. On a long video it runs concurrently in several threads, so it must keep no
    state. With `keep_frame`, up to three spans of ten seconds of full-size frames are queued."""

    def cell(self, time_us: int) -> int:
        """Index of the last grid point at or before a time; the first frame of each cell is sampled."""
        return int(time_us * self.rate // SECOND_US)


@dataclass(frozen=True)
class SpanStatistics:
    """Means over the frames of a span, in the units of `schemas.tables.Clip`."""

    frame_count: int
    motion: float
    sharpness: float
    brightness: float
    black: float
    """Share of black frames."""
    frozen: float
    """Share of frames that repeat the previous one."""


@dataclass(frozen=True)
class Analysis:
    """Results of one decode of a video."""

    times_us: NDArray[np.int64]
    """Shape [frames], ascending: times of the frames that could be decoded."""
    motion: NDArray[np.float32]
    """Shape [frames], as for the following fields; units as in `operators.video.analysis.measures.FrameMeasures`."""
    sharpness: NDArray[np.float32]
    brightness: NDArray[np.float32]
    dark: NDArray[np.float32]
    descriptors: Picture
    """Appearance descriptors, shape [frames, DESCRIPTOR_BYTES]; `operators.video.analysis.measures.visual_distance` is
    their distance."""
    scores: Scores
    """Content score per frame. In key-frame mode only frames near possible shot changes are scored."""
    transition: NDArray[np.float32]
    """Shape [frames]: each frame's probability of being in a transition, by TransNetV2. Empty without a network."""
    duration_us: int
    unreadable_us: int
    """Time for which the index has frames but none could be decoded."""
    damaged_us: NDArray[np.int64]
    """Shape [damaged frames], ascending: times of frames in which the decoder met errors and concealed them."""
    formats: tuple[PictureFormat, ...]
    """Each change of the picture format, beginning with the first frame's at 0."""

    def shot_starts(self, detector: Detector, threshold: float) -> tuple[int, ...]:
        """Shot start times (us), ascending, the first 0.

        Raises:
            ValueError: the detector is `transnet`, but the decode ran without its network.
        """
        match detector:
            case Detector.ADAPTIVE | Detector.CONTENT:
                return shots.shot_starts(self.scores, detector, threshold)
            case Detector.TRANSNET:
                return transnet.shot_starts(self.times_us, self.transition, threshold)
            case _:
                assert_never(detector)

    def statistics(self, start_us: int, end_us: int) -> SpanStatistics:
        """Statistics of the frames that start in `[start_us, end_us)`.

        If none starts there, they are of the frame shown at that time, except `frame_count`, `motion` and `frozen`,
        which are 0. Motion is measured only between frames of the span, so a shot boundary at its start does not count
        as motion.
        """
        first, end = (int(position) for position in np.searchsorted(self.times_us, (start_us, end_us)))
        shown = slice(first, end) if end > first else slice(max(0, first - 1), max(1, first))
        moving = self.motion[first + 1 : end]
        return SpanStatistics(
            frame_count=end - first,
            motion=float(moving.mean()) if len(moving) else 0.0,
            sharpness=float(self.sharpness[shown].mean()),
            brightness=float(self.brightness[shown].mean()),
            black=float((self.dark[shown] >= BLACK_SHARE).mean()),
            frozen=float((moving < FROZEN_MOTION).mean()) if len(moving) else 0.0,
        )

    def shot_boundary_distance(self, shot_starts_us: Sequence[int]) -> NDArray[np.float64]:
        """Visual distance across each shot boundary, 0 to 1. Shape [shots - 1].

        It compares the frames at 95 % of the shot before and at 5 % of the shot after, as Panda-70M does, to avoid the
        transition itself.
        """
        edges = np.array([*shot_starts_us, self.duration_us])
        lengths = np.diff(edges)
        begin = self._frames_shown_at(edges[:-1] + lengths // 20)
        end = self._frames_shown_at(edges[:-1] + lengths * 19 // 20)
        return visual_distance(self.descriptors[end[:-1]], self.descriptors[begin[1:]])

    def perceptual_hash(self) -> str:
        """Perceptual hash of the video: 128 hex digits, the difference hashes of eight frames.

        It changes little when a video is re-encoded or rescaled.
        """
        return self.descriptors[self._frames_shown_at(hashed_times_us(self.duration_us)), :HASH_BYTES].tobytes().hex()

    def _frames_shown_at(self, times_us: NDArray[np.int64]) -> NDArray[np.int64]:
        """Indices of the frames shown at these times."""
        return np.maximum(0, np.searchsorted(self.times_us, times_us, side="right") - 1)


def hashed_times_us(duration_us: int) -> NDArray[np.int64]:
    """Times (us) of the frames used for a perceptual hash. Shape [HASHED_FRAMES]."""
    return (2 * np.arange(HASHED_FRAMES) + 1) * duration_us // (2 * HASHED_FRAMES)


def analyse(
    video: VideoProbe,
    *,
    samplings: Sequence[FrameSampling] = (),
    network: transnet.TransNet | None = None,
    workers: int | None = None,
) -> Analysis:
    """Decode every frame once.

    Args:
        samplings: consumers of frames on a regular grid.
        network: detects transitions; receives every frame.
        workers: number of spans decoded concurrently. None means one for a short video and all cores (at most eight)
            for a long one.

    Raises:
        UnreadableVideo: `damaged` when half of the video or more cannot be decoded.
    """
    frames = FrameMeasures()
    analyse_span = _SpanAnalyser(video, samplings, network is not None)
    cells = [-1] * len(samplings)
    damaged_us: list[int] = []
    for span in decode_spans(video, analyse_span, _default_workers(video) if workers is None else workers):
        frames.extend(span.measures)
        damaged_us += span.damaged_us
        for number, (sampling, sampled) in enumerate(zip(samplings, span.sampled, strict=True)):
            for time_us, frame in sampled:
                if sampling.cell(time_us) > cells[number]:  # a span does not know the last sample before it
                    cells[number] = sampling.cell(time_us)
                    sampling.take(time_us, frame)
        for picture in span.tiny:
            assert network is not None
            network.add(picture)
    times_us = np.array(frames.times_us, dtype=np.int64)
    return Analysis(
        times_us=times_us,
        motion=np.array(frames.motion, dtype=np.float32),
        sharpness=np.array(frames.sharpness, dtype=np.float32),
        brightness=np.array(frames.brightness, dtype=np.float32),
        dark=np.array(frames.dark, dtype=np.float32),
        descriptors=np.frombuffer(frames.descriptors, dtype=np.uint8).reshape(-1, DESCRIPTOR_BYTES),
        scores=Scores(times_us, np.array(frames.score, dtype=np.float32)),
        transition=np.empty(0, np.float32) if network is None else network.probabilities(),
        duration_us=video.duration_us,
        unreadable_us=_unreadable_us(times_us, video),
        damaged_us=np.array(damaged_us, dtype=np.int64),
        formats=start_at_zero(frames.formats),
    )


def start_at_zero(formats: Sequence[PictureFormat]) -> tuple[PictureFormat, ...]:
    """Picture formats with the first one starting at 0, even if the video's first frames could not be decoded."""
    return (*(each.model_copy(update={"start_us": 0}) for each in formats[:1]), *formats[1:])


@dataclass
class _SpanResult:
    """Results of one span."""

    measures: FrameMeasures
    sampled: list[list[DecodedFrame]]
    """Sampled frames for each sampling. The first frame of the span is always among them."""
    tiny: list[Picture]
    damaged_us: list[int]


class _SpanAnalyser:
    """Measures and samples the frames of a span."""

    def __init__(self, video: VideoProbe, samplings: Sequence[FrameSampling], tiny: bool) -> None:
        self._video, self._samplings, self._tiny = video, samplings, tiny

    def __call__(self, frames: Iterator[DecodedFrame]) -> _SpanResult:
        sampled: list[list[DecodedFrame]] = [[] for _ in self._samplings]
        tiny: list[Picture] = []
        damaged_us: list[int] = []
        measurer = Measurer(self._video, (lambda picture: tiny.append(_shrink(picture))) if self._tiny else None)
        for time_us, frame in frames:
            for sampling, taken in zip(self._samplings, sampled, strict=True):
                if not taken or sampling.cell(time_us) > sampling.cell(taken[-1][0]):
                    taken.append((time_us, sampling.reduce(frame)))
            if frame.is_corrupt:
                damaged_us.append(time_us)
            measurer.add(time_us, frame)
        return _SpanResult(measurer.finish(), sampled, tiny, damaged_us)


def _shrink(bgr: Picture) -> Picture:
    small = cv2.resize(bgr, (transnet.WIDTH, transnet.HEIGHT), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.cvtColor(small, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def _default_workers(video: VideoProbe) -> int:
    return 1 if video.duration_us < LONG_VIDEO_US else min(MOST_WORKERS, os.cpu_count() or 1)


def _unreadable_us(times_us: NDArray[np.int64], video: VideoProbe) -> int:
    """Total time in gaps between decoded frames that the packet times do not explain.

    Up to twice the longest step between packets is allowed, because a packet may hold only one field of a frame.

    Raises:
        UnreadableVideo: `damaged` when the total is half of the video or more.
    """
    promised = np.append(video.index.frame_times_us, video.duration_us)
    longest = int(np.diff(promised).max())
    gaps = np.diff(np.concatenate(([0], times_us, [video.duration_us])))
    missing_us = int(np.sum(gaps[gaps > 2 * longest] - longest))
    if 2 * missing_us >= video.duration_us:
        raise UnreadableVideo(
            "damaged",
            f"{video.path.name}: {missing_us / SECOND_US:.1f} s of {video.duration_us / SECOND_US:.1f} s cannot be "
            f"decoded; fetch it again",
        )
    return missing_us
