"""What the demo promises without starting anything: three splits from its films, and a table a person can read."""

import io

from rich.console import Console

from operators.airflow_params import config_from_params
from operators.demo import SETTINGS, make_films
from operators.demo_progress import progress_table
from operators.samples.stories import film_scripts
from operators.sources import source_id_of
from operators.stages.assemble import assign_splits
from schemas.tables import Split
from tests.support.rows import make_video


def test_the_story_films_fall_into_all_three_splits():
    config = config_from_params({"source": "/films", "out": "/out", **SETTINGS})
    films = [make_video(source_id_of(f"{film_id}.mp4")) for film_id in film_scripts()]
    assert set(assign_splits(films, config.assemble, config.seed).values()) == set(Split)


def test_the_real_film_comes_along_and_is_not_copied_twice(tmp_path, monkeypatch):
    carried = tmp_path / "carried.mp4"
    carried.write_bytes(b"film")
    monkeypatch.setattr("operators.demo.render_samples", lambda folder, progress: folder.mkdir(exist_ok=True) or [])
    monkeypatch.setattr("operators.demo._carried_film", lambda: carried)
    [film] = make_films(tmp_path / "films", Console(file=io.StringIO()))
    assert (film.name, film.read_bytes()) == ("real_film.mp4", b"film")
    carried.write_bytes(b"other")
    assert make_films(tmp_path / "films", Console(file=io.StringIO())) == [film]
    assert film.read_bytes() == b"film"


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
