"""Properties of the facts over many seeds. Nothing is rendered."""

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.demo.films.grammar import Film, make_film
from operators.demo.films.truth import film_truth
from schemas.base import canonical_json
from schemas.errors import BadInput
from schemas.facts import EntityKind, EventFact, VideoFacts

SEEDS = range(8)


@pytest.fixture(scope="module", params=[*SEEDS, pytest.param(60, marks=pytest.mark.slow, id="an hour")])
def film(request) -> Film:
    return make_film(1, (59.5, 60.0)) if request.param == 60 else make_film(request.param, (1.5, 2.5))


def test_a_film_is_as_long_as_requested_and_its_script_can_be_drawn(film):
    truth = film_truth(film.script, script_sha256="0" * 64, film_sha256="0" * 64, film_bytes=0)
    assert truth.duration_us == film.duration_us
    assert 1.5 <= film.duration_us / 60e6 <= 2.5 or 59.5 <= film.duration_us / 60e6 <= 60
    assert all(event.end_us <= film.duration_us for event in film.facts.events)


def test_nobody_holds_two_things_and_nothing_has_two_holders(film):
    holder: dict[str, str] = {}
    for event in film.facts.events:
        if event.action not in ("take", "give", "put", "lose"):
            continue
        thing, held = str(event.object), set(holder.values())
        if event.action in ("give", "put", "lose"):
            assert holder.pop(thing, event.actor) == event.actor
        if event.action == "take":
            assert event.actor not in held
            assert thing not in holder or " away from " in event.phrase
            holder[thing] = event.actor
        if event.action == "give":
            assert event.recipient not in held
            holder[thing] = str(event.recipient)


def test_everybody_is_where_they_act_and_gets_there_by_leaving_and_arriving(film):
    place: dict[str, str | None] = {}
    for event in film.facts.events:
        if event.action in ("fly", "cross"):
            continue
        if event.action == "arrive":
            assert place[event.actor] is None
        else:
            assert place.get(event.actor, event.place) == event.place
        place[event.actor] = None if event.action == "leave" else event.place


def test_nobody_leaves_past_a_gate_or_a_boulder_that_closes_the_way(film):
    facts = film.facts
    closed: dict[tuple[str, str], str] = {}
    for entity in facts.entities:
        if entity.entity_id.endswith(("_gate", "_boulder")):
            track = next(track for track in facts.tracks if track.entity == entity.entity_id)
            place = next(
                each.entity_id
                for each in facts.entities
                if each.kind is EntityKind.PLACE
                and any(span.start_us <= track.times_us[0] < span.end_us for span in each.spans)
            )
            closed[place, "left" if track.boxes[0].x0 < 0.5 else "right"] = entity.entity_id
    for event in facts.events:
        if event.action in ("open", "roll"):
            closed = {way: entity for way, entity in closed.items() if entity != event.actor}
        if event.action == "leave":
            assert (event.place, event.phrase.rpartition(" ")[2]) not in closed


def test_causes_precede_their_effects(film):
    known: dict[str, EventFact] = {}
    for event in film.facts.events:
        assert all(known[cause].start_us <= event.start_us for cause in event.causes)
        known[event.event_id] = event
    assert len(known) == len(film.facts.events)


def test_everything_that_is_moved_is_free_because_of_its_last_change(film):
    last: dict[str, str] = {}
    for event in film.facts.events:
        if event.action in ("take", "give", "put", "lose"):
            if event.object in last:
                assert last[event.object] in event.causes
            last[str(event.object)] = event.event_id


def test_names_are_unique_and_every_id_is_an_entity(film):
    facts = film.facts
    assert max(Counter(entity.name for entity in facts.entities).values()) == 1
    known = {entity.entity_id for entity in facts.entities}
    for event in facts.events:
        assert {event.actor, event.object, event.recipient, event.place} - {None} <= known
    assert {goal.actor for goal in facts.goals} | {track.entity for track in facts.tracks} <= known


def test_goals_are_shown_before_they_are_served_and_their_end_is_known(film):
    facts = film.facts
    for goal in facts.goals:
        assert goal.shown and goal.reached is not None
        served = [event for event in facts.events if event.goal == goal.goal_id]
        assert all(event.start_us >= goal.shown[0].start_us for event in served)
        assert all(event.actor == goal.actor for event in served)


def test_actors_are_seen_while_they_act(film):
    facts = film.facts
    seen = {entity.entity_id: entity.spans for entity in facts.entities}
    for event in facts.events:
        spans = [*seen[event.actor], *(seen[event.object] if event.object else ())]
        assert any(span.start_us < event.end_us and event.start_us < span.end_us for span in spans)


def test_places_are_seen_all_the_time(film):
    places = [span for each in film.facts.entities if each.kind is EntityKind.PLACE for span in each.spans]
    assert sum(span.end_us - span.start_us for span in places) == film.duration_us


def test_the_same_seed_makes_the_same_film_and_others_differ():
    one, again, other = make_film(3, 1.0), make_film(3, 1.0), make_film(3, 1.0, index=1)
    assert canonical_json(list(one)) == canonical_json(list(again))
    assert one.script.shots != other.script.shots


def test_a_film_of_a_fixed_length_has_exactly_this_length():
    assert make_film(5, 1.0).duration_us == 60_000_000


@pytest.mark.parametrize("minutes", [0.1, (3.0, 2.0)])
def test_impossible_lengths_are_explained(minutes):
    with pytest.raises(BadInput, match="cannot be made; give bounds in order"):
        make_film(1, minutes)


@pytest.mark.parametrize("texts", ["few", "many"])
def test_texts_can_be_drawn_and_only_many_write_what_people_want(texts):
    film = make_film(2, 1.0, texts)
    truth = film_truth(film.script, script_sha256="0" * 64, film_sha256="0" * 64, film_bytes=0)
    on_cards = {text.text for text in truth.texts if truth.shots[text.shot_index].scene == "card"}
    others = [text.text for text in truth.texts if text.text not in on_cards]
    assert on_cards and bool(others) == (texts == "many")


def test_a_film_without_texts_has_none():
    assert not any(shot.texts for shot in make_film(2, 1.0).script.shots)


def test_the_driver_of_a_car_is_seen_above_it():
    driven = 0
    for facts in (make_film(seed, (1.5, 2.5)).facts for seed in SEEDS):
        cars = {each.entity_id for each in facts.entities if each.name.endswith(" car")}
        for event in (each for each in facts.events if each.object in cars and each.action in ("leave", "arrive")):
            driven += 1
            rider, car = (
                [
                    (time_us, box)
                    for track in facts.tracks
                    if track.entity == entity
                    for time_us, box in zip(track.times_us, track.boxes, strict=True)
                    if event.start_us <= time_us < event.end_us
                ]
                for entity in (event.actor, event.object)
            )
            for time_us, box in rider[2:-2]:
                _, below = min(car, key=lambda each: abs(each[0] - time_us))
                assert below.x0 <= (box.x0 + box.x1) / 2 <= below.x1
                assert box.y0 < below.y0
            assert len(rider) >= 5
    assert driven


def test_what_nobody_holds_rests_unless_it_takes_part_in_an_event(film):
    """Checked on the boxes that are drawn, where the camera stands. Searching and opening show what is inside.

    What comes into the frame may be at its edge for a moment before its event begins.
    """
    facts, script = film.facts, film.script
    truth = film_truth(script, script_sha256="0" * 64, film_sha256="0" * 64, film_bytes=0)
    fixed = [
        (each.start_us, each.end_us)
        for each, shot in zip(truth.shots, script.shots, strict=True)
        if not shot.drift and not shot.distractors
    ]
    things = {entity.entity_id for entity in facts.entities if entity.kind is EntityKind.THING}
    checked = 0
    for track in facts.tracks:
        if track.entity not in things or not any(
            start <= track.times_us[0] and track.times_us[-1] < end for start, end in fixed
        ):
            continue
        own = [each for each in facts.events if track.entity in (each.actor, each.object, each.recipient)]
        moving = [*own, *(each for each in facts.events if each.action in ("search", "open"))]
        passed_on = [each for each in own if each.action in ("take", "give", "put", "lose")]
        for (start_us, one), (end_us, other) in pairwise(zip(track.times_us, track.boxes, strict=True)):
            before = [each for each in passed_on if each.start_us <= start_us]
            held = before[-1].action in ("take", "give") if before else passed_on[:1] and passed_on[0].action != "take"
            if held or any(each.start_us <= end_us + 400_000 and start_us <= each.end_us for each in moving):
                continue
            checked += 1
            moved = max(abs(getattr(one, edge) - getattr(other, edge)) for edge in ("x0", "y0", "x1", "y1"))
            assert moved < 0.006, (track.entity, start_us)
    assert checked > 20


@settings(max_examples=10)
@given(st.integers(8, 2**63))
def test_the_facts_of_any_seed_read_back_and_causes_start_before_their_effects(seed):
    facts = make_film(seed, (0.5, 1.0)).facts
    assert VideoFacts.model_validate_json(facts.model_dump_json()) == facts
    starts = {event.event_id: event.start_us for event in facts.events}
    assert all(starts[cause] < event.start_us for event in facts.events for cause in event.causes)
