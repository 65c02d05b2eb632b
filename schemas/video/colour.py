"""Converts decoded frames to colours for an ordinary screen: 8-bit full-range RGB, BT.709.

Guarantees: the YUV matrix and range are the frame's own. Where the frame does not state them, they are those that
players assume. PQ and HLG (HDR) are tone-mapped. SDR keeps its values at any bit depth.

Not converted are the primaries of SDR video (wide-gamut SDR is slightly pale) and Dolby Vision without an HDR10 base
layer.

Tone mapping is the usual chain of ffmpeg filters, `zscale=t=linear:npl=100`, `zscale=p=bt709`,
`tonemap=mobius:param=0.3:desat=0:peak=10`, `zscale=t=bt709`, on the frame in its final size. Of ffmpeg's curves, mobius
keeps dark and middle tones as bright as they were graded: the reference white of HDR (203 cd/m2, BT.2408) becomes level
235, against 193 with hable. The tone mapping of swscale spends seconds on a table for every video.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace, ColorTrc, VideoReformatter
from numpy.typing import NDArray

SDR_WHITE = 100.0
"""Luminance in cd/m2 of SDR's reference white, ffmpeg's `npl`."""
HDR_PEAK = 1000.0
"""Luminance in cd/m2 that is mapped to SDR's white; brighter pixels are clipped to white. It is the nominal peak of HLG
(BT.2100) and of most HDR10 video."""
LINEAR_BELOW = 0.3
"""Fraction of SDR's white up to which the tone curve is the identity, ffmpeg's `param`."""

_MATRICES = {
    1: Colorspace.ITU709,
    4: Colorspace.FCC,
    5: Colorspace.ITU601,
    6: Colorspace.ITU601,
    7: Colorspace.SMPTE240M,
    9: Colorspace.BT2020,
    10: Colorspace.BT2020,
}
"""swscale's matrices by matrix coefficients (ITU-T H.273, table 4). It rejects frames with other tags."""

_BT2020_LUMA = np.array([[0.2627, 0.6780, 0.0593]], dtype=np.float32)
_BT2020_TO_BT709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], dtype=np.float32
)
"""Matrix from BT.2020 to BT.709 primaries (ITU-R BT.2407-0, section 2.2)."""


def _perceptual_quantizer() -> NDArray[np.float32]:
    """Table from PQ code values to light by the EOTF (BT.2100, table 4); shape [65536], 1 is SDR's white."""
    m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
    root = np.linspace(0, 1, 65536) ** (1 / m2)
    light = 10_000 * ((root - c1).clip(0) / (c2 - c3 * root)) ** (1 / m1)
    return (light / SDR_WHITE).astype(np.float32)


def _hybrid_log_gamma() -> NDArray[np.float32]:
    """Table from HLG code values to scene light by the inverse OETF (BT.2100, table 5); shape [65536], 1 is the
    peak."""
    a = 0.17883277
    b, c = 1 - 4 * a, 0.5 - a * np.log(4 * a)
    code = np.linspace(0, 1, 65536)
    return np.where(code <= 0.5, code**2 / 3, (np.exp((code - c) / a) + b) / 12).astype(np.float32)


def _levels() -> NDArray[np.uint8]:
    """Table from square roots of light to 8-bit levels by the inverse EOTF of BT.1886 (2.4th root); shape [65536].

    Evenly spaced square roots are dense where 8-bit levels are dense: near black.
    """
    return np.rint(255 * np.linspace(0, 1, 65536) ** (2 / 2.4)).astype(np.uint8)


_LIGHT = {ColorTrc.SMPTE2084: _perceptual_quantizer(), ColorTrc.ARIB_STD_B67: _hybrid_log_gamma()}
_LEVELS = _levels()


def to_rgb(frame: VideoFrame, width: int, height: int) -> NDArray[np.uint8]:
    """Convert a frame to RGB of `width` x `height`, in its coded orientation. Shape [height, width, 3]."""
    if is_hdr(frame):
        code_values = _scale(frame, width, height, "rgb48le", ColorRange.JPEG)
        return tone_map(code_values, ColorTrc(frame.color_trc))
    return _scale(frame, width, height, "rgb24", ColorRange.JPEG)


def to_yuv420(frame: VideoFrame, width: int, height: int, target: Colorspace) -> NDArray[np.uint8]:
    """Convert an SDR frame to limited-range yuv420p of `width` x `height` with the matrix `target`.

    Args:
        width: even.
        height: even.

    Returns:
        The planes one below the other, shape [height * 3 / 2, width].
    """
    return _scale(frame, width, height, "yuv420p", ColorRange.MPEG, target)


def is_hdr(frame: VideoFrame) -> bool:
    """Whether the frame's transfer function is PQ or HLG."""
    return frame.color_trc in _LIGHT


def tone_map(rgb: NDArray[np.uint16], transfer: ColorTrc) -> NDArray[np.uint8]:
    """Tone-map PQ or HLG to SDR.

    Args:
        rgb: BT.2020, full range (65535 is the largest code value), shape [height, width, 3].
        transfer: SMPTE2084 or ARIB_STD_B67.

    Returns:
        8-bit RGB with BT.709 primaries, the inverse of BT.1886 as transfer, shape [height, width, 3].
    """
    light = _LIGHT[transfer][rgb]
    if transfer == ColorTrc.ARIB_STD_B67:
        # The OOTF of BT.2100, table 5, for a display of 1000 cd/m2 (gamma 1.2).
        light *= _transform(light, _BT2020_LUMA) ** np.float32(0.2) * np.float32(HDR_PEAK / SDR_WHITE)
    light = _transform(light, _BT2020_TO_BT709)
    light *= _gain(np.maximum(np.maximum(light[..., 0], light[..., 1]), light[..., 2]))[..., np.newaxis]
    return _LEVELS[(np.sqrt(light.clip(0, 1)) * np.float32(len(_LEVELS) - 1)).astype(np.uint16)]


def _transform(light: NDArray[np.float32], rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Multiply the colours [..., 3] with a matrix [n, 3]. Sum by sum, so that all processors round alike."""
    red, green, blue = (light[..., channel] for channel in range(3))
    return np.stack([row[0] * red + row[1] * green + row[2] * blue for row in rows], axis=-1)


def matrix(frame: VideoFrame) -> Colorspace:
    """The frame's YUV matrix. If it states no known one: BT.2020 for HDR, BT.709 for HD and BT.601 below."""
    if frame.colorspace in _MATRICES:
        return _MATRICES[frame.colorspace]
    if is_hdr(frame):
        return Colorspace.BT2020
    return Colorspace.ITU709 if frame.width >= 1280 or frame.height > 576 else Colorspace.ITU601


def _scale(
    frame: VideoFrame,
    width: int,
    height: int,
    pixel_format: str,
    color_range: ColorRange,
    target: Colorspace | None = None,
) -> NDArray[Any]:
    # One thread: the decoder's threads keep the cores busy, and starting more costs more time than they save.
    scaled = VideoReformatter().reformat(
        frame,
        width,
        height,
        pixel_format,
        src_colorspace=matrix(frame),
        dst_colorspace=target,
        dst_color_range=color_range,
        interpolation="AREA",
        threads=1,
    )
    return scaled.to_ndarray()


def _gain(brightest: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale factor per pixel by its brightest channel (1 is SDR's white), as in libavfilter/vf_tonemap.c.

    The Moebius curve `scale * (x + a) / (x + b)` touches the identity at `LINEAR_BELOW` and passes through (peak, 1).
    """
    peak, knee = HDR_PEAK / SDR_WHITE, LINEAR_BELOW
    a = -(knee**2) * (peak - 1) / (knee**2 - 2 * knee + peak)
    b = (knee**2 - 2 * knee * peak + peak) / (peak - 1)
    scale = (b**2 + 2 * b * knee + knee**2) / (b - a)
    x = np.maximum(brightest, np.float32(knee))
    return np.float32(scale) * (x + np.float32(a)) / ((x + np.float32(b)) * x)
