"""Questions about how often, how long, and about the first or the last of several."""

from __future__ import annotations

from itertools import combinations
from random import Random

from operators.questions.facts.index import FactIndex, are_clear
from operators.questions.facts.options import WRONG_OPTIONS
from operators.questions.facts.pools import names_except
from operators.questions.facts.subjects import each_event, each_repetition, event_pairs
from operators.questions.facts.template import ONLY_OPEN, Statement, template
from operators.questions.facts.wording import (
    ORDINALS,
    about,
    event_fields,
    infinitive,
    narrate,
    opening,
    seconds_between,
    seen_at,
    spans_of,
    third_person,
)
from operators.questions.plan import FAR
from operators.video.timecode import format_time
from schemas.facts import EntityKind
from schemas.tables import QuestionCategory

TEMPORAL = QuestionCategory.TEMPORAL
MIN_SECONDS = 5
"""Shortest duration that a question asks for. Where a short action begins and ends is a matter of taste."""
MIN_GAP_SECONDS = 10
"""Shortest time between two events that a question asks for."""


@template(
    "facts_count",
    TEMPORAL,
    each_repetition,
    "How often does {actor} {infinitive} in this video?",
    "How many times does {actor} {infinitive}?",
    "How many times does it happen that {event}?",
)
def count(index: FactIndex, event_id: str) -> Statement | None:
    events = index.alike(index.event[event_id])
    if not index.complete or not are_clear(events) or len({each.phrase for each in events}) > 1:
        return None
    clause, number = index.clause(events[0]), str(len(events))
    if sum(index.clause(each) == clause for each in index.events) != len(events):
        return None
    times = [seen_at(each) for each in events]
    return Statement(
        fields=event_fields(index, events[0]),
        answer=number,
        wrong=(),
        evidence=spans_of(events),
        chain=(
            (f"I count how often {clause}.", f"Each time {clause}, I note it."),
            (f"The first time is at {times[0]}.", f"I see it first at {times[0]}."),
            (
                f"It happens again at {' and at '.join(times[1:])}.",
                f"I see the same again at {' and at '.join(times[1:])}.",
            ),
            (f"That makes {number} times.", f"So the number of times is {number}."),
        ),
        kinds=ONLY_OPEN,
    )


@template(
    "facts_duration",
    TEMPORAL,
    each_event,
    "{Event}. About how long does that take?",
    "About how many seconds pass from the start to the end of this: {event}?",
    "About how long can one watch how {event}?",
    has_mixed_shapes=True,
)
def duration(index: FactIndex, event_id: str) -> Statement | None:
    event = index.event[event_id]
    seconds = seconds_between(event.start_us, event.end_us)
    if seconds < MIN_SECONDS:
        return None
    others = [seconds_between(each.start_us, each.end_us) for each in index.unique]
    start, end = format_time(event.start_us), format_time(event.end_us)
    return Statement(
        fields=event_fields(index, event),
        answer=about(seconds),
        wrong=_far_from(seconds, others, least=3),
        evidence=spans_of((event,)),
        chain=(
            opening(f"the moment when {index.clause(event)}"),
            (f"It begins at {start} and is over at {end}.", f"It starts at {start} and lasts until {end}."),
            (f"So it takes {about(seconds)}.", f"From the one to the other that makes {about(seconds)}."),
        ),
    )


@template(
    "facts_gap",
    TEMPORAL,
    event_pairs,
    "About how much time passes between the moment when {first} and the moment when {last}?",
    "First {first}, and later {last}. About how much later is that?",
    "About how long after {first} does it happen that {last}?",
    has_mixed_shapes=True,
)
def gap(index: FactIndex, first_id: str, last_id: str) -> Statement | None:
    first, last = index.event[first_id], index.event[last_id]
    seconds = seconds_between(first.start_us, last.start_us)
    if seconds < MIN_GAP_SECONDS:
        return None
    is_far = last.start_us - first.end_us >= FAR * index.duration_us
    others = [
        seconds_between(one.start_us, two.start_us)
        for one, two in combinations(index.unique, 2)
        if (two.start_us - one.end_us >= FAR * index.duration_us) is is_far
    ]
    return Statement(
        fields={"first": index.clause(first), "last": index.clause(last)},
        answer=about(seconds),
        wrong=_far_from(seconds, others, least=MIN_GAP_SECONDS),
        evidence=spans_of((first, last)),
        chain=(
            ("I note when each of the two begins.", "I need the times of both moments."),
            *narrate(index, (first, last)),
            (
                f"From {seen_at(first)} to {seen_at(last)} it is {about(seconds)}.",
                f"The time from {seen_at(first)} to {seen_at(last)} is {about(seconds)}.",
            ),
        ),
    )


def _far_from(seconds: int, others: list[int], least: int) -> tuple[str, ...]:
    """Three other durations, if one draw gives three that differ from this one and from each other.

    They must differ by a quarter, and at least by `least` seconds. A second draw would favour durations that few others
    come near, and a reader of the options alone could exclude those.
    """
    likely = [each for each in others if each >= least]
    chosen = [seconds, *Random(seconds).sample(likely, min(len(likely), WRONG_OPTIONS))]
    differ = all(abs(one - two) >= max(least, one // 4, two // 4) for one, two in combinations(chosen, 2))
    return tuple(map(about, chosen[1:])) if differ else ()


@template(
    "facts_nth",
    TEMPORAL,
    each_event,
    "What is the {ordinal} thing that {actor} {does}?",
    "Of all the things that {actor} {does}, which one is the {ordinal}?",
    "Which thing is the {ordinal} one that {actor} {does} in this video?",
)
def nth(index: FactIndex, event_id: str) -> Statement | None:
    event = index.event[event_id]
    same = [each for each in index.by_actor[event.actor] if each.action == event.action]
    things = [each.object for each in same]
    if not index.complete or not are_clear(same) or None in things or not 3 <= len(set(things)) == len(things) <= 5:
        return None
    names = [index.name(each) for each in things if each is not None]
    if any(infinitive(each) != f"{each.action} {name}" for each, name in zip(same, names, strict=True)):
        return None
    if any(index.kind(each) is not EntityKind.THING for each in things if each is not None):
        return None
    position = same.index(event)
    ordinal = "last" if position == len(same) - 1 else ORDINALS[position]
    seen = same if ordinal == "last" else same[: position + 1]
    others = [index.name(each.object) for each in index.events if each.action == event.action and each.object]
    return Statement(
        fields={"ordinal": ordinal, "actor": index.name(event.actor), "does": third_person(event.action)},
        answer=names[position],
        wrong=names_except(dict.fromkeys([*names, *others]), names[position]),
        evidence=spans_of(seen),
        chain=(
            (f"I go through everything that {index.name(event.actor)} {third_person(event.action)}.",),
            *narrate(index, seen),
            (f"So the {ordinal} one is {names[position]}.", f"That makes {names[position]} the {ordinal} one."),
        ),
    )


@template(
    "facts_first_actor",
    TEMPORAL,
    each_event,
    "Who is the {ordinal} to {infinitive}?",
    "Several do this at some time: {infinitive}. Who is the {ordinal}?",
)
def first_actor(index: FactIndex, event_id: str) -> Statement | None:
    event = index.event[event_id]
    same = (
        [each for each in index.by_object.get(event.object, []) if each.action == event.action] if event.object else []
    )
    if not index.complete or len({each.actor for each in same}) < 2 or not are_clear(same) or event not in same:
        return None
    position = same.index(event)
    if 0 < position < len(same) - 1 or any(infinitive(each) != infinitive(event) for each in same):
        return None
    ordinal = "last" if position else "first"
    name = index.name(event.actor)
    return Statement(
        fields=event_fields(index, event) | {"ordinal": ordinal},
        answer=name,
        wrong=names_except(index.actor_names(), name),
        evidence=spans_of(same),
        chain=(
            (
                "I note each time that it happens, and who does it.",
                "It happens more than once, so I compare the times.",
            ),
            *narrate(index, same),
            (f"So {name} is the {ordinal}.", f"The {ordinal} of them, at {seen_at(event)}, is {name}."),
        ),
    )


TEMPLATES = (count, duration, gap, nth, first_actor)
