"""Opens a video and reads its packet index: exact times of every frame, without decoding.

Containers' headers lie about frame counts, durations and rates (variable frame rate, edit lists, truncated files), so
they are not asked. All times are integer microseconds from the first presented frame; `Timeline` is the only place
where they are computed from timestamps (PTS).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from operators.video.ffmpeg import CONFINEMENT, CONTAINERS, file_url

SECOND_US = 1_000_000

_INDEXED_CONTAINERS = ("mov", "matroska", "avi", "flv")
"""Demuxers whose seek lands on a key frame. The others search for a timestamp and may land behind the key frame."""

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

    def microseconds(self, pts: int) -> int:
        """The time of a timestamp, rounded to the nearest microsecond (halves up)."""
        unit = self.time_base * SECOND_US
        return (2 * (pts - self.first_pts) * unit.numerator + unit.denominator) // (2 * unit.denominator)

    def pts(self, time_us: int) -> int:
        """The first timestamp whose time is `time_us` or later: frames from it on are the frames from `time_us` on."""
        unit = self.time_base * SECOND_US
        return self.first_pts - ((1 - 2 * time_us) * unit.denominator) // (2 * unit.numerator)

    def seconds(self, time_us: int) -> float:
        """The time on the container's own clock, which other streams share."""
        return float(self.first_pts * self.time_base) + time_us / SECOND_US


@dataclass(frozen=True)
class PacketIndex:
    """Every frame of a video stream as its packets tell it."""

    timeline: Timeline
    frame_times_us: NDArray[np.int64]
    """Shape [frames], ascending, the first 0. Packets that an edit list discards are not counted, nor those before the
    first key frame, which no decoder can show."""
    key_frame_times_us: NDArray[np.int64]
    """Shape [key frames], ascending, the first 0 or, where an edit list discards it, earlier."""
    duration_us: int
    """From the first frame's start to the last frame's end."""
    indexed: bool
    """The container's seek lands on key frames."""

    def key_frame(self, time_us: int) -> int:
        """Number of the last key frame at or before a time."""
        return max(0, int(np.searchsorted(self.key_frame_times_us, time_us, side="right")) - 1)

    def seek_target_us(self, key_frame: int) -> int:
        """Where to seek so that decoding starts at this key frame or before it. May be negative."""
        key_us = int(self.key_frame_times_us[key_frame])
        return key_us if self.indexed else key_us - SECOND_US


@contextmanager
def open_video(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """A local video's container and its main video stream, decoding on all cores.

    Raises:
        UnreadableVideo: `empty_file`, `not_a_video`, `truncated`, `no_video_stream` or `unknown_codec`.
    """
    if path.stat().st_size == 0:
        raise UnreadableVideo("empty_file", f"{path.name}: the file has no bytes; fetch it again")
    options = {**CONFINEMENT, "fflags": "+genpts"}
    try:
        container = av.open(file_url(path), "r", container_options=options, metadata_errors="replace")
    except av.error.FFmpegError as error:
        raise _not_opened(path) from error
    with container:
        stream = container.streams.best("video")
        if stream is None or av.stream.Disposition.attached_pic in stream.disposition:
            found = ", ".join(sorted({other.type for other in container.streams})) or "nothing"
            raise UnreadableVideo(
                "no_video_stream", f"{path.name}: it holds {found} but no video stream; leave it out of the source"
            )
        assert isinstance(stream, VideoStream)
        if stream.codec_context is None:
            raise UnreadableVideo(
                "unknown_codec", f"{path.name}: no decoder for its video stream; convert it, e.g. to H.264"
            )
        stream.thread_type = "AUTO"
        yield container, stream


def read_packets(container: InputContainer, stream: VideoStream, path: Path) -> PacketIndex:
    """Demux the whole file, decoding nothing. The container is at its end afterwards.

    Raises:
        UnreadableVideo: `truncated` when there is no packet to read, `no_timestamps` when frames have no times.
    """
    key_pts: list[int] = []
    shown: list[tuple[int, int]] = []  # PTS and duration of each frame
    try:
        for packet in container.demux(stream):
            if packet.size == 0 or not (key_pts or packet.is_keyframe):
                continue
            if packet.pts is None:
                raise UnreadableVideo(
                    "no_timestamps",
                    f"{path.name}: its frames carry no times ({container.format.name}); remux it, e.g. to MP4",
                )
            if packet.is_keyframe:
                key_pts.append(packet.pts)
            # What is shown before the first key frame refers to pictures that are not there (open GOP).
            if packet.pts >= key_pts[0] and not packet.is_discard:
                shown.append((packet.pts, packet.duration or 0))
    except av.error.FFmpegError:
        pass  # the file ends in the middle of something: what came before it is the video
    if not shown:
        raise UnreadableVideo(
            "truncated",
            f"{path.name}: the header announces {stream.codec_context.name} video but no frame can be read; "
            f"the file was probably cut off, fetch it again",
        )
    assert stream.time_base is not None  # libavformat gives every stream one
    shown.sort()
    timeline = Timeline(Fraction(stream.time_base), shown[0][0])
    last_pts, last_duration = shown[-1]
    usual_step = int(np.median(np.diff([pts for pts, _ in shown]))) if len(shown) > 1 else 1
    return PacketIndex(
        timeline=timeline,
        frame_times_us=np.unique([timeline.microseconds(pts) for pts, _ in shown]),
        key_frame_times_us=np.unique([timeline.microseconds(pts) for pts in key_pts]),
        duration_us=timeline.microseconds(last_pts + (last_duration or usual_step)),
        indexed=container.format.name.startswith(_INDEXED_CONTAINERS),
    )


def decode(container: InputContainer, stream: VideoStream, timeline: Timeline) -> Iterator[tuple[int, VideoFrame]]:
    """Times (us) and frames from the container's position to its end, in order of presentation.

    Damaged packets are passed over, and so is what comes before the first presented frame.
    """
    packets = container.demux(stream)
    while True:
        try:
            frames = next(packets).decode()
        except StopIteration:
            return
        except av.error.FFmpegError:
            continue
        for frame in frames:
            if frame.pts is not None and frame.pts >= timeline.first_pts:
                yield timeline.microseconds(frame.pts), frame


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
        f"{path.name}: it begins with {start!r}, which is none of the containers that are read "
        f"({CONTAINERS.replace(',', ', ')}); leave it out of the source or convert it",
    )
