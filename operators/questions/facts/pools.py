"""Wrong answers: what else occurs in the video."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import permutations

from operators.questions.facts.index import FactIndex, is_clear
from operators.questions.facts.wording import in_sequence
from schemas.facts import EventFact, GoalFact


def names_except(names: Iterable[str], *excluded: str) -> tuple[str, ...]:
    """The names without some."""
    return tuple(each for each in names if each not in excluded)


def phrases_except(index: FactIndex, actor: str, *excluded: EventFact) -> tuple[str, ...]:
    """What else somebody does."""
    phrases = {each.phrase for each in excluded}
    return tuple({each.phrase: None for each in index.by_actor[actor] if each.phrase not in phrases})


def phrases_like(index: FactIndex, event: EventFact) -> tuple[str, ...]:
    """What anybody does that is the same kind of action, with something else or elsewhere."""
    alike = [each for each in index.events if each.action == event.action]
    return tuple({each.phrase: None for each in alike if each.phrase != event.phrase})


def clauses_of(index: FactIndex, events: Iterable[EventFact]) -> tuple[str, ...]:
    """The events as clauses."""
    return tuple(index.clause(each) for each in events)


def events_before(index: FactIndex, event: EventFact) -> list[EventFact]:
    """The events that are clearly over before another one."""
    return [each for each in index.unique if is_clear(each, event)]


def events_after(index: FactIndex, event: EventFact) -> list[EventFact]:
    """The events that clearly start after another one."""
    return [each for each in index.unique if is_clear(event, each)]


def other_orders(items: Iterable[str]) -> tuple[str, ...]:
    """The items in all orders but their own."""
    return tuple(in_sequence(each) for each in permutations(items))[1:]


def aims_of_others(index: FactIndex, goal: GoalFact) -> tuple[str, ...]:
    """What somebody else wants and the goal's actor does not, and that is about other persons and things."""
    own = [each.aim for each in index.goals.values() if each.actor == goal.actor]
    named = {name for aim in own for name in names_in(index, aim)}
    others = [each.aim for each in index.goals.values() if each.aim not in own]
    return tuple({f"to {each}": None for each in others if not named & names_in(index, each)})


def names_in(index: FactIndex, text: str) -> set[str]:
    """The names of entities in a text."""
    return {each.name for each in index.facts.entities if re.search(rf"\b{re.escape(each.name)}\b", text)}


def steps_of_others(index: FactIndex, actor: str, action: str | None = None) -> tuple[str, ...]:
    """What others do for their goals and this one never does, of one kind of action or of any."""
    own = {each.phrase for each in index.by_actor[actor]}
    steps = [each for each in index.events if each.goal is not None and each.actor != actor and each.object is not None]
    return tuple({each.phrase: None for each in steps if each.phrase not in own and action in (None, each.action)})
