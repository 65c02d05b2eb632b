"""Questions about positions and movements in the picture, from tracked boxes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from random import Random

from operators.questions.facts.index import Area, FactIndex
from operators.questions.facts.pools import other_orders
from operators.questions.facts.subjects import MAX_SUBJECTS, each_event, event_pairs
from operators.questions.facts.template import BOTH, ONLY_CHOICE, ONLY_OPEN, Statement, Subjects, template
from operators.questions.facts.wording import (
    Step,
    at_time,
    content_words,
    event_fields,
    in_sequence,
    narrate,
    opening,
    seen_at,
    spans_of,
)
from operators.questions.phrases import listed
from schemas.facts import EventFact
from schemas.tables import QuestionCategory

SPATIAL = QuestionCategory.SPATIAL
MARGIN = 0.04
"""Least distance between the centres of boxes that are compared, as a fraction of the picture."""
MIN_MOVE = 0.15
"""Least way of a movement, as a fraction of the picture's width."""
ASPECTS = (1.0, 16 / 9)
"""Shapes of the picture, width by height. A distance must be the smallest in both, because the shape is not known."""


@template(
    "facts_leftmost",
    SPATIAL,
    each_event,
    "Which of these is furthest to the left in the picture while {event}?",
    "While {event}, which of these can be seen at the very left?",
    open_wordings=(
        "Which of these is furthest to the left in the picture while {event}: {list}?",
        "While {event}, which of these can be seen at the very left: {list}?",
    ),
)
def leftmost(index: FactIndex, event_id: str) -> Statement | None:
    areas = index.areas(index.event[event_id])
    ranges = {each: (area.left, area.right) for each, area in areas.items()}
    return _outermost(index, event_id, areas, ranges, "furthest to the left")


@template(
    "facts_rightmost",
    SPATIAL,
    each_event,
    "Which of these is furthest to the right in the picture while {event}?",
    "While {event}, which of these can be seen at the very right?",
    open_wordings=(
        "Which of these is furthest to the right in the picture while {event}: {list}?",
        "While {event}, which of these can be seen at the very right: {list}?",
    ),
)
def rightmost(index: FactIndex, event_id: str) -> Statement | None:
    areas = index.areas(index.event[event_id])
    ranges = {each: (-area.right, -area.left) for each, area in areas.items()}
    return _outermost(index, event_id, areas, ranges, "furthest to the right")


@template(
    "facts_highest",
    SPATIAL,
    each_event,
    "Which of these is highest up in the picture while {event}?",
    "While {event}, which of these can be seen above all the others?",
    open_wordings=(
        "Which of these is highest up in the picture while {event}: {list}?",
        "While {event}, which of these can be seen above all the others: {list}?",
    ),
)
def highest(index: FactIndex, event_id: str) -> Statement | None:
    areas = index.areas(index.event[event_id])
    ranges = {each: (area.top, area.bottom) for each, area in areas.items()}
    return _outermost(index, event_id, areas, ranges, "highest up")


def _outermost(
    index: FactIndex, event_id: str, areas: dict[str, Area], ranges: dict[str, tuple[float, float]], where: str
) -> Statement | None:
    """Which of at least three has the smallest value during the whole event."""
    event = index.event[event_id]
    found, *others = sorted(ranges, key=lambda each: ranges[each]) or [""]
    if len(others) < 2 or min(ranges[each][0] for each in others) - ranges[found][1] < MARGIN:
        return None
    name, names = index.name(found), [index.name(each) for each in others if not areas[each].is_covered]
    if len(names) < 2:
        return None
    return (
        Statement(
            fields={**event_fields(index, event), "list": ", ".join(sorted([name, *names]))},
            answer=name,
            wrong=tuple(names),
            evidence=spans_of((event,)),
            chain=(
                opening(f"the moment when {index.clause(event)}"),
                at_time(event),
                (
                    f"I compare where {listed([name, *names])} are in the picture.",
                    f"I see {listed([*names, name])} there.",
                ),
                (f"All the while {name} is {where}.", f"From start to end {name} stays {where}."),
                (f"So the answer is {name}.", f"So it is {name}."),
            ),
            kinds=BOTH if index.complete else ONLY_CHOICE,
        )
        if areas[found].is_whole and not areas[found].is_covered
        else None
    )


def _events_with(size: int) -> Callable[[FactIndex, Random], Iterator[Subjects]]:
    """An event and some of those that are tracked during it."""

    def find(index: FactIndex, rng: Random) -> Iterator[Subjects]:
        for event in rng.sample(index.unique, min(len(index.unique), MAX_SUBJECTS)):
            tracked = [each for each, area in index.areas(event).items() if area.is_whole and not area.is_covered]
            if len(tracked) >= size:
                yield (event.event_id, *rng.sample(tracked, size))

    return find


@template(
    "facts_left_to_right",
    SPATIAL,
    _events_with(3),
    "In which order, from left to right, can {list} be seen while {event}?",
    "While {event}, how are {list} placed in the picture, from left to right?",
)
def left_to_right(index: FactIndex, event_id: str, *entity_ids: str) -> Statement | None:
    event = index.event[event_id]
    areas = index.areas(event)
    ordered = sorted(entity_ids, key=lambda each: areas[each].left)
    if any(areas[right].left - areas[left].right < MARGIN for left, right in pairwise(ordered)):
        return None
    names = [index.name(each) for each in ordered]
    answer = in_sequence(names)
    return Statement(
        fields={**event_fields(index, event), "list": listed([index.name(each) for each in entity_ids])},
        answer=answer,
        wrong=other_orders(names),
        evidence=spans_of((event,)),
        chain=(
            opening(f"the moment when {index.clause(event)}"),
            at_time(event),
            (
                f"Of the three, {names[0]} is furthest to the left and {names[2]} furthest to the right.",
                f"At the left I see {names[0]}, at the right {names[2]}, and {names[1]} is in the middle.",
            ),
            (f"So from left to right it is: {answer}.", f"That gives, from left to right: {answer}."),
        ),
    )


@template(
    "facts_nearest",
    SPATIAL,
    _events_with(1),
    "Which of these is nearest to {other} in the picture while {event}?",
    "While {event}, which of these can be seen closest to {other}?",
    open_wordings=(
        "Which of these is nearest to {other} in the picture while {event}: {list}?",
        "While {event}, which of these can be seen closest to {other}: {list}?",
    ),
)
def nearest(index: FactIndex, event_id: str, entity_id: str) -> Statement | None:
    event = index.event[event_id]
    areas = dict(index.areas(event))
    own = areas.pop(entity_id)
    if len(areas) < 3:
        return None
    near = min(areas, key=lambda each: _distances(areas[each], own, ASPECTS[0])[1])
    for aspect in ASPECTS:
        farthest = _distances(areas[near], own, aspect)[1]
        if any(_distances(areas[each], own, aspect)[0] - farthest < MARGIN for each in areas if each != near):
            return None
    if not areas[near].is_whole or areas[near].is_covered:
        return None
    name, other = index.name(near), index.name(entity_id)
    names = [index.name(each) for each in areas if each != near and not areas[each].is_covered]
    if len(names) < 2:
        return None
    return Statement(
        fields={**event_fields(index, event), "other": other, "list": ", ".join(sorted([name, *names]))},
        answer=name,
        wrong=tuple(names),
        evidence=spans_of((event,)),
        chain=(
            opening(f"the moment when {index.clause(event)}"),
            at_time(event),
            (
                f"I compare how far {listed([*names, name])} are from {other}.",
                f"Around {other} I see {listed([name, *names])}.",
            ),
            (f"The shortest way in the picture is that to {name}.", f"None of them is as close to it as {name}."),
            (f"So {name} is nearest to {other}.", f"So the nearest one is {name}."),
        ),
        kinds=BOTH if index.complete else ONLY_CHOICE,
    )


def _distances(one: Area, other: Area, aspect: float) -> tuple[float, float]:
    """Least and greatest distance between centres in two areas of a picture of this shape, by its height."""
    across = sorted((one.left - other.right, other.left - one.right))
    down = sorted((one.top - other.bottom, other.top - one.bottom))
    least = math.hypot(aspect * max(0.0, across[1]), max(0.0, down[1]))
    return least, math.hypot(aspect * across[0], down[0])


@template(
    "facts_direction",
    SPATIAL,
    each_event,
    "{Event}. In which direction does that movement go in the picture?",
    "{Event}. Does the movement go to the left or to the right in the picture?",
)
def direction(index: FactIndex, event_id: str) -> Statement | None:
    event = index.event[event_id]
    side = _side(index, event)
    if side is None:
        return None
    return Statement(
        fields=event_fields(index, event),
        answer=f"to the {side}",
        wrong=(),
        evidence=spans_of((event,)),
        chain=(
            opening(f"the moment when {index.clause(event)}"),
            at_time(event),
            _narrate_move(index, event, side),
            (f"So the movement goes to the {side}.", f"So the direction is to the {side}."),
        ),
        kinds=ONLY_OPEN,
    )


@template(
    "facts_directions",
    SPATIAL,
    event_pairs,
    "Which way does the movement go in the picture when {event}, and which way when {other_event}?",
    "{Event}, and later {other_event}. In which directions do the two movements go in the picture?",
    has_mixed_shapes=True,
)
def directions(index: FactIndex, first_id: str, last_id: str) -> Statement | None:
    events = (index.event[first_id], index.event[last_id])
    sides = [_side(index, each) for each in events]
    if sides[0] is None or sides[1] is None:
        return None
    others = {"other_event": index.clause(events[1])}
    ways = {(one, two): f"first {one}, then {two}{' again' * (one == two)}" for one in _SIDES for two in _SIDES}
    answer = ways[sides[0], sides[1]]
    return Statement(
        fields=event_fields(index, events[0]) | others,
        answer=answer,
        wrong=tuple(each for each in ways.values() if each != answer),
        evidence=spans_of(events),
        chain=(
            *(
                step
                for told, moved in zip(
                    narrate(index, events),
                    [_narrate_move(index, each, str(side)) for each, side in zip(events, sides, strict=True)],
                    strict=True,
                )
                for step in (told, moved)
            ),
            (f"So the directions are: {answer}.", f"Taken one after the other: {answer}."),
        ),
    )


_SIDES = ("left", "right")


def _side(index: FactIndex, event: EventFact) -> str | None:
    """To which side the actor moves all the time during the event; None if to none, or if its wording gives it away."""
    if content_words(event.phrase) & {"left", "right"}:
        return None
    centres = [(box.x0 + box.x1) / 2 for box in index.path(event.actor, event)]
    if len(centres) < 2 or abs(centres[-1] - centres[0]) < MIN_MOVE:
        return None
    steps = [later - earlier for earlier, later in pairwise(centres)]
    if min(steps) < 0 < max(steps):
        return None
    return "right" if centres[-1] > centres[0] else "left"


def _narrate_move(index: FactIndex, event: EventFact, side: str) -> Step:
    name, opposite = index.name(event.actor), "left" if side == "right" else "right"
    return (
        f"Meanwhile {name} moves from the {opposite} towards the {side}.",
        f"While this happens, {name} gets further and further to the {side}.",
        f"From {seen_at(event)} on, {name} moves to the {side} in the picture.",
    )


TEMPLATES = (leftmost, rightmost, highest, left_to_right, nearest, direction, directions)
