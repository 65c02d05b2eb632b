"""A small picture to draw on, in the coordinates of the finished frame.

Everything is drawn several times larger and then reduced by area interpolation. This gives smooth edges with OpenCV
alone. The result is BGRA with premultiplied alpha, and untouched pixels are transparent.
"""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[Any]
"""uint8; (height, width, 4) premultiplied BGRA or (height, width, 3) BGR."""
Point = tuple[float, float]

OBJECT_COLOURS = {
    "red": "#d62f2f",
    "blue": "#2459c9",
    "yellow": "#f5c518",
    "green": "#2f9e44",
    "orange": "#f07c1b",
    "purple": "#7b3fb5",
    "white": "#f4f4f0",
    "black": "#22242a",
    "brown": "#7a4b26",
    "pink": "#f08cb4",
    "grey": "#8a8f98",
    "teal": "#159a9c",
}


def bgr(colour: str) -> tuple[int, int, int]:
    """`#rrggbb` in OpenCV's channel order."""
    return int(colour[5:7], 16), int(colour[3:5], 16), int(colour[1:3], 16)


def shade(colour: str, factor: float) -> str:
    """A darker (`factor` < 1) or lighter (> 1) `#rrggbb`."""
    channels = (min(255, round(int(colour[i : i + 2], 16) * factor)) for i in (1, 3, 5))
    return "#" + "".join(f"{channel:02x}" for channel in channels)


class Canvas:
    """A picture of `width` x `height` pixels times `scale`, drawn at `oversampling` times that size.

    `scale` enlarges everything that is drawn.
    """

    def __init__(self, width: int, height: int, scale: float = 1.0, oversampling: int = 2) -> None:
        self.width = width
        self.height = height
        self._size = (max(1, round(width * scale)), max(1, round(height * scale)))
        self._unit = scale * oversampling
        self._pixels = np.zeros((self._size[1] * oversampling, self._size[0] * oversampling, 4), np.uint8)

    def rect(self, x: float, y: float, width: float, height: float, colour: str) -> None:
        """A filled rectangle from its upper left corner."""
        self.polygon([(x, y), (x + width, y), (x + width, y + height), (x, y + height)], colour)

    def polygon(self, points: Sequence[Point], colour: str) -> None:
        """A filled polygon."""
        corners = np.rint(np.array(points) * self._unit).astype(np.int32)
        cv2.fillPoly(self._pixels, [corners], (*bgr(colour), 255))

    def circle(self, x: float, y: float, radius: float, colour: str) -> None:
        """A filled circle."""
        self.ellipse(x, y, radius, radius, colour)

    def ellipse(
        self, x: float, y: float, rx: float, ry: float, colour: str, start: float = 0, end: float = 360
    ) -> None:
        """A filled ellipse, or the sector between two angles in degrees, clockwise from the right."""
        center, radii = self._at(x, y), self._at(rx, ry)
        cv2.ellipse(self._pixels, center, radii, 0, start, end, (*bgr(colour), 255), -1)

    def line(self, points: Sequence[Point], colour: str, width: float = 2) -> None:
        """A round-ended line through the points."""
        corners = np.rint(np.array(points) * self._unit).astype(np.int32)
        cv2.polylines(self._pixels, [corners], False, (*bgr(colour), 255), max(1, round(width * self._unit)))

    def gradient(self, top: float, bottom: float, upper: str, lower: str) -> None:
        """A vertical blend over the whole width between two heights."""
        first, last = round(top * self._unit), round(bottom * self._unit)
        share = np.linspace(0, 1, last - first)[:, None]
        rows = (1 - share) * np.array(bgr(upper)) + share * np.array(bgr(lower))
        self._pixels[first:last, :, :3] = np.rint(rows).astype(np.uint8)[:, None]
        self._pixels[first:last, :, 3] = 255

    def picture(self, x: float, y: float, width: float, height: float, pixels: Picture) -> None:
        """A BGR picture, resized to `width` x `height` with its upper left corner at (x, y)."""
        (left, top), (right, bottom) = self._at(x, y), self._at(x + width, y + height)
        resized = cv2.resize(pixels, (right - left, bottom - top), interpolation=cv2.INTER_AREA)
        self._pixels[top:bottom, left:right, :3] = resized
        self._pixels[top:bottom, left:right, 3] = 255

    def finish(self) -> Picture:
        """The picture at its final size, (height, width, 4) uint8, premultiplied BGRA."""
        return cv2.resize(self._pixels, self._size, interpolation=cv2.INTER_AREA)

    def _at(self, x: float, y: float) -> tuple[int, int]:
        return round(x * self._unit), round(y * self._unit)
