"""The facts about a video, indexed for the templates: events by actor and object, who holds what, places and boxes."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

from schemas.base import Box, Span
from schemas.facts import HOLDING_ACTIONS, EntityFact, EntityKind, EventFact, GoalFact, TrackFact, VideoFacts

SECOND_US = 1_000_000

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True)
class Holding:
    """A thing in somebody's hands, from the event that brought it there to the event that took it away."""

    thing: str
    holder: str
    since: EventFact
    until: EventFact | None
    """None if it is still there at the end of the video."""

    def covers(self, span: Span) -> bool:
        """Whether the holder has the thing during the whole span."""
        return self.since.end_us <= span.start_us and (self.until is None or span.end_us <= self.until.start_us)


@dataclass(frozen=True)
class Area:
    """The smallest area that contains the centres of some boxes, as fractions of the picture."""

    left: float
    right: float
    top: float
    bottom: float
    is_whole: bool
    """Whether there are boxes from the start of the span to its end."""
    is_covered: bool
    """Whether another box covers more than half of one of the boxes, so that it may be hidden."""

    @classmethod
    def around(cls, boxes: Sequence[Box], *, is_whole: bool, is_covered: bool) -> Area:
        across = [(box.x0 + box.x1) / 2 for box in boxes]
        down = [(box.y0 + box.y1) / 2 for box in boxes]
        return cls(min(across), max(across), min(down), max(down), is_whole, is_covered)


class FactIndex:
    """The facts about one video, in the forms in which templates need them."""

    def __init__(self, facts: VideoFacts, duration_us: int) -> None:
        self.facts = facts
        self.duration_us = duration_us
        self.complete = facts.complete
        self.entities: dict[str, EntityFact] = {each.entity_id: each for each in facts.entities}
        self.goals: dict[str, GoalFact] = {each.goal_id: each for each in facts.goals}
        self.events = sorted(facts.events, key=lambda each: (each.start_us, each.end_us, each.event_id))
        self.event: dict[str, EventFact] = {each.event_id: each for each in self.events}
        self.by_actor = _group(self.events, lambda each: each.actor)
        self.by_object = _group(self.events, lambda each: each.object)
        self.by_goal = _group(self.events, lambda each: each.goal)
        self.repetitions = _group(self.events, lambda each: (each.actor, each.action, each.object, each.recipient))
        self.effects: dict[str, list[EventFact]] = defaultdict(list)
        for each in self.events:
            for cause in each.causes:
                self.effects[cause].append(each)
        clauses = Counter(self.clause(each) for each in self.events)
        self.unique = [each for each in self.events if len(self.alike(each)) == 1 and clauses[self.clause(each)] == 1]
        self.unique_ids = frozenset(each.event_id for each in self.unique)
        self.ids = frozenset([*self.entities, *self.event, *self.goals])
        self.holdings: dict[str, list[Holding]] = {
            entity_id: list(_holdings(entity_id, self.changes(entity_id)))
            for entity_id, entity in self.entities.items()
            if entity.kind is EntityKind.THING
        }
        kinds = {each.name: each.kind.value for each in facts.entities}
        longest_first = sorted(kinds, key=len, reverse=True)
        self._kinds = kinds
        self._names = re.compile(rf"\b(?:{'|'.join(map(re.escape, longest_first))})\b" if kinds else r"(?!)")
        self._shapes: dict[str, str] = {}
        self._areas: dict[tuple[int, int], dict[str, Area]] = {}
        self._tracks = _group(facts.tracks, lambda each: each.entity)

    def name(self, entity_id: str) -> str:
        """What a question calls the entity."""
        return self.entities[entity_id].name

    def clause(self, event: EventFact) -> str:
        """The event as a clause: `the baker takes the brass key`."""
        return f"{self.name(event.actor)} {event.phrase}"

    def alike(self, event: EventFact) -> list[EventFact]:
        """The event and its repetitions: the same actor does the same to the same object."""
        return self.repetitions[event.actor, event.action, event.object, event.recipient]

    def shape(self, text: str) -> str:
        """The text with the kind of each entity in place of its name.

        Texts of different shapes can be told apart without the video, and one kind may be more often right. Longer
        texts that name nothing but perhaps their actor count as alike: each of them is rare. `gives up` is not.
        """
        if text not in self._shapes:
            actor = self._names.match(text)
            rest = text[actor.end() :] if actor else text
            is_rare = len(rest.split()) > 2 and not self._names.search(rest)
            kind = self._kinds[actor[0]] if actor else ""
            self._shapes[text] = kind if is_rare else self._names.sub(lambda found: self._kinds[found[0]], text)
        return self._shapes[text]

    def kind(self, entity_id: str) -> EntityKind:
        return self.entities[entity_id].kind

    def names_of(self, *kinds: EntityKind) -> list[str]:
        """The names of all entities of these kinds."""
        return [each.name for each in self.facts.entities if each.kind in kinds]

    def actors(self) -> list[str]:
        """Ids of the persons and animals that do something."""
        living = (EntityKind.PERSON, EntityKind.ANIMAL)
        return [each for each in self.by_actor if self.kind(each) in living]

    def actor_names(self) -> list[str]:
        """The names of all persons and animals that do something, or that something is done to."""
        involved = {each.recipient for each in self.events} | set(self.by_actor)
        living = (EntityKind.PERSON, EntityKind.ANIMAL)
        return [each.name for each in self.facts.entities if each.entity_id in involved and each.kind in living]

    def place_names(self) -> list[str]:
        """The names of the places where something happens."""
        return list(dict.fromkeys(self.name(each.place) for each in self.events if each.place is not None))

    def held_names(self) -> list[str]:
        """The names of the things that somebody holds at some time."""
        return [self.name(thing) for thing, holdings in self.holdings.items() if holdings]

    def is_sole(self, event: EventFact) -> bool:
        """Whether nobody else does the same at any time, so that the actor can be named by it."""
        same = [
            each
            for each in self.events
            if each.phrase == event.phrase
            or (event.object is not None and (each.action, each.object) == (event.action, event.object))
        ]
        return event.event_id in self.unique_ids and same == [event]

    def the_one(self, event: EventFact) -> str:
        """The actor, named by what it does: `the person who takes the brass key`."""
        word = {EntityKind.PERSON: "person who", EntityKind.ANIMAL: "animal that"}.get(
            self.kind(event.actor), "one that"
        )
        return f"the {word} {event.phrase}"

    def kind_word(self, entity_id: str) -> str:
        """An entity that was just named: `this person`, `this animal`."""
        return {EntityKind.PERSON: "this person", EntityKind.ANIMAL: "this animal"}.get(self.kind(entity_id), "it")

    def hands(self, thing: str) -> list[str]:
        """Ids of all that hold the thing, in order of time, with the one who has it before its first event."""
        changes = self.changes(thing)
        holders = [changes[0].actor] if changes and changes[0].action != "take" else []
        holders += [each.holder for each in self.holdings.get(thing, [])]
        return [each for number, each in enumerate(holders) if not number or holders[number - 1] != each]

    def holder(self, thing: str, span: Span) -> str | None:
        """Id of the one who has the thing during the whole span."""
        return next((each.holder for each in self.holdings[thing] if each.covers(span)), None)

    def changes(self, thing: str) -> list[EventFact]:
        """The events that decide who holds the thing."""
        return [each for each in self.by_object.get(thing, []) if each.action in HOLDING_ACTIONS]

    def ancestors(self, event: EventFact) -> set[str]:
        """Ids of all events that it follows from, directly or not."""
        found: set[str] = set()
        pending = list(event.causes)
        while pending:
            cause = pending.pop()
            if cause not in found:
                found.add(cause)
                pending += self.event[cause].causes
        return found

    def stops(self, events: Iterable[EventFact]) -> list[EventFact]:
        """The first event at each place along the way, if all of them have a place; otherwise none."""
        chosen: list[EventFact] = []
        for each in events:
            if each.place is None:
                return []
            if not chosen or chosen[-1].place != each.place:
                chosen.append(each)
        return chosen

    def areas(self, span: Span) -> dict[str, Area]:
        """The area in which the centre of each tracked entity stays during a span. Places are not tracked."""
        key = (span.start_us, span.end_us)
        if key not in self._areas:
            parts: dict[str, list[TrackFact]] = defaultdict(list)
            for track in self.facts.tracks:
                if track.times_us[0] < span.end_us and track.times_us[-1] >= span.start_us:
                    parts[track.entity].append(track)
            self._areas[key] = {
                entity_id: Area.around(
                    boxes,
                    is_whole=any(_covers(track, span) for track in tracks),
                    is_covered=any(
                        _is_covered(track, span, other)
                        for track in tracks
                        for entity, others in parts.items()
                        if entity != entity_id
                        for other in others
                    ),
                )
                for entity_id, tracks in parts.items()
                if (boxes := [box for track in tracks for box in _boxes_in(track, span)])
                and self.kind(entity_id) is not EntityKind.PLACE
            }
        return self._areas[key]

    def path(self, entity_id: str, span: Span) -> list[Box]:
        """The boxes of an entity during a span, if it is tracked from start to end; otherwise none."""
        tracks = [each for each in self._tracks.get(entity_id, []) if _covers(each, span)]
        return _boxes_in(tracks[0], span) if tracks else []


def is_clear(earlier: Span, later: Span) -> bool:
    """Whether one span ends before the other starts, and they start in different seconds."""
    return earlier.end_us <= later.start_us and earlier.start_us // SECOND_US < later.start_us // SECOND_US


def are_clear(events: Sequence[Span]) -> bool:
    """Whether all spans, in this order, follow each other clearly."""
    return all(is_clear(earlier, later) for earlier, later in pairwise(events))


def overlap_us(one: Span, other: Span) -> int:
    """Microseconds that two spans have in common."""
    return max(0, min(one.end_us, other.end_us) - max(one.start_us, other.start_us))


def _covers(track: TrackFact, span: Span) -> bool:
    """Whether an entity is tracked from the start of a span to its end, but for the time between two boxes."""
    step_us = max((later - earlier for earlier, later in pairwise(track.times_us)), default=0)
    if step_us > SECOND_US:
        return False
    return track.times_us[0] <= span.start_us + step_us and track.times_us[-1] >= span.end_us - step_us


def _is_covered(track: TrackFact, span: Span, other: TrackFact) -> bool:
    """Whether another box covers more than half of a box at any time of the span. Which is in front is not known."""
    for time_us, box in zip(track.times_us, track.boxes, strict=True):
        if span.start_us <= time_us < span.end_us and other.times_us[0] <= time_us <= other.times_us[-1]:
            over = other.boxes[bisect_right(other.times_us, time_us) - 1]
            width = min(box.x1, over.x1) - max(box.x0, over.x0)
            height = min(box.y1, over.y1) - max(box.y0, over.y0)
            if width > 0 and height > 0 and 2 * width * height > (box.x1 - box.x0) * (box.y1 - box.y0):
                return True
    return False


def _boxes_in(track: TrackFact, span: Span) -> list[Box]:
    first, last = bisect_left(track.times_us, span.start_us), bisect_left(track.times_us, span.end_us)
    return list(track.boxes[first:last])


def _group(items: Iterable[T], key: Callable[[T], K]) -> dict[K, list[T]]:
    groups: dict[K, list[T]] = defaultdict(list)
    for each in items:
        groups[key(each)].append(each)
    return dict(groups)


def _holdings(thing: str, changes: Sequence[EventFact]) -> Iterator[Holding]:
    """Who holds the thing after each event that decides it."""
    for index, each in enumerate(changes):
        holder = {"take": each.actor, "give": each.recipient}.get(each.action)
        if holder is not None:
            yield Holding(thing, holder, each, changes[index + 1] if index + 1 < len(changes) else None)
