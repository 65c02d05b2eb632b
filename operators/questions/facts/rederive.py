"""Verifies the answer of a question from facts: finds it again from a replay of the video, event by event.

`templates` works on indexed facts. This module goes through the starts and ends of all events in order of time, and
keeps what is going on and who holds what. Each rule yields every right answer in the video. The question is verified if
its options contain exactly one of them, or, without options, if there is exactly one. The two methods share only the
wording of the answers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from itertools import groupby

from operators.questions.facts.replay import Replay
from operators.questions.facts.wording import ORDINALS, about, in_sequence, seconds_between
from schemas.facts import VideoFacts
from schemas.tables import Question

_ORDINAL = re.compile(rf"\bis the ({'|'.join(ORDINALS)}|last)\b")


def rederive_answer(facts: VideoFacts, question: Question) -> str | None:
    """The answer to a question from facts; None if the facts do not determine one."""
    if question.derivation is None:
        return None
    template, subjects = question.derivation.template, question.derivation.subjects
    replay = Replay(facts)
    if not subjects or not replay.knows(subjects):
        return None
    if template in _ORDINAL_RULES:
        ordinal = _ORDINAL.search(question.question)
        found = set(_ORDINAL_RULES[template](replay, ordinal[1], *subjects)) if ordinal else set()
    elif template in _RULES:
        found = set(_RULES[template](replay, *subjects))
    else:
        return None
    if question.options:
        found &= set(question.options)
    return found.pop() if len(found) == 1 else None


def _order(replay: Replay, *events: str) -> Iterable[str]:
    return [in_sequence([replay.clause(each) for each in replay.starts if each in events])]


def _first(replay: Replay, *events: str) -> Iterable[str]:
    return [replay.clause(each) for each in replay.starts if each in events][:1]


def _last(replay: Replay, *events: str) -> Iterable[str]:
    return [replay.clause(each) for each in replay.starts if each in events][-1:]


def _between(replay: Replay, first: str, _: str, last: str) -> Iterable[str]:
    return [replay.clause(each) for each in replay.after(first) if each in replay.before(last)]


def _already(replay: Replay, _: str, event: str) -> Iterable[str]:
    return map(replay.clause, replay.before(event))


def _later(replay: Replay, event: str, _: str) -> Iterable[str]:
    return map(replay.clause, replay.after(event))


def _while(replay: Replay, event: str, actor: str) -> Iterable[str]:
    return [replay.fact[each].phrase for each in replay.going_on_with(event) if replay.fact[each].actor == actor]


def _appearance(replay: Replay, *entities: str) -> Iterable[str]:
    ordered = sorted(entities, key=lambda each: replay.first_seen[each])
    return [in_sequence([replay.name(each) for each in ordered])]


def _count(replay: Replay, event: str) -> Iterable[str]:
    return [str(sum(replay.clause(each) == replay.clause(event) for each in replay.starts))]


def _duration(replay: Replay, event: str) -> Iterable[str]:
    return [about(seconds_between(replay.fact[event].start_us, replay.fact[event].end_us))]


def _gap(replay: Replay, first: str, last: str) -> Iterable[str]:
    return [about(seconds_between(replay.fact[first].start_us, replay.fact[last].start_us))]


def _nth(replay: Replay, ordinal: str, event: str) -> Iterable[str]:
    own = replay.where(actor=replay.fact[event].actor, action=replay.fact[event].action)
    return [replay.name(replay.fact[_pick(own, ordinal)].object)]


def _first_actor(replay: Replay, ordinal: str, event: str) -> Iterable[str]:
    same = replay.where(object=replay.fact[event].object, action=replay.fact[event].action)
    return [replay.name(replay.fact[_pick(same, ordinal)].actor)]


def _pick(events: list[str], ordinal: str) -> str:
    return events[-1 if ordinal == "last" else ORDINALS.index(ordinal)]


def _where(replay: Replay, event: str) -> Iterable[str]:
    return [replay.place(event)]


def _where_person(replay: Replay, first: str, event: str) -> Iterable[str]:
    actors = {replay.fact[each].actor for each in replay.where(phrase=replay.fact[first].phrase)}
    same = replay.where(phrase=replay.fact[event].phrase)
    return [replay.place(each) for each in same if replay.fact[each].actor in actors]


def _ends_up(replay: Replay, thing: str) -> Iterable[str]:
    return [replay.place(each) for each in replay.where(object=thing)[-1:]]


def _picked_up(replay: Replay, event: str) -> Iterable[str]:
    takes = replay.where(object=replay.fact[event].object, action="take")
    return [replay.place(each) for each in takes if each in replay.before(event)]


def _next_place(replay: Replay, event: str) -> Iterable[str]:
    return _stops(replay, replay.where(actor=replay.fact[event].actor), event)[1:2]


def _way(replay: Replay, event: str) -> Iterable[str]:
    return [in_sequence(_stops(replay, replay.where(actor=replay.fact[event].actor), event)[:3])]


def _thing_way(replay: Replay, thing: str) -> Iterable[str]:
    events = replay.where(object=thing)
    return [in_sequence(_stops(replay, events, events[0]))]


def _stops(replay: Replay, events: list[str], start: str) -> list[str]:
    """The places of events from one of them on, each once as long as it stays the same."""
    return [place for place, _ in groupby(replay.place(each) for each in events[events.index(start) :])]


def _same_place(replay: Replay, event: str, _: str) -> Iterable[str]:
    return [replay.clause(each) for each in replay.where(place=replay.fact[event].place) if each != event]


def _outermost(axis: int, sign: int) -> Callable[[Replay, str], Iterable[str]]:
    def find(replay: Replay, event: str) -> Iterable[str]:
        pictures = list(replay.pictures(replay.fact[event]))
        ahead = [min(each, key=lambda name: sign * each[name][axis]) for each in pictures]
        return {replay.name(each) for each in ahead}

    return find


def _left_to_right(replay: Replay, event: str, *entities: str) -> Iterable[str]:
    for picture in replay.pictures(replay.fact[event]):
        if picture.keys() >= set(entities):
            yield in_sequence([replay.name(each) for each in sorted(entities, key=lambda each: picture[each][0])])


def _nearest(replay: Replay, event: str, entity: str) -> Iterable[str]:
    for picture in replay.pictures(replay.fact[event]):
        if entity in picture:
            x, y = picture.pop(entity)
            yield replay.name(min(picture, key=lambda each: (picture[each][0] - x) ** 2 + (picture[each][1] - y) ** 2))


def _direction(replay: Replay, event: str) -> Iterable[str]:
    return [f"to the {_side(replay, event)}"]


def _directions(replay: Replay, first: str, last: str) -> Iterable[str]:
    one, two = _side(replay, first), _side(replay, last)
    return [f"first {one}, then {two} again" if one == two else f"first {one}, then {two}"]


def _side(replay: Replay, event: str) -> str:
    actor = replay.fact[event].actor
    across = [each[actor][0] for each in replay.pictures(replay.fact[event]) if actor in each]
    return "right" if across and across[-1] > across[0] else "left"


def _next(replay: Replay, event: str, actor: str) -> Iterable[str]:
    return [replay.fact[each].phrase for each in replay.after(event) if replay.fact[each].actor == actor][:1]


def _previous(replay: Replay, event: str, actor: str) -> Iterable[str]:
    return [replay.fact[each].phrase for each in replay.before(event) if replay.fact[each].actor == actor][-1:]


def _enabled(replay: Replay, _: str, effect: str) -> Iterable[str]:
    return [replay.clause(each) for each in replay.starts if (each, effect) in replay.causes]


def _led_to(replay: Replay, cause: str, _: str) -> Iterable[str]:
    return [replay.clause(each) for each in replay.starts if (cause, each) in replay.causes]


def _far_cause(replay: Replay, _: str, effect: str) -> Iterable[str]:
    return map(replay.clause, replay.leads_to(effect))


def _link(replay: Replay, cause: str, effect: str) -> Iterable[str]:
    return [replay.clause(each) for each in replay.leads_to(effect) if cause in replay.leads_to(each)]


def _from_whom(replay: Replay, event: str) -> Iterable[str]:
    given = replay.where(action="give", object=replay.fact[event].object, recipient=replay.fact[event].recipient)
    return [replay.name(replay.fact[each].actor) for each in given]


def _to_whom(replay: Replay, event: str) -> Iterable[str]:
    given = replay.where(action="give", object=replay.fact[event].object, actor=replay.fact[event].actor)
    return [replay.name(replay.fact[each].recipient) for each in given]


def _what_given(replay: Replay, event: str) -> Iterable[str]:
    given = replay.where(action="give", actor=replay.fact[event].actor, recipient=replay.fact[event].recipient)
    return [replay.name(replay.fact[each].object) for each in given]


def _holder(replay: Replay, event: str, thing: str) -> Iterable[str]:
    return [replay.name(replay.held_during[event].get(thing))]


def _holders(replay: Replay, first: str, last: str, thing: str) -> Iterable[str]:
    (one,), (two,) = _holder(replay, first, thing), _holder(replay, last, thing)
    return [f"first {one}, then {two}"]


def _hands(replay: Replay, thing: str) -> Iterable[str]:
    holders = (holder for what, holder, _ in replay.hands if what == thing)
    return [in_sequence([replay.name(holder) for holder, _ in groupby(holders)])]


def _held_before(replay: Replay, event: str) -> Iterable[str]:
    actor = replay.fact[event].actor
    return [
        replay.name(what) for what, holder, shown in replay.hands if holder == actor and shown in replay.before(event)
    ]


def _next_of_recipient(replay: Replay, event: str) -> Iterable[str]:
    return _next(replay, event, str(replay.fact[event].recipient))


def _happens_to(replay: Replay, event: str) -> Iterable[str]:
    same = replay.where(object=replay.fact[event].object)
    number = same.index(event)
    return [replay.clause(each) for each in replay.after(same[number - 1]) if each in same[: number + 1]]


def _both_held(replay: Replay, one: str, other: str) -> Iterable[str]:
    own, others = ({what for what, holder, _ in replay.hands if holder == each} for each in (one, other))
    return map(replay.name, own & others)


def _helped(replay: Replay, event: str) -> Iterable[str]:
    events = replay.where(action="help", recipient=replay.fact[event].recipient)
    return [replay.name(replay.fact[each].actor) for each in events]


def _wants(replay: Replay, goal: str) -> Iterable[str]:
    return [f"to {each.aim}" for each in replay.goals.values() if each.actor == replay.goals[goal].actor]


def _who_wants(replay: Replay, goal: str) -> Iterable[str]:
    return [replay.name(each.actor) for each in replay.goals.values() if each.aim == replay.goals[goal].aim]


def _motive(replay: Replay, goal: str) -> Iterable[str]:
    return [f"because {replay.goals[goal].motive}"]


def _purpose(replay: Replay, event: str) -> Iterable[str]:
    return [f"to {each.aim}" for name, each in replay.goals.items() if name == replay.fact[event].goal]


def _whose_aim(replay: Replay, event: str) -> Iterable[str]:
    return [replay.name(each.actor) for name, each in replay.goals.items() if name == replay.fact[event].goal]


def _goal_helper(replay: Replay, goal: str) -> Iterable[str]:
    actors = {replay.fact[each].actor for each in replay.where(goal=goal)} - {replay.goals[goal].actor}
    return map(replay.name, actors)


def _wants_person(replay: Replay, event: str) -> Iterable[str]:
    actors = {replay.fact[each].actor for each in replay.where(phrase=replay.fact[event].phrase)}
    return [f"to {each.aim}" for each in replay.goals.values() if each.actor in actors]


def _step(replay: Replay, event: str) -> Iterable[str]:
    goal = replay.fact[event].goal
    return [replay.fact[each].phrase for each in replay.where(goal=goal, actor=replay.fact[event].actor)]


def _first_step(replay: Replay, goal: str) -> Iterable[str]:
    return [replay.fact[each].phrase for each in replay.where(goal=goal, actor=replay.goals[goal].actor)[:1]]


def _attempt(succeeded: bool) -> Callable[[Replay, str], Iterable[str]]:
    def find(replay: Replay, goal: str) -> Iterable[str]:
        own = replay.where(goal=goal, actor=replay.goals[goal].actor, succeeded=succeeded)
        return [replay.fact[each].phrase for each in own]

    return find


def _attempts(replay: Replay, goal: str) -> Iterable[str]:
    return [str(sum(replay.fact[each].succeeded is not None for each in replay.where(goal=goal)))]


def _who_ends(reached: bool) -> Callable[[Replay, str], Iterable[str]]:
    return lambda replay, _: [replay.name(each.actor) for each in replay.goals.values() if each.reached is reached]


def _aim_ends(reached: bool) -> Callable[[Replay, str], Iterable[str]]:
    return lambda replay, _: [f"to {each.aim}" for each in replay.goals.values() if each.reached is reached]


_ORDINAL_RULES: Mapping[str, Callable[..., Iterable[str]]] = {"facts_nth": _nth, "facts_first_actor": _first_actor}
_RULES: Mapping[str, Callable[..., Iterable[str]]] = {
    "facts_order": _order,
    "facts_first": _first,
    "facts_last": _last,
    "facts_between": _between,
    "facts_already": _already,
    "facts_later": _later,
    "facts_while": _while,
    "facts_appearance": _appearance,
    "facts_count": _count,
    "facts_duration": _duration,
    "facts_gap": _gap,
    "facts_where": _where,
    "facts_where_person": _where_person,
    "facts_ends_up": _ends_up,
    "facts_picked_up": _picked_up,
    "facts_next_place": _next_place,
    "facts_way": _way,
    "facts_thing_way": _thing_way,
    "facts_same_place": _same_place,
    "facts_leftmost": _outermost(axis=0, sign=1),
    "facts_rightmost": _outermost(axis=0, sign=-1),
    "facts_highest": _outermost(axis=1, sign=1),
    "facts_left_to_right": _left_to_right,
    "facts_nearest": _nearest,
    "facts_direction": _direction,
    "facts_directions": _directions,
    "facts_next": _next,
    "facts_previous": _previous,
    "facts_enabled": _enabled,
    "facts_led_to": _led_to,
    "facts_far_cause": _far_cause,
    "facts_link": _link,
    "facts_from_whom": _from_whom,
    "facts_to_whom": _to_whom,
    "facts_what_given": _what_given,
    "facts_holder": _holder,
    "facts_holders": _holders,
    "facts_hands": _hands,
    "facts_held_before": _held_before,
    "facts_next_of_recipient": _next_of_recipient,
    "facts_happens_to": _happens_to,
    "facts_both_held": _both_held,
    "facts_helped": _helped,
    "facts_wants": _wants,
    "facts_who_wants": _who_wants,
    "facts_motive": _motive,
    "facts_purpose": _purpose,
    "facts_whose_aim": _whose_aim,
    "facts_goal_helper": _goal_helper,
    "facts_wants_person": _wants_person,
    "facts_step": _step,
    "facts_first_step": _first_step,
    "facts_success": _attempt(succeeded=True),
    "facts_failure": _attempt(succeeded=False),
    "facts_attempts": _attempts,
    "facts_who_reaches": _who_ends(reached=True),
    "facts_who_misses": _who_ends(reached=False),
    "facts_reached": _aim_ends(reached=True),
    "facts_missed": _aim_ends(reached=False),
}
