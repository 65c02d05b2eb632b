"""What a video is, measured from every packet and one decoded frame."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import ColorTrc
from av.video.stream import VideoStream
from numpy.typing import NDArray

from operators.video.packets import SECOND_US, PacketIndex, UnreadableVideo, decode, open_video, read_packets

LARGEST_FRAME_PIXELS = 100_000_000
"""A decoded frame of more pixels than this is taken for damage or an attack (16K video has 133 million, 8K 33)."""

_TRANSFERS: dict[int, str] = {
    ColorTrc.BT709: "bt709",
    ColorTrc.GAMMA22: "bt470m",
    ColorTrc.GAMMA28: "bt470bg",
    ColorTrc.SMPTE170M: "smpte170m",
    ColorTrc.SMPTE240M: "smpte240m",
    ColorTrc.LINEAR: "linear",
    ColorTrc.IEC61966_2_1: "iec61966-2-1",
    ColorTrc.BT2020_10: "bt2020-10",
    ColorTrc.BT2020_12: "bt2020-12",
    ColorTrc.SMPTE2084: "smpte2084",
    ColorTrc.ARIB_STD_B67: "arib-std-b67",
}
"""ffmpeg's names of the transfer characteristics that occur in files (ITU-T H.273, table 3)."""


@dataclass(frozen=True)
class VideoProbe:
    """A readable video."""

    path: Path
    index: PacketIndex
    video_stream: int
    """Its number in the container."""
    audio_stream: int | None
    fps: float
    """Mean frames per second."""
    variable_frame_rate: bool
    width: int
    """Displayed pixels: after rotation, with square pixels."""
    height: int
    rotation: int
    """Degrees clockwise that the display matrix asks for: 0, 90, 180 or 270."""
    codec: str
    pixel_format: str
    transfer: str
    """As ffmpeg names it (`bt709`, `smpte2084`, `arib-std-b67`), or `unknown`."""
    audio_codec: str
    """Empty without sound."""

    @property
    def duration_us(self) -> int:
        return self.index.duration_us

    @property
    def frame_count(self) -> int:
        return len(self.index.frame_times_us)


def probe(path: Path) -> VideoProbe:
    """Measure a local video.

    Raises:
        UnreadableVideo: a reason of `open_video` or `read_packets`, or `too_large`, `one_frame`, `damaged`.
    """
    with open_video(path) as (container, stream):
        _refuse_too_large(path, stream)
        index = read_packets(container, stream, path)
        if len(index.frame_times_us) < 2:
            raise UnreadableVideo(
                "one_frame", f"{path.name}: it has a single frame, so it is a picture; leave it out of the source"
            )
    with open_video(path) as (container, stream):
        first = _first_frame(path, container, stream, index)
        audio = main_audio_stream(container)
        width, height = displayed_size(first, stream)
        return VideoProbe(
            path=path,
            index=index,
            video_stream=stream.index,
            audio_stream=None if audio is None else audio.index,
            fps=len(index.frame_times_us) * SECOND_US / index.duration_us,
            variable_frame_rate=varies(index.frame_times_us, index.timeline.time_base),
            width=width,
            height=height,
            rotation=clockwise_rotation(first),
            codec=stream.codec_context.codec.canonical_name,
            pixel_format=first.format.name,
            transfer=_TRANSFERS.get(first.color_trc, "unknown"),
            audio_codec="" if audio is None else audio.codec_context.codec.canonical_name,
        )


def main_audio_stream(container: InputContainer) -> AudioStream | None:
    """The sound that goes with the video, if there is any that can be decoded."""
    stream = container.streams.best("audio")
    return stream if isinstance(stream, AudioStream) and stream.codec_context is not None else None


def clockwise_rotation(frame: VideoFrame) -> int:
    """Degrees clockwise to turn a frame before it is shown, to the nearest quarter turn: 0, 90, 180 or 270."""
    return round(-frame.rotation / 90) % 4 * 90


def displayed_size(frame: VideoFrame, stream: VideoStream) -> tuple[int, int]:
    """Width and height in square pixels, after rotation."""
    aspect = stream.sample_aspect_ratio or Fraction(1)
    width, height = round(frame.width * aspect), frame.height
    return (height, width) if clockwise_rotation(frame) in (90, 270) else (width, height)


def varies(times_us: NDArray[np.int64], time_base: Fraction) -> bool:
    """Do frames last differently long?

    A regular rate shows differences too once its times are rounded to a container's ticks (Matroska's are 1 ms), so a
    frame counts as irregular when it is off the usual step by more than a tenth of it and by more than one tick (of at
    most 1 ms: in coarser ticks a difference is a missing frame).
    """
    steps = np.diff(times_us)
    usual = float(np.median(steps))
    tick_us = min(1000.0, float(time_base * SECOND_US))
    return bool(np.abs(steps - usual).max() > max(usual / 10, tick_us + 1))


def _first_frame(path: Path, container: InputContainer, stream: VideoStream, index: PacketIndex) -> VideoFrame:
    first = next(decode(container, stream, index.timeline), None)
    if first is None:
        raise UnreadableVideo(
            "damaged",
            f"{path.name}: not one frame of its {stream.codec_context.name} video can be decoded; fetch it again",
        )
    return first[1]


def _refuse_too_large(path: Path, stream: VideoStream) -> None:
    width, height = stream.codec_context.width, stream.codec_context.height
    if width * height > LARGEST_FRAME_PIXELS:
        raise UnreadableVideo(
            "too_large",
            f"{path.name}: frames of {width}x{height} exceed {LARGEST_FRAME_PIXELS // 1_000_000} megapixels; "
            f"scale it down first",
        )
