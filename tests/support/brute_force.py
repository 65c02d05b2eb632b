"""Checks by brute force which texts answer a question from facts, from the raw list of facts.

It shares no code with the templates or with their second derivation: each rule states a condition and tries it for
every event, entity, goal or order of them. A rule returns all texts that meet its condition.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from itertools import pairwise, permutations

from schemas.facts import EventFact, GoalFact, VideoFacts

SECOND = 1_000_000


class Facts:
    """Facts about a video with the few words that conditions need."""

    def __init__(self, facts: VideoFacts, question: str) -> None:
        self.events = facts.events
        self.goals = facts.goals
        self.entities = facts.entities
        self.tracks = facts.tracks
        self.question = question

    def named(self, entity_id: str | None) -> str:
        return next((each.name for each in self.entities if each.entity_id == entity_id), "")

    def e(self, event_id: str | None) -> EventFact:
        return next(each for each in self.events if each.event_id == event_id)

    def g(self, goal_id: str | None) -> GoalFact:
        return next(each for each in self.goals if each.goal_id == goal_id)

    def clause(self, event: EventFact) -> str:
        return f"{self.named(event.actor)} {event.phrase}"

    def spans(self, entity_id: str) -> int:
        return min(span.start_us for each in self.entities if each.entity_id == entity_id for span in each.spans)

    def has(self, who: str, thing: str, time: int) -> bool:
        """Whether somebody certainly has a thing at a time: got it, and has not begun to part with it."""
        gets = [o.end_us for o in self.events if o.object == thing and o.end_us <= time and who == receiver(o)]
        others = [o for o in self.events if o.object == thing and o.action in ("take", "give", "put", "lose")]
        return any(not any(got <= o.start_us < time or got < o.end_us <= time for o in others) for got in gets)

    def ever_has(self, who: str, thing: str) -> bool:
        return any(
            o.object == thing and (receiver(o) == who or (o.action in ("give", "put", "lose") and o.actor == who))
            for o in self.events
        )

    def centres(self, event: EventFact) -> list[dict[str, tuple[float, float]]]:
        """Where everything is that has boxes then, at each time of a box but for the event's first and last moments."""
        edge = min(250_000, (event.end_us - event.start_us) // 4)
        times = {t for track in self.tracks for t in track.times_us if event.start_us + edge <= t < event.end_us - edge}
        moments: list[dict[str, tuple[float, float]]] = []
        for time in sorted(times):
            shown = {}
            for track in self.tracks:
                past = [box for t, box in zip(track.times_us, track.boxes, strict=True) if t <= time]
                if past and time <= track.times_us[-1]:
                    shown[track.entity] = ((past[-1].x0 + past[-1].x1) / 2, (past[-1].y0 + past[-1].y1) / 2)
            moments.append(shown)
        return moments


def receiver(o: EventFact) -> str | None:
    return o.actor if o.action == "take" else o.recipient if o.action == "give" else None


def right_answers(facts: VideoFacts, template: str, subjects: tuple[str, ...], question: str) -> set[str]:
    """Every text of the video that is a right answer."""
    return {text for text in RULES[template](Facts(facts, question), *subjects) if text}


def then(items: Iterable[str]) -> str:
    return ", then ".join(items)


def about(seconds: int) -> str:
    minutes, rest = seconds // 60, seconds % 60
    parts = [f"{n} {word}{'s' if n != 1 else ''}" for n, word in ((minutes, "minute"), (rest, "second")) if n]
    return "about " + " ".join(parts)


def before(a: EventFact, b: EventFact) -> bool:
    return a.end_us <= b.start_us


def order(f: Facts, *ids: str):
    for perm in permutations(map(f.e, ids)):
        if all(before(a, b) for a, b in pairwise(perm)):
            yield then(map(f.clause, perm))


def first(f: Facts, *ids: str):
    return (f.clause(f.e(i)) for i in ids if all(before(f.e(i), f.e(j)) for j in ids if j != i))


def last(f: Facts, *ids: str):
    return (f.clause(f.e(i)) for i in ids if all(before(f.e(j), f.e(i)) for j in ids if j != i))


def between(f: Facts, a: str, _: str, b: str):
    return (f.clause(o) for o in f.events if o.start_us >= f.e(a).end_us and o.end_us <= f.e(b).start_us)


def already(f: Facts, _: str, event: str):
    return (f.clause(o) for o in f.events if o.start_us < f.e(event).end_us and o.event_id != event)


def later(f: Facts, event: str, _: str):
    return (f.clause(o) for o in f.events if o.end_us > f.e(event).start_us and o.event_id != event)


def simultaneous(f: Facts, event: str, actor: str):
    e = f.e(event)
    for o in f.events:
        if o.actor == actor and o.event_id != event and max(o.start_us, e.start_us) < min(o.end_us, e.end_us):
            yield o.phrase


def appearance(f: Facts, *ids: str):
    for perm in permutations(ids):
        if all(f.spans(a) < f.spans(b) for a, b in pairwise(perm)):
            yield then(map(f.named, perm))


def count(f: Facts, event: str):
    same = [o for o in f.events if (o.actor, o.phrase) == (f.e(event).actor, f.e(event).phrase)]
    yield str(len(same))


def duration(f: Facts, event: str):
    yield about(f.e(event).end_us // SECOND - f.e(event).start_us // SECOND)


def gap(f: Facts, a: str, b: str):
    yield about(f.e(b).start_us // SECOND - f.e(a).start_us // SECOND)


def ranked(f: Facts, same: list[EventFact]) -> EventFact | None:
    """The event that the question names by its number among several."""
    word = re.search(r"is the (first|second|third|fourth|fifth|last)\b", f.question)
    assert word, f.question
    number = len(same) if word[1] == "last" else ("first", "second", "third", "fourth", "fifth").index(word[1]) + 1
    return next((o for o in same if sum(m.start_us <= o.start_us for m in same) == number), None)


def nth(f: Facts, event: str):
    found = ranked(f, [o for o in f.events if o.actor == f.e(event).actor and o.action == f.e(event).action])
    yield f.named(found.object) if found else ""


def first_actor(f: Facts, event: str):
    found = ranked(f, [o for o in f.events if o.object == f.e(event).object and o.action == f.e(event).action])
    yield f.named(found.actor) if found else ""


def where(f: Facts, event: str):
    return (f.named(o.place) for o in f.events if f.clause(o) == f.clause(f.e(event)))


def where_person(f: Facts, a: str, b: str):
    for o in f.events:
        if o.phrase == f.e(b).phrase and any(m.actor == o.actor and m.phrase == f.e(a).phrase for m in f.events):
            yield f.named(o.place)


def ends_up(f: Facts, thing: str):
    own = [o for o in f.events if o.object == thing]
    return (f.named(o.place) for o in own if all(m.end_us <= o.start_us or m == o for m in own))


def picked_up(f: Facts, event: str):
    e = f.e(event)
    return (f.named(o.place) for o in f.events if o.object == e.object and o.action == "take" and before(o, e))


def next_place(f: Facts, event: str):
    e = f.e(event)
    later = [o for o in f.events if o.actor == e.actor and o.start_us > e.start_us]
    for o in later:
        if o.place != e.place and all(m.place == e.place for m in later if m.start_us < o.start_us):
            yield f.named(o.place)


def way(f: Facts, event: str):
    e = f.e(event)
    later = [o for o in f.events if o.actor == e.actor and o.start_us >= e.start_us]
    for a, b, c in permutations({o.place for o in later}, 3):
        for x in later:
            for y in later:
                early = all(o.place == a for o in later if o.start_us < x.start_us)
                middle = all(o.place == b for o in later if x.start_us <= o.start_us < y.start_us)
                if x.start_us < y.start_us and e.place == a and x.place == b and y.place == c and early and middle:
                    yield then((f.named(a), f.named(b), f.named(c)))


def thing_way(f: Facts, thing: str):
    own = [o for o in f.events if o.object == thing]
    for perm in permutations({o.place for o in own}):
        spans = [[o for o in own if o.place == place] for place in perm]
        if all(max(o.start_us for o in a) < min(o.start_us for o in b) for a, b in pairwise(spans)):
            yield then(map(f.named, perm))


def same_place(f: Facts, event: str, _: str):
    return (f.clause(o) for o in f.events if o.place == f.e(event).place and o.event_id != event)


def outermost(value: Callable[[tuple[float, float]], float]):
    def rule(f: Facts, event: str):
        moments = f.centres(f.e(event))
        names = {name for moment in moments for name in moment}
        for name in names:
            if all(
                name in moment and all(value(moment[name]) < value(moment[o]) for o in moment if o != name)
                for moment in moments
                if len(moment) > 1
            ):
                yield f.named(name)

    return rule


def left_to_right(f: Facts, event: str, *ids: str):
    moments = [m for m in f.centres(f.e(event)) if all(i in m for i in ids)]
    for perm in permutations(ids):
        if moments and all(m[a][0] < m[b][0] for m in moments for a, b in pairwise(perm)):
            yield then(map(f.named, perm))


def nearest(f: Facts, event: str, entity: str):
    moments = [m for m in f.centres(f.e(event)) if entity in m and len(m) > 2]

    def far(m: dict[str, tuple[float, float]], name: str, wide: float) -> float:
        return (wide * (m[name][0] - m[entity][0])) ** 2 + (m[name][1] - m[entity][1]) ** 2

    for name in {name for m in moments for name in m} - {entity}:
        if all(
            name in m and all(far(m, name, wide) < far(m, o, wide) for o in m if o not in (name, entity))
            for m in moments
            for wide in (1, 1.3, 16 / 9)
        ):
            yield f.named(name)


def side(f: Facts, event: str) -> str:
    xs = [m[f.e(event).actor][0] for m in f.centres(f.e(event)) if f.e(event).actor in m]
    if all(a <= b for a, b in pairwise(xs)) and xs[-1] - xs[0] > 0.01:
        return "right"
    return "left" if all(a >= b for a, b in pairwise(xs)) and xs[0] - xs[-1] > 0.01 else "nowhere"


def direction(f: Facts, event: str):
    yield f"to the {side(f, event)}"


def directions(f: Facts, a: str, b: str):
    yield f"first {side(f, a)}, then {side(f, b)}" + (" again" if side(f, a) == side(f, b) else "")


def next_action(f: Facts, event: str, actor: str):
    e = f.e(event)
    for o in f.events:
        rivals = [m for m in f.events if m.actor == actor and e.end_us <= m.start_us <= o.start_us and m != o]
        if o.actor == actor and o.start_us >= e.end_us and not rivals:
            yield o.phrase


def previous_action(f: Facts, event: str, actor: str):
    e = f.e(event)
    for o in f.events:
        rivals = [m for m in f.events if m.actor == actor and o.end_us <= m.end_us <= e.start_us and m != o]
        if o.actor == actor and o.end_us <= e.start_us and not rivals:
            yield o.phrase


def enabled(f: Facts, _: str, effect: str):
    return (f.clause(f.e(cause)) for cause in f.e(effect).causes)


def led_to(f: Facts, cause: str, _: str):
    return (f.clause(o) for o in f.events if cause in o.causes)


def leads(f: Facts, o: EventFact, effect: EventFact) -> bool:
    return any(c == o.event_id or leads(f, o, f.e(c)) for c in effect.causes)


def far_cause(f: Facts, _: str, effect: str):
    return (f.clause(o) for o in f.events if leads(f, o, f.e(effect)))


def link(f: Facts, cause: str, effect: str):
    return (f.clause(o) for o in f.events if leads(f, f.e(cause), o) and leads(f, o, f.e(effect)))


def from_whom(f: Facts, event: str):
    e = f.e(event)
    return (
        f.named(o.actor) for o in f.events if o.action == "give" and (o.object, o.recipient) == (e.object, e.recipient)
    )


def to_whom(f: Facts, event: str):
    e = f.e(event)
    return (f.named(o.recipient) for o in f.events if o.action == "give" and (o.object, o.actor) == (e.object, e.actor))


def what_given(f: Facts, event: str):
    e = f.e(event)
    return (
        f.named(o.object) for o in f.events if o.action == "give" and (o.recipient, o.actor) == (e.recipient, e.actor)
    )


def holder(f: Facts, event: str, thing: str):
    e = f.e(event)
    for who in f.entities:
        if all(f.has(who.entity_id, thing, time) for time in (e.start_us, (e.start_us + e.end_us) // 2, e.end_us)):
            yield who.name


def holders(f: Facts, a: str, b: str, thing: str):
    for one in holder(f, a, thing):
        for two in holder(f, b, thing):
            yield f"first {one}, then {two}"


def hands(f: Facts, thing: str):
    changes = [o for o in f.events if o.object == thing and o.action in ("take", "give", "put", "lose")]
    owners = [w for o in changes for w in ((o.actor, receiver(o)) if o.action != "take" else (o.actor,)) if w]
    yield then(f.named(w) for n, w in enumerate(owners) if n == 0 or owners[n - 1] != w)


def held_before(f: Facts, event: str):
    e = f.e(event)
    for thing in f.entities:
        for o in f.events:
            had = o.actor == e.actor if o.action in ("put", "lose", "give") else receiver(o) == e.actor
            got = receiver(o) == e.actor
            if o.object == thing.entity_id and o.event_id != event and before(o, e) and (had or got):
                yield thing.name


def next_of_recipient(f: Facts, event: str):
    for who in {o.recipient for o in f.events if o.event_id == event}:
        yield from next_action(f, event, who or "")


def happens_to(f: Facts, event: str):
    e = f.e(event)
    own = [o for o in f.events if o.object == e.object]
    ends = [m for m in own if f.clause(m) in f.question or f.clause(m)[0].upper() + f.clause(m)[1:] in f.question]
    low, high = min(m.end_us for m in ends), max(m.start_us for m in ends)
    return (f.clause(o) for o in own if low <= o.start_us and o.end_us <= high)


def both_held(f: Facts, one: str, other: str):
    return (t.name for t in f.entities if f.ever_has(one, t.entity_id) and f.ever_has(other, t.entity_id))


def helped(f: Facts, event: str):
    return (f.named(o.actor) for o in f.events if o.action == "help" and o.recipient == f.e(event).recipient)


def wants(f: Facts, goal: str):
    return (f"to {g.aim}" for g in f.goals if g.actor == f.g(goal).actor)


def who_wants(f: Facts, goal: str):
    return (f.named(g.actor) for g in f.goals if g.aim == f.g(goal).aim)


def motive(f: Facts, goal: str):
    wanted = f.g(goal)
    return (f"because {g.motive}" for g in f.goals if (g.actor, g.aim) == (wanted.actor, wanted.aim))


def purpose(f: Facts, event: str):
    return (f"to {g.aim}" for g in f.goals if g.actor == f.e(event).actor)


def whose_aim(f: Facts, event: str):
    return (f.named(f.g(o.goal).actor) for o in f.events if o.goal and f.clause(o) == f.clause(f.e(event)))


def goal_helper(f: Facts, goal: str):
    return (f.named(o.actor) for o in f.events if o.goal == goal and o.actor != f.g(goal).actor)


def wants_person(f: Facts, event: str):
    for who in {o.actor for o in f.events if o.phrase == f.e(event).phrase}:
        yield from (f"to {g.aim}" for g in f.goals if g.actor == who)


def step(f: Facts, event: str):
    own = {g.goal_id for g in f.goals if g.actor == f.e(event).actor}
    return (o.phrase for o in f.events if o.goal in own and o.actor == f.e(event).actor)


def first_step(f: Facts, goal: str):
    own = [o for o in f.events if o.goal == goal and o.actor == f.g(goal).actor]
    return (o.phrase for o in own if all(m.start_us >= o.end_us or m == o for m in own))


def attempt(outcome: bool):
    def rule(f: Facts, goal: str):
        tried = [o for o in f.events if o.goal == goal and o.actor == f.g(goal).actor]
        return (o.phrase for o in tried if o.succeeded is outcome)

    return rule


def attempts(f: Facts, goal: str):
    yield str(len([o for o in f.events if o.goal == goal and o.succeeded in (True, False)]))


def who_ends(outcome: bool):
    return lambda f, _: (f.named(g.actor) for g in f.goals if g.reached is outcome)


def aim_ends(outcome: bool):
    return lambda f, _: (f"to {g.aim}" for g in f.goals if g.reached is outcome)


RULES = {
    "facts_order": order,
    "facts_first": first,
    "facts_last": last,
    "facts_between": between,
    "facts_already": already,
    "facts_later": later,
    "facts_while": simultaneous,
    "facts_appearance": appearance,
    "facts_count": count,
    "facts_duration": duration,
    "facts_gap": gap,
    "facts_nth": nth,
    "facts_first_actor": first_actor,
    "facts_where": where,
    "facts_where_person": where_person,
    "facts_ends_up": ends_up,
    "facts_picked_up": picked_up,
    "facts_next_place": next_place,
    "facts_way": way,
    "facts_thing_way": thing_way,
    "facts_same_place": same_place,
    "facts_leftmost": outermost(lambda centre: centre[0]),
    "facts_rightmost": outermost(lambda centre: -centre[0]),
    "facts_highest": outermost(lambda centre: centre[1]),
    "facts_left_to_right": left_to_right,
    "facts_nearest": nearest,
    "facts_direction": direction,
    "facts_directions": directions,
    "facts_next": next_action,
    "facts_previous": previous_action,
    "facts_enabled": enabled,
    "facts_led_to": led_to,
    "facts_far_cause": far_cause,
    "facts_link": link,
    "facts_from_whom": from_whom,
    "facts_to_whom": to_whom,
    "facts_what_given": what_given,
    "facts_holder": holder,
    "facts_holders": holders,
    "facts_hands": hands,
    "facts_held_before": held_before,
    "facts_next_of_recipient": next_of_recipient,
    "facts_happens_to": happens_to,
    "facts_both_held": both_held,
    "facts_helped": helped,
    "facts_wants": wants,
    "facts_who_wants": who_wants,
    "facts_motive": motive,
    "facts_purpose": purpose,
    "facts_whose_aim": whose_aim,
    "facts_goal_helper": goal_helper,
    "facts_wants_person": wants_person,
    "facts_step": step,
    "facts_first_step": first_step,
    "facts_success": attempt(True),
    "facts_failure": attempt(False),
    "facts_attempts": attempts,
    "facts_who_reaches": who_ends(True),
    "facts_who_misses": who_ends(False),
    "facts_reached": aim_ends(True),
    "facts_missed": aim_ends(False),
}
