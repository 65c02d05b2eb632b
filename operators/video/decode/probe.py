"""Properties of a video, measured from all its packets and one decoded frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import ColorPrimaries, ColorTrc
from av.video.stream import VideoStream
from numpy.typing import NDArray

from operators.video.decode.packets import (
    PacketIndex,
    UnreadableVideo,
    decode,
    encryption_error,
    open_video,
    read_packets,
    sample_aspect,
)
from operators.video.decode.streams import encrypted_ids, sounds_with
from schemas.tables import AudioTrack, PictureFormat
from schemas.video.clock import SECOND_US
from schemas.video.container import LARGEST_FRAME_PIXELS, moving_pictures
from schemas.video.orientation import Orientation, orientation

_OPENING_FRAMES = 32
"""Number of frames of an AVI that are decoded to check their order: more than any decoder reorders."""

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

_PRIMARIES: dict[int, str] = {
    ColorPrimaries.BT709: "bt709",
    ColorPrimaries.BT470M: "bt470m",
    ColorPrimaries.BT470BG: "bt470bg",
    ColorPrimaries.SMPTE170M: "smpte170m",
    ColorPrimaries.SMPTE240M: "smpte240m",
    ColorPrimaries.FILM: "film",
    ColorPrimaries.BT2020: "bt2020",
    ColorPrimaries.SMPTE428: "smpte428",
    ColorPrimaries.SMPTE431: "smpte431",
    ColorPrimaries.SMPTE432: "smpte432",
}
"""ffmpeg's names of the colour primaries that occur in files (ITU-T H.273, table 2)."""


@dataclass(frozen=True)
class VideoProbe:
    """Properties of a readable video."""

    path: Path
    index: PacketIndex
    video_stream: int
    """Index in the container of the video stream that `operators.video.decode.streams` chooses."""
    other_pictures: int
    """Number of other moving pictures in the container."""
    audio_stream: int | None
    """Index in the container of the main audio stream; None without audio."""
    fps: float
    """Mean frame rate in frames per second."""
    variable_frame_rate: bool
    width: int
    """Displayed width in square pixels, after rotation; the same holds for `height`."""
    height: int
    sample_aspect: Fraction
    """Sample aspect ratio: width by height of a stored pixel."""
    rotation: int
    """Clockwise rotation in degrees that the display matrix requires: 0, 90, 180 or 270."""
    mirrored: bool
    """True if the display matrix also exchanges left and right, before the rotation."""
    codec: str
    pixel_format: str
    bit_depth: int
    """Bits per component."""
    interlaced: bool
    """True if the first frame holds two fields."""
    primaries: str
    """Colour primaries by ffmpeg's name (`bt709`, `bt2020`), or `unknown`."""
    transfer: str
    """Transfer characteristics by ffmpeg's name (`bt709`, `smpte2084`, `arib-std-b67`), or `unknown`."""
    formats: tuple[PictureFormat, ...]
    """Each change of the picture format, the first at 0. A probe decodes one frame, so it knows only the first one."""
    audio_codec: str
    """Codec of the main audio stream; empty without audio."""
    audio_tracks: tuple[AudioTrack, ...]
    """The audio streams that belong to the video stream, in container order."""

    @property
    def orientation(self) -> Orientation:
        return Orientation(self.mirrored, self.rotation)

    @property
    def duration_us(self) -> int:
        return self.index.duration_us

    @property
    def frame_count(self) -> int:
        return len(self.index.frame_times_us)

    def with_formats(self, formats: Sequence[PictureFormat]) -> VideoProbe:
        """A copy with these formats; the fields of the probe describe the format with the longest total duration."""
        starts_us = [each.start_us for each in formats]
        lasting: dict[PictureFormat, int] = {}
        for each, lasts_us in zip(formats, np.diff([*starts_us, self.duration_us]).tolist(), strict=True):
            shown = each.model_copy(update={"start_us": 0})
            lasting[shown] = lasting.get(shown, 0) + lasts_us
        return replace(self.in_format(max(lasting, key=lambda each: lasting[each])), formats=tuple(formats))

    def in_format(self, picture: PictureFormat) -> VideoProbe:
        """A copy whose fields describe the video where it has this picture format."""
        numerator, denominator = map(int, picture.sample_aspect.split(":"))
        shown = picture.model_dump(exclude={"start_us", "sample_aspect"})
        return replace(self, sample_aspect=Fraction(numerator, denominator), **shown)

    @property
    def start_us(self) -> int:
        """The first frame's time in microseconds on the container's own clock."""
        return round(self.index.timeline.seconds(0) * SECOND_US)

    @property
    def edited(self) -> bool:
        """Whether an edit list removes coded frames."""
        return bool(self.index.packets.discarded.any())

    @property
    def longest_gop_us(self) -> int:
        """Longest time from one key frame to the next, or to the end, in microseconds."""
        return int(np.diff(self.index.key_frame_times_us, append=self.duration_us).max())


def probe(path: Path) -> VideoProbe:
    """Measure the properties of a local video.

    Raises:
        UnreadableVideo: a reason of `open_video` or `read_packets`, or `encrypted`, `too_large`, `one_frame`,
            `truncated` (more is missing than present), `damaged`, `no_frame_size`, `no_timestamps`.
    """
    with open_video(path) as (container, stream):
        _refuse_too_large(path, stream)
        _refuse_encrypted(path, container, stream)
        index = read_packets(container, stream, path)
    _refuse_too_short(path, index)
    with open_video(path) as (container, stream):
        first = _decode_first_frame(path, container, stream, index)
        tracks = [track for track in sounds_with(container, stream) if len(index.audio[track.index].pts)]
        opening = picture_format(first, 0)
        return VideoProbe(
            path=path,
            index=index,
            video_stream=stream.index,
            other_pictures=len(moving_pictures(container)) - 1,
            audio_stream=tracks[0].index if tracks else None,
            fps=len(index.frame_times_us) * SECOND_US / index.duration_us,
            variable_frame_rate=varies(index.frame_times_us, index.timeline.time_base),
            width=opening.width,
            height=opening.height,
            sample_aspect=sample_aspect(first),
            rotation=opening.rotation,
            mirrored=opening.mirrored,
            codec=stream.codec_context.codec.canonical_name,
            pixel_format=opening.pixel_format,
            bit_depth=opening.bit_depth,
            interlaced=first.interlaced_frame,
            primaries=opening.primaries,
            transfer=opening.transfer,
            formats=(opening,),
            audio_codec=tracks[0].codec_context.codec.canonical_name if tracks else "",
            audio_tracks=tuple(_audio_track(track, index) for track in sorted(tracks, key=lambda each: each.index)),
        )


def main_audio_stream(container: InputContainer) -> AudioStream | None:
    """The main decodable audio stream of the video, or None."""
    pictures = moving_pictures(container)
    return next(iter(sounds_with(container, pictures[0])), None) if pictures else None


def picture_format(frame: VideoFrame, time_us: int) -> PictureFormat:
    """The picture format of a frame from `operators.video.decode.packets.decode_packets`, valid from `time_us` on."""
    aspect, shown = sample_aspect(frame), orientation(frame)
    width, height = displayed_size(frame, aspect)
    return PictureFormat(
        start_us=time_us,
        width=width,
        height=height,
        sample_aspect=f"{aspect.numerator}:{aspect.denominator}",
        rotation=shown.rotation,
        mirrored=shown.mirrored,
        pixel_format=frame.format.name,
        bit_depth=max(component.bits for component in frame.format.components),
        primaries=_PRIMARIES.get(frame.color_primaries, "unknown"),
        transfer=_TRANSFERS.get(frame.color_trc, "unknown"),
    )


def displayed_size(frame: VideoFrame, aspect: Fraction) -> tuple[int, int]:
    """Displayed width and height of a frame: square pixels, after rotation.

    Args:
        aspect: the frame's sample aspect ratio (pixel width / height).
    """
    width, height = max(1, round(frame.width * aspect)), frame.height
    return (height, width) if orientation(frame).swaps_sides else (width, height)


def varies(times_us: NDArray[np.int64], time_base: Fraction) -> bool:
    """Whether the frame rate is variable.

    Frame steps differ at a constant rate too, once times are rounded to a container's ticks (1 ms in Matroska). A frame
    therefore counts as irregular when its step differs from the median step by more than a tenth of it and by more than
    one tick plus 1 us. Ticks count as at most 1 ms: with coarser ticks a difference is a missing frame.

    Args:
        times_us: shape [frames], ascending, at least two frames.
        time_base: the container's tick in seconds.
    """
    steps = np.diff(times_us)
    usual = float(np.median(steps))
    tick_us = min(1000.0, float(time_base * SECOND_US))
    return bool(np.abs(steps - usual).max() > max(usual / 10, tick_us + 1))


def _audio_track(stream: AudioStream, index: PacketIndex) -> AudioTrack:
    packets, context = index.audio[stream.index], stream.codec_context
    zero_us = round(index.timeline.seconds(0) * SECOND_US)
    return AudioTrack(
        stream=stream.index,
        codec=context.codec.canonical_name,
        sample_rate=context.sample_rate,
        channels=context.channels,
        language=stream.language or "",
        start_us=packets.start_us - zero_us,
        end_us=packets.end_us - zero_us,
    )


def _decode_first_frame(path: Path, container: InputContainer, stream: VideoStream, index: PacketIndex) -> VideoFrame:
    """Decode the first frame.

    AVI stores no presentation times. ffmpeg can only guess those of H.264's reordered frames, and guesses wrong. In AVI
    files, the first `_OPENING_FRAMES` frames must therefore be decoded in the order of their times.

    Raises:
        UnreadableVideo: `no_frame_size`, `damaged` or `no_timestamps`.
    """
    count = _OPENING_FRAMES if container.format.name == "avi" else 1
    opening = list(islice(decode(container, stream, index.timeline), count))
    if not opening and not stream.codec_context.width:
        raise UnreadableVideo(
            "no_frame_size",
            f"{path.name}: its header gives no frame size that can be decoded (up to about 16,000x16,000): it is "
            f"damaged or larger than that; fetch it again or scale it down first",
        )
    if not opening:
        raise UnreadableVideo(
            "damaged",
            f"{path.name}: not one frame of its {stream.codec_context.name} video can be decoded; fetch it again",
        )
    if any(later < earlier for (earlier, _), (later, _) in pairwise(opening)):
        raise UnreadableVideo(
            "no_timestamps",
            f"{path.name}: its frames are shown in another order than they are stored, but {container.format.name} "
            f"has no times for that; convert it, e.g. to MP4",
        )
    return opening[0][1]


def _refuse_too_short(path: Path, index: PacketIndex) -> None:
    if len(index.frame_times_us) < 2:
        raise UnreadableVideo(
            "one_frame", f"{path.name}: it has a single frame, so it is a picture; remove it from the source"
        )
    if index.missing_us > index.duration_us:
        raise UnreadableVideo(
            "truncated",
            f"{path.name}: it ends after {index.duration_us / SECOND_US:.1f} s, {index.missing_us / SECOND_US:.1f} s "
            f"before the end that its header states; fetch it again",
        )


def _refuse_encrypted(path: Path, container: InputContainer, stream: VideoStream) -> None:
    """Raise `UnreadableVideo` if the headers state encryption. `read_packets` detects Common Encryption in MP4."""
    if "ASF_Protection_Type" in container.metadata:
        raise encryption_error(path, "Windows Media DRM")
    if any("enc_key_id" in each.metadata for each in container.streams):
        raise encryption_error(path, "WebM or Matroska encryption")
    used = {stream.id, *(sound.id for sound in sounds_with(container, stream))}
    if container.format.name == "mpegts" and encrypted_ids(path) & used:
        raise encryption_error(path, "SAMPLE-AES or a broadcaster's scrambling")


def _refuse_too_large(path: Path, stream: VideoStream) -> None:
    width, height = stream.codec_context.width, stream.codec_context.height
    if width * height > LARGEST_FRAME_PIXELS:
        raise UnreadableVideo(
            "too_large",
            f"{path.name}: frames of {width}x{height} exceed {LARGEST_FRAME_PIXELS // 1_000_000} megapixels; "
            f"scale it down first",
        )
