"""Demo films: the script that a film is drawn from, and the ground truth written next to the rendered film.

`FilmScript` is what an author writes: shots in order, with what is seen, read and heard in each. Its times are seconds
from the start of the shot and must be whole frames. `FilmTruth` is what the rendered file shows: integer microseconds
from the first frame, half-open, exact to the frame, with boxes in pixels of the frame. `operators.demo.films` draws the
films, and `operators.demo.films.truth` turns a script into its ground truth.
"""

from itertools import pairwise
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import AfterValidator, Field, model_validator

from schemas.base import Identifier, Microseconds, Model, Region, Sha256, Span
from schemas.tables import VideoCategory

FRAME_WIDTH = 640
FRAME_HEIGHT = 360
FPS = 25
FRAME_US = 1_000_000 // FPS

Scene = Literal[
    "card",
    "harbour",
    "market",
    "forest",
    "street",
    "kitchen",
    "workshop",
    "mountain",
    "desert",
    "meadow",
    "station",
    "laboratory",
    "library",
    "stadium",
    "beach",
    "space",
]
ObjectKind = Literal[
    "person", "car", "truck", "bicycle", "train", "boat", "ferry", "bird", "dog", "cat",
    "fish", "balloon", "plane", "drone", "robot", "rocket", "parcel", "key", "ball", "flower", "lamp", "cup",
    "woman", "man", "girl", "boy", "cook", "captain", "farmer", "queen", "wizard", "knight",
    "book", "apple", "umbrella", "hammer", "bucket", "crown", "bone", "guitar", "ladder",
    "chest", "open_chest", "gate", "open_gate", "boulder", "tree", "barrel", "crate", "basket",
    "bubble", "wide_bubble", "cross", "heart", "arrow", "smoke", "sleep",
    "card_view", "harbour_view", "market_view", "forest_view", "street_view", "kitchen_view", "workshop_view",
    "mountain_view", "desert_view", "meadow_view", "station_view", "laboratory_view", "library_view",
    "stadium_view", "beach_view", "space_view",
]  # fmt: skip
Colour = Literal[
    "red", "blue", "yellow", "green", "orange", "purple", "white", "black", "brown", "pink", "grey", "teal",
]  # fmt: skip
Ambience = Literal["silence", "calm", "bright", "tense", "sad", "sea", "wind", "crowd", "engine"]
Cue = Literal["beep", "horn", "bell", "whistle", "buzz", "chime", "thump"]
TransitionKind = Literal["cut", "dissolve", "fade"]
DistractorKind = Literal["flash", "pan"]
TextStyle = Literal["title", "story", "sign", "counter"]
Direction = Literal["left_to_right", "right_to_left", "up", "down", "still"]


def frames_of(seconds: float) -> int:
    """Number of whole frames nearest to `seconds`."""
    return round(seconds * FPS)


def _whole_frames(seconds: float) -> float:
    if abs(seconds * FPS - frames_of(seconds)) > 1e-6:
        raise ValueError(f"{seconds} s is not a whole number of frames at {FPS} fps; use a multiple of {1 / FPS} s")
    return seconds


Seconds = Annotated[float, Field(ge=0), AfterValidator(_whole_frames)]


class PixelBox(NamedTuple):
    """Half-open pixel rectangle [left, right) x [top, bottom). An object's box may extend beyond the frame."""

    left: int
    top: int
    right: int
    bottom: int


class Waypoint(NamedTuple):
    """Position of an object (the middle of its lower edge, in pixels) `seconds` after the start of the shot."""

    seconds: float
    x: float
    y: float


class Transition(Model):
    """How a shot begins. A gradual transition is centred on the shot's start, with one half in the previous shot.

    `dissolve` mixes the two pictures. `fade` darkens the previous shot to black, then brightens the next one.
    """

    kind: TransitionKind = "cut"
    seconds: Seconds = 0.0

    @model_validator(mode="after")
    def _halves_are_whole_frames(self) -> Self:
        frames = frames_of(self.seconds)
        if (self.kind == "cut") != (frames == 0) or frames % 2:
            raise ValueError(
                f"{self.kind} of {frames} frames: a cut lasts 0 frames, a dissolve or fade an even number above 0"
            )
        return self


class Turn(NamedTuple):
    """From `seconds` after the start of the shot, an object faces left, or right."""

    seconds: float
    left: bool


class MovingObject(Model):
    """Something coloured that moves in straight lines between waypoints, and rests at the first and the last.

    It faces the direction of its movement, unless `turns` decides. At `scale` 1 it has the size of its drawing (a
    person is 84 px tall). It is seen from `appears` up to `vanishes` seconds, by default over the whole shot.
    """

    name: str = Field(min_length=1)
    kind: ObjectKind
    colour: Colour
    path: tuple[Waypoint, ...] = Field(min_length=1)
    scale: float = Field(default=1.0, gt=0.2, le=3)
    turns: tuple[Turn, ...] = ()
    appears: Seconds | None = None
    vanishes: Seconds | None = None

    @model_validator(mode="after")
    def _path_runs_forward(self) -> Self:
        times = [point.seconds for point in self.path]
        if any(later <= earlier for earlier, later in pairwise(times)):
            raise ValueError(f"object {self.name!r}: waypoint times {times} must increase")
        return self


class OnScreenText(Model):
    """Text on a plate, from `start` up to `end` seconds of the shot. It never overlaps a transition."""

    text: str = Field(pattern=r"^[A-Z0-9 :.,!?'-]+$")
    start: Seconds
    end: Seconds
    region: Region = Region.TOP
    style: TextStyle = "story"


class Event(Model):
    """Something that happens. If it happens again, the name is the same.

    Without `start` and `end` it lasts as long as its first participant is in the frame (its first appearance in the
    shot). Without `region` it takes place where that participant is half-way.
    """

    name: str = Field(min_length=1)
    participants: tuple[str, ...] = ()
    start: Seconds | None = None
    end: Seconds | None = None
    region: Region | None = None
    cue: Cue | None = None

    @model_validator(mode="after")
    def _has_a_time_and_a_place(self) -> Self:
        if (self.start is None) != (self.end is None):
            raise ValueError(f"event {self.name!r}: give both start and end, or neither")
        if not self.participants and (self.start is None or self.region is None):
            raise ValueError(f"event {self.name!r} has no participants, so it needs start, end and region")
        return self


class Distractor(Model):
    """A sudden change that is NOT a shot boundary.

    `flash` is a white flash; `pan` is a quick pan by `pixels` to the right (left if negative).
    """

    kind: DistractorKind
    start: Seconds
    seconds: Seconds
    pixels: int = 0


class Shot(Model):
    """One uninterrupted view of a scene."""

    scene: Scene
    seconds: Seconds
    enter: Transition = Transition()
    light: Literal["day", "dusk", "night"] = "day"
    camera: int = Field(default=0, ge=-160, le=160, description="pixels the view starts to the right of the middle")
    drift: int = Field(default=0, description="pixels the view glides to the right over the whole shot")
    zoom: float = Field(default=1.0, ge=1, le=2.5, description="1 shows the whole height of the scene")
    focus: tuple[float, float] = Field(default=(320, 180), description="what a zoomed view has in its middle: x, y")
    ambience: Ambience = "calm"
    objects: tuple[MovingObject, ...] = ()
    texts: tuple[OnScreenText, ...] = ()
    events: tuple[Event, ...] = ()
    distractors: tuple[Distractor, ...] = ()


class FilmScript(Model):
    """A whole film, as its author wrote it."""

    film_id: Identifier
    title: str
    category: VideoCategory
    synopsis: str
    shots: tuple[Shot, ...] = Field(min_length=1)


class ObjectTruth(Model):
    """An object of one shot: the spans in which any part of its box is in the frame, and its first and last box."""

    name: str
    kind: ObjectKind
    colour: Colour
    visible: tuple[Span, ...]
    direction: Direction
    first_box: PixelBox
    last_box: PixelBox


class ShotTruth(Span):
    """A shot of the film, as one tile of its timeline.

    `transition` is the transition into the shot. It lasts from `transition_start_us` to `transition_end_us` (equal for
    a cut).
    """

    index: int
    scene: Scene
    transition: TransitionKind
    transition_start_us: Microseconds
    transition_end_us: Microseconds
    objects: tuple[ObjectTruth, ...]


class TextTruth(Span):
    """A text that has full contrast in every frame of the span. `box` bounds its letters."""

    text: str
    style: TextStyle
    region: Region
    box: PixelBox
    shot_index: int


class EventTruth(Span):
    """One occurrence of an event. Further occurrences have the same name."""

    name: str
    participants: tuple[str, ...]
    region: Region
    shot_index: int
    cue: Cue | None


class DistractorTruth(Span):
    """A sudden change that a shot detector should not report."""

    kind: DistractorKind
    shot_index: int


class FilmTruth(Model):
    """Ground truth of a rendered film.

    `film_sha256` and `film_bytes` describe the MP4. `script_sha256` is the hash of the script and the renderer.
    """

    film_id: Identifier
    title: str
    category: VideoCategory
    synopsis: str
    width: int = FRAME_WIDTH
    height: int = FRAME_HEIGHT
    fps: int = FPS
    frame_count: int
    duration_us: Microseconds
    script_sha256: Sha256
    film_sha256: Sha256
    film_bytes: int
    shots: tuple[ShotTruth, ...]
    texts: tuple[TextTruth, ...]
    events: tuple[EventTruth, ...]
    distractors: tuple[DistractorTruth, ...]

    @model_validator(mode="after")
    def _shots_tile_the_film(self) -> Self:
        edges = [shot.start_us for shot in self.shots] + [self.duration_us]
        ends = [shot.end_us for shot in self.shots]
        if edges[0] != 0 or edges[1:] != ends or self.frame_count * FRAME_US != self.duration_us:
            raise ValueError(f"film {self.film_id}: shots do not tile [0, {self.duration_us}) us")
        return self
