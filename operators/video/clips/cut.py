"""Writes clips of a video as separate MP4 files with exactly the frames of a span, at exact times, with audio.

A clip is copied where its frames allow it: it begins at a key frame that needs no earlier frame and ends where no later
frame is needed. If that holds for most of the clip, only its edges are encoded. This is done for H.264 only, where
frames of another encoder can share a track with the source's. Otherwise the whole clip is encoded. Every written clip
is verified by reading and decoding it, and a copy that fails is encoded. No clip shows a frame from outside its span,
not even to readers that ignore edit lists. The same source and span give the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import av
import ffmpeg
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream
from numpy.typing import NDArray

from operators.video.clips.readback import (
    CutError,
    PlannedClip,
    WrittenClip,
    check_all_decoded,
    check_copied,
    check_edges,
    check_last_group,
    check_opencv,
    check_opencv_coded,
    check_times,
    decode_first_picture,
    source_thumbnails,
)
from operators.video.clips.remux import (
    COPIED_VIDEO,
    Coded,
    configuration,
    copyable_sound,
    longest_run,
    read_coded,
    write_mp4,
)
from operators.video.clips.sound import read_sound, write_sound
from operators.video.clips.splice import PROFILES, CannotJoin, free_set_id, join_configurations
from operators.video.decode.ffmpeg import CONFINEMENT, FfmpegError, file_url, raise_write_error, run_ffmpeg
from operators.video.decode.packets import UnreadableVideo, open_video, packets_of, sound_header
from operators.video.decode.probe import VideoProbe
from schemas.tables import Cut
from schemas.video.clock import SECOND_US

__all__ = ["CutError", "Cutter", "cut_clip", "encode_picture", "open_cutter"]

_COMMON = {
    # Without B-frames, decoding order and presentation order are the same, so the clip starts at 0 without an edit
    # list. Readers that ignore edit lists see the same frames.
    "bf": 0,
    # One key frame per second at the usual frame rate: readers of single frames decode less, and so does the
    # verification. One every two seconds would save 1 to 2 % of the bytes and no time.
    "g": 30,
    # Encoders give the same bytes only for the same number of threads. Stages process one video per core anyway.
    "threads": 1,
    "fps_mode": "passthrough",
    # Frames that ffmpeg decodes before the clip may have another size, to which it would scale the clip.
    "noautoscale": None,
    "fflags": "+bitexact",
    "flags:v": "+bitexact",
    "map_metadata": -1,
    "map_chapters": -1,
    "movflags": "+faststart",
}
ENCODING = {
    **_COMMON,
    "vcodec": "libx264",
    # A 10 s clip of 640x360 costs 0.8 CPU seconds with ultrafast and superfast, and 1.5 with veryfast. The file of
    # superfast is 30 % smaller than that of ultrafast.
    "preset": "superfast",
    "crf": 20,
    "pix_fmt": "yuv420p",
}
HDR_ENCODING = {
    **_COMMON,
    # HDR in H.264 would need its High 10 profile, which few decoders other than ffmpeg's support.
    "vcodec": "libx265",
    "preset": "superfast",
    "crf": 22,
    "pix_fmt": "yuv420p10le",
    "x265-params": "bframes=0:pools=none:frame-threads=1:log-level=error",
    "tag:v": "hvc1",
}
HDR_TRANSFERS = ("smpte2084", "arib-std-b67")
SOUND_ENCODING = {"acodec": "aac", "audio_bitrate": "128k", "flags:a": "+bitexact"}

SMALLEST_COPIED_SHARE = 0.5
"""Smallest share of copied frames for which the edges are encoded separately: each edge costs a process of its own."""


@dataclass(frozen=True)
class _Frames:
    """The source's frames that belong to a clip."""

    first: int
    """Index of the first frame in the source."""
    times_us: NDArray[np.int64]
    end_us: int
    """End of the last frame: the next frame's time, or the end of the video."""
    video: VideoProbe
    """The source, described in the format of these frames, or in its main format if they have several."""
    one_format: bool = True

    @property
    def start_us(self) -> int:
        return int(self.times_us[0])

    @property
    def beyond(self) -> int:
        return self.first + len(self.times_us)

    @property
    def duration_us(self) -> int:
        return self.end_us - self.start_us

    def parts_around(self, run: Coded) -> list[_Part]:
        """The frames of the clip before and after a copied run, without empty parts."""
        bounds = (0, run.first), (run.beyond, len(self.times_us))
        ends_us = [*self.times_us.tolist(), self.end_us]
        return [
            _Part(first, _Frames(self.first + first, self.times_us[first:beyond], ends_us[beyond], self.video))
            for first, beyond in bounds
            if first < beyond
        ]


@dataclass(frozen=True)
class _Part:
    """A part of a clip's frames."""

    first: int
    """Index of the first frame in the clip."""
    frames: _Frames


@dataclass(frozen=True)
class _Edge:
    """Encoded frames before or after a copied run."""

    coded: Coded
    extradata: bytes


def cut_clip(video: VideoProbe, times_us: NDArray[np.int64], start_us: int, end_us: int, target: Path) -> Cut:
    """Write one clip as `Cutter.cut` does. Use `open_cutter` for several clips of one video."""
    with open_cutter(video, times_us) as cutter:
        return cutter.cut(start_us, end_us, target)


@contextmanager
def open_cutter(
    video: VideoProbe, times_us: NDArray[np.int64], damaged_us: NDArray[np.int64] | None = None
) -> Iterator[Cutter]:
    """Open a video to cut clips from it.

    Clips are best cut in order of time, because neighbours share the frames decoded between them.

    Args:
        times_us: all frame times of the video according to the decode (`Analysis.times_us`).
        damaged_us: times of the frames that the decode found damaged (`Analysis.damaged_us`). Clips with such frames
            are encoded, and the end of a copy need not be decoded to verify it. None if not every frame has been
            decoded.

    Raises:
        UnreadableVideo: the file cannot be opened.
    """
    with ExitStack() as stack:
        # One each for copying, decoding and audio: a demuxer reports a change of the decoder configuration only once.
        sources = [stack.enter_context(open_video(video.path)) for _ in range(3)]
        for _, stream in sources:
            stream.codec_context.thread_count = 1
        packet_source, picture_source, (sound_container, _) = sources
        yield Cutter(video, times_us, damaged_us, packet_source, picture_source, sound_container)


class Cutter:
    """Cuts clips from one open video.

    Args:
        packet_source: container and video stream from which coded frames are copied.
        picture_source: container and video stream from which frames are decoded for comparison.
        sound_container: container from which audio is decoded.
    """

    def __init__(
        self,
        video: VideoProbe,
        times_us: NDArray[np.int64],
        damaged_us: NDArray[np.int64] | None,
        packet_source: tuple[InputContainer, VideoStream],
        picture_source: tuple[InputContainer, VideoStream],
        sound_container: InputContainer,
    ) -> None:
        self._video = video
        self._times_us = times_us
        self._damaged_us = damaged_us
        self._container, self._stream = packet_source
        self._picture_source = picture_source
        self._audio = (
            None if video.audio_stream is None else cast(AudioStream, packet_source[0].streams[video.audio_stream])
        )
        self._sound_container = sound_container
        self._sound_header: bytes | None = None
        self._extradata = bytes(self._stream.codec_context.extradata or b"")
        self._decoded_by_opencv: set[bytes] = set()
        self._boundary = -1
        self._thumbnails: dict[int, NDArray[np.uint8]] = {}

    def cut(self, start_us: int, end_us: int, target: Path) -> Cut:
        """Write the frames that start in `[start_us, end_us)`, with their audio, to an MP4 whose clock starts at 0.

        Returns:
            How the clip was made: never `Cut.NONE`.

        Raises:
            CutError: no frame starts in the span, ffmpeg failed, or the written clip fails its verification.
            OSError: the disk is full, an input cannot be read, or ffmpeg was killed by another process.
        """
        frames = self._frames_in(start_us, end_us)
        if frames is None:
            raise CutError(
                f"{target.stem}: no frame starts in [{start_us}, {end_us}) us of {self._video.path.name}; "
                f"use the span of the source"
            )
        try:
            if self._may_be_copied(frames) and (how := self._copy(frames, target)):
                return how
            self._encode(frames, target)
        except (FfmpegError, UnreadableVideo, av.error.FFmpegError) as error:
            raise_write_error(error)
            raise CutError(f"{target.stem}: cut from {self._video.path.name}: {error}") from error
        return Cut.ENCODE

    def _frames_in(self, start_us: int, end_us: int) -> _Frames | None:
        first, beyond = (int(number) for number in np.searchsorted(self._times_us, (start_us, end_us)))
        if first == beyond:
            return None
        following_us = int(self._times_us[beyond]) if beyond < len(self._times_us) else self._video.duration_us
        times_us, starts_us = self._times_us[first:beyond], [each.start_us for each in self._video.formats]
        of_first, of_last = np.searchsorted(starts_us, (times_us[0], times_us[-1]), side="right").tolist()
        if of_first != of_last:
            return _Frames(first, times_us, following_us, self._video, one_format=False)
        return _Frames(first, times_us, following_us, self._video.in_format(self._video.formats[of_first - 1]))

    def _may_be_copied(self, frames: _Frames) -> bool:
        damaged = self._damaged_us is not None and bool(np.isin(frames.times_us, self._damaged_us).any())
        # The track's header is made from the stream's. For a later format, only these two codecs are supported.
        codecs = COPIED_VIDEO if frames.video.in_format(self._video.formats[0]) == frames.video else ("h264", "hevc")
        return frames.one_format and not damaged and frames.video.codec in codecs

    def _stated_configuration(self, frames: _Frames) -> bytes | None:
        """The decoder configuration that the container states for these frames; None if it changes within them."""
        index = self._video.index
        numbers = index.frame_packets[slice(*np.searchsorted(index.frame_times_us, (frames.start_us, frames.end_us)))]
        first, last = (index.packets.configuration(int(end), self._extradata) for end in (min(numbers), max(numbers)))
        return first if first == last else None

    def _encode(self, frames: _Frames, target: Path) -> None:
        picture = _rotate_upright(frames.video, _trimmed_picture(_source_input(frames), frames))
        outputs = [picture if frames.one_format else _scale_to_one_size(frames.video, picture)]
        encoding = _encoder_options(frames.video)
        with TemporaryDirectory(dir=target.parent) as folder:
            if self._audio is not None:
                outputs.append(self._sound_input(frames, Path(folder)))
                encoding |= SOUND_ENCODING
            run_ffmpeg(ffmpeg.output(*outputs, file_url(target), **encoding), _timeout_seconds(frames))
        written = check_times(target, self._planned_clip(frames))
        check_edges(target, written, *self._neighbour_thumbnails(frames))
        self._check_in_opencv(target, written)

    def _copy(self, frames: _Frames, target: Path) -> Cut | None:
        """Copy all or most of the clip.

        Returns:
            How the clip was made; None if copying is impossible or fails the verification, so that it must be encoded.
        """
        timeline, codec = self._video.index.timeline, self._video.codec
        try:
            span_us = frames.start_us, frames.end_us
            pictures, sounds = read_coded(self._container, self._stream, self._audio, self._video.index, span_us)
            header = self._stated_configuration(frames)
            run = None if header is None else longest_run(pictures, timeline, frames.times_us, codec, header)
            if header is None or run is None:
                return None
            extradata = configuration(bytes(run.packets[0]), codec, header)
            assert extradata is not None  # otherwise no run would begin there
            is_stated = extradata == self._extradata
            if not self._is_worth_copying(run, frames, is_stated):
                return None
            shape = None if is_stated else decode_first_picture(run, codec, extradata)
            pts = [timeline.pts(int(time_us)) for time_us in frames.times_us]
            with TemporaryDirectory(dir=target.parent) as folder:
                edges = [self._encode_edge(part, Path(folder)) for part in frames.parts_around(run)]
                pieces = sorted([run, *(edge.coded for edge in edges)], key=lambda piece: piece.first)
                whole = join_configurations(extradata, [edge.extradata for edge in edges]) if edges else extradata
                with self._copy_or_encode_sound(sounds, frames, Path(folder)) as sound:
                    end_pts = timeline.pts(frames.end_us)
                    write_mp4(
                        target, self._stream, pieces, pts, end_pts, *sound, whole, shape, frames.video.sample_aspect
                    )
            self._check_copy(target, frames, run, extradata)
        except (CutError, CannotJoin, FfmpegError, av.error.FFmpegError) as error:
            raise_write_error(error)
            return None
        return Cut.SMART if edges else Cut.COPY

    def _is_worth_copying(self, run: Coded, frames: _Frames, is_stated: bool) -> bool:
        """Whether the run is the whole clip, or most of it in the configuration that the stream's header states.

        A partial copy also needs H.264 in the pixel format and in one of the profiles that the encoder can write.
        """
        share = len(run.packets) / len(frames.times_us)
        return share == 1 or (
            share >= SMALLEST_COPIED_SHARE
            and is_stated
            and frames.video.codec == "h264"
            and frames.video.pixel_format == ENCODING["pix_fmt"]
            and self._stream.codec_context.profile in PROFILES
        )

    def _encode_edge(self, part: _Part, folder: Path) -> _Edge:
        """Encode the frames before or after a copied run so that they can share its track."""
        target = folder / f"{part.first}.mp4"
        source = _source_input(part.frames)
        encoding = {
            **_encoder_options(part.frames.video),
            "profile:v": PROFILES[self._stream.codec_context.profile or ""],
            "x264-params": f"sps-id={free_set_id(self._extradata)}",
        }
        picture = _trimmed_picture(source, part.frames)
        run_ffmpeg(ffmpeg.output(picture, file_url(target), **encoding), _timeout_seconds(part.frames))
        with open_video(target) as (container, stream):
            packets = [packet for packet in container.demux(stream) if packet.size]
            if len(packets) != len(part.frames.times_us):
                raise CutError(f"{self._video.path.name}: {len(packets)} of {len(part.frames.times_us)} frames encoded")
            ranks = list(range(part.first, part.first + len(packets)))
            return _Edge(Coded(packets, ranks), bytes(stream.codec_context.extradata or b""))

    @contextmanager
    def _copy_or_encode_sound(
        self, sounds: list[Packet], frames: _Frames, folder: Path
    ) -> Iterator[tuple[AudioStream | None, list[Packet]]]:
        """Yield the audio of a clip with copied video; the stream is None without audio.

        The audio is copied where possible. It is encoded where it does not begin with the video, has gaps, or does not
        match the stream's header.
        """
        if self._audio is None:
            yield None, []
            return
        timeline, span_us = self._video.index.timeline, (frames.start_us, frames.end_us)
        frame_us = frames.duration_us / len(frames.times_us)
        copies = copyable_sound(sounds, self._video.audio_codec, timeline, span_us, frame_us)
        if copies and self._matches_header(copies):
            yield self._audio, copies
            return
        encoded = folder / "sound.m4a"
        sound = self._sound_input(frames, folder)
        bitexact = {"fflags": "+bitexact", "map_metadata": -1}
        run_ffmpeg(ffmpeg.output(sound, file_url(encoded), **SOUND_ENCODING, **bitexact), _timeout_seconds(frames))
        with av.open(file_url(encoded), "r", container_options=CONFINEMENT) as container:
            stream = container.streams.audio[0]
            # Packets of the encoder before 0 only fill its window; an edit list would have to hide them.
            yield stream, [packet for packet in container.demux(stream) if packet.size and (packet.pts or 0) >= 0]

    def _matches_header(self, sounds: list[Packet]) -> bool:
        """Whether these packets match the stream's header in sample rate, channels and configuration."""
        assert self._audio is not None
        if self._video.index.audio[self._audio.index].configurations:
            return False
        if self._sound_header is None:
            first = next(
                packet
                for packet in packets_of(self._sound_container, [self._sound_container.streams[self._audio.index]])
            )
            self._sound_header = sound_header(first, self._video.audio_codec)
        return all(sound_header(packet, self._video.audio_codec) == self._sound_header for packet in sounds)

    def _sound_input(self, frames: _Frames, folder: Path) -> Any:
        """The clip's audio as an ffmpeg input to encode."""
        assert self._audio is not None
        stream = self._sound_container.streams[self._audio.index]
        assert isinstance(stream, AudioStream)
        samples, rate = read_sound(self._sound_container, stream, self._video.index, (frames.start_us, frames.end_us))
        write_sound(samples, rate, folder / "sound.mov")
        return ffmpeg.input(file_url(folder / "sound.mov"))["a:0"]

    def _check_copy(self, target: Path, frames: _Frames, run: Coded, extradata: bytes) -> None:
        codec = self._video.codec
        written = check_times(target, self._planned_clip(frames))
        check_copied(target, written, run, codec, extradata)
        if len(run.packets) == len(frames.times_us):
            if self._damaged_us is None:
                check_last_group(target, written, codec)
        else:
            check_all_decoded(target, written, codec)
            check_edges(target, written, *self._neighbour_thumbnails(frames))
        self._check_in_opencv(target, written)

    def _check_in_opencv(self, target: Path, written: WrittenClip) -> None:
        """Check the clip in OpenCV, with a decode only for parameter sets that it has not decoded before.

        Opening a file in OpenCV takes a third of the time that decoding the first frame takes, and each source has few
        parameter sets.
        """
        if written.extradata in self._decoded_by_opencv:
            check_opencv_coded(target, written)
        else:
            check_opencv(target, written)
            self._decoded_by_opencv.add(written.extradata)

    def _planned_clip(self, frames: _Frames) -> PlannedClip:
        times_us = frames.times_us - frames.start_us
        return PlannedClip(self._video.path.name, times_us, frames.duration_us, sound=self._audio is not None)

    def _neighbour_thumbnails(
        self, frames: _Frames
    ) -> tuple[dict[int, NDArray[np.uint8]], dict[int, NDArray[np.uint8]]]:
        """Thumbnails of the source's first and last frame of a clip and of their neighbours, by offset."""
        first, last = self._boundary_thumbnails(frames.first), self._boundary_thumbnails(frames.beyond)
        return (
            {number - frames.first: first[number] for number in first if abs(number - frames.first) <= 1},
            {number - frames.beyond + 1: last[number] for number in last if abs(number - frames.beyond + 1) <= 1},
        )

    def _boundary_thumbnails(self, boundary: int) -> dict[int, NDArray[np.uint8]]:
        """Thumbnails of two frames before a boundary and two from it on, by frame index.

        They are cached, because the end of a clip is usually the start of the next one.
        """
        if self._boundary != boundary:
            numbers = range(max(0, boundary - 2), min(boundary + 2, len(self._times_us)))
            times_us = self._times_us[numbers.start : numbers.stop]
            pictures = source_thumbnails(*self._picture_source, self._video.index, times_us)
            self._boundary, self._thumbnails = boundary, dict(zip(numbers, pictures, strict=True))
        return self._thumbnails


def encode_picture(video: VideoProbe, target: Path) -> None:
    """Encode a whole video as a clip is encoded, without audio: upright, from 0 on, in one size.

    Raises:
        FfmpegError: ffmpeg failed.
    """
    frames = _Frames(0, video.index.frame_times_us, video.duration_us, video, one_format=len(video.formats) == 1)
    picture = _rotate_upright(video, _trimmed_picture(_source_input(frames), frames))
    # After a rotation, wide pixels become tall ones. Readers that only stretch the width would show a smaller picture.
    if not frames.one_format or (video.orientation.swaps_sides and video.sample_aspect != 1):
        picture = _scale_to_one_size(video, picture)
    run_ffmpeg(ffmpeg.output(picture, file_url(target), **_encoder_options(video)), _timeout_seconds(frames))


def _encoder_options(video: VideoProbe) -> dict[str, Any]:
    """Encoder options. The source's time base is kept; by default times are rounded to the ticks of a constant rate."""
    time_base = video.index.timeline.time_base
    encoding = HDR_ENCODING if video.transfer in HDR_TRANSFERS else ENCODING
    return {**encoding, "enc_time_base": f"{time_base.numerator}/{time_base.denominator}"}


def _source_input(frames: _Frames) -> Any:
    """The source as an ffmpeg input that starts at a key frame before the clip and keeps the source's timestamps.

    Filters use these timestamps to trim exactly.
    """
    index = frames.video.index
    reading: dict[str, Any] = {"copyts": None, "noaccurate_seek": None, "seek_timestamp": 1, "threads": 1}
    reading["noautorotate"] = None  # autorotation would rotate by any angle and crop the corners
    if key_frame := index.key_frame(frames.start_us):
        reading["ss"] = f"{index.timeline.seconds(index.seek_target_us(key_frame)):.6f}"
    return ffmpeg.input(file_url(frames.video.path), **reading)


def _trimmed_picture(source: Any, frames: _Frames) -> Any:
    """The clip's frames as an ffmpeg stream.

    For a video of one format, `STARTPTS` is the best origin, because ffmpeg's demuxers may give slightly other ticks
    than PyAV's. With several formats, ffmpeg re-creates the filters at each change, and `STARTPTS` would change too.
    """
    video = frames.video
    start_pts, end_pts = (video.index.timeline.pts(time_us) for time_us in (frames.start_us, frames.end_us))
    picture = (
        source[str(video.video_stream)]
        .filter("trim", start_pts=start_pts, end_pts=end_pts)
        .filter("setpts", "PTS-STARTPTS" if len(video.formats) == 1 else f"PTS-{start_pts}")
        .filter("crop", "trunc(iw/2)*2", "trunc(ih/2)*2")  # 4:2:0 needs even sides
    )
    if len(video.formats) > 1 and frames.one_format:  # ffmpeg keeps the aspect ratio of its first frame
        picture = picture.filter("setsar", str(video.sample_aspect))
    return picture


def _rotate_upright(video: VideoProbe, picture: Any) -> Any:
    """Rotate and mirror the frames as the display matrix requires.

    The matrix is then removed so that readers do not apply it again.
    """
    for name, *arguments in video.orientation.filters:
        picture = picture.filter(name, *arguments)
    return picture.filter("sidedata", mode="delete", type="DISPLAYMATRIX")


def _scale_to_one_size(video: VideoProbe, picture: Any) -> Any:
    """Scale frames of several formats to square pixels and pad them, centred on black, to the size of the video."""
    width, height = video.width // 2 * 2, video.height // 2 * 2
    return (
        picture.filter("scale", "max(2,trunc(iw*sar/2)*2)", "ih")
        .filter("setsar", 1)
        .filter("scale", width, height, force_original_aspect_ratio="decrease", force_divisible_by=2)
        .filter("pad", width, height, -1, -1)
    )


def _timeout_seconds(frames: _Frames) -> float:
    """Time limit: the longest of two minutes, a hundred times the clip's duration and three seconds a megapixel.

    The slowest encoder, x265 in one thread on noisy 10-bit frames, was measured at 1.03 CPU seconds a megapixel.
    """
    megapixels = len(frames.times_us) * frames.video.width * frames.video.height / 1e6
    return max(120.0, 100 * frames.duration_us / SECOND_US, 3 * megapixels)
