"""Writes one clip of a video as an MP4 of its own: exactly its frames, at exactly their times, with their sound.

Clips are encoded anew, because a copy can only begin at a key frame: a copied clip starts early or shows frames of the
shot before to readers that ignore edit lists. One process for each clip costs no more CPU than one for all of them
with ffmpeg's segment muxer (6.9 against 8.3 s for a minute of 640x360), whose pieces do not start at 0 besides. What
was written is read back and compared before it counts. The same source and span give the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ffmpeg
import numpy as np
from numpy.typing import NDArray

from operators.video.ffmpeg import FfmpegError, file_url, run_ffmpeg
from operators.video.packets import SECOND_US, UnreadableVideo, open_video, read_packets
from operators.video.probe import VideoProbe, main_audio_stream

ENCODING = {
    "vcodec": "libx264",
    # A 10 s clip of 640x360 costs 0.8 CPU seconds with ultrafast and superfast, 1.5 with veryfast; superfast's file is
    # 30 % smaller than ultrafast's.
    "preset": "superfast",
    "crf": 20,
    "pix_fmt": "yuv420p",
    # Without B-frames decoding and presentation order agree, so that frames need no edit list to start at 0: readers
    # that ignore edit lists see the same frames.
    "bf": 0,
    # x264 gives the same bytes only for the same number of threads; stages work on one video per core anyway.
    "threads": 1,
    "fps_mode": "passthrough",
    "fflags": "+bitexact",
    "flags:v": "+bitexact",
    "map_metadata": -1,
    "map_chapters": -1,
    "movflags": "+faststart",
}
SOUND_ENCODING = {"acodec": "aac", "audio_bitrate": "128k", "flags:a": "+bitexact"}

TOLERANCE_US = 1000
"""Largest difference between a frame's time in clip and source: MP4's clock ticks at 10 kHz or faster."""


class CutError(RuntimeError):
    """A clip could not be written as planned; the message names the clip, what was expected and what came out."""


@dataclass(frozen=True)
class _Frames:
    """The source's frames that belong to the clip."""

    times_us: NDArray[np.int64]
    end_us: int
    """Where the last of them ends: the next frame's time, or the video's end."""

    @property
    def start_us(self) -> int:
        return int(self.times_us[0])

    @property
    def duration_us(self) -> int:
        return self.end_us - self.start_us


def cut_clip(video: VideoProbe, times_us: NDArray[np.int64], start_us: int, end_us: int, target: Path) -> None:
    """Write the frames that start in `[start_us, end_us)`, and their sound, to an MP4 file whose clock starts at 0.

    Args:
        times_us: all frame times of the video as decoding has shown them (`Analysis.times_us`).

    Raises:
        CutError: no frame starts in the span, ffmpeg failed, or the file is not what was asked for.
    """
    frames = _frames_in(times_us, video.duration_us, start_us, end_us)
    if frames is None:
        raise CutError(
            f"{target.stem}: no frame starts in [{start_us}, {end_us}) us of {video.path.name}; "
            f"use the span of the source"
        )
    try:
        run_ffmpeg(_specification(video, frames, start_us, end_us, target), _timeout_seconds(frames))
        _check(video, frames, target)
    except (FfmpegError, UnreadableVideo) as error:
        raise CutError(f"{target.stem}: cut from {video.path.name}: {error}") from error


def _frames_in(times_us: NDArray[np.int64], duration_us: int, start_us: int, end_us: int) -> _Frames | None:
    first, beyond = np.searchsorted(times_us, (start_us, end_us))
    if first == beyond:
        return None
    return _Frames(times_us[first:beyond], int(times_us[beyond]) if beyond < len(times_us) else duration_us)


def _specification(video: VideoProbe, frames: _Frames, start_us: int, end_us: int, target: Path) -> Any:
    """ffmpeg starts at a key frame before the clip and keeps the source's timestamps; filters cut by them, exactly."""
    index, timeline = video.index, video.index.timeline
    reading: dict[str, Any] = {"copyts": None, "noaccurate_seek": None, "seek_timestamp": 1, "threads": 1}
    if key_frame := index.key_frame(frames.start_us):
        reading["ss"] = f"{timeline.seconds(index.seek_target_us(key_frame)):.6f}"
    source = ffmpeg.input(file_url(video.path), **reading)
    picture = (
        source[str(video.video_stream)]
        .filter("trim", start_pts=timeline.pts(start_us), end_pts=timeline.pts(end_us))
        .filter("setpts", "PTS-STARTPTS")
        .filter("crop", "trunc(iw/2)*2", "trunc(ih/2)*2")  # 4:2:0 needs even sides
    )
    # Keep the source's ticks; by default the encoder would round times to those of a constant rate.
    encoding = {**ENCODING, "enc_time_base": f"{timeline.time_base.numerator}/{timeline.time_base.denominator}"}
    if video.audio_stream is None:
        return ffmpeg.output(picture, file_url(target), **encoding)
    start, duration = timeline.seconds(frames.start_us), frames.duration_us / SECOND_US
    sound = (
        source[str(video.audio_stream)]
        .filter("atrim", start=f"{start:.6f}", duration=f"{duration:.6f}")
        .filter("asetpts", f"PTS-{start:.6f}/TB")
        # Silence where the source has none, so that sound and picture start and end together.
        .filter("aresample", **{"async": 1, "first_pts": 0})
        .filter("apad")
        .filter("atrim", end=f"{duration:.6f}")
    )
    return ffmpeg.output(picture, sound, file_url(target), **encoding, **SOUND_ENCODING)


def _timeout_seconds(frames: _Frames) -> float:
    """Generous: a hundred times real time, and never less than two minutes."""
    return max(120.0, 100 * frames.duration_us / SECOND_US)


def _check(video: VideoProbe, frames: _Frames, target: Path) -> None:
    with open_video(target) as (container, stream):
        written = read_packets(container, stream, target)
        audio = main_audio_stream(container)
        sound_us = None if audio is None else float((audio.start_time or 0) * (audio.time_base or 0)) * SECOND_US
    expected = frames.times_us - frames.start_us
    if len(written.frame_times_us) != len(expected):
        raise CutError(
            f"{target.stem}: ffmpeg wrote {len(written.frame_times_us)} frames for a span of {len(expected)} frames of "
            f"{video.path.name}; its index and its content disagree, remux it"
        )
    begins_us = written.timeline.seconds(0) * SECOND_US
    drift_us = float(np.abs(written.frame_times_us + begins_us - expected).max())
    if drift_us > TOLERANCE_US:
        raise CutError(f"{target.stem}: frames are {drift_us:.0f} us off their times in {video.path.name}; remux it")
    if (sound_us is None) != (video.audio_stream is None):
        raise CutError(f"{target.stem}: {video.path.name} has sound but the clip has none; remux it")
    if sound_us is not None and abs(sound_us) > frames.duration_us / len(expected):
        raise CutError(f"{target.stem}: sound begins at {sound_us:.0f} us, more than a frame off; remux the source")
