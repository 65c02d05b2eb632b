"""Questions about time: order, first and last, between, how often, how long, at the same time."""

from __future__ import annotations

from itertools import permutations

from operators.questions.facts.index import SECOND_US, FactIndex, are_clear, overlap_us
from operators.questions.facts.subjects import event_sets, event_with
from operators.questions.facts.template import Statement, template
from operators.questions.facts.wording import (
    event_fields,
    in_sequence,
    narrate,
    seen_at,
    spans_of,
)
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
    clauses = [index.clause(each) for each in events]
    answer, *others = map(in_sequence, permutations(clauses))
    return Statement(
        fields={"list": "; ".join(map(index.clause, named))},
        answer=answer,
        wrong=tuple(others),
        evidence=spans_of(events),
        chain=(
            ("I go through the video and note when each of the three happens.", "I find each of the three moments."),
            *narrate(index, events),
            (f"So the order is: {answer}.", f"In order of time that makes: {answer}."),
        ),
    )


@template(
    "facts_while",
    TEMPORAL,
    event_with("actors"),
    "What is {person} doing while {event}?",
    "While {event}, what does {person} do?",
    "What does {person} do at the same time as {event}?",
)
def simultaneous(index: FactIndex, event_id: str, actor: str) -> Statement | None:
    event = index.event[event_id]
    own = [each for each in index.by_actor[actor] if overlap_us(each, event)]
    if actor == event.actor or len(own) != 1 or own[0].event_id not in index.unique_ids:
        return None
    found, name = own[0], index.name(actor)
    if not index.complete or overlap_us(found, event) < SECOND_US:
        return None
    others = {each.phrase: None for each in index.by_actor[actor] if each.phrase != found.phrase}
    both = max(found, event, key=lambda each: each.start_us)
    return Statement(
        fields=event_fields(index, event) | {"person": name},
        answer=found.phrase,
        wrong=tuple(others),
        evidence=spans_of((event, found)),
        chain=(
            *narrate(index, (event, found)),
            (
                f"From {seen_at(both)} on, both can be seen at the same time.",
                f"At {seen_at(both)} the one has begun and the other is not over yet.",
            ),
            (f"So meanwhile {name} {found.phrase}.", f"That is what {name} does meanwhile: {name} {found.phrase}."),
        ),
    )


TEMPLATES = (order, simultaneous)
