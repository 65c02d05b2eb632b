"""Background scenes, painted once and wider than the frame, so that the camera can pan."""

from collections.abc import Callable
from functools import cache
from typing import Literal

import cv2
import numpy as np

from operators.demo.films import indoors, outdoors
from operators.demo.films.canvas import Canvas, Picture
from operators.demo.films.script import FRAME_HEIGHT, FRAME_WIDTH, Scene

SCENE_WIDTH = FRAME_WIDTH + 320
"""A view at rest shows the middle. The camera reaches 160 pixels to either side."""

Light = Literal["day", "dusk", "night"]

PAINTERS: dict[Scene, Callable[[Canvas], None]] = {
    "card": indoors.card,
    "harbour": outdoors.harbour,
    "market": outdoors.market,
    "forest": outdoors.forest,
    "street": outdoors.street,
    "kitchen": indoors.kitchen,
    "workshop": indoors.workshop,
    "mountain": outdoors.mountain,
    "desert": outdoors.desert,
    "meadow": outdoors.meadow,
    "station": outdoors.station,
    "laboratory": indoors.laboratory,
    "library": indoors.library,
    "stadium": outdoors.stadium,
    "beach": outdoors.beach,
    "space": outdoors.space,
}

_TINT_BGR = {"dusk": (0.74, 0.78, 0.98), "night": (0.62, 0.42, 0.34)}


@cache
def background(scene: Scene, light: Light, zoom: float = 1.0) -> Picture:
    """A scene in some light: (FRAME_HEIGHT, SCENE_WIDTH, 3) times `zoom`, uint8 BGR.

    The array is cached and shared. Copy it before drawing on it.
    """
    canvas = Canvas(SCENE_WIDTH, FRAME_HEIGHT, zoom)
    PAINTERS[scene](canvas)
    picture = cv2.cvtColor(canvas.finish(), cv2.COLOR_BGRA2BGR)
    if light == "day":
        return picture
    return np.clip(picture * np.array(_TINT_BGR[light]), 0, 255).astype(np.uint8)
