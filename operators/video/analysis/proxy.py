"""Writes a proxy of a video: two frames per second, at most 640 pixels on the longer side.

Captions and training read the proxy instead of the source. It is itself a video on the source's timeline:
`frames_at(proxy, times)` and `frame_times(proxy)` use the source's microseconds, and its duration is the source's. A
frame starts exactly when it starts in the source, with two exceptions. The first frame starts at 0 even if earlier
frames could not be decoded, and a frame is repeated after `LONGEST_HOLD_US`.

The format is H.264 in MP4 without reordering, hence without an edit list, so that every reader finds the same times. A
key frame comes at least every `GOP` frames, so that access to a frame decodes only a few small ones. Frames are as
`operators.video.decode.frames` displays them: upright, square pixels, SDR. All have one size: a picture of another
shape is centred on black. Equal input gives equal bytes.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from numpy.typing import NDArray

from operators.video.decode.packets import LONGEST_HOLD_US, sample_aspect
from operators.video.decode.probe import VideoProbe, displayed_size
from schemas.video.clock import SECOND_US
from schemas.video.colour import is_hdr, matrix, to_yuv420
from schemas.video.display import displayed_rgb
from schemas.video.orientation import AS_STORED, orientation

FPS = 2
"""Frames per second: a proxy holds the first frame at or after each multiple of half a second."""
SIDE = 640
"""Longest side in pixels; smaller videos keep their size."""
GOP = 8

_MICROSECOND = Fraction(1, SECOND_US)
_MUXER = {"video_track_timescale": str(SECOND_US), "use_editlist": "0", "movflags": "+faststart"}
_ENCODER = {
    "preset": "veryfast",
    "crf": "36",
    "x264-params": f"bframes=0:keyint={GOP}:rc-lookahead={GOP}:threads=1:lookahead-threads=1:cpu-independent=1",
}
"""Encoder settings. Models read on-screen text as well as at CRF 26, and worse from CRF 42 on. The next slower preset
saves 1 % for twice the time. x264 gives frames that last half a second finer quantizers than this CRF usually means.
Without `cpu-independent`, its AVX-512 macroblock tree sometimes encodes the same frames to other bytes."""


@dataclass(frozen=True)
class Proxy:
    """A finished proxy."""

    path: Path
    width: int
    height: int
    times_us: NDArray[np.int64]
    """Shape [frames], ascending, the first 0: when each frame starts in the source and in the proxy."""


class ProxyWriter:
    """Writes a proxy frame by frame: `writer(time_us, frame)` in order of time, then `close()`.

    The file is not a valid video before `close()`. Delete it after any failure.
    """

    def __init__(self, target: Path, video: VideoProbe) -> None:
        self._target = target
        self._name = video.path.name
        self._duration_us = video.duration_us
        self._width, self._height = proxy_size(video.width, video.height)
        self._times_us = array("q")
        self._container = av.open(str(target), "w", format="mp4", options=_MUXER)
        self._stream = self._container.add_stream("libx264", options=_ENCODER)
        self._stream.width, self._stream.height, self._stream.pix_fmt = self._width, self._height, "yuv420p"
        context = self._stream.codec_context
        context.time_base, context.color_range = _MICROSECOND, ColorRange.MPEG
        context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709

    def reduce(self, frame: av.VideoFrame) -> av.VideoFrame:
        """Convert a frame to how it is displayed, in the size of the proxy.

        An already reduced frame is unchanged. Safe to call from any thread.
        """
        width, height = fitting_size(*displayed_size(frame, sample_aspect(frame)), self._width, self._height)
        framed = (width, height) != (self._width, self._height)
        # The conversion to RGB and back takes 2 ms, as long as encoding. Most frames need only scaling.
        if framed or is_hdr(frame) or frame.interlaced_frame or orientation(frame) != AS_STORED:
            rgb = displayed_rgb(frame, (width, height))
            if framed:
                top, left = (self._height - height) // 2, (self._width - width) // 2
                whole = np.zeros((self._height, self._width, 3), dtype=np.uint8)
                whole[top : top + height, left : left + width] = rgb
                rgb = whole
            frame = av.VideoFrame.from_numpy_buffer(rgb, format="rgb24")
        return self._yuv(frame, matrix(frame))

    def __call__(self, time_us: int, frame: av.VideoFrame) -> None:
        """Add the frame, reduced or not, that starts at `time_us`.

        Raises:
            ValueError: the time is not after the previous frame's, or is outside the video.
        """
        last_us = self._times_us[-1] if self._times_us else -1
        if not last_us < time_us < self._duration_us:
            raise ValueError(
                f"{self._name}: a frame at {time_us} us follows one at {last_us} us of {self._duration_us} us; "
                f"give frames in order of time"
            )
        small = self.reduce(frame)
        if not self._times_us:
            self._stream.codec_context.colorspace = small.colorspace
        else:
            self._hold_until(time_us)
        self._picture = self._yuv(small, Colorspace(self._stream.codec_context.colorspace))
        self._encode(time_us if self._times_us else 0)

    def close(self) -> Proxy:
        """Finish the file.

        Raises:
            ValueError: no frame was added.
        """
        if not self._times_us:
            raise ValueError(f"{self._name}: no frame was given, so there is no proxy; was nothing decoded?")
        self._hold_until(self._duration_us)
        packets = self._stream.encode(None)
        packets[-1].duration = self._duration_us - self._times_us[-1]
        self._container.mux(packets)
        self._container.close()
        return Proxy(self._target, self._width, self._height, np.array(self._times_us, dtype=np.int64))

    def _yuv(self, frame: av.VideoFrame, target: Colorspace) -> av.VideoFrame:
        """Convert a frame to yuv420p in a new frame.

        The given frame belongs to the caller, and its picture type would make the encoder use the same type.
        """
        yuv = to_yuv420(frame, self._width, self._height, target)
        copy = av.VideoFrame.from_ndarray(yuv, format="yuv420p")
        copy.colorspace, copy.color_range = target, ColorRange.MPEG
        return copy

    def _hold_until(self, time_us: int) -> None:
        """Repeat the last frame up to this time at intervals of `LONGEST_HOLD_US`.

        Readers treat longer frames as damage, and a frame duration in MP4 is limited to 2^31 ticks.
        """
        while time_us - self._times_us[-1] > LONGEST_HOLD_US:
            self._encode(self._times_us[-1] + LONGEST_HOLD_US)

    def _encode(self, time_us: int) -> None:
        self._picture.pts, self._picture.time_base = time_us, _MICROSECOND
        self._times_us.append(time_us)
        self._container.mux(self._stream.encode(self._picture))


def fitting_size(width: int, height: int, widest: int, highest: int) -> tuple[int, int]:
    """The largest even size with the aspect ratio of `width` x `height` that fits into `widest` x `highest`.

    An aspect ratio that differs only by rounding to even sides counts as the same.
    """
    scale = min(widest / width, highest / height)
    fitting = (min(side, round(pixels * scale / 2) * 2) for pixels, side in ((width, widest), (height, highest)))
    fitting_width, fitting_height = (max(2, side) for side in fitting)
    same = widest - fitting_width <= 2 and highest - fitting_height <= 2
    return (widest, highest) if same else (fitting_width, fitting_height)


def proxy_size(width: int, height: int) -> tuple[int, int]:
    """Width and height of the proxy of a video with this displayed size: even, the longest at most `SIDE`."""
    scale = min(1.0, SIDE / max(width, height))
    return max(2, round(width * scale / 2) * 2), max(2, round(height * scale / 2) * 2)
