"""What the demo promises without starting anything: three splits from its films, and a table a person can read."""

import io
from pathlib import Path

from rich.console import Console

from operators.airflow_params import config_from_params
from operators.local_airflow.demo import SETTINGS, make_films
from operators.local_airflow.progress import progress_table
from operators.samples import write_manifest
from operators.samples.stories import film_scripts
from operators.sources.listing import read_sources
from operators.stages.assemble import assign_splits
from schemas.tables import Split
from tests.support.rows import make_video


def test_the_story_films_fall_into_all_three_splits():
    config = config_from_params({"source": "/films", "out": "/out", **SETTINGS})
    films = [make_video(film_id) for film_id in film_scripts()]
    assert set(assign_splits(films, config.assemble, config.seed).values()) == set(Split)


def test_the_real_film_comes_along_and_is_not_copied_twice(tmp_path, monkeypatch):
    carried = tmp_path / "carried.mp4"
    carried.write_bytes(b"film")
    folder = tmp_path / "films"
    folder.mkdir()
    monkeypatch.setattr(
        "operators.local_airflow.demo.render_samples", lambda folder, progress: write_manifest(folder, [])
    )
    monkeypatch.setattr("operators.local_airflow.demo._carried_film", lambda: carried)
    for _ in range(2):
        [film] = read_sources(str(make_films(folder, Console(file=io.StringIO())))).sources
        assert (film.source_id, Path(film.uri).read_bytes()) == ("real_film", b"film")
        carried.write_bytes(b"other")


def task(task_id: str, map_index: int = -1, state: str | None = None, duration: float | None = None, label: str = ""):
    return {
        "task_id": task_id, "map_index": map_index, "state": state, "duration": duration, "rendered_map_index": label,
    }  # fmt: skip


def test_the_table_shows_lanes_by_stages():
    tasks = [
        task("publish"),
        task("plan", state="success", duration=4.4),
        task("lane.ingest", 0, "success", 3.2, "film-a +1"),
        task("lane.split", 0, "failed"),
        task("lane.ingest", 1, "running"),
    ]
    printed = io.StringIO()
    Console(file=printed, width=140).print(progress_table(tasks, 12.0))
    title, *body = printed.getvalue().splitlines()
    assert "12 s" in title
    [first] = [line for line in body if "film-a +1" in line]
    assert "✓ 3 s" in first and "✗" in first
    assert any(line.startswith("│ 1") and "▶" in line for line in body)
    assert "plan ✓ 4 s  publish ·" in body[-1]
