"""Opens a video and reads its packet index: the exact time of every frame, without decoding.

Frame counts, durations and rates in container headers are unreliable (variable frame rate, edit lists, truncated
files). They are used for one purpose only: to estimate how much of a file is missing. All times are integer
microseconds from the first presented frame, as `schemas.video.clock` converts them.

Indexing an hour of 640x360 video with audio takes about a second. The index does not show whether the frames can be
decoded.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from operators.video.decode.ffmpeg import CONFINEMENT, CheckedFile
from schemas.video.clock import SECOND_US, StreamClock
from schemas.video.container import ANY_TITLE, CONTAINERS, LARGEST_FRAME_PIXELS, has_moving_picture, moving_pictures

NO_TIME = int(np.iinfo(np.int64).min)
"""Marks a missing timestamp of a packet (ffmpeg's AV_NOPTS_VALUE)."""

LONGEST_HOLD_US = 600 * SECOND_US
"""Longest plausible frame duration: ten minutes, as in a recorded lecture. A longer one suggests a damaged clock."""

_LONGEST_VIDEO_SECONDS = 1000 * 3600
_FARTHEST_CLOCK_SECONDS = 10**11
"""A timestamp beyond this is damaged, and sums of microseconds could overflow. A clock may count from the year 0."""

_INDEXED_CONTAINERS = ("mov", "matroska", "avi", "flv", "gif", "ivf")
"""Demuxers whose seek lands on a key frame. The others search for a timestamp and may land after the key frame."""

_ASPECT_IN_FRAMES = ("mpegts", "mpeg", "flv", "wtv", "dv")
"""Containers without a sample aspect ratio. The coded frames state it and may change it. Other containers state one
ratio for all frames."""

_FACTS = 6
"""Number of columns of `Packets`."""

_MP4_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide")
"""Box types that an MP4 or QuickTime file may begin with, after four bytes of size (ISO/IEC 14496-12)."""


DecodedFrame = tuple[int, VideoFrame]
"""Presentation time in microseconds, and the frame."""


class UnreadableVideo(ValueError):
    """A file that cannot be used as a video.

    `reason` is a typed word. The message also states how to fix the problem.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[type[UnreadableVideo], tuple[str, str]]:
        return type(self), (self.reason, str(self))


@dataclass(frozen=True)
class Packets:
    """Packet metadata of one stream, in file order. Arrays have the shape [packets]; times are in ticks."""

    time_base: Fraction
    pts: NDArray[np.int64]
    """`NO_TIME` where the packet has none; the same holds for `dts`."""
    dts: NDArray[np.int64]
    duration: NDArray[np.int64]
    """0 where the container states none. MP4 states the step of `dts`, which is another packet's once frames are
    reordered."""
    size: NDArray[np.int64]
    """Size in bytes."""
    key: NDArray[np.bool_]
    discarded: NDArray[np.bool_]
    """True for a packet that an edit list removes: it is decoded where other frames need it, but never shown."""
    configurations: tuple[tuple[int, bytes], ...] = ()
    """Changes of the decoder configuration (extradata; MP4's sample entries), as (packet number, configuration from
    that packet on), ascending. Demuxers report a change only once, even after a seek."""
    sound_changes: bool = False
    """For audio: the sample rate or the channels differ between packets, or the container changes the configuration."""

    def configuration(self, packet: int, first: bytes) -> bytes:
        """The decoder configuration of packet number `packet`. `first` is the one in the stream's header."""
        return next((data for number, data in reversed(self.configurations) if number <= packet), first)

    @property
    def start_us(self) -> int:
        """Start of the shown packets on the container's own clock, in microseconds; 0 if none is shown."""
        return self._microseconds(self.pts[self._is_shown].min()) if self._is_shown.any() else 0

    @property
    def end_us(self) -> int:
        """End of the shown packets on the container's own clock, in microseconds; 0 if none is shown."""
        return self._microseconds((self.pts + self.duration)[self._is_shown].max()) if self._is_shown.any() else 0

    @property
    def _is_shown(self) -> NDArray[np.bool_]:
        return (self.pts != NO_TIME) & ~self.discarded

    def _microseconds(self, ticks: np.int64) -> int:
        return round(int(ticks) * self.time_base * SECOND_US)


@dataclass(frozen=True)
class PacketIndex:
    """Every frame of a video stream according to its packets."""

    timeline: StreamClock
    frame_times_us: NDArray[np.int64]
    """Shape [frames], ascending, the first 0. Not counted are packets that an edit list discards, packets before the
    first key frame, which no decoder can show, and packets after the clock jumped back, until it reaches its former
    maximum again."""
    frame_packets: NDArray[np.int64]
    """Shape [frames]: the index into `packets` of each frame's packet."""
    key_frame_times_us: NDArray[np.int64]
    """Shape [key frames], ascending. The first is 0, or earlier where an edit list discards it."""
    open_gops: NDArray[np.bool_]
    """Shape [key frames]. True for an open GOP: frames that are shown before the key frame follow it in the file, so
    they may refer to frames before it. HEVC's RADL pictures, which do not, cannot be distinguished here."""
    duration_us: int
    """Time from the first frame's start to the last frame's end."""
    missing_us: int
    """Missing time at the end of a truncated file according to its header; 0 for a whole file."""
    gaps_us: NDArray[np.int64]
    """Shape [gaps, 2]: start and end of each stretch without a new frame. A gap is longer than a second and than ten
    times the median frame step."""
    indexed: bool
    """True if the container's seek lands on key frames."""
    packets: Packets
    audio: Mapping[int, Packets]
    """Audio packets by stream index in the container."""

    def key_frame(self, time_us: int) -> int:
        """Index of the last key frame at or before a time."""
        return max(0, int(np.searchsorted(self.key_frame_times_us, time_us, side="right")) - 1)

    def seek_target_us(self, key_frame: int) -> int:
        """Seek target for decoding from this key frame, in microseconds. May be negative.

        Where the container's seek does not land on key frames, the target is a second earlier.
        """
        key_us = int(self.key_frame_times_us[key_frame])
        return key_us if self.indexed else key_us - SECOND_US


@contextmanager
def open_video(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a local video and yield its container and video stream, set to decode on all cores.

    The stream is the one that `schemas.video.container` chooses.

    Raises:
        UnreadableVideo: `empty_file`, `not_a_video`, `truncated`, `no_video_stream` or `unknown_codec`.
        OSError: the file cannot be opened. On exit from the context: it could not be read (see `CheckedFile`).
    """
    if path.stat().st_size == 0:
        raise UnreadableVideo("empty_file", f"{path.name}: the file has no bytes; fetch it again")
    with ExitStack() as stack:
        file = stack.enter_context(CheckedFile(path))
        try:
            opened = av.open(file, "r", container_options=CONFINEMENT, **ANY_TITLE)
        except av.error.FFmpegError as error:
            raise _opening_error(path) from error
        container = stack.enter_context(opened)
        stream = next(iter(moving_pictures(container)), None)
        if stream is None and has_moving_picture(container):
            raise UnreadableVideo(
                "unknown_codec", f"{path.name}: no decoder for its video stream; convert it, e.g. to H.264"
            )
        if stream is None:
            found = ", ".join(sorted({other.type for other in container.streams})) or "nothing"
            raise UnreadableVideo(
                "no_video_stream", f"{path.name}: it holds {found} but no video stream; remove it from the source"
            )
        stream.thread_type = "AUTO"
        stream.codec_context.options = {"max_pixels": str(LARGEST_FRAME_PIXELS)}  # also if frames grow later
        yield container, stream


def read_packets(container: InputContainer, stream: VideoStream, path: Path) -> PacketIndex:
    """Demux the whole file without decoding. The container is at its end afterwards.

    Raises:
        UnreadableVideo: `encrypted`; `truncated` when no frame can be read; `no_timestamps` when frames have no times;
            `clock_goes_back` or `clock_jumps` when the times are implausible.
    """
    tracks = _demux(container, stream, path)
    video = tracks.pop(stream.index)
    shown = _find_shown(video)
    if not shown.any():
        raise _no_frame_error(video, stream, path)
    _refuse_implausible_times(video.pts[shown], video.time_base, path)
    timeline = StreamClock(video.time_base, int(video.pts[shown].min()))
    repeated = _find_repeated(video, shown)
    frame_packets = np.flatnonzero(shown & ~repeated)
    frame_packets = frame_packets[np.argsort(video.pts[frame_packets], kind="stable")]
    frame_times_us = timeline.microseconds(video.pts[frame_packets])
    first_at_its_time = np.diff(frame_times_us, prepend=-1) > 0
    frame_packets, frame_times_us = frame_packets[first_at_its_time], frame_times_us[first_at_its_time]
    usual_step_us = int(np.median(np.diff(frame_times_us))) if len(frame_times_us) > 1 else 0
    if np.count_nonzero(repeated) * usual_step_us > SECOND_US:
        raise UnreadableVideo(
            "clock_goes_back",
            f"{path.name}: {np.count_nonzero(repeated)} of its frames repeat earlier times, as in joined "
            f"recordings; remux it, e.g. to MKV, so that its times increase",
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
        gaps_us=_find_gaps(frame_times_us, usual_step_us),
        indexed=container.format.name.startswith(_INDEXED_CONTAINERS),
        packets=video,
        audio=tracks,
    )


def packets_of(container: InputContainer, streams: Sequence[Stream]) -> Iterator[Packet]:
    """Yield the packets of these streams from the container's current position on.

    The empty packets that flush the decoders come last. A demuxing error means that the file ends in the middle of a
    structure; the packets before the error are the video.
    """
    # IndexError: at the end, PyAV accesses streams that a damaged file announced earlier.
    with suppress(av.error.FFmpegError, IndexError):
        yield from container.demux(streams)


def sound_header(packet: Packet, codec: str) -> bytes:
    """Bits of an audio packet's own header that state its sample rate and channels.

    Empty if only the container states them. Parsed are the fixed headers of ADTS (ISO/IEC 13818-7, 6.2), of MPEG audio
    (ISO/IEC 11172-3, 2.4.1.3) and of AC-3 and E-AC-3 (ETSI TS 102 366, 4.3 and E.1.2).
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


def decode(container: InputContainer, stream: VideoStream, timeline: StreamClock) -> Iterator[DecodedFrame]:
    """Yield frames with their times from the container's current position to its end, as `decode_packets` does."""
    return decode_packets(packets_of(container, [stream]), timeline)


def decode_packets(packets: Iterable[Packet], timeline: StreamClock) -> Iterator[DecodedFrame]:
    """Yield the frames of the packets of a video stream, in presentation order.

    Damaged packets are skipped, and so are frames before the first presented one. PyAV keeps the sample aspect ratio
    only in the decoder. The decoder may already hold the ratio of a key frame when it returns the frames shown before
    it. Each frame therefore gets its own ratio here, which `sample_aspect` reads.
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
                # One object per frame: PyAV drops a shared one along with the first frame that had it.
                frame.opaque = (aspect if frame.pts >= since_pts else before,)
                yield timeline.microseconds(frame.pts), frame


def encryption_error(path: Path, scheme: str) -> UnreadableVideo:
    """Create the error for a file whose video or audio is encrypted with `scheme`."""
    return UnreadableVideo(
        "encrypted",
        f"{path.name}: its picture or sound is encrypted ({scheme}) and cannot be read without its key; get a copy "
        f"that is not protected, or remove it from the source",
    )


def sample_aspect(frame: VideoFrame) -> Fraction:
    """Sample aspect ratio (pixel width / height) of a frame from `decode_packets`."""
    return Fraction(frame.opaque[0]) if isinstance(frame.opaque, tuple) else Fraction(1)


def stream_aspect(stream: VideoStream) -> Fraction:
    """Sample aspect ratio of a stream, from the container.

    For a container that states none, it is the ratio of the frame that was decoded last.
    """
    if stream.container.format.name in _ASPECT_IN_FRAMES:
        return Fraction(stream.codec_context.sample_aspect_ratio or 1)
    return Fraction(stream.sample_aspect_ratio or 1)


def _demux(container: InputContainer, stream: VideoStream, path: Path) -> dict[int, Packets]:
    """Read the packets of the video stream and of all audio streams, by stream index.

    Raises:
        UnreadableVideo: `encrypted` when a packet carries Common Encryption data.
    """
    streams: list[VideoStream | AudioStream] = [stream, *container.streams.audio]
    facts = {each.index: array("q") for each in streams}
    configurations: dict[int, list[tuple[int, bytes]]] = {each.index: [] for each in streams}
    codecs = {sound.index: sound.codec_context.codec.canonical_name for sound in streams[1:] if sound.codec_context}
    headers: dict[int, set[bytes]] = {each.index: set() for each in streams}
    for packet in packets_of(container, streams):
        if packet.size:
            if packet.has_sidedata("encryption_info"):
                raise encryption_error(path, "Common Encryption")
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
    assert stream.time_base is not None  # libavformat sets it for every stream
    pts, dts, duration, size, key, discarded = np.frombuffer(facts, dtype=np.int64).reshape(-1, _FACTS).T.copy()
    is_key, is_discarded, time_base = key.astype(bool), discarded.astype(bool), Fraction(stream.time_base)
    # Containers may also repeat the configuration of the stream's header.
    opened = bytes(stream.codec_context.extradata or b"") if stream.codec_context else b""
    reconfigured = any(configuration != opened for _, configuration in configurations)
    sound_changes = stream.type == "audio" and (len(headers) > 1 or reconfigured)
    return Packets(time_base, pts, dts, duration, size, is_key, is_discarded, configurations, sound_changes)


def _find_shown(video: Packets) -> NDArray[np.bool_]:
    """Shape [packets]: whether each packet's frame is shown.

    Frames before the first key frame refer to missing frames and are not shown.
    """
    if not video.key.any():
        return np.zeros(len(video.key), dtype=bool)
    first_key = int(np.argmax(video.key))
    shown: NDArray[np.bool_] = (video.pts != NO_TIME) & (video.pts >= video.pts[first_key]) & ~video.discarded
    shown[:first_key] = False
    return shown


def _no_frame_error(video: Packets, stream: VideoStream, path: Path) -> UnreadableVideo:
    if len(video.pts) and bool((video.pts == NO_TIME).all()):
        return UnreadableVideo(
            "no_timestamps", f"{path.name}: its frames carry no times ({stream.container.format.name}); convert it"
        )
    return UnreadableVideo(
        "truncated",
        f"{path.name}: the header announces {stream.codec_context.name} video but no frame can be read; "
        f"the file was probably cut off, fetch it again",
    )


def _refuse_implausible_times(pts: NDArray[np.int64], time_base: Fraction, path: Path) -> None:
    first, last = int(pts.min()), int(pts.max())
    seconds = (last - first) * time_base
    plausible = seconds <= _LONGEST_VIDEO_SECONDS and max(-first, last) * time_base <= _FARTHEST_CLOCK_SECONDS
    if plausible:
        steps = np.diff(np.sort(pts)) * float(time_base)
        plausible = 2 * np.maximum(steps - LONGEST_HOLD_US // SECOND_US, 0).sum() <= seconds
    if not plausible:
        raise UnreadableVideo(
            "clock_jumps",
            f"{path.name}: the times of its {len(pts)} frames, from {float(first * time_base):.0f} to "
            f"{float(last * time_base):.0f} s, mostly lie more than {LONGEST_HOLD_US // SECOND_US} s apart; "
            f"the file is damaged, fetch it again",
        )


def _find_repeated(video: Packets, shown: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Shape [packets]: whether a frame has a time that was already reached before its key frame.

    In an unbroken recording, all frames before a key frame in the file are shown before all frames from it on.
    """
    passed = np.maximum.accumulate(np.where(shown, video.pts, NO_TIME))
    before_packet = np.concatenate(([NO_TIME], passed[:-1]))
    key_numbers = np.flatnonzero(video.key)
    gop = np.cumsum(video.key) - 1  # -1 before the first key frame, where no frame is shown
    return shown & (video.pts <= before_packet[key_numbers][gop])


def _key_frames(
    video: Packets, timeline: StreamClock, repeated: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Times of the key frames (us), ascending, and whether each starts an open GOP."""
    key_numbers = np.flatnonzero(video.key & (video.pts != NO_TIME) & ~repeated)
    gop = np.searchsorted(key_numbers, np.arange(len(video.pts)), side="right") - 1
    leading = (gop >= 0) & (video.pts != NO_TIME) & (video.pts < video.pts[key_numbers][gop])
    is_open = np.isin(np.arange(len(key_numbers)), gop[leading])
    times_us, order = np.unique(timeline.microseconds(video.pts[key_numbers]), return_index=True)
    return times_us, is_open[order]


def _find_gaps(frame_times_us: NDArray[np.int64], usual_step_us: int) -> NDArray[np.int64]:
    wide = np.flatnonzero(np.diff(frame_times_us) > max(SECOND_US, 10 * usual_step_us))
    return np.stack((frame_times_us[wide], frame_times_us[wide + 1]), axis=1)


def _missing_us(container: InputContainer, stream: VideoStream, video: Packets, audio: Mapping[int, Packets]) -> int:
    """Time (us) by which the packets fall short of the duration in the header; 0 up to a second.

    Some containers count from zero on their clock, others from the file's first time. The smaller shortfall is used.
    """
    stated_us, tracks = _stated_duration(container, stream, video, audio)
    reached_us = max(track.end_us for track in tracks)
    starts_us = int((stream.start_time or 0) * video.time_base * SECOND_US)
    missing_us = stated_us - max(reached_us, reached_us - starts_us)
    return missing_us if missing_us > SECOND_US else 0


def _stated_duration(
    container: InputContainer, stream: VideoStream, video: Packets, audio: Mapping[int, Packets]
) -> tuple[int, list[Packets]]:
    """Duration (us) stated in the header, and the tracks that it covers.

    0 for containers that state none or none that can be used. libavformat adapts an AVI's duration to the file size,
    but not its number of frames.
    """
    name = container.format.name
    if name.startswith("mov") and stream.duration:
        return int(stream.duration * video.time_base * SECOND_US), [video]
    if name == "avi" and stream.average_rate:
        return int(stream.frames / stream.average_rate * SECOND_US), [video]
    if name.startswith(("matroska", "flv")):
        return container.duration or 0, [video, *audio.values()]
    return 0, [video]


def _opening_error(path: Path) -> UnreadableVideo:
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
        f"{path.name}: it is in none of the containers that are read ({CONTAINERS.replace(',', ', ')}); "
        f"remove it from the source or convert it",
    )
