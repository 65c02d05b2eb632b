"""Copies coded frames of a video into an MP4 of their own, without decoding and without an edit list.

Guarantees: a copy begins at a key frame that needs no earlier frame. It ends where the frames so far are the same in
decoding order as in presentation order. So no frame outside the span is in the file, and no frame inside needs one that
is missing. The file's clock starts at 0 in every reader, because composition offsets may be negative (ISO/IEC 14496-12,
`ctts` version 1), and nothing has to be skipped. `operators.video.clips.readback` checks whether the copy can be
decoded.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from operators.video.decode.ffmpeg import file_url
from operators.video.decode.packets import PacketIndex, packets_of
from operators.video.decode.ranges import seek_to
from schemas.video.clock import SECOND_US, StreamClock

COPIED_VIDEO = ("h264", "hevc", "vp9", "av1")
"""Video codecs that MP4 supports and that players and training readers decode."""

COPIED_SOUND = ("aac", "ac3", "eac3")
"""Audio codecs that can begin at any packet. MP3 cannot: its packets use bits of earlier ones (bit reservoir)."""

_PARAMETER_SETS = {"h264": (7, 8), "hevc": (32, 33, 34)}
"""Types of the NAL units that hold parameter sets (ITU-T H.264, table 7-1; H.265, table 7-1)."""

_MP4 = {"movflags": "+faststart+negative_cts_offsets", "use_editlist": "0", "fflags": "+bitexact"}

_FARTHEST_INTERLEAVING_US = 10 * SECOND_US
"""Largest time difference between audio and video at one place of a file; muxers keep it within a second."""


@dataclass(frozen=True)
class Coded:
    """Coded frames of a clip."""

    packets: list[Packet]
    """In decoding order."""
    ranks: list[int]
    """Each packet's position among the frames of the clip, in presentation order."""

    @property
    def first(self) -> int:
        return self.ranks[0]

    @property
    def beyond(self) -> int:
        return self.ranks[0] + len(self.ranks)


def read_coded(
    container: InputContainer,
    video: VideoStream,
    audio: AudioStream | None,
    index: PacketIndex,
    span_us: tuple[int, int],
) -> tuple[list[Packet], list[Packet]]:
    """Read the video and audio packets around a time span, in file order.

    Video packets begin at a key frame at or before the span.

    Args:
        span_us: start and end in microseconds.

    Returns:
        The video packets and the audio packets.

    Raises:
        UnreadableVideo: `damaged` when the container cannot seek.
    """
    start_us, end_us = span_us
    # Audio is stored close to its video, but not always after it.
    before_us = index.seek_target_us(index.key_frame(start_us)) - SECOND_US
    seek_to(container, index, before_us)
    pictures: list[Packet] = []
    sounds: list[Packet] = []
    heard = audio is None
    for packet in packets_of(container, [video] if audio is None else [video, audio]):
        if packet.size == 0 or packet.pts is None:
            continue
        if packet.stream_index == video.index:
            pictures.append(packet)
            beyond_us = index.timeline.microseconds(packet.pts) - end_us
            if beyond_us > (SECOND_US if heard else _FARTHEST_INTERLEAVING_US):
                break
        else:
            sounds.append(packet)
            heard = sound_time_us(packet, index.timeline) >= end_us
    return pictures, sounds


def longest_run(
    packets: Sequence[Packet], timeline: StreamClock, times_us: NDArray[np.int64], codec: str, extradata: bytes
) -> Coded | None:
    """The longest part of a clip that can be copied; None if there is none.

    Args:
        packets: video packets in decoding order, those of the clip among them.
        times_us: shape [frames], the frame times of the clip.
        extradata: the decoder configuration that the container states for these packets.
    """
    rank_of = {int(time_us): rank for rank, time_us in enumerate(times_us)}
    ranks = [rank_of.get(timeline.microseconds(packet.pts)) for packet in packets if packet.pts is not None]
    longest: tuple[int, int] = (0, 0)
    for position, (packet, rank) in enumerate(zip(packets, ranks, strict=True)):
        if rank is None or not packet.is_keyframe or not is_entry(bytes(packet), codec, extradata):
            continue
        of_run = configuration(bytes(packet), codec, extradata)
        if of_run is not None:
            longest = max(longest, (_run_length(packets, ranks, position, codec, of_run), -position))
        if longest[0] >= len(times_us) - rank:
            break
    length, position = longest[0], -longest[1]
    if length == 0:
        return None
    run = slice(position, position + length)
    return Coded(list(packets[run]), [rank for rank in ranks[run] if rank is not None])


def _run_length(
    packets: Sequence[Packet], ranks: Sequence[int | None], position: int, codec: str, extradata: bytes
) -> int:
    """Number of packets from this key frame up to the last point where decoding and presentation order agree.

    "Agree" means that the frames so far are the same in both orders. The decoder configuration must not change within
    the run, because MP4 players need not search for another one inside the frames.
    """
    seen: set[int] = set()
    first, highest, length = ranks[position], -1, 0
    assert first is not None
    for packet, rank in zip(packets[position:], ranks[position:], strict=True):
        if rank is None or rank < first or rank in seen or packet.is_discard or packet.is_corrupt:
            break
        if packet.is_keyframe and configuration(bytes(packet), codec, extradata) != extradata:
            break
        seen.add(rank)
        highest = max(highest, rank)
        if highest - first + 1 == len(seen):
            length = len(seen)
    return length


def is_entry(key_frame: bytes, codec: str, extradata: bytes) -> bool:
    """Whether decoding can start at this key frame and shows all frames that follow it.

    An H.264 key frame may be a mere recovery point, and later frames may refer to frames before it. Only an IDR picture
    resets all references (ITU-T H.264, 7.4.1.2.4). HEVC's intra random access points do so except for their leading
    pictures (H.265, 3.70), and so do the key frames of VP9 and AV1.
    """
    if codec not in ("h264", "hevc"):
        return True
    types = [nal_type(unit, codec) for unit in nal_units(key_frame, nal_length_size(codec, extradata))]
    if codec == "h264":
        return 5 in types and not {1, 2} & set(types[: types.index(5)])
    return any(16 <= kind <= 21 for kind in types) and not any(kind < 16 for kind in types)


def configuration(key_frame: bytes, codec: str, extradata: bytes) -> bytes | None:
    """The decoder configuration for the frames from a key frame on, for the header of an MP4 of their own.

    Broadcasts carry parameter sets before each key frame and may change them there. The stream's own sets are then
    those of its first key frame. None where the key frame carries other sets from which no MP4 header can be made.
    """
    if codec not in _PARAMETER_SETS:
        return extradata
    length_size = nal_length_size(codec, extradata)
    sets = [unit for unit in nal_units(key_frame, length_size) if nal_type(unit, codec) in _PARAMETER_SETS[codec]]
    if all(unit in extradata for unit in sets):
        return extradata
    return b"".join(b"\x00\x00\x00\x01" + unit for unit in sets) if length_size is None else None


def nal_length_size(codec: str, extradata: bytes) -> int | None:
    """Number of bytes of the length field of NAL units; None where start codes separate them (ITU-T H.264, Annex B)."""
    position = 4 if codec == "h264" else 21
    return (extradata[position] & 3) + 1 if len(extradata) > position and extradata[0] == 1 else None


def nal_units(data: bytes, length_size: int | None) -> Iterator[bytes]:
    """Yield the NAL units of an H.264 or HEVC packet.

    Args:
        length_size: as `nal_length_size` returns it.
    """
    if length_size is None:
        starts = [match.end() for match in re.finditer(b"\x00\x00\x01", data)]
        for start, beyond in zip(starts, [*(begin - 3 for begin in starts[1:]), len(data)], strict=True):
            yield data[start:beyond].rstrip(b"\x00")
        return
    position = 0
    while position + length_size < len(data):
        size = int.from_bytes(data[position : position + length_size])
        position += length_size
        yield data[position : position + size]
        position += size


def nal_type(unit: bytes, codec: str) -> int:
    """The type number of a NAL unit."""
    return unit[0] & 31 if codec == "h264" else unit[0] >> 1 & 63


def sound_time_us(packet: Packet, timeline: StreamClock) -> int:
    """An audio packet's time on the video's timeline, rounded to the nearest microsecond (halves up)."""
    assert packet.pts is not None and packet.time_base is not None
    # Integers: a clip has a thousand audio packets, and fractions are slow.
    sound, picture = packet.time_base, timeline.time_base
    ticks = packet.pts * sound.numerator * picture.denominator
    ticks -= timeline.first_pts * picture.numerator * sound.denominator
    per_second = sound.denominator * picture.denominator
    return (2 * ticks * SECOND_US + per_second) // (2 * per_second)


def copyable_sound(
    packets: Sequence[Packet], codec: str, timeline: StreamClock, span_us: tuple[int, int], frame_us: float
) -> list[Packet] | None:
    """The audio packets of a span; None when they do not cover it without a gap to within one video frame.

    Args:
        codec: name of the audio codec.
        span_us: start and end in microseconds.
        frame_us: duration of a video frame in microseconds.
    """
    if codec not in COPIED_SOUND or not packets:
        return None
    start_us, end_us = span_us
    times_us = np.array([sound_time_us(packet, timeline) for packet in packets])
    lengths_us = np.array([float((packet.duration or 0) * (packet.time_base or 0)) for packet in packets]) * SECOND_US
    first = int(np.abs(times_us - start_us).argmin())
    beyond = int(np.searchsorted(times_us + lengths_us / 2, end_us))
    if beyond <= first or abs(times_us[first] - start_us) > frame_us:
        return None
    run = slice(first, beyond)
    gaps_us = np.append(times_us[run][1:], max(end_us - frame_us, times_us[run][-1])) - (times_us + lengths_us)[run]
    return list(packets[run]) if np.abs(gaps_us[:-1]).max(initial=0) < frame_us and gaps_us[-1] < frame_us else None


def add_picture(container: OutputContainer, stream: VideoStream, sample_aspect: Fraction) -> VideoStream:
    """Add a video track to an MP4 for the coded frames of a stream.

    Args:
        sample_aspect: width by height of a pixel, which Matroska and MOV may state outside of the frames.
    """
    picture = container.add_stream_from_template(stream, opaque=True)
    if stream.codec_context.codec.canonical_name == "hevc":
        picture.codec_context.codec_tag = "hvc1"  # tag for parameter sets outside the frames; players require it
    picture.codec_context.sample_aspect_ratio = sample_aspect
    return picture


def set_times(
    packets: Iterable[Packet], ranks: NDArray[np.int64], shown: NDArray[np.int64], picture: VideoStream
) -> Iterator[Packet]:
    """Set the presentation and decoding times of a track's coded frames.

    The n-th frame in decoding order gets the time of the n-th frame in presentation order, shifted back so that no
    frame is shown before it is decoded. The decoding times of the source are not needed for that and are not always
    valid.

    Args:
        packets: in decoding order.
        ranks: shape [frames]: each packet's place in presentation order.
        shown: shape [frames + 1], ascending: presentation time of each frame, and the end of the last one, in ticks.
        picture: the track.
    """
    decoded = shown[:-1] - (shown[:-1] - shown[ranks]).max()
    steps = np.diff(shown)
    for number, (packet, rank) in enumerate(zip(packets, ranks.tolist(), strict=False)):
        packet.pts, packet.dts, packet.duration = int(shown[rank]), int(decoded[number]), int(steps[number])
        packet.stream = picture
        yield packet


def write_mp4(
    target: Path,
    video: VideoStream,
    pieces: Sequence[Coded],
    pts: Sequence[int],
    end_pts: int,
    audio: AudioStream | None,
    sounds: Sequence[Packet],
    extradata: bytes | None = None,
    shape: VideoFrame | None = None,
    sample_aspect: Fraction = Fraction(1),
) -> None:
    """Write coded frames and audio to an MP4, both starting at 0.

    Args:
        video: the stream that the frames are from, or one with equal parameters.
        pieces: coded frames. Their ranks combined are 0, 1, … of `pts`.
        pts: shape [frames], ascending: presentation time of each frame, in the video stream's time base.
        end_pts: end of the last frame.
        audio: the stream that the audio is from; None for a clip without audio.
        sounds: the audio packets, in order.
        extradata: the decoder configuration, if it is not the video stream's.
        shape: a frame with the size and colours that the file must state, if they are not the video stream's.
        sample_aspect: width by height of a pixel.
    """
    shown = np.array([*pts, end_pts]) - pts[0]
    packets = [packet for piece in pieces for packet in piece.packets]
    ranks = np.array([rank for piece in pieces for rank in piece.ranks])
    timed: list[tuple[Fraction, Packet]] = []
    with av.open(file_url(target), "w", format="mp4", options=_MP4) as container:
        picture = add_picture(container, video, sample_aspect)
        assert video.time_base is not None
        if extradata is not None:
            picture.codec_context.extradata = extradata
        if shape is not None:
            context = picture.codec_context
            context.width, context.height = shape.width, shape.height
            context.color_primaries, context.color_trc = shape.color_primaries, shape.color_trc
            context.colorspace, context.color_range = shape.colorspace, shape.color_range
        for packet in packets:
            packet.time_base = video.time_base
        for packet in set_times(packets, ranks, shown, picture):
            assert packet.dts is not None
            timed.append((packet.dts * video.time_base, packet))
        if audio is not None:
            sound = container.add_stream_from_template(audio, opaque=True)
            first_pts = sounds[0].pts or 0
            for packet in sounds:
                assert packet.pts is not None and packet.time_base is not None
                packet.pts = packet.dts = packet.pts - first_pts
                packet.stream = sound
                timed.append((packet.pts * packet.time_base, packet))
        for _, packet in sorted(timed, key=lambda pair: pair[0]):
            container.mux(packet)
