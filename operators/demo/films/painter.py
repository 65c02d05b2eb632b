"""Paints the frames of a film.

The still scene is drawn once per shot, moving objects are pasted on a copy, and transitions mix two shots.
"""

from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np

from operators.demo.films.canvas import Picture
from operators.demo.films.lettering import Plate, plate
from operators.demo.films.scenes import background
from operators.demo.films.script import FRAME_HEIGHT, FRAME_WIDTH, FilmScript, PixelBox, frames_of
from operators.demo.films.sprites import paste
from operators.demo.films.timeline import (
    ObjectView,
    PlacedShot,
    distractor_frames,
    in_frame,
    is_moving,
    is_present,
    place_shots,
    view_at,
)

_STEP_FRAMES = 5
"""Frames between two steps of a walk, or two beats of a wing."""


class Composition(NamedTuple):
    """What a frame shows: the corner of the view, sprites from back to front, white glare, and lettered plates.

    Sprites are compared by identity, since their pictures are cached.
    """

    view: tuple[int, int]
    sprites: tuple[tuple[int, PixelBox], ...]
    pictures: tuple[Picture, ...]
    glare: float
    plates: tuple[int, ...]

    def changed_rows(self, before: "Composition") -> tuple[int, int] | None:
        """The even rows [top, bottom) in which sprites differ, or None if more than sprites may differ."""
        if self.view != before.view or self.glare or before.glare or self.plates or before.plates:
            return None
        changed = {*self.sprites} ^ {*before.sprites}
        top = max(min((box.top for _, box in changed), default=0), 0)
        bottom = min(max((box.bottom for _, box in changed), default=0), FRAME_HEIGHT)
        return top - top % 2, bottom + bottom % 2


class ShotPainter:
    """Paints one shot at any frame, also shortly before and after its own span, where transitions show it."""

    def __init__(self, placed: PlacedShot) -> None:
        self.placed = placed
        self._scene = background(placed.shot.scene, placed.shot.light, placed.shot.zoom)
        self._flashes = [distractor_frames(placed, each) for each in placed.shot.distractors if each.kind == "flash"]
        self._objects = [(thing, ObjectView(thing, placed)) for thing in placed.shot.objects]
        start = placed.start
        self._plates: list[tuple[int, int, Plate]] = [
            (start + frames_of(text.start), start + frames_of(text.end), plate(text)) for text in placed.shot.texts
        ]

    def picture(self, frame: int) -> Picture:
        """Scene and objects without texts: (FRAME_HEIGHT, FRAME_WIDTH, 3) uint8 BGR."""
        return self.paint(self.compose(frame)._replace(plates=()))

    def compose(self, frame: int) -> Composition:
        """What the frame shows, not yet drawn."""
        sprites: list[tuple[int, PixelBox]] = []
        pictures: list[Picture] = []
        for thing, view in self._objects:
            if is_present(thing, self.placed, frame):
                drawn, box = view.at(frame)
                if in_frame(box):
                    phase = frame // _STEP_FRAMES % 2 if is_moving(thing, self.placed, frame) else 0
                    pictures.append(drawn.pictures[phase])
                    sprites.append((id(drawn.pictures[phase]), box))
        glares = [
            0.9 * (1 - (frame - first) / (last - first)) for first, last in self._flashes if first <= frame < last
        ]
        plates = tuple(index for index, (first, last, _) in enumerate(self._plates) if first <= frame < last)
        return Composition(
            view_at(self.placed, frame), tuple(sprites), tuple(pictures), max(glares, default=0.0), plates
        )

    def repaint(self, picture: Picture, composition: Composition, top: int, bottom: int) -> None:
        """Draw the rows [top, bottom) of a composition without plates and glare again, in place."""
        if top >= bottom:
            return
        left, upper = composition.view
        rows = picture[top:bottom]
        rows[:] = self._scene[upper + top : upper + bottom, left : left + FRAME_WIDTH]
        for drawn, (_, box) in zip(composition.pictures, composition.sprites, strict=True):
            paste(rows, drawn, box._replace(top=box.top - top, bottom=box.bottom - top))

    def paint(self, composition: Composition) -> Picture:
        """Draw a composition: (FRAME_HEIGHT, FRAME_WIDTH, 3) uint8 BGR."""
        left, top = composition.view
        picture = self._scene[top : top + FRAME_HEIGHT, left : left + FRAME_WIDTH].copy()
        for drawn, (_, box) in zip(composition.pictures, composition.sprites, strict=True):
            paste(picture, drawn, box)
        if glare := composition.glare:
            picture = cv2.addWeighted(picture, 1 - glare, np.full_like(picture, 255), glare, 0)
        for index in composition.plates:
            box, _, pixels = self._plates[index][2]
            picture[box.top : box.bottom, box.left : box.right] = pixels
        return picture


class Frame(NamedTuple):
    """A frame of the film, and the rows [top, bottom) in which it may differ from the frame before. Both are even.

    The picture is (FRAME_HEIGHT, FRAME_WIDTH, 3) uint8 BGR, and is valid until the next frame is painted.
    """

    picture: Picture
    top: int
    bottom: int


def paint_film(script: FilmScript) -> Iterator[Frame]:
    """Every frame of the film in order. Only what changes is painted again."""
    placed = place_shots(script)
    before: ShotPainter | None = None
    painter = ShotPainter(placed[0])
    for shot, after in zip(placed, [*placed[1:], None], strict=True):
        following = ShotPainter(after) if after else None
        drawn: tuple[Composition, Picture] | None = None
        for frame in range(shot.start, shot.end):
            if frame < shot.fade_end:
                yield Frame(_transition(before, painter, frame), 0, FRAME_HEIGHT)
            elif following and frame >= following.placed.fade_start:
                yield Frame(_transition(painter, following, frame), 0, FRAME_HEIGHT)
            else:
                composition = painter.compose(frame)
                rows = composition.changed_rows(drawn[0]) if drawn else None
                if drawn is None or rows is None:
                    drawn, rows = (composition, painter.paint(composition)), (0, FRAME_HEIGHT)
                else:
                    painter.repaint(drawn[1], composition, *rows)
                    drawn = composition, drawn[1]
                yield Frame(drawn[1], *rows)
        if following:
            before, painter = painter, following


def _transition(before: ShotPainter | None, after: ShotPainter, frame: int) -> Picture:
    """A frame of the transition into `after`.

    Weights are taken in the middle of the frame, so that both halves mirror each other.
    """
    shot = after.placed
    if shot.shot.enter.kind == "dissolve" and before:
        share = (frame - shot.fade_start + 0.5) / (shot.fade_end - shot.fade_start)
        return cv2.addWeighted(before.picture(frame), 1 - share, after.picture(frame), share, 0)
    lit = before.picture(frame) if before and frame < shot.start else after.picture(frame)
    half = shot.fade_end - shot.start
    return cv2.convertScaleAbs(lit, alpha=(abs(frame + 0.5 - shot.start)) / half)
