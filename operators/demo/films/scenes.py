"""Background scenes, painted once and wider than the frame, so that the camera can pan."""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Literal

import cv2
import numpy as np

from operators.demo.films import indoors, outdoors
from operators.demo.films.canvas import Canvas, Picture
from operators.demo.films.script import FRAME_HEIGHT, FRAME_WIDTH, Scene
from operators.demo.films.vehicles import Drawing

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

_CACHED_SCENES = 24
"""Scenes kept in memory: 1 MB each, or 2.6 MB at a zoom of 1.6."""

_TINT_BGR = {"dusk": (0.74, 0.78, 0.98), "night": (0.62, 0.42, 0.34)}


@lru_cache(_CACHED_SCENES)
def background(scene: Scene, light: Light, zoom: float = 1.0) -> Picture:
    """A scene in some light: (FRAME_HEIGHT, SCENE_WIDTH, 3) times `zoom`, uint8 BGR.

    The array is cached and shared. Copy it before drawing on it.
    """
    if light != "day":
        return np.clip(background(scene, "day", zoom) * np.array(_TINT_BGR[light]), 0, 255).astype(np.uint8)
    canvas = Canvas(SCENE_WIDTH, FRAME_HEIGHT, zoom)
    PAINTERS[scene](canvas)
    return cv2.cvtColor(canvas.finish(), cv2.COLOR_BGRA2BGR)


def _view(canvas: Canvas, colour: str, phase: int, *, scene: Scene) -> None:
    middle = background(scene, "day")[:, 160 : 160 + FRAME_WIDTH]
    canvas.rect(0, 0, 76, 46, colour)
    canvas.picture(3, 3, 70, 40, middle)


VIEWS: dict[str, Drawing] = {f"{scene}_view": (76, 46, partial(_view, scene=scene)) for scene in PAINTERS}
"""Small framed pictures of the scenes, as somebody thinks of a place."""
