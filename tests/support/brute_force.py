"""Checks by brute force which texts answer a question from facts, from the raw list of facts.

It shares no code with the templates or with their second derivation: each rule is a condition on all events, tried for
each text of the video. `right_answers` returns every text for which the condition holds.
"""

from __future__ import annotations

from itertools import permutations

from schemas.facts import EventFact, VideoFacts


class Facts:
    """Facts about a video with the few words that conditions need."""

    def __init__(self, facts: VideoFacts) -> None:
        self.events = facts.events
        self.goals = facts.goals
        self.entities = facts.entities
        self.tracks = facts.tracks

    def entity(self, entity_id: str | None) -> str:
        return next((each.name for each in self.entities if each.entity_id == entity_id), "")

    def e(self, event_id: str) -> EventFact:
        return next(each for each in self.events if each.event_id == event_id)

    def clause(self, event: EventFact) -> str:
        return self.entity(event.actor) + " " + event.phrase

    def g(self, goal_id: str):
        return next(each for each in self.goals if each.goal_id == goal_id)


def right_answers(facts: VideoFacts, template: str, subjects: tuple[str, ...]) -> set[str]:
    """Every text of the video that is a right answer."""
    return {text for text in RULES[template](Facts(facts), *subjects) if text}


def order(f: Facts, *ids: str):
    for a, b, c in permutations(map(f.e, ids)):
        if a.end_us <= b.start_us and b.end_us <= c.start_us:
            yield f"{f.clause(a)}, then {f.clause(b)}, then {f.clause(c)}"


def simultaneous(f: Facts, event: str, actor: str):
    e = f.e(event)
    for o in f.events:
        if o.actor == actor and o.event_id != event and max(o.start_us, e.start_us) < min(o.end_us, e.end_us):
            yield o.phrase


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


def enabled(f: Facts, event: str):
    return (f.clause(f.e(cause)) for cause in f.e(event).causes)


def led_to(f: Facts, event: str):
    return (f.clause(o) for o in f.events if event in o.causes)


def where(f: Facts, event: str):
    return (f.entity(o.place) for o in f.events if f.clause(o) == f.clause(f.e(event)))


def ends_up(f: Facts, thing: str):
    own = [o for o in f.events if o.object == thing]
    return (f.entity(o.place) for o in own if all(m.end_us <= o.start_us or m == o for m in own))


def wants(f: Facts, goal: str):
    return (f"to {g.aim}" for g in f.goals if g.actor == f.g(goal).actor)


def who_wants(f: Facts, goal: str):
    return (f.entity(g.actor) for g in f.goals if g.aim == f.g(goal).aim)


RULES = {
    "facts_order": order,
    "facts_while": simultaneous,
    "facts_next": next_action,
    "facts_previous": previous_action,
    "facts_enabled": enabled,
    "facts_led_to": led_to,
    "facts_where": where,
    "facts_ends_up": ends_up,
    "facts_wants": wants,
    "facts_who_wants": who_wants,
}
