"""Stages the acts of a plot as shots: where everybody stands, how they move, and in which frames an event is seen.

All times inside a draft of a shot are frames from its start, and all positions are those of `MovingObject`.
"""

import random
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

from operators.demo.films.grammar.casting import COLOURS, INDOORS, PROPS, Entity, fitting_scale
from operators.demo.films.grammar.world import Act, Event, Goal, Placement, World
from operators.demo.films.scenes import Light
from operators.demo.films.script import (
    FPS,
    Ambience,
    Colour,
    Cue,
    Distractor,
    MovingObject,
    ObjectKind,
    OnScreenText,
    Scene,
    Shot,
    Transition,
    Turn,
    Waypoint,
)
from operators.demo.films.script import Event as ScriptEvent
from operators.demo.films.sprites import sprite
from schemas.base import Region
from schemas.facts import EntityKind

_WALK, _RUN = 5.0, 9.0
"""Pixels per frame."""
_GROUND, _PROPS_GROUND, _THINGS_GROUND = 342, 326, 350
_LINE_LETTERS, _LINE_FRAMES = 32, 50
"""Longest line of a story text, and how long it is shown."""
_CLOSE_UP, _CLOSE_UP_Y = 1.25, 216
"""Zoom, and the height of the middle: bubbles over heads fit in."""
_PANS, _PAN_START = 0.08, 16
"""How often the camera swings to the scene when a shot begins, and from which frame on."""
_OUT_LEFT, _OUT_RIGHT = -30.0, 670.0
_LAYERS = {"sky": 0, "rider": 1, "prop": 2, "content": 3, "being": 4, "thing": 5, "held": 6, "sign": 7, "picture": 8}
_SEAT = 16
"""Pixels above the ground at which somebody in a car stands, so that the car covers the legs."""
_FLYERS: tuple[ObjectKind, ...] = ("plane", "bird", "balloon", "drone")
_AMBIENCE: dict[Scene, Ambience] = {
    "harbour": "sea",
    "beach": "sea",
    "market": "crowd",
    "stadium": "crowd",
    "station": "engine",
    "mountain": "wind",
    "desert": "wind",
    "workshop": "engine",
    "kitchen": "bright",
    "meadow": "bright",
}


class Mark(NamedTuple):
    """An event's frames within the shot, and its sound."""

    event: Event
    start: int
    end: int
    cue: Cue | None


@dataclass
class Mover:
    """Something drawn in the shot under way. `entity` is None for signs and for pictures in thought bubbles."""

    name: str
    entity: str | None
    sprite: ObjectKind
    colour: Colour
    scale: float
    layer: int
    points: list[tuple[int, float, float]]
    turns: list[tuple[int, bool]]
    appears: int | None = None
    vanishes: int | None = None

    def rest_until(self, frame: int) -> None:
        """Stay where it is until a frame."""
        last, x, y = self.points[-1]
        if frame > last:
            self.points.append((frame, x, y))

    def go(self, start: int, end: int, x: float, y: float) -> None:
        """Move in a straight line between two frames."""
        self.rest_until(start)
        self.points.append((max(end, self.points[-1][0] + 1), x, y))

    def turn(self, frame: int, left: bool) -> None:
        """Face a direction from a frame on."""
        if self.turns[-1][1] != left:
            self.turns.append((frame, left))


@dataclass
class Draft:
    """A shot under way."""

    place: str
    close_up: float | None
    movers: dict[str, Mover] = field(default_factory=dict)
    marks: list[Mark] = field(default_factory=list)
    goals: list[tuple[Goal, int, int]] = field(default_factory=list)
    texts: list[tuple[str, int, int]] = field(default_factory=list)
    steady: bool = False
    pan: int = 0
    end: int = 0


class StagedShot(NamedTuple):
    """A finished shot: its first frame in the film, its script, its events, and the entity of every object's name."""

    start: int
    shot: Shot
    events: tuple[Event, ...]
    goals: tuple[Goal, ...]
    entities: dict[str, str]


class Stage:
    """Where everything stands between the shots, and the shots so far.

    Args:
        story_texts: whether goals are also written on the screen.
    """

    def __init__(self, world: World, rng: random.Random, *, story_texts: bool) -> None:
        self.world = world
        self.rng = rng
        self.story_texts = story_texts
        self.light: Light = "day"
        self.shots: list[StagedShot] = []
        self.frames = 0
        self.enter = Transition(kind="fade", seconds=0.8)
        self._x: dict[str, float] = {}
        self._y: dict[str, float] = {}
        self._left: dict[str, bool] = {}
        self._place: dict[str, str | None] = {}
        self._sprite: dict[str, ObjectKind] = {}
        self._carrier: dict[str, str] = {}
        self._carried: dict[str, str] = {}
        self._concealed: set[str] = set()
        self._raised: set[str] = set()
        self._flyers: list[str] = []
        self._draft = Draft("", None)

    # Shots

    def stage(self, acts: Sequence[Act]) -> None:
        """Stage what happens without a break, in one shot or a few for each place."""
        self._settle()
        for place, group in groupby(acts, key=lambda act: act.place):
            self._stage_at(place, list(group))

    def _stage_at(self, place: str, acts: Sequence[Act]) -> None:
        self._open(place, None)
        clock = 10
        if self.rng.random() < _PANS:
            self._draft.pan = self.rng.choice((-130, -90, 90, 130))
            clock = _PAN_START + 18
        queue = list(acts)
        while queue:
            group = [queue.pop(0)]
            while queue and _concurrent(group[-1], queue[0]):
                group.append(queue.pop(0))
            thinker = group[0].actor if group[0].gesture == "think" else None
            close_up = self._draft.close_up
            if thinker and clock > 60 and not self.story_texts and self.rng.random() < 0.6:
                close_up = self._x[thinker]
            elif close_up is not None and (thinker is None or close_up != self._x[thinker]):
                close_up = None
            if close_up != self._draft.close_up or clock > 14 * FPS:
                self._close(clock + 4)
                self.enter = Transition()
                self._open(place, close_up)
                clock = 7
            self._draft.steady |= group[0].gesture in ("leave", "arrive", "cross", "drive", "drive_in")
            clock = (
                max(
                    self._perform(act, clock + (30 * rank if act.gesture in ("arrive", "leave") else 0))
                    for rank, act in enumerate(group)
                )
                + 6
            )
        self._close(clock + 8)

    def show_montage(self, places: Sequence[str]) -> None:
        """A short view of each of some places, in which nothing happens."""
        self._settle()
        for place in places:
            self._open(place, None)
            self._draft.steady = True
            self._close(0, shortest=32)
            self.enter = Transition()

    def lengthen(self, frames: int) -> None:
        """Show the last shot longer, in which nothing more happens."""
        last = self.shots[-1]
        seconds = (round(last.shot.seconds * FPS) + frames) / FPS
        self.shots[-1] = last._replace(shot=last.shot.model_copy(update={"seconds": seconds}))
        self.frames += frames

    def show_card(self, lines: Sequence[str]) -> None:
        """Show a dark card with a title, and perhaps a smaller line above it."""
        self._append(card(lines), (), (), {})
        self.enter = Transition(kind="fade", seconds=0.8)

    def _append(self, shot: Shot, events: tuple[Event, ...], goals: tuple[Goal, ...], entities: dict[str, str]) -> None:
        self.shots.append(StagedShot(self.frames, shot, events, goals, entities))
        self.frames += round(shot.seconds * FPS)

    def _settle(self) -> None:
        """Find a spot for everything that is new in the world."""
        for new in self.world.placements:
            self._find_spot(new)
        self.world.placements.clear()

    def _find_spot(self, new: Placement) -> None:
        entity = self.world.entities[new.entity]
        self._left[entity.id] = self.rng.random() < 0.5
        self._sprite[entity.id] = entity.sprite
        if new.spot == "hand" and new.holder:
            self._carrier[entity.id], self._carried[new.holder] = new.holder, entity.id
            self._x[entity.id], self._y[entity.id] = self._hand(new.holder)
        elif new.spot == "inside" and new.holder:
            self._concealed.add(entity.id)
            self._x[entity.id], self._y[entity.id] = self._x[new.holder], self._y[new.holder] - 34
        elif new.spot == "tree" and new.holder:
            self._x[entity.id], self._y[entity.id] = self._x[new.holder] + 35, self._y[new.holder] - 88
        elif entity.sprite in PROPS:
            edge = self.world.edges.get(entity.id)
            wanted = {"left": 62.0, "right": 578.0}.get(edge or "", 0.0) or None
            self._x[entity.id] = wanted or self._free_x(new.place, self.rng.uniform(130, 510), 110, PROPS)
            self._y[entity.id] = _PROPS_GROUND
            self._left[entity.id] = False
        elif entity.kind is EntityKind.THING:
            self._x[entity.id] = self._free_x(new.place, self.rng.uniform(120, 520), 48, None)
            self._y[entity.id] = _THINGS_GROUND
        else:
            self._x[entity.id] = self._free_x(new.place, self.rng.uniform(130, 510), 80, None)
            self._y[entity.id] = _GROUND
        self._place[entity.id] = new.place

    def _free_x(self, place: str, near: float, gap: float, kinds: frozenset[str] | None, *ignored: str) -> float:
        """The x closest to `near` that is `gap` pixels from everything else, or as free as possible."""
        others = [
            self._x[each]
            for each, where in self._place.items()
            if where == place
            and each not in ignored
            and each not in self._carrier
            and each not in self._concealed
            and (kinds is None or self._sprite[each] in kinds or self.world.entities[each].sprite in kinds)
        ]

        def cost(x: float) -> float:
            crowding = sum(max(0.0, gap - abs(x - other)) for other in others)
            return 4 * crowding + abs(x - near)

        return float(min(range(70, 571, 10), key=cost))

    def _open(self, place: str, close_up: float | None) -> None:
        self._draft = Draft(place, close_up)
        for entity, where in self._place.items():
            if where == place and entity not in self._concealed and entity not in self._carrier:
                self._enter_draft(entity)
                if thing := self._carried.get(entity):
                    self._enter_draft(thing)

    def _enter_draft(self, entity: str, frame: int | None = None) -> Mover:
        each = self.world.entities[entity]
        mover = Mover(
            each.name,
            entity,
            self._sprite[entity],
            each.colour,
            each.scale,
            self._layer(each),
            [(frame or 0, self._x[entity], self._y[entity])],
            [(0, self._left[entity])],
            frame,
        )
        self._draft.movers[entity] = mover
        return mover

    def _layer(self, entity: Entity) -> int:
        if entity.id in self._carrier:
            return _LAYERS["held"]
        if entity.sprite in PROPS:
            return _LAYERS["prop"]
        if entity.kind is EntityKind.THING:
            return _LAYERS["thing"] if self._y[entity.id] > _PROPS_GROUND else _LAYERS["content"]
        return _LAYERS["being"]

    def _close(self, end: int, shortest: int = 45) -> None:
        draft = self._draft
        draft.end = max(
            end, shortest, *(mark.end + 2 for mark in draft.marks), *(each[2] + 2 for each in draft.goals), 0
        )
        scene: Scene = draft.place  # type: ignore[assignment]
        if draft.close_up is None:
            self._fly_by(scene)
        offset, drift, distractors = self._camera(scene)
        zoomed = draft.close_up is not None
        present = [each for each in draft.movers.values() if self._in_view(each)]
        present.sort(key=lambda each: each.layer)
        names = {each.name for each in present}
        marks = [mark for mark in draft.marks if mark.end <= draft.end]
        half = round(self.enter.seconds * FPS) // 2
        texts = (
            []
            if not self.story_texts
            else [
                OnScreenText(text=text, start=max(start, half + 2) / FPS, end=min(end, draft.end - 14) / FPS)
                for text, start, end in draft.texts
                if min(end, draft.end - 14) - max(start, half + 2) >= 40
            ]
        )
        shot = Shot(
            scene=scene,
            seconds=draft.end / FPS,
            enter=self.enter,
            light=self.light,
            camera=offset,
            drift=drift,
            zoom=_CLOSE_UP if zoomed else 1.0,
            focus=(min(max(draft.close_up, 160), 480), _CLOSE_UP_Y) if draft.close_up is not None else (320, 180),
            ambience=_AMBIENCE.get(scene, "calm") if self.light != "night" else "calm",
            objects=tuple(_moving_object(each, draft.end) for each in present),
            texts=tuple(texts),
            events=tuple(
                ScriptEvent(
                    name=f"{self.world.name(mark.event.actor)} {mark.event.phrase}",
                    participants=tuple(
                        name
                        for who in (mark.event.actor, mark.event.object, mark.event.recipient)
                        if who and (name := self.world.name(who)) in names
                    ),
                    start=mark.start / FPS,
                    end=mark.end / FPS,
                    cue=mark.cue,
                )
                for mark in marks
            ),
            distractors=distractors,
        )
        for mark in draft.marks:
            mark.event.start, mark.event.end = self.frames + mark.start, self.frames + mark.end
        for goal, start, last in draft.goals:
            goal.shown.append((self.frames + start, self.frames + last))
        entities = {each.name: each.entity for each in present if each.entity}
        self._append(shot, tuple(mark.event for mark in draft.marks), tuple(each[0] for each in draft.goals), entities)
        self.enter = self._transition()

    def _transition(self) -> Transition:
        draw = self.rng.random()
        if draw < 0.65:
            return Transition()
        return Transition(kind="dissolve" if draw < 0.9 else "fade", seconds=0.8)

    def _in_view(self, mover: Mover) -> bool:
        if self._draft.close_up is None:
            return True
        middle = min(max(self._draft.close_up, 160), 480)
        return any(abs(x - middle) < 220 for _, x, _ in mover.points)

    def _camera(self, scene: Scene) -> tuple[int, int, tuple[Distractor, ...]]:
        """Offset and drift of the camera, and sudden changes that are no cuts."""
        draft = self._draft
        if draft.pan:
            pan = Distractor(kind="pan", start=_PAN_START / FPS, seconds=0.6, pixels=draft.pan)
            return -draft.pan, 0, (pan,)
        if draft.close_up is not None or draft.steady or draft.end < 75:
            return 0, 0, ()
        draw = self.rng.random()
        if draw < 0.3:
            drift = self.rng.choice((-40, -24, 24, 40))
            return -drift // 2, drift, ()
        last = max((mark.end for mark in draft.marks), default=0)
        start = max(last, *(each[2] for each in draft.goals), 14) + 2
        if draw < 0.36:
            draft.end = max(draft.end, start + 8 + 14)
            return 0, 0, (Distractor(kind="flash", start=start / FPS, seconds=0.32),)
        return 0, 0, ()

    def _fly_by(self, scene: Scene) -> None:
        """Something may cross the sky: the same few things again and again."""
        draft = self._draft
        if scene in INDOORS or draft.end < 110 or self.rng.random() > 0.22:
            return
        if len(self._flyers) < 2 and (not self._flyers or self.rng.random() < 0.3):
            used = [self.world.entities[each].sprite for each in self._flyers]
            kind = self.rng.choice([each for each in _FLYERS if each not in used])
            self._flyers.append(self._new_flyer(kind))
        flyer = self.rng.choice(self._flyers)
        entity = self.world.entities[flyer]
        start = self.rng.randint(10, max(10, draft.end - 100))
        end = min(draft.end - 4, start + 130)
        to_left = self.rng.random() < 0.5
        height = self.rng.choice((58.0, 66.0, 76.0))
        path = [(start, _OUT_RIGHT + 20, height), (end, _OUT_LEFT - 20, height)]
        if not to_left:
            path = [(start, _OUT_LEFT - 20, height), (end, _OUT_RIGHT + 20, height)]
        draft.movers[flyer] = Mover(
            entity.name,
            flyer,
            entity.sprite,
            entity.colour,
            entity.scale,
            _LAYERS["sky"],
            path,
            [(0, to_left)],
            start,
            end,
        )
        draft.steady = True
        draft.marks.append(Mark(self.world.pass_by(flyer, draft.place), start + 3, end - 3, None))

    def _new_flyer(self, kind: ObjectKind) -> str:
        entity = self.world.add(kind, "", colour=self.rng.choice(COLOURS.get(kind, ("red", "yellow", "purple"))))
        self.world.placements.clear()
        self.world.position[entity] = None
        self._place[entity] = None
        self._left[entity], self._sprite[entity] = False, kind
        return entity

    # Movements

    def _walk(self, who: str, x: float, start: int, speed: float = _WALK, y: float | None = None) -> int:
        """Somebody moves to x with what they hold; the frame at which they are there."""
        mover = self._draft.movers[who]
        y = self._y[who] if y is None else y
        length = ((x - self._x[who]) ** 2 + (y - self._y[who]) ** 2) ** 0.5
        if length < 1:
            return start
        if abs(x - self._x[who]) > 1:
            self._face(who, x < self._x[who], start)
        end = start + max(3, round(length / speed))
        mover.go(start, end, x, y)
        self._x[who], self._y[who] = x, y
        if thing := self._carried.get(who):
            held = self._draft.movers[thing]
            held.rest_until(start)
            held.go(start, end, *self._hand(who))
            self._x[thing], self._y[thing] = self._hand(who)
        return end

    def _face(self, who: str, left: bool, frame: int) -> None:
        """Somebody turns, and what they hold changes sides."""
        if self._left[who] == left:
            return
        self._left[who] = left
        self._draft.movers[who].turn(frame, left)
        if thing := self._carried.get(who):
            held = self._draft.movers[thing]
            held.rest_until(frame - 1)
            held.go(frame - 1, frame, *self._hand(who))
            held.turn(frame, left)
            self._left[thing] = left
            self._x[thing], self._y[thing] = self._hand(who)

    def _hand(self, who: str) -> tuple[float, float]:
        """Where a held thing is: the middle of its lower edge."""
        kind, size = self._sprite[who], self.world.entities[who].scale
        forward, up = {"dog": (52, 12), "cat": (44, 10), "robot": (30, 22)}.get(kind, (19, 27))
        thing = self._carried.get(who)
        if thing and self._sprite[thing] == "ladder":
            forward, up = 16, 3
        sign = -1 if self._left[who] else 1
        return self._x[who] + sign * forward * size, self._y[who] - up * size

    def _approach(self, who: str, target: str, start: int, gap: float = 62) -> int:
        """Somebody walks next to something or somebody and faces it."""
        x = self._x[target]
        from_left = self._x[who] <= x
        spots = [x - gap, x + gap] if from_left else [x + gap, x - gap]
        spots = [each for each in spots if 40 <= each <= 600] or spots
        place = self._draft.place
        beings = [
            self._x[each]
            for each, where in self._place.items()
            if where == place
            and each not in (who, target)
            and self._layer(self.world.entities[each]) == _LAYERS["being"]
        ]
        clear = [each for each in spots if all(abs(each - other) > 36 for other in beings)]
        spot = (clear or spots)[0]
        end = start if abs(self._x[who] - spot) < 4 else self._walk(who, spot, start)
        self._face(who, x < self._x[who], end)
        return end

    def _shake(self, what: str, start: int, times: int, reach: float = 4) -> int:
        mover = self._draft.movers[what]
        x, y = self._x[what], self._y[what]
        for step in range(times):
            mover.go(start + 6 * step, start + 6 * step + 3, x + reach, y)
            mover.go(start + 6 * step + 3, start + 6 * step + 6, x, y)
        return start + 6 * times

    def _hop(self, who: str, start: int, times: int, height: float) -> int:
        mover = self._draft.movers[who]
        x, y = self._x[who], self._y[who]
        thing = self._carried.get(who)
        for step in range(times):
            begin = start + 16 * step
            for first, last, lift in ((begin, begin + 8, height), (begin + 8, begin + 16, 0.0)):
                mover.go(first, last, x, y - lift)
                if thing:
                    self._draft.movers[thing].go(first, last, self._x[thing], self._y[thing] - lift)
        return start + 16 * times

    def _top(self, who: str) -> float:
        entity = self.world.entities[who]
        return self._y[who] - sprite(self._sprite[who], entity.colour, entity.scale, facing_left=False).height

    def _sign(
        self,
        kind: ObjectKind,
        colour: Colour,
        x: float,
        y: float,
        start: int,
        end: int,
        *,
        scale: float = 1.0,
        rise: float = 0,
        layer: str = "sign",
        name: str = "",
    ) -> None:
        """A sign or a small picture that is seen from `start` to `end`."""
        movers = self._draft.movers
        key = f"{name or kind} {len(movers)}"
        points = [(start, x, y)] + ([(end, x, y - rise)] if rise else [])
        movers[key] = Mover(name or kind, None, kind, colour, scale, _LAYERS[layer], points, [(0, False)], start, end)

    def _cross_out(self, who: str, start: int, end: int) -> None:
        self._sign("cross", "red", self._x[who], self._top(who) - 8, start, end)

    def _mark(self, act: Act, start: int, end: int, cue: Cue | None = None) -> None:
        assert act.event is not None
        self._draft.marks.append(Mark(act.event, start, end, cue))

    def _hand_over(self, thing: str, to: str | None, start: int, frames: int = 16) -> int:
        """A thing moves to somebody's hand, or leaves its holder's hand."""
        if former := self._carrier.pop(thing, None):
            del self._carried[former]
        mover = self._draft.movers[thing]
        end = start + frames
        if to:
            self._carrier[thing], self._carried[to] = to, thing
            self._place[thing] = self._place[to]
            x, y = self._hand(to)
            mover.go(start, end, x, y)
            mover.turn(end, self._left[to])
            self._x[thing], self._y[thing], self._left[thing] = x, y, self._left[to]
            mover.layer = _LAYERS["held"]
        return end

    def _lay_down(self, thing: str, x: float, start: int, frames: int = 14) -> int:
        self._hand_over(thing, None, start)
        mover = self._draft.movers[thing]
        mover.go(start, start + frames, x, _THINGS_GROUND)
        self._x[thing], self._y[thing] = x, _THINGS_GROUND
        self._place[thing] = self._draft.place
        mover.layer = _LAYERS["thing"]
        return start + frames

    # Gestures

    def _perform(self, act: Act, start: int) -> int:
        """Stage one act from a frame on; the frame at which it is over."""
        gesture: Callable[[Act, int], int] = getattr(self, f"_do_{act.gesture}")
        return gesture(act, start)

    def _do_leave(self, act: Act, start: int) -> int:
        out = _OUT_RIGHT if act.side == "right" else _OUT_LEFT
        end = self._walk(act.actor, out, start)
        self._mark(act, start, end)
        self._remove(act.actor, end)
        return end + 2

    def _remove(self, who: str, frame: int) -> None:
        self._place[who] = None
        for each in (who, self._carried.get(who)):
            if each:
                self._draft.movers[each].vanishes = frame + 1

    def _appear(self, who: str, x: float, frame: int) -> None:
        self._place[who], self._x[who] = self._draft.place, x
        self._enter_draft(who, frame)
        if thing := self._carried.get(who):
            self._x[thing], self._y[thing] = self._hand(who)
            self._enter_draft(thing, frame)

    def _do_arrive(self, act: Act, start: int) -> int:
        from_left = act.side == "left"
        self._left[act.actor] = not from_left
        if thing := self._carried.get(act.actor):
            self._left[thing] = not from_left
        self._appear(act.actor, _OUT_LEFT if from_left else _OUT_RIGHT, start)
        x = self._free_x(
            self._draft.place,
            self.rng.uniform(110, 190) if from_left else self.rng.uniform(450, 530),
            64,
            None,
            act.actor,
        )
        end = self._walk(act.actor, x, start)
        self._mark(act, start + 3, end)
        return end

    def _do_cross(self, act: Act, start: int) -> int:
        from_left = act.side == "left"
        self._left[act.actor] = not from_left
        if thing := self._carried.get(act.actor):
            self._left[thing] = not from_left
        self._appear(act.actor, _OUT_LEFT if from_left else _OUT_RIGHT, start)
        end = self._walk(act.actor, _OUT_RIGHT if from_left else _OUT_LEFT, start, _WALK * 1.2)
        self._mark(act, start + 3, end - 2)
        self._remove(act.actor, end)
        return end

    def _do_take(self, act: Act, start: int) -> int:
        thing = str(act.object)
        up = act.actor in self._raised
        if not up:
            start = self._approach(act.actor, thing, start, 30)
        end = self._hand_over(thing, act.actor, start + 5, 14)
        self._mark(act, start + 3, end, "chime")
        if up:
            self._raised.discard(act.actor)
            end = self._walk(act.actor, self._x[act.actor], end + 8, 5, _GROUND)
        return end + 6

    def _do_snatch(self, act: Act, start: int) -> int:
        start = self._approach(act.actor, str(act.recipient), start)
        self._face(str(act.recipient), self._x[act.actor] < self._x[str(act.recipient)], start)
        end = self._hand_over(str(act.object), act.actor, start + 5, 8)
        self._mark(act, start + 4, end, "thump")
        self._shake(str(act.recipient), end, 3)
        self._cross_out(str(act.recipient), end, end + 30)
        return end + 22

    def _do_give(self, act: Act, start: int) -> int:
        to = str(act.recipient)
        start = self._approach(act.actor, to, start, 74)
        self._face(to, self._x[act.actor] < self._x[to], start)
        end = self._hand_over(str(act.object), to, start + 10, 18)
        self._mark(act, start + 6, end, "chime")
        return end + 10

    def _do_put(self, act: Act, start: int) -> int:
        thing = str(act.object)
        if act.recipient:
            start = self._approach(act.actor, act.recipient, start, 84)
        sign = -1 if self._left[act.actor] else 1
        near = self._x[act.actor] + sign * 34
        x = self._free_x(self._draft.place, min(max(near, 40), 600), 26, None, act.actor, thing)
        x = x if abs(x - near) < 60 else min(max(near, 24), 616)
        end = self._lay_down(thing, x, start + 4)
        self._mark(act, start + 2, end, "thump")
        return end + 6

    def _do_lose(self, act: Act, start: int) -> int:
        sign = 1 if self._left[act.actor] else -1
        end = self._lay_down(str(act.object), self._x[act.actor] + sign * 30, start + 4, 10)
        self._mark(act, start + 2, end, "thump")
        return end + 6

    def _do_lean(self, act: Act, start: int) -> int:
        thing, tree = str(act.object), str(act.recipient)
        x = self._x[tree] + 44
        start = self._walk(act.actor, x + 34, start)
        self._face(act.actor, True, start)
        self._hand_over(thing, None, start)
        mover = self._draft.movers[thing]
        end = start + 16
        mover.go(start + 4, end, x, _PROPS_GROUND + 8)
        self._x[thing], self._y[thing], self._place[thing] = x, _PROPS_GROUND + 8, self._draft.place
        mover.layer = _LAYERS["content"]
        self._mark(act, start + 2, end, "thump")
        return end + 8

    def _do_climb(self, act: Act, start: int) -> int:
        start = self._walk(act.actor, self._x[str(act.object)] + 50, start)
        self._face(act.actor, True, start)
        end = self._walk(act.actor, self._x[act.actor], start + 4, 3.2, _GROUND - 90)
        self._raised.add(act.actor)
        self._mark(act, start + 3, end)
        return end + 4

    def _do_jump(self, act: Act, start: int) -> int:
        start = self._walk(act.actor, self._x[str(act.object)], start)
        assert act.event is not None
        end = self._hop(act.actor, start + 4, 3, 34)
        if act.event.succeeded:
            end = self._walk(act.actor, self._x[act.actor], end, 6, _GROUND - 56)
            self._raised.add(act.actor)
            self._mark(act, start + 3, end)
            return end
        self._cross_out(act.actor, end + 2, end + 32)
        self._mark(act, start + 3, end + 30, "buzz")
        return end + 34

    def _do_slip(self, act: Act, start: int) -> int:
        start = self._walk(act.actor, self._x[str(act.object)] + 24, start)
        self._face(act.actor, True, start)
        end = self._walk(act.actor, self._x[act.actor], start + 4, 2.4, _GROUND - 46)
        end = self._walk(act.actor, self._x[act.actor], end + 4, 8, _GROUND)
        self._cross_out(act.actor, end, end + 30)
        self._mark(act, start + 3, end + 28, "buzz")
        return end + 32

    def _do_rattle(self, act: Act, start: int) -> int:
        start = self._approach(act.actor, str(act.object), start)
        end = self._shake(str(act.object), start + 4, 5)
        self._cross_out(act.actor, end, end + 30)
        self._mark(act, start + 3, end + 28, "buzz")
        return end + 32

    def _do_unlock(self, act: Act, start: int) -> int:
        box = str(act.object)
        start = self._approach(act.actor, box, start)
        key = self._carried[act.actor]
        mover = self._draft.movers[key]
        home = (self._x[key], self._y[key])
        lock = (self._x[box], self._y[box] - (70 if self._sprite[box] == "gate" else 34))
        mover.go(start + 4, start + 14, *lock)
        mover.go(start + 22, start + 32, *home)
        self._mark(act, start + 3, start + 22, "chime")
        return start + 34

    def _do_open(self, act: Act, start: int) -> int:
        # The actor's own gesture was staged first, from the same frame on.
        box, start = act.actor, max(mark.end for mark in self._draft.marks) - 22
        opened: ObjectKind = "open_gate" if self._sprite[box] == "gate" else "open_chest"
        self._draft.movers[box].vanishes = start + 22
        self._draft.movers[f"{box} closed"] = self._draft.movers.pop(box)
        self._sprite[box] = opened
        self._enter_draft(box, start + 22).layer = _LAYERS["prop"]
        for thing in [
            each
            for each in self._concealed
            if each not in self.world.hidden
            and self._x[each] == self._x[box]
            and self._place[each] == self._draft.place
        ]:
            self._concealed.discard(thing)
            self._y[thing] = self._y[box] - 36
            self._enter_draft(thing, start + 22).layer = _LAYERS["content"]
        self._mark(act, start + 20, start + 40, "bell")
        return start + 46

    def _do_search(self, act: Act, start: int) -> int:
        event, box = act.event, str(act.event.object if act.event else act.object)
        assert event is not None
        start = self._approach(act.actor, box, start)
        end = self._shake(box, start + 4, 5)
        if not event.succeeded:
            self._cross_out(act.actor, end, end + 26)
            self._mark(act, start + 3, end + 24, "buzz")
            return end + 28
        thing = str(act.object)
        self._concealed.discard(thing)
        sign = -1 if self._left[act.actor] else 1
        x, y = self._x[box], self._y[box] - 50
        self._x[thing], self._y[thing] = x, y
        mover = self._enter_draft(thing, end)
        mover.layer = _LAYERS["thing"]
        mover.go(end, end + 8, x - sign * 10, y - 40)
        mover.go(end + 8, end + 20, x - sign * 26, _THINGS_GROUND)
        self._x[thing], self._y[thing] = x - sign * 26, _THINGS_GROUND
        self._mark(act, start + 3, end + 20, "bell")
        return end + 26

    def _do_ask(self, act: Act, start: int) -> int:
        assert act.event is not None
        other = str(act.object)
        start = self._approach(act.actor, other, start, 80)
        self._face(other, self._x[act.actor] < self._x[other], start)
        wanted = self._carried.get(other)
        end = start + 46
        if wanted:
            self._bubble(act.actor, [wanted], start + 6, end, arrow=False)
        else:
            self._bubble(act.actor, [other, act.actor], start + 6, end, arrow=True)
        self._mark(act, start + 4, end, "beep")
        return end + 4

    def _do_refuse(self, act: Act, start: int) -> int:
        left = self._left[act.actor]
        for step in range(4):
            self._face(act.actor, left if step % 2 else not left, start + 6 * step)
        self._cross_out(act.actor, start, start + 34)
        self._mark(act, start + 1, start + 34, "buzz")
        return start + 38

    def _do_shove(self, act: Act, start: int) -> int:
        start = self._approach(act.actor, str(act.object), start, 70)
        sign = -1 if self._left[act.actor] else 1
        mover, x = self._draft.movers[act.actor], self._x[act.actor]
        for step in range(3):
            mover.go(start + 4 + 14 * step, start + 10 + 14 * step, x - sign * 12, self._y[act.actor])
            mover.go(start + 10 + 14 * step, start + 16 + 14 * step, x, self._y[act.actor])
        self._shake(str(act.object), start + 12, 5, 2)
        end = start + 46
        self._cross_out(act.actor, end, end + 28)
        self._mark(act, start + 3, end + 26, "buzz")
        return end + 30

    def _do_push(self, act: Act, start: int) -> int:
        boulder = str(act.object)
        start = self._approach(act.actor, boulder, start, 70) + 24
        sign = -1 if self._left[act.actor] else 1
        end = start + 50
        shift = 140
        self._draft.movers[boulder].go(start, end, self._x[boulder] + sign * shift, self._y[boulder])
        self._draft.movers[boulder].vanishes = end + 1
        self._walk(act.actor, self._x[act.actor] + sign * 60, start, 60 / 50)
        self._place[boulder] = None
        self._mark(act, start, end)
        return end + 10

    def _do_roll(self, act: Act, start: int) -> int:
        pushed = self._draft.marks[-1]
        self._mark(act, pushed.start + 4, pushed.end, "thump")
        return pushed.end + 10

    def _do_help(self, act: Act, start: int) -> int:
        hero, boulder = str(act.recipient), str(act.object)
        # The hero's own push was staged first: it ends in front of the boulder's old spot.
        sign = -1 if self._left[hero] else 1
        begin, finish = next((mark.start, mark.end) for mark in self._draft.marks if mark.event.object == boulder)
        ready = self._walk(act.actor, self._x[hero] - sign * (60 + 44), start, 8)
        self._face(act.actor, sign < 0, ready)
        begin = max(begin, ready)
        self._walk(act.actor, self._x[act.actor] + sign * 50, begin, 50 / max(finish - begin, 10))
        self._mark(act, begin, finish)
        return finish + 10

    def _do_thank(self, act: Act, start: int) -> int:
        self._face(act.actor, self._x[str(act.object)] < self._x[act.actor], start)
        self._sign("heart", "red", self._x[act.actor], self._top(act.actor) - 4, start + 2, start + 36, rise=24)
        self._hop(act.actor, start + 2, 2, 10)
        self._mark(act, start + 2, start + 36, "chime")
        return start + 40

    def _do_hug(self, act: Act, start: int) -> int:
        other = str(act.object)
        start = self._approach(act.actor, other, start, 48)
        self._face(other, self._x[act.actor] < self._x[other], start)
        middle = (self._x[act.actor] + self._x[other]) / 2
        self._sign(
            "heart", "red", middle, min(self._top(act.actor), self._top(other)) - 4, start + 4, start + 44, rise=24
        )
        self._hop(other, start + 4, 2, 8)
        self._mark(act, start + 3, start + 44, "chime")
        return start + 48

    def _do_grab(self, act: Act, start: int) -> int:
        animal = self._carrier[str(act.object)]
        start = self._approach(act.actor, animal, start, 74)
        end = self._shake(act.actor, start + 4, 2, 8)
        self._mark(act, start + 3, end + 2)
        return end

    def _do_dodge(self, act: Act, start: int) -> int:
        other = str(act.object)
        away = 1 if self._x[act.actor] >= self._x[other] else -1
        x = self._x[act.actor] + away * 130
        if not 60 <= x <= 580:
            x = self._x[act.actor] - away * 240
        end = self._walk(act.actor, min(max(x, 60), 580), start + 2, _RUN)
        self._cross_out(other, start + 4, max(end, start + 30))
        self._mark(act, start + 2, end, "whistle")
        return end + 12

    def _do_look(self, act: Act, start: int) -> int:
        start = self._walk(act.actor, self._free_x(self._draft.place, 320, 50, None, act.actor), start)
        self._bubble(act.actor, [str(act.object)], start + 2, start + 52, arrow=False)
        left = self._left[act.actor]
        for step in range(4):
            self._face(act.actor, left if step % 2 else not left, start + 4 + 12 * step)
        self._cross_out(act.actor, start + 52, start + 78)
        self._mark(act, start + 2, start + 76, "buzz")
        return start + 80

    def _do_stall(self, act: Act, start: int) -> int:
        car = str(act.object)
        start = self._approach(act.actor, car, start, 96)
        end = self._shake(car, start + 4, 6, 3)
        self._sign("smoke", "grey", self._x[car] + 40, self._y[car] - 40, start + 16, end + 30, rise=14)
        self._cross_out(act.actor, end, end + 30)
        self._mark(act, start + 3, end + 28, "buzz")
        return end + 34

    def _do_start(self, act: Act, start: int) -> int:
        car = str(act.object)
        start = self._approach(act.actor, car, start, 96)
        end = self._shake(car, start + 4, 6, 3)
        self._mark(act, start + 3, end, "horn")
        return end + 4

    def _do_repair(self, act: Act, start: int) -> int:
        car = str(act.object)
        start = self._approach(act.actor, car, start, 92)
        tool = self._carried[act.actor]
        mover = self._draft.movers[tool]
        x, y = self._x[tool], self._y[tool]
        for step in range(4):
            mover.go(start + 4 + 12 * step, start + 10 + 12 * step, x, y - 22)
            mover.go(start + 10 + 12 * step, start + 16 + 12 * step, x, y)
        end = start + 54
        self._shake(car, end, 2, 3)
        self._mark(act, start + 3, end, "bell")
        return end + 16

    def _do_drive(self, act: Act, start: int) -> int:
        car = str(act.object)
        ground = self._y[act.actor]
        start = self._walk(act.actor, self._x[car], start)
        self._draft.movers[act.actor].layer = _LAYERS["rider"]
        self._walk(act.actor, self._x[car], start, y=self._y[car] - _SEAT)
        left = act.side == "left"
        out = _OUT_LEFT - 60 if left else _OUT_RIGHT + 60
        mover = self._draft.movers[car]
        mover.turn(start + 5, left)
        self._face(act.actor, left, start + 5)
        end = self._walk(act.actor, out, start + 8, 8)
        mover.go(start + 8, end, out, self._y[car])
        self._remove(act.actor, end)
        self._y[act.actor] = ground
        mover.vanishes = end + 1
        self._place[car], self._left[car] = None, left
        self._mark(act, start + 4, end - 8, "horn")
        return end

    def _do_drive_in(self, act: Act, start: int) -> int:
        car = str(act.object)
        from_left = act.side == "left"
        self._left[car] = self._left[act.actor] = not from_left
        if thing := self._carried.get(act.actor):
            self._left[thing] = not from_left
        self._x[car], self._y[car] = (_OUT_LEFT - 60 if from_left else _OUT_RIGHT + 60), _PROPS_GROUND
        target = self._free_x(self._draft.place, 150 if from_left else 490, 110, PROPS, car)
        self._place[car] = self._draft.place
        ground = self._y[act.actor]
        self._y[act.actor] = _PROPS_GROUND - _SEAT
        self._appear(act.actor, self._x[car], start)
        self._draft.movers[act.actor].layer = _LAYERS["rider"]
        end = self._walk(act.actor, target, start, 7)
        self._enter_draft(car, start).go(start, end, target, _PROPS_GROUND)
        self._x[car] = target
        x = self._free_x(self._draft.place, target + (70 if from_left else -70), 40, None, act.actor, car)
        stop = self._walk(act.actor, x, end + 10, y=ground)
        self._mark(act, start + 10, end, "horn")
        return stop

    def _do_sleep(self, act: Act, start: int) -> int:
        self._sign("sleep", "blue", self._x[act.actor] + 34, self._top(act.actor) - 2, start + 4, start + 80, rise=16)
        self._mark(act, start + 4, start + 80)
        return start + 84

    def _do_dance(self, act: Act, start: int) -> int:
        left = self._left[act.actor]
        for step in range(5):
            self._face(act.actor, left if step % 2 else not left, start + 16 * step)
        end = self._hop(act.actor, start + 2, 5, 16)
        self._mark(act, start + 1, end, "chime")
        return end + 4

    def _do_late(self, act: Act, start: int) -> int:
        end = self._approach(act.actor, self._carrier[str(act.object)], start, 66)
        self._cross_out(act.actor, end, end + 34)
        self._mark(act, start, end + 32, "buzz")
        return end + 38

    def _do_give_up(self, act: Act, start: int) -> int:
        self._face(act.actor, not self._left[act.actor], start)
        self._bubble(act.actor, [], start + 4, start + 56, arrow=False)
        self._sign("cross", "red", *self._bubble_middle(act.actor, 36), start + 4, start + 56, layer="picture")
        self._mark(act, start + 2, start + 56, "buzz")
        return start + 60

    def _do_think(self, act: Act, start: int) -> int:
        goal = act.goal
        assert goal is not None
        end = start + (70 if len(goal.pictures) > 1 else 60)
        if self.story_texts:
            because = f" because {goal.motive}" if goal.motive else ""
            words = f"{self.world.name(act.actor)} wants to {goal.aim}{because}"
            lines = textwrap.wrap(words.upper(), _LINE_LETTERS)
            self._draft.texts += [
                (line, start + _LINE_FRAMES * rank, start + _LINE_FRAMES * (rank + 1))
                for rank, line in enumerate(lines)
            ]
            end = start + _LINE_FRAMES * len(lines)
        self._bubble(act.actor, list(goal.pictures), start, end, arrow=goal.arrow)
        self._draft.goals.append((goal, start, end))
        return end + 4

    def _bubble_middle(self, who: str, height: float) -> tuple[float, float]:
        x = min(max(self._x[who], 92), 548)
        return x, self._top(who) - 66 + height / 2

    def _bubble(self, who: str, pictures: list[str], start: int, end: int, *, arrow: bool) -> None:
        """A thought bubble over somebody's head, with pictures of entities side by side."""
        x, _ = self._bubble_middle(who, 0)
        wide = len(pictures) > 1
        self._sign("wide_bubble" if wide else "bubble", "black", x, self._top(who) - 2, start, end)
        step = 52 if len(pictures) > 2 else (46 if arrow else 40)
        for rank, picture in enumerate(pictures):
            entity = self.world.entities[picture]
            shown: ObjectKind = entity.sprite
            pixels = {EntityKind.PLACE: 70, EntityKind.THING: 44}.get(entity.kind, 54)
            if shown in ("gate", "tree", "ladder"):
                pixels = 56
            scale = fitting_scale(shown, pixels - (8 if len(pictures) > 2 else 0))
            height = sprite(shown, entity.colour, scale, facing_left=False).height
            _, y = self._bubble_middle(who, height)
            middle = (
                x + (rank - (len(pictures) - 1) / 2) * 2 * step
                if len(pictures) == 2
                else (x + (rank - (len(pictures) - 1) / 2) * step)
            )
            self._sign(
                shown,
                entity.colour,
                middle,
                y,
                start,
                end,
                scale=scale,
                layer="picture",
                name=f"thought of {entity.name}",
            )
        if arrow and len(pictures) == 2:
            _, y = self._bubble_middle(who, 22)
            self._sign("arrow", "black", x, y, start, end, scale=0.7, layer="picture")


def card(lines: Sequence[str]) -> Shot:
    """A dark card of 4 seconds with a title, or with a smaller line above it."""
    texts = [OnScreenText(text=lines[-1], start=0.8, end=3.2, region=Region.CENTER, style="title")]
    if len(lines) > 1:
        texts.append(OnScreenText(text=lines[0], start=0.8, end=3.2))
    return Shot(scene="card", seconds=4.0, enter=Transition(kind="fade", seconds=0.8), texts=tuple(texts))


def _concurrent(one: Act, other: Act) -> bool:
    """Whether the second act happens at the same time as the first."""
    if one.gesture == other.gesture and one.gesture in ("leave", "arrive"):
        return one.actor != other.actor
    return (one.gesture, other.gesture) in (("push", "help"), ("help", "roll"), ("unlock", "open"))


def _moving_object(mover: Mover, end: int) -> MovingObject:
    points = [(frame, x, y) for frame, x, y in mover.points]
    vanishes = mover.vanishes
    return MovingObject(
        name=mover.name,
        kind=mover.sprite,
        colour=mover.colour,
        path=tuple(Waypoint(frame / FPS, round(x, 1), round(y, 1)) for frame, x, y in points),
        scale=mover.scale,
        turns=tuple(Turn(frame / FPS, left) for frame, left in mover.turns),
        appears=mover.appears / FPS if mover.appears is not None else None,
        vanishes=vanishes / FPS if vanishes is not None and vanishes < end else None,
    )
