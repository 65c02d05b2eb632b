"""Pictures of moving objects.

Each is drawn once per phase and direction, cropped to the visible pixels, and pasted into frames.
"""

from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np

from operators.demo.films.canvas import OBJECT_COLOURS, Canvas, Picture
from operators.demo.films.figures import FIGURES
from operators.demo.films.people import PEOPLE
from operators.demo.films.props import PROPS
from operators.demo.films.scenes import VIEWS
from operators.demo.films.script import Colour, ObjectKind, PixelBox
from operators.demo.films.vehicles import VEHICLES, Drawing

DRAWINGS: dict[str, Drawing] = VEHICLES | FIGURES | PEOPLE | PROPS | VIEWS


class Sprite(NamedTuple):
    """The pictures of an object, by phase: (height, width, 4) premultiplied BGRA, all of one size."""

    pictures: tuple[Picture, Picture]
    width: int
    height: int


@lru_cache(2048)
def sprite(kind: ObjectKind, colour: Colour, scale: float, *, facing_left: bool) -> Sprite:
    """The sprite of an object. `scale` 1 is the drawing's own size."""
    phases = [_draw(kind, colour, scale, phase) for phase in (0, 1)]
    if facing_left:
        phases = [np.ascontiguousarray(picture[:, ::-1]) for picture in phases]
    inked = np.maximum(phases[0][:, :, 3], phases[1][:, :, 3]) > 0
    rows, columns = np.flatnonzero(inked.any(axis=1)), np.flatnonzero(inked.any(axis=0))
    window = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    still, moved = (np.ascontiguousarray(picture[window]) for picture in phases)
    height, width = still.shape[:2]
    return Sprite((still, moved), width, height)


def paste(frame: Picture, picture: Picture, box: PixelBox) -> None:
    """Draw a premultiplied BGRA picture onto a BGR frame at `box`, in place. Parts outside the frame are cropped."""
    height, width = frame.shape[:2]
    left, right = max(box.left, 0), min(box.right, width)
    top, bottom = max(box.top, 0), min(box.bottom, height)
    if left >= right or top >= bottom:
        return
    patch = picture[top - box.top : bottom - box.top, left - box.left : right - box.left]
    under = frame[top:bottom, left:right]
    clear = cv2.merge([255 - patch[:, :, 3]] * 3)
    cv2.add(cv2.multiply(under, clear, scale=1 / 255), patch[:, :, :3], dst=under)


def _draw(kind: ObjectKind, colour: Colour, scale: float, phase: int) -> Picture:
    width, height, draw = DRAWINGS[kind]
    canvas = Canvas(width, height, scale, oversampling=4)
    draw(canvas, OBJECT_COLOURS[colour], phase)
    return canvas.finish()
