"""Random facts about imaginary videos: people who move, take, give, lose and try things, without contradictions."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from schemas.base import Box, Span
from schemas.facts import EntityFact, EntityKind, EventFact, GoalFact, TrackFact, VideoFacts

SECOND = 1_000_000
BOX_STEP = SECOND // 5
PEOPLE = (
    "the baker", "the sailor", "the girl with the braid", "the old man", "the postwoman", "the boy in blue",
    "the gardener", "the woman with the hat", "the ferryman", "the nurse", "the clown", "the miller",
)  # fmt: skip
ANIMALS = ("the dog", "the grey cat", "the goat", "the parrot")
THINGS = (
    "the brass key", "the red lantern", "the rope", "the map", "the basket", "the silver cup", "the letter",
    "the wooden box", "the drum", "the umbrella", "the shovel", "the green bottle",
)  # fmt: skip
PLACES = ("the mill", "the harbour", "the market", "the old bridge", "the forest", "the station", "the garden")
FIXED = ("the gate", "the chest", "the boat", "the clock", "the well", "the tent", "the cart")
TRIES = ("push", "open", "lift", "knock on")
REPEATED = ("wave a flag", "sing a song", "jump high", "sit down", "bark", "stretch", "point upwards")
AIMS = (
    "cross the river", "light the beacon", "bake a cake", "win the race", "find the lost ring", "repair the roof",
    "feed the horses", "visit the island", "catch the last train", "build a raft", "hide the treasure", "wake the town",
)  # fmt: skip
MOTIVES = (
    "a brother waits there", "a storm is coming", "the harvest failed", "a promise was made long ago",
    "winter is near", "the king demands it", "a friend is ill", "the feast begins tonight",
    "nobody else has the courage", "the old debt must be paid", "a stranger paid for it", "the bell has rung",
)  # fmt: skip


@dataclass
class _World:
    """The state of the story at one time."""

    rng: Random
    people: list[str]
    things: list[str]
    places: list[str]
    fixed: list[str]
    goals: list[GoalFact]
    lucky: list[GoalFact]
    """The goals that can be reached."""
    at: dict[str, str] = field(default_factory=dict)
    """Place of each person, and of each thing that nobody holds."""
    held: dict[str, str] = field(default_factory=dict)
    """Holder of each thing that somebody holds."""
    took: dict[str, str] = field(default_factory=dict)
    """The event that brought a thing to its holder."""
    busy_until: dict[str, int] = field(default_factory=dict)
    events: list[EventFact] = field(default_factory=list)


def make_facts(
    seed: int, *, minutes: float = 3.0, complete: bool = True, goals: int = 4, tracks: bool = True
) -> VideoFacts:
    """Facts about a video, the same for the same seed."""
    rng = Random(seed)
    entities: list[EntityFact] = []

    def introduce(kind: EntityKind, names: tuple[str, ...], count: int) -> list[str]:
        chosen = rng.sample(names, count)
        ids = [f"{kind.value[0]}{len(entities) + number}" for number in range(count)]
        entities.extend(
            EntityFact(entity_id=each, kind=kind, name=name) for each, name in zip(ids, chosen, strict=True)
        )
        return ids

    people = introduce(EntityKind.PERSON, PEOPLE, rng.randint(4, 6))
    people += introduce(EntityKind.ANIMAL, ANIMALS, rng.randint(0, 2))
    things = introduce(EntityKind.THING, THINGS, rng.randint(4, 7))
    places = introduce(EntityKind.PLACE, PLACES, rng.randint(4, 6))
    fixed = introduce(EntityKind.THING, FIXED, rng.randint(3, 5))
    wanting = rng.sample(people, min(goals, len(people)))
    aims, motives = rng.sample(AIMS, len(wanting)), rng.sample(MOTIVES, len(wanting))
    planned = [
        GoalFact(goal_id=f"g{number}", actor=actor, aim=aim, motive=motive)
        for number, (actor, aim, motive) in enumerate(zip(wanting, aims, motives, strict=True))
    ]
    lucky = rng.sample(planned, rng.randint(0, len(planned)))
    world = _World(rng, people, things, places, fixed, planned, lucky)
    world.at = {each: rng.choice(places) for each in (*people, *things)}
    world.busy_until = dict.fromkeys(people, 0)
    clock = rng.randint(0, 3 * SECOND)
    names = {each.entity_id: each.name for each in entities}
    end = round(minutes * 60 * SECOND)
    while clock < end - 8 * SECOND:
        free = [each for each in people if world.busy_until[each] <= clock]
        if free:
            _act(world, rng.choice(free), clock, names)
        if rng.random() < 0.8:
            clock = max(world.busy_until.values())
        clock += rng.randint(0, 2 * SECOND)
    events = sorted(world.events, key=lambda each: (each.start_us, each.event_id))
    kept = tuple(_finish(goal, events, rng) for goal in planned)
    boxes = _tracks(events, rng) if tracks else []
    return VideoFacts(
        entities=tuple(_show(each, events, boxes) for each in entities),
        events=tuple(events),
        goals=kept,
        tracks=tuple(boxes),
        complete=complete,
    )


def _act(world: _World, actor: str, clock: int, names: dict[str, str]) -> None:
    """One action of somebody who is free, chosen from those that are possible now."""
    rng = world.rng
    place = world.at[actor]
    mine = [thing for thing, holder in world.held.items() if holder == actor]
    near = [thing for thing in world.things if world.at.get(thing) == place and thing not in world.held]
    others = [each for each in world.people if each != actor and world.at[each] == place
              and world.busy_until[each] <= clock]  # fmt: skip
    goals = [each for each in world.goals if each.actor == actor]
    choices = ["go", "repeat", "repeat", "try", "try"]
    choices += ["take"] * 4 * (bool(near) and not mine) + ["put"] * 2 * bool(mine) + ["lose"] * bool(mine)
    choices += ["give"] * 4 * bool(mine and others) + ["help"] * bool(others)
    does = rng.choice(choices)
    length = rng.randint(1 * SECOND, 6 * SECOND)
    fields: dict[str, object] = {"place": place}
    match does:
        case "go":
            world.at[actor] = target = rng.choice([each for each in world.places if each != place])
            fields |= {"action": "go", "phrase": f"goes to {names[target]}", "place": target}
        case "repeat":
            what = rng.choice(REPEATED)
            verb, _, rest = what.partition(" ")
            ending = "es" if verb.endswith("ch") else "s"
            fields |= {"action": verb, "phrase": f"{verb}{ending} {rest}".strip()}
        case "try":
            verb, thing = rng.choice(TRIES), rng.choice(world.fixed)
            first, _, rest = verb.partition(" ")
            third = {"push": "pushes"}.get(first, f"{first}s")
            fields |= {"action": verb, "phrase": " ".join(f"{third} {rest} {names[thing]}".split()), "object": thing}
            helped = rng.choice(world.goals) if world.goals and rng.random() < 0.3 else None
            goal = helped or (rng.choice(goals) if goals else None)
            if goal is not None:
                fields |= {"goal": goal.goal_id, "succeeded": goal in world.lucky and rng.random() < 0.5}
            attempts = [each.event_id for each in world.events if each.succeeded is not None and each.end_us <= clock]
            if mine and world.took.get(mine[0]) is not None and rng.random() < 0.7:
                fields |= {"causes": (world.took[mine[0]],)}
            elif attempts and rng.random() < 0.5:
                fields |= {"causes": (attempts[-1],)}
        case "take":
            thing = rng.choice(near)
            world.held[thing] = actor
            fields |= {"action": "take", "phrase": f"takes {names[thing]}", "object": thing}
        case "put" | "lose":
            thing = rng.choice(mine)
            del world.held[thing]
            world.at[thing] = place
            phrase = f"puts {names[thing]} down" if does == "put" else f"loses {names[thing]}"
            fields |= {"action": does, "phrase": phrase, "object": thing, "causes": (world.took[thing],)}
        case "give":
            thing, other = rng.choice(mine), rng.choice(others)
            world.held[thing] = other
            world.busy_until[other] = clock + length
            fields |= {"action": "give", "phrase": f"gives {names[thing]} to {names[other]}", "object": thing,
                       "recipient": other, "causes": (world.took[thing],)}  # fmt: skip
        case "help":
            other = rng.choice(others)
            world.busy_until[other] = clock + length
            fields |= {"action": "help", "phrase": f"helps {names[other]}", "recipient": other}
    event = EventFact(start_us=clock, end_us=clock + length, event_id=f"e{len(world.events)}", actor=actor, **fields)  # type: ignore[arg-type]
    if does in ("take", "give"):
        world.took[str(event.object)] = event.event_id
    world.busy_until[actor] = clock + length
    world.events.append(event)


def _finish(goal: GoalFact, events: list[EventFact], rng: Random) -> GoalFact:
    own = [each for each in events if each.goal == goal.goal_id]
    start = own[0].start_us if own else rng.randrange(10) * SECOND
    reached = any(each.succeeded for each in own) if own else rng.choice((True, False, None))
    shown = (Span(start_us=start, end_us=start + 2 * SECOND),)
    return goal.model_copy(update={"shown": shown, "reached": reached})


def _show(entity: EntityFact, events: list[EventFact], tracks: list[TrackFact]) -> EntityFact:
    """The entity with spans: it is seen in each event that it takes part in, and where it has boxes."""
    parts = [
        (each.start_us, each.end_us)
        for each in events
        if entity.entity_id in (each.actor, each.object, each.recipient, each.place)
    ]
    parts += [(each.times_us[0], each.times_us[-1] + 1) for each in tracks if each.entity == entity.entity_id]
    spans: list[Span] = []
    for start, end in sorted(parts):
        if spans and start <= spans[-1].end_us:
            spans[-1] = Span(start_us=spans[-1].start_us, end_us=max(spans[-1].end_us, end))
        else:
            spans.append(Span(start_us=start, end_us=end))
    return entity.model_copy(update={"spans": tuple(spans)})


def _tracks(events: list[EventFact], rng: Random) -> list[TrackFact]:
    """Boxes of those who take part in an event, at rest or moving evenly, from its start to its end."""
    tracks = []
    last: dict[str, int] = {}
    for each in events:
        parts = [name for name in (each.actor, each.object, each.recipient) if name is not None]
        parts += [name for name, end in last.items() if name not in parts and rng.random() < 0.5]
        for name in parts:
            if last.get(name, 0) > each.start_us:
                continue
            times = tuple(range(-(-each.start_us // BOX_STEP) * BOX_STEP, each.end_us, BOX_STEP))
            x, y = rng.uniform(0.05, 0.75), rng.uniform(0.2, 0.7)
            to = x + rng.choice((0, 0, rng.uniform(-0.6, 0.6)))
            to = min(max(to, 0.0), 0.8)
            path = [x + (to - x) * number / len(times) for number in range(len(times))]
            boxes = tuple(Box(x0=left, y0=y, x1=left + 0.15, y1=y + 0.25) for left in path)
            tracks.append(TrackFact(entity=name, times_us=times, boxes=boxes))
            last[name] = each.end_us
    return tracks
