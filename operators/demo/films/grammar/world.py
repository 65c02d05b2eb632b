"""The world of a film: where everybody is, who holds what, and every change of it as an event with its causes.

A plot changes the world only through these methods. Each checks that the change is possible, and logs it. So the log
is consistent by construction, and the pictures are staged from it.
"""

import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from operators.demo.films.grammar.casting import BRIGHT, COLOURS, PEOPLE, Entity, describe, scale_of
from operators.demo.films.grammar.casting import PLACES as PLACE_NAMES
from operators.demo.films.script import Colour, ObjectKind, Scene
from schemas.facts import EntityKind

Side = Literal["left", "right"]
Spot = Literal["ground", "inside", "tree", "hand"]


class WorldError(RuntimeError):
    """A plot did something impossible. The message names who, what and why not."""


@dataclass
class Event:
    """Something that happens. Staging sets its frames [start, end) in the film."""

    id: str
    actor: str
    action: str
    phrase: str
    object: str | None = None
    recipient: str | None = None
    place: str | None = None
    causes: tuple[str, ...] = ()
    goal: str | None = None
    succeeded: bool | None = None
    start: int = 0
    end: int = 0


@dataclass
class Goal:
    """What somebody wants. `pictures` are shown in the thought bubble: the aim, and after it the motive."""

    id: str
    actor: str
    aim: str
    motive: str
    pictures: tuple[str, ...]
    arrow: bool = False
    shown: list[tuple[int, int]] = field(default_factory=list)
    reached: bool = False


@dataclass
class Act:
    """A gesture to be staged, with the event or the goal that it shows."""

    gesture: str
    actor: str
    place: str
    event: Event | None = None
    goal: Goal | None = None
    object: str | None = None
    recipient: str | None = None
    side: Side | None = None


@dataclass
class Placement:
    """Where a new entity is before anything happens. `holder` is what it is in, on or held by."""

    entity: str
    place: str
    spot: Spot = "ground"
    holder: str | None = None


class World:
    """The state of a film's world, and the log of what happened in it."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        scenes: list[Scene] = list(PLACE_NAMES)
        rng.shuffle(scenes)
        self.entities: dict[str, Entity] = {}
        self.places: list[str] = []
        for scene in scenes:
            view: ObjectKind = f"{scene}_view"  # type: ignore[assignment]
            self.entities[scene] = Entity(scene, EntityKind.PLACE, view, "black", PLACE_NAMES[scene], "", 1.0)
            self.places.append(scene)
        self.line: list[str] = []
        self.position: dict[str, str | None] = {}
        self.holder: dict[str, str] = {}
        self.held: dict[str, str] = {}
        self.hidden: dict[str, str] = {}
        self.hanging: dict[str, str] = {}
        self.opened: set[str] = set()
        self.closed_off: set[str] = set()
        self.edges: dict[str, Side] = {}
        self.events: list[Event] = []
        self.goals: list[Goal] = []
        self.acts: list[Act] = []
        self.placements: list[Placement] = []
        self._changed: dict[str, Event] = {}
        self._moved: dict[str, Event] = {}
        self.reason: dict[str, Event] = {}

    # Casting

    def name(self, entity: str) -> str:
        """How the entity is called."""
        return self.entities[entity].name

    def add(
        self,
        sprite: ObjectKind,
        place: str,
        spot: Spot = "ground",
        holder: str | None = None,
        colour: Colour | None = None,
    ) -> str:
        """A new entity of a kind, in a colour that no other of this kind has; its id.

        Raises:
            NoColourLeft: all colours of this kind are taken.
        """
        taken = {each.colour for each in self.entities.values() if each.sprite == sprite}
        free = [each for each in COLOURS.get(sprite, BRIGHT) if each not in taken]
        if colour is None and not free:
            raise NoColourLeft(sprite)
        chosen = self.rng.choice(free) if colour is None else colour
        if chosen in taken:
            raise NoColourLeft(sprite)
        name, appearance = describe(sprite, chosen)
        kind = EntityKind.PERSON if sprite in PEOPLE or sprite == "robot" else EntityKind.THING
        if sprite in ("dog", "cat"):
            kind = EntityKind.ANIMAL
        entity = Entity(f"{chosen}_{sprite}", kind, sprite, chosen, name, appearance, scale_of(sprite))
        self.entities[entity.id] = entity
        self.position[entity.id] = place
        if spot == "hand" and holder:
            self.holder[entity.id], self.held[holder] = holder, entity.id
        elif spot == "inside" and holder:
            self.hidden[entity.id] = holder
        elif spot == "tree" and holder:
            self.hanging[entity.id] = holder
        self.placements.append(Placement(entity.id, place, spot, holder))
        return entity.id

    # What is where

    def here(self, who: str) -> str:
        """The place where somebody or something is.

        Raises:
            WorldError: it is under way.
        """
        place = self.position[self.holder.get(who, who)]
        if place is None:
            raise WorldError(f"{who} is under way; let it arrive first")
        return place

    def side(self, origin: str, target: str) -> Side:
        """The side on which one leaves `origin` for `target`. Places lie on a line."""
        return "right" if self.line.index(target) > self.line.index(origin) else "left"

    def locate(self, place: str) -> str:
        """Give a place its spot on the line, unless it has one, where no closed way has to be passed; the place."""
        if place not in self.line:
            first, last = 0, len(self.line)
            if self.line and self.line[0] in self.closed_off:
                first += 2
            if self.line and self.line[-1] in self.closed_off:
                last -= 2
            self.line.insert(self.rng.randint(first, last), place)
        return place

    def extend(self, place: str, side: Side) -> str:
        """Put a place at one end of the line; the place."""
        self.line.insert(len(self.line) if side == "right" else 0, place)
        return place

    # Changes

    def leave(
        self,
        who: str,
        to: str,
        *,
        goal: Goal | None = None,
        phrase: str = "",
        because: Event | None = None,
        vehicle: str | None = None,
    ) -> Event:
        """Somebody leaves for another place, in a vehicle if given."""
        here = self.here(who)
        if here == to:
            raise WorldError(f"{who} is already in {to}")
        side = self.side(here, to)
        event = self._log(
            who,
            "leave",
            phrase or f"leaves {self.name(here)} to the {side}",
            object=vehicle,
            goal=goal,
            causes=[because, self.reason.pop(who, None)],
        )
        self.position[who] = None
        self._moved[who] = event
        self._act("drive" if vehicle else "leave", event, side=side)
        return event

    def arrive(
        self, who: str, place: str, *, goal: Goal | None = None, phrase: str = "", vehicle: str | None = None
    ) -> Event:
        """Somebody who has left arrives, in a vehicle if given."""
        if self.position[who] is not None:
            raise WorldError(f"{who} cannot arrive in {place}, since it never left {self.position[who]}")
        if place in self.closed_off:
            raise WorldError(f"{place} is closed off; open its way first")
        left = self._moved[who]
        side = self.side(place, str(left.place))
        self.position[who] = place
        event = self._log(
            who, "arrive", phrase or f"arrives at {self.name(place)}", object=vehicle, goal=goal, causes=[left]
        )
        self._moved[who] = event
        self._act("drive_in" if vehicle else "arrive", event, side=side)
        return event

    def cross(self, who: str, place: str, *, goal: Goal | None = None) -> Event:
        """Somebody who is under way walks through a place without stopping."""
        left = self._moved[who]
        self.position[who] = place
        event = self._log(who, "cross", f"crosses {self.name(place)}", goal=goal, causes=[left])
        self.position[who] = None
        self._act("cross", event, side=self.side(place, str(left.place)))
        return event

    def take(
        self, who: str, thing: str, *, goal: Goal | None = None, phrase: str = "", because: Event | None = None
    ) -> Event:
        """Somebody takes a thing that nobody holds, or `because` of which its holder loses it to them."""
        self._check_reach(who, thing)
        if who in self.held:
            raise WorldError(f"{who} cannot take {thing} while holding {self.held[who]}")
        if thing in self.holder and not phrase:
            raise WorldError(f"{who} cannot take {thing}, which {self.holder[thing]} holds")
        event = self._log(
            who,
            "take",
            phrase or f"takes {self.name(thing)}",
            object=thing,
            goal=goal,
            causes=[self._changed.get(thing), because],
        )
        if former := self.holder.pop(thing, None):
            del self.held[former]
        self.hanging.pop(thing, None)
        self.holder[thing], self.held[who] = who, thing
        self._changed[thing] = self.reason[who] = event
        self._act("snatch" if former else "take", event, recipient=former)
        return event

    def put(
        self,
        who: str,
        thing: str,
        *,
        goal: Goal | None = None,
        phrase: str = "",
        at: str | None = None,
        because: Event | None = None,
        gesture: str = "put",
    ) -> Event:
        """Somebody puts down what they hold, next to `at` if given."""
        phrase = phrase or f"puts {self.name(thing)} down"
        return self._let_go(who, thing, "put", phrase, gesture, goal, because, at)

    def lose(self, who: str, thing: str, *, because: Event) -> Event:
        """Somebody lets fall what they hold."""
        return self._let_go(who, thing, "lose", f"loses {self.name(thing)}", "lose", None, because, None)

    def _let_go(
        self,
        who: str,
        thing: str,
        action: str,
        phrase: str,
        gesture: str,
        goal: Goal | None,
        because: Event | None,
        at: str | None,
    ) -> Event:
        if self.holder.get(thing) != who:
            raise WorldError(f"{who} cannot {action} {thing}, since {self.holder.get(thing)} holds it")
        event = self._log(who, action, phrase, object=thing, goal=goal, causes=[self._changed.get(thing), because])
        del self.holder[thing], self.held[who]
        self.position[thing] = self.here(who)
        self._changed[thing] = event
        self._act(gesture, event, recipient=at)
        return event

    def give(self, who: str, thing: str, to: str, *, goal: Goal | None = None, because: Event | None = None) -> Event:
        """Somebody gives what they hold to somebody whose hands are free."""
        if self.holder.get(thing) != who or self.here(who) != self.here(to) or to in self.held:
            raise WorldError(f"{who} cannot give {thing} to {to}, who holds {self.held.get(to)}")
        event = self._log(
            who,
            "give",
            f"gives {self.name(thing)} to {self.name(to)}",
            object=thing,
            recipient=to,
            goal=goal,
            causes=[self._changed.get(thing), because],
        )
        del self.held[who]
        self.holder[thing], self.held[to] = to, thing
        self._changed[thing] = event
        self._act("give", event)
        return event

    def act(
        self,
        who: str,
        action: str,
        phrase: str,
        *,
        object: str | None = None,
        recipient: str | None = None,
        goal: Goal | None = None,
        succeeded: bool | None = None,
        because: Iterable[Event | None] = (),
        gesture: str = "",
    ) -> Event:
        """Any other thing that somebody does at a place. The gesture that shows it is its action by default."""
        for other in (object, recipient):
            if other and action != "look" and self.here(other) != self.here(who):
                raise WorldError(f"{who} cannot {action} {other}, which is in {self.here(other)}")
        event = self._log(
            who, action, phrase, object=object, recipient=recipient, goal=goal, succeeded=succeeded, causes=because
        )
        self._act(gesture or action, event)
        return event

    def pass_by(self, flyer: str, place: str) -> Event:
        """Something crosses the sky over a place. It happens again and again, and nobody causes it."""
        self.position[flyer] = place
        event = self._log(flyer, "fly", "flies by", causes=())
        self.position[flyer] = None
        return event

    def reveal(self, event: Event, thing: str) -> None:
        """The event brings a hidden thing to light."""
        del self.hidden[thing]
        self._changed[thing] = event
        self.acts[-1].object = thing

    def try_lock(self, who: str, box: str, *, goal: Goal, because: Event | None = None) -> Event:
        """Somebody tries the lock of a chest or a gate in vain."""
        if box in self.opened:
            raise WorldError(f"{who} cannot try the lock of {box}, which is open")
        phrase = f"tries the lock of {self.name(box)}"
        return self.act(who, "try", phrase, object=box, goal=goal, succeeded=False, because=[because], gesture="rattle")

    def unlock(self, who: str, box: str, *, goal: Goal, because: Event) -> Event:
        """Somebody tries the lock with what they hold, and it opens. What is inside comes to light."""
        key = self.held.get(who)
        if key is None or box in self.opened:
            raise WorldError(f"{who} cannot open {box} with {key}")
        phrase, why = f"tries the lock of {self.name(box)}", [self._changed[key], because]
        turned = self.act(who, "try", phrase, object=box, goal=goal, succeeded=True, because=why, gesture="unlock")
        event = self.act(box, "open", "opens", because=[turned])
        self.opened.add(box)
        for thing in [thing for thing, outer in self.hidden.items() if outer == box]:
            del self.hidden[thing]
            self._changed[thing] = event
        return event

    def move(self, what: str, place: str | None, event: Event) -> None:
        """A prop is moved to another place, or out of the film, by an event."""
        self.position[what] = place
        self._changed[what] = event

    def want(self, who: str, aim: str, motive: str, *pictures: str, arrow: bool = False) -> Goal:
        """Somebody thinks of what they want, in a thought bubble, with an arrow between its pictures if that helps."""
        goal = Goal(f"g{len(self.goals) + 1}", who, aim, motive, pictures, arrow)
        self.goals.append(goal)
        self.think(goal)
        return goal

    def think(self, goal: Goal) -> None:
        """A goal is shown again."""
        self.acts.append(Act("think", goal.actor, self.here(goal.actor), goal=goal))

    def take_acts(self) -> list[Act]:
        """The acts since the last call, for staging."""
        acts, self.acts = self.acts, []
        return acts

    def last_change(self, thing: str) -> Event | None:
        """The last event that moved, opened or revealed a thing."""
        return self._changed.get(thing)

    def _check_reach(self, who: str, thing: str) -> None:
        if thing in self.hidden:
            raise WorldError(f"{who} cannot reach {thing}, which is hidden in {self.hidden[thing]}")
        if self.here(who) != self.here(thing):
            raise WorldError(f"{who} is in {self.here(who)} and cannot reach {thing} in {self.here(thing)}")

    def _log(
        self,
        who: str,
        action: str,
        phrase: str,
        *,
        causes: Iterable[Event | None],
        object: str | None = None,
        recipient: str | None = None,
        goal: Goal | None = None,
        succeeded: bool | None = None,
    ) -> Event:
        known = {event.id for event in causes if event is not None}
        event = Event(
            id=f"e{len(self.events) + 1}",
            actor=who,
            action=action,
            phrase=phrase,
            object=object,
            recipient=recipient,
            place=self.here(who),
            goal=goal.id if goal else None,
            succeeded=succeeded,
            causes=tuple(sorted(known, key=lambda each: int(each[1:]))),
        )
        self.events.append(event)
        return event

    def _act(self, gesture: str, event: Event, *, side: Side | None = None, recipient: str | None = None) -> None:
        self.acts.append(
            Act(gesture, event.actor, str(event.place), event, None, event.object, recipient or event.recipient, side)
        )


class NoColourLeft(Exception):
    """A film has no colour left for another entity of this kind."""
