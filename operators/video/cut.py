"""Writes clips of a video as MP4 files of their own: exactly its frames, at exactly their times, with their sound.

A clip is copied where its frames allow it, that is where it begins at a key frame that needs nothing before it and ends
where none after it is needed. Where most of it allows that, only its edges are encoded (H.264 alone: another encoder's
pictures can stand beside the source's in one track). Else all of it is encoded. Whatever was written is proved by
reading and decoding before it counts, and a copy that fails is encoded. No written clip shows a frame from outside its
span, not even to readers that ignore edit lists. The same source and span give the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
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

from operators.video.ffmpeg import CONFINEMENT, FfmpegError, file_url, run_ffmpeg
from operators.video.packets import SECOND_US, UnreadableVideo, open_video
from operators.video.probe import VideoProbe
from operators.video.proof import (
    CutError,
    Planned,
    Written,
    check_all_decoded,
    check_copied,
    check_edges,
    check_last_group,
    check_opencv,
    check_opencv_coded,
    check_times,
    source_thumbnails,
)
from operators.video.remux import COPIED_VIDEO, Coded, copyable_sound, longest_run, read_coded, write_mp4
from operators.video.splice import PROFILES, CannotJoin, free_number, joined
from schemas.tables import Cut

__all__ = ["CutError", "Cutter", "cut_clip", "open_cutter"]

_COMMON = {
    # Without B-frames decoding and presentation order agree, so that frames need no edit list to start at 0: readers
    # that ignore edit lists see the same frames.
    "bf": 0,
    # A key frame a second at the usual rate: what reads single frames decodes less, the proof too. Every two seconds
    # would save 1 to 2 % of the bytes and no time.
    "g": 30,
    # Encoders give the same bytes only for the same number of threads; stages work on one video per core anyway.
    "threads": 1,
    "fps_mode": "passthrough",
    "fflags": "+bitexact",
    "flags:v": "+bitexact",
    "map_metadata": -1,
    "map_chapters": -1,
    "movflags": "+faststart",
}
ENCODING = {
    **_COMMON,
    "vcodec": "libx264",
    # A 10 s clip of 640x360 costs 0.8 CPU seconds with ultrafast and superfast, 1.5 with veryfast; superfast's file is
    # 30 % smaller than ultrafast's.
    "preset": "superfast",
    "crf": 20,
    "pix_fmt": "yuv420p",
}
HDR_ENCODING = {
    **_COMMON,
    # HDR in H.264 would need its High 10 profile, which hardly anything but ffmpeg decodes.
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
"""Edges are encoded apart only where at least this share of the frames is copied: each costs a process of its own."""


@dataclass(frozen=True)
class _Frames:
    """The source's frames that belong to the clip."""

    first: int
    """Number of the first of them among all frames of the source."""
    times_us: NDArray[np.int64]
    end_us: int
    """Where the last of them ends: the next frame's time, or the video's end."""

    @property
    def start_us(self) -> int:
        return int(self.times_us[0])

    @property
    def beyond(self) -> int:
        return self.first + len(self.times_us)

    @property
    def duration_us(self) -> int:
        return self.end_us - self.start_us

    def around(self, run: Coded) -> list[_Part]:
        """The frames before and after a copied run."""
        bounds = (0, run.first), (run.beyond, len(self.times_us))
        ends_us = [*self.times_us.tolist(), self.end_us]
        return [
            _Part(first, _Frames(self.first + first, self.times_us[first:beyond], ends_us[beyond]))
            for first, beyond in bounds
            if first < beyond
        ]


@dataclass(frozen=True)
class _Part:
    """Some of a clip's frames."""

    first: int
    """Number of the first of them in the clip."""
    frames: _Frames


@dataclass(frozen=True)
class _Edge:
    """Encoded frames beside a copied run."""

    coded: Coded
    extradata: bytes


def cut_clip(video: VideoProbe, times_us: NDArray[np.int64], start_us: int, end_us: int, target: Path) -> Cut:
    """Write one clip as `Cutter.cut` does. Use `open_cutter` for several of one video."""
    with open_cutter(video, times_us) as cutter:
        return cutter.cut(start_us, end_us, target)


@contextmanager
def open_cutter(
    video: VideoProbe, times_us: NDArray[np.int64], damaged_us: NDArray[np.int64] | None = None
) -> Iterator[Cutter]:
    """Holds a video open to cut clips from it, best in order of time: neighbours share what is decoded between them.

    Args:
        times_us: all frame times of the video as decoding has shown them (`Analysis.times_us`).
        damaged_us: times of those that decoding has shown damaged (`Analysis.damaged_us`): clips with such frames are
            encoded, and the end of a copy need not be decoded to prove it. None if not every frame has been decoded.

    Raises:
        UnreadableVideo: the file cannot be opened.
    """
    with open_video(video.path) as (container, stream):
        stream.codec_context.thread_count = 1
        yield Cutter(video, times_us, damaged_us, container, stream)


class Cutter:
    """Cuts clips from one open video."""

    def __init__(
        self,
        video: VideoProbe,
        times_us: NDArray[np.int64],
        damaged_us: NDArray[np.int64] | None,
        container: InputContainer,
        stream: VideoStream,
    ) -> None:
        self._video = video
        self._times_us = times_us
        self._damaged_us = damaged_us
        self._container = container
        self._stream = stream
        self._audio = None if video.audio_stream is None else cast(AudioStream, container.streams[video.audio_stream])
        self._extradata = bytes(stream.codec_context.extradata or b"")
        self._decoded_by_opencv: set[bytes] = set()
        self._boundary = -1
        self._thumbnails: dict[int, NDArray[np.uint8]] = {}

    def cut(self, start_us: int, end_us: int, target: Path) -> Cut:
        """Write the frames that start in `[start_us, end_us)`, and their sound, to an MP4 whose clock starts at 0.

        Returns:
            How the file came to be: never `Cut.NONE`.

        Raises:
            CutError: no frame starts in the span, ffmpeg failed, or the file is not what was asked for.
        """
        frames = self._frames_in(start_us, end_us)
        if frames is None:
            raise CutError(
                f"{target.stem}: no frame starts in [{start_us}, {end_us}) us of {self._video.path.name}; "
                f"use the span of the source"
            )
        try:
            may_be_copied = self._video.codec in COPIED_VIDEO and not self._is_damaged(frames)
            if may_be_copied and (how := self._copy(frames, target)):
                return how
            self._encode(frames, target)
        except (FfmpegError, UnreadableVideo, av.error.FFmpegError) as error:
            raise CutError(f"{target.stem}: cut from {self._video.path.name}: {error}") from error
        return Cut.ENCODE

    def _frames_in(self, start_us: int, end_us: int) -> _Frames | None:
        first, beyond = (int(number) for number in np.searchsorted(self._times_us, (start_us, end_us)))
        if first == beyond:
            return None
        following_us = int(self._times_us[beyond]) if beyond < len(self._times_us) else self._video.duration_us
        return _Frames(first, self._times_us[first:beyond], following_us)

    def _is_damaged(self, frames: _Frames) -> bool:
        return self._damaged_us is not None and bool(np.isin(frames.times_us, self._damaged_us).any())

    def _encode(self, frames: _Frames, target: Path) -> None:
        source = _input(self._video, frames)
        outputs = [_upright(self._video, _picture(self._video, source, frames))]
        encoding = _encoding(self._video)
        if self._audio is not None:
            outputs.append(_sound(self._video, source, frames))
            encoding |= SOUND_ENCODING
        run_ffmpeg(ffmpeg.output(*outputs, file_url(target), **encoding), _timeout_seconds(frames))
        written = check_times(target, self._planned(frames))
        check_edges(target, written, *self._neighbours(frames))
        self._prove_in_opencv(target, written)

    def _copy(self, frames: _Frames, target: Path) -> Cut | None:
        """Copy all of the clip, or most of it. None where that cannot be done or not be proved: encode it then."""
        timeline, codec = self._video.index.timeline, self._video.codec
        try:
            span_us = frames.start_us, frames.end_us
            pictures, sounds = read_coded(self._container, self._stream, self._audio, self._video.index, span_us)
            run = longest_run(pictures, timeline, frames.times_us, codec, self._extradata)
            if run is None or not self._is_worth_copying(run, frames):
                return None
            pts = [timeline.pts(int(time_us)) for time_us in frames.times_us]
            with TemporaryDirectory(dir=target.parent) as folder:
                edges = [self._encoded(part, Path(folder)) for part in frames.around(run)]
                pieces = sorted([run, *(edge.coded for edge in edges)], key=lambda piece: piece.first)
                extradata = joined(self._extradata, [edge.extradata for edge in edges]) if edges else None
                with self._sound_beside(sounds, frames, Path(folder)) as sound:
                    write_mp4(target, self._stream, pieces, pts, timeline.pts(frames.end_us), *sound, extradata)
            self._prove_copy(target, frames, run)
        except (CutError, CannotJoin, FfmpegError, av.error.FFmpegError):
            return None
        return Cut.SMART if edges else Cut.COPY

    def _is_worth_copying(self, run: Coded, frames: _Frames) -> bool:
        share = len(run.packets) / len(frames.times_us)
        return share == 1 or (
            share >= SMALLEST_COPIED_SHARE
            and self._video.codec == "h264"
            and self._video.pixel_format == ENCODING["pix_fmt"]
            and self._stream.codec_context.profile in PROFILES
        )

    def _encoded(self, part: _Part, folder: Path) -> _Edge:
        """Encode the frames beside a copied run so that they can stand in its track."""
        target = folder / f"{part.first}.mp4"
        source = _input(self._video, part.frames)
        encoding = {
            **_encoding(self._video),
            "profile:v": PROFILES[self._stream.codec_context.profile or ""],
            "x264-params": f"sps-id={free_number(self._extradata)}",
        }
        picture = _picture(self._video, source, part.frames)
        run_ffmpeg(ffmpeg.output(picture, file_url(target), **encoding), _timeout_seconds(part.frames))
        with open_video(target) as (container, stream):
            packets = [packet for packet in container.demux(stream) if packet.size]
            if len(packets) != len(part.frames.times_us):
                raise CutError(f"{self._video.path.name}: {len(packets)} of {len(part.frames.times_us)} frames encoded")
            ranks = list(range(part.first, part.first + len(packets)))
            return _Edge(Coded(packets, ranks), bytes(stream.codec_context.extradata or b""))

    @contextmanager
    def _sound_beside(
        self, sounds: list[Packet], frames: _Frames, folder: Path
    ) -> Iterator[tuple[AudioStream | None, list[Packet]]]:
        """The sound of a copied picture: copied too, or encoded where it does not begin with it or has gaps."""
        if self._audio is None:
            yield None, []
            return
        timeline, span_us = self._video.index.timeline, (frames.start_us, frames.end_us)
        frame_us = frames.duration_us / len(frames.times_us)
        if copies := copyable_sound(sounds, self._video.audio_codec, timeline, span_us, frame_us):
            yield self._audio, copies
            return
        encoded = folder / "sound.m4a"
        sound = _sound(self._video, _input(self._video, frames), frames)
        bitexact = {"fflags": "+bitexact", "map_metadata": -1}
        run_ffmpeg(ffmpeg.output(sound, file_url(encoded), **SOUND_ENCODING, **bitexact), _timeout_seconds(frames))
        with av.open(file_url(encoded), "r", container_options=CONFINEMENT) as container:
            stream = container.streams.audio[0]
            # What the encoder puts before 0 only fills its window; an edit list would have to hide it.
            yield stream, [packet for packet in container.demux(stream) if packet.size and (packet.pts or 0) >= 0]

    def _prove_copy(self, target: Path, frames: _Frames, run: Coded) -> None:
        codec = self._video.codec
        written = check_times(target, self._planned(frames))
        check_copied(target, written, run, codec, self._extradata)
        if len(run.packets) == len(frames.times_us):
            if self._damaged_us is None:
                check_last_group(target, written, codec)
        else:
            check_all_decoded(target, written, codec)
            check_edges(target, written, *self._neighbours(frames))
        self._prove_in_opencv(target, written)

    def _prove_in_opencv(self, target: Path, written: Written) -> None:
        """Opening is a third of what decoding the first frame costs there, and each source has few parameter sets."""
        if written.extradata in self._decoded_by_opencv:
            check_opencv_coded(target, written)
        else:
            check_opencv(target, written)
            self._decoded_by_opencv.add(written.extradata)

    def _planned(self, frames: _Frames) -> Planned:
        times_us = frames.times_us - frames.start_us
        return Planned(self._video.path.name, times_us, frames.duration_us, sound=self._audio is not None)

    def _neighbours(self, frames: _Frames) -> tuple[dict[int, NDArray[np.uint8]], dict[int, NDArray[np.uint8]]]:
        """Thumbnails of the source's first and last frame of a clip and of their neighbours, by distance."""
        first, last = self._around(frames.first), self._around(frames.beyond)
        return (
            {number - frames.first: first[number] for number in first if abs(number - frames.first) <= 1},
            {number - frames.beyond + 1: last[number] for number in last if abs(number - frames.beyond + 1) <= 1},
        )

    def _around(self, boundary: int) -> dict[int, NDArray[np.uint8]]:
        """Two frames before a boundary and two from it on, by number. A clip's end is mostly the next one's start."""
        if self._boundary != boundary:
            numbers = range(max(0, boundary - 2), min(boundary + 2, len(self._times_us)))
            times_us = self._times_us[numbers.start : numbers.stop]
            pictures = source_thumbnails(self._container, self._stream, self._video.index, times_us)
            self._boundary, self._thumbnails = boundary, dict(zip(numbers, pictures, strict=True))
        return self._thumbnails


def _encoding(video: VideoProbe) -> dict[str, Any]:
    """Options of the encoder. The source's ticks are kept; by default times are rounded to those of a constant rate."""
    time_base = video.index.timeline.time_base
    encoding = HDR_ENCODING if video.transfer in HDR_TRANSFERS else ENCODING
    return {**encoding, "enc_time_base": f"{time_base.numerator}/{time_base.denominator}"}


def _input(video: VideoProbe, frames: _Frames) -> Any:
    """ffmpeg starts at a key frame before the clip and keeps the source's timestamps; filters cut by them, exactly."""
    index = video.index
    reading: dict[str, Any] = {"copyts": None, "noaccurate_seek": None, "seek_timestamp": 1, "threads": 1}
    reading["noautorotate"] = None  # it would turn by any angle, and cut the corners off
    if key_frame := index.key_frame(frames.start_us):
        reading["ss"] = f"{index.timeline.seconds(index.seek_target_us(key_frame)):.6f}"
    return ffmpeg.input(file_url(video.path), **reading)


def _picture(video: VideoProbe, source: Any, frames: _Frames) -> Any:
    timeline = video.index.timeline
    return (
        source[str(video.video_stream)]
        .filter("trim", start_pts=timeline.pts(frames.start_us), end_pts=timeline.pts(frames.end_us))
        .filter("setpts", "PTS-STARTPTS")
        .filter("crop", "trunc(iw/2)*2", "trunc(ih/2)*2")  # 4:2:0 needs even sides
    )


def _upright(video: VideoProbe, picture: Any) -> Any:
    """Turned and mirrored as the display matrix asks, which then must not be asked again."""
    for name, *arguments in video.orientation.filters:
        picture = picture.filter(name, *arguments)
    return picture.filter("sidedata", mode="delete", type="DISPLAYMATRIX")


def _sound(video: VideoProbe, source: Any, frames: _Frames) -> Any:
    start, duration = video.index.timeline.seconds(frames.start_us), frames.duration_us / SECOND_US
    return (
        source[str(video.audio_stream)]
        .filter("atrim", start=f"{start:.6f}", duration=f"{duration:.6f}")
        .filter("asetpts", f"PTS-{start:.6f}/TB")
        # Silence where the source has none, so that sound and picture start and end together.
        .filter("aresample", **{"async": 1, "first_pts": 0})
        .filter("apad")
        .filter("atrim", end=f"{duration:.6f}")
    )


def _timeout_seconds(frames: _Frames) -> float:
    """Generous: a hundred times real time, and never less than two minutes."""
    return max(120.0, 100 * frames.duration_us / SECOND_US)
