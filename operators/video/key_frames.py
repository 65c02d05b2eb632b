"""Proposes shots from key frames, about ten times cheaper than decoding everything, and refines what was proposed.

`propose` decodes key frames only. Where two neighbours look different a shot begins between them; it is said to begin
with the later one, where encoders that watch for cuts put their key frames. `refine` decodes those stretches, and what
follows on the last key frame, so that a detector can name the frame. Not seen are shots that begin and end between two
key frames that look alike; and nothing is known of motion.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from av.packet import Packet
from numpy.typing import NDArray

from operators.video.analysis import Analysis, from_the_start, hashed_times_us
from operators.video.frames import presented
from operators.video.measures import LOOK_BYTES, FrameMeasures, Measurer, Picture
from operators.video.packets import SECOND_US, Timeline, UnreadableVideo, decoded, open_video, packets_of
from operators.video.probe import VideoProbe
from operators.video.ranges import Span, SpanReader, TimedFrame
from operators.video.shots import Scores
from schemas.tables import PictureFormat

KEY_FRAME_STEP_US = SECOND_US
"""Key frames nearer than this to the one before are passed over: they cost three times as much as other frames."""

DIFFERENT_SCORE = 15.0
"""Neighbouring key frames with a content score from this on are of two shots: what PySceneDetect's adaptive detector
asks of two frames at least (`min_content_val`)."""

_FRAMES_BEHIND = 3
"""The adaptive detector judges a frame when it has seen two more; a third, as spans end before a frame."""


@dataclass(frozen=True)
class Proposal:
    """What the key frames have shown."""

    times_us: NDArray[np.int64]
    """Shape [key frames], ascending, as are the following; units as in `operators.video.measures.FrameMeasures`."""
    score: NDArray[np.float64]
    """To the key frame before."""
    sharpness: NDArray[np.float32]
    brightness: NDArray[np.float32]
    dark: NDArray[np.float32]
    looks: Picture
    """Shape [key frames, LOOK_BYTES]."""
    formats: tuple[PictureFormat, ...]
    """Each change of the picture's format, beginning with the first key frame's."""

    @property
    def shot_starts_us(self) -> tuple[int, ...]:
        """Ascending times of key frames, but for the first, which is 0."""
        return (0, *(end for _, end in self.changes_us))

    @property
    def changes_us(self) -> list[Span]:
        """Neighbouring key frames that look different, or have different formats."""
        pairs = zip(pairwise(self.times_us.tolist()), self.score[1:], strict=True)
        begins = {each.start_us for each in self.formats}
        return [pair for pair, score in pairs if score >= DIFFERENT_SCORE or pair[1] in begins]


def propose(video: VideoProbe) -> Proposal:
    """Decode key frames, at most about one a second.

    Raises:
        UnreadableVideo: `damaged` when no key frame can be decoded.
    """
    frames = _measured(video, _key_frames(video))
    if frames.first is None:
        raise UnreadableVideo("damaged", f"{video.path.name}: not one key frame can be decoded; fetch it again")
    return Proposal(
        times_us=np.array(frames.times_us, dtype=np.int64),
        score=np.array(frames.score),
        sharpness=np.array(frames.sharpness, dtype=np.float32),
        brightness=np.array(frames.brightness, dtype=np.float32),
        dark=np.array(frames.dark, dtype=np.float32),
        looks=np.frombuffer(frames.looks, dtype=np.uint8).reshape(-1, LOOK_BYTES),
        formats=tuple(frames.formats),
    )


def refine(video: VideoProbe, proposal: Proposal) -> Scores:
    """Scores of all frames of the stretches in which shots may begin, after a 0 for the video's first frame."""
    return _refine(video, proposal)[0]


def _refine(video: VideoProbe, proposal: Proposal) -> tuple[Scores, tuple[PictureFormat, ...]]:
    """Scores as `refine` gives them, and the video's formats, whose changes lie in the same stretches."""
    times_us, scores = array("q", [0]), array("d", [0.0])
    formats = list(proposal.formats[:1])
    with open_video(video.path) as (container, stream):
        reader = SpanReader(container, stream, video.index)
        for span in _stretches(video, [*proposal.changes_us, (int(proposal.times_us[-1]), video.duration_us)]):
            frames = _measured(video, reader.frames(*span))
            if len(frames.score) > 1:
                frames.score[0] = frames.score[1]  # the frame before the first was not decoded
            times_us.extend(frames.times_us)
            scores.extend(frames.score)
            formats += [each for each in frames.formats if not each.is_like(formats[-1])]
    return Scores(np.array(times_us), np.array(scores, dtype=np.float32)), from_the_start(formats)


def analyse_key_frames(video: VideoProbe) -> Analysis:
    """An analysis of key frames, of which motion is not known (NaN), and of the frames that a perceptual hash is of.

    Raises:
        UnreadableVideo: `damaged` when no key frame can be decoded, or none of those frames.
    """
    proposal = propose(video)
    scores, formats = _refine(video, proposal)
    hashed = _measured(video, _standing(video, hashed_times_us(video.duration_us)))
    times_us, first = np.unique(np.concatenate((proposal.times_us, hashed.times_us)), return_index=True)
    return Analysis(
        scores=scores,
        times_us=times_us,
        motion=np.full(len(times_us), np.nan, dtype=np.float32),
        sharpness=np.concatenate((proposal.sharpness, np.array(hashed.sharpness, np.float32)))[first],
        brightness=np.concatenate((proposal.brightness, np.array(hashed.brightness, np.float32)))[first],
        dark=np.concatenate((proposal.dark, np.array(hashed.dark, np.float32)))[first],
        looks=np.concatenate((proposal.looks, np.frombuffer(hashed.looks, np.uint8).reshape(-1, LOOK_BYTES)))[first],
        transition=np.empty(0, dtype=np.float32),
        duration_us=video.duration_us,
        unreadable_us=0,
        damaged_us=np.empty(0, dtype=np.int64),
        formats=formats,
    )


def _standing(video: VideoProbe, times_us: NDArray[np.int64]) -> Iterator[TimedFrame]:
    with open_video(video.path) as (container, stream):
        stream.codec_context.thread_count = 1
        yield from presented(container, stream, video.index, times_us.tolist(), video.path)


def _key_frames(video: VideoProbe) -> Iterator[TimedFrame]:
    timeline = video.index.timeline
    with open_video(video.path) as (container, stream):
        stream.codec_context.thread_count = 1
        yield from decoded(_sparse_keys(packets_of(container, [stream]), timeline), timeline)


def _sparse_keys(packets: Iterable[Packet], timeline: Timeline) -> Iterator[Packet]:
    """Key frames at least `KEY_FRAME_STEP_US` apart, and the empty packets that flush the decoder."""
    next_pts = timeline.first_pts
    for packet in packets:
        if packet.size == 0:
            yield packet
        elif packet.is_keyframe and packet.pts is not None and packet.pts >= next_pts:
            next_pts = timeline.pts(timeline.microseconds(packet.pts) + KEY_FRAME_STEP_US)
            yield packet


def _measured(video: VideoProbe, frames: Iterator[TimedFrame]) -> FrameMeasures:
    measurer = Measurer(video)
    for time_us, frame in frames:
        measurer.add(time_us, frame)
    return measurer.finish()


def _stretches(video: VideoProbe, changes_us: list[Span]) -> list[Span]:
    """Spans that hold all changes and the few frames behind by which the detector judges them; touching ones joined."""
    promised = [*video.index.frame_times_us.tolist(), *[video.duration_us] * (_FRAMES_BEHIND + 1)]
    spans: list[Span] = []
    for start_us, end_us in changes_us:
        beyond_us = min(video.duration_us, promised[bisect_left(promised, end_us) + _FRAMES_BEHIND])
        if spans and spans[-1][1] >= start_us:
            start_us = spans.pop()[0]
        spans.append((start_us, beyond_us))
    return spans
