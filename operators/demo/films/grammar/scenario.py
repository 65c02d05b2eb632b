"""The parts of a plot that every quest needs: who and what takes part, where, and how people get from place to place.

What is planned is put into the world first, and what happens later comes in steps. A step is what happens without a
break, so the steps of parallel quests can alternate.
"""

import random
from collections.abc import Callable, Iterator, Sequence

from operators.demo.films.grammar.casting import PEOPLE, PROPS, TREASURES
from operators.demo.films.grammar.world import Event, Goal, World
from operators.demo.films.script import Colour, ObjectKind
from schemas.facts import EntityKind

Steps = Iterator[None]

_MOST_PEOPLE = 9
"""From this many on, people of earlier quests mostly play the parts in later ones."""
_TOO_MANY_PEOPLE = 14
_MOST_PROPS = 3
"""Chests, trees and the like at one place."""


class GivenUp(Exception):
    """Somebody gives up a quest. Its goals are not reached."""


class Scenario:
    """Casts the entities of one chapter. `busy` are those that have a part in it."""

    def __init__(self, world: World, rng: random.Random) -> None:
        self.world = world
        self.rng = rng
        self.busy: set[str] = set()

    def use(self, entity: str) -> str:
        """Give an entity a part, which keeps others from using it; the entity."""
        self.busy.add(entity)
        return entity

    def hero(self) -> str:
        """Somebody for a quest of their own: new, or free after an earlier chapter."""
        idle = self.idle(lambda who: True)
        if idle and (self.is_crowded or self.rng.random() < (0.85 if len(self._people()) >= _MOST_PEOPLE else 0.35)):
            return self.use(self.rng.choice(idle))
        return self.person(self.place(()))

    def person(self, place: str) -> str:
        """A new person at a place."""
        used = [self.world.entities[each].sprite for each in self._people()]
        unused = [kind for kind in PEOPLE if kind not in used]
        return self.use(self.world.add(self.rng.choice(unused or list(PEOPLE)), place))

    def companion(self, hero: str) -> str:
        """Somebody with free hands next to a hero, mostly new."""
        place = self.world.here(hero)
        idle = self.idle(lambda who: who not in self.world.held and self.world.here(who) == place)
        if idle and self.rng.random() < 0.6:
            return self.use(self.rng.choice(idle))
        return self.person(place)

    def owners(self, avoid: Sequence[str]) -> list[str]:
        """People who hold something since an earlier chapter, in none of the places to avoid."""
        return self.idle(lambda who: who in self.world.held and self.world.here(who) not in avoid)

    @property
    def is_crowded(self) -> bool:
        """Whether the film has so many people that no more should come."""
        return len(self._people()) >= _TOO_MANY_PEOPLE

    def resident(self, avoid: Sequence[str]) -> str:
        """Somebody with free hands who stays where they are, in none of the places to avoid."""
        idle = self.idle(lambda who: who not in self.world.held and self.world.here(who) not in avoid)
        if idle and (self.is_crowded or self.rng.random() < (0.8 if len(self._people()) >= _MOST_PEOPLE else 0.25)):
            return self.use(self.rng.choice(idle))
        return self.person(self.place(avoid))

    def idle(self, fits: Callable[[str], bool]) -> list[str]:
        """People without a part in this chapter, where others can meet them."""
        free = [each for each in self._people() if each not in self.busy and self._is_open(each)]
        return [each for each in free if fits(each)]

    def _is_open(self, entity: str) -> bool:
        place = self.world.position[entity]
        return place is not None and place not in self.world.closed_off

    def _people(self) -> list[str]:
        return [each.id for each in self.world.entities.values() if each.kind is EntityKind.PERSON]

    def new(self, sprite: ObjectKind, place: str, *, colour: Colour | None = None) -> str:
        """A new animal, thing or prop at a place."""
        return self.use(self.world.add(sprite, place, colour=colour))

    def held_by(self, holder: str, sprite: ObjectKind) -> str:
        """A new thing in somebody's hand."""
        return self.use(self.world.add(sprite, self.world.here(holder), "hand", holder))

    def treasure(self) -> ObjectKind:
        """A kind of thing that people want, mostly one that the film has not shown."""
        used = [each.sprite for each in self.world.entities.values()]
        unused = [kind for kind in TREASURES if kind not in used]
        return self.rng.choice(unused if unused and self.rng.random() < 0.7 else TREASURES)

    def loose(self, sprite: ObjectKind | None, avoid: Sequence[str]) -> list[str]:
        """Things of earlier chapters that lie about, of one kind or of any that people want."""
        world = self.world
        kinds = [sprite] if sprite else TREASURES
        stuck = {*self.busy, *world.holder, *world.hidden, *world.hanging}
        things = [each.id for each in world.entities.values() if each.sprite in kinds and each.id not in stuck]
        return [each for each in things if self._is_open(each) and world.here(each) not in avoid]

    def groups(self, kinds: Sequence[ObjectKind], avoid: Sequence[str]) -> list[list[str]]:
        """Empty props of some kinds from earlier chapters, where two or more stand at one place."""
        world = self.world
        full = {*self.busy, *world.hidden.values()}
        props = [each.id for each in world.entities.values() if each.sprite in kinds and each.id not in full]
        free = [each for each in props if self._is_open(each) and world.here(each) not in avoid]
        groups = [[each for each in free if world.here(each) == place] for place in world.line]
        return [group for group in groups if len(group) > 1]

    def crowd(self, place: str) -> tuple[int, int]:
        """How many props are at a place, and how many entities in all."""
        world = self.world
        here = [each for each, where in world.position.items() if where == place and each not in world.holder]
        return len([each for each in here if world.entities[each].sprite in PROPS]), len(here)

    def place(self, avoid: Sequence[str], *, props: int = 0) -> str:
        """One of the emptier places, with room for some more props."""
        free = [place for place in self.world.places if place not in self.world.closed_off and place not in avoid]
        free = [place for place in free if self.crowd(place)[0] + props <= _MOST_PROPS] or free
        free.sort(key=lambda place: sum(self.crowd(place)) + self.rng.random() * 3)
        return self.world.locate(self.rng.choice(free[:3]))

    def go(self, who: str, place: str, goal: Goal | None, *followers: str) -> Steps:
        """Somebody goes to a place, perhaps through another one, and others follow."""
        world = self.world
        if world.position[who] == place:
            return
        origin = world.here(who)
        event = world.leave(who, place, goal=goal)
        for each in followers:
            world.leave(each, place, phrase=f"follows {world.name(who)}", because=event)
        yield
        first, last = sorted((world.line.index(origin), world.line.index(place)))
        between = world.line[first + 1 : last]
        if between and not followers and self.rng.random() < 0.25:
            world.cross(who, self.rng.choice(between), goal=goal)
            yield
        world.arrive(who, place, goal=goal)
        for each in followers:
            world.arrive(each, place)

    def free_hand(self, who: str) -> None:
        """Somebody puts down what they hold."""
        if who in self.world.held:
            self.world.put(who, self.world.held[who])

    def thank(self, who: str, whom: str, because: Event) -> None:
        """Somebody thanks somebody else."""
        self.world.act(who, "thank", f"thanks {self.world.name(whom)}", object=whom, because=[because])

    def hug(self, who: str, friend: str, goal: Goal | None) -> Event:
        """Somebody has found somebody."""
        because = [self.world.events[-1]]
        return self.world.act(who, "hug", f"hugs {self.world.name(friend)}", object=friend, goal=goal, because=because)

    def give_up(self, who: str, goal: Goal, because: Event) -> None:
        """Somebody gives up.

        Raises:
            GivenUp: always.
        """
        self.world.act(who, "give_up", "gives up", goal=goal, because=[because])
        raise GivenUp

    def pass_time(self, night: bool) -> None:
        """Somebody sleeps, or dances for joy."""
        who = self.rng.choice(self.idle(lambda who: True))
        self.world.act(who, *(("sleep", "sleeps") if night else ("dance", "dances for joy")))
