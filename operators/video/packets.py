"""Opens a video and reads its packet index: exact times of every frame, without decoding.

Containers' headers lie about frame counts, durations and rates (variable frame rate, edit lists, truncated files), so
they are asked for one thing only: how much there should be, to know how much is missing. All times are integer
microseconds from the first presented frame; `Timeline` is the only place where they are computed from timestamps (PTS).

An hour of 640x360 video with sound is read in about a second. Left to others: whether what is promised can be decoded.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, overload

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from operators.video.ffmpeg import CONFINEMENT, CONTAINERS, LARGEST_FRAME_PIXELS, NoticedFile
from operators.video.streams import has_moving_picture, moving_pictures

SECOND_US = 1_000_000

NO_TIME = int(np.iinfo(np.int64).min)
"""Stands for a timestamp that a packet does not have (ffmpeg's AV_NOPTS_VALUE)."""

LONGEST_HOLD_US = 600 * SECOND_US
"""One picture may stand for ten minutes, as in a recorded lecture; longer is more likely a damaged clock."""

_LONGEST_VIDEO_SECONDS = 1000 * 3600
_FARTHEST_CLOCK_SECONDS = 10**11
"""Beyond this a timestamp is damaged (and sums of microseconds could overflow). A clock may count from the year 0."""

_ANY_TITLE: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
"""A title in an old encoding says nothing about the frames. PyAV 19 does not mind one."""

_INDEXED_CONTAINERS = ("mov", "matroska", "avi", "flv", "gif", "ivf")
"""Demuxers whose seek lands on a key frame. The others search for a timestamp and may land behind the key frame."""

_ASPECT_IN_FRAMES = ("mpegts", "mpeg", "flv", "wtv", "dv")
"""Containers that state no shape of pixels: the coded frames do, and may change it. Others state one for all."""

_FACTS = 6
"""Columns of `Packets`."""

_MP4_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide")
"""What an MP4 or QuickTime file may begin with, after four bytes of size (ISO/IEC 14496-12)."""


class UnreadableVideo(ValueError):
    """A file that cannot be used as a video. `reason` is a typed word; the message also says what helps."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[type[UnreadableVideo], tuple[str, str]]:
        return type(self), (self.reason, str(self))


@dataclass(frozen=True)
class Timeline:
    """Maps a stream's timestamps to microseconds from its first presented frame, and back, exactly."""

    time_base: Fraction
    first_pts: int

    @overload
    def microseconds(self, pts: int) -> int: ...
    @overload
    def microseconds(self, pts: NDArray[np.int64]) -> NDArray[np.int64]: ...
    def microseconds(self, pts: int | NDArray[np.int64]) -> int | NDArray[np.int64]:
        """The time of a timestamp, or of each, rounded to the nearest microsecond (halves up)."""
        ticks = self.time_base.denominator
        seconds, rest = divmod((pts - self.first_pts) * self.time_base.numerator, ticks)
        return seconds * SECOND_US + (2 * rest * SECOND_US + ticks) // (2 * ticks)

    def pts(self, time_us: int) -> int:
        """The first timestamp whose time is `time_us` or later: frames from it on are the frames from `time_us` on."""
        unit = self.time_base * SECOND_US
        return self.first_pts - ((1 - 2 * time_us) * unit.denominator) // (2 * unit.numerator)

    def seconds(self, time_us: int) -> float:
        """The time on the container's own clock, which other streams share."""
        return float(self.first_pts * self.time_base) + time_us / SECOND_US


@dataclass(frozen=True)
class Packets:
    """What the packets of one stream say, in the order of the file. Arrays of shape [packets]; times in ticks."""

    time_base: Fraction
    pts: NDArray[np.int64]
    """`NO_TIME` where there is none, as in `dts`."""
    dts: NDArray[np.int64]
    duration: NDArray[np.int64]
    """0 where the container does not tell. MP4 tells the step of `dts`, which is another packet's once reordered."""
    size: NDArray[np.int64]
    """Bytes."""
    key: NDArray[np.bool_]
    discarded: NDArray[np.bool_]
    """An edit list leaves it out: decoded where others need it, never shown."""
    configurations: tuple[tuple[int, bytes], ...] = ()
    """Where the container changes the decoder's configuration (extradata; MP4's sample entries): numbers of packets,
    ascending, and what holds from each on. Demuxers mention a change only once, also after a seek."""
    sound_changes: bool = False
    """Of sound: packets or the container say, of its rate and channels, one thing here and another there."""

    def configuration(self, packet: int, first: bytes) -> bytes:
        """The decoder's configuration for a packet, by its number; `first` is that of the stream's header."""
        return next((data for number, data in reversed(self.configurations) if number <= packet), first)

    @property
    def start_us(self) -> int:
        """Where what is shown begins on the container's own clock; 0 if nothing is."""
        return self._microseconds(self.pts[self._shown].min()) if self._shown.any() else 0

    @property
    def end_us(self) -> int:
        """Where what is shown ends on the container's own clock; 0 if nothing is."""
        return self._microseconds((self.pts + self.duration)[self._shown].max()) if self._shown.any() else 0

    @property
    def _shown(self) -> NDArray[np.bool_]:
        return (self.pts != NO_TIME) & ~self.discarded

    def _microseconds(self, ticks: np.int64) -> int:
        return round(int(ticks) * self.time_base * SECOND_US)


@dataclass(frozen=True)
class PacketIndex:
    """Every frame of a video stream as its packets tell it."""

    timeline: Timeline
    frame_times_us: NDArray[np.int64]
    """Shape [frames], ascending, the first 0. Packets that an edit list discards are not counted, nor those before the
    first key frame, which no decoder can show, nor those after the clock went back, until it is where it was."""
    frame_packets: NDArray[np.int64]
    """Shape [frames]: the number of each frame's packet in `packets`."""
    key_frame_times_us: NDArray[np.int64]
    """Shape [key frames], ascending, the first 0 or, where an edit list discards it, earlier."""
    open_gops: NDArray[np.bool_]
    """Shape [key frames]: frames that are shown before the key frame follow it in the file, so that they may refer to
    pictures before it (open GOP; HEVC's RADL pictures, which do not, look the same from outside)."""
    duration_us: int
    """From the first frame's start to the last frame's end."""
    missing_us: int
    """How much longer the header says that the video goes on, if the file was cut off: 0 for a whole file."""
    gaps_us: NDArray[np.int64]
    """Shape [gaps, 2]: starts and ends of stretches of more than a second, and ten times the usual step, in which no
    frame begins."""
    indexed: bool
    """The container's seek lands on key frames."""
    packets: Packets
    audio: Mapping[int, Packets]
    """By number of the stream in the container."""

    def key_frame(self, time_us: int) -> int:
        """Number of the last key frame at or before a time."""
        return max(0, int(np.searchsorted(self.key_frame_times_us, time_us, side="right")) - 1)

    def seek_target_us(self, key_frame: int) -> int:
        """Where to seek so that decoding starts at this key frame or before it. May be negative."""
        key_us = int(self.key_frame_times_us[key_frame])
        return key_us if self.indexed else key_us - SECOND_US


@contextmanager
def open_video(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """A local video's container and the picture that `operators.video.streams` chooses, decoding on all cores.

    Raises:
        UnreadableVideo: `empty_file`, `not_a_video`, `truncated`, `no_video_stream` or `unknown_codec`.
        OSError: it could not be opened, or, on leaving the context, read (`NoticedFile`).
    """
    if path.stat().st_size == 0:
        raise UnreadableVideo("empty_file", f"{path.name}: the file has no bytes; fetch it again")
    with NoticedFile(path) as file, _open(file, path) as container:
        stream = next(iter(moving_pictures(container)), None)
        if stream is None and has_moving_picture(container):
            raise UnreadableVideo(
                "unknown_codec", f"{path.name}: no decoder for its video stream; convert it, e.g. to H.264"
            )
        if stream is None:
            found = ", ".join(sorted({other.type for other in container.streams})) or "nothing"
            raise UnreadableVideo(
                "no_video_stream", f"{path.name}: it holds {found} but no video stream; leave it out of the source"
            )
        stream.thread_type = "AUTO"
        stream.codec_context.options = {"max_pixels": str(LARGEST_FRAME_PIXELS)}  # also when frames grow on the way
        yield container, stream


def _open(file: NoticedFile, path: Path) -> InputContainer:
    try:
        return av.open(file, "r", container_options=CONFINEMENT, **_ANY_TITLE)
    except av.error.FFmpegError as error:
        raise _not_opened(path) from error


def read_packets(container: InputContainer, stream: VideoStream, path: Path) -> PacketIndex:
    """Demux the whole file, decoding nothing. The container is at its end afterwards.

    Raises:
        UnreadableVideo: `encrypted`, `truncated` when there is no frame to read, `no_timestamps` when frames have no
            times, `clock_goes_back` or `clock_jumps` when they make no sense.
    """
    tracks = _demux(container, stream, path)
    video = tracks.pop(stream.index)
    shown = _shown(video)
    if not shown.any():
        raise _nothing_shown(video, stream, path)
    _refuse_senseless_times(video.pts[shown], video.time_base, path)
    timeline = Timeline(video.time_base, int(video.pts[shown].min()))
    repeated = _repeated(video, shown)
    frame_packets = np.flatnonzero(shown & ~repeated)
    frame_packets = frame_packets[np.argsort(video.pts[frame_packets], kind="stable")]
    frame_times_us = timeline.microseconds(video.pts[frame_packets])
    first_at_its_time = np.diff(frame_times_us, prepend=-1) > 0
    frame_packets, frame_times_us = frame_packets[first_at_its_time], frame_times_us[first_at_its_time]
    usual_step_us = int(np.median(np.diff(frame_times_us))) if len(frame_times_us) > 1 else 0
    if np.count_nonzero(repeated) * usual_step_us > SECOND_US:
        raise UnreadableVideo(
            "clock_goes_back",
            f"{path.name}: {np.count_nonzero(repeated)} of its frames have times that were over before, as in joined "
            f"recordings; remux it, e.g. to MKV, so that its times go on",
        )
    key_frame_times_us, open_gops = _key_frames(video, timeline, repeated)
    last = frame_packets[-1]
    last_us = timeline.microseconds(int(video.pts[last] + video.duration[last])) - int(frame_times_us[-1])
    return PacketIndex(
        timeline=timeline,
        frame_times_us=frame_times_us,
        frame_packets=frame_packets,
        key_frame_times_us=key_frame_times_us,
        open_gops=open_gops,
        duration_us=int(frame_times_us[-1]) + (min(last_us, LONGEST_HOLD_US) or usual_step_us or 1),
        missing_us=_missing_us(container, stream, video, tracks),
        gaps_us=_gaps(frame_times_us, usual_step_us),
        indexed=container.format.name.startswith(_INDEXED_CONTAINERS),
        packets=video,
        audio=tracks,
    )


def packets_of(container: InputContainer, streams: Sequence[Stream]) -> Iterator[Packet]:
    """The packets of these streams from the container's position on, the empty ones that flush decoders last.

    An error means that the file ends in the middle of something: what came before it is the video.
    """
    # IndexError: at the end, PyAV looks up streams that a damaged file announced on the way.
    with suppress(av.error.FFmpegError, IndexError):
        yield from container.demux(streams)


def sound_header(packet: Packet, codec: str) -> bytes:
    """What a packet says itself of its rate and channels; empty if the container alone does.

    Read are the fixed headers of ADTS (ISO/IEC 13818-7, 6.2), of MPEG audio (ISO/IEC 11172-3, 2.4.1.3) and of AC-3 and
    E-AC-3 (ETSI TS 102 366, 4.3 and E.1.2).
    """
    head = bytes(memoryview(packet)[:8])
    if codec == "aac" and head[:1] == b"\xff" and head[1] & 0xF6 == 0xF0:
        return bytes((head[2] & 0xFD, head[3] & 0xC0))
    if codec in ("mp2", "mp3") and head[:1] == b"\xff" and len(head) == 8 and head[1] >= 0xE0:
        return bytes((head[1] & 0xFE, head[2] & 0x0C, head[3] >> 6 == 3))
    if codec in ("ac3", "eac3") and head[:2] == b"\x0b\x77" and len(head) == 8:
        if head[5] >> 3 > 10:
            return bytes((head[4] & 0xCF if head[4] < 0xC0 else head[4],))
        mode = head[6] >> 5
        mixing_bits = 2 * (mode % 2 == 1 and mode != 1) + 2 * (mode >= 4) + 2 * (mode == 2)
        return bytes((head[4] & 0xC0, mode, head[6] >> 4 - mixing_bits & 1))
    return b""


def decode(container: InputContainer, stream: VideoStream, timeline: Timeline) -> Iterator[tuple[int, VideoFrame]]:
    """Times (us) and frames from the container's position to its end, as `decoded` gives them."""
    return decoded(packets_of(container, [stream]), timeline)


def decoded(packets: Iterable[Packet], timeline: Timeline) -> Iterator[tuple[int, VideoFrame]]:
    """Times (us) and frames of these packets of a video stream, in order of presentation.

    Damaged packets are skipped, and so is what comes before the first presented frame. PyAV keeps the shape of pixels
    in the decoder alone, which has read a key frame's before it shows the frames that precede it, so each frame is
    given its own here, for `sample_aspect`.
    """
    before = aspect = None
    since_pts = NO_TIME
    for packet in packets:
        try:
            frames = packet.decode()
        except av.error.FFmpegError:
            continue
        if (current := stream_aspect(packet.stream)) != aspect:
            before, aspect, since_pts = aspect or current, current, NO_TIME if packet.pts is None else packet.pts
        for frame in frames:
            if frame.pts is not None and frame.pts >= timeline.first_pts:
                # An object of each frame's own: PyAV forgets one with the first frame that had it.
                frame.opaque = (aspect if frame.pts >= since_pts else before,)
                yield timeline.microseconds(frame.pts), frame


def encrypted(path: Path, scheme: str) -> UnreadableVideo:
    """What to raise of a file whose picture or sound is encrypted."""
    return UnreadableVideo(
        "encrypted",
        f"{path.name}: its picture or sound is encrypted ({scheme}) and cannot be read without its key; get a copy "
        f"that is not protected, or leave it out of the source",
    )


def sample_aspect(frame: VideoFrame) -> Fraction:
    """A pixel's width by its height, of a frame from `decoded`."""
    return Fraction(frame.opaque[0]) if isinstance(frame.opaque, tuple) else Fraction(1)


def stream_aspect(stream: VideoStream) -> Fraction:
    """Of the container, or of the frame that was decoded last where the container states none."""
    if stream.container.format.name in _ASPECT_IN_FRAMES:
        return Fraction(stream.codec_context.sample_aspect_ratio or 1)
    return Fraction(stream.sample_aspect_ratio or 1)


def _demux(container: InputContainer, stream: VideoStream, path: Path) -> dict[int, Packets]:
    """By number of the stream: of the video and of all sound."""
    streams: list[VideoStream | AudioStream] = [stream, *container.streams.audio]
    facts = {each.index: array("q") for each in streams}
    configurations: dict[int, list[tuple[int, bytes]]] = {each.index: [] for each in streams}
    codecs = {sound.index: sound.codec_context.codec.canonical_name for sound in streams[1:] if sound.codec_context}
    headers: dict[int, set[bytes]] = {each.index: set() for each in streams}
    for packet in packets_of(container, streams):
        if packet.size:
            if packet.has_sidedata("encryption_info"):
                raise encrypted(path, "Common Encryption")
            if packet.has_sidedata("new_extradata"):
                number = len(facts[packet.stream_index]) // _FACTS
                configurations[packet.stream_index].append((number, bytes(packet.get_sidedata("new_extradata"))))
            if packet.stream_index in codecs:
                headers[packet.stream_index].add(sound_header(packet, codecs[packet.stream_index]))
            facts[packet.stream_index].extend(
                (
                    NO_TIME if packet.pts is None else packet.pts,
                    NO_TIME if packet.dts is None else packet.dts,
                    packet.duration or 0,
                    packet.size,
                    packet.is_keyframe,
                    packet.is_discard,
                )
            )
    return {
        each.index: _packets(each, facts[each.index], tuple(configurations[each.index]), headers[each.index] - {b""})
        for each in streams
    }


def _packets(
    stream: VideoStream | AudioStream,
    facts: array[int],
    configurations: tuple[tuple[int, bytes], ...],
    headers: set[bytes],
) -> Packets:
    assert stream.time_base is not None  # libavformat gives every stream one
    pts, dts, duration, size, key, discarded = np.frombuffer(facts, dtype=np.int64).reshape(-1, _FACTS).T.copy()
    is_key, is_discarded, time_base = key.astype(bool), discarded.astype(bool), Fraction(stream.time_base)
    sound_changes = stream.type == "audio" and (len(headers) > 1 or _reconfigures(stream, configurations))
    return Packets(time_base, pts, dts, duration, size, is_key, is_discarded, configurations, sound_changes)


def _reconfigures(stream: AudioStream, configurations: Iterable[tuple[int, bytes]]) -> bool:
    """Containers may tell again what held all along."""
    opened = bytes(stream.codec_context.extradata or b"") if stream.codec_context else b""
    return any(configuration != opened for _, configuration in configurations)


def _shown(video: Packets) -> NDArray[np.bool_]:
    """Shape [packets]: is it shown? What is shown before the first key frame refers to pictures that are not there."""
    if not video.key.any():
        return np.zeros(len(video.key), dtype=bool)
    first_key = int(np.argmax(video.key))
    shown: NDArray[np.bool_] = (video.pts != NO_TIME) & (video.pts >= video.pts[first_key]) & ~video.discarded
    shown[:first_key] = False
    return shown


def _nothing_shown(video: Packets, stream: VideoStream, path: Path) -> UnreadableVideo:
    if len(video.pts) and bool((video.pts == NO_TIME).all()):
        return UnreadableVideo(
            "no_timestamps", f"{path.name}: its frames carry no times ({stream.container.format.name}); convert it"
        )
    return UnreadableVideo(
        "truncated",
        f"{path.name}: the header announces {stream.codec_context.name} video but no frame can be read; "
        f"the file was probably cut off, fetch it again",
    )


def _refuse_senseless_times(pts: NDArray[np.int64], time_base: Fraction, path: Path) -> None:
    first, last = int(pts.min()), int(pts.max())
    seconds = (last - first) * time_base
    sensible = seconds <= _LONGEST_VIDEO_SECONDS and max(-first, last) * time_base <= _FARTHEST_CLOCK_SECONDS
    if sensible:
        steps = np.diff(np.sort(pts)) * float(time_base)
        sensible = 2 * np.maximum(steps - LONGEST_HOLD_US // SECOND_US, 0).sum() <= seconds
    if not sensible:
        raise UnreadableVideo(
            "clock_jumps",
            f"{path.name}: the times of its {len(pts)} frames, from {float(first * time_base):.0f} to "
            f"{float(last * time_base):.0f} s, mostly lie more than {LONGEST_HOLD_US // SECOND_US} s apart; "
            f"the file is damaged, fetch it again",
        )


def _repeated(video: Packets, shown: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Shape [packets]: is it shown at a time that the video had already passed before its key frame?

    In an unbroken recording everything before a key frame in the file is shown before everything from it on.
    """
    passed = np.maximum.accumulate(np.where(shown, video.pts, NO_TIME))
    before_packet = np.concatenate(([NO_TIME], passed[:-1]))
    key_numbers = np.flatnonzero(video.key)
    gop = np.cumsum(video.key) - 1  # -1 before the first key frame, where nothing is shown
    return shown & (video.pts <= before_packet[key_numbers][gop])


def _key_frames(
    video: Packets, timeline: Timeline, repeated: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Times of the key frames, ascending, and which of them open GOPs follow."""
    key_numbers = np.flatnonzero(video.key & (video.pts != NO_TIME) & ~repeated)
    gop = np.searchsorted(key_numbers, np.arange(len(video.pts)), side="right") - 1
    leading = (gop >= 0) & (video.pts != NO_TIME) & (video.pts < video.pts[key_numbers][gop])
    is_open = np.isin(np.arange(len(key_numbers)), gop[leading])
    times_us, order = np.unique(timeline.microseconds(video.pts[key_numbers]), return_index=True)
    return times_us, is_open[order]


def _gaps(frame_times_us: NDArray[np.int64], usual_step_us: int) -> NDArray[np.int64]:
    wide = np.flatnonzero(np.diff(frame_times_us) > max(SECOND_US, 10 * usual_step_us))
    return np.stack((frame_times_us[wide], frame_times_us[wide + 1]), axis=1)


def _missing_us(container: InputContainer, stream: VideoStream, video: Packets, audio: Mapping[int, Packets]) -> int:
    """By how much what was read falls short of what the header promises, if by more than a second.

    Some containers count from the clock's zero, others from where the file starts: the smaller promise is taken.
    """
    promised_us, tracks = _promise(container, stream, video, audio)
    reached_us = max(track.end_us for track in tracks)
    starts_us = int((stream.start_time or 0) * video.time_base * SECOND_US)
    missing_us = promised_us - max(reached_us, reached_us - starts_us)
    return missing_us if missing_us > SECOND_US else 0


def _promise(
    container: InputContainer, stream: VideoStream, video: Packets, audio: Mapping[int, Packets]
) -> tuple[int, list[Packets]]:
    """The duration (us) that the header states, and of what; 0 in containers that state none or cannot be asked.

    libavformat adapts an AVI's duration to the file's size, but not its number of frames.
    """
    name = container.format.name
    if name.startswith("mov") and stream.duration:
        return int(stream.duration * video.time_base * SECOND_US), [video]
    if name == "avi" and stream.average_rate:
        return int(stream.frames / stream.average_rate * SECOND_US), [video]
    if name.startswith(("matroska", "flv")):
        return container.duration or 0, [video, *audio.values()]
    return 0, [video]


def _not_opened(path: Path) -> UnreadableVideo:
    with path.open("rb") as file:
        start = file.read(12)
    if start[4:8] in _MP4_BOXES:
        return UnreadableVideo(
            "truncated",
            f"{path.name}: it begins as an MP4 file but its index (moov) is missing or damaged; "
            f"the file was probably cut off, fetch it again",
        )
    return UnreadableVideo(
        "not_a_video",
        f"{path.name}: it is in none of the containers that are read ({CONTAINERS.replace(',', ', ')}); leave it "
        f"out of the source or convert it",
    )
