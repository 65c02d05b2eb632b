"""Reads the audio of a span of a video as samples of one rate and channel count, each at its exact time.

A recording may change its audio format: from 5.1 to stereo, or from 48 to 44.1 kHz. ffmpeg's filters lose their
position at such a change, and ffmpeg gives up where too much of a track is damaged. Here every decoded frame is placed
at its timestamp. Gaps are filled with silence.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.layout import AudioLayout
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from numpy.typing import NDArray

from operators.video.decode.ffmpeg import file_url
from operators.video.decode.packets import PacketIndex, packets_of
from operators.video.decode.ranges import seek_to
from schemas.video.clock import SECOND_US

LAYOUTS = {1: "mono", 2: "stereo", 3: "3.0", 4: "4.0", 5: "5.0", 6: "5.1", 8: "7.1"}
"""Channel layouts that the AAC encoder accepts, by channel count. Other audio is converted to stereo."""

RATES = (7350, 8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)
"""Sample rates of AAC in Hz (ISO/IEC 14496-3, table 1.18)."""

_USUAL_RATE = 48_000

_JITTER_US = 20_000
"""Consecutive frames that are at most this far apart are joined without a gap. Containers round times, to 1 ms in
Matroska and more coarsely in recorded calls. Less than one video frame."""

_PRE_ROLL_US = SECOND_US
"""Audio decoded before the span: codecs need preceding packets, and audio may slightly precede its video in the
file."""

_FORMAT = "flt"
"""Interleaved samples. With eight channels in separate planes, PyAV 18 reads more planes than exist and crashes."""

_BLOCK = 1 << 16
"""Samples per channel that are written at a time."""


def read_sound(
    container: InputContainer, stream: AudioStream, index: PacketIndex, span_us: tuple[int, int]
) -> tuple[NDArray[np.float32], int]:
    """Read the samples of a span of the video's timeline, and their rate in Hz.

    No other code may read packets of the container, because demuxers report a change of the decoder configuration only
    once.

    Returns:
        The samples and the rate. Samples have the shape [channels, samples] and exactly the length of the span. The
        channel count is the largest that occurs in the span (two if AAC does not support that count).

    Raises:
        UnreadableVideo: `damaged` when the container cannot seek.
    """
    rate = rate_of(stream)
    pieces = list(_pieces(container, stream, index, span_us, rate))
    most = max((len(piece) for _, piece in pieces), default=stream.codec_context.channels)
    samples = np.zeros((most if most in LAYOUTS else 2, _length(span_us, rate)), dtype=np.float32)
    for first, piece in pieces:
        _put(samples, 0, first, piece, rate)
    return samples, rate


def read_long_sound(
    container: InputContainer, stream: AudioStream, index: PacketIndex, span_us: tuple[int, int], channels: int
) -> Iterator[NDArray[np.float32]]:
    """Read what `read_sound` reads in consecutive blocks, in constant memory.

    Args:
        channels: channel count of the blocks. The sample rate is `rate_of(stream)`.

    Yields:
        Shape [channels, samples].

    Raises:
        UnreadableVideo: `damaged` when the container cannot seek.
    """
    rate = rate_of(stream)
    pieces = _pieces(container, stream, index, span_us, rate)
    begun = next(pieces, None)
    length = _length(span_us, rate)
    for start in range(0, length, _BLOCK):
        block = np.zeros((channels, min(_BLOCK, length - start)), dtype=np.float32)
        while begun is not None:
            first, piece = begun
            _put(block, start, first, piece, rate)
            if first + piece.shape[1] > start + _BLOCK:
                break
            begun = next(pieces, None)
        yield block


def rate_of(stream: AudioStream) -> int:
    """The sample rate in Hz at which a stream is read: its rate at the start, or the next higher one of AAC."""
    opened = stream.codec_context.sample_rate
    return next((rate for rate in RATES if 0 < opened <= rate), _USUAL_RATE)


def most_channels(container: InputContainer, stream: AudioStream) -> int:
    """The largest channel count that occurs in a stream, found by decoding all of it."""
    return max((_channels(frame) for frame in _decode_frames(container, stream)), default=2)


def write_sound(samples: NDArray[np.float32], rate: int, target: Path) -> None:
    """Write samples, shape [channels, samples], uncompressed to a QuickTime file (`.mov`)."""
    layout = LAYOUTS[len(samples)]
    with av.open(file_url(target), "w", format="mov") as container:
        stream = container.add_stream("pcm_f32le", rate=rate, layout=layout)
        blocks = (samples[:, first : first + _BLOCK] for first in range(0, samples.shape[1], _BLOCK))
        container.mux(list(encode_blocks(blocks, 0, stream)))


def encode_blocks(blocks: Iterable[NDArray[np.float32]], first: int, stream: AudioStream) -> Iterator[Packet]:
    """Encode consecutive blocks, shape [channels, samples], in the stream's rate and channels.

    Args:
        first: number of the first sample, from which timestamps count.
    """
    for block in blocks:
        frame = _frame(block, stream.codec_context.sample_rate, LAYOUTS[len(block)])
        frame.pts, frame.time_base = first, Fraction(1, frame.sample_rate)
        yield from stream.encode(frame)
        first += block.shape[1]
    yield from stream.encode(None)


def _length(span_us: tuple[int, int], rate: int) -> int:
    return round((span_us[1] - span_us[0]) * rate / SECOND_US)


def _put(block: NDArray[np.float32], start: int, first: int, piece: NDArray[np.float32], rate: int) -> None:
    """Copy the part of a piece that lies in a block, given the numbers of their first samples."""
    begin, end = max(start, first), min(start + block.shape[1], first + piece.shape[1])
    if begin < end:
        block[:, begin - start : end - start] = _mix(piece[:, begin - first : end - first], rate, len(block))


def _pieces(
    container: InputContainer, stream: AudioStream, index: PacketIndex, span_us: tuple[int, int], rate: int
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Yield each frame's samples, in one of `LAYOUTS`, and the number of its first sample.

    Numbers count from the span's start and may be negative.
    """
    start_us, end_us = span_us
    seek_to(container, index, start_us - _PRE_ROLL_US)
    zero = index.timeline.first_pts * index.timeline.time_base + Fraction(start_us, SECOND_US)
    jitter = _JITTER_US * rate // SECOND_US
    resampler, resampled, following = None, None, None
    for frame in _decode_frames(container, stream):
        seen = frame.format.name, frame.layout.name, frame.sample_rate
        assert frame.time_base is not None
        stamped = None if frame.pts is None else round((frame.pts * frame.time_base - zero) * rate)
        if resampler is None or seen != resampled:  # the old resampler still buffers less than a video frame
            resampler, resampled = av.AudioResampler(_FORMAT, _layout(frame), rate), seen
        if stamped is not None and (following is None or abs(stamped - following) > jitter):
            following = stamped
        if following is None:
            continue
        if following >= (end_us - start_us) * rate // SECOND_US:
            return
        frame.pts = None
        for piece in resampler.resample(frame):
            samples = _samples(piece)
            if following + samples.shape[1] > 0:
                yield following, samples if len(samples) in LAYOUTS else samples[:2]
            following += samples.shape[1]


def _decode_frames(container: InputContainer, stream: AudioStream) -> Iterator[AudioFrame]:
    for packet in packets_of(container, [stream]):
        try:
            for frame in packet.decode():
                assert isinstance(frame, AudioFrame)
                yield frame
        except av.error.FFmpegError:
            continue  # damaged audio becomes silence


def _channels(frame: AudioFrame) -> int:
    return frame.layout.nb_channels if frame.layout.nb_channels in LAYOUTS else 2


def _layout(frame: AudioFrame) -> str | AudioLayout:
    """The nearest of `LAYOUTS`.

    It is the frame's own layout if its channels have no names, because ffmpeg could not mix them.
    """
    if frame.layout.name.endswith("channels"):
        return frame.layout
    return LAYOUTS[_channels(frame)]


def _mix(samples: NDArray[np.float32], rate: int, channels: int) -> NDArray[np.float32]:
    """Mix samples to this channel count with ffmpeg's matrices."""
    if len(samples) == channels:
        return samples
    mixer = av.AudioResampler(_FORMAT, LAYOUTS[channels], rate)
    frame = _frame(samples, rate, LAYOUTS[len(samples)])
    return np.concatenate([_samples(each) for each in [*mixer.resample(frame), *mixer.resample(None)]], axis=1)


def _samples(frame: AudioFrame) -> NDArray[np.float32]:
    return np.asarray(frame.to_ndarray(), dtype=np.float32).reshape(-1, frame.layout.nb_channels).T


def _frame(samples: NDArray[np.float32], rate: int, layout: str) -> AudioFrame:
    frame = AudioFrame.from_ndarray(samples.T.reshape(1, -1), format=_FORMAT, layout=layout)
    frame.sample_rate = rate
    return frame
