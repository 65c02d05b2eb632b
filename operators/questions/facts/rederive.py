"""Verifies the answer of a question from facts: finds it again from a replay of the video, event by event.

`templates` works on indexed facts. This module goes through the starts and ends of all events in order of time, and
keeps what is going on, who holds what and who was where. Each rule yields every right answer in the video. The question
is verified if its options contain exactly one of them, or, without options, if there is exactly one. The two methods
share only the wording of the answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from operators.questions.facts.replay import Replay
from operators.questions.facts.wording import in_sequence
from schemas.facts import VideoFacts
from schemas.tables import Question


def rederive_answer(facts: VideoFacts, question: Question) -> str | None:
    """The answer to a question from facts; None if the facts do not determine one."""
    if question.derivation is None or question.derivation.template not in _RULES:
        return None
    replay = Replay(facts)
    subjects = question.derivation.subjects
    if not subjects or not replay.knows(subjects):
        return None
    found = set(_RULES[question.derivation.template](replay, *subjects))
    if question.options:
        found &= set(question.options)
    return found.pop() if len(found) == 1 else None


def _order(replay: Replay, *events: str) -> Iterator[str]:
    started = [each for each in replay.starts if each in events]
    yield in_sequence([replay.clause(each) for each in started])


def _while(replay: Replay, event: str, actor: str) -> Iterator[str]:
    for other in replay.going_on_with(event):
        if replay.actor(other) == actor:
            yield replay.phrase(other)


def _next(replay: Replay, event: str, actor: str) -> Iterator[str]:
    later = replay.starts_after_end_of(event)
    yield from (replay.phrase(each) for each in [each for each in later if replay.actor(each) == actor][:1])


def _previous(replay: Replay, event: str, actor: str) -> Iterator[str]:
    earlier = replay.ends_before_start_of(event)
    yield from (replay.phrase(each) for each in [each for each in earlier if replay.actor(each) == actor][-1:])


def _enabled(replay: Replay, event: str) -> Iterator[str]:
    yield from (replay.clause(each) for each in replay.starts if (each, event) in replay.causes)


def _led_to(replay: Replay, event: str) -> Iterator[str]:
    yield from (replay.clause(each) for each in replay.starts if (event, each) in replay.causes)


def _where(replay: Replay, event: str) -> Iterator[str]:
    yield from replay.place_of(event)


def _ends_up(replay: Replay, thing: str) -> Iterator[str]:
    for event in [each for each in replay.starts if replay.object(each) == thing][-1:]:
        yield from replay.place_of(event)


def _wants(replay: Replay, goal: str) -> Iterator[str]:
    yield from (f"to {each.aim}" for each in replay.goals if each.actor == replay.wanted_by(goal))


def _who_wants(replay: Replay, goal: str) -> Iterator[str]:
    yield from (replay.name(each.actor) for each in replay.goals if each.aim == replay.aim(goal))


_RULES: Mapping[str, Callable[..., Iterator[str]]] = {
    "facts_order": _order,
    "facts_while": _while,
    "facts_next": _next,
    "facts_previous": _previous,
    "facts_enabled": _enabled,
    "facts_led_to": _led_to,
    "facts_where": _where,
    "facts_ends_up": _ends_up,
    "facts_wants": _wants,
    "facts_who_wants": _who_wants,
}
