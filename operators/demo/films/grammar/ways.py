"""Ways to get hold of a thing: it lies somewhere, is hidden, locked up or out of reach, or somebody has it.

Most ways need another thing first, which is got in one of these ways again. Which thing an obstacle needs is mostly
drawn freely, so that what somebody wants does not give away why they want it.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from operators.demo.films.grammar.scenario import Scenario, Steps
from operators.demo.films.grammar.world import Event, Goal
from operators.demo.films.script import ObjectKind

_BOXES: tuple[ObjectKind, ...] = ("barrel", "crate", "basket")
_USUAL_TOOL = 0.35
"""Probability that a chest needs a key, a dog a bone, and so on."""
_GIVES_UP = 0.12
"""Probability that an obstacle ends a quest."""


class Plan(NamedTuple):
    """A way to get hold of a thing. `run` takes the person who wants it and the goal that it serves."""

    thing: str
    run: Callable[[str, Goal], Steps]


class Ways:
    """Plans how things are got, with up to `depth` obstacles that follow from one another."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._world = scenario.world
        self._rng = scenario.rng

    def obtain(self, depth: int, avoid: Sequence[str], sprite: ObjectKind | None = None) -> Plan:
        """Plan how a thing of some kind is got, in places other than those to avoid.

        Raises:
            NoColourLeft: the film has all things of this kind.
        """
        simple = [self._lying, self._lying, self._searched]
        hard = [self._locked, self._in_tree, self._traded, self._traded, self._guarded]
        ways = hard if depth > 0 and self._rng.random() < 0.9 else simple
        if sprite == "ladder":  # it fits into no box and no mouth
            ways = [self._lying, self._lying, self._traded]
        way = self._rng.choice(ways)
        if sprite is None and self._rng.random() < (0.9 if self._scenario.is_crowded else 0.4):
            owners = self._scenario.owners(avoid) if depth > 0 else []
            known = owners + self._scenario.loose(None, avoid)
            if known:
                chosen = self._scenario.use(self._rng.choice(known))
                if chosen in owners:
                    return self._owned(chosen, self._scenario.use(self._world.held[chosen]), depth - 1, avoid)
                return self._pick_up(chosen)
        return way(depth - 1, avoid, sprite or self._scenario.treasure())

    def tool(self, depth: int, avoid: Sequence[str], usual: ObjectKind) -> Plan:
        """Plan how what an obstacle needs is got: a tool that is usual for it, or anything."""
        return self.obtain(depth, avoid, usual if self._rng.random() < _USUAL_TOOL else None)

    def need(self, who: str, plan: Plan, motive: str, why: str, because: Event) -> Steps:
        """Somebody finds that they need a thing, and gets it."""
        goal = self._world.want(who, f"get {self._world.name(plan.thing)}", motive, plan.thing, why, arrow=True)
        self._world.reason[who] = because
        yield from plan.run(who, goal)
        goal.reached = True

    def _lying(self, depth: int, avoid: Sequence[str], sprite: ObjectKind) -> Plan:
        if loose := self._scenario.loose(sprite, avoid):
            return self._pick_up(self._scenario.use(self._rng.choice(loose)))
        return self._pick_up(self._scenario.new(sprite, self._scenario.place(avoid)))

    def _pick_up(self, thing: str) -> Plan:
        def run(who: str, goal: Goal) -> Steps:
            yield from self._scenario.go(who, self._world.here(thing), goal)
            self._world.take(who, thing, goal=goal)

        return Plan(thing, run)

    def _searched(self, depth: int, avoid: Sequence[str], sprite: ObjectKind) -> Plan:
        world, scenario = self._world, self._scenario
        if known := scenario.groups(_BOXES, avoid):
            boxes = [scenario.use(each) for each in self._rng.choice(known)]
            self._rng.shuffle(boxes)
            place = world.here(boxes[0])
        else:
            count = self._rng.choice((2, 2, 3))
            place = scenario.place(avoid, props=count)
            boxes = [scenario.new(self._rng.choice(_BOXES), place) for _ in range(count)]
        thing = scenario.use(world.add(sprite, place, "inside", boxes[-1]))
        tries = self._rng.sample(boxes[:-1], self._rng.randint(0, len(boxes) - 1)) + boxes[-1:]

        def run(who: str, goal: Goal) -> Steps:
            yield from scenario.go(who, place, goal)
            event: Event | None = None
            for box in tries:
                found, phrase = box == boxes[-1], f"searches {world.name(box)}"
                event = world.act(who, "search", phrase, object=box, goal=goal, succeeded=found, because=[event])
                if found:
                    world.reveal(event, thing)
            world.take(who, thing, goal=goal)

        return Plan(thing, run)

    def _locked(self, depth: int, avoid: Sequence[str], sprite: ObjectKind) -> Plan:
        world, scenario = self._world, self._scenario
        place = scenario.place(avoid, props=1)
        chest = scenario.new("chest", place)
        thing = scenario.use(world.add(sprite, place, "inside", chest))
        key = self.tool(depth, [*avoid, place], "key")

        def run(who: str, goal: Goal) -> Steps:
            yield from self.unlock(who, chest, key, place, goal)
            world.take(who, thing, goal=goal)

        return Plan(thing, run)

    def unlock(self, who: str, box: str, key: Plan, place: str, goal: Goal) -> Steps:
        """Somebody tries a lock in vain, gets what opens it, and opens it. What opened it is put down."""
        world = self._world
        yield from self._scenario.go(who, place, goal)
        failed = world.try_lock(who, box, goal=goal)
        if self._rng.random() < _GIVES_UP:
            self._scenario.give_up(who, goal, failed)
        yield from self.need(who, key, f"{world.name(box)} is locked", box, failed)
        yield from self._scenario.go(who, place, goal)
        world.reason[who] = world.unlock(who, box, goal=goal, because=failed)
        world.put(who, key.thing, goal=goal)

    def _in_tree(self, depth: int, avoid: Sequence[str], sprite: ObjectKind) -> Plan:
        world, scenario = self._world, self._scenario
        place = scenario.place(avoid, props=1)
        tree = scenario.new("tree", place)
        thing = scenario.use(world.add(sprite, place, "tree", tree))
        ladder = self.obtain(depth, [*avoid, place], "ladder") if self._rng.random() < 0.75 else None
        tries = self._rng.choice((1, 1, 2))
        jumps = ladder is None or self._rng.random() < 0.5

        def attempt(who: str, goal: Goal, succeeded: bool, *because: Event | None) -> Event:
            if jumps and not (succeeded and ladder):
                phrase = f"jumps for {world.name(thing)}"
                return world.act(who, "jump", phrase, object=thing, goal=goal, succeeded=succeeded, because=because)
            gesture = "climb" if succeeded else "slip"
            phrase = f"climbs {world.name(tree)}"
            return world.act(
                who, "climb", phrase, object=tree, goal=goal, succeeded=succeeded, because=because, gesture=gesture
            )

        def run(who: str, goal: Goal) -> Steps:
            yield from scenario.go(who, place, goal)
            event = attempt(who, goal, False)
            for _ in range(tries - 1):
                event = attempt(who, goal, False, event)
            if self._rng.random() < _GIVES_UP:
                scenario.give_up(who, goal, event)
            if ladder is None:
                event = attempt(who, goal, True, event)
            else:
                yield from self.need(who, ladder, f"{world.name(thing)} hangs too high", tree, event)
                yield from scenario.go(who, place, goal)
                phrase = f"puts {world.name(ladder.thing)} against {world.name(tree)}"
                leant = world.put(who, ladder.thing, goal=goal, at=tree, gesture="lean", phrase=phrase)
                event = attempt(who, goal, True, leant, event)
            world.take(who, thing, goal=goal, because=event)

        return Plan(thing, run)

    def _traded(self, depth: int, avoid: Sequence[str], sprite: ObjectKind) -> Plan:
        scenario = self._scenario
        owner = scenario.resident(avoid)
        return self._owned(owner, scenario.held_by(owner, sprite), depth, avoid)

    def _owned(self, owner: str, thing: str, depth: int, avoid: Sequence[str]) -> Plan:
        world, scenario = self._world, self._scenario
        place = world.here(owner)
        price = self.obtain(depth, [*avoid, place]) if self._rng.random() < 0.8 else None

        def run(who: str, goal: Goal) -> Steps:
            yield from scenario.go(who, place, goal)
            if price is None:
                phrase = f"asks {world.name(owner)} for {world.name(thing)}"
                request = world.act(who, "ask", phrase, object=owner, goal=goal, succeeded=True)
                given = world.give(owner, thing, who, because=request)
                scenario.thank(who, owner, given)
            else:
                yield from self.swap(who, owner, thing, price, goal)

        return Plan(thing, run)

    def swap(self, who: str, owner: str, thing: str, price: Plan, goal: Goal) -> Steps:
        """Somebody gets a thing from an owner who wants another thing for it."""
        world, scenario = self._world, self._scenario
        name, place = world.name(thing), world.here(owner)
        phrase = f"asks {world.name(owner)} for {name}"
        request = world.act(who, "ask", phrase, object=owner, goal=goal, succeeded=False)
        refusal = world.act(owner, "refuse", f"refuses to give {name} away", object=thing, because=[request])
        hope = world.want(owner, f"have {world.name(price.thing)}", "", price.thing)
        if self._rng.random() < _GIVES_UP:
            scenario.give_up(who, goal, refusal)
        yield from self.need(who, price, f"{world.name(owner)} wants to swap", owner, refusal)
        yield from scenario.go(who, place, goal)
        laid = world.put(owner, thing, phrase=f"puts {name} down for {world.name(who)}", at=who)
        world.give(who, price.thing, owner, goal=goal, because=laid)
        hope.reached = True
        world.take(who, thing, goal=goal)

    def _guarded(self, depth: int, avoid: Sequence[str], sprite: ObjectKind) -> Plan:
        world, scenario = self._world, self._scenario
        place = scenario.place(avoid)
        animal = scenario.new(self._rng.choice(("dog", "cat")), place)
        thing = scenario.held_by(animal, sprite)
        bait = self.tool(depth, [*avoid, place], "bone" if world.entities[animal].sprite == "dog" else "fish")

        def run(who: str, goal: Goal) -> Steps:
            yield from scenario.go(who, place, goal)
            name, phrase = world.name(animal), f"grabs at {world.name(thing)}"
            failed = world.act(who, "grab", phrase, object=thing, goal=goal, succeeded=False)
            phrase = f"dodges {world.name(who)}"
            dodge = world.act(animal, "dodge", phrase, object=who, because=[failed])
            if self._rng.random() < _GIVES_UP:
                scenario.give_up(who, goal, dodge)
            hope = world.want(animal, f"have {world.name(bait.thing)}", "", bait.thing)
            yield from self.need(who, bait, f"{name} wants to swap", animal, dodge)
            yield from scenario.go(who, place, goal)
            phrase = f"puts {world.name(bait.thing)} in front of {name}"
            laid = world.put(who, bait.thing, goal=goal, at=animal, phrase=phrase)
            dropped = world.lose(animal, thing, because=laid)
            world.take(animal, bait.thing, because=dropped)
            hope.reached = True
            world.take(who, thing, goal=goal)

        return Plan(thing, run)
