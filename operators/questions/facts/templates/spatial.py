"""Questions about space: where things happen and end up, ways, positions in the picture, directions of movement."""

from __future__ import annotations

from operators.questions.facts.index import FactIndex
from operators.questions.facts.subjects import each_event, each_thing
from operators.questions.facts.template import Statement, template
from operators.questions.facts.wording import content_words, event_fields, narrate, seen_at, spans_of
from schemas.tables import QuestionCategory

SPATIAL = QuestionCategory.SPATIAL


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
    if event.place is None or content_words(index.name(event.place)) & content_words(index.clause(event)):
        return None
    place = index.name(event.place)
    return Statement(
        fields=event_fields(index, event),
        answer=place,
        wrong=tuple(each for each in index.place_names() if each != place),
        evidence=spans_of((event,)),
        chain=(
            *narrate(index, (event,)),
            (f"The place around it is {place}.", f"What I see around is {place}."),
            (f"So it happens at this place: {place}.", f"So the place is {place}."),
        ),
    )


@template(
    "facts_ends_up",
    SPATIAL,
    each_thing,
    "Where does {thing} end up?",
    "In which place is {thing} in the end?",
    "Where is {thing} left for good?",
)
def ends_up(index: FactIndex, thing: str) -> Statement | None:
    events = index.by_object[thing]
    last = events[-1]
    if not index.complete or last.action != "put" or last.place is None or len(events) < 2:
        return None
    name, place = index.name(thing), index.name(last.place)
    if any(each.end_us > last.start_us for each in events[:-1]):
        return None
    return Statement(
        fields={"thing": name},
        answer=place,
        wrong=tuple(each for each in index.place_names() if each != place),
        evidence=spans_of((last,)),
        chain=(
            (f"I follow {name} through the video.", f"I keep track of {name} until the end."),
            *narrate(index, (last,)),
            (f"That is at this place: {place}.", f"The place is {place}."),
            (f"After {seen_at(last)} nobody moves {name} any more.", f"From then on {name} stays there."),
            (f"So {name} ends up at this place: {place}.", f"So in the end the place of {name} is {place}."),
        ),
    )


TEMPLATES = (where, ends_up)
