"""Questions about the plot: what happens next, what made it possible, what it led to."""

from __future__ import annotations

from operators.questions.facts.index import FactIndex, are_clear, overlap_us
from operators.questions.facts.pools import clauses_of, events_after, events_before, phrases_except
from operators.questions.facts.subjects import each_event, event_with
from operators.questions.facts.template import Statement, template
from operators.questions.facts.wording import Step, at_time, event_fields, narrate, opening, seen_at, spans_of
from schemas.facts import EventFact
from schemas.tables import QuestionCategory

PLOT = QuestionCategory.PLOT


@template(
    "facts_next",
    PLOT,
    event_with("actors"),
    "What does {person} do next after {event}?",
    "{Event}. What is the next thing that {person} does?",
    "After the moment when {event}, what does {person} do first?",
    "{Event}. What does {same} do right after that?",
    "{Event}. What is the next thing that {same} does?",
)
def next_action(index: FactIndex, event_id: str, actor: str) -> Statement | None:
    return _neighbour(index, index.event[event_id], actor, after=True)


@template(
    "facts_previous",
    PLOT,
    event_with("actors"),
    "What is the last thing that {person} does before {event}?",
    "{Event}. What has {person} done last before that?",
    "Before the moment when {event}, what does {person} do last?",
    "{Event}. What has {same} done right before that?",
    "{Event}. What is the last thing that {same} does before?",
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
    named = {"same": index.kind_word(actor)} if actor == event.actor else {"person": name}
    return Statement(
        fields=event_fields(index, event) | named,
        answer=found.phrase,
        wrong=phrases_except(index, actor, event, found),
        evidence=spans_of((event, found)),
        chain=(
            *narrate(index, (event, found)),
            (
                f"In between, {name} does nothing else.",
                f"Between the two I see nothing else that {name} does.",
                f"No other action of {name} lies between the two moments.",
            ),
            (
                f"So {'after it' if after else 'before it'} {name} {found.phrase}.",
                f"That means that right {'after' if after else 'before'} it {name} {found.phrase}.",
            ),
        ),
    )


@template(
    "facts_enabled",
    PLOT,
    each_event,
    "What makes it possible that {event}?",
    "What has to happen earlier so that {event}?",
    "{Event}. Which earlier event brings that about?",
)
def enabled(index: FactIndex, event_id: str) -> Statement | None:
    effect = index.event[event_id]
    cause = _only_cause(index, effect)
    if cause is None or not are_clear((cause, effect)):
        return None
    earlier = index.ancestors(effect)
    others = [each for each in events_before(index, effect) if each.event_id not in earlier]
    return Statement(
        fields=event_fields(index, effect),
        answer=index.clause(cause),
        wrong=clauses_of(index, others),
        evidence=spans_of((cause, effect)),
        chain=(
            opening(f"the moment when {index.clause(effect)}"),
            at_time(effect),
            (
                f"Going back from there, I see at {seen_at(cause)} that {index.clause(cause)}.",
                f"Earlier, at {seen_at(cause)}, {index.clause(cause)}.",
            ),
            ("The later event depends on that.", "That is what the later event builds on."),
            (
                f"So it is possible because {index.clause(cause)}.",
                f"What makes it possible is that {index.clause(cause)}.",
            ),
        ),
    )


@template(
    "facts_led_to",
    PLOT,
    each_event,
    "What does it lead to that {event}?",
    "{Event}. What comes of that later?",
    "What becomes possible because {event}?",
)
def led_to(index: FactIndex, event_id: str) -> Statement | None:
    cause = index.event[event_id]
    effects = index.effects.get(event_id, [])
    if len(effects) != 1 or _only_cause(index, effects[0]) != cause or not are_clear((cause, effects[0])):
        return None
    if effects[0].event_id not in index.unique_ids:
        return None
    effect = effects[0]
    others = [each for each in events_after(index, cause) if event_id not in index.ancestors(each)]
    return Statement(
        fields=event_fields(index, cause),
        answer=index.clause(effect),
        wrong=clauses_of(index, others),
        evidence=spans_of((cause, effect)),
        chain=(
            *narrate(index, (cause, effect)),
            ("The second follows from the first.", "The one makes the other possible."),
            (f"So what it leads to is that {index.clause(effect)}.", f"So because of it {index.clause(effect)}."),
        ),
    )


@template(
    "facts_root",
    PLOT,
    each_event,
    "{Event}. Which event stands at the very beginning of what leads to that?",
    "What is the first link in the chain of events at the end of which {event}?",
    "{Event}. Going back from cause to cause, where does it all begin?",
)
def root(index: FactIndex, event_id: str) -> Statement | None:
    chain = _causes_back(index, index.event[event_id])
    if len(chain) < 3:
        return None
    effect, *_, first = chain
    earlier = index.ancestors(effect)
    others = [each for each in events_before(index, effect) if each.event_id not in earlier]
    return Statement(
        fields=event_fields(index, effect),
        answer=index.clause(first),
        wrong=clauses_of(index, [*others, *chain[1:-1]]),
        evidence=spans_of(chain),
        chain=(
            opening(f"the moment when {index.clause(effect)}"),
            at_time(effect),
            *_narrate_back(index, chain[1:]),
            (f"So it all begins when {index.clause(first)}.", f"So at the beginning {index.clause(first)}."),
        ),
    )


@template(
    "facts_link",
    PLOT,
    each_event,
    "First {first}, and in the end {event}. What happens in between that connects the two?",
    "How does it come about, after {first}, that {event}? What is the step in between?",
    "Which event links the moment when {first} to the moment when {event}?",
)
def link(index: FactIndex, event_id: str) -> Statement | None:
    effect = index.event[event_id]
    chain = _causes_back(index, effect)[:3]
    if len(chain) < 3:
        return None
    _, middle, first = chain
    related = index.ancestors(effect)
    others = [
        each
        for each in events_before(index, effect)
        if each.start_us >= first.end_us and not related & {each.event_id, *index.ancestors(each)}
    ]
    return Statement(
        fields=event_fields(index, effect) | {"first": index.clause(first)},
        answer=index.clause(middle),
        wrong=clauses_of(index, others),
        evidence=spans_of(chain),
        chain=(
            (
                f"I begin with the end: at {seen_at(effect)} {index.clause(effect)}.",
                f"At {seen_at(effect)} I see how it ends: {index.clause(effect)}.",
            ),
            *_narrate_back(index, chain[1:]),
            (
                f"So the link is that {index.clause(middle)}.",
                f"So what connects the two is that {index.clause(middle)}.",
            ),
        ),
    )


def _only_cause(index: FactIndex, event: EventFact) -> EventFact | None:
    """The cause of an event, if it is the only one and happens only once."""
    if len(event.causes) != 1 or event.causes[0] not in index.unique_ids:
        return None
    return index.event[event.causes[0]]


def _causes_back(index: FactIndex, event: EventFact) -> list[EventFact]:
    """The event, its cause, the cause of that, and so on; empty if one of them has several causes."""
    chain = [event]
    while chain[-1].causes:
        cause = _only_cause(index, chain[-1])
        if cause is None or not are_clear((cause, chain[-1])):
            return []
        chain.append(cause)
    return chain


def _narrate_back(index: FactIndex, chain: list[EventFact]) -> tuple[Step, ...]:
    """The causes of an event, from the last to the first."""
    return tuple(
        (
            f"That is possible because at {seen_at(each)} {index.clause(each)}.",
            f"Before that, at {seen_at(each)}, {index.clause(each)}, and that made it possible.",
            f"It goes back to {seen_at(each)}, when {index.clause(each)}.",
        )
        for each in chain
    )


TEMPLATES = (next_action, previous_action, enabled, led_to, root, link)
