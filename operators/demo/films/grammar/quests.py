"""Quests: what somebody wants, what is in the way, and how it ends.

A quest is planned first, which puts its people and things into the world, and then runs in steps.
"""

import random
from collections.abc import Callable

from operators.demo.films.grammar.scenario import GivenUp, Scenario, Steps
from operators.demo.films.grammar.ways import Ways
from operators.demo.films.grammar.world import Event, Goal, Side, World
from operators.demo.films.script import ObjectKind


class Quests:
    """Plans quests in a world.

    Args:
        depth: how many obstacles may follow from one another.
    """

    def __init__(self, world: World, rng: random.Random, depth: int) -> None:
        self._world = world
        self._rng = rng
        self._depth = depth
        self._scenario = Scenario(world, rng)
        self._ways = Ways(self._scenario)

    def plan(self, *, small: bool) -> Steps:
        """Plan a quest for somebody, and return its steps.

        Args:
            small: only a quest without an obstacle of its own.

        Raises:
            NoColourLeft: the film has all things of a kind that was drawn.
        """
        quests: list[Callable[[], Steps]] = [self._deliver, self._deliver]
        if not small:
            quests += [self._deliver, self._repair, self._find_pet, self._collect, self._fail]
            quests += [self._pass_gate, self._pass_boulder]
            if not self._scenario.is_crowded:
                quests += [self._theft, self._race]
        return self._until_given_up(self._rng.choice(quests)())

    def _until_given_up(self, steps: Steps) -> Steps:
        try:
            yield from steps
        except GivenUp:
            return

    def _deliver(self) -> Steps:
        """Somebody wants a thing, and somebody else brings it."""
        world, scenario = self._world, self._scenario
        hero = scenario.hero()
        friend = scenario.resident(()) if scenario.is_crowded or self._rng.random() < 0.5 else scenario.companion(hero)
        home = world.here(friend)
        plan = self._ways.obtain(self._depth, [home])

        def run() -> Steps:
            scenario.free_hand(hero)
            yield from scenario.go(hero, home, None)
            thing, name = world.name(plan.thing), world.name(friend)
            hope = world.want(friend, f"have {thing}", "", plan.thing)
            goal = world.want(hero, f"fetch {thing}", f"{name} wants it", plan.thing, friend, arrow=True)
            yield from plan.run(hero, goal)
            yield from scenario.go(hero, home, goal)
            given = world.give(hero, plan.thing, friend, goal=goal)
            goal.reached = hope.reached = True
            scenario.thank(friend, hero, given)

        return run()

    def _theft(self) -> Steps:
        """Somebody snatches a thing and runs away; it is brought back."""
        world, scenario = self._world, self._scenario
        hero = scenario.hero()
        victim, thief = scenario.companion(hero), scenario.companion(hero)
        home = world.here(hero)
        thing = scenario.held_by(victim, scenario.treasure())
        refuge = scenario.place([home])
        price = self._ways.obtain(self._depth - 1, [home, refuge])

        def run() -> Steps:
            scenario.free_hand(hero)
            name = world.name(thing)
            stolen = world.take(thief, thing, phrase=f"takes {name} away from {world.name(victim)}")
            world.leave(thief, refuge, because=stolen)
            hope = world.want(victim, f"get {name} back", f"{world.name(thief)} has run off", thing, thief)
            motive = f"{world.name(victim)} misses it"
            goal = world.want(hero, f"fetch {name}", motive, thing, victim, arrow=True)
            world.reason[hero] = stolen
            yield
            world.arrive(thief, refuge)
            yield from scenario.go(hero, refuge, goal)
            yield from self._ways.swap(hero, thief, thing, price, goal)
            yield from scenario.go(hero, home, goal)
            given = world.give(hero, thing, victim, goal=goal)
            goal.reached = hope.reached = True
            scenario.thank(victim, hero, given)

        return run()

    def _beyond(self) -> tuple[str, str, str, Side] | None:
        """A new place at an end of the line, somebody who waits there, the place before it, and the side."""
        world, scenario = self._world, self._scenario
        unseen = [each for each in world.places if each not in world.line]
        sides: list[Side] = ["left", "right"]
        self._rng.shuffle(sides)
        for side in sides:
            before = world.line[-1 if side == "right" else 0]
            if before not in world.closed_off and len(unseen) > 1:
                # One place cannot have closed ways on both sides: nothing could be put between them.
                guards = world.line[0] in world.closed_off or world.line[-1] in world.closed_off
                if scenario.crowd(before)[0] > 2 or (guards and len(world.line) < 3):
                    before = world.extend(unseen.pop(), side)
                beyond = world.extend(unseen.pop(), side)
                world.closed_off.add(beyond)
                return beyond, scenario.person(beyond), before, side
        return None

    def _reach(self, hero: str, place: str, friend: str) -> Goal:
        world = self._world
        return world.want(hero, f"reach {world.name(place)}", f"{world.name(friend)} waits there", place, friend)

    def _pass_gate(self) -> Steps:
        """A locked gate is on the way to a friend."""
        world, scenario = self._world, self._scenario
        hero = scenario.hero()
        if (found := self._beyond()) is None:
            return self._deliver()
        beyond, friend, before, side = found
        gate = scenario.new("gate", before)
        world.edges[gate] = side
        key = self._ways.tool(self._depth - 1, [before, beyond], "key")

        def run() -> Steps:
            scenario.free_hand(hero)
            goal = self._reach(hero, beyond, friend)
            yield from self._ways.unlock(hero, gate, key, before, goal)
            world.closed_off.discard(beyond)
            yield from scenario.go(hero, beyond, goal)
            goal.reached = True
            scenario.hug(hero, friend, goal)

        return run()

    def _pass_boulder(self) -> Steps:
        """A boulder is on the way to a friend. It takes two to push it."""
        world, scenario = self._world, self._scenario
        hero = scenario.hero()
        if (found := self._beyond()) is None:
            return self._deliver()
        beyond, friend, before, side = found
        boulder = scenario.new("boulder", before)
        world.edges[boulder] = side
        away = [before, beyond, world.here(hero)]
        robot = self._rng.random() < 0.4
        helper = scenario.new("robot", scenario.place(away)) if robot else scenario.resident(away)
        pushes = self._rng.choice((1, 2))

        def push(goal: Goal, succeeded: bool, *because: Event | None) -> Event:
            phrase, gesture = f"pushes {world.name(boulder)}", "push" if succeeded else "shove"
            return world.act(
                hero, "push", phrase, object=boulder, goal=goal, succeeded=succeeded, because=because, gesture=gesture
            )

        def run() -> Steps:
            scenario.free_hand(hero)
            goal = self._reach(hero, beyond, friend)
            yield from scenario.go(hero, before, goal)
            failed = push(goal, False)
            for _ in range(pushes - 1):
                failed = push(goal, False, failed)
            motive = f"{world.name(boulder)} is too heavy"
            aid = world.want(hero, f"get {world.name(helper)} to help", motive, helper, boulder, arrow=True)
            world.reason[hero] = failed
            yield from scenario.go(hero, world.here(helper), aid)
            phrase = f"asks {world.name(helper)} for help"
            request = world.act(hero, "ask", phrase, object=helper, goal=aid, succeeded=True)
            aid.reached = True
            world.reason[hero] = request
            yield from scenario.go(hero, before, goal, helper)
            pushed = push(goal, True, failed)
            phrase = f"helps {world.name(hero)}"
            helped = world.act(helper, "help", phrase, object=boulder, recipient=hero, because=[request])
            rolled = world.act(boulder, "roll", "rolls away", because=[pushed, helped])
            world.move(boulder, None, rolled)
            world.closed_off.discard(beyond)
            scenario.thank(hero, helper, helped)
            world.reason[hero] = rolled
            yield from scenario.go(hero, beyond, goal)
            goal.reached = True
            scenario.hug(hero, friend, goal)

        return run()

    def _repair(self) -> Steps:
        """A car has to be repaired before somebody can drive to a friend."""
        world, scenario = self._world, self._scenario
        hero = scenario.hero()
        friend = scenario.resident([world.here(hero)])
        garage = scenario.place([world.here(friend)], props=1)
        car = scenario.new("car", garage)
        tool = self._ways.tool(self._depth - 1, [garage, world.here(friend)], "hammer")

        def crank(goal: Goal, succeeded: bool, because: Event | None) -> Event:
            phrase, gesture = f"starts up {world.name(car)}", "start" if succeeded else "stall"
            return world.act(
                hero, "start", phrase, object=car, goal=goal, succeeded=succeeded, because=[because], gesture=gesture
            )

        def run() -> Steps:
            scenario.free_hand(hero)
            beyond, name = world.here(friend), world.name(car)
            goal = self._reach(hero, beyond, friend)
            yield from scenario.go(hero, garage, goal)
            failed = crank(goal, False, None)
            yield from self._ways.need(hero, tool, f"{name} is broken", car, failed)
            yield from scenario.go(hero, garage, goal)
            phrase = f"repairs {name} with {world.name(tool.thing)}"
            because = [world.last_change(tool.thing), failed]
            repaired = world.act(hero, "repair", phrase, object=car, goal=goal, succeeded=True, because=because)
            world.put(hero, tool.thing, goal=goal)
            started = crank(goal, True, repaired)
            driven = world.leave(hero, beyond, goal=goal, because=started, phrase=f"leaves in {name}", vehicle=car)
            world.move(car, None, driven)
            yield
            arrived = world.arrive(hero, beyond, goal=goal, phrase=f"arrives in {name}", vehicle=car)
            world.move(car, beyond, arrived)
            goal.reached = True
            scenario.hug(hero, friend, goal)

        return run()

    def _find_pet(self) -> Steps:
        """A pet has run away and is searched for."""
        world, scenario = self._world, self._scenario
        hero = scenario.hero()
        home = world.here(hero)
        pet = scenario.new(self._rng.choice(("dog", "cat")), home)
        refuge = scenario.place([home])
        others = [scenario.place([home, refuge])]
        if self._rng.random() < 0.5:
            others.append(scenario.place([home, refuge, *others]))
        gives_up = self._rng.random() < 0.25

        def run() -> Steps:
            scenario.free_hand(hero)
            name = world.name(pet)
            world.reason[hero] = world.leave(pet, refuge)
            goal = world.want(hero, f"bring {name} home", "", pet)
            yield
            world.arrive(pet, refuge)
            for place in others:
                yield from scenario.go(hero, place, goal)
                failed = world.act(hero, "look", f"looks for {name}", object=pet, goal=goal, succeeded=False)
                world.reason[hero] = failed
            if gives_up:
                scenario.give_up(hero, goal, world.reason[hero])
            yield from scenario.go(hero, refuge, goal)
            world.reason[hero] = scenario.hug(hero, pet, goal)
            yield from scenario.go(hero, home, goal, pet)
            goal.reached = True

        return run()

    def _collect(self) -> Steps:
        """Things of one kind are collected at one place."""
        world, scenario = self._world, self._scenario
        hero = scenario.hero()
        home = world.here(hero)
        kinds: tuple[ObjectKind, ...] = ("flower", "apple", "book", "ball")
        kind = self._rng.choice(kinds)
        places, things = [home], list[str]()
        for _ in range(self._rng.choice((2, 3))):
            places.append(scenario.place(places))
            things.append(scenario.new(kind, places[-1]))

        def run() -> Steps:
            scenario.free_hand(hero)
            count = {2: "two", 3: "three"}[len(things)]
            goal = world.want(hero, f"collect {count} {kind}s", "", *things)
            for thing in things:
                yield from scenario.go(hero, world.here(thing), goal)
                world.take(hero, thing, goal=goal)
                yield from scenario.go(hero, home, goal)
                world.put(hero, thing, goal=goal)
            goal.reached = True

        return run()

    def _race(self) -> Steps:
        """Two people want the same thing, and one of them is faster."""
        world, scenario = self._world, self._scenario
        hero = scenario.hero()
        rival = scenario.companion(hero)
        prize = scenario.new(scenario.treasure(), scenario.place([world.here(hero)]))

        def run() -> Steps:
            scenario.free_hand(hero)
            name, place = world.name(prize), world.here(prize)
            runners = [hero, rival]
            goals = [world.want(each, f"get {name}", "", prize) for each in runners]
            world.leave(rival, place, goal=goals[1])
            yield from scenario.go(hero, place, goals[0])
            world.arrive(rival, place, goal=goals[1])
            winner = self._rng.choice((0, 1))
            loser = 1 - winner
            won = world.take(runners[winner], prize, goal=goals[winner])
            goals[winner].reached = True
            phrase = f"grabs at {name}"
            world.act(
                runners[loser],
                "grab",
                phrase,
                object=prize,
                goal=goals[loser],
                succeeded=False,
                because=[won],
                gesture="late",
            )

        return run()

    def _fail(self) -> Steps:
        """Somebody tries more than once, and gives up."""
        world, scenario = self._world, self._scenario
        hero = scenario.hero()
        place = scenario.place([world.here(hero)], props=1)
        chest = self._rng.random() < 0.5
        box = scenario.new("chest" if chest else "tree", place)
        thing = scenario.use(world.add(scenario.treasure(), place, "inside" if chest else "tree", box))
        tries = self._rng.choice((2, 3))

        def run() -> Steps:
            scenario.free_hand(hero)
            if chest:
                goal = world.want(hero, f"open {world.name(box)}", "", box)
            else:
                goal = world.want(hero, f"get {world.name(thing)}", "", thing, box)
            yield from scenario.go(hero, place, goal)
            failed: Event | None = None
            for _ in range(tries):
                if chest:
                    failed = world.try_lock(hero, box, goal=goal, because=failed)
                else:
                    phrase = f"jumps for {world.name(thing)}"
                    failed = world.act(hero, "jump", phrase, object=thing, goal=goal, succeeded=False, because=[failed])
            assert failed is not None
            scenario.give_up(hero, goal, failed)

        return run()
