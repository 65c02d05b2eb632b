"""Measures single frames: how much one differs from the one before, how sharp, bright and dark it is, and its look.

Everything is measured on one small picture, at most 160 pixels on its longer side, so that numbers of videos of
different sizes compare. It lies as it is stored: only the hash in a look is of the upright picture. Wide dynamic range
is not tone-mapped: such videos measure flatter than they are shown.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import cv2
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange
from numpy.typing import NDArray

from operators.video.probe import VideoProbe

Picture = NDArray[np.uint8]

ANALYSIS_SIDE = 160
"""Longer side of the measured pictures. At 256, PySceneDetect's own choice, the sample films' shots are the same."""

DARK_LUMA = 25
"""A pixel up to this is dark: a tenth of the range (ffmpeg's `blackdetect`, `pixel_black_th`)."""

HASH_BYTES, HISTOGRAM_BINS = 8, 27
LOOK_BYTES = HASH_BYTES + HISTOGRAM_BINS

_LOOK_SHRINK = 4
_LEVELS = 3
_LEVEL_WEIGHTS = np.array([_LEVELS**2, _LEVELS, 1], dtype=np.uint8)


class Seen(NamedTuple):
    """What of a frame the next one is compared with."""

    hsv: Picture
    """Shape [height, width, 3]."""
    luma: Picture
    """Shape [height, width]."""


@dataclass
class FrameMeasures:
    """One number of each kind for each frame, in columns. 65 bytes a frame."""

    times_us: array[int] = field(default_factory=lambda: array("q"))
    score: array[float] = field(default_factory=lambda: array("d"))
    """PySceneDetect's content score: mean absolute difference of hue, saturation and value to the frame before."""
    motion: array[float] = field(default_factory=lambda: array("f"))
    """Mean absolute difference of luma to the frame before, 0 to 1; 0 for the first."""
    sharpness: array[float] = field(default_factory=lambda: array("f"))
    """Variance of the Laplacian of luma, in 8-bit levels (its mean square: a Laplacian's mean is next to 0)."""
    brightness: array[float] = field(default_factory=lambda: array("f"))
    """Mean luma, 0 to 1."""
    dark: array[float] = field(default_factory=lambda: array("f"))
    """Share of dark pixels, 0 to 1."""
    looks: bytearray = field(default_factory=bytearray)
    """`LOOK_BYTES` for each frame, see `look`."""
    first: Seen | None = None
    last: Seen | None = None

    def add(self, time_us: int, bgr: Picture, rotation: int) -> None:
        """Measure the frame that follows. `rotation` is how far to turn it clockwise to have it upright."""
        seen = Seen(
            np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2HSV), np.uint8),
            np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY), np.uint8),
        )
        score, motion = difference(self.last or seen, seen)
        edges = cv2.Laplacian(seen.luma, cv2.CV_16S)
        self.times_us.append(time_us)
        self.score.append(score)
        self.motion.append(motion)
        self.sharpness.append(cv2.norm(edges, cv2.NORM_L2SQR) / edges.size)
        self.brightness.append(cv2.mean(seen.luma)[0] / 255)
        self.dark.append(np.count_nonzero(seen.luma <= DARK_LUMA) / seen.luma.size)
        self.looks += look(bgr, rotation).tobytes()
        self.first = self.first or seen
        self.last = seen

    def extend(self, later: FrameMeasures) -> None:
        """Append what was measured of the frames that follow, apart from these."""
        if later.first is None:
            return
        if self.last is not None:
            later.score[0], later.motion[0] = difference(self.last, later.first)
        for own, added in zip(self._columns(), later._columns(), strict=True):
            own.extend(added)
        self.looks += later.looks
        self.first = self.first or later.first
        self.last = later.last

    def _columns(self) -> tuple[array[Any], ...]:
        return self.times_us, self.score, self.motion, self.sharpness, self.brightness, self.dark


def difference(before: Seen, after: Seen) -> tuple[float, float]:
    """Content score (0 to 255) and motion (0 to 1) between two frames."""
    return (
        cv2.norm(after.hsv, before.hsv, cv2.NORM_L1) / after.hsv.size,
        cv2.norm(after.luma, before.luma, cv2.NORM_L1) / (255 * after.luma.size),
    )


def analysis_size(video: VideoProbe) -> tuple[int, int]:
    """Width and height of the measured picture: even, not enlarged, the longer side at most `ANALYSIS_SIDE`."""
    longest = max(video.width, video.height, ANALYSIS_SIDE)
    width, height = (max(2, side * ANALYSIS_SIDE // longest // 2 * 2) for side in (video.width, video.height))
    return (height, width) if video.rotation in (90, 270) else (width, height)


def reduced(frame: VideoFrame, width: int, height: int) -> Picture:
    """The frame as BGR in this (even) size, by averaging areas. Shape [height, width, 3].

    The usual pixel format is reduced plane by plane before it is converted, which costs a quarter of libswscale's way.
    As there, colours are taken for BT.601's.
    """
    if frame.format.name != "yuv420p" or frame.color_range == ColorRange.JPEG:
        small = frame.reformat(width=width, height=height, format="bgr24", interpolation="AREA")
        return np.asarray(small.to_ndarray(), dtype=np.uint8)
    luma, *chroma = planes(frame)
    small_planes = [shrunk(luma, width, height), *(shrunk(plane, width // 2, height // 2) for plane in chroma)]
    packed = np.concatenate([plane.ravel() for plane in small_planes]).reshape(height * 3 // 2, width)
    return np.asarray(cv2.cvtColor(packed, cv2.COLOR_YUV2BGR_I420), dtype=np.uint8)


def planes(frame: VideoFrame) -> list[Picture]:
    """The planes of a planar frame without what fills up their lines, shapes [height, width * bytes of a sample]."""
    sample_bytes = -(-frame.format.components[0].bits // 8)
    return [
        np.frombuffer(cast(Any, plane), np.uint8).reshape(plane.height, plane.line_size)[
            :, : plane.width * sample_bytes
        ]
        for plane in frame.planes
    ]


def shrunk(picture: Picture, width: int, height: int) -> Picture:
    """Reduced by averaging areas: halved as often as possible, as OpenCV is fast at that and slow at other factors.

    Halving leaves out an odd last row or column.
    """
    while picture.shape[0] >= 2 * height and picture.shape[1] >= 2 * width:
        half_height, half_width = picture.shape[0] // 2, picture.shape[1] // 2
        even = picture[: 2 * half_height, : 2 * half_width]
        picture = np.asarray(cv2.resize(even, (half_width, half_height), interpolation=cv2.INTER_AREA), np.uint8)
    if picture.shape[:2] == (height, width):
        return picture
    return np.asarray(cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def look(bgr: Picture, rotation: int) -> Picture:
    """A frame's appearance in few bytes, shape [LOOK_BYTES].

    First eight bytes of difference hash (dHash: N. Krawetz, "Kind of Like That", 2013): of the upright picture reduced
    to 9x8, is each pixel darker than its right neighbour? Then a histogram of 3x3x3 colours, 255 being all pixels.
    """
    height, width = bgr.shape[:2]
    tiny = shrunk(bgr, max(1, width // _LOOK_SHRINK), max(1, height // _LOOK_SHRINK))
    upright = np.rot90(cv2.cvtColor(tiny, cv2.COLOR_BGR2GRAY), k=-rotation // 90)
    rows = cv2.resize(np.ascontiguousarray(upright), (9, 8), interpolation=cv2.INTER_AREA)
    colours = (tiny // (256 // _LEVELS + 1)) @ _LEVEL_WEIGHTS
    counts = np.bincount(colours.ravel(), minlength=HISTOGRAM_BINS)
    shares = (counts * 255 + colours.size // 2) // colours.size
    return np.concatenate([np.packbits(rows[:, :-1] < rows[:, 1:]), shares.astype(np.uint8)])


def unlikeness(looks: Picture, others: Picture) -> NDArray[np.float64]:
    """How different frames look, 0 to 1, shapes [..., LOOK_BYTES] each, broadcast against each other.

    The mean of two parts: the hashes' differing bits, where half of them (what unrelated pictures have) make 1; and the
    share of pixels that would have to change colour to make the histograms equal.
    """
    bits = np.bitwise_count(looks[..., :HASH_BYTES] ^ others[..., :HASH_BYTES]).sum(axis=-1, dtype=np.int64)
    colours = np.abs(looks[..., HASH_BYTES:].astype(np.int64) - others[..., HASH_BYTES:]).sum(axis=-1) / (2 * 255)
    result: NDArray[np.float64] = (np.minimum(1, bits / (4 * HASH_BYTES)) + np.minimum(1, colours)) / 2
    return result
