"""Questions about places: where things happen, where things end up, which way somebody or something goes."""

from __future__ import annotations

from operators.questions.facts.index import FactIndex, are_clear
from operators.questions.facts.pools import clauses_of, names_except, other_orders
from operators.questions.facts.subjects import each_event, each_thing, event_pairs
from operators.questions.facts.template import ONLY_CHOICE, Statement, template
from operators.questions.facts.wording import (
    at_time,
    content_words,
    event_fields,
    in_sequence,
    narrate,
    opening,
    seen_at,
    spans_of,
)
from schemas.facts import EventFact
from schemas.tables import QuestionCategory

SPATIAL = QuestionCategory.SPATIAL
MOST_STOPS = 4
"""Most places of a way that a question asks for."""


@template(
    "facts_where",
    SPATIAL,
    each_event,
    "Where does {actor} {infinitive}?",
    "In which place is it that {event}?",
    "Where does it happen that {event}?",
)
def where(index: FactIndex, event_id: str) -> Statement | None:
    event = index.event[event_id]
    if event.place is None or names_place(index, event):
        return None
    place = index.name(event.place)
    return Statement(
        fields=event_fields(index, event),
        answer=place,
        wrong=names_except(index.place_names(), place),
        evidence=spans_of((event,)),
        chain=(
            opening(f"the moment when {index.clause(event)}"),
            at_time(event),
            (f"The place around it is {place}.", f"What I see around is {place}."),
            (f"So it happens at this place: {place}.", f"So the place is {place}."),
        ),
    )


@template(
    "facts_where_person",
    SPATIAL,
    event_pairs,
    "Where does {the_one} later {infinitive}?",
    "Where is {the_one} when the same one later {phrase}?",
)
def where_person(index: FactIndex, first_id: str, event_id: str) -> Statement | None:
    first, event = index.event[first_id], index.event[event_id]
    if first.actor != event.actor or not index.is_sole(first) or event.place is None or names_place(index, event):
        return None
    name, place = index.name(event.actor), index.name(event.place)
    return Statement(
        fields={**event_fields(index, event), "the_one": index.the_one(first)},
        answer=place,
        wrong=names_except(index.place_names(), place),
        evidence=spans_of((first, event)),
        chain=(
            (f"First I have to find out who {first.phrase}.", f"I need to know who {first.phrase}."),
            (f"At {seen_at(first)} I see that it is {name}.", f"It is {name}, at {seen_at(first)}."),
            (
                f"Later, at {seen_at(event)}, {index.clause(event)}, and the place around is {place}.",
                f"At {seen_at(event)} {index.clause(event)}; around I see {place}.",
            ),
            (f"So the place is {place}.", f"So that happens at this place: {place}."),
        ),
    )


@template(
    "facts_ends_up",
    SPATIAL,
    each_thing,
    "Where does {thing} end up?",
    "In which place is {thing} in the end?",
    "Where is {thing} put down for the last time?",
)
def ends_up(index: FactIndex, thing: str) -> Statement | None:
    events = index.by_object[thing]
    last = events[-1]
    if not index.complete or last.action != "put" or last.place is None or len(events) < 2 or names_place(index, last):
        return None
    if any(each.end_us > last.start_us for each in events[:-1]):
        return None
    name, place = index.name(thing), index.name(last.place)
    return Statement(
        fields={"thing": name},
        answer=place,
        wrong=names_except(index.place_names(), place),
        evidence=spans_of((last,)),
        chain=(
            (f"I follow {name} through the video.", f"I keep track of {name} until the end."),
            *narrate(index, (last,)),
            (f"The place around is {place}.", f"That is at this place: {place}."),
            (f"After that nobody moves {name} any more.", f"From then on {name} stays there."),
            (f"So {name} ends up at this place: {place}.", f"So in the end the place of {name} is {place}."),
        ),
    )


@template(
    "facts_picked_up",
    SPATIAL,
    each_event,
    "{Event}. Where was {thing} picked up before that?",
    "At which place did somebody take {thing} before {event}?",
)
def picked_up(index: FactIndex, event_id: str) -> Statement | None:
    event = index.event[event_id]
    moves = index.by_object.get(event.object, []) if event.object else []
    takes = [each for each in moves if each.action == "take" and each.end_us <= event.start_us]
    if event.action not in ("give", "put") or not index.complete or len(takes) != 1 or not are_clear((takes[0], event)):
        return None
    take = takes[0]
    if take.place is None or names_place(index, take) or names_place(index, event, take.place):
        return None
    thing, place = index.name(str(event.object)), index.name(take.place)
    return Statement(
        fields={**event_fields(index, event), "thing": thing},
        answer=place,
        wrong=names_except(index.place_names(), place),
        evidence=spans_of((take, event)),
        chain=(
            opening(f"the moment when {index.clause(event)}"),
            at_time(event),
            (
                f"Going back, I see where {thing} comes from: at {seen_at(take)} {index.clause(take)}.",
                f"Earlier, at {seen_at(take)}, {index.clause(take)}.",
            ),
            (f"Around I see {place}, so that is the place.", f"That happens at this place: {place}."),
        ),
    )


@template(
    "facts_next_place",
    SPATIAL,
    each_event,
    "After {event}, what is the next place where {actor} does something?",
    "{Event}. At which place is {actor} seen doing something after leaving?",
)
def next_place(index: FactIndex, event_id: str) -> Statement | None:
    event = index.event[event_id]
    stops = index.stops(own_events_from(index, event))
    if len(stops) < 2 or not index.complete or names_place(index, event):
        return None
    name, place = index.name(event.actor), index.name(str(stops[1].place))
    return Statement(
        fields=event_fields(index, event),
        answer=place,
        wrong=names_except(index.place_names(), place, index.name(str(event.place))),
        evidence=spans_of((event, stops[1])),
        chain=(
            (f"I follow {name} from the moment when {index.clause(event)}.", f"I watch where {name} goes."),
            *narrate(index, (event, stops[1])),
            (f"By then the place around is {place}.", f"The place has changed: now it is {place}."),
            (f"So the next place is {place}.", f"So after the first place comes {place}."),
        ),
    )


@template(
    "facts_way",
    SPATIAL,
    each_event,
    "Starting from the moment when {event}, in which three places is {actor} active one after the other?",
    "{Event}. Which way does {actor} take from there: through which three places, the present one included?",
)
def way(index: FactIndex, event_id: str) -> Statement | None:
    event = index.event[event_id]
    stops = index.stops(own_events_from(index, event))[:3]
    if len({each.place for each in stops}) < 3 or not index.complete or names_place(index, event):
        return None
    places = [index.name(str(each.place)) for each in stops]
    return Statement(
        fields=event_fields(index, event),
        answer=in_sequence(places),
        wrong=other_orders(places),
        evidence=spans_of(stops),
        chain=(
            (f"I follow {index.name(event.actor)} from place to place.", "I note where each of the actions happens."),
            *_narrate_stops(index, stops),
            (f"So the way is: {in_sequence(places)}.", f"In order that makes: {in_sequence(places)}."),
        ),
    )


@template(
    "facts_thing_way",
    SPATIAL,
    each_thing,
    "Through which places does {thing} come, in order?",
    "Which way does {thing} take in the course of the video?",
    "{Thing} is moved from place to place. In which order?",
)
def thing_way(index: FactIndex, thing: str) -> Statement | None:
    events = index.by_object[thing]
    stops = index.stops(events)
    places = [index.name(str(each.place)) for each in stops]
    if not index.complete or not 3 <= len(set(places)) == len(places) <= MOST_STOPS or not are_clear(events):
        return None
    return Statement(
        fields={"thing": index.name(thing)},
        answer=in_sequence(places),
        wrong=other_orders(places),
        evidence=spans_of(stops),
        chain=(
            (f"I follow {index.name(thing)} through the video.", f"I keep track of {index.name(thing)}."),
            *_narrate_stops(index, stops),
            (f"So the way is: {in_sequence(places)}.", f"In order that makes: {in_sequence(places)}."),
        ),
    )


@template(
    "facts_same_place",
    SPATIAL,
    event_pairs,
    "Which of these happens in the same place as this: {event}?",
    "{Event}. Which of these takes place where that happens?",
)
def same_place(index: FactIndex, event_id: str, other_id: str) -> Statement | None:
    event, other = index.event[event_id], index.event[other_id]
    if event.place is None or event.place != other.place:
        return None
    if names_place(index, event) or names_place(index, other):
        return None
    elsewhere = [
        each for each in index.unique if each.place not in (None, event.place) and not names_place(index, each)
    ]
    place = index.name(event.place)
    return Statement(
        fields=event_fields(index, event),
        answer=index.clause(other),
        wrong=clauses_of(index, elsewhere),
        evidence=spans_of((event, other)),
        chain=(
            opening(f"the moment when {index.clause(event)}"),
            (
                f"That is at {seen_at(event)}, and the place is {place}.",
                f"It comes at {seen_at(event)}; around I see {place}.",
            ),
            (
                f"The same place is seen again at {seen_at(other)}: {index.clause(other)}.",
                f"At {seen_at(other)} the place is {place} as well, and {index.clause(other)}.",
            ),
            (
                f"So in the same place {index.clause(other)}.",
                f"So what the two share is {place}: {index.clause(other)}.",
            ),
        ),
        kinds=ONLY_CHOICE,
    )


def names_place(index: FactIndex, event: EventFact, place: str | None = None) -> bool:
    """Whether the event's wording gives away where it happens, or that a place has to do with it."""
    place = place or event.place
    return place is not None and bool(content_words(index.name(place)) & content_words(index.clause(event)))


def own_events_from(index: FactIndex, event: EventFact) -> list[EventFact]:
    """The event and the later ones of its actor, if they follow each other clearly."""
    own = index.by_actor[event.actor]
    rest = own[own.index(event) :]
    return rest if are_clear(rest) else []


def _narrate_stops(index: FactIndex, stops: list[EventFact]) -> tuple[tuple[str, ...], ...]:
    return tuple(
        (
            f"At {seen_at(each)} the place is {index.name(str(each.place))}: {index.clause(each)}.",
            f"At {seen_at(each)} I see {index.name(str(each.place))}, where {index.clause(each)}.",
        )
        for each in stops
    )


TEMPLATES = (where, where_person, ends_up, picked_up, next_place, way, thing_way, same_place)
