"""Facts about a video, by people or by the program that rendered it: events, their actors, objects, places and causes.

Questions are derived from them by program (`operators.questions`), so their wording goes into questions as it is.
Times are microseconds from the video's first frame. Dense captions and speech are `schemas.tables.Annotation`.

Facts that contradict each other are refused, with the first contradiction in the message (docs/annotations.md).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from itertools import pairwise
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from schemas.base import Box, Identifier, Microseconds, Model, Span, shown_value
from schemas.uri import printable, public_text

HOLDING_ACTIONS = frozenset({"take", "give", "put", "lose"})
"""Actions after which another entity holds the object, or nobody, see `EventFact`."""


def _wording(text: str) -> str:
    """Check a text that becomes a part of a sentence. Addresses in it lose their credentials."""
    if text != text.strip() or printable(text) != text:
        raise ValueError("a part of a sentence has no line breaks, and no spaces at its ends; remove them")
    if text.endswith((".", "!", "?", ",", ";", ":")):
        raise ValueError("a part of a sentence stands in the middle of one; remove the mark at its end")
    return public_text(text)


Wording = Annotated[str, AfterValidator(_wording)]


class EntityKind(StrEnum):
    """What an entity is."""

    PERSON = "person"
    ANIMAL = "animal"
    THING = "thing"
    PLACE = "place"


class EntityFact(Model):
    """A person, an animal, a thing or a place, the same one wherever it is seen."""

    entity_id: Identifier
    kind: EntityKind
    name: Wording = Field(min_length=1)
    """How a question calls it, with its article: `the woman with the green bag`. No other entity has the name."""
    appearance: Wording = ""
    """What it is recognised by, if that is not in its name."""
    spans: tuple[Span, ...] = ()
    """Where it is seen, in order of time, all of them. Empty if that was not annotated."""


class EventFact(Span):
    """Something that an entity does.

    Four actions decide who holds the object afterwards: `take` (the actor), `give` (the recipient), `put` and `lose`
    (nobody).
    """

    event_id: Identifier
    actor: Identifier
    """Id of the entity that acts."""
    action: Wording = Field(min_length=1)
    """Kind of action, a verb: `take`, `open`, `search`. Events of one actor with the same action and object are
    repetitions."""
    phrase: Wording = Field(min_length=1)
    """What happens, in the third person and without the actor: `gives the brass key to the baker`."""
    object: Identifier | None = None
    """Id of the entity that is acted on."""
    recipient: Identifier | None = None
    """Id of the entity that gets the object, or that is helped."""
    place: Identifier | None = None
    """Id of the place."""
    causes: tuple[Identifier, ...] = ()
    """Ids of earlier events that made this one possible or brought it about."""
    goal: Identifier | None = None
    """Id of the goal that it serves."""
    succeeded: bool | None = None
    """Whether an attempt succeeded; None if it is not an attempt."""


class GoalFact(Model):
    """What an entity wants."""

    goal_id: Identifier
    actor: Identifier
    aim: Wording = Field(min_length=1)
    """What it wants to do, in the infinitive without `to`: `cross the river`."""
    motive: Wording = ""
    """Why, as a clause: `her brother waits on the other side`."""
    shown: tuple[Span, ...] = ()
    """Where the video shows that it is wanted."""
    reached: bool | None = None
    """Whether it is reached in the end; None if that is left open."""


class TrackFact(Model):
    """The boxes of an entity over a span in which it is seen without a break."""

    entity: Identifier
    times_us: tuple[Microseconds, ...] = Field(min_length=1)
    """Times of the boxes, increasing."""
    boxes: tuple[Box, ...] = Field(min_length=1)
    """One box for each time."""


class VideoFacts(Model):
    """All facts about one video.

    Raises:
        ValueError: two facts contradict each other, or one names an id that is not given.
    """

    entities: tuple[EntityFact, ...] = ()
    events: tuple[EventFact, ...] = ()
    """In order of start."""
    goals: tuple[GoalFact, ...] = ()
    tracks: tuple[TrackFact, ...] = ()
    complete: bool = False
    """Whether no event of these kinds is missing, so that `first`, `only` and `how often` can be questions."""

    @model_validator(mode="after")
    def _agree(self) -> VideoFacts:
        for problem in _contradictions(self):
            raise ValueError(problem)
        return self


def find_outside(facts: VideoFacts, duration_us: int) -> str | None:
    """The first fact that lies after the end of the video, as text for a message; None if all lie inside."""
    ends = [(f"event {each.event_id!r} ends", each.end_us) for each in facts.events]
    for entity in facts.entities:
        ends += [(f"entity {entity.entity_id!r}: a span ends", span.end_us) for span in entity.spans]
    for goal in facts.goals:
        ends += [(f"goal {goal.goal_id!r}: a span of `shown` ends", span.end_us) for span in goal.shown]
    ends += [(f"track of {track.entity!r}: a box is", track.times_us[-1]) for track in facts.tracks]
    for what, time_us in ends:
        if time_us > duration_us:
            return f"{what} at {time_us} us, after the video's end at {duration_us} us; correct the time, or the video"
    return None


def _contradictions(facts: VideoFacts) -> Iterator[str]:
    """What is contradictory, as texts for a message. The later checks rely on the ids that the earlier ones check."""
    yield from _repeated("entities", "entity_id", [each.entity_id for each in facts.entities])
    yield from _repeated("events", "event_id", [each.event_id for each in facts.events])
    yield from _repeated("goals", "goal_id", [each.goal_id for each in facts.goals])
    yield from _repeated("entities", "name", [each.name.casefold() for each in facts.entities])
    yield from _unknown_ids(facts)
    for entity in facts.entities:
        yield from _overlaps(f"entity {entity.entity_id!r}, field spans", entity.spans)
    for goal in facts.goals:
        yield from _overlaps(f"goal {goal.goal_id!r}, field shown", goal.shown)
    yield from _wrong_events(facts)
    yield from _wrong_tracks(facts)
    if facts.complete:
        yield from _wrong_holders(facts.events)


def _repeated(table: str, field: str, values: Sequence[str]) -> Iterator[str]:
    for value, count in Counter(values).items():
        if count > 1:
            yield f"{table}: {count} of them have the {field} {shown_value(value)}; rename all but one"


def _unknown_ids(facts: VideoFacts) -> Iterator[str]:
    entities, events = {each.entity_id for each in facts.entities}, {each.event_id for each in facts.events}
    goals = {each.goal_id for each in facts.goals}
    named: list[tuple[str, str | None, set[str], str]] = []
    for event in facts.events:
        row = f"event {event.event_id!r}"
        for field in ("actor", "object", "recipient", "place"):
            named.append((f"{row}, field {field}", getattr(event, field), entities, "entities"))
        named += [(f"{row}, field causes", cause, events, "events") for cause in event.causes]
        named.append((f"{row}, field goal", event.goal, goals, "goals"))
    named += [(f"goal {each.goal_id!r}, field actor", each.actor, entities, "entities") for each in facts.goals]
    named += [(f"tracks.{at}, field entity", each.entity, entities, "entities") for at, each in enumerate(facts.tracks)]
    for place, value, known, table in named:
        if value is not None and value not in known:
            yield f"{place}: {value!r} is not in {table}; add it there, or correct the id"


def _overlaps(place: str, spans: Sequence[Span]) -> Iterator[str]:
    for first, second in pairwise(spans):
        if second.start_us < first.end_us:
            yield (
                f"{place}: the span from {second.start_us} us begins before the end of the one before it, "
                f"{first.end_us} us; list spans in order of time, and join those that overlap"
            )


def _wrong_events(facts: VideoFacts) -> Iterator[str]:
    for first, second in pairwise(facts.events):
        if second.start_us < first.start_us:
            yield (
                f"event {second.event_id!r}, field start_us: {second.start_us} is before the start of event "
                f"{first.event_id!r}, {first.start_us}, which is listed before it; list events in order of start"
            )
    kind_of = {each.entity_id: each.kind for each in facts.entities}
    start_of = {each.event_id: each.start_us for each in facts.events}
    for event in facts.events:
        row = f"event {event.event_id!r}"
        if event.place is not None and kind_of[event.place] is not EntityKind.PLACE:
            yield f"{row}, field place: {event.place!r} is of kind {kind_of[event.place]}; name one of kind place"
        for field in ("object", "recipient"):
            if getattr(event, field) == event.actor:
                yield f"{row}, field {field}: {event.actor!r} is its actor too; correct one of the two"
        if event.object is not None and event.object == event.recipient:
            yield f"{row}, field recipient: {event.object!r} is its object too; correct one of the two"
        needs = ("object", "recipient") if event.action == "give" else ("object",)
        for field in needs if event.action in HOLDING_ACTIONS else ():
            if getattr(event, field) is None:
                yield f"{row}, field {field}: missing, and `{event.action}` needs one; add it, or rename the action"
        for cause in event.causes:
            if start_of[cause] >= event.start_us:
                yield (
                    f"{row}, field causes: {cause!r} starts at {start_of[cause]} us, not before its effect at "
                    f"{event.start_us} us; a cause is an earlier event, and no two events cause each other"
                )


def _wrong_tracks(facts: VideoFacts) -> Iterator[str]:
    spans_of = {each.entity_id: each.spans for each in facts.entities}
    seen: dict[str, list[Span]] = {}
    for at, track in enumerate(facts.tracks):
        row = f"tracks.{at} (of {track.entity!r})"
        if len(track.boxes) != len(track.times_us):
            yield f"{row}, field boxes: {len(track.boxes)} boxes for {len(track.times_us)} times; give one for each"
        for first, second in pairwise(track.times_us):
            if second <= first:
                yield f"{row}, field times_us: {second} is not after {first}; list the times in order, each once"
        for box in track.boxes:
            if box.x1 <= box.x0 or box.y1 <= box.y0:
                shown = f"({box.x0}, {box.y0}) to ({box.x1}, {box.y1})"
                yield f"{row}, field boxes: {shown} has no area; x1 and y1 are the right and the lower edge"
        span = Span(start_us=track.times_us[0], end_us=track.times_us[-1] + 1)
        own = spans_of[track.entity]
        if own and not any(each.start_us <= span.start_us and span.end_us <= each.end_us + 1 for each in own):
            yield (
                f"{row}, field times_us: {track.times_us[0]} to {track.times_us[-1]} is in none of the spans in which "
                f"the entity is seen; add the span to it, or correct the times"
            )
        seen.setdefault(track.entity, []).append(span)
    for entity, spans in seen.items():
        spans.sort(key=lambda span: span.start_us)
        yield from _overlaps(f"tracks of {entity!r}, field times_us", spans)


def _wrong_holders(events: Iterable[EventFact]) -> Iterator[str]:
    """Events that pass on what their actor does not hold. The holder of an object before its first event is open."""
    holder_of: dict[str, str | None] = {}
    for event in events:
        if event.action not in HOLDING_ACTIONS or event.object is None:
            continue
        held = event.object in holder_of
        if event.action != "take" and held and holder_of[event.object] != event.actor:
            holder = holder_of[event.object]
            yield (
                f"event {event.event_id!r}, field actor: {event.actor!r} cannot {event.action} {event.object!r}, which "
                f"{'nobody' if holder is None else repr(holder)} holds then; add the missing event, or set complete "
                f"to false"
            )
        if event.action == "take" and held and holder_of[event.object] == event.actor:
            yield (
                f"event {event.event_id!r}, field action: {event.actor!r} takes {event.object!r}, and holds it "
                f"already; add the missing event, or set complete to false"
            )
        holder_of[event.object] = {"take": event.actor, "give": event.recipient}.get(event.action)
