"""Guarantees of the timeline, on scripts of any shape."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.demo.films.script import FPS, Distractor, FilmScript, MovingObject, Shot, Transition, frames_of
from operators.demo.films.timeline import ScriptError, object_at, place_shots, view_at
from schemas.tables import VideoCategory


def film(*shots: Shot) -> FilmScript:
    return FilmScript(film_id="f", title="F", category=VideoCategory.FILM, synopsis="", shots=shots)


def transitions() -> st.SearchStrategy[Transition]:
    gradual = st.builds(
        lambda kind, half: Transition(kind=kind, seconds=2 * half / FPS),
        st.sampled_from(["dissolve", "fade"]),
        st.integers(1, 12),
    )
    return st.just(Transition()) | gradual


def shots(enter: st.SearchStrategy[Transition]) -> st.SearchStrategy[Shot]:
    return st.builds(
        lambda frames, transition: Shot(scene="market", seconds=frames / FPS, enter=transition),
        st.integers(25, 500),
        enter,
    )


@given(shots(st.just(Transition())), st.lists(shots(transitions()), max_size=12))
def test_shots_tile_the_film_and_transitions_stay_apart(first, others):
    script = film(first, *others)
    placed = place_shots(script)
    assert [shot.start for shot in placed] == [0, *(shot.end for shot in placed[:-1])]
    assert [shot.end - shot.start for shot in placed] == [frames_of(shot.seconds) for shot in script.shots]
    for before, after in pairwise(placed):
        assert before.fade_end <= after.fade_start <= after.start <= after.fade_end < after.end
        assert after.start - after.fade_start == after.fade_end - after.start


def test_a_shot_hidden_by_its_transitions_is_an_error():
    long = Transition(kind="dissolve", seconds=2.0)
    with pytest.raises(ScriptError, match=r"film f: shot 1 \(2.0 s\) is covered by the transitions"):
        place_shots(
            film(
                Shot(scene="card", seconds=3),
                Shot(scene="card", seconds=2, enter=long),
                Shot(scene="card", seconds=3, enter=long),
            )
        )


def test_a_film_cannot_open_with_a_dissolve():
    with pytest.raises(ScriptError, match="opens with a dissolve"):
        place_shots(film(Shot(scene="card", seconds=3, enter=Transition(kind="dissolve", seconds=0.8))))


def test_an_object_waits_moves_and_waits_facing_its_way():
    car = MovingObject(name="red car", kind="car", colour="red", path=((1, 500, 300), (2, 100, 300)))
    (placed,) = place_shots(film(Shot(scene="street", seconds=4, objects=(car,))))
    boxes = {frame: object_at(car, placed, frame)[1] for frame in range(100)}
    middles = {frame: (box.left + box.right) / 2 for frame, box in boxes.items()}
    assert middles[0] == middles[25] == pytest.approx(500, abs=1)
    assert middles[37] == pytest.approx(500 - 400 * 12 / 25, abs=1)
    assert middles[50] == middles[99] == pytest.approx(100, abs=1)
    assert all(box.bottom == 300 for box in boxes.values())
    rightward = MovingObject(name="red car", kind="car", colour="red", path=((1, 100, 300), (2, 500, 300)))
    left, right = object_at(car, placed, 0)[0].pictures[0], object_at(rightward, placed, 0)[0].pictures[0]
    assert (left == right[:, ::-1]).all() and (left != right).any()


@given(
    st.integers(-160, 160),
    st.integers(-400, 400),
    st.integers(-400, 400),
    st.floats(1, 2.5),
    st.tuples(st.floats(-200, 800), st.floats(0, 360)),
    st.integers(0, 99),
)
def test_the_view_never_leaves_the_scene_and_objects_stay_where_they_are_in_it(start, drift, swing, zoom, focus, frame):
    cup = MovingObject(name="red cup", kind="cup", colour="red", path=((0, 320, 200),))
    pan = Distractor(kind="pan", start=2, seconds=0.6, pixels=swing)
    shot = Shot(
        scene="library",
        seconds=4,
        camera=start,
        drift=drift,
        zoom=zoom,
        focus=focus,
        distractors=(pan,),
        objects=(cup,),
    )
    (placed,) = place_shots(film(shot))
    left, top = view_at(placed, frame)
    assert 0 <= left <= round(960 * zoom) - 640 and 0 <= top <= round(360 * zoom) - 360
    _, box = object_at(cup, placed, frame)
    assert (box.left + box.right) / 2 + left == pytest.approx((160 + 320) * zoom, abs=1)
    assert box.bottom + top == pytest.approx(200 * zoom, abs=1)


def test_a_view_at_rest_shows_the_middle_and_the_camera_moves_it():
    (rest, right) = (place_shots(film(Shot(scene="beach", seconds=4, camera=camera)))[0] for camera in (0, 40))
    assert view_at(rest, 10) == (160, 0)
    assert view_at(right, 10) == (200, 0)
