"""The plots of a film: what people want, what is in their way, and how they get it or fail.

A quest is planned first, which puts its people and things into the world, and then runs in steps. A step is what
happens at one place without a break, so the steps of parallel quests can alternate.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from operators.demo.films.grammar.casting import PEOPLE
from operators.demo.films.grammar.world import Event, Goal, NoColourLeft, Side, World
from operators.demo.films.script import Colour, ObjectKind
from schemas.facts import EntityKind

Steps = Iterator[None]

TREASURES: tuple[ObjectKind, ...] = (
    "ball",
    "flower",
    "lamp",
    "cup",
    "parcel",
    "book",
    "apple",
    "umbrella",
    "bucket",
    "crown",
    "guitar",
    "fish",
)
_SEARCHED: tuple[ObjectKind, ...] = ("barrel", "crate", "basket")
_MOST_PEOPLE = 9
"""From this many on, people of earlier quests mostly play the parts in later ones."""


class Plan(NamedTuple):
    """A way to get hold of a thing. `run` takes who wants it and the goal that it serves."""

    thing: str
    run: Callable[[str, Goal], Steps]


class Plot:
    """Plans quests in a world, and runs them.

    Args:
        depth: how many obstacles may follow from one another.
    """

    def __init__(self, world: World, rng: random.Random, depth: int) -> None:
        self.world = world
        self.rng = rng
        self.depth = depth
        self.busy: set[str] = set()

    # Casting

    def new_hero(self) -> str:
        """Somebody for a quest of their own: new, or free after an earlier quest."""
        idle = self._idle(lambda who: True)
        if idle and self.rng.random() < (0.85 if len(self._people()) >= _MOST_PEOPLE else 0.35):
            return self._use(self.rng.choice(idle))
        return self._use(self._new_person(self._place(())))

    def _people(self) -> list[str]:
        return [each.id for each in self.world.entities.values() if each.kind is EntityKind.PERSON]

    def _idle(self, fits: Callable[[str], bool]) -> list[str]:
        return [each for each in self._people() if each not in self.busy and self.world.position[each] and fits(each)]

    def _use(self, *entities: str) -> str:
        self.busy.update(entities)
        return entities[0]

    def _new_person(self, place: str) -> str:
        kinds = list(PEOPLE)
        used = [self.world.entities[each].sprite for each in self._people()]
        unused = [kind for kind in kinds if kind not in used]
        return self._use(self.world.add(self.rng.choice(unused or kinds), place))

    def _resident(self, avoid: Sequence[str]) -> str:
        """Somebody with free hands who stays where they are, in none of the places to avoid."""
        idle = self._idle(lambda who: who not in self.world.held and self.world.here(who) not in avoid)
        if idle and self.rng.random() < (0.8 if len(self._people()) >= _MOST_PEOPLE else 0.25):
            return self._use(self.rng.choice(idle))
        return self._new_person(self._place(avoid))

    def _place(self, avoid: Sequence[str], *, props: int = 0) -> str:
        """One of the emptier places, with room for some more props."""
        world, crowd = self.world, self._crowd
        free = [place for place in world.places if place not in world.closed_off and place not in avoid]
        free = [place for place in free if crowd(place)[0] + props <= 3] or free
        free.sort(key=lambda place: sum(crowd(place)) + self.rng.random() * 3)
        return self.world.locate(self.rng.choice(free[:3]))

    def _crowd(self, place: str) -> tuple[int, int]:
        """How many props are at a place, and how many entities in all."""
        world = self.world
        here = [each for each, where in world.position.items() if where == place and each not in world.holder]
        return len([each for each in here if world.entities[each].sprite in _PROPS]), len(here)

    def _treasure(self) -> ObjectKind:
        used = [each.sprite for each in self.world.entities.values()]
        unused = [kind for kind in TREASURES if kind not in used]
        return self.rng.choice(unused if unused and self.rng.random() < 0.7 else TREASURES)

    def _loose(self, sprite: ObjectKind | None, colour: Colour | None, avoid: Sequence[str]) -> list[str]:
        """Things of earlier quests that lie about."""
        world = self.world
        return [
            each.id
            for each in world.entities.values()
            if (each.sprite == sprite if sprite else each.sprite in TREASURES)
            and colour in (None, each.colour)
            and each.id not in self.busy
            and each.id not in world.holder
            and each.id not in world.hidden
            and each.id not in world.hanging
            and world.position[each.id]
            and world.here(each.id) not in avoid
        ]

    # Moving

    def _go(self, who: str, place: str, goal: Goal | None, *followers: str) -> Steps:
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

    def _free_hand(self, who: str) -> None:
        if who in self.world.held:
            self.world.put(who, self.world.held[who])

    def _need(self, who: str, plan: Plan, motive: str, why: str, because: Event | None) -> Steps:
        """Somebody finds that they need a thing, and gets it."""
        world = self.world
        goal = world.want(who, f"get {world.name(plan.thing)}", motive, plan.thing, why, arrow=True)
        if because:
            world.reason[who] = because
        yield from plan.run(who, goal)
        goal.reached = True

    # Ways to get hold of a thing

    def obtain(
        self, depth: int, avoid: Sequence[str], sprite: ObjectKind | None = None, colour: Colour | None = None
    ) -> Plan:
        """Plan how a thing can be got: it lies somewhere, is hidden, locked up, out of reach, or somebody has it."""
        simple = [self._lying, self._lying, self._searched]
        hard = [self._locked, self._in_tree, self._traded, self._traded, self._guarded]
        ways = hard if depth > 0 and self.rng.random() < 0.9 else simple
        if sprite is None and self.rng.random() < 0.5 and depth <= 0:
            ways = [self._lying_about]
        for way in [self.rng.choice(ways), self._lying]:
            try:
                return way(depth - 1, avoid, sprite or self._treasure(), colour)
            except NoColourLeft:
                continue
        raise NoColourLeft(sprite)

    def _lying_about(self, depth: int, avoid: Sequence[str], sprite: ObjectKind, colour: Colour | None) -> Plan:
        loose = self._loose(None, None, avoid)
        if not loose:
            return self._lying(depth, avoid, sprite, colour)
        return self._taken_from_ground(self._use(self.rng.choice(loose)))

    def _lying(self, depth: int, avoid: Sequence[str], sprite: ObjectKind, colour: Colour | None) -> Plan:
        if loose := self._loose(sprite, colour, avoid):
            return self._taken_from_ground(self._use(self.rng.choice(loose)))
        return self._taken_from_ground(self._use(self.world.add(sprite, self._place(avoid), colour=colour)))

    def _taken_from_ground(self, thing: str) -> Plan:
        def run(who: str, goal: Goal) -> Steps:
            yield from self._go(who, self.world.here(thing), goal)
            self.world.take(who, thing, goal=goal)

        return Plan(thing, run)

    def _searched(self, depth: int, avoid: Sequence[str], sprite: ObjectKind, colour: Colour | None) -> Plan:
        world, count = self.world, self.rng.choice((2, 2, 3))
        place = self._place(avoid, props=count)
        boxes = [self._use(world.add(self.rng.choice(_SEARCHED), place)) for _ in range(count)]
        thing = self._use(world.add(sprite, place, "inside", boxes[-1], colour))
        tries = self.rng.sample(boxes[:-1], self.rng.randint(1, count - 1)) + boxes[-1:]

        def run(who: str, goal: Goal) -> Steps:
            yield from self._go(who, place, goal)
            event: Event | None = None
            for box in tries:
                found = box == boxes[-1]
                event = world.act(
                    "search",
                    who,
                    "search",
                    f"searches {world.name(box)}",
                    object=box,
                    goal=goal,
                    succeeded=found,
                    because=[event],
                )
                if found:
                    world.reveal(event, thing)
            world.take(who, thing, goal=goal)

        return Plan(thing, run)

    def _locked(self, depth: int, avoid: Sequence[str], sprite: ObjectKind, colour: Colour | None) -> Plan:
        world = self.world
        place = self._place(avoid, props=1)
        chest = self._use(world.add("chest", place))
        thing = self._use(world.add(sprite, place, "inside", chest, colour))
        key = self.obtain(depth, [*avoid, place], "key", world.entities[chest].colour)

        def run(who: str, goal: Goal) -> Steps:
            yield from self._go(who, place, goal)
            failed = world.act(
                "rattle", who, "open", f"tries to open {world.name(chest)}", object=chest, goal=goal, succeeded=False
            )
            yield from self._need(who, key, f"{world.name(chest)} is locked", chest, failed)
            yield from self._go(who, place, goal)
            world.open(who, chest, goal=goal, because=failed)
            world.put(who, key.thing, goal=goal)
            world.take(who, thing, goal=goal)

        return Plan(thing, run)

    def _in_tree(self, depth: int, avoid: Sequence[str], sprite: ObjectKind, colour: Colour | None) -> Plan:
        world = self.world
        place = self._place(avoid, props=1)
        tree = self._use(world.add("tree", place))
        thing = self._use(world.add(sprite, place, "tree", tree, colour))
        ladder = self.obtain(depth, [*avoid, place], "ladder")
        jumps = self.rng.choice((1, 1, 2))

        def run(who: str, goal: Goal) -> Steps:
            yield from self._go(who, place, goal)
            failed: Event | None = None
            for _ in range(jumps):
                failed = world.act(
                    "jump",
                    who,
                    "jump",
                    f"jumps for {world.name(thing)} in {world.name(tree)}",
                    object=thing,
                    goal=goal,
                    succeeded=False,
                    because=[failed],
                )
            yield from self._need(who, ladder, f"{world.name(thing)} hangs too high", tree, failed)
            yield from self._go(who, place, goal)
            leant = world.put(
                who,
                ladder.thing,
                goal=goal,
                at=tree,
                gesture="lean",
                phrase=f"leans {world.name(ladder.thing)} against {world.name(tree)}",
            )
            climbed = world.act(
                "climb",
                who,
                "climb",
                f"climbs {world.name(tree)}",
                object=tree,
                goal=goal,
                succeeded=True,
                because=[leant, failed],
            )
            world.take(who, thing, goal=goal, because=climbed, phrase=f"takes {world.name(thing)} out of the tree")

        return Plan(thing, run)

    def _traded(self, depth: int, avoid: Sequence[str], sprite: ObjectKind, colour: Colour | None) -> Plan:
        world = self.world
        owners = []
        for each in self._idle(lambda who: who in world.held and world.here(who) not in avoid):
            held = world.entities[world.held[each]]
            if held.sprite == sprite and colour in (None, held.colour):
                owners.append(each)
        if owners:
            owner = self._use(self.rng.choice(owners))
            thing = self._use(world.held[owner])
        else:
            owner = self._resident(avoid)
            thing = self._use(world.add(sprite, world.here(owner), "hand", owner, colour))
        place = world.here(owner)
        price = self.obtain(depth, [*avoid, place])

        def run(who: str, goal: Goal) -> Steps:
            yield from self._go(who, place, goal)
            request = world.act(
                "ask",
                who,
                "ask",
                f"asks {world.name(owner)} for {world.name(thing)}",
                object=owner,
                goal=goal,
                succeeded=False,
            )
            refused = world.act(
                "refuse", owner, "refuse", f"refuses to give {world.name(thing)} away", object=thing, because=[request]
            )
            hope = world.want(owner, f"have {world.name(price.thing)}", "", price.thing)
            motive = f"{world.name(owner)} will swap {world.name(thing)} for it"
            yield from self._need(who, price, motive, owner, refused)
            yield from self._go(who, place, goal)
            put = world.put(owner, thing, phrase=f"lays {world.name(thing)} down for {world.name(who)}", at=who)
            world.give(who, price.thing, owner, goal=goal, because=put)
            hope.reached = True
            world.take(who, thing, goal=goal)

        return Plan(thing, run)

    def _guarded(self, depth: int, avoid: Sequence[str], sprite: ObjectKind, colour: Colour | None) -> Plan:
        world = self.world
        place = self._place(avoid)
        kind = self.rng.choice(("dog", "cat"))
        animal = self._use(world.add("dog" if kind == "dog" else "cat", place))
        thing = self._use(world.add(sprite, place, "hand", animal, colour))
        bait = self.obtain(depth, [*avoid, place], "bone" if kind == "dog" else "fish")

        def run(who: str, goal: Goal) -> Steps:
            yield from self._go(who, place, goal)
            name = world.name(animal)
            failed = world.act(
                "grab",
                who,
                "grab",
                f"grabs at {world.name(thing)} in the mouth of {name}",
                object=thing,
                goal=goal,
                succeeded=False,
            )
            dodged = world.act(
                "dodge", animal, "dodge", f"runs away from {world.name(who)}", object=who, because=[failed]
            )
            world.want(animal, f"have {world.name(bait.thing)}", "", bait.thing).reached = True
            yield from self._need(who, bait, f"{name} will drop {world.name(thing)} for it", animal, dodged)
            yield from self._go(who, place, goal)
            laid = world.put(
                who, bait.thing, goal=goal, at=animal, phrase=f"lays {world.name(bait.thing)} down in front of {name}"
            )
            dropped = world.put(
                animal, thing, because=laid, gesture="drop", action="lose", phrase=f"drops {world.name(thing)}"
            )
            world.take(animal, bait.thing, because=dropped, phrase=f"snaps up {world.name(bait.thing)}")
            world.take(who, thing, goal=goal)

        return Plan(thing, run)

    # Quests

    def plan_quest(self, small: bool) -> Steps:
        """Plan a quest for somebody, and return its steps."""
        quests: list[Callable[[], Steps]] = [self._deliver, self._deliver]
        if not small:
            quests += [
                self._theft,
                self._pass_gate,
                self._pass_boulder,
                self._repair,
                self._find_pet,
                self._collect,
                self._race,
                self._give_up,
                self._deliver,
            ]
        return self.rng.choice(quests)()

    def _deliver(self) -> Steps:
        """Somebody wants a thing, and somebody else brings it."""
        world = self.world
        hero = self.new_hero()
        friend = self._resident(()) if self.rng.random() < 0.5 else self._beside(hero)
        home = world.here(friend)
        plan = self.obtain(self.depth, [home])

        def run() -> Steps:
            self._free_hand(hero)
            yield from self._go(hero, home, None)
            thing = world.name(plan.thing)
            hope = world.want(friend, f"have {thing}", "", plan.thing)
            goal = world.want(
                hero,
                f"give {thing} to {world.name(friend)}",
                f"{world.name(friend)} wants it",
                plan.thing,
                friend,
                arrow=True,
            )
            yield from plan.run(hero, goal)
            yield from self._go(hero, home, goal)
            given = world.give(hero, plan.thing, friend, goal=goal)
            goal.reached = hope.reached = True
            self._thank(friend, hero, given)

        return run()

    def _beside(self, hero: str) -> str:
        """A new person next to a hero."""
        return self._new_person(self.world.here(hero))

    def _thank(self, who: str, whom: str, because: Event) -> None:
        self.world.act("thank", who, "thank", f"thanks {self.world.name(whom)}", object=whom, because=[because])

    def _theft(self) -> Steps:
        """Somebody snatches a thing and runs away; it is brought back."""
        world = self.world
        hero = self.new_hero()
        victim, thief = self._beside(hero), self._beside(hero)
        home = world.here(hero)
        thing = self._use(world.add(self._treasure(), home, "hand", victim))
        refuge = self._place([home])
        price = self.obtain(self.depth - 1, [home, refuge])

        def run() -> Steps:
            self._free_hand(hero)
            name = world.name(thing)
            stolen = world.take(thief, thing, phrase=f"snatches {name} from {world.name(victim)}")
            world.leave(thief, refuge, because=stolen, phrase=f"runs away with {name}")
            hope = world.want(victim, f"get {name} back", f"{world.name(thief)} has stolen it", thing, thief)
            goal = world.want(
                hero,
                f"bring {name} back to {world.name(victim)}",
                f"{world.name(victim)} misses it",
                thing,
                victim,
                arrow=True,
            )
            world.reason[hero] = stolen
            yield
            world.arrive(thief, refuge)
            yield from self._go(hero, refuge, goal)
            request = world.act(
                "ask", hero, "ask", f"asks {world.name(thief)} for {name}", object=thief, goal=goal, succeeded=False
            )
            refused = world.act(
                "refuse", thief, "refuse", f"refuses to give {name} back", object=thing, because=[request]
            )
            bribe = world.want(thief, f"have {world.name(price.thing)}", "", price.thing)
            yield from self._need(hero, price, f"{world.name(thief)} will swap {name} for it", thief, refused)
            yield from self._go(hero, refuge, goal)
            put = world.put(thief, thing, phrase=f"lays {name} down for {world.name(hero)}", at=hero)
            world.give(hero, price.thing, thief, goal=goal, because=put)
            bribe.reached = True
            world.take(hero, thing, goal=goal)
            yield from self._go(hero, home, goal)
            given = world.give(hero, thing, victim, goal=goal)
            goal.reached = hope.reached = True
            self._thank(victim, hero, given)

        return run()

    def _beyond(self, hero: str) -> tuple[str, str, str] | None:
        """A place that nobody has been to, somebody who waits there, and the place before it."""
        world = self.world
        unseen = [each for each in world.places if each not in world.line]
        sides: list[Side] = ["left", "right"]
        self.rng.shuffle(sides)
        for side in sides:
            before = world.line[-1 if side == "right" else 0]
            if before not in world.closed_off and unseen:
                if self._crowd(before)[0] > 2:
                    before = world.extend(unseen.pop(), side)
                if unseen:
                    beyond = world.extend(unseen.pop(), side)
                    return beyond, self._new_person(beyond), before
        return None

    def _pass_gate(self) -> Steps:
        """A locked gate is on the way to a friend."""
        world, hero = self.world, self.new_hero()
        if (found := self._beyond(hero)) is None:
            return self._deliver()
        beyond, friend, before = found
        gate = self._use(world.add("gate", before))
        world.closed_off.add(beyond)
        world.edges[gate] = world.side(before, beyond)
        key = self.obtain(self.depth - 1, [before, beyond], "key", world.entities[gate].colour)

        def run() -> Steps:
            self._free_hand(hero)
            goal = self._want_to_reach(hero, beyond, friend)
            yield from self._go(hero, before, goal)
            failed = world.act(
                "rattle", hero, "open", f"tries to open {world.name(gate)}", object=gate, goal=goal, succeeded=False
            )
            yield from self._need(hero, key, f"{world.name(gate)} is locked", gate, failed)
            yield from self._go(hero, before, goal)
            opened = world.open(hero, gate, goal=goal, because=failed)
            world.closed_off.discard(beyond)
            world.put(hero, key.thing, goal=goal)
            world.reason[hero] = opened
            yield from self._go(hero, beyond, goal)
            goal.reached = True
            self._meet(hero, friend, goal)

        return run()

    def _want_to_reach(self, hero: str, beyond: str, friend: str) -> Goal:
        return self.world.want(
            hero, f"reach {self.world.name(beyond)}", f"{self.world.name(friend)} waits there", beyond, friend
        )

    def _meet(self, hero: str, friend: str, goal: Goal | None) -> None:
        self.world.act(
            "hug",
            hero,
            "hug",
            f"hugs {self.world.name(friend)}",
            object=friend,
            goal=goal,
            because=[self.world.events[-1]],
        )

    def _pass_boulder(self) -> Steps:
        """A boulder is on the way to a friend. It takes two to push it."""
        world, hero = self.world, self.new_hero()
        if (found := self._beyond(hero)) is None:
            return self._deliver()
        beyond, friend, before = found
        boulder = self._use(world.add("boulder", before))
        world.closed_off.add(beyond)
        world.edges[boulder] = world.side(before, beyond)
        if self.rng.random() < 0.5:
            helper = self._use(world.add("robot", self._place([before, beyond, world.here(hero)])))
        else:
            helper = self._resident([before, beyond, world.here(hero)])
        pushes = self.rng.choice((1, 2))

        def run() -> Steps:
            self._free_hand(hero)
            goal = self._want_to_reach(hero, beyond, friend)
            yield from self._go(hero, before, goal)
            name, failed = world.name(boulder), None
            for _ in range(pushes):
                failed = world.act(
                    "shove",
                    hero,
                    "push",
                    f"pushes against {name}",
                    object=boulder,
                    goal=goal,
                    succeeded=False,
                    because=[failed],
                )
            aid = world.want(hero, f"get help from {world.name(helper)}", f"{name} is too heavy", helper, boulder)
            world.reason[hero] = failed  # type: ignore[assignment]
            yield from self._go(hero, world.here(helper), aid)
            request = world.act(
                "ask", hero, "ask", f"asks {world.name(helper)} for help", object=helper, goal=aid, succeeded=True
            )
            aid.reached = True
            world.reason[hero] = request
            yield from self._go(hero, before, goal, helper)
            pushed = world.act(
                "push",
                hero,
                "push",
                f"pushes {name} out of the way",
                object=boulder,
                goal=goal,
                succeeded=True,
                because=[failed],
            )
            world.act(
                "help",
                helper,
                "help",
                f"helps {world.name(hero)} push {name}",
                object=boulder,
                recipient=hero,
                because=[request],
            )
            world.move(boulder, None, pushed)
            world.closed_off.discard(beyond)
            self._thank(hero, helper, world.events[-1])
            world.reason[hero] = pushed
            yield from self._go(hero, beyond, goal)
            goal.reached = True
            self._meet(hero, friend, goal)

        return run()

    def _repair(self) -> Steps:
        """A broken car has to be repaired before somebody can drive to a friend."""
        world, hero = self.world, self.new_hero()
        friend = self._resident([world.here(hero)])
        garage = self._place([world.here(friend)], props=1)
        car = self._use(world.add("car", garage))
        hammer = self.obtain(self.depth - 1, [garage, world.here(friend)], "hammer")

        def run() -> Steps:
            self._free_hand(hero)
            beyond = world.here(friend)
            goal = world.want(
                hero, f"drive to {world.name(beyond)}", f"{world.name(friend)} waits there", beyond, friend
            )
            yield from self._go(hero, garage, goal)
            name = world.name(car)
            failed = world.act("stall", hero, "start", f"tries to start {name}", object=car, goal=goal, succeeded=False)
            yield from self._need(hero, hammer, f"{name} is broken", car, failed)
            yield from self._go(hero, garage, goal)
            repaired = world.act(
                "repair",
                hero,
                "repair",
                f"repairs {name} with {world.name(hammer.thing)}",
                object=car,
                goal=goal,
                succeeded=True,
                because=[world.last_change(hammer.thing), failed],
            )
            world.put(hero, hammer.thing, goal=goal)
            driven = world.leave(hero, beyond, goal=goal, because=repaired, phrase=f"drives away in {name}")
            world.acts[-1].gesture, world.acts[-1].object, driven.object = "drive", car, car
            world.move(car, None, driven)
            yield
            arrived = world.arrive(hero, beyond, goal=goal, phrase=f"drives to {world.name(beyond)} in {name}")
            world.acts[-1].gesture, world.acts[-1].object, arrived.object = "drive_in", car, car
            world.move(car, beyond, arrived)
            goal.reached = True
            self._meet(hero, friend, goal)

        return run()

    def _find_pet(self) -> Steps:
        """A pet has run away and is searched for."""
        world, hero = self.world, self.new_hero()
        home = world.here(hero)
        pet = self._use(world.add(self.rng.choice(("dog", "cat")), home))
        refuge = self._place([home])
        wrong = [self._place([home, refuge])]
        if self.rng.random() < 0.5:
            wrong.append(self._place([home, refuge, *wrong]))

        def run() -> Steps:
            self._free_hand(hero)
            name = world.name(pet)
            lost = world.leave(pet, refuge, phrase=f"runs away from {world.name(hero)}")
            goal = world.want(hero, f"bring {name} home", "it has run away", pet)
            world.reason[hero] = lost
            yield
            world.arrive(pet, refuge)
            for place in wrong:
                yield from self._go(hero, place, goal)
                failed = world.act(
                    "look",
                    hero,
                    "search",
                    f"looks for {name} in vain",
                    object=pet,
                    goal=goal,
                    succeeded=False,
                    because=[lost],
                )
                world.reason[hero] = failed
            yield from self._go(hero, refuge, goal)
            self._meet(hero, pet, goal)
            found = world.events[-1]
            world.reason[hero] = found
            yield from self._go(hero, home, goal, pet)
            goal.reached = True

        return run()

    def _collect(self) -> Steps:
        """Things of one kind are collected at one place."""
        world, hero = self.world, self.new_hero()
        home = world.here(hero)
        kind = self.rng.choice(("flower", "apple", "book", "ball"))
        places = [home]
        things: list[str] = []
        for _ in range(self.rng.choice((2, 3))):
            places.append(self._place(places))
            things.append(self._use(world.add(kind, places[-1])))  # type: ignore[arg-type]

        def run() -> Steps:
            self._free_hand(hero)
            count = {2: "two", 3: "three"}[len(things)]
            goal = world.want(hero, f"bring {count} {kind}s to {world.name(home)}", "", *things)
            for thing in things:
                yield from self._go(hero, world.here(thing), goal)
                taken = world.take(hero, thing, goal=goal)
                world.reason[hero] = taken
                yield from self._go(hero, home, goal)
                world.put(hero, thing, goal=goal)
            goal.reached = True

        return run()

    def _race(self) -> Steps:
        """Two people want the same thing, and one of them is faster."""
        world, hero = self.world, self.new_hero()
        rival = self._beside(hero)
        prize = self._use(world.add(self._treasure(), self._place([world.here(hero)])))

        def run() -> Steps:
            self._free_hand(hero)
            name, place = world.name(prize), world.here(prize)
            goals = [world.want(each, f"have {name}", "", prize) for each in (hero, rival)]
            world.leave(rival, place, goal=goals[1])
            yield from self._go(hero, place, goals[0])
            world.arrive(rival, place, goal=goals[1])
            winner, loser = self.rng.choice(((0, 1), (1, 0)))
            runners = (hero, rival)
            won = world.take(runners[winner], prize, goal=goals[winner])
            goals[winner].reached, goals[loser].reached = True, False
            world.act(
                "late",
                runners[loser],
                "grab",
                f"reaches for {name} too late",
                object=prize,
                goal=goals[loser],
                succeeded=False,
                because=[won],
            )

        return run()

    def _give_up(self) -> Steps:
        """Somebody tries more than once, and fails in the end."""
        world, hero = self.world, self.new_hero()
        place = self._place([world.here(hero)], props=1)
        chest = self.rng.random() < 0.5
        box = self._use(world.add("chest" if chest else "tree", place))
        thing = self._use(world.add(self._treasure(), place, "inside" if chest else "tree", box))
        tries = self.rng.choice((2, 3))

        def run() -> Steps:
            self._free_hand(hero)
            aim = f"open {world.name(box)}" if chest else f"get {world.name(thing)} out of {world.name(box)}"
            goal = world.want(hero, aim, "", *([box] if chest else [thing, box]))
            yield from self._go(hero, place, goal)
            failed: Event | None = None
            for _ in range(tries):
                if chest:
                    failed = world.act(
                        "rattle",
                        hero,
                        "open",
                        f"tries to open {world.name(box)}",
                        object=box,
                        goal=goal,
                        succeeded=False,
                        because=[failed],
                    )
                else:
                    failed = world.act(
                        "jump",
                        hero,
                        "jump",
                        f"jumps for {world.name(thing)} in {world.name(box)}",
                        object=thing,
                        goal=goal,
                        succeeded=False,
                        because=[failed],
                    )
            goal.reached = False
            world.act("give_up", hero, "give_up", "gives up", goal=goal, because=[failed])

        return run()

    # Pastimes

    def pass_time(self, night: bool) -> None:
        """Somebody sleeps, or dances for joy."""
        idle = self._idle(lambda who: True)
        who = self.rng.choice(idle)
        if night:
            self.world.act("sleep", who, "sleep", "falls asleep")
        else:
            self.world.act("dance", who, "dance", "dances for joy")


_PROPS = frozenset({*_SEARCHED, "chest", "gate", "boulder", "tree", "car"})
