"""The shapes of texts, and the areas that boxes cover."""

import pytest

from operators.questions.facts.index import FactIndex
from schemas.base import Box, Span
from schemas.facts import EntityFact, EntityKind, TrackFact, VideoFacts

SECOND = 1_000_000
NAMES = {
    "the boy in red": EntityKind.PERSON,
    "the boy": EntityKind.PERSON,
    "the dog": EntityKind.ANIMAL,
    "the red key": EntityKind.THING,
    "the cup": EntityKind.THING,
    "the harbour": EntityKind.PLACE,
}


def index_of(*boxes: Box) -> FactIndex:
    entities = tuple(
        EntityFact(entity_id=f"e{n}", kind=kind, name=name) for n, (name, kind) in enumerate(NAMES.items())
    )
    tracks = tuple(
        TrackFact(entity=f"e{number}", times_us=(0, SECOND // 2, SECOND), boxes=(box,) * 3)
        for number, box in enumerate(boxes)
    )
    return FactIndex(VideoFacts(entities=entities, tracks=tracks, complete=True), 10 * SECOND)


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("takes the red key", "takes the cup", True),
        ("takes the red key", "puts the cup down", False),
        ("gives the cup to the boy", "gives the cup to the boy in red", True),
        ("gives the cup to the boy", "gives the cup to the dog", False),
        ("the boy in red takes the cup", "the boy takes the red key", True),
        ("the boy in red takes the cup", "the dog takes the cup", False),
        ("the boy sings an old song", "the boy in red waves a flag", True),
        ("the boy sings an old song", "the dog waves a flag", False),
        ("the boy gives up", "the boy in red sings", False),
        ("bake a cake", "cross the river", True),
        ("the harbour", "the cup", False),
    ],
)
def test_texts_have_the_same_shape_if_only_names_differ(one, other, alike):
    index = index_of()
    assert (index.shape(one) == index.shape(other)) is alike


def test_an_area_is_covered_if_another_box_hides_more_than_half_of_it():
    person = Box(x0=0.4, y0=0.4, x1=0.6, y1=0.9)
    behind = Box(x0=0.42, y0=0.35, x1=0.5, y1=0.5)
    partly = Box(x0=0.55, y0=0.4, x1=0.75, y1=0.5)
    areas = index_of(person, behind, partly).areas(Span(start_us=0, end_us=SECOND))
    assert [areas[f"e{number}"].is_covered for number in range(3)] == [False, True, False]
