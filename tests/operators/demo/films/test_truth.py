"""The ground truth of a film, and errors for scripts that contradict themselves."""

import pytest

from operators.demo.films.script import Event, FilmScript, MovingObject, OnScreenText, Region, Shot, Transition
from operators.demo.films.timeline import ScriptError
from operators.demo.films.truth import film_truth
from schemas.base import Span
from schemas.tables import VideoCategory


def truth_of(*shots: Shot):
    script = FilmScript(film_id="f", title="F", category=VideoCategory.FILM, synopsis="", shots=shots)
    return film_truth(script, script_sha256="0" * 64, film_sha256="0" * 64, film_bytes=0)


def car(*path: tuple[float, float, float]) -> MovingObject:
    return MovingObject(name="red car", kind="car", colour="red", path=path)


def test_an_object_that_leaves_and_returns_has_two_spans():
    path = ((0, 320, 300), (1, 900, 300), (2, 900, 300), (3, 320, 300))
    truth = truth_of(Shot(scene="card", seconds=2), Shot(scene="street", seconds=4, objects=(car(*path),)))
    (seen,) = truth.shots[1].objects
    assert seen.visible[0].start_us == 2_000_000
    assert seen.visible[-1].end_us == 6_000_000
    gone = Span(start_us=seen.visible[0].end_us, end_us=seen.visible[1].start_us)
    assert 2_000_000 + 600_000 < gone.start_us < 3_000_000 and 4_000_000 < gone.end_us < 4_500_000
    assert seen.direction == "still"


@pytest.mark.parametrize(
    ("path", "direction"),
    [
        (((0, 100, 300), (2, 500, 300)), "left_to_right"),
        (((0, 500, 300), (2, 100, 250)), "right_to_left"),
        (((0, 300, 300), (2, 320, 100)), "up"),
        (((0, 300, 100), (2, 320, 300)), "down"),
    ],
)
def test_direction(path, direction):
    assert truth_of(Shot(scene="street", seconds=3, objects=(car(*path),))).shots[0].objects[0].direction == direction


def test_an_event_takes_time_and_place_from_its_first_participant_unless_given():
    thing = car((1, -200, 100), (3, 840, 100))
    given = Event(name="rain", start=0.2, end=0.6, region=Region.LEFT)
    passing = Event(name="the car passes", participants=("red car",))
    truth = truth_of(Shot(scene="street", seconds=4, objects=(thing,), events=(passing, given)))
    (span,) = truth.shots[0].objects[0].visible
    assert (truth.events[0].start_us, truth.events[0].end_us, truth.events[0].region) == (
        span.start_us,
        span.end_us,
        Region.TOP,
    )
    assert (truth.events[1].start_us, truth.events[1].end_us, truth.events[1].region) == (200_000, 600_000, "left")


def card(**fields: object) -> Shot:
    return Shot(scene="card", seconds=3, **fields)


FADE = Transition(kind="fade", seconds=1.2)


@pytest.mark.parametrize(
    ("shots", "message"),
    [
        (
            [card(texts=(OnScreenText(text="HELLO", start=1, end=3),)), card(enter=FADE)],
            r"film f: shot 0: text 'HELLO' at 1.0-3.0 s touches a transition .* it may use 0.0-2.4 s",
        ),
        (
            [card(texts=(OnScreenText(text="MUCH TOO LONG FOR A CORNER", start=1, end=3, region=Region.LEFT),))],
            "shot 0: text 'MUCH TOO LONG FOR A CORNER' is .* px wide in style 'story': too wide for region left",
        ),
        (
            [card(texts=(OnScreenText(text="ONE", start=0, end=2), OnScreenText(text="TWO", start=1, end=3)))],
            "texts 'ONE' and 'TWO' cover each other",
        ),
        ([card(objects=(car((0, -500, 300)),))], "object 'red car' never enters the frame"),
        (
            [card(objects=(car((0, 300, 300)),), events=(Event(name="x", participants=("Bob",)),))],
            "event 'x' names 'Bob', but present are: red car",
        ),
        (
            [card(events=(Event(name="x", start=2, end=4, region=Region.TOP),))],
            "event 'x' at 2.0-4.0 s leaves the shot",
        ),
    ],
)  # fmt: skip
def test_a_script_that_contradicts_itself_is_refused(shots, message):
    with pytest.raises(ScriptError, match=message):
        truth_of(*shots)
