"""Writes the MP4 of a whole video for a release: the decoded video stream with all audio streams that belong to it.

Streams that MP4 supports and common readers decode are copied. Others are encoded, the video frame by frame at exact
times. The video begins at 0 in every reader. Audio keeps its offset to the video, so audio before the first frame is
dropped. The main audio stream comes first, and each audio stream keeps its language. Every written file is read back
and verified. The same source gives the same bytes.
"""

from __future__ import annotations

import heapq
import logging
from collections.abc import Iterator
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.stream import VideoStream
from numpy.typing import NDArray

from operators.video.clips.cut import encode_picture
from operators.video.clips.remux import COPIED_VIDEO, add_picture, set_times
from operators.video.clips.sound import LAYOUTS, encode_blocks, most_channels, rate_of, read_long_sound
from operators.video.decode.ffmpeg import FfmpegError, file_url, raise_write_error
from operators.video.decode.packets import NO_TIME, PacketIndex, open_video, packets_of, read_packets, stream_aspect
from operators.video.decode.probe import VideoProbe, probe
from schemas.tables import AudioTrack, Packaging
from schemas.video.clock import SECOND_US

log = logging.getLogger(__name__)

PUBLISHED_SOUND = ("aac", "mp3", "ac3", "eac3", "opus", "flac", "alac")
"""Audio codecs that are registered for MP4 (mp4ra.org, "Codecs") and that ffmpeg, the decoder of PyAV, torchcodec and
decord, reads from MP4. Browsers play these too, except some of Dolby's and Apple's (MDN, "Web audio codec guide").
Excluded are Vorbis, TrueHD, G.711, AMR, Windows Media and PCM."""

TOLERANCE_US = 1000
"""Largest difference between a frame's times in the source and in the file: Matroska's ticks are 1 ms."""

SIZE_TOLERANCE = 2
"""Number of pixels by which the size of an encoded video may differ: 4:2:0 needs even sides."""

_MP4 = {"movflags": "+faststart+negative_cts_offsets", "fflags": "+bitexact"}
_BITS_PER_CHANNEL = 64_000
_LONGEST_SOUND_FRAME_US = 100_000
"""Upper limit for an audio frame's duration: AAC-LC at 16 kHz (1,024 samples), plus rounding to container ticks."""


class MediaError(RuntimeError):
    """The MP4 could not be written as required. The message names the difference."""


def packaging(video: VideoProbe) -> Packaging:
    """The packaging that a video needs to be published.

    An MP4 (by its content, whatever its name) is kept if it holds only the chosen video stream and its audio. Covers,
    subtitles and data do not matter.

    Raises:
        UnreadableVideo: the file cannot be opened.
    """
    with open_video(video.path) as (container, picture):
        pictures = [s for s in container.streams.video if s.disposition != Disposition.attached_pic]
        is_alone = len(pictures) == 1 and len(container.streams.audio) == len(video.audio_tracks)
        is_mp4 = container.format.name.startswith("mov")
        configuration = bytes(picture.codec_context.extradata or b"")
    sound = all(_is_copyable_sound(video, track) for track in video.audio_tracks)
    if len(video.formats) > 1:  # training readers give all frames of a file one size
        return Packaging.PICTURE if sound else Packaging.BOTH
    if video.codec in COPIED_VIDEO and sound and is_mp4 and is_alone:
        return Packaging.KEEP
    if video.codec in COPIED_VIDEO and _has_copyable_frames(video.index, configuration):
        return Packaging.COPY if sound else Packaging.SOUND
    return Packaging.PICTURE if sound else Packaging.BOTH


def write_media(video: VideoProbe, how: Packaging, times_us: NDArray[np.int64], target: Path) -> None:
    """Write the MP4 of a video that cannot be kept as it is.

    If the video stream cannot be copied exactly, it is encoded instead.

    Args:
        times_us: shape [frames], ascending: presentation times of the frames that can be decoded.

    Raises:
        MediaError: the file differs from the source in frames, size or audio, or no MP4 can be written.
        FfmpegError: ffmpeg failed.
        UnreadableVideo: the source or the written file cannot be read.
        OSError: the disk is full, or the file exceeded the process's file size limit.
    """
    if how in (Packaging.COPY, Packaging.SOUND):
        try:
            _write_mp4(video, target, copies_picture=True)
            _check_mp4(video, video.index.frame_times_us, target)
            return
        except (MediaError, FfmpegError, av.error.FFmpegError, ValueError) as error:
            raise_write_error(error)
            log.info("%s: its frames cannot be copied (%s), so they are encoded", video.path.name, error)
    try:
        _write_mp4(video, target, copies_picture=False)
    except (av.error.FFmpegError, ValueError) as error:
        raise_write_error(error)
        raise MediaError(f"{video.path.name}: no MP4 can be made of it: {error}; convert it, e.g. to H.264") from error
    _check_mp4(video, times_us, target)


def _is_copyable_sound(video: VideoProbe, track: AudioTrack) -> bool:
    """Whether an audio stream can be copied to an MP4, whose track states one sample rate and channel count."""
    return track.codec in PUBLISHED_SOUND and not video.index.audio[track.stream].sound_changes


def _has_copyable_frames(index: PacketIndex, configuration: bytes) -> bool:
    """Whether the frames can be copied without loss.

    Every packet from the first key frame on must be a shown frame, and the decoder configuration must not change.
    Leading pictures of the first key frame are exempt: no decoder can show them, and no other frame needs them.
    """
    packets = index.packets
    from_key = np.arange(len(packets.pts)) >= int(np.argmax(packets.key))
    shown = from_key & (packets.pts >= index.timeline.first_pts)
    has_times = bool((packets.pts[from_key] != NO_TIME).all())
    one_configuration = all(changed == configuration for _, changed in packets.configurations)
    return (
        has_times
        and one_configuration
        and not packets.discarded.any()
        and np.count_nonzero(shown) == len(index.frame_packets)
    )


def _write_mp4(video: VideoProbe, target: Path, copies_picture: bool) -> None:
    main_first = sorted(video.audio_tracks, key=lambda track: track.stream != video.audio_stream)
    with TemporaryDirectory(dir=target.parent) as folder, ExitStack() as stack:
        output = stack.enter_context(av.open(file_url(target), "w", format="mp4", options=_MP4))
        source = video.path if copies_picture else Path(folder) / "picture.mp4"
        if not copies_picture:
            encode_picture(video, source)
        container, picture = stack.enter_context(open_video(source))
        index = video.index
        if not copies_picture:
            with open_video(source) as opened:
                index = read_packets(*opened, source)
        tracks = [_add_picture_track(container, picture, index, output)]
        for track in main_first:
            container, _ = stack.enter_context(open_video(video.path))
            copy_or_encode = _add_copied_sound if _is_copyable_sound(video, track) else _add_encoded_sound
            tracks.append(copy_or_encode(container, video, track, output))
        for packet in heapq.merge(*tracks, key=_decoding_time):
            output.mux(packet)


def _decoding_time(packet: Packet) -> Fraction:
    """When a packet of the output is decoded, in seconds."""
    assert packet.dts is not None and packet.time_base is not None
    return packet.dts * packet.time_base


def _add_picture_track(
    container: InputContainer, stream: VideoStream, index: PacketIndex, output: OutputContainer
) -> Iterator[Packet]:
    """Add the video track, and yield its coded frames with times from 0 on."""
    written = add_picture(output, stream, stream_aspect(stream))
    timeline = index.timeline
    shown = index.packets.pts[index.frame_packets]
    rank_of = np.full(len(index.packets.pts), -1)
    rank_of[index.frame_packets] = np.arange(len(shown))
    packets = (packet for packet in packets_of(container, [stream]) if packet.size)
    frames = (packet for packet, rank in zip(packets, rank_of.tolist(), strict=False) if rank >= 0)
    times = np.append(shown, timeline.pts(index.duration_us)) - timeline.first_pts
    return set_times(frames, rank_of[rank_of >= 0], times, written)


def _add_copied_sound(
    container: InputContainer, video: VideoProbe, track: AudioTrack, output: OutputContainer
) -> Iterator[Packet]:
    """Add a copied audio track, and yield its packets.

    Times count from the first video frame; packets before it are dropped.
    """
    stream = _audio_stream(container, track)
    written = output.add_stream_from_template(stream, opaque=True)
    zero = Fraction(video.start_us, SECOND_US) / Fraction(stream.time_base or 1)
    return _shift_to_zero(packets_of(container, [stream]), round(zero), _set_language(written, track))


def _add_encoded_sound(
    container: InputContainer, video: VideoProbe, track: AudioTrack, output: OutputContainer
) -> Iterator[Packet]:
    """Add an audio track in AAC, and yield its packets.

    It starts where the audio begins, but not before the first video frame. Gaps are filled with silence.
    """
    with open_video(video.path) as (counted, _):
        channels = most_channels(counted, _audio_stream(counted, track))
    stream = _audio_stream(container, track)
    rate, span_us = rate_of(stream), (max(0, track.start_us), track.end_us)
    written = output.add_stream("aac", rate, layout=LAYOUTS[channels], options={"flags": "+bitexact"})
    written.bit_rate = _BITS_PER_CHANNEL * channels
    blocks = read_long_sound(container, stream, video.index, span_us, channels)
    first = round(span_us[0] * rate / SECOND_US)
    # Packets of the encoder before 0 only fill its window; an edit list would have to hide them.
    return _shift_to_zero(encode_blocks(blocks, first, written), 0, _set_language(written, track))


def _audio_stream(container: InputContainer, track: AudioTrack) -> AudioStream:
    stream = container.streams[track.stream]
    assert isinstance(stream, AudioStream)
    return stream


def _set_language(written: AudioStream, track: AudioTrack) -> AudioStream:
    if track.language:
        written.metadata["language"] = track.language
    return written


def _shift_to_zero(packets: Iterator[Packet], zero: int, written: AudioStream) -> Iterator[Packet]:
    last = -1
    for packet in packets:
        if not packet.size or packet.pts is None or packet.is_discard or packet.pts - zero <= last:
            continue
        packet.pts = packet.dts = last = packet.pts - zero
        packet.stream = written
        yield packet


def _check_mp4(video: VideoProbe, times_us: NDArray[np.int64], target: Path) -> None:
    """Check the frame times and size of a written MP4, and start and end of each audio stream.

    If the source is damaged, frames may be missing that another decoder can show.

    Raises:
        MediaError: the MP4 differs from the source.
    """
    written = probe(target)
    found_us = written.index.frame_times_us
    source_us = video.index.frame_times_us
    if len(times_us) == len(source_us) and len(found_us) != len(source_us):
        raise MediaError(f"{video.path.name}: {len(found_us)} of its {len(source_us)} frames are in the MP4")
    nearest = np.searchsorted((source_us[1:] + source_us[:-1]) / 2, found_us)
    drift_us = int(np.abs(source_us[nearest] - found_us).max())
    if drift_us > TOLERANCE_US or len(np.unique(nearest)) != len(found_us) or written.start_us != 0:
        raise MediaError(f"{video.path.name}: frames of the MP4 are up to {drift_us} us off their times")
    if max(abs(written.width - video.width), abs(written.height - video.height)) > SIZE_TOLERANCE:
        raise MediaError(
            f"{video.path.name}: it shows {video.width}x{video.height}, the MP4 {written.width}x{written.height}"
        )
    if len(written.audio_tracks) != len(video.audio_tracks):
        raise MediaError(
            f"{video.path.name}: {len(written.audio_tracks)} of its {len(video.audio_tracks)} audio streams are in the "
            f"MP4"
        )
    main_first = sorted(video.audio_tracks, key=lambda track: track.stream != video.audio_stream)
    for track, copy in zip(main_first, written.audio_tracks, strict=True):
        for then_us, now_us in ((max(0, track.start_us), copy.start_us), (track.end_us, copy.end_us)):
            if abs(then_us - now_us) > _LONGEST_SOUND_FRAME_US:
                raise MediaError(
                    f"{video.path.name}: its sound in stream {track.stream} reaches from {track.start_us} to "
                    f"{track.end_us} us, in the MP4 from {copy.start_us} to {copy.end_us} us"
                )
