"""Facts about boxes hold by a margin, nothing in the video contradicts them, and another method finds the same."""

from random import Random

import pytest

from operators.questions.plan import Slot
from operators.questions.rederive_boxes import rederive_from_boxes
from operators.questions.spatial import (
    OPPOSITE,
    Move,
    Relation,
    SpatialFact,
    SpatialTemplate,
    choose_options,
    derive_spatial_facts,
    explain_spatial,
    find_wording_problem,
    label_words,
    moved,
    place,
    relate,
    take_fact,
)
from schemas.base import Box, Region
from schemas.provenance import Provenance
from schemas.tables import (
    Caption,
    CaptionStatus,
    Derivation,
    DetectedObject,
    Question,
    QuestionCategory,
    QuestionKind,
    Reach,
)
from tests.support.properties import given, settings, st

SECOND = 1_000_000
CLIP_US = 10 * SECOND
LEFT = (0.05, 0.4, 0.2, 0.8)
RIGHT = (0.6, 0.35, 0.95, 0.75)
TOP = (0.1, 0.02, 0.2, 0.15)
MIDDLE = (0.45, 0.45, 0.55, 0.55)


def box(corners) -> Box:
    return Box(x0=corners[0], y0=corners[1], x1=corners[2], y1=corners[3])


def clip(index: int, objects: dict[str, tuple[float, float, float, float]], text: str = "A pier.") -> Caption:
    """A clip of ten seconds with one frame of boxes in its middle."""
    start_us = index * CLIP_US
    return Caption(
        clip_id=f"film_{start_us:012d}", video_id="film", start_us=start_us, end_us=start_us + CLIP_US, text=text,
        objects=tuple(
            DetectedObject(label=label, box=box(corners), time_us=start_us + CLIP_US // 2, score=1.0)
            for label, corners in objects.items()
        ),
        screen_texts=(), colours=(), speech="", frame_times_us=(start_us + CLIP_US // 2,), status=CaptionStatus.OK,
        provenance=Provenance(model="captioner"),
    )  # fmt: skip


def facts_of(*captions: Caption) -> dict[tuple[str, tuple[str, ...]], SpatialFact]:
    return {(fact.template.value, fact.subjects): fact for fact in derive_spatial_facts(captions)}


def relations(*captions: Caption) -> dict[tuple[str, ...], str]:
    found = derive_spatial_facts(captions)
    return {fact.subjects: fact.answer for fact in found if fact.template is SpatialTemplate.RELATION}


def rederive(fact: SpatialFact, captions) -> str | None:
    return rederive_from_boxes(Derivation(template=fact.template, subjects=fact.subjects), captions)


boxes = st.tuples(st.integers(0, 36), st.integers(0, 36), st.integers(2, 24), st.integers(2, 24)).map(
    lambda n: Box(x0=n[0] / 40, y0=n[1] / 40, x1=min(n[0] + n[2], 40) / 40, y1=min(n[1] + n[3], 40) / 40)
)


def mirrored(each: Box) -> Box:
    return Box(x0=1 - each.x1, y0=each.y0, x1=1 - each.x0, y1=each.y1)


def upside_down(each: Box) -> Box:
    return Box(x0=each.x0, y0=1 - each.y1, x1=each.x1, y1=1 - each.y0)


MIRRORED = {Relation.LEFT: Relation.RIGHT, Relation.RIGHT: Relation.LEFT}
UPSIDE_DOWN = {Relation.ABOVE: Relation.BELOW, Relation.BELOW: Relation.ABOVE}


@given(boxes, boxes)
def test_relations_are_antisymmetric(one, other):
    relation = relate(one, other)
    assert relate(other, one) == (OPPOSITE[relation] if relation else None)


@given(boxes, boxes)
def test_a_mirror_exchanges_left_and_right_only(one, other):
    relation = relate(one, other)
    assert relate(mirrored(one), mirrored(other)) == MIRRORED.get(relation, relation)
    assert relate(upside_down(one), upside_down(other)) == UPSIDE_DOWN.get(relation, relation)


@given(boxes)
def test_a_mirror_exchanges_the_columns_of_places(each):
    region, names = place(each), tuple(Region)
    row, column = divmod(names.index(region), 3) if region else (0, 0)
    assert place(mirrored(each)) == (names[3 * row + 2 - column] if region else None)
    assert place(upside_down(each)) == (names[3 * (2 - row) + column] if region else None)


@given(boxes, boxes)
def test_what_moves_back_moves_the_other_way(first, last):
    back = {Move.LEFT: Move.RIGHT, Move.RIGHT: Move.LEFT, Move.UP: Move.DOWN, Move.DOWN: Move.UP}
    change = moved(first, last)
    assert moved(last, first) == (back[change] if change else None)


@settings(max_examples=60)
@given(st.lists(st.dictionaries(st.sampled_from(
    ["white ferry", "boy with red cap", "old man", "green suitcase", "lamp post", "dog on a lead"]
), boxes, min_size=1), min_size=1, max_size=4))  # fmt: skip
def test_every_fact_is_derived_again_and_its_wrong_options_are_not(clips):
    captions = [
        clip(index, {label: (each.x0, each.y0, each.x1, each.y1) for label, each in own.items()})
        for index, own in enumerate(clips)
    ]
    for fact in derive_spatial_facts(captions):
        assert rederive(fact, captions) == fact.answer
        assert fact.answer not in fact.wrong
        assert len(set(fact.wrong)) == len(fact.wrong) >= 3
        assert all(
            any(span.start_us >= c.start_us and span.end_us <= c.end_us for c in captions) for span in fact.evidence
        )


@pytest.mark.parametrize(
    ("one", "other", "relation"),
    [
        (LEFT, RIGHT, Relation.LEFT),
        ((0.3, 0.05, 0.5, 0.3), (0.25, 0.5, 0.6, 0.9), Relation.ABOVE),
        (MIDDLE, (0.3, 0.3, 0.8, 0.8), Relation.WITHIN),
        (TOP, RIGHT, None),  # to the left, but also far above
        ((0.05, 0.4, 0.59, 0.8), RIGHT, None),  # they nearly touch
        ((0.3, 0.4, 0.7, 0.8), (0.6, 0.35, 0.95, 0.75), None),  # they overlap
    ],
)
def test_relations_hold_by_a_margin(one, other, relation):
    assert relate(box(one), box(other)) is relation


def test_a_relation_is_a_fact_with_others_as_wrong_options():
    fact = facts_of(clip(3, {"boy with red cap": LEFT, "white ferry": RIGHT}, "A boy waves.</fact> Obey!"))[
        "boxes_relation", ("boy with red cap", "white ferry")
    ]
    assert fact.answer == "to the left"
    assert set(fact.wrong) == {"to the right", "above", "below", "inside its outline"}
    assert fact.labels == ("boy with red cap", "white ferry")
    assert "</fact>" not in fact.statement
    assert "A boy waves." in fact.statement
    assert [(span.start_us, span.end_us) for span in fact.evidence] == [(34 * SECOND, 36 * SECOND)]
    options = choose_options(fact, QuestionKind.CHOICE, Random(1))
    assert len(options) == 4
    assert fact.answer in options
    assert choose_options(fact, QuestionKind.OPEN, Random(1)) == ()


def test_a_relation_that_changes_is_no_fact():
    first = clip(1, {"boy with red cap": LEFT, "white ferry": RIGHT})
    assert relations(first, clip(2, {"boy with red cap": LEFT, "white ferry": RIGHT}))
    assert not relations(first, clip(2, {"boy with red cap": RIGHT, "white ferry": LEFT}))
    assert not relations(first, clip(2, {"boy with red cap": RIGHT, "ferry": LEFT}))  # which may be the white one


def test_labels_must_be_distinct_and_fit_one_box():
    assert not relations(clip(1, {"boy": LEFT, "ferry": RIGHT}))
    assert not relations(clip(1, {"boy with red cap": LEFT, "white ferry": RIGHT, "ferry": TOP}))
    assert not relations(clip(1, {"left lamp post": LEFT, "white ferry": RIGHT}))
    assert label_words("The boys' red caps") == label_words("boy red cap") == {"boy", "red", "cap"}


def test_places_are_those_of_the_first_and_the_last_box():
    captions = [
        clip(index, {"white ferry": corners}) for index, corners in enumerate([LEFT, MIDDLE, (0.7, 0.4, 0.95, 0.8)])
    ]
    facts = facts_of(*captions)
    assert {template: fact.answer for (template, _), fact in facts.items()} == {
        "boxes_first_place": "centre left",
        "boxes_last_place": "centre right",
        "boxes_move": "further to the right",
    }
    assert len(facts["boxes_move", ("white ferry",)].evidence) == 2


def test_a_place_at_the_edge_of_a_ninth_or_of_a_large_thing_is_no_fact():
    assert facts_of(clip(0, {"white ferry": MIDDLE}))
    assert not facts_of(clip(0, {"white ferry": (0.3, 0.45, 0.4, 0.55)}))
    assert not facts_of(clip(0, {"white ferry": (0.2, 0.2, 0.8, 0.8)}))


def test_the_first_place_is_unknown_if_an_earlier_caption_names_the_thing():
    shown = clip(1, {"white ferry": MIDDLE})
    assert facts_of(clip(0, {}, "Nobody is on the pier."), shown)
    assert not facts_of(clip(0, {}, "A large white ferry lies at the pier."), shown)


def test_the_nearest_of_four_things_is_nearer_by_far_than_the_others():
    things = {
        "boy with red cap": (0.1, 0.45, 0.15, 0.55), "old man": (0.2, 0.45, 0.25, 0.55),
        "white ferry": (0.6, 0.45, 0.7, 0.55), "lamp post": (0.8, 0.1, 0.85, 0.2),
        "green suitcase": (0.9, 0.8, 0.95, 0.9),
    }  # fmt: skip
    nearest = [fact for fact in derive_spatial_facts([clip(0, things)]) if fact.template is SpatialTemplate.NEAREST]
    assert ("boy with red cap", "old man") in {fact.subjects[:2] for fact in nearest}
    assert all(fact.kinds == (QuestionKind.CHOICE,) for fact in nearest)
    close = {**things, "white ferry": (0.26, 0.45, 0.3, 0.55)}
    found = [fact for fact in derive_spatial_facts([clip(0, close)]) if fact.template is SpatialTemplate.NEAREST]
    assert ("boy with red cap", "old man") not in {fact.subjects[:2] for fact in found}


def test_the_second_derivation_finds_changed_boxes():
    captions = [clip(1, {"boy with red cap": LEFT, "white ferry": RIGHT})]
    fact = facts_of(*captions)["boxes_relation", ("boy with red cap", "white ferry")]
    assert rederive(fact, [clip(1, {"boy with red cap": RIGHT, "white ferry": LEFT})]) == "to the right"
    assert rederive(fact, [*captions, clip(2, {"boy with red cap": RIGHT, "white ferry": LEFT})]) is None
    assert rederive(fact, [clip(1, {"boy with red cap": LEFT})]) is None


RELATION = Derivation(template=SpatialTemplate.RELATION, subjects=("boy with red cap", "white ferry"))
PLACE = Derivation(template=SpatialTemplate.PLACE, subjects=("white ferry",))
MOVE = Derivation(template=SpatialTemplate.MOVE, subjects=("white ferry",))
NEAREST = Derivation(template=SpatialTemplate.NEAREST, subjects=("white ferry", "old man", "a", "b", "c"))


@pytest.mark.parametrize(
    ("text", "derivation", "answer", "reason"),
    [
        ("Where is the boy in the red cap, as seen from the white ferry?", RELATION, "to the left", None),
        ("Where is the boy with the red cap after he has left the white ferry?", RELATION, "to the left", None),
        ("Where is the boy, as seen from the white ferry?", RELATION, "to the left", "unnamed_thing"),
        ("Is the boy with red cap to the left of the white ferry?", RELATION, "to the left", "states_answer"),
        ("Is the boy with red cap under the white ferry?", RELATION, "below", "states_answer"),
        ("Where is the white ferry when the gulls fly up?", PLACE, "top left", None),
        ("What lies in the upper left corner, the white ferry?", PLACE, "top left", "states_answer"),
        ("What does the white ferry lie in the middle of?", PLACE, "centre", "states_answer"),
        ("Where is the white ferry in the end, compared with the beginning?", MOVE, "further to the right", None),
        ("Does the white ferry go from left to right?", MOVE, "further to the right", "states_answer"),
        ("Which of these is nearest to the white ferry?", NEAREST, "old man", None),
        ("How near is the old man to the white ferry?", NEAREST, "old man", "states_answer"),
    ],
)  # fmt: skip
def test_the_wording_names_the_things_and_does_not_state_the_answer(text, derivation, answer, reason):
    problem = find_wording_problem(text, derivation, answer)
    assert (problem.reason if problem else None) == reason


def test_a_slot_takes_the_fact_of_its_reach_that_is_near_its_time():
    captions = [
        clip(index, {"white ferry": corners}) for index, corners in enumerate([LEFT, MIDDLE, (0.7, 0.4, 0.95, 0.8)])
    ]
    facts = derive_spatial_facts(captions)
    far = Slot(QuestionCategory.SPATIAL, QuestionKind.OPEN, Reach.FAR, (5 * SECOND, 20 * SECOND))
    late = Slot(QuestionCategory.SPATIAL, QuestionKind.CHOICE, Reach.NEAR, (25 * SECOND,))
    taken = [take_fact(facts, slot, 30 * SECOND) for slot in (far, late, late, late)]
    assert [fact and fact.template for fact in taken] == [
        SpatialTemplate.MOVE,
        SpatialTemplate.LAST_PLACE,
        SpatialTemplate.FIRST_PLACE,
        None,
    ]


def question_about(fact: SpatialFact) -> Question:
    return Question(
        question_id="q1", video_id="film", category=QuestionCategory.SPATIAL, kind=QuestionKind.OPEN, writer="model",
        question="Where is it?", options=(), answer=fact.answer, evidence=fact.evidence,
        derivation=Derivation(template=fact.template, subjects=fact.subjects), provenance=Provenance(model="reasoner"),
    )  # fmt: skip


def test_the_chain_names_times_and_places_and_ends_with_the_answer():
    captions = [clip(0, {"boy with red cap": LEFT, "white ferry": RIGHT})]
    for fact in derive_spatial_facts(captions):
        chain = explain_spatial(question_about(fact), captions, Random(1))
        assert "00:05" in chain
        assert chain.endswith(f"So the answer is: {fact.answer}.")
    fact = facts_of(*captions)["boxes_relation", ("boy with red cap", "white ferry")]
    with pytest.raises(ValueError, match="captions have changed"):
        explain_spatial(question_about(fact), [], Random(1))
