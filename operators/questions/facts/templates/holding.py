"""Questions about the plot: who holds what, who gives what to whom, who helps whom."""

from __future__ import annotations

from itertools import permutations

from operators.questions.facts.index import FactIndex, are_clear, overlap_us
from operators.questions.facts.pools import clauses_of, names_except, other_orders, phrases_like
from operators.questions.facts.subjects import actor_pairs, each_event, each_thing, event_with, pairs_with_thing
from operators.questions.facts.template import BOTH, ONLY_CHOICE, Statement, template
from operators.questions.facts.wording import (
    at_time,
    event_fields,
    in_sequence,
    narrate,
    opening,
    seen_at,
    spans_of,
)
from schemas.facts import EventFact
from schemas.tables import QuestionCategory

PLOT = QuestionCategory.PLOT
MOST_HANDS = 4
"""Most holders of a thing that a question asks for in order."""


@template(
    "facts_from_whom",
    PLOT,
    each_event,
    "From whom does {recipient} get {thing}?",
    "Who gives {thing} to {recipient}?",
    "Who is it that hands {thing} over to {recipient}?",
)
def from_whom(index: FactIndex, event_id: str) -> Statement | None:
    return _giving(index, index.event[event_id], "actor")


@template(
    "facts_to_whom",
    PLOT,
    each_event,
    "To whom does {actor} give {thing}?",
    "Who gets {thing} from {actor}?",
    "Who is it that {actor} hands {thing} over to?",
)
def to_whom(index: FactIndex, event_id: str) -> Statement | None:
    return _giving(index, index.event[event_id], "recipient")


@template(
    "facts_what_given",
    PLOT,
    each_event,
    "What does {actor} give to {recipient}?",
    "What does {recipient} get from {actor}?",
    "Which thing passes from the hands of {actor} into those of {recipient}?",
)
def what_given(index: FactIndex, event_id: str) -> Statement | None:
    return _giving(index, index.event[event_id], "object")


def _giving(index: FactIndex, event: EventFact, asked: str) -> Statement | None:
    """Who gives what to whom: one of the three, if the other two determine it."""
    parts = {"actor": event.actor, "recipient": event.recipient, "object": event.object}
    known = {key: value for key, value in parts.items() if key != asked}
    same = [
        each
        for each in index.events
        if each.action == "give" and all(getattr(each, key) == value for key, value in known.items())
    ]
    if same != [event] or event.recipient is None or event.object is None:
        return None
    answer = index.name(str(parts[asked]))
    pool = index.held_names() if asked == "object" else index.actor_names()
    named = {"actor": "actor", "recipient": "recipient", "object": "thing"}
    return Statement(
        fields={named[key]: index.name(str(value)) for key, value in known.items()},
        answer=answer,
        wrong=names_except(pool, *(index.name(str(each)) for each in parts.values())),
        evidence=spans_of((event,)),
        chain=(
            ("I watch who gives something to whom.", "I go through the moments when something is given away."),
            *narrate(index, (event,)),
            ("No other moment of this video fits.", "This is the only moment that fits."),
            (f"So it is {answer}.", f"So the answer is {answer}."),
        ),
        kinds=BOTH if index.complete else ONLY_CHOICE,
    )


@template(
    "facts_holder",
    PLOT,
    event_with("held"),
    "Who has {thing} when {event}?",
    "{Event}. In whose hands is {thing} at that time?",
    "Who is holding {thing} at the moment when {event}?",
)
def holder(index: FactIndex, event_id: str, thing: str) -> Statement | None:
    event = index.event[event_id]
    held = next((each for each in index.holdings[thing] if each.covers(event)), None)
    if not index.complete or held is None or held.holder in (event.actor, event.recipient) or event.object == thing:
        return None
    name, what = index.name(held.holder), index.name(thing)
    return Statement(
        fields=event_fields(index, event) | {"thing": what},
        answer=name,
        wrong=names_except(index.actor_names(), name),
        evidence=spans_of([held.since, event]),
        chain=(
            opening(f"the moment when {index.clause(event)}"),
            at_time(event),
            (
                f"Before that, {what} last changes hands at {seen_at(held.since)}: {index.clause(held.since)}.",
                f"Before that, at {seen_at(held.since)}, {index.clause(held.since)}.",
            ),
            (
                f"In between, {what} does not change hands.",
                f"From then until {seen_at(event)} nobody else gets {what}.",
            ),
            (f"So at that time {what} is with {name}.", f"So it is {name} who has {what} then."),
        ),
    )


@template(
    "facts_holders",
    PLOT,
    pairs_with_thing,
    "Who has {thing} when {first}, and who has it when {last}?",
    "First {first}, and later {last}. Who holds {thing} at the one and at the other moment?",
)
def holders(index: FactIndex, first_id: str, last_id: str, thing: str) -> Statement | None:
    events = (index.event[first_id], index.event[last_id])
    held = [next((h for h in index.holdings[thing] if h.covers(event)), None) for event in events]
    if not index.complete or held[0] is None or held[1] is None or held[0].holder == held[1].holder:
        return None
    if any(h.holder in (each.actor, each.recipient) for h, each in zip(held, events, strict=True) if h):
        return None
    names = [index.name(h.holder) for h in held if h]
    what, others = index.name(thing), names_except(index.actor_names(), *names)
    pairs = [pair for pair in permutations([*names, *others], 2) if list(pair) != names and set(pair) & set(names)]
    return Statement(
        fields={"thing": what, "first": index.clause(events[0]), "last": index.clause(events[1])},
        answer=f"first {names[0]}, then {names[1]}",
        wrong=tuple(f"first {one}, then {two}" for one, two in pairs),
        evidence=spans_of([*events, held[0].since, held[1].since]),
        chain=(
            (f"I follow {what} through the video.", f"I keep track of who has {what}."),
            *narrate(index, (held[0].since,)),
            (
                f"So at {seen_at(events[0])}, when {index.clause(events[0])}, it is with {names[0]}.",
                f"At {seen_at(events[0])} {index.clause(events[0])}, and {names[0]} still has it.",
            ),
            (
                f"At {seen_at(held[1].since)} {index.clause(held[1].since)}.",
                f"Then I see at {seen_at(held[1].since)} that {index.clause(held[1].since)}.",
            ),
            (
                f"That is still so at {seen_at(events[1])}, when {index.clause(events[1])}.",
                f"At {seen_at(events[1])}, when {index.clause(events[1])}, it is therefore with {names[1]}.",
            ),
            (f"So the answer is: first {names[0]}, then {names[1]}.", f"So it is first {names[0]}, then {names[1]}."),
        ),
    )


@template(
    "facts_hands",
    PLOT,
    each_thing,
    "Through whose hands does {thing} pass, in order?",
    "Who has {thing} one after the other in the course of the video?",
    "{Thing} changes hands more than once. Who has it first, who next and so on?",
)
def hands(index: FactIndex, thing: str) -> Statement | None:
    holders = index.hands(thing)
    moves = index.changes(thing)
    changes = [each for number, each in enumerate(moves) if not number or each.action in ("take", "give")]
    if not index.complete or not 3 <= len(set(holders)) == len(holders) <= MOST_HANDS or not are_clear(changes):
        return None
    names, what = [index.name(each) for each in holders], index.name(thing)
    return Statement(
        fields={"thing": what},
        answer=in_sequence(names),
        wrong=other_orders(names),
        evidence=spans_of(changes),
        chain=(
            (f"I follow {what} through the video.", f"I note each time that {what} gets to somebody."),
            *narrate(index, changes),
            (f"So the order is: {in_sequence(names)}.", f"So it passes from one to the next: {in_sequence(names)}."),
        ),
    )


@template(
    "facts_held_before",
    PLOT,
    each_event,
    "What did {the_one} hold at an earlier time?",
    "Which thing was in the hands of {the_one} before that?",
)
def held_before(index: FactIndex, event_id: str) -> Statement | None:
    event = index.event[event_id]
    if not index.complete or not index.is_sole(event):
        return None
    own = [each for holdings in index.holdings.values() for each in holdings if each.holder == event.actor]
    early = [each for each in own if each.since.start_us < event.start_us]
    parted = [each for each in index.by_actor[event.actor] if each.action in ("give", "put", "lose")]
    things = {each.thing for each in early} | {str(each.object) for each in parted if each.start_us <= event.start_us}
    if len(things) != 1 or not early or event.object in things:
        return None
    (thing,), held = things, early[0]
    if held.until is None or not are_clear((held.since, held.until, event)):
        return None
    name, what = index.name(event.actor), index.name(thing)
    return Statement(
        fields={"the_one": index.the_one(event)},
        answer=what,
        wrong=names_except(index.held_names(), what, index.name(event.object) if event.object else ""),
        evidence=spans_of((held.since, event)),
        chain=(
            (f"First I have to find out who {event.phrase}.", f"I need to know who {event.phrase}."),
            (f"At {seen_at(event)} I see that it is {name}.", f"It is {name}, at {seen_at(event)}."),
            (
                f"Going back, I find {name} at {seen_at(held.since)}: {index.clause(held.since)}.",
                f"Earlier, at {seen_at(held.since)}, {index.clause(held.since)}.",
            ),
            (f"So before that {name} had {what}.", f"So it was {what} that {name} held."),
        ),
    )


@template(
    "facts_next_of_recipient",
    PLOT,
    each_event,
    "What does the one who gets {thing} from {actor} do next?",
    "{Actor} gives {thing} away. What does the one who gets it do next?",
)
def next_of_recipient(index: FactIndex, event_id: str) -> Statement | None:
    event = index.event[event_id]
    given = [each for each in index.by_object.get(event.object, []) if each.action == "give"] if event.object else []
    if [each for each in given if each.actor == event.actor] != [event] or event.recipient is None:
        return None
    own = index.by_actor.get(event.recipient, [])
    later = [each for each in own if each.start_us >= event.end_us][:2]
    if (
        not index.complete
        or not later
        or any(overlap_us(each, event) for each in own)
        or not are_clear([event, *later])
    ):
        return None
    if later[0].event_id not in index.unique_ids:
        return None
    name, found = index.name(event.recipient), later[0]
    return Statement(
        fields={"actor": index.name(event.actor), "thing": index.name(str(event.object))},
        answer=found.phrase,
        wrong=phrases_like(index, found),
        evidence=spans_of((event, found)),
        chain=(
            *narrate(index, (event,)),
            (f"So the one to follow is {name}.", f"So I have to watch {name} from there on."),
            (
                f"The next thing that {name} does is at {seen_at(found)}: {index.clause(found)}.",
                f"At {seen_at(found)} {index.clause(found)}, and nothing else before that.",
            ),
            (f"So next {name} {found.phrase}.", f"So right after it {name} {found.phrase}."),
        ),
    )


@template(
    "facts_happens_to",
    PLOT,
    each_event,
    "First {first}, and later {last}. What happens to {thing} in between?",
    "What happens to {thing} between the moment when {first} and the moment when {last}?",
)
def happens_to(index: FactIndex, event_id: str) -> Statement | None:
    event = index.event[event_id]
    same = index.by_object.get(event.object, []) if event.object in index.holdings else []
    position = same.index(event) if event in same else 0
    around = same[max(position - 1, 0) : position + 2]
    if not index.complete or len(around) < 3 or not are_clear(around):
        return None
    first, _, last = around
    if not {first.event_id, last.event_id} <= index.unique_ids:
        return None
    return Statement(
        fields={"first": index.clause(first), "last": index.clause(last), "thing": index.name(str(event.object))},
        answer=index.clause(event),
        wrong=clauses_of(index, [each for each in same if each not in around and each.event_id in index.unique_ids]),
        evidence=spans_of(around),
        chain=(
            (f"I follow {index.name(str(event.object))} from the first of the two moments on.",),
            *narrate(index, around),
            (f"So in between {index.clause(event)}.", f"So what happens to it is that {index.clause(event)}."),
        ),
    )


@template(
    "facts_both_held",
    PLOT,
    actor_pairs,
    "Which thing do both {one} and {other} hold at some time?",
    "{One} and {other} both have the same thing at different times. Which one is it?",
)
def both_held(index: FactIndex, one: str, other: str) -> Statement | None:
    both = [thing for thing in index.holdings if {one, other} <= set(index.hands(thing))]
    if not index.complete or len(both) != 1:
        return None
    held = [next((h for h in index.holdings[both[0]] if h.holder == each), None) for each in (one, other)]
    if held[0] is None or held[1] is None:
        return None
    moments, what = [each.since for each in held if each], index.name(both[0])
    return Statement(
        fields={"one": index.name(one), "other": index.name(other)},
        answer=what,
        wrong=names_except(index.held_names(), what),
        evidence=spans_of(moments),
        chain=(
            (
                f"I compare what {index.name(one)} and {index.name(other)} have in their hands.",
                f"I watch which things get to {index.name(one)} and which to {index.name(other)}.",
            ),
            *narrate(index, moments),
            (f"So the thing that both have held is {what}.", f"So it is {what}."),
        ),
    )


@template(
    "facts_helped",
    PLOT,
    each_event,
    "Who helps {recipient}?",
    "From whom does {recipient} get help?",
    "Who is it that helps {recipient} in this video?",
)
def helped(index: FactIndex, event_id: str) -> Statement | None:
    event = index.event[event_id]
    helpers = {each.actor for each in index.events if each.action == "help" and each.recipient == event.recipient}
    if event.action != "help" or event.recipient is None or len(helpers) != 1:
        return None
    name, recipient = index.name(event.actor), index.name(event.recipient)
    return Statement(
        fields={"recipient": recipient},
        answer=name,
        wrong=names_except(index.actor_names(), name, recipient),
        evidence=spans_of((event,)),
        chain=(
            (f"I watch {recipient} and who comes to help.", f"I have to find somebody who helps {recipient}."),
            *narrate(index, (event,)),
            (f"So the help comes from {name}.", f"So it is {name} who helps."),
        ),
        kinds=BOTH if index.complete else ONLY_CHOICE,
    )


TEMPLATES = (
    from_whom, to_whom, what_given, holder, holders, hands, held_before, next_of_recipient, happens_to, both_held,
    helped,
)  # fmt: skip
