"""Facts about a video, by people or by the program that rendered it: events, their actors, objects, places and causes.

Questions are derived from them by program (`operators.questions`), so their wording goes into questions as it is.
Times are microseconds from the video's first frame. Dense captions and speech are `schemas.tables.Annotation`.
"""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from schemas.base import Box, Identifier, Microseconds, Model, Span


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
    name: str = Field(min_length=1)
    """How a question calls it, with its article: `the woman with the green bag`. No other entity has the name."""
    appearance: str = ""
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
    action: str = Field(min_length=1)
    """Kind of action, a verb: `take`, `open`, `search`. Events of one actor with the same action and object are
    repetitions."""
    phrase: str = Field(min_length=1)
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
    aim: str = Field(min_length=1)
    """What it wants to do, in the infinitive without `to`: `cross the river`."""
    motive: str = ""
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
    """All facts about one video."""

    entities: tuple[EntityFact, ...] = ()
    events: tuple[EventFact, ...] = ()
    """In order of start."""
    goals: tuple[GoalFact, ...] = ()
    tracks: tuple[TrackFact, ...] = ()
    complete: bool = False
    """Whether no event of these kinds is missing, so that `first`, `only` and `how often` can be questions."""
