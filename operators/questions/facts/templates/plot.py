"""Questions about the plot: what happens next, what made it possible, what it led to."""

from __future__ import annotations

from operators.questions.facts.index import FactIndex, are_clear, overlap_us
from operators.questions.facts.pools import clauses_of, events_after, events_before, phrases_like
from operators.questions.facts.subjects import cause_pairs, event_with, indirect_causes
from operators.questions.facts.template import BOTH, ONLY_CHOICE, Statement, template
from operators.questions.facts.wording import Step, at_time, event_fields, narrate, opening, seen_at, spans_of
from schemas.facts import HOLDING_ACTIONS, EventFact
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
    "{Event}. What does {person} do last before that?",
    "Before the moment when {event}, what does {person} do last?",
    "{Event}. What does {same} do right before that?",
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
        wrong=phrases_like(index, found),
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
    cause_pairs,
    "Which of these has to happen so that {event}?",
    "{Event}. Which of these helps to bring that about?",
    "Which earlier event is a reason why {event}?",
    open_wordings=(
        "What makes it possible that {event}?",
        "What has to happen earlier so that {event}?",
        "{Event}. Which earlier event brings that about?",
    ),
)
def enabled(index: FactIndex, cause_id: str, event_id: str) -> Statement | None:
    cause, effect = index.event[cause_id], index.event[event_id]
    if _is_trivial(cause, effect) or not are_clear((cause, effect)):
        return None
    known = index.ancestors(effect)
    others = [
        each for each in events_before(index, effect) if each.event_id not in known and each.action == cause.action
    ]
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
                f"So what brings it about is that {index.clause(cause)}.",
            ),
        ),
        kinds=BOTH if len(effect.causes) == 1 else ONLY_CHOICE,
    )


@template(
    "facts_led_to",
    PLOT,
    cause_pairs,
    "Which of these happens because {event}?",
    "{Event}. Which of these comes of that later?",
    "Which of these becomes possible because {event}?",
    open_wordings=(
        "What does it lead to that {event}?",
        "{Event}. What comes of that later?",
        "What becomes possible because {event}?",
    ),
)
def led_to(index: FactIndex, cause_id: str, effect_id: str) -> Statement | None:
    cause, effect = index.event[cause_id], index.event[effect_id]
    if _is_trivial(cause, effect) or not are_clear((cause, effect)):
        return None
    later = [
        each
        for each in events_after(index, cause)
        if each.action == effect.action and cause_id not in index.ancestors(each)
    ]
    return Statement(
        fields=event_fields(index, cause),
        answer=index.clause(effect),
        wrong=clauses_of(index, later),
        evidence=spans_of((cause, effect)),
        chain=(
            *narrate(index, (cause, effect)),
            ("The second follows from the first.", "The one makes the other possible."),
            (f"So what it leads to is that {index.clause(effect)}.", f"So because of it {index.clause(effect)}."),
        ),
        kinds=BOTH if len(index.effects[cause_id]) == 1 else ONLY_CHOICE,
    )


@template(
    "facts_far_cause",
    PLOT,
    indirect_causes,
    "{Event}. Which of these plays a part in how it comes to that?",
    "Which of these events leads, by way of others, to the moment when {event}?",
    "Without which of these could it not come about that {event}?",
)
def far_cause(index: FactIndex, cause_id: str, event_id: str) -> Statement | None:
    cause, effect = index.event[cause_id], index.event[event_id]
    way = _way_back(index, cause, effect)
    if not way or _is_trivial(cause, effect) or not are_clear(way):
        return None
    known = index.ancestors(effect)
    others = [
        each for each in events_before(index, effect) if each.event_id not in known and each.action == cause.action
    ]
    return Statement(
        fields=event_fields(index, effect),
        answer=index.clause(cause),
        wrong=clauses_of(index, others),
        evidence=spans_of(way),
        chain=(
            opening(f"the moment when {index.clause(effect)}"),
            at_time(effect),
            *_narrate_back(index, way[-2::-1]),
            (
                f"So it comes to that because {index.clause(cause)}.",
                f"So it goes back to this: {index.clause(cause)}.",
            ),
        ),
        kinds=ONLY_CHOICE,
    )


@template(
    "facts_link",
    PLOT,
    indirect_causes,
    "First {first}, and in the end {event}. Which of these connects the two?",
    "How does it come about, after {first}, that {event}? Which of these is the step in between?",
    "Which event links the moment when {first} to the moment when {event}?",
    has_mixed_shapes=True,
)
def link(index: FactIndex, cause_id: str, event_id: str) -> Statement | None:
    cause, effect = index.event[cause_id], index.event[event_id]
    way = _way_back(index, cause, effect)
    if len(way) != 3 or not are_clear(way) or way[1].event_id not in index.unique_ids:
        return None
    middle = way[1]
    if _is_trivial(cause, middle) or _is_trivial(middle, effect):
        return None
    related = index.ancestors(effect)
    others = [
        each
        for each in events_before(index, effect)
        if each.start_us >= cause.end_us and each.causes and not related & {each.event_id, *index.ancestors(each)}
    ]
    return Statement(
        fields=event_fields(index, effect) | {"first": index.clause(cause)},
        answer=index.clause(middle),
        wrong=clauses_of(index, others),
        evidence=spans_of(way),
        chain=(
            (
                f"I begin with the end: at {seen_at(effect)} {index.clause(effect)}.",
                f"At {seen_at(effect)} I see how it ends: {index.clause(effect)}.",
            ),
            *_narrate_back(index, [middle, cause]),
            (
                f"So in between {index.clause(middle)}.",
                f"So the two are connected by this: {index.clause(middle)}.",
            ),
        ),
        kinds=ONLY_CHOICE,
    )


def _is_trivial(cause: EventFact, effect: EventFact) -> bool:
    """Whether one guesses the cause from the effect: somebody goes there first, or takes what is given away later."""
    if cause.object is None or effect.object is None:
        return cause.actor == effect.actor
    is_same = cause.object == effect.object and effect.actor in (cause.actor, cause.recipient)
    return is_same and effect.action in HOLDING_ACTIONS


def _way_back(index: FactIndex, cause: EventFact, effect: EventFact) -> list[EventFact]:
    """The shortest way from a cause to an effect, both included; empty if there is none."""
    ways = [[effect]]
    seen = {effect.event_id}
    while ways:
        way = ways.pop(0)
        for name in way[0].causes:
            if name == cause.event_id:
                return [cause, *way]
            if name not in seen:
                seen.add(name)
                ways.append([index.event[name], *way])
    return []


def _narrate_back(index: FactIndex, chain: list[EventFact]) -> tuple[Step, ...]:
    """The causes of an event, from the last to the first."""
    return tuple(
        (
            f"That is possible because at {seen_at(each)} {index.clause(each)}.",
            f"Before that, at {seen_at(each)}, {index.clause(each)}, and that is needed for it.",
            f"It goes back to {seen_at(each)}, when {index.clause(each)}.",
        )
        for each in chain
    )


TEMPLATES = (next_action, previous_action, enabled, led_to, far_cause, link)
