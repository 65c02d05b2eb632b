"""Guarantees of the demo that need no start: its films fill all three splits, and each film is copied once."""

import io
from pathlib import Path

from rich.console import Console

from operators.airflow.params import config_from_params
from operators.demo.films import write_manifest
from operators.demo.films.stories import film_scripts
from operators.demo.local_airflow.demo import SETTINGS, make_films
from operators.sources.listing import read_sources
from operators.stages.assemble import assign_splits
from schemas.tables import Split
from tests.support.rows import make_video


def test_the_story_films_fall_into_all_three_splits():
    config = config_from_params({"source": "/films", "out": "/out", **SETTINGS})
    films = [make_video(film_id) for film_id in film_scripts()]
    assert set(
        assign_splits([[film] for film in films], dict.fromkeys(film_scripts()), config.assemble, config.seed).values()
    ) == set(Split)


def test_the_real_film_comes_along_and_is_not_copied_twice(tmp_path, monkeypatch):
    carried = tmp_path / "carried.mp4"
    carried.write_bytes(b"film")
    folder = tmp_path / "films"
    folder.mkdir()
    monkeypatch.setattr(
        "operators.demo.local_airflow.demo.render_demo_films", lambda folder, progress: write_manifest(folder, [])
    )
    monkeypatch.setattr("operators.demo.local_airflow.demo._find_test_film", lambda: carried)
    for _ in range(2):
        [film] = read_sources(str(make_films(folder, Console(file=io.StringIO())))).sources
        assert (film.source_id, Path(film.uri).read_bytes()) == ("real_film", b"film")
        carried.write_bytes(b"other")
