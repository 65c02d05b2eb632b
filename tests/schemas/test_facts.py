"""Facts about a video: those that agree are accepted, and each contradiction is named with its row, field and value."""

import json
import re
from itertools import pairwise

import pytest

from schemas.base import parse_json
from schemas.errors import SchemaError
from schemas.facts import EntityFact, EventFact, VideoFacts, find_outside
from tests.support.facts import SECOND, facts_values
from tests.support.properties import given, st


def test_facts_that_agree_are_accepted():
    facts = VideoFacts.model_validate(facts_values())
    assert [event.event_id for event in facts.events] == ["find", "bark", "hand", "unlock", "leave"]
    assert VideoFacts.model_validate_json(facts.model_dump_json(exclude_defaults=True)) == facts


def change(*path, to):
    """A function that changes one value in a tree of JSON values."""

    def run(values):
        *parents, last = path
        for key in parents:
            values = values[key]
        values[last] = to

    return run


BOX = {"x0": 0.1, "y0": 0.1, "x1": 0.2, "y1": 0.2}

CONTRADICTIONS = {
    "an entity twice": (change("entities", 1, "entity_id", to="anna"), "entities: 2 of them have the entity_id 'anna'"),
    "a name twice": (change("entities", 1, "name", to="The brown dog"), "2 of them have the name 'the brown dog'"),
    "an event twice": (change("events", 1, "event_id", to="find"), "events: 2 of them have the event_id 'find'"),
    "a goal twice": (change("goals", 1, "goal_id", to="enter"), "goals: 2 of them have the goal_id 'enter'"),
    "an actor that is never introduced": (
        change("events", 1, "actor", to="wolf"), "event 'bark', field actor: 'wolf' is not in entities; add it there"
    ),
    "an object that is never introduced": (change("events", 0, "object", to="coin"), "field object: 'coin' is not in"),
    "an unknown recipient": (change("events", 2, "recipient", to="eve"), "field recipient: 'eve' is not in entities"),
    "an unknown place": (change("events", 0, "place", to="moon"), "event 'find', field place: 'moon' is not in"),
    "a place that is none": (change("events", 0, "place", to="dog"), "field place: 'dog' is of kind animal; name one"),
    "an unknown cause": (change("events", 2, "causes", to=["rain"]), "field causes: 'rain' is not in events"),
    "a cause that is later": (
        change("events", 0, "causes", to=["hand"]),
        "event 'find', field causes: 'hand' starts at 25000000 us, not before its effect at 5000000 us",
    ),
    "an event that causes itself": (change("events", 0, "causes", to=["find"]), "no two events cause each other"),
    "an unknown goal": (change("events", 3, "goal", to="fame"), "event 'unlock', field goal: 'fame' is not in goals"),
    "a goal of nobody": (change("goals", 0, "actor", to="eve"), "goal 'enter', field actor: 'eve' is not in entities"),
    "a track of nobody": (change("tracks", 0, "entity", to="eve"), "tracks.0, field entity: 'eve' is not in entities"),
    "an event out of order": (
        change("events", 1, "start_us", to=0), "event 'bark', field start_us: 0 is before the start of event 'find'"
    ),
    "an event without duration": (change("events", 1, "end_us", to=12 * SECOND), "a span must end after it starts"),
    "its own recipient": (change("events", 2, "recipient", to="anna"), "field recipient: 'anna' is its actor too"),
    "its own object": (change("events", 1, "object", to="dog"), "event 'bark', field object: 'dog' is its actor too"),
    "an object that gets itself": (change("events", 2, "recipient", to="key"), "'key' is its object too"),
    "a gift without an object": (
        change("events", 2, "object", to=None), "event 'hand', field object: missing, and `give` needs one"
    ),
    "a gift to nobody": (change("events", 2, "recipient", to=None), "event 'hand', field recipient: missing"),
    "spans out of order": (
        change("entities", 0, "spans", 1, "start_us", to=30 * SECOND),
        "entity 'anna', field spans: the span from 30000000 us begins before the end of the one before it, 40000000 us",
    ),
    "fewer boxes than times": (
        change("tracks", 0, "boxes", to=[BOX]), "tracks.0 (of 'key'), field boxes: 1 boxes for 2 times; give one"
    ),
    "times that stand still": (change("tracks", 0, "times_us", 1, to=5 * SECOND), "5000000 is not after 5000000"),
    "a box without area": (change("tracks", 0, "boxes", 0, "x1", to=0.1), "(0.1, 0.5) to (0.1, 0.6) has no area"),
    "a box outside the frame": (
        change("tracks", 0, "boxes", 1, "x1", to=1.5), "less than or equal to 1, got 1.5"
    ),
    "a track while it is not seen": (
        change("tracks", 0, "times_us", to=[2 * SECOND, 6 * SECOND]),
        "tracks.0 (of 'key'), field times_us: 2000000 to 6000000 is in none of the spans in which the entity is seen",
    ),
    "giving what another holds": (
        change("events", 2, "actor", to="dog"), "event 'hand', field actor: 'dog' cannot give 'key', which 'anna' holds"
    ),
    "putting down what nobody holds": (
        change("events", 2, "action", to="lose"), "event 'leave', field actor: 'ben' cannot put 'key', which nobody"
    ),
    "taking what one holds": (
        change("events", 4, "action", to="take"),
        "event 'leave', field action: 'ben' takes 'key', and holds it already",
    ),
    "a misspelt field": (change("events", 0, "recipent", to="ben"), "events.0.recipent: Extra inputs are not"),
    "a name on two lines": (change("entities", 0, "name", to="the\nwoman"), "has no line breaks"),
    "a phrase with a full stop": (change("events", 0, "phrase", to="picks up the key."), "remove the mark at its end"),
    "an unknown kind": (change("entities", 0, "kind", to="robot"), "entities.0.kind: Input should be 'person', "),
}  # fmt: skip


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_a_contradiction_is_named_with_its_row_field_and_value(name):
    values = facts_values()
    alter, message = CONTRADICTIONS[name]
    alter(values)
    with pytest.raises(SchemaError, match=f"^film.facts.json, field .*{re.escape(message)}"):
        parse_json(json.dumps(values), VideoFacts, "film.facts.json")


def test_two_tracks_of_an_entity_at_the_same_time_are_refused():
    values = facts_values()
    values["tracks"] *= 2
    with pytest.raises(ValueError, match="tracks of 'key', field times_us: the span from 5000000 us begins before"):
        VideoFacts.model_validate(values)


def test_without_complete_events_may_be_missing():
    values = facts_values() | {"complete": False}
    values["events"][2]["actor"] = "ben"
    values["events"][2]["recipient"] = "anna"
    assert VideoFacts.model_validate(values).events[2].actor == "ben"


def test_the_first_holder_of_a_thing_is_open():
    values = facts_values()
    del values["events"][0]
    values["events"][1]["causes"] = []
    assert VideoFacts.model_validate(values).complete


def test_addresses_in_the_wording_lose_their_credentials():
    values = facts_values()
    values["entities"][0]["name"] = "the woman of https://user:secret@host/x"
    assert "secret" not in VideoFacts.model_validate(values).entities[0].name


@pytest.mark.parametrize(
    ("seconds", "message"),
    [
        (100, None),
        (99, "entity 'anna': a span ends at 100000000 us, after the video's end at 99000000 us"),
        (77, "event 'leave' ends at 78000000 us, after"),
    ],
)
def test_find_outside_names_the_first_fact_after_the_end(seconds, message):
    found = find_outside(VideoFacts.model_validate(facts_values()), seconds * SECOND)
    assert found is None if message is None else found.startswith(message)


def test_find_outside_covers_goals_and_tracks():
    values = facts_values()
    for entity in values["entities"]:
        entity["spans"] = []
    values |= {"events": [], "goals": values["goals"][:1]}
    facts = VideoFacts.model_validate(values)
    assert find_outside(facts, 24 * SECOND) is None
    assert find_outside(facts, 23 * SECOND).startswith("goal 'enter': a span of `shown` ends at 24000000 us")
    assert find_outside(facts.model_copy(update={"goals": ()}), 5 * SECOND).startswith("track of 'key': a box is at")


@given(st.lists(st.sampled_from(["take", "give", "put", "lose"]), max_size=12), st.integers(0, 2**16))
def test_facts_are_refused_exactly_if_somebody_passes_on_what_they_do_not_hold(actions, seed):
    """A random story of one thing and three people, with the holder kept by hand."""
    people = ["a", "b", "c"]
    events, holder, is_known, is_right = [], None, False, True
    for index, action in enumerate(actions):
        actor = people[(seed >> index) % 3]
        recipient = people[((seed >> index) + 1) % 3] if action == "give" else None
        if is_known:
            is_right &= (holder != actor) if action == "take" else (holder == actor)
        holder, is_known = {"take": actor, "give": recipient}.get(action), True
        events.append(
            EventFact(start_us=index, end_us=index + 1, event_id=f"e{index}", actor=actor, action=action,
                      phrase="does it", object="ball", recipient=recipient)
        )  # fmt: skip
    entities = [EntityFact(entity_id=each, kind="person", name=f"person {each}") for each in people]
    entities.append(EntityFact(entity_id="ball", kind="thing", name="the ball"))
    values = {"entities": entities, "events": events}
    assert VideoFacts(**values).events == tuple(events)
    if is_right:
        assert VideoFacts(**values, complete=True).complete
    else:
        with pytest.raises(ValueError, match=r"cannot (give|put|lose) 'ball'|takes 'ball', and holds it"):
            VideoFacts(**values, complete=True)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=8), st.integers(1, 10))
def test_causes_are_accepted_exactly_if_they_start_earlier(links, apart):
    """Any graph of causes among ten events. Events start in pairs at the same time if `apart` is large."""
    starts = [index // (1 + apart // 6) for index in range(10)]
    causes = {effect: tuple(f"e{cause}" for cause, other in links if other == effect) for effect in range(10)}
    is_right = all(starts[cause] < starts[effect] for cause, effect in links)
    events = [
        EventFact(start_us=start, end_us=start + 1, event_id=f"e{index}", actor="a", action="go", phrase="runs",
                  causes=causes[index])
        for index, start in enumerate(starts)
    ]  # fmt: skip
    assert all(first.start_us <= second.start_us for first, second in pairwise(events))
    entities = [EntityFact(entity_id="a", kind="person", name="the walker")]
    if is_right:
        assert VideoFacts(entities=entities, events=events).events == tuple(events)
    else:
        with pytest.raises(ValueError, match="a cause is an earlier event, and no two events cause each other"):
            VideoFacts(entities=entities, events=events)
