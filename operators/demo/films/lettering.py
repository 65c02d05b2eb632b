"""On-screen texts: sans-serif capitals on a plate, placed in one ninth of the frame.

They are drawn with OpenCV's built-in TrueType font.
"""

from functools import cache
from typing import NamedTuple

import cv2
import numpy as np

from operators.demo.films.canvas import Picture, bgr
from operators.demo.films.script import FRAME_HEIGHT, FRAME_WIDTH, OnScreenText, PixelBox, TextStyle
from schemas.base import Region

_MARGIN = 14
"""Pixels between a plate and the edge of the frame."""


class Style(NamedTuple):
    """Font size in pixels, font weight, ink and plate colours, and the plate's border round the letters in pixels."""

    size: int
    weight: int
    ink: str
    plate: str
    border: int


STYLES: dict[TextStyle, Style] = {
    "title": Style(34, 700, "#fff4d6", "#10131c", 14),
    "story": Style(26, 600, "#ffffff", "#14161d", 10),
    "sign": Style(26, 700, "#14161d", "#ffe27a", 9),
    "counter": Style(26, 700, "#ffffff", "#a3231f", 9),
}


class Plate(NamedTuple):
    """A lettered plate: its box, the box of its letters, and its (height, width, 3) BGR pixels."""

    box: PixelBox
    letters: PixelBox
    pixels: Picture


@cache
def plate(text: OnScreenText) -> Plate:
    """The plate of a text.

    Raises:
        ValueError: it is too wide for the frame or for its region.
    """
    style = STYLES[text.style]
    ink = _ink(text.text, style)
    height, width = ink.shape[0] + 2 * style.border, ink.shape[1] + 2 * style.border
    left, top = _corner(text.region, width, height)
    box = PixelBox(left, top, left + width, top + height)
    if width > FRAME_WIDTH - 2 * _MARGIN or region_of(box) != text.region:
        raise ValueError(
            f"text {text.text!r} is {width} px wide in style {text.style!r}: too wide for region {text.region.value}; "
            "shorten it, or put it in top, center or bottom"
        )
    share = np.zeros((height, width, 1), np.float32)
    inner = np.s_[style.border : height - style.border, style.border : width - style.border]
    share[inner] = ink[:, :, None] / 255
    pixels = np.rint(share * bgr(style.ink) + (1 - share) * bgr(style.plate)).astype(np.uint8)
    letters = PixelBox(left + style.border, top + style.border, box.right - style.border, box.bottom - style.border)
    return Plate(box, letters, pixels)


def region_of(box: PixelBox) -> Region:
    """The ninth of the frame that holds the middle of a box, or the nearest one if the middle is outside."""
    column = min(max((box.left + box.right) * 3 // (2 * FRAME_WIDTH), 0), 2)
    row = min(max((box.top + box.bottom) * 3 // (2 * FRAME_HEIGHT), 0), 2)
    return list(Region)[3 * row + column]


def overlap(one: PixelBox, other: PixelBox) -> bool:
    """Whether two boxes share a pixel."""
    return one.left < other.right and other.left < one.right and one.top < other.bottom and other.top < one.bottom


def _ink(text: str, style: Style) -> Picture:
    """The letters' coverage, 0 to 255, cropped to the inked pixels."""
    face = cv2.FontFace("sans")
    # putText with a font face needs three channels. The letters are white, so any channel is their coverage.
    page = np.zeros((2 * style.size, (len(text) + 1) * style.size, 3), np.uint8)
    cv2.putText(page, text, (style.size // 2, style.size * 3 // 2), (255, 255, 255), face, style.size, style.weight)
    left, top, width, height = cv2.boundingRect(page[:, :, 0])
    return page[top : top + height, left : left + width, 0]


def _corner(region: Region, width: int, height: int) -> tuple[int, int]:
    row, column = divmod(list(Region).index(region), 3)
    left = (_MARGIN, (FRAME_WIDTH - width) // 2, FRAME_WIDTH - _MARGIN - width)[column]
    top = (_MARGIN, (FRAME_HEIGHT - height) // 2, FRAME_HEIGHT - _MARGIN - height)[row]
    return left, top
