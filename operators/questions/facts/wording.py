"""Wordings that templates share: events as clauses and in the infinitive, durations, and the steps of a chain."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from operators.questions.facts.index import SECOND_US, FactIndex
from operators.video.timecode import format_time
from schemas.base import Span
from schemas.facts import EventFact

Step = tuple[str, ...]
"""One step of a chain of thought, in several wordings."""

_IRREGULAR = {"have": "has", "be": "is", "do": "does", "go": "goes"}
_FUNCTION_WORDS = frozenset(
    re.findall(
        r"\w+",
        "a an the of to in on at by for with from into onto is are was were be been it its he she his her they their "
        "them and or then than as that this these those there who what which when where while how first last after "
        "before so up down out off over under through",
    )
)
ORDINALS = ("first", "second", "third", "fourth", "fifth")
_THEN = (
    "Then, at {time}, {event}.",
    "At {time} {event}.",
    "Later, at {time}, {event}.",
    "After that, at {time}, {event}.",
)
_FIRST = ("At {time} {event}.", "I see at {time} that {event}.", "At {time} I see that {event}.")


def infinitive(event: EventFact) -> str | None:
    """What happens in the infinitive without `to`, or None if the phrase does not begin with the action.

    `takes the brass key` becomes `take the brass key`.
    """
    verb = event.action.split()[0]
    first, space, rest = event.phrase.partition(" ")
    return f"{verb}{space}{rest}" if first == third_person(verb) else None


def third_person(action: str) -> str:
    """The form of a verb after `he` or `she`: `takes`, `carries`, `knocks on`."""
    verb, *particles = action.split()
    if verb in _IRREGULAR:
        verb = _IRREGULAR[verb]
    elif re.search(r"[^aeiou]y$", verb):
        verb = f"{verb[:-1]}ies"
    else:
        verb = f"{verb}es" if re.search(r"(s|x|z|ch|sh)$", verb) else f"{verb}s"
    return " ".join([verb, *particles])


def event_fields(index: FactIndex, event: EventFact) -> dict[str, str]:
    """The fields of wordings about one event: `event`, `actor`, `phrase`, and `infinitive` if there is one."""
    fields = {"event": index.clause(event), "actor": index.name(event.actor), "phrase": event.phrase}
    do = infinitive(event)
    return fields if do is None else fields | {"infinitive": do}


@lru_cache(maxsize=10_000)
def content_words(text: str) -> frozenset[str]:
    """The words of a text that carry meaning, in lower case."""
    return frozenset(re.findall(r"\w+", text.lower())) - _FUNCTION_WORDS


def sentence(text: str) -> str:
    """The text with a capital at its start."""
    return text[:1].upper() + text[1:]


def seen_at(span: Span) -> str:
    """The time at which a span starts, as chains state it."""
    return format_time(span.start_us)


def seconds_between(start_us: int, end_us: int) -> int:
    """Seconds between two times as `format_time` shows them, so that a chain that states both adds up."""
    return end_us // SECOND_US - start_us // SECOND_US


def about(seconds: int) -> str:
    """A duration as an answer states it: `about 40 seconds`, `about 2 minutes 5 seconds`."""
    minutes, rest = divmod(seconds, 60)
    parts = [_count(minutes, "minute")] * (minutes > 0) + [_count(rest, "second")] * (rest > 0 or not minutes)
    return f"about {' '.join(parts)}"


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def in_sequence(items: Sequence[str]) -> str:
    """The items in order, as `a, then b, then c`."""
    return ", then ".join(items)


def opening(what: str) -> Step:
    """The first step of a chain: what has to be found."""
    return (
        f"First I find {what}.",
        f"To answer this, I have to find {what}.",
        f"I go through the video until I reach {what}.",
    )


def at_time(span: Span) -> Step:
    """The step that gives the time of what was found."""
    return (f"That is at {seen_at(span)}.", f"It comes at {seen_at(span)}.", f"It is there at {seen_at(span)}.")


def spans_of(parts: Iterable[Span]) -> tuple[Span, ...]:
    """The parts as evidence: each span once, in order of time."""
    spans = {(each.start_us, each.end_us) for each in parts}
    return tuple(Span(start_us=start_us, end_us=end_us) for start_us, end_us in sorted(spans))


def narrate(index: FactIndex, events: Sequence[EventFact]) -> tuple[Step, ...]:
    """One step for each event, in order of time."""
    ordered = sorted(events, key=lambda each: each.start_us)
    steps = []
    for number, each in enumerate(ordered):
        wordings = _THEN if number and each.start_us > ordered[number - 1].start_us else _FIRST
        steps.append(tuple(wording.format(time=seen_at(each), event=index.clause(each)) for wording in wordings))
    return tuple(steps)
