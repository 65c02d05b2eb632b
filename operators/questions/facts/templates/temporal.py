"""Questions about order in time: first, last, before, after, between, at the same time."""

from __future__ import annotations

from operators.questions.facts.index import SECOND_US, FactIndex, are_clear, overlap_us
from operators.questions.facts.pools import clauses_of, events_after, events_before, other_orders, phrases_except
from operators.questions.facts.subjects import event_pairs, event_sets, event_with, seen_sets
from operators.questions.facts.template import BOTH, ONLY_CHOICE, Statement, template
from operators.questions.facts.wording import (
    at_time,
    event_fields,
    in_sequence,
    narrate,
    opening,
    seen_at,
    sentence,
    spans_of,
)
from schemas.base import Span
from schemas.tables import QuestionCategory

TEMPORAL = QuestionCategory.TEMPORAL


@template(
    "facts_order",
    TEMPORAL,
    event_sets(3),
    "In which order do these three things happen: {list}?",
    "Put these moments in the order in which they happen: {list}.",
    "What is the right order of these three events: {list}?",
)
def order(index: FactIndex, *event_ids: str) -> Statement | None:
    named = [index.event[each] for each in event_ids]
    events = sorted(named, key=lambda each: each.start_us)
    if not are_clear(events):
        return None
    clauses = clauses_of(index, events)
    return Statement(
        fields={"list": "; ".join(clauses_of(index, named))},
        answer=in_sequence(clauses),
        wrong=other_orders(clauses),
        evidence=spans_of(events),
        chain=(
            ("I go through the video and note when each of the three happens.", "I find each of the three moments."),
            *narrate(index, events),
            (f"So the order is: {in_sequence(clauses)}.", f"In order of time that makes: {in_sequence(clauses)}."),
        ),
    )


@template(
    "facts_first",
    TEMPORAL,
    event_sets(4),
    "Which of these happens first?",
    "Which of these comes earliest in the video?",
    "Which of these comes before the other three?",
    open_wordings=(
        "Which of these four things happens first: {list}?",
        "What comes earliest of the following: {list}?",
    ),
)
def first(index: FactIndex, *event_ids: str) -> Statement | None:
    return _extreme(index, event_ids, 0)


@template(
    "facts_last",
    TEMPORAL,
    event_sets(4),
    "Which of these happens last?",
    "Which of these comes latest in the video?",
    "Which of these comes only after the other three?",
    open_wordings=("Which of these four things happens last: {list}?", "What comes latest of the following: {list}?"),
)
def last(index: FactIndex, *event_ids: str) -> Statement | None:
    return _extreme(index, event_ids, -1)


def _extreme(index: FactIndex, event_ids: tuple[str, ...], position: int) -> Statement | None:
    """Which of four events is the first or the last."""
    named = [index.event[each] for each in event_ids]
    events = sorted(named, key=lambda each: each.start_us)
    if not are_clear(events):
        return None
    found = events[position]
    word = "first" if position == 0 else "last"
    return Statement(
        fields={"list": "; ".join(clauses_of(index, named))},
        answer=index.clause(found),
        wrong=clauses_of(index, [each for each in events if each != found]),
        evidence=spans_of(events),
        chain=(
            ("I note when each of the four happens.", "I go through the video and find all four moments."),
            *narrate(index, events),
            (
                f"The {word} of them, at {seen_at(found)}, is that {index.clause(found)}.",
                f"So what comes {word} is that {index.clause(found)}.",
            ),
        ),
    )


@template(
    "facts_between",
    TEMPORAL,
    event_sets(3, in_order=True),
    "Which of these happens after {first} and before {last}?",
    "First {first}, and later {last}. Which of these happens in between?",
    "Which of these lies between the moment when {first} and the moment when {last}?",
    open_wordings=(
        "What is the only thing that happens between the moment when {first} and the moment when {last}?",
        "First {first}, and later {last}. What is the one thing that happens in between?",
    ),
)
def between(index: FactIndex, first_id: str, middle_id: str, last_id: str) -> Statement | None:
    events = [index.event[each] for each in (first_id, middle_id, last_id)]
    if not are_clear(events):
        return None
    first, middle, last = events
    inside = [each for each in index.events if each.start_us < last.start_us and first.end_us < each.end_us]
    is_only = index.complete and inside == [middle]
    return Statement(
        fields={"first": index.clause(first), "last": index.clause(last)},
        answer=index.clause(middle),
        wrong=clauses_of(index, [*events_before(index, first), *events_after(index, last)]),
        evidence=spans_of(events),
        chain=(
            opening(f"the moments when {index.clause(first)} and when {index.clause(last)}"),
            *narrate(index, events),
            (
                f"So between the two, {index.clause(middle)}.",
                f"The one in the middle, at {seen_at(middle)}, is that {index.clause(middle)}.",
            ),
        ),
        kinds=BOTH if is_only else ONLY_CHOICE,
    )


@template(
    "facts_already",
    TEMPORAL,
    event_pairs,
    "Which of these has already happened when {event}?",
    "{Event}. Which of these lies before that moment?",
    "Which of these happens before {event}?",
)
def already(index: FactIndex, earlier_id: str, event_id: str) -> Statement | None:
    event, found = index.event[event_id], index.event[earlier_id]
    return Statement(
        fields=event_fields(index, event),
        answer=index.clause(found),
        wrong=clauses_of(index, events_after(index, event)),
        evidence=spans_of((found, event)),
        chain=(
            opening(f"the moment when {index.clause(event)}"),
            at_time(event),
            (
                f"Well before it, at {seen_at(found)}, {index.clause(found)}.",
                f"Earlier, at {seen_at(found)}, I see that {index.clause(found)}.",
            ),
            (f"So by then it has already happened that {index.clause(found)}.", f"So earlier {index.clause(found)}."),
        ),
        kinds=ONLY_CHOICE,
    )


@template(
    "facts_later",
    TEMPORAL,
    event_pairs,
    "Which of these happens only after {event}?",
    "{Event}. Which of these is still to come at that moment?",
    "Which of these has not happened yet when {event}?",
)
def later(index: FactIndex, event_id: str, later_id: str) -> Statement | None:
    event, found = index.event[event_id], index.event[later_id]
    return Statement(
        fields=event_fields(index, event),
        answer=index.clause(found),
        wrong=clauses_of(index, events_before(index, event)),
        evidence=spans_of((event, found)),
        chain=(
            opening(f"the moment when {index.clause(event)}"),
            at_time(event),
            (
                f"Watching on, I see at {seen_at(found)} that {index.clause(found)}.",
                f"Only after that, at {seen_at(found)}, {index.clause(found)}.",
            ),
            (f"So what is still to come is that {index.clause(found)}.", f"So later {index.clause(found)}."),
        ),
        kinds=ONLY_CHOICE,
    )


@template(
    "facts_while",
    TEMPORAL,
    event_with("actors"),
    "What is {person} doing while {event}?",
    "While {event}, what does {person} do?",
    "What does {person} do at the same time as this: {event}?",
)
def simultaneous(index: FactIndex, event_id: str, actor: str) -> Statement | None:
    event = index.event[event_id]
    own = [each for each in index.by_actor[actor] if overlap_us(each, event)]
    if not index.complete or actor == event.actor or len(own) != 1 or own[0].event_id not in index.unique_ids:
        return None
    found, name = own[0], index.name(actor)
    if overlap_us(found, event) < SECOND_US:
        return None
    both = seen_at(max(found, event, key=lambda each: each.start_us))
    return Statement(
        fields=event_fields(index, event) | {"person": name},
        answer=found.phrase,
        wrong=phrases_except(index, actor, found),
        evidence=spans_of((event, found)),
        chain=(
            *narrate(index, (event, found)),
            (
                f"From {both} on, both can be seen at the same time.",
                f"At {both} the one has begun and the other is not over yet.",
            ),
            (f"So meanwhile {name} {found.phrase}.", f"So during that time {name} {found.phrase}."),
        ),
    )


@template(
    "facts_appearance",
    TEMPORAL,
    seen_sets(3),
    "In which order do these come into view for the first time: {list}?",
    "Which of these is seen first, which second and which third: {list}?",
    "In what order does one first get to see these: {list}?",
)
def appearance(index: FactIndex, *entity_ids: str) -> Statement | None:
    named = [index.entities[each] for each in entity_ids]
    entities = sorted(named, key=lambda each: each.spans[0].start_us)
    seconds = [each.spans[0].start_us // SECOND_US for each in entities]
    if len(set(seconds)) < len(seconds):
        return None
    firsts = [
        Span(start_us=each.spans[0].start_us, end_us=min(each.spans[0].end_us, each.spans[0].start_us + 2 * SECOND_US))
        for each in entities
    ]
    names = [each.name for each in entities]
    return Statement(
        fields={"list": ", ".join(each.name for each in named)},
        answer=in_sequence(names),
        wrong=other_orders(names),
        evidence=spans_of(firsts),
        chain=(
            ("For each of them I find the moment when it is first seen.", "I note who or what is seen from when on."),
            *(
                (f"{sentence(name)} is first seen at {seen_at(span)}.", f"At {seen_at(span)} I first see {name}.")
                for name, span in zip(names, firsts, strict=True)
            ),
            (f"So the order is: {in_sequence(names)}.", f"That gives this order: {in_sequence(names)}."),
        ),
    )


TEMPLATES = (order, first, last, between, already, later, simultaneous, appearance)
