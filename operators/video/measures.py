"""Measures single frames: how much one differs from the one before, how sharp, bright and dark it is, and its look.

Everything is measured on one small picture, at most 160 pixels on its longer side, so that numbers of videos of
different sizes compare. It lies as it is stored: only the hash in a look is of the upright picture. Wide dynamic range
is not tone-mapped: such videos measure flatter than they are shown.

Frames are made small one by one, so that no decoder's frame has to wait, and measured in groups: on so small a picture
a call of OpenCV or numpy costs about as much as what it does.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
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

GROUP = 16
"""Pictures that are measured at once; with what is made of them they take 2 MB."""

_LEVELS = 3
_LEVEL_WEIGHTS = np.array([[_LEVELS**2, _LEVELS, 1]], dtype=np.float32)


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
    """`LOOK_BYTES` for each frame, see `looks`."""
    first: Seen | None = None
    last: Seen | None = None

    def add(self, times_us: Sequence[int], pictures: Picture, rotation: int) -> None:
        """Measure the frames that follow.

        Args:
            pictures: BGR, shape [frames, height, width, 3].
            rotation: how far to turn them clockwise to have them upright, in degrees.
        """
        hsvs, lumas = _converted(pictures, cv2.COLOR_BGR2HSV), _converted(pictures, cv2.COLOR_BGR2GRAY)
        for seen, is_dark in zip(map(Seen, hsvs, lumas), lumas <= DARK_LUMA, strict=True):
            score, motion = difference(self.last or seen, seen)
            edges = cv2.Laplacian(seen.luma, cv2.CV_16S)
            self.score.append(score)
            self.motion.append(motion)
            self.sharpness.append(cv2.norm(edges, cv2.NORM_L2SQR) / edges.size)
            self.brightness.append(cv2.mean(seen.luma)[0] / 255)
            self.dark.append(np.count_nonzero(is_dark) / is_dark.size)
            self.first = self.first or seen
            self.last = seen
        self.times_us.extend(times_us)
        self.looks += looks(pictures, rotation).tobytes()

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


class Measurer:
    """Takes decoded frames one by one, keeps their small pictures only, and measures these in groups.

    Args:
        show: told each small picture, BGR, in order.
    """

    def __init__(self, video: VideoProbe, show: Callable[[Picture], None] | None = None) -> None:
        self._rotation, self._show = video.rotation, show
        self._pictures = SmallPictures(*analysis_size(video))
        self._measures = FrameMeasures()
        self._times_us: list[int] = []

    def add(self, time_us: int, frame: VideoFrame) -> None:
        """The frame that follows."""
        self._pictures.put(len(self._times_us), frame)
        self._times_us.append(time_us)
        if len(self._times_us) == GROUP:
            self._measure()

    def finish(self) -> FrameMeasures:
        """The measures of all frames. To be asked once, after the last frame."""
        if self._times_us:
            self._measure()
        return self._measures

    def _measure(self) -> None:
        pictures = self._pictures.bgr()[: len(self._times_us)]
        self._measures.add(self._times_us, pictures, self._rotation)
        if self._show is not None:
            for picture in pictures:
                self._show(picture)
        self._times_us.clear()


class SmallPictures:
    """A group of frames made small, in one (even) size, by averaging areas.

    Frames of the usual pixel format are reduced plane by plane, which costs a quarter of libswscale's way. One above
    another their planes are an I420 picture themselves, which is converted at once. As in libswscale, colours are taken
    for BT.601's.
    """

    def __init__(self, width: int, height: int) -> None:
        self._width, self._height = width, height
        self._i420 = np.zeros((GROUP * height * 3 // 2, width), dtype=np.uint8)
        luma, chroma = self._i420[: GROUP * height], self._i420[GROUP * height :]
        self._luma = luma.reshape(GROUP, height, width)
        self._chroma = chroma.reshape(2, GROUP, height // 2, width // 2)
        self._unusual: dict[int, Picture] = {}

    def put(self, number: int, frame: VideoFrame) -> None:
        """Reduce a frame to the group's picture `number`."""
        if frame.format.name != "yuv420p" or frame.color_range == ColorRange.JPEG:
            small = frame.reformat(self._width, self._height, "bgr24", interpolation="AREA")
            self._unusual[number] = np.asarray(small.to_ndarray(), dtype=np.uint8)
            return
        luma, blue, red = planes(frame)
        shrink(luma, self._luma[number])
        shrink(blue, self._chroma[0, number])
        shrink(red, self._chroma[1, number])

    def bgr(self) -> Picture:
        """All pictures that were put since the last call, shape [GROUP, height, width, 3]; others are any."""
        tall = cv2.cvtColor(self._i420, cv2.COLOR_YUV2BGR_I420)
        pictures: Picture = np.asarray(tall, dtype=np.uint8).reshape(GROUP, self._height, self._width, 3)
        for number, picture in self._unusual.items():
            pictures[number] = picture
        self._unusual.clear()
        return pictures


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


def planes(frame: VideoFrame) -> list[Picture]:
    """The planes of a planar frame without what fills up their lines, shapes [height, width * bytes of a sample]."""
    sample_bytes = -(-frame.format.components[0].bits // 8)
    return [
        np.frombuffer(cast(Any, plane), np.uint8).reshape(plane.height, plane.line_size)[
            :, : plane.width * sample_bytes
        ]
        for plane in frame.planes
    ]


def shrink(picture: Picture, small: Picture) -> None:
    """Reduce a picture into another's place by averaging areas.

    Halved as often as possible, as OpenCV is fast at that and slow at other factors. Halving leaves out an odd last row
    or column.
    """
    height, width = small.shape[:2]
    while picture.shape[0] >= 2 * height and picture.shape[1] >= 2 * width:
        half_height, half_width = picture.shape[0] // 2, picture.shape[1] // 2
        even = picture[: 2 * half_height, : 2 * half_width]
        if (half_height, half_width) == (height, width):
            cv2.resize(even, (width, height), small, interpolation=cv2.INTER_AREA)
            return
        picture = np.asarray(cv2.resize(even, (half_width, half_height), interpolation=cv2.INTER_AREA), np.uint8)
    if picture.shape == small.shape:
        small[:] = picture
    else:
        cv2.resize(picture, (width, height), small, interpolation=cv2.INTER_AREA)


def looks(pictures: Picture, rotation: int) -> Picture:
    """The appearance of BGR pictures, shape [frames, height, width, 3], in few bytes each, shape [frames, LOOK_BYTES].

    First eight bytes of difference hash (dHash: N. Krawetz, "Kind of Like That", 2013): of the upright picture reduced
    to 9x8, is each pixel darker than its right neighbour? Then a histogram of 3x3x3 colours, 255 being all pixels.
    """
    frames = len(pictures)
    tiny = _halved(_halved(pictures))
    upright = np.ascontiguousarray(np.rot90(_converted(tiny, cv2.COLOR_BGR2GRAY), k=-rotation // 90, axes=(1, 2)))
    rows = np.stack([cv2.resize(picture, (9, 8), interpolation=cv2.INTER_AREA) for picture in upright])
    hashes = np.packbits((rows[:, :, :-1] < rows[:, :, 1:]).reshape(frames, -1), axis=1)
    colours = cv2.transform((tiny // (256 // _LEVELS + 1)).reshape(frames, -1, 3), _LEVEL_WEIGHTS)
    places = colours.reshape(frames, -1) + HISTOGRAM_BINS * np.arange(frames)[:, None]
    counts = np.bincount(places.ravel(), minlength=HISTOGRAM_BINS * frames).reshape(frames, HISTOGRAM_BINS)
    shares = (counts * 255 + places.shape[1] // 2) // places.shape[1]
    return np.concatenate([hashes, shares.astype(np.uint8)], axis=1)


def unlikeness(looks: Picture, others: Picture) -> NDArray[np.float64]:
    """How different frames look, 0 to 1, shapes [..., LOOK_BYTES] each, broadcast against each other.

    The mean of two parts: the hashes' differing bits, where half of them (what unrelated pictures have) make 1; and the
    share of pixels that would have to change colour to make the histograms equal.
    """
    bits = np.bitwise_count(looks[..., :HASH_BYTES] ^ others[..., :HASH_BYTES]).sum(axis=-1, dtype=np.int64)
    colours = np.abs(looks[..., HASH_BYTES:].astype(np.int64) - others[..., HASH_BYTES:]).sum(axis=-1) / (2 * 255)
    result: NDArray[np.float64] = (np.minimum(1, bits / (4 * HASH_BYTES)) + np.minimum(1, colours)) / 2
    return result


def _halved(pictures: Picture) -> Picture:
    """Pictures of half the width and height, all in one call; sides of one pixel stay. Shapes [frames, ...]."""
    frames, height, width, channels = pictures.shape
    rows, columns = max(1, height // 2), max(1, width // 2)
    even = np.ascontiguousarray(pictures[:, : 2 * rows, : 2 * columns])
    tall = cv2.resize(even.reshape(-1, even.shape[2], channels), (columns, frames * rows), interpolation=cv2.INTER_AREA)
    return np.asarray(tall, dtype=np.uint8).reshape(frames, rows, columns, channels)


def _converted(pictures: Picture, code: int) -> Picture:
    """BGR pictures in another colour space, all in one call. Shapes [frames, height, width, 3] or, grey, without 3."""
    frames, height, width = pictures.shape[:3]
    tall = cv2.cvtColor(pictures.reshape(frames * height, width, 3), code)
    return np.asarray(tall, dtype=np.uint8).reshape(frames, height, *tall.shape[1:])
