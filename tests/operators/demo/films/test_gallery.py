"""The beginning of a real film through the public entry point, and properties of all scripts that need no rendering."""

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import av
import pytest

from operators.demo.films import gallery, render_demo_films
from operators.demo.films.script import FilmTruth
from operators.demo.films.stories import film_scripts
from operators.demo.films.truth import film_truth
from schemas.errors import BadInput


@pytest.fixture(scope="module", params=list(film_scripts()))
def truth(request) -> FilmTruth:
    return film_truth(film_scripts()[request.param], script_sha256="0" * 64, film_sha256="0" * 64, film_bytes=0)


def test_every_film_lasts_five_to_six_minutes_in_shots_of_3_to_20_seconds(truth):
    assert 305_000_000 <= truth.duration_us <= 360_000_000
    assert all(3_000_000 <= shot.end_us - shot.start_us <= 20_000_000 for shot in truth.shots)
    assert {shot.transition for shot in truth.shots} == {"cut", "dissolve", "fade"}
    assert {each.kind for each in truth.distractors} == {"flash", "pan"}
    assert len({shot.scene for shot in truth.shots}) >= 8


def test_texts_stay_long_enough_to_be_read_and_differ(truth):
    assert all(2_500_000 <= text.end_us - text.start_us <= 8_400_000 for text in truth.texts)
    assert all(text.box.bottom - text.box.top >= 16 for text in truth.texts)
    assert max(Counter(text.text for text in truth.texts).values()) == 1
    assert len({text.region for text in truth.texts}) >= 5


def test_a_repeated_event_keeps_its_name():
    def count_events(film: str) -> Counter[str]:
        return Counter(event.name for shot in film_scripts()[film].shots for event in shot.events)

    assert count_events("the_lost_parcel")["the blue ferry passes"] == 3
    assert count_events("the_lost_parcel")["the red car passes"] == 3
    assert count_events("the_mountain_rally")["the white plane flies over"] == 4
    assert count_events("the_robot_gardener")["the blue drone brings water"] == 4


def test_a_film_is_rendered_then_reused(tmp_path, monkeypatch):
    script = film_scripts()["the_lost_parcel"]
    short = script.model_copy(update={"shots": script.shots[:6]})
    monkeypatch.setattr(gallery, "film_scripts", lambda: {"the_lost_parcel": short})
    # Another process would not see the short script.
    monkeypatch.setattr(gallery, "ProcessPoolExecutor", lambda workers, mp_context: ThreadPoolExecutor(workers))
    lines: list[str] = []
    (path,) = render_demo_films(tmp_path, films=["the_lost_parcel"], progress=lines.append)
    assert render_demo_films(tmp_path, films=["the_lost_parcel"], progress=lines.append) == [path]
    assert "rendered" in lines[0] and lines[1].endswith("reused")

    truth = FilmTruth.model_validate(json.loads(path.with_suffix(".truth.json").read_text(encoding="utf-8")))
    with av.open(str(path)) as container:
        assert sum(packet.size > 0 for packet in container.demux(video=0)) == truth.frame_count
        assert container.duration == pytest.approx(truth.duration_us, abs=50_000)
    assert path.stat().st_size < 40_000 * truth.duration_us / 1e6  # bytes per second
    assert len(truth.shots) == 6


def test_an_unknown_film_is_named_with_those_that_exist(tmp_path):
    with pytest.raises(BadInput, match=r"no demo film is called the_lost_cat; there are: the_lost_parcel, "):
        render_demo_films(tmp_path, films=["the_lost_cat"])
