"""Short forms for writing the stories' scripts."""

from collections.abc import Callable, Sequence
from typing import cast

from operators.demo.films.script import (
    Ambience,
    Colour,
    Cue,
    Distractor,
    Event,
    MovingObject,
    ObjectKind,
    OnScreenText,
    Shot,
    TextStyle,
    Transition,
    Waypoint,
)
from schemas.base import Region

Point = tuple[float, float, float]
"""Seconds, x, y: see `Waypoint`."""

DISSOLVE = Transition(kind="dissolve", seconds=0.8)
SLOW_DISSOLVE = Transition(kind="dissolve", seconds=1.6)
FADE = Transition(kind="fade", seconds=1.2)


def thing(name: str, *path: Point, scale: float = 1.0) -> MovingObject:
    """An object whose name gives its colour and kind, such as "blue ferry" or "red toy car"."""
    words = name.split()
    kind, colour = cast(ObjectKind, words[-1]), cast(Colour, words[0])
    return MovingObject(name=name, kind=kind, colour=colour, path=_waypoints(path), scale=scale)


def character(name: str, kind: ObjectKind, colour: Colour, scale: float = 1.0) -> Callable[..., MovingObject]:
    """A character with a name of its own. Call the result with a path to put the character in a shot."""

    def place(*path: Point) -> MovingObject:
        return MovingObject(name=name, kind=kind, colour=colour, path=_waypoints(path), scale=scale)

    return place


def rightward(start: float, end: float, y: float) -> tuple[Point, Point]:
    """A path across the whole frame from the left, visible for most of `start` to `end`."""
    return (start, -160, y), (end, 800, y)


def leftward(start: float, end: float, y: float) -> tuple[Point, Point]:
    """A path across the whole frame from the right, visible for most of `start` to `end`."""
    return (start, 800, y), (end, -160, y)


def beside(path: Sequence[Point], dx: float, dy: float = 0) -> tuple[Point, ...]:
    """The same path, offset by some pixels, for objects that are carried or follow closely."""
    return tuple((seconds, x + dx, y + dy) for seconds, x, y in path)


def story(text: str, start: float, end: float, region: Region = Region.TOP) -> OnScreenText:
    """A line that tells the story."""
    return _text(text, start, end, region, "story")


def sign(text: str, start: float, end: float, region: Region) -> OnScreenText:
    """A yellow sign that belongs to the scene."""
    return _text(text, start, end, region, "sign")


def counter(text: str, start: float, end: float, region: Region = Region.TOP_RIGHT) -> OnScreenText:
    """A red score or count."""
    return _text(text, start, end, region, "counter")


def event(name: str, *participants: str, cue: Cue | None = None) -> Event:
    """An event that lasts as long as its first participant is visible for the first time."""
    return Event(name=name, participants=participants, cue=cue)


def moment(name: str, start: float, end: float, *participants: str, cue: Cue | None = None) -> Event:
    """An event at a given time of the shot, at the place of its first participant."""
    return Event(name=name, participants=participants, start=start, end=end, cue=cue)


def flash(start: float) -> Distractor:
    """A camera flash or lightning."""
    return Distractor(kind="flash", start=start, seconds=0.32)


def quick_pan(start: float, pixels: int) -> Distractor:
    """The camera swings to the right (left if negative)."""
    return Distractor(kind="pan", start=start, seconds=0.6, pixels=pixels)


def title_card(*lines: str, seconds: float = 5.0, enter: Transition = FADE, ambience: Ambience = "calm") -> Shot:
    """One to three lines on a dark card, all shown from 0.8 s to 0.8 s before the end."""
    regions = {1: [Region.CENTER], 2: [Region.TOP, Region.CENTER], 3: [Region.TOP, Region.CENTER, Region.BOTTOM]}
    texts = tuple(
        _text(line, 0.8, round(seconds - 0.8, 2), region, "title" if region is Region.CENTER else "story")
        for line, region in zip(lines, regions[len(lines)], strict=True)
    )
    return Shot(scene="card", seconds=seconds, enter=enter, ambience=ambience, texts=texts)


def _text(text: str, start: float, end: float, region: Region, style: TextStyle) -> OnScreenText:
    return OnScreenText(text=text, start=start, end=end, region=region, style=style)


def _waypoints(path: Sequence[Point]) -> tuple[Waypoint, ...]:
    return tuple(Waypoint(*point) for point in path)
