"""What the people, animals, things and places of a film are called, and how large they are drawn."""

from dataclasses import dataclass

from operators.demo.films.script import Colour, ObjectKind, Scene
from operators.demo.films.sprites import DRAWINGS
from schemas.facts import EntityKind


@dataclass(frozen=True)
class Entity:
    """A person, an animal, a thing or a place of a film, as it is drawn and called."""

    id: str
    kind: EntityKind
    sprite: ObjectKind
    colour: Colour
    name: str
    appearance: str
    scale: float


PLACES: dict[Scene, str] = {
    "harbour": "the harbour",
    "market": "the market",
    "forest": "the forest",
    "kitchen": "the kitchen",
    "workshop": "the workshop",
    "mountain": "the snowy mountains",
    "desert": "the desert",
    "meadow": "the meadow",
    "station": "the train station",
    "laboratory": "the laboratory",
    "library": "the library",
    "stadium": "the stadium",
    "beach": "the beach",
}
"""Names of the scenes in which stories happen. The others are always dark, or no place."""

PREPOSITIONS: dict[Scene, str] = {
    **dict.fromkeys(PLACES, "in"),
    **dict.fromkeys(("harbour", "market", "station", "stadium"), "at"),
    "beach": "on",
}
"""The word before a place's name."""

INDOORS: frozenset[Scene] = frozenset({"kitchen", "workshop", "laboratory", "library"})

PEOPLE: dict[ObjectKind, str] = {
    "woman": "long dark hair and a dress in {}",
    "man": "black hair and a coat in {}",
    "girl": "ginger pigtails and a dress in {}",
    "boy": "fair hair and a jacket in {}",
    "cook": "a tall white hat and a coat in {}",
    "captain": "a white cap and a coat in {}",
    "farmer": "a straw hat and a coat in {}",
    "queen": "a golden crown and a dress in {}",
    "wizard": "a pointed hat, a white beard and a robe in {}",
    "knight": "a helmet with a red feather and a coat in {}",
}
"""Looks of every kind of person. The gap is for the colour of the clothes."""

NOUNS: dict[ObjectKind, str] = {"cup": "trophy", "lamp": "lantern", "parcel": "present"}
"""What a drawing is called, where that is not its kind."""

TREASURES: tuple[ObjectKind, ...] = (
    "ball", "flower", "lamp", "cup", "parcel", "book", "apple", "umbrella", "bucket", "crown", "guitar", "fish", "key",
    "hammer", "bone",
)  # fmt: skip
"""Things that people want and that obstacles need."""

PROPS: frozenset[ObjectKind] = frozenset({"chest", "gate", "boulder", "tree", "barrel", "crate", "basket", "car"})
"""Things that stand at a place and are not carried."""

BRIGHT: tuple[Colour, ...] = ("red", "blue", "yellow", "green", "orange", "purple", "pink", "teal")
COLOURS: dict[ObjectKind, tuple[Colour, ...]] = {
    "dog": ("brown", "black", "white", "grey"),
    "cat": ("black", "orange", "white", "grey"),
    "bone": ("white", "brown", "grey", "yellow"),
    "boulder": ("grey", "brown", "purple"),
    "tree": ("green", "pink", "yellow", "red"),
    "apple": ("red", "green", "yellow"),
    "barrel": ("brown", "red", "blue", "green", "yellow"),
    "crate": ("brown", "orange", "teal", "purple", "pink"),
    "basket": ("yellow", "pink", "blue", "orange", "green"),
    "plane": ("purple", "red", "yellow"),
    "bird": ("black", "red", "purple", "yellow"),
}
"""Colours in which a kind is drawn, if not all bright ones."""

_SCALES: dict[ObjectKind, float] = {
    "robot": 1.3,
    "dog": 1.0,
    "cat": 1.05,
    "girl": 1.3,
    "boy": 1.3,
    "chest": 1.05,
    "gate": 1.1,
    "boulder": 1.1,
    "tree": 1.1,
    "barrel": 1.0,
    "crate": 1.0,
    "basket": 0.9,
    "car": 1.25,
    "bicycle": 1.0,
    "ladder": 1.0,
    "plane": 0.8,
    "bird": 0.8,
    "balloon": 0.7,
    "drone": 0.8,
}
_PERSON_SCALE, _THING_PIXELS = 1.5, 44


def scale_of(sprite: ObjectKind) -> float:
    """The scale at which a kind is drawn: people about 120 pixels high, things that are carried up to 44."""
    if sprite in _SCALES:
        return _SCALES[sprite]
    return _PERSON_SCALE if sprite in PEOPLE else fitting_scale(sprite, _THING_PIXELS)


def fitting_scale(sprite: ObjectKind, pixels: float) -> float:
    """The scale at which a drawing's longer side has `pixels`."""
    width, height, _ = DRAWINGS[sprite]
    return round(max(pixels / max(width, height), 0.21), 3)


def describe(sprite: ObjectKind, colour: Colour) -> tuple[str, str]:
    """Name and looks of a person, an animal or a thing."""
    if sprite in PEOPLE:
        return f"the {sprite} in {colour}", PEOPLE[sprite].format(colour)
    return f"the {colour} {NOUNS.get(sprite, sprite)}", ""
