"""Verifies a written clip by reading and decoding it: frames, frame times, first and last picture, and audio.

A clip that passes has exactly the planned frames at the planned times, for readers that obey edit lists and for readers
that ignore them. OpenCV counts the same number of frames and begins with the same one. Audio begins with the video.
Copied frames are byte-identical to the source's, and the first of them is decoded to the source's pixels with the
written parameter sets. Equal bytes decode to equal pictures. A copy from a source that was fully decoded before is
therefore not decoded again; of other copies, the last group of pictures is decoded. The first and last picture of an
encoded clip match the source's frames better than their neighbours.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import av
import cv2
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from operators.video.clips.remux import Coded, nal_length_size, nal_units
from operators.video.decode.ffmpeg import CONFINEMENT, file_url
from operators.video.decode.packets import PacketIndex, UnreadableVideo, packets_of
from operators.video.decode.probe import main_audio_stream
from operators.video.decode.ranges import seek
from schemas.video.clock import SECOND_US, StreamClock
from schemas.video.orientation import orientation

TOLERANCE_US = 1000
"""Largest difference between a frame's times in clip and source: MP4's clock ticks at 10 kHz or faster."""

LARGEST_DIFFERENCE = 8.0
"""Largest mean difference (of 255 levels) between thumbnails of an encoded picture and the source's. Encoded noise has
3."""

LARGEST_READER_DIFFERENCE = 24.0
"""Largest mean difference between two readers, which may convert colours with different matrices."""

DECIDABLE = 1.0
"""Thumbnails that differ by less than this cannot be distinguished."""

_THUMBNAIL = 320


class CutError(RuntimeError):
    """A clip could not be written as planned; the message names the clip, what was expected and what came out."""


@dataclass(frozen=True)
class PlannedClip:
    """The required content of a clip."""

    source: str
    """File name of the source, for messages."""
    times_us: NDArray[np.int64]
    """Frame times from the first frame on, shape [frames]."""
    duration_us: int
    sound: bool


@dataclass(frozen=True)
class WrittenClip:
    """A clip as read back, with edit lists ignored."""

    packets: list[Packet]
    """Video packets in decoding order."""
    codec: str
    extradata: bytes
    first: VideoFrame
    """The first picture that is shown by a reader that obeys edit lists."""


def check_times(target: Path, planned: PlannedClip) -> WrittenClip:
    """Check frame times, with and without edit lists, and that audio begins with the video.

    Returns:
        The clip as read back.

    Raises:
        CutError: a frame is missing, duplicated or off its time; the first frame cannot be decoded; or the audio is
            missing, unexpected or begins more than a frame off.
    """
    with _open_clip(target) as container:
        stream = container.streams.video[0]
        _check_frame_times(target, container, planned)
        _check_sound(target, container, planned)
        container.seek(0)
        first = _decode_first(container, stream)
        if first is None or first.is_corrupt or first.pts != 0:
            raise CutError(f"{target.stem}: its first frame cannot be decoded")
    with _open_clip(target, ignore_editlist="1") as container:
        packets = _check_frame_times(target, container, planned)
        context = container.streams.video[0].codec_context
        return WrittenClip(packets, context.codec.canonical_name, bytes(context.extradata or b""), first)


def check_copied(target: Path, written: WrittenClip, piece: Coded, codec: str, extradata: bytes) -> None:
    """Check that copied frames are byte-identical to the source's, and that the first is decoded to the same pixels.

    Args:
        piece: the source's coded frames.
        codec: the source's video codec.
        extradata: the source's parameter sets.

    Raises:
        CutError: the order or the bytes of the frames differ, or the first one is decoded to another picture.
    """
    copies = written.packets[piece.first : piece.beyond]
    if np.argsort([copy.pts or 0 for copy in copies]).tolist() != np.argsort(piece.ranks).tolist():
        raise CutError(f"{target.stem}: copied frames are not shown in the source's order")
    for number, (copy, original) in enumerate(zip(copies, piece.packets, strict=True)):
        if not _is_same_frame(copy, original, codec, written.extradata, extradata):
            raise CutError(f"{target.stem}: frame {number} of the copied frames is not the source's")
    if piece.first == 0 and written.extradata == extradata and bytes(copies[0]) == bytes(piece.packets[0]):
        return  # the decoder of the first frame had the same input
    of_copy = written.first if piece.first == 0 else next(_decode_packets(copies[:1], codec, written.extradata), None)
    of_original = next(_decode_packets(piece.packets[:1], codec, extradata), None)
    if of_copy is None or of_original is None or not _is_same_picture(of_copy, of_original):
        raise CutError(f"{target.stem}: the first copied frame decodes to another picture than the source's")


def decode_first_picture(piece: Coded, codec: str, extradata: bytes) -> VideoFrame:
    """Decode the first of the coded frames.

    Raises:
        CutError: it cannot be decoded.
    """
    first = next(_decode_packets(piece.packets[:1], codec, extradata), None)
    if first is None:
        raise CutError("the first frame of what would be copied cannot be decoded")
    return first


def check_last_group(target: Path, written: WrittenClip, codec: str) -> None:
    """Check that the last frame can be decoded, starting at the last key frame.

    Frames before it that no other frame refers to are skipped.

    Raises:
        CutError: the last frame cannot be decoded.
    """
    last_pts = max(packet.pts or 0 for packet in written.packets)
    key = max(number for number, packet in enumerate(written.packets) if packet.is_keyframe)
    frames = _decode_packets(written.packets[key:], codec, written.extradata, needed_pts=last_pts)
    if not any(frame.pts == last_pts and not frame.is_corrupt for frame in frames):
        raise CutError(f"{target.stem}: its last frame cannot be decoded")


def check_all_decoded(target: Path, written: WrittenClip, codec: str) -> None:
    """Check that every frame can be decoded, at its time.

    Raises:
        CutError: a frame cannot be decoded, or is shown at another time.
    """
    shown = [frame.pts for frame in _decode_packets(written.packets, codec, written.extradata) if not frame.is_corrupt]
    if shown != sorted(packet.pts or 0 for packet in written.packets):
        raise CutError(f"{target.stem}: {len(shown)} of {len(written.packets)} frames are decoded in their order")


def check_opencv(target: Path, written: WrittenClip) -> None:
    """Check that OpenCV counts the same number of frames and begins with the same one.

    OpenCV brings its own ffmpeg and ignores frame times.

    Raises:
        CutError: the frame count or the first picture differs, or the frames are interlaced.
    """
    if written.first.interlaced_frame:
        raise CutError(f"{target.stem}: OpenCV 5 cannot convert the colours of interlaced frames; encode them")
    picture = _read_first_in_opencv(target, written, cv2.CAP_PROP_N_THREADS, 1)
    first = thumbnail(written.first)
    there = cv2.resize(picture, (first.shape[1], first.shape[0]), interpolation=cv2.INTER_AREA)
    if _difference(np.ascontiguousarray(there[:, :, ::-1]), first) > LARGEST_READER_DIFFERENCE:
        raise CutError(f"{target.stem}: OpenCV begins with another frame")


def check_opencv_coded(target: Path, written: WrittenClip) -> None:
    """Check that OpenCV counts the same number of frames and begins with the same coded frame.

    This suffices where OpenCV has decoded another clip with the same parameter sets.

    Raises:
        CutError: the frame count or the first coded frame differs, or the frames are interlaced.
    """
    if written.first.interlaced_frame:
        raise CutError(f"{target.stem}: OpenCV 5 cannot convert the colours of interlaced frames; encode them")
    coded = _read_first_in_opencv(target, written, cv2.CAP_PROP_FORMAT, -1).tobytes()
    packet, codec = bytes(written.packets[0]), written.codec
    if codec in ("h264", "hevc"):  # OpenCV writes start codes, parameter sets first
        *_, packet = nal_units(packet, nal_length_size(codec, written.extradata))
    if not coded.endswith(packet):
        raise CutError(f"{target.stem}: OpenCV begins with another frame")


def check_edges(
    target: Path,
    written: WrittenClip,
    first: Mapping[int, NDArray[np.uint8]],
    last: Mapping[int, NDArray[np.uint8]],
) -> None:
    """Check that the first and the last picture are the intended frames and not their neighbours.

    Args:
        first: thumbnails of the source's frames by their offset from the intended first one: 0, and -1 and 1 where such
            frames exist.
        last: the same for the intended last frame.

    Raises:
        CutError: a picture cannot be decoded, differs from the intended frame, or matches a neighbour at least as well.
    """
    _check_picture(target, "first", thumbnail(written.first), first)
    last_pts = max(packet.pts or 0 for packet in written.packets)
    with _open_clip(target) as container:
        container.seek(last_pts, stream=container.streams.video[0])
        pictures = deque(container.decode(video=0), maxlen=1)
    if not pictures or pictures[0].pts != last_pts:
        raise CutError(f"{target.stem}: its last frame cannot be decoded")
    _check_picture(target, "last", thumbnail(pictures[0]), last)


def source_thumbnails(
    container: InputContainer, stream: VideoStream, index: PacketIndex, times_us: NDArray[np.int64]
) -> list[NDArray[np.uint8]]:
    """Thumbnails of a few neighbouring frames of the source, decoded from a key frame on.

    Args:
        times_us: shape [frames], ascending.

    Raises:
        UnreadableVideo: `damaged` if one of them cannot be decoded.
    """
    key_frame, back = index.key_frame(int(times_us[0])), 1
    while True:
        seek(container, index, key_frame)
        found = dict(_decode_thumbnails(container, stream, index.timeline, times_us))
        if len(found) == len(times_us):
            return [found[int(time_us)] for time_us in times_us]
        if key_frame == 0:
            raise UnreadableVideo(
                "damaged", f"frames at {times_us.tolist()} us cannot be decoded; fetch the file again"
            )
        key_frame, back = max(0, key_frame - back), 2 * back


def thumbnail(frame: VideoFrame) -> NDArray[np.uint8]:
    """The frame as an upright RGB picture, its longer side at most 320 pixels. Shape [height, width, 3]."""
    scale = min(1.0, _THUMBNAIL / max(frame.width, frame.height))
    width, height = (max(2, round(pixels * scale / 2) * 2) for pixels in (frame.width, frame.height))
    rgb = frame.reformat(width=width, height=height, format="rgb24", interpolation="AREA", threads=1).to_ndarray()
    return orientation(frame).upright(np.asarray(rgb, dtype=np.uint8))


def _open_clip(target: Path, **options: str) -> InputContainer:
    """Open a clip for demuxing.

    By default libavformat decodes up to seven frames to detect parameters that MP4 states anyway, which would take half
    of the time of a verification. `skip_frame` disables that.
    """
    confined = {**CONFINEMENT, **options}
    container = av.open(file_url(target), "r", options={"skip_frame": "all"}, container_options=confined)
    container.streams.video[0].codec_context.thread_count = 1
    return container


def _decode_first(container: InputContainer, stream: VideoStream) -> VideoFrame | None:
    """Decode the first frame from its packet alone; None if that fails."""
    packet = next(container.demux(stream))
    try:
        return next(iter([*packet.decode(), *stream.codec_context.decode(None)]), None)
    except av.error.FFmpegError:
        return None


def _check_frame_times(target: Path, container: InputContainer, planned: PlannedClip) -> list[Packet]:
    packets = [packet for packet in container.demux(video=0) if packet.size]
    count, expected = len(packets), len(planned.times_us)
    if count != expected or any(packet.is_discard for packet in packets):
        raise CutError(
            f"{target.stem}: ffmpeg wrote {count} frames for a span of {expected} frames of {planned.source}; "
            f"its index and its content disagree, remux it"
        )
    tick_us = float((container.streams.video[0].time_base or 0) * SECOND_US)
    times_us = np.sort([packet.pts or 0 for packet in packets]) * tick_us
    drift_us = float(np.abs(times_us - planned.times_us).max())
    if drift_us > TOLERANCE_US:
        raise CutError(f"{target.stem}: frames are {drift_us:.0f} us off their times in {planned.source}; remux it")
    return packets


def _check_sound(target: Path, container: InputContainer, planned: PlannedClip) -> None:
    audio = main_audio_stream(container)
    if (audio is None) == planned.sound:
        raise CutError(f"{target.stem}: {planned.source} and the clip do not both have sound; remux the source")
    if audio is not None:
        begins_us = float((audio.start_time or 0) * (audio.time_base or 0)) * SECOND_US
        if abs(begins_us) > planned.duration_us / len(planned.times_us):
            raise CutError(
                f"{target.stem}: sound begins at {begins_us:.0f} us, more than a frame off; remux the source"
            )


def _read_first_in_opencv(target: Path, written: WrittenClip, *option: int) -> NDArray[np.uint8]:
    """Read the first picture with OpenCV or, depending on `option`, the first coded frame."""
    capture = cv2.VideoCapture(str(target), cv2.CAP_FFMPEG, option)
    try:
        seen, (found, first) = round(capture.get(cv2.CAP_PROP_FRAME_COUNT)), capture.read()
    finally:
        capture.release()
    if not found or seen != len(written.packets):
        raise CutError(f"{target.stem}: OpenCV sees {seen} frames, not {len(written.packets)}")
    return np.asarray(first, dtype=np.uint8)


def _is_same_frame(copy: Packet, original: Packet, codec: str, of_copy: bytes, of_original: bytes) -> bool:
    if codec not in ("h264", "hevc"):
        return bytes(copy) == bytes(original)
    sizes = nal_length_size(codec, of_copy), nal_length_size(codec, of_original)
    if sizes[0] == sizes[1]:
        return bytes(copy) == bytes(original)
    return list(nal_units(bytes(copy), sizes[0])) == list(nal_units(bytes(original), sizes[1]))


def _is_same_picture(one: VideoFrame, other: VideoFrame) -> bool:
    """Whether two pictures are equal pixel for pixel. Line padding in memory is ignored."""
    if (one.format.name, one.width, one.height) != (other.format.name, other.width, other.height):
        return False
    return all(np.array_equal(*pair) for pair in zip(_planes(one), _planes(other), strict=True))


def _planes(frame: VideoFrame) -> list[NDArray[np.uint8]]:
    """The planes of a planar frame without line padding, shapes [height, width * bytes per sample]."""
    sample_bytes = -(-frame.format.components[0].bits // 8)
    return [
        np.frombuffer(cast(Any, plane), np.uint8).reshape(plane.height, plane.line_size)[
            :, : plane.width * sample_bytes
        ]
        for plane in frame.planes
    ]


def _decode_packets(
    packets: list[Packet], codec: str, extradata: bytes, needed_pts: int | None = None
) -> Iterator[VideoFrame]:
    """Decode packets with a new decoder and yield their frames.

    If `needed_pts` is given, only frames that others refer to are decoded before it, and the loop filter is off.

    Raises:
        CutError: a packet cannot be decoded.
    """
    context = av.CodecContext.create(codec, "r")
    assert isinstance(context, av.VideoCodecContext)
    context.extradata = extradata
    context.thread_count = 1
    if needed_pts is not None:
        context.options = {"skip_loop_filter": "all"}
    try:
        for packet in packets:
            if needed_pts is not None:
                context.skip_frame = "DEFAULT" if (packet.pts or 0) >= needed_pts else "NONREF"
            yield from context.decode(packet)
        yield from context.decode(None)
    except av.error.FFmpegError as error:
        raise CutError(f"a copied frame cannot be decoded: {error}") from error


def _decode_thumbnails(
    container: InputContainer, stream: VideoStream, timeline: StreamClock, times_us: NDArray[np.int64]
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Yield times and thumbnails of the requested frames, from the container's current position on.

    Before the first requested time, frames that no other frame refers to are skipped.
    """
    for packet in packets_of(container, [stream]):
        wanted = packet.pts is None or timeline.microseconds(packet.pts) >= times_us[0]
        stream.codec_context.skip_frame = "DEFAULT" if wanted else "NONREF"
        try:
            frames = packet.decode()
        except av.error.FFmpegError:
            continue  # damage elsewhere; the caller detects missing frames
        for frame in frames:
            if frame.pts is None:
                continue
            time_us = timeline.microseconds(frame.pts)
            if time_us in times_us:
                yield time_us, thumbnail(frame)
            if time_us >= times_us[-1]:
                return


def _check_picture(
    target: Path, which: str, picture: NDArray[np.uint8], source: Mapping[int, NDArray[np.uint8]]
) -> None:
    difference = _difference(picture, source[0])
    if difference > LARGEST_DIFFERENCE:
        raise CutError(f"{target.stem}: its {which} frame differs from the source's by {difference:.1f} levels")
    for distance, neighbour in source.items():
        distinguishable = _difference(source[0], neighbour) >= DECIDABLE
        if distinguishable and _difference(picture, neighbour) <= difference:
            raise CutError(
                f"{target.stem}: its {which} frame is the source's frame {distance:+d} from the intended one"
            )


def _difference(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    if one.shape != other.shape:
        other = np.asarray(cv2.resize(other, (one.shape[1], one.shape[0]), interpolation=cv2.INTER_AREA), np.uint8)
    return float(cv2.absdiff(one, other).mean())
