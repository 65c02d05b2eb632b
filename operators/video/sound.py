"""The sound of a span of a video as samples of one rate and number of channels, each at its exact time.

A recording may change its sound on the way: stereo after 5.1, 44.1 kHz after 48. Filters of ffmpeg cannot follow that
without losing their place, and ffmpeg gives up where too much of a track is damaged. Here every decoded piece is put
where its timestamp says. Where there is none, there is silence.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.layout import AudioLayout
from av.audio.stream import AudioStream
from av.container import InputContainer
from numpy.typing import NDArray

from operators.video.ffmpeg import file_url
from operators.video.packets import SECOND_US, PacketIndex, packets_of
from operators.video.ranges import seek_to

LAYOUTS = {1: "mono", 2: "stereo", 3: "3.0", 4: "4.0", 5: "5.0", 6: "5.1", 8: "7.1"}
"""By number of channels, what the AAC encoder takes. Other sound becomes stereo."""

HIGHEST_RATE = 96_000
"""Samples a second, of AAC (ISO/IEC 14496-3, table 1.18)."""

_JITTER_US = 20_000
"""Pieces that follow on each other to within this are joined without a gap: containers round times, to 1 ms in Matroska
and more in recorded calls. Less than one frame of picture."""

_PRE_ROLL_US = SECOND_US
"""Decoded before the span: codecs need the pieces before, and sound lies a little before its picture in the file."""

_PIECE = 1 << 16


def read_sound(
    container: InputContainer, stream: AudioStream, index: PacketIndex, span_us: tuple[int, int]
) -> tuple[NDArray[np.float32], int]:
    """The samples of a span of the picture's timeline and their rate in Hz.

    Nothing else may read packets of the container, because demuxers tell a change of the decoder's configuration once.

    Returns:
        Shape [channels, samples]: exactly the span's length, of as many channels as the sound has where it has most
        (two, if these are more than AAC carries).

    Raises:
        UnreadableVideo: `damaged` when the container cannot seek.
    """
    start_us, end_us = span_us
    opened_rate = stream.codec_context.sample_rate
    rate = opened_rate if 0 < opened_rate <= HIGHEST_RATE else HIGHEST_RATE // 2
    pieces = list(_pieces(container, stream, index, span_us, rate))
    most = max((piece.shape[0] for _, piece in pieces), default=stream.codec_context.channels)
    channels = most if most in LAYOUTS else 2
    samples = np.zeros((channels, round((end_us - start_us) * rate / SECOND_US)), dtype=np.float32)
    for first, piece in pieces:
        begin, end = max(0, first), min(samples.shape[1], first + piece.shape[1])
        if begin < end:
            samples[:, begin:end] = _mix(piece[:, begin - first : end - first], rate, channels)
    return samples, rate


def write_sound(samples: NDArray[np.float32], rate: int, target: Path) -> None:
    """Write samples, shape [channels, samples], uncompressed into a QuickTime file (`.mov`)."""
    layout = LAYOUTS[len(samples)]
    with av.open(file_url(target), "w", format="mov") as container:
        stream = container.add_stream("pcm_f32le", rate=rate, layout=layout)
        for first in range(0, samples.shape[1], _PIECE):
            frame = _frame(samples[:, first : first + _PIECE], rate, layout)
            frame.pts, frame.time_base = first, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _pieces(
    container: InputContainer, stream: AudioStream, index: PacketIndex, span_us: tuple[int, int], rate: int
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Numbers of first samples from the span's start on (may be negative), and samples in some of `LAYOUTS`."""
    start_us, end_us = span_us
    seek_to(container, index, start_us - _PRE_ROLL_US)
    zero = index.timeline.first_pts * index.timeline.time_base + Fraction(start_us, SECOND_US)
    jitter = _JITTER_US * rate // SECOND_US
    resampler, resampled, following = None, None, None
    for frame in _decoded(container, stream):
        seen = frame.format.name, frame.layout.name, frame.sample_rate
        assert frame.time_base is not None
        stamped = None if frame.pts is None else round((frame.pts * frame.time_base - zero) * rate)
        if resampler is None or seen != resampled:  # what the former still holds is less than a frame of picture
            resampler, resampled = av.AudioResampler("fltp", _layout(frame), rate), seen
        if stamped is not None and (following is None or abs(stamped - following) > jitter):
            following = stamped
        if following is None:
            continue
        if following >= (end_us - start_us) * rate // SECOND_US:
            return
        frame.pts = None
        for piece in resampler.resample(frame):
            samples = np.asarray(piece.to_ndarray(), dtype=np.float32)
            if following + samples.shape[1] > 0:
                yield following, samples if len(samples) in LAYOUTS else samples[:2]
            following += samples.shape[1]


def _decoded(container: InputContainer, stream: AudioStream) -> Iterator[AudioFrame]:
    for packet in packets_of(container, [stream]):
        try:
            for frame in packet.decode():
                assert isinstance(frame, AudioFrame)
                yield frame
        except av.error.FFmpegError:
            continue  # damage is silence


def _layout(frame: AudioFrame) -> str | AudioLayout:
    """The nearest of `LAYOUTS`; the frame's own if its channels have no names, by which ffmpeg could mix them."""
    if frame.layout.name.endswith("channels"):
        return frame.layout
    return LAYOUTS.get(frame.layout.nb_channels, "stereo")


def _mix(samples: NDArray[np.float32], rate: int, channels: int) -> NDArray[np.float32]:
    """Samples in this number of channels, by ffmpeg's matrices."""
    if len(samples) == channels:
        return samples
    mixer = av.AudioResampler("fltp", LAYOUTS[channels], rate)
    frame = _frame(samples, rate, LAYOUTS[len(samples)])
    return np.concatenate([each.to_ndarray() for each in [*mixer.resample(frame), *mixer.resample(None)]], axis=1)


def _frame(samples: NDArray[np.float32], rate: int, layout: str) -> AudioFrame:
    frame = AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="fltp", layout=layout)
    frame.sample_rate = rate
    return frame
