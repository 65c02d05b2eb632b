"""Questions about the plot: what happens next, what made it possible, what it led to, who holds what."""

from __future__ import annotations

from operators.questions.facts.index import FactIndex, are_clear, is_clear, overlap_us
from operators.questions.facts.subjects import each_event, event_with
from operators.questions.facts.template import Statement, template
from operators.questions.facts.wording import event_fields, narrate, seen_at, sentence, spans_of
from schemas.facts import EventFact
from schemas.tables import QuestionCategory

PLOT = QuestionCategory.PLOT


def other_phrases(index: FactIndex, actor: str, *events: EventFact) -> tuple[str, ...]:
    """What else the actor does, at other times."""
    phrases = {each.phrase for each in events}
    return tuple({each.phrase: None for each in index.by_actor[actor] if each.phrase not in phrases})


@template(
    "facts_next",
    PLOT,
    event_with("actors"),
    "What does {person} do next after {event}?",
    "{Event}. What is the next thing that {person} does?",
    "After the moment when {event}, what does {person} do first?",
)
def next_action(index: FactIndex, event_id: str, actor: str) -> Statement | None:
    return _neighbour(index, index.event[event_id], actor, after=True)


@template(
    "facts_previous",
    PLOT,
    event_with("actors"),
    "What is the last thing that {person} does before {event}?",
    "{Event}. What did {person} do most recently before that?",
    "Right before {event}, what was the last thing that {person} did?",
)
def previous_action(index: FactIndex, event_id: str, actor: str) -> Statement | None:
    return _neighbour(index, index.event[event_id], actor, after=False)


def _neighbour(index: FactIndex, event: EventFact, actor: str, *, after: bool) -> Statement | None:
    """What the actor does next after or last before an event, if that is certain."""
    own = [each for each in index.by_actor[actor] if each != event]
    if not index.complete or any(overlap_us(each, event) for each in own):
        return None
    ahead = [each for each in own if each.start_us >= event.end_us]
    near = ahead[:2] if after else [each for each in reversed(own) if each.end_us <= event.start_us][:2]
    in_order = [event, *near] if after else [*reversed(near), event]
    if not near or near[0].event_id not in index.unique_ids or not are_clear(in_order):
        return None
    name, found = index.name(actor), near[0]
    return Statement(
        fields=event_fields(index, event) | {"person": name},
        answer=found.phrase,
        wrong=other_phrases(index, actor, event, found),
        evidence=spans_of((event, found)),
        chain=(
            *narrate(index, (event, found)),
            (
                f"In between, {name} does nothing else.",
                f"Between the two I see nothing else that {name} does.",
                f"No other action of {name} lies between the two moments.",
            ),
            (
                f"So {'next' if after else 'before it'}, {name} {found.phrase}.",
                f"That means that {name} {found.phrase} {'right after it' if after else 'right before it'}.",
            ),
        ),
    )


@template(
    "facts_enabled",
    PLOT,
    each_event,
    "What made it possible that {event}?",
    "What had to happen earlier so that {event}?",
    "Which earlier event is the reason why {event}?",
)
def enabled(index: FactIndex, event_id: str) -> Statement | None:
    effect = index.event[event_id]
    if len(effect.causes) != 1 or effect.causes[0] not in index.unique_ids:
        return None
    cause, earlier = index.event[effect.causes[0]], index.ancestors(effect)
    others = [each for each in index.unique if is_clear(each, effect) and each.event_id not in earlier]
    return Statement(
        fields=event_fields(index, effect),
        answer=index.clause(cause),
        wrong=tuple(map(index.clause, others)),
        evidence=spans_of((cause, effect)),
        chain=(
            (
                f"The moment in question is at {seen_at(effect)}: {index.clause(effect)}.",
                f"At {seen_at(effect)} I see that {index.clause(effect)}.",
            ),
            (
                f"Going back from there, I see at {seen_at(cause)} that {index.clause(cause)}.",
                f"Earlier, at {seen_at(cause)}, {index.clause(cause)}.",
            ),
            ("The later event depends on that.", "That is what the later event builds on."),
            (
                f"So it was possible because {index.clause(cause)}.",
                f"What made it possible is that {index.clause(cause)}.",
            ),
        ),
    )


@template(
    "facts_led_to",
    PLOT,
    each_event,
    "What does it lead to that {event}?",
    "{Event}. What comes of that later?",
    "What happens later as a consequence of the moment when {event}?",
)
def led_to(index: FactIndex, event_id: str) -> Statement | None:
    cause = index.event[event_id]
    effects = index.effects.get(event_id, [])
    if len(effects) != 1 or effects[0].event_id not in index.unique_ids:
        return None
    effect = effects[0]
    later = [each for each in index.unique if is_clear(cause, each) and event_id not in index.ancestors(each)]
    return Statement(
        fields=event_fields(index, cause),
        answer=index.clause(effect),
        wrong=tuple(map(index.clause, later)),
        evidence=spans_of((cause, effect)),
        chain=(
            *narrate(index, (cause, effect)),
            ("The second follows from the first.", "The one made the other possible."),
            (
                f"{sentence('so what it leads to')} is that {index.clause(effect)}.",
                f"So in the end {index.clause(effect)}.",
            ),
        ),
    )


TEMPLATES = (next_action, previous_action, enabled, led_to)
