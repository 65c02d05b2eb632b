"""Measures single frames: difference from the previous frame, sharpness, brightness, dark pixels and appearance.

Everything is measured on one small picture, at most 128 pixels on its longer side, so that values of videos of
different sizes are comparable. The picture keeps its stored orientation; only the hash in a descriptor is of the
upright picture. High dynamic range is not tone-mapped, so such videos have less contrast here than on a screen.

Frames are reduced one by one, so that no decoder frame is held back, and are measured in groups. On such small pictures
the overhead of an OpenCV or numpy call is about as large as its work. Reduction costs most, because it reads the whole
frame: a tenth of the decoding time. libswscale does it better than OpenCV, if its scaler is reused and runs on one
thread.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import cv2
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from numpy.typing import NDArray

from operators.video.decode.packets import sample_aspect
from operators.video.decode.probe import VideoProbe, picture_format
from schemas.tables import PictureFormat
from schemas.video.orientation import Orientation, orientation

Picture = NDArray[np.uint8]

ANALYSIS_SIDE = 128
"""Longer side of the measured pictures. With 160 and with 256 (PySceneDetect's own choice), the shots of the sample
films and of a real film are the same."""

DARK_LUMA = 25
"""Highest luma of a dark pixel: a tenth of the range (ffmpeg's `blackdetect`, `pixel_black_th`)."""

HASH_BYTES, HISTOGRAM_BINS = 8, 27
DESCRIPTOR_BYTES = HASH_BYTES + HISTOGRAM_BINS

GROUP = 16
"""Number of pictures measured per call. With the arrays derived from them they take 2 MB."""

# Without ACCURATE_RND pictures get darker with the size of the frame. The flags are combined once, because that takes
# as long as `difference`.
_AREA = Interpolation.AREA | Interpolation.ACCURATE_RND

_LEVELS = 3
_LEVEL_WEIGHTS = np.array([[_LEVELS**2, _LEVELS, 1]], dtype=np.float32)


class ComparedFrame(NamedTuple):
    """The data of a frame that the next frame is compared with."""

    hsv: Picture
    """HSV picture, shape [height, width, 3]."""
    luma: Picture
    """Luma, shape [height, width]."""


@dataclass
class FrameMeasures:
    """Measures of all frames, one column per measure: 67 bytes per frame."""

    times_us: array[int] = field(default_factory=lambda: array("q"))
    score: array[float] = field(default_factory=lambda: array("d"))
    """PySceneDetect's content score: mean absolute difference of hue, saturation and value from the frame before, 0 to
    255."""
    motion: array[float] = field(default_factory=lambda: array("f"))
    """Mean absolute difference of luma from the previous frame, 0 to 1; 0 for the first frame."""
    sharpness: array[float] = field(default_factory=lambda: array("f"))
    """Variance of the Laplacian of luma, in 8-bit levels. It is computed as the mean square, because the mean of a
    Laplacian is close to 0."""
    brightness: array[float] = field(default_factory=lambda: array("f"))
    """Mean luma, 0 to 1."""
    dark: array[float] = field(default_factory=lambda: array("f"))
    """Share of dark pixels, 0 to 1."""
    descriptors: bytearray = field(default_factory=bytearray)
    """Appearance descriptors, `DESCRIPTOR_BYTES` per frame; see `appearance_descriptor`."""
    formats: list[PictureFormat] = field(default_factory=list)
    """Each change of the frame format, beginning with the first frame's."""
    first: ComparedFrame | None = None
    last: ComparedFrame | None = None

    def add(self, times_us: Sequence[int], pictures: Picture, rotation: int, mirrored: bool = False) -> None:
        """Measure the frames that follow.

        Args:
            times_us: time of each frame.
            pictures: BGR, shape [frames, height, width, 3].
            rotation: clockwise rotation in degrees that makes the pictures upright.
            mirrored: whether to exchange left and right before the rotation.
        """
        hsvs, lumas = _convert(pictures, cv2.COLOR_BGR2HSV), _convert(pictures, cv2.COLOR_BGR2GRAY)
        for current, is_dark in zip(map(ComparedFrame, hsvs, lumas), lumas <= DARK_LUMA, strict=True):
            score, motion = difference(self.last or current, current)
            edges = cv2.Laplacian(current.luma, cv2.CV_16S)
            self.score.append(score)
            self.motion.append(motion)
            self.sharpness.append(cv2.norm(edges, cv2.NORM_L2SQR) / edges.size)
            self.brightness.append(cv2.mean(current.luma)[0] / 255)
            self.dark.append(np.count_nonzero(is_dark) / is_dark.size)
            self.first = self.first or current
            self.last = current
        self.times_us.extend(times_us)
        self.descriptors += appearance_descriptor(pictures, rotation, mirrored).tobytes()

    def extend(self, later: FrameMeasures) -> None:
        """Append the measures of the frames that follow, which were measured separately."""
        if later.first is None:
            return
        if self.last is not None:
            later.score[0], later.motion[0] = difference(self.last, later.first)
        for own, added in zip(self._columns(), later._columns(), strict=True):
            own.extend(added)
        self.descriptors += later.descriptors
        self.note_formats(later.formats)
        self.first = self.first or later.first
        self.last = later.last

    def note_formats(self, later: Sequence[PictureFormat]) -> None:
        """Append the formats of the frames that follow. The first of them may repeat the last format."""
        if self.formats and self.formats[-1].start_us >= later[0].start_us:
            self.formats.pop()
        continues = bool(self.formats) and self.formats[-1].is_like(later[0])
        self.formats += later[continues:]

    def _columns(self) -> tuple[array[Any], ...]:
        return self.times_us, self.score, self.motion, self.sharpness, self.brightness, self.dark


class Measurer:
    """Collects decoded frames one by one, keeps only their small pictures, and measures these in groups.

    Args:
        video: gives the orientation, the picture size and the key frame times.
        show: called with each small picture, BGR, in order.
    """

    def __init__(self, video: VideoProbe, show: Callable[[Picture], None] | None = None) -> None:
        self._orientation, self._show = video.orientation, show
        self._pictures = SmallPictures(*analysis_size(video))
        self._measures = FrameMeasures()
        self._times_us: list[int] = []
        self._format: tuple[object, ...] = ()
        self._key_frame_times_us = video.index.key_frame_times_us

    def add(self, time_us: int, frame: VideoFrame) -> None:
        """Add the next frame."""
        self._note_format(time_us, frame)
        self._pictures.put(frame)
        self._times_us.append(time_us)
        if len(self._times_us) == GROUP:
            self._measure()

    def finish(self) -> FrameMeasures:
        """Return the measures of all frames. Call it once, after the last frame."""
        if self._times_us:
            self._measure()
        return self._measures

    def _note_format(self, time_us: int, frame: VideoFrame) -> None:
        """Record the frame's format if it has changed.

        The parts of a `PictureFormat` are compared, because creating one is slower. Damaged frames are ignored, as they
        may show any format.

        Decoders tag frames when they output them. The last frames before a key frame may therefore have the tags of
        that key frame. A change of tags alone is dated to the next key frame.
        """
        pixels = frame.width, frame.height, frame.format.name
        tags = orientation(frame), sample_aspect(frame), frame.color_primaries, frame.color_trc
        if (pixels, tags) == self._format or (frame.is_corrupt and self._format):
            return
        if self._format and self._format[0] == pixels:
            following = int(np.searchsorted(self._key_frame_times_us, time_us))
            time_us = int(self._key_frame_times_us[following : following + 1].max(initial=time_us))
        self._format = pixels, tags
        self._measures.note_formats([picture_format(frame, time_us)])

    def _measure(self) -> None:
        pictures = self._pictures.take()
        self._measures.add(self._times_us, pictures, self._orientation.rotation, self._orientation.mirrored)
        if self._show is not None:
            for picture in pictures:
                self._show(picture)
        self._times_us.clear()


class SmallPictures:
    """Reduces frames of any format to one small size by area averaging, at most `GROUP` at a time.

    Colours are interpreted as BT.601.
    """

    def __init__(self, width: int, height: int) -> None:
        self._width, self._height = width, height
        self._scaler = VideoReformatter()  # reused: setup takes 0.1 ms, half of the time for a small frame
        self._pictures: Picture = np.empty((GROUP, height, width, 3), dtype=np.uint8)
        self._small: list[VideoFrame] = []

    def put(self, frame: VideoFrame) -> None:
        """Reduce a frame and queue it."""
        small = self._scaler.reformat(
            frame,
            self._width,
            self._height,
            "bgr24",
            src_colorspace=Colorspace.ITU601,
            dst_color_range=ColorRange.JPEG,
            interpolation=_AREA,
            threads=1,
        )
        self._small.append(small)

    def take(self) -> Picture:
        """Return the pictures queued since the last call, valid until the next one. Shape [frames, height, width,
        3]."""
        pictures = self._pictures[: len(self._small)]
        for picture, frame in zip(pictures, self._small, strict=True):
            picture[:] = frame.to_ndarray()
        self._small.clear()
        return pictures


def difference(before: ComparedFrame, after: ComparedFrame) -> tuple[float, float]:
    """Content score (0 to 255) and motion (0 to 1) between two frames."""
    return (
        cv2.norm(after.hsv, before.hsv, cv2.NORM_L1) / after.hsv.size,
        cv2.norm(after.luma, before.luma, cv2.NORM_L1) / (255 * after.luma.size),
    )


def analysis_size(video: VideoProbe) -> tuple[int, int]:
    """Stored width and height of the measured picture: even, not enlarged, the longer side at most `ANALYSIS_SIDE`."""
    longest = max(video.width, video.height, ANALYSIS_SIDE)
    width, height = (max(2, side * ANALYSIS_SIDE // longest // 2 * 2) for side in (video.width, video.height))
    return (height, width) if video.orientation.swaps_sides else (width, height)


def appearance_descriptor(pictures: Picture, rotation: int, mirrored: bool = False) -> Picture:
    """Compute appearance descriptors of BGR pictures.

    A descriptor begins with eight bytes of difference hash (dHash: N. Krawetz, "Kind of Like That", 2013): for each
    pixel of the upright picture reduced to 9x8, whether it is darker than its right neighbour. A histogram of 3x3x3
    colours follows, in which 255 stands for all pixels.

    Args:
        pictures: shape [frames, height, width, 3].
        rotation: clockwise rotation in degrees that makes the pictures upright.
        mirrored: whether to exchange left and right before the rotation.

    Returns:
        Shape [frames, DESCRIPTOR_BYTES].
    """
    frames = len(pictures)
    tiny = _halve(_halve(pictures))
    upright = Orientation(mirrored, rotation).upright(_convert(tiny, cv2.COLOR_BGR2GRAY), axes=(1, 2))
    rows = np.stack([cv2.resize(picture, (9, 8), interpolation=cv2.INTER_AREA) for picture in upright])
    hashes = np.packbits((rows[:, :, :-1] < rows[:, :, 1:]).reshape(frames, -1), axis=1)
    colours = cv2.transform((tiny // (256 // _LEVELS + 1)).reshape(frames, -1, 3), _LEVEL_WEIGHTS)
    places = colours.reshape(frames, -1) + HISTOGRAM_BINS * np.arange(frames)[:, None]
    counts = np.bincount(places.ravel(), minlength=HISTOGRAM_BINS * frames).reshape(frames, HISTOGRAM_BINS)
    shares = (counts * 255 + places.shape[1] // 2) // places.shape[1]
    return np.concatenate([hashes, shares.astype(np.uint8)], axis=1)


def visual_distance(descriptors: Picture, others: Picture) -> NDArray[np.float64]:
    """Visual distance between frames, 0 to 1.

    It is the mean of two parts. The first is the number of differing hash bits, where half of the bits (the expected
    value for unrelated pictures) count as 1. The second is the share of pixels that would have to change colour to make
    the histograms equal.

    Args:
        descriptors: of shape [..., DESCRIPTOR_BYTES].
        others: of shape [..., DESCRIPTOR_BYTES], broadcast against `descriptors`.
    """
    bits = np.bitwise_count(descriptors[..., :HASH_BYTES] ^ others[..., :HASH_BYTES]).sum(axis=-1, dtype=np.int64)
    colours = np.abs(descriptors[..., HASH_BYTES:].astype(np.int64) - others[..., HASH_BYTES:]).sum(axis=-1) / (2 * 255)
    result: NDArray[np.float64] = (np.minimum(1, bits / (4 * HASH_BYTES)) + np.minimum(1, colours)) / 2
    return result


def _halve(pictures: Picture) -> Picture:
    """Halve the width and height of pictures in one call. Sides of one pixel stay.

    Shape [frames, height, width, channels].
    """
    frames, height, width, channels = pictures.shape
    rows, columns = max(1, height // 2), max(1, width // 2)
    even = np.ascontiguousarray(pictures[:, : 2 * rows, : 2 * columns])
    tall = cv2.resize(even.reshape(-1, even.shape[2], channels), (columns, frames * rows), interpolation=cv2.INTER_AREA)
    return np.asarray(tall, dtype=np.uint8).reshape(frames, rows, columns, channels)


def _convert(pictures: Picture, code: int) -> Picture:
    """Convert BGR pictures to another colour space in one call.

    Shape [frames, height, width, 3], or [frames, height, width] for grey.
    """
    frames, height, width = pictures.shape[:3]
    tall = cv2.cvtColor(pictures.reshape(frames * height, width, 3), code)
    return np.asarray(tall, dtype=np.uint8).reshape(frames, height, *tall.shape[1:])
