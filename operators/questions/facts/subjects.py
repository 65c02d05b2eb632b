"""What a question can be about: events, pairs and sets of events, entities and goals of a video, in random order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import combinations
from random import Random

from operators.questions.facts.index import FactIndex, is_clear
from operators.questions.facts.template import Find, Subjects
from operators.questions.plan import FAR
from schemas.facts import EntityKind

MAX_SUBJECTS = 60
"""Subjects that are drawn for one template of one video. An hour has millions of pairs of events."""


def each_event(index: FactIndex, rng: Random) -> Iterator[Subjects]:
    """Events that happen only once."""
    for each in rng.sample(index.unique, min(len(index.unique), 2 * MAX_SUBJECTS)):
        yield (each.event_id,)


def each_repetition(index: FactIndex, rng: Random) -> Iterator[Subjects]:
    """The first of events that repeat each other."""
    first = [group[0].event_id for group in index.repetitions.values() if len(group) > 1]
    yield from ((each,) for each in rng.sample(first, len(first)))


def each_goal(index: FactIndex, rng: Random) -> Iterator[Subjects]:
    """Goals."""
    yield from ((each,) for each in rng.sample(list(index.goals), len(index.goals)))


def each_thing(index: FactIndex, rng: Random) -> Iterator[Subjects]:
    """Things that something is done to."""
    things = [each for each in index.holdings if each in index.by_object]
    yield from ((each,) for each in rng.sample(things, len(things)))


def event_pairs(index: FactIndex, rng: Random) -> Iterator[Subjects]:
    """Pairs of events in order of time; half of them at least a third of the video apart, if there are such."""
    events = index.unique
    for number in range(2 * MAX_SUBJECTS if len(events) > 1 else 0):
        one, two = sorted(rng.sample(range(len(events)), 2))
        is_far = events[two].start_us - events[one].end_us >= FAR * index.duration_us
        if is_clear(events[one], events[two]) and (is_far or number % 2):
            yield events[one].event_id, events[two].event_id


def event_with(entities: str) -> Find:
    """An event and one of the entities: of the `actors`, or of the things that are `held`."""

    def find(index: FactIndex, rng: Random) -> Iterator[Subjects]:
        others = index.actors() if entities == "actors" else [each for each, held in index.holdings.items() if held]
        for _ in range(2 * MAX_SUBJECTS if index.unique and others else 0):
            yield rng.choice(index.unique).event_id, rng.choice(others)

    return find


def event_sets(size: int, *, in_order: bool = False) -> Find:
    """Sets of events, in order of time or in any; those in any order have clauses of the same shape."""

    def find(index: FactIndex, rng: Random) -> Iterator[Subjects]:
        shapes = {each.event_id: "" if in_order else index.shape(index.clause(each)) for each in index.unique}
        sizes = Counter(shapes.values())
        starts = [each for each in index.unique if sizes[shapes[each.event_id]] >= size]
        for _ in range(MAX_SUBJECTS if starts else 0):
            shape = shapes[rng.choice(starts).event_id]
            alike = [each for each in starts if shapes[each.event_id] == shape]
            chosen = rng.sample(range(len(alike)), size)
            yield tuple(alike[each].event_id for each in (sorted(chosen) if in_order else chosen))

    return find


def seen_sets(size: int) -> Find:
    """Sets of persons and animals, or of things, for which it is known where they are seen."""

    def find(index: FactIndex, rng: Random) -> Iterator[Subjects]:
        seen = [each for each in index.facts.entities if each.spans and each.kind is not EntityKind.PLACE]
        for is_thing in (True, False):
            alike = [each.entity_id for each in seen if (each.kind is EntityKind.THING) is is_thing]
            for _ in range(MAX_SUBJECTS // 2 if len(alike) >= size else 0):
                yield tuple(rng.sample(alike, size))

    return find


def cause_pairs(index: FactIndex, rng: Random) -> Iterator[Subjects]:
    """Pairs of a cause and its effect."""
    pairs = [(cause, each.event_id) for each in index.unique for cause in each.causes if cause in index.unique_ids]
    yield from rng.sample(pairs, min(len(pairs), MAX_SUBJECTS))


def indirect_causes(index: FactIndex, rng: Random) -> Iterator[Subjects]:
    """Pairs of events that other events connect as cause and effect."""
    pairs = [
        (cause, each.event_id)
        for each in index.unique
        for cause in sorted(index.ancestors(each) - set(each.causes))
        if cause in index.unique_ids
    ]
    yield from rng.sample(pairs, min(len(pairs), MAX_SUBJECTS))


def pairs_with_thing(index: FactIndex, rng: Random) -> Iterator[Subjects]:
    """Pairs of events in order of time, and a thing that changes hands."""
    held = [each for each, holdings in index.holdings.items() if holdings]
    if held:
        yield from ((*pair, rng.choice(held)) for _ in range(3) for pair in event_pairs(index, rng))


def actor_pairs(index: FactIndex, rng: Random) -> Iterator[Subjects]:
    """Pairs of those who act."""
    pairs = list(combinations(index.actors(), 2))
    yield from rng.sample(pairs, min(len(pairs), MAX_SUBJECTS))
