"""Decodes exactly the requested frames of a video from a file, a URL, or a byte range of a tar.

Times are integer microseconds from the first presented frame, as everywhere in the project. A time selects the frame
that is presented at that moment, and `schemas.video.display` converts it, as in the pipeline. In MP4 and Matroska only
the GOPs with requested frames are read and decoded; other containers are decoded from the beginning. The caller chooses
the process: a damaged file raises an error, but a crash of a decoder kills its process.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from fractions import Fraction
from itertools import islice
from typing import IO, cast

import av
import fsspec
import numpy as np
import torch
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from schemas.uri import shown_uri
from schemas.video.clock import SECOND_US, StreamClock
from schemas.video.container import ANY_TITLE, CONTAINERS, FILL_IN_TIMES, LARGEST_FRAME_PIXELS, moving_pictures
from schemas.video.display import displayed_rgb
from trainer_plugin.ops.preprocess import Resample, resize
from trainer_plugin.types import VideoInfo, VideoSource

_CONFINEMENT = {"format_whitelist": CONTAINERS, "protocol_whitelist": "none", **FILL_IN_TIMES}
"""Options of the demuxer: no playlists, and no reference from a video to another file or address."""

_SEEKABLE_CONTAINERS = ("mov", "matroska")
"""Demuxers that seek to key frames by the file's own index, with correct timestamps after it. Others are decoded from
the beginning. The pipeline can seek in more containers, because it reads all packets first."""

_BLOCK_BYTES = 4 << 20
"""Read-ahead in bytes on remote files: a few seconds of video. By default, s3fs would fetch 50 MiB for every seek."""

_REORDER_PACKETS = 32
"""Number of packets that certainly include the first presented frame: codecs reorder by at most 16 frames (H.264 and
HEVC, annex on DPB)."""

_SLACK_US = SECOND_US
"""Maximum time in microseconds between the end of the last decoded frame and a requested time. Beyond it the video
counts as damaged there."""


class BadVideo(ValueError):
    """A video that cannot be decoded.

    `reason` is one of a fixed set of words, `key` is the video's id, and the message has the details.
    """

    def __init__(self, key: str, reason: str, message: str) -> None:
        super().__init__(f"video {key}: {message}")
        self.key = key
        self.reason = reason
        self.message = message

    def __reduce__(self) -> tuple[type[BadVideo], tuple[str, str, str]]:
        return type(self), (self.key, self.reason, self.message)


def read_frames(
    source: VideoSource,
    times_us: Sequence[int],
    size: tuple[int, int],
    resample: Resample = "bicubic",
    square: tuple[int, int] | None = None,
) -> NDArray[np.uint8]:
    """Decode the frames presented at the given times, upright and resized as by Hugging Face's video processors.

    Args:
        times_us: times in microseconds, in any order; equal times give equal frames.
        size: height and width in pixels.
        square: height and width to which the resized frames are resized once more; None: no second resize.

    Returns:
        Shape [len(times_us), *(square or size), 3], RGB.

    Raises:
        BadVideo: `missing`, `not_a_video`, `no_video_stream`, `too_large`, `no_timestamps` or `damaged` (it presents no
            frame, its container cannot seek, nothing decodes near a requested time, or it ends more than a second
            before one).
        OSError: the storage failed, or the tar that holds the video is missing; neither concerns the video.
    """
    frames = np.empty((len(times_us), *(square or size), 3), dtype=np.uint8)
    with _open_video(source) as (container, stream):
        first = islice(_shown_pts(source, container, stream), _REORDER_PACKETS)
        clock = StreamClock(Fraction(cast(Fraction, stream.time_base)), min(first))
        reader = _FrameReader(source.key, container, stream, clock)
        reader.rewind()
        shown: VideoFrame | None = None
        previous = 0
        for number in sorted(range(len(times_us)), key=times_us.__getitem__):
            frame = reader.frame_at(times_us[number])
            previous, before = number, previous
            if frame is shown:
                frames[number] = frames[before]
                continue
            shown = frame
            resized = resize(torch.from_numpy(displayed_rgb(frame))[None], size, resample)
            frames[number] = resize(resized, square or size, resample)[0].numpy()
    return frames


def probe_video(source: VideoSource) -> VideoInfo:
    """Measure a video that no release describes: its duration, frame rate, and displayed size.

    All packets are read, and one frame is decoded.

    Raises:
        BadVideo, OSError: as `read_frames`.
    """
    with _open_video(source) as (container, stream):
        shown = list(_shown_pts(source, container, stream))
        first, last = min(shown), max(shown)
        time_base = Fraction(cast(Fraction, stream.time_base))
        step = Fraction(last - first, len(shown) - 1) if len(shown) > 1 else 1 / time_base  # one frame: a second
        duration = (last - first + step) * time_base
        reader = _FrameReader(source.key, container, stream, StreamClock(time_base, first))
        reader.rewind()
        height, width, _ = displayed_rgb(reader.frame_at(0)).shape
        return VideoInfo(source, round(duration * SECOND_US), float(len(shown) / duration), width, height)


class _FrameReader:
    """Reads a video forward, and seeks when a key frame lies between its position and the requested time."""

    def __init__(self, key: str, container: InputContainer, stream: VideoStream, clock: StreamClock) -> None:
        self.key = key
        self.container = container
        self.stream = stream
        self.clock = clock
        self.indexed = container.format.name.startswith(_SEEKABLE_CONTAINERS)
        self.read_to: int | None = None
        self.key_pts: int | None = None
        self.damaged = False
        self.frames: Iterator[VideoFrame] = iter(())
        self.current: VideoFrame | None = None
        self.following: VideoFrame | None = None

    def rewind(self) -> None:
        """Read the first packet once more.

        An MP4 may hold several decoder configurations. libavformat reports one only when it differs from that of the
        packet read before, and the decoder is opened with the first.
        """
        self._seek(None)
        with suppress(StopIteration):
            next(self.container.demux(self.stream))

    def frame_at(self, time_us: int) -> VideoFrame:
        """The frame presented at `time_us`, which must not be before the previously requested time."""
        pts = self.clock.pts(time_us + 1) - 1  # the last one whose time is at or before `time_us`
        if self.current is None or self._key_frame_ahead(pts):
            self._seek_before(pts)
        while self.following is not None and cast(int, self.following.pts) <= pts:
            self.current, self.following = self.following, next(self.frames, None)
        if self.current is None:
            raise BadVideo(self.key, "damaged", f"nothing can be decoded at {time_us} us; fetch it again")
        self._check_not_stale(self.current, time_us)
        return self.current

    def _key_frame_ahead(self, pts: int) -> bool:
        index = self.stream.index_entries
        entry = index.search_timestamp(pts) if self.indexed and len(index) else -1
        return entry >= 0 and self.read_to is not None and index[entry].timestamp > self.read_to

    def _seek_before(self, pts: int) -> None:
        """Decode from the last key frame at or before a PTS that decodes intact, as the pipeline does.

        While a seek lands after the PTS, or the key frame is damaged, seek further back.
        """
        back = 0
        while True:
            self._seek(pts - back if self.indexed else None)
            self.damaged, self.key_pts = False, None
            self.frames = self._decode_frames()
            self.current, self.following = next(self.frames, None), next(self.frames, None)
            if self._began_intact(pts) or pts - back < self.clock.first_pts or not self.indexed:
                return
            back = max(2 * back, round(1 / self.clock.time_base))

    def _began_intact(self, pts: int) -> bool:
        """Whether decoding began with an undamaged key frame at or before a PTS."""
        first = self.current
        return first is not None and not first.is_corrupt and first.pts == self.key_pts and cast(int, first.pts) <= pts

    def _seek(self, pts: int | None) -> None:
        """Seek to a PTS; None: to the beginning."""
        try:
            if pts is not None:
                self.container.seek(pts, stream=self.stream)
                return
            with suppress(av.error.FFmpegError):  # FLV cannot seek to a time before its first packet
                self.container.seek(0)
                return
            self.container.seek(self.clock.first_pts, stream=self.stream)
        except av.error.FFmpegError as error:
            raise BadVideo(
                self.key, "damaged", f"its container cannot seek ({error}); remux it, e.g. to MP4"
            ) from error

    def _decode_frames(self) -> Iterator[VideoFrame]:
        """Frames from the container's position on. Damaged packets are skipped, and set `damaged`.

        The first key frame's PTS becomes `key_pts`.
        """
        packets = self.container.demux(self.stream)
        while True:
            try:
                packet = next(packets)
                if packet.dts is not None:
                    self.read_to = packet.dts
                if self.key_pts is None and packet.is_keyframe:
                    self.key_pts = packet.pts
                frames = packet.decode()
            except StopIteration:
                return
            except av.error.FFmpegError:
                self.damaged = True
                continue
            yield from (frame for frame in frames if frame.pts is not None)

    def _check_not_stale(self, frame: VideoFrame, time_us: int) -> None:
        if self.following is not None and not self.damaged:
            return
        ends_us = self.clock.microseconds(cast(int, frame.pts) + (frame.duration or 0))
        if time_us > ends_us + _SLACK_US:
            raise BadVideo(
                self.key, "damaged", f"what was decoded ends at {ends_us} us, requested {time_us} us; fetch it again"
            )


class _Section(io.RawIOBase):
    """A byte range of a seekable file, as a file."""

    def __init__(self, file: IO[bytes], offset: int, size: int) -> None:
        self.file, self.offset, self.size, self.position = file, offset, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.size}[whence]
        self.position = max(0, start + offset)
        return self.position

    def read(self, size: int = -1) -> bytes:
        left = max(0, self.size - self.position)
        self.file.seek(self.offset + self.position)
        data = self.file.read(left if size < 0 else min(size, left))
        self.position += len(data)
        return data


@contextmanager
def _open_video(source: VideoSource) -> Iterator[tuple[InputContainer, VideoStream]]:
    filesystem, path = fsspec.core.url_to_fs(source.url)
    try:
        file = filesystem.open(path, "rb", block_size=_BLOCK_BYTES)
    except FileNotFoundError as error:
        if source.size is not None:
            raise OSError(
                f"{shown_uri(source.url)}: the tar was there when the release was opened; check that its disk is "
                f"mounted"
            ) from error
        raise BadVideo(
            source.key, "missing", f"{shown_uri(source.url)}: no such file; fetch it, or leave it missing"
        ) from None
    with file:
        size = file.seek(0, io.SEEK_END) - source.offset if source.size is None else source.size
        try:
            section = _Section(file, source.offset, size)
            container = av.open(section, "r", container_options=_CONFINEMENT, **ANY_TITLE)
        except av.error.FFmpegError as error:
            raise BadVideo(
                source.key, "not_a_video", f"{shown_uri(source.url)}: {error.strerror}; fetch it again"
            ) from error
        with container:
            stream = next(iter(moving_pictures(container)), None)
            if stream is None:
                raise BadVideo(
                    source.key, "no_video_stream", f"{shown_uri(source.url)}: no video stream that can be decoded"
                )
            width, height = stream.codec_context.width, stream.codec_context.height
            if width * height > LARGEST_FRAME_PIXELS:
                raise BadVideo(
                    source.key,
                    "too_large",
                    f"{shown_uri(source.url)}: frames of {width}x{height} exceed {LARGEST_FRAME_PIXELS // 1_000_000} "
                    f"megapixels; scale it down, or remove it",
                )
            stream.codec_context.options = {"max_pixels": str(LARGEST_FRAME_PIXELS)}  # also if frames grow later
            stream.thread_type = "AUTO"
            stream.codec_context.thread_count = torch.get_num_threads()
            yield container, stream


def _shown_pts(source: VideoSource, container: InputContainer, stream: VideoStream) -> Iterator[int]:
    """PTS of the presented frames, from the container's position on, in decoding order.

    Raises:
        BadVideo: no frame is presented, or one has no PTS.
    """
    key_pts: int | None = None
    shown = False
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            break
        except av.error.FFmpegError:
            break  # the file is cut off inside a packet: the packets before it are the video
        if packet.size == 0 or (key_pts is None and not packet.is_keyframe):
            continue
        if packet.pts is None:
            raise BadVideo(source.key, "no_timestamps", "its frames carry no times; remux it, e.g. to MP4")
        key_pts = packet.pts if key_pts is None else key_pts
        if packet.pts >= key_pts and not packet.is_discard:
            shown = True
            yield packet.pts
    if not shown:
        raise BadVideo(source.key, "damaged", "it shows no frame; the file was probably cut off, fetch it again")
