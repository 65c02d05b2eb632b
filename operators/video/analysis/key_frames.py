"""Detects shots from key frames, about ten times cheaper than a full decode, and refines their boundaries.

`propose` decodes only key frames. Where two neighbours differ visibly, a shot begins between them. Its proposed start
is the later one, because encoders that detect cuts place their key frames there. `refine` decodes those stretches and
the part after the last key frame, so that a detector can find the exact frame. Shots that begin and end between two
similar key frames are missed, and motion is unknown.
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

from operators.video.analysis.analysis import Analysis, hashed_times_us, start_at_zero
from operators.video.analysis.measures import DESCRIPTOR_BYTES, FrameMeasures, Measurer, Picture
from operators.video.analysis.shots import Scores
from operators.video.decode.frames import decode_at
from operators.video.decode.packets import DecodedFrame, UnreadableVideo, decode_packets, open_video, packets_of
from operators.video.decode.probe import VideoProbe
from operators.video.decode.ranges import SpanReader, SpanUs
from schemas.tables import PictureFormat
from schemas.video.clock import SECOND_US, StreamClock

KEY_FRAME_STEP_US = SECOND_US
"""Key frames closer than this to the previous one are skipped: they cost three times as much as other frames."""

DIFFERENT_SCORE = 15.0
"""Content score from which two neighbouring key frames belong to different shots: the minimum that PySceneDetect's
adaptive detector requires between two frames (`min_content_val`)."""

_FRAMES_BEHIND = 3
"""The adaptive detector judges a frame after two more frames; a third is needed because spans end before a frame."""


@dataclass(frozen=True)
class Proposal:
    """Measures of the decoded key frames."""

    times_us: NDArray[np.int64]
    """Shape [key frames], ascending, as for the following fields; units as in
    `operators.video.analysis.measures.FrameMeasures`."""
    score: NDArray[np.float64]
    """Content score relative to the previous key frame."""
    sharpness: NDArray[np.float32]
    brightness: NDArray[np.float32]
    dark: NDArray[np.float32]
    descriptors: Picture
    """Appearance descriptors, shape [key frames, DESCRIPTOR_BYTES]."""
    formats: tuple[PictureFormat, ...]
    """Each change of the picture format, beginning with the first key frame's."""

    @property
    def shot_starts_us(self) -> tuple[int, ...]:
        """Proposed start times of shots in microseconds, ascending: 0, then times of key frames."""
        return (0, *(end for _, end in self.changes_us))

    @property
    def changes_us(self) -> list[SpanUs]:
        """Pairs of neighbouring key frames that differ visibly or in their format."""
        pairs = zip(pairwise(self.times_us.tolist()), self.score[1:], strict=True)
        begins = {each.start_us for each in self.formats}
        return [pair for pair, score in pairs if score >= DIFFERENT_SCORE or pair[1] in begins]


def propose(video: VideoProbe) -> Proposal:
    """Decode key frames, at most about one per second.

    Raises:
        UnreadableVideo: `damaged` when no key frame can be decoded.
    """
    frames = _measure(video, _decode_key_frames(video))
    if frames.first is None:
        raise UnreadableVideo("damaged", f"{video.path.name}: not one key frame can be decoded; fetch it again")
    return Proposal(
        times_us=np.array(frames.times_us, dtype=np.int64),
        score=np.array(frames.score),
        sharpness=np.array(frames.sharpness, dtype=np.float32),
        brightness=np.array(frames.brightness, dtype=np.float32),
        dark=np.array(frames.dark, dtype=np.float32),
        descriptors=np.frombuffer(frames.descriptors, dtype=np.uint8).reshape(-1, DESCRIPTOR_BYTES),
        formats=tuple(frames.formats),
    )


def refine(video: VideoProbe, proposal: Proposal) -> Scores:
    """Score all frames of the stretches in which shots may begin, after a 0 for the video's first frame."""
    return _refine(video, proposal)[0]


def _refine(video: VideoProbe, proposal: Proposal) -> tuple[Scores, tuple[PictureFormat, ...]]:
    """Scores as in `refine`, and the video's formats, which change only in the same stretches."""
    times_us, scores = array("q", [0]), array("d", [0.0])
    formats = list(proposal.formats[:1])
    with open_video(video.path) as (container, stream):
        reader = SpanReader(container, stream, video.index)
        for span in _merge_spans(video, [*proposal.changes_us, (int(proposal.times_us[-1]), video.duration_us)]):
            frames = _measure(video, reader.frames(*span))
            if len(frames.score) > 1:
                frames.score[0] = frames.score[1]  # no decoded frame precedes the first
            times_us.extend(frames.times_us)
            scores.extend(frames.score)
            formats += [each for each in frames.formats if not each.is_like(formats[-1])]
    return Scores(np.array(times_us), np.array(scores, dtype=np.float32)), start_at_zero(formats)


def analyse_key_frames(video: VideoProbe) -> Analysis:
    """Analyse key frames and the frames used for the perceptual hash. Motion is unknown (NaN).

    Raises:
        UnreadableVideo: `damaged` when no key frame, or none of the hashed frames, can be decoded.
    """
    proposal = propose(video)
    scores, formats = _refine(video, proposal)
    hashed = _measure(video, _decode_at(video, hashed_times_us(video.duration_us)))
    times_us, first = np.unique(np.concatenate((proposal.times_us, hashed.times_us)), return_index=True)
    return Analysis(
        scores=scores,
        times_us=times_us,
        motion=np.full(len(times_us), np.nan, dtype=np.float32),
        sharpness=np.concatenate((proposal.sharpness, np.array(hashed.sharpness, np.float32)))[first],
        brightness=np.concatenate((proposal.brightness, np.array(hashed.brightness, np.float32)))[first],
        dark=np.concatenate((proposal.dark, np.array(hashed.dark, np.float32)))[first],
        descriptors=np.concatenate(
            (proposal.descriptors, np.frombuffer(hashed.descriptors, np.uint8).reshape(-1, DESCRIPTOR_BYTES))
        )[first],
        transition=np.empty(0, dtype=np.float32),
        duration_us=video.duration_us,
        unreadable_us=0,
        damaged_us=np.empty(0, dtype=np.int64),
        formats=formats,
    )


def _decode_at(video: VideoProbe, times_us: NDArray[np.int64]) -> Iterator[DecodedFrame]:
    with open_video(video.path) as (container, stream):
        stream.codec_context.thread_count = 1
        yield from decode_at(container, stream, video.index, times_us.tolist(), video.path)


def _decode_key_frames(video: VideoProbe) -> Iterator[DecodedFrame]:
    timeline = video.index.timeline
    with open_video(video.path) as (container, stream):
        stream.codec_context.thread_count = 1
        yield from decode_packets(_select_keys(packets_of(container, [stream]), timeline), timeline)


def _select_keys(packets: Iterable[Packet], timeline: StreamClock) -> Iterator[Packet]:
    """Yield key frames at least `KEY_FRAME_STEP_US` apart, and the empty packets that flush the decoder."""
    next_pts = timeline.first_pts
    for packet in packets:
        if packet.size == 0:
            yield packet
        elif packet.is_keyframe and packet.pts is not None and packet.pts >= next_pts:
            next_pts = timeline.pts(timeline.microseconds(packet.pts) + KEY_FRAME_STEP_US)
            yield packet


def _measure(video: VideoProbe, frames: Iterator[DecodedFrame]) -> FrameMeasures:
    measurer = Measurer(video)
    for time_us, frame in frames:
        measurer.add(time_us, frame)
    return measurer.finish()


def _merge_spans(video: VideoProbe, changes_us: list[SpanUs]) -> list[SpanUs]:
    """Spans that cover all changes and the few frames after each that the detector needs. Touching spans are merged."""
    promised = [*video.index.frame_times_us.tolist(), *[video.duration_us] * (_FRAMES_BEHIND + 1)]
    spans: list[SpanUs] = []
    for start_us, end_us in changes_us:
        beyond_us = min(video.duration_us, promised[bisect_left(promised, end_us) + _FRAMES_BEHIND])
        if spans and spans[-1][1] >= start_us:
            start_us = spans.pop()[0]
        spans.append((start_us, beyond_us))
    return spans
