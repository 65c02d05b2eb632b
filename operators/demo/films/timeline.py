"""The frames of each shot in the film, and the position of the camera and the objects at a given frame.

The painter and the ground truth both use this module, so the two cannot disagree.
"""

from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate, pairwise

from operators.demo.films.scenes import SCENE_WIDTH
from operators.demo.films.script import (
    FPS,
    FRAME_HEIGHT,
    FRAME_WIDTH,
    Distractor,
    FilmScript,
    MovingObject,
    PixelBox,
    Shot,
    frames_of,
)
from operators.demo.films.sprites import Sprite, sprite
from schemas.errors import BadInput

HOME = (SCENE_WIDTH - FRAME_WIDTH) // 2
"""The scene's x for x = 0 of a script: the left edge of the view at rest."""


class ScriptError(BadInput):
    """A script that cannot be drawn as written. The message names the film, the shot and what to do."""


@dataclass(frozen=True)
class PlacedShot:
    """A shot's frames [start, end) and those of the transition into it, [fade_start, fade_end), in film frames."""

    index: int
    shot: Shot
    start: int
    end: int
    fade_start: int
    fade_end: int

    def seconds_at(self, frame: int) -> float:
        """Seconds from the start of the shot, negative while the shot is still fading in."""
        return (frame - self.start) / FPS


def place_shots(script: FilmScript) -> list[PlacedShot]:
    """The shots one after another without gaps.

    Raises:
        ScriptError: transitions overlap, or the film opens with a dissolve, for which there is no shot before.
    """
    if script.shots[0].enter.kind == "dissolve":
        raise ScriptError(f"film {script.film_id}: shot 0 opens with a dissolve; open with a cut or a fade")
    ends = list(accumulate(frames_of(shot.seconds) for shot in script.shots))
    placed = []
    for index, shot in enumerate(script.shots):
        start = ends[index - 1] if index else 0
        half = frames_of(shot.enter.seconds) // 2
        placed.append(PlacedShot(index, shot, start, ends[index], max(0, start - half), start + half))
    for before, after in zip(placed, [*placed[1:], None], strict=True):
        free_until = after.fade_start if after else before.end
        if before.fade_end >= free_until:
            raise ScriptError(
                f"film {script.film_id}: shot {before.index} ({before.shot.seconds} s) is covered by the transitions "
                "around it; lengthen the shot or shorten them"
            )
    return placed


def view_at(placed: PlacedShot, frame: int) -> tuple[int, int]:
    """Upper left corner of the view, in pixels of the zoomed scene. The view never leaves the scene."""
    shot = placed.shot
    left = (HOME + shot.focus[0] + _camera_at(placed, frame)) * shot.zoom - FRAME_WIDTH / 2
    top = shot.focus[1] * shot.zoom - FRAME_HEIGHT / 2
    reach_x, reach_y = round(SCENE_WIDTH * shot.zoom) - FRAME_WIDTH, round(FRAME_HEIGHT * shot.zoom) - FRAME_HEIGHT
    return min(max(round(left), 0), reach_x), min(max(round(top), 0), reach_y)


def _camera_at(placed: PlacedShot, frame: int) -> float:
    """Offset of the camera from its position at rest, in scene pixels to the right."""
    seconds = placed.seconds_at(frame)
    x = placed.shot.camera + placed.shot.drift * min(max(seconds / placed.shot.seconds, 0), 1)
    for pan in placed.shot.distractors:
        if pan.kind == "pan":
            x += pan.pixels * _eased((seconds - pan.start) / pan.seconds)
    return x


class ObjectView:
    """An object as the camera of a shot sees it, for many frames: what does not change is computed once."""

    def __init__(self, thing: MovingObject, placed: PlacedShot) -> None:
        self._thing = thing
        self._placed = placed
        self._times = [point.seconds for point in thing.path]
        shot = placed.shot
        still = not shot.drift and all(each.kind != "pan" for each in shot.distractors)
        self._view = view_at(placed, placed.start) if still else None
        self._before: tuple[tuple[float, float, bool, tuple[int, int]], tuple[Sprite, PixelBox]] | None = None

    def at(self, frame: int) -> tuple[Sprite, PixelBox]:
        """The object's sprite and its box in frame coordinates, possibly outside the frame."""
        thing, times, seconds = self._thing, self._times, self._placed.seconds_at(frame)
        leg = min(max(bisect_right(times, seconds), 1), len(times) - 1) if len(times) > 1 else 0
        origin, target = thing.path[max(leg - 1, 0)], thing.path[leg]
        share = 1.0 if leg == 0 else min(max((seconds - origin.seconds) / (target.seconds - origin.seconds), 0), 1)
        left = _faces_left(thing, leg, seconds)
        view = self._view or view_at(self._placed, frame)
        state = (origin.x + share * (target.x - origin.x), origin.y + share * (target.y - origin.y), left, view)
        if self._before is None or self._before[0] != state:
            self._before = state, self._place(*state)
        return self._before[1]

    def _place(self, x: float, y: float, left: bool, view: tuple[int, int]) -> tuple[Sprite, PixelBox]:
        thing, zoom = self._thing, self._placed.shot.zoom
        picture = sprite(thing.kind, thing.colour, thing.scale * zoom, facing_left=left)
        corner = round((HOME + x) * zoom - view[0] - picture.width / 2), round(y * zoom - view[1]) - picture.height
        return picture, PixelBox(*corner, corner[0] + picture.width, corner[1] + picture.height)


def object_at(thing: MovingObject, placed: PlacedShot, frame: int) -> tuple[Sprite, PixelBox]:
    """The object's sprite and its box in frame coordinates, possibly outside the frame."""
    return ObjectView(thing, placed).at(frame)


def boxes_in_frame(thing: MovingObject, placed: PlacedShot) -> dict[int, PixelBox]:
    """The object's boxes in the frames of the shot in which any part of it is seen, by frame."""
    view = ObjectView(thing, placed)
    frames = (frame for frame in range(placed.start, placed.end) if is_present(thing, placed, frame))
    boxes = {frame: view.at(frame)[1] for frame in frames}
    return {frame: box for frame, box in boxes.items() if in_frame(box)}


def is_moving(thing: MovingObject, placed: PlacedShot, frame: int) -> bool:
    """Whether the object is moving between two different waypoints."""
    seconds = placed.seconds_at(frame)
    return any(a.seconds <= seconds < b.seconds and (a.x, a.y) != (b.x, b.y) for a, b in pairwise(thing.path))


def is_present(thing: MovingObject, placed: PlacedShot, frame: int) -> bool:
    """Whether the frame lies between the times at which the object appears and vanishes."""
    appears = placed.start + frames_of(thing.appears) if thing.appears is not None else frame
    vanishes = placed.start + frames_of(thing.vanishes) if thing.vanishes is not None else frame + 1
    return appears <= frame < vanishes


def in_frame(box: PixelBox) -> bool:
    """Whether any pixel of the box lies in the frame."""
    return box.left < FRAME_WIDTH and box.right > 0 and box.top < FRAME_HEIGHT and box.bottom > 0


def distractor_frames(placed: PlacedShot, distractor: Distractor) -> tuple[int, int]:
    """The frames [first, last) of the film that the distractor covers."""
    first = placed.start + frames_of(distractor.start)
    return first, first + frames_of(distractor.seconds)


def _faces_left(thing: MovingObject, leg: int, seconds: float) -> bool:
    """Whether the object faces left.

    A waiting object keeps the direction in which it came. One that has not moved yet faces where it will go.
    """
    if thing.turns:
        return next((turn.left for turn in reversed(thing.turns) if turn.seconds <= seconds), thing.turns[0].left)
    steps = [b.x - a.x for a, b in pairwise(thing.path)]
    past = [step for step in steps[:leg] if step]
    coming = [step for step in steps[leg:] if step]
    heading = past[-1] if past else (coming[0] if coming else 1)
    return heading < 0


def _eased(share: float) -> float:
    """A smooth step: 0 before, 1 after, with a smooth start and stop in between."""
    share = min(max(share, 0.0), 1.0)
    return share * share * (3 - 2 * share)
