"""Guarantees of the demo that need no start: its films, their facts, and the splits that they fall into."""

import io
from collections import Counter
from pathlib import Path
from random import Random

from rich.console import Console

from operators.airflow.params import config_from_params
from operators.demo.films.grammar import make_film
from operators.demo.local_airflow import demo
from operators.questions.facts.derive import derive
from operators.sources.listing import read_sources
from operators.stages.assemble import assign_splits
from operators.store.content_store import Store
from schemas.tables import QuestionCategory, QuestionKind, Split
from tests.support.rows import make_video

CONFIG = config_from_params({"source": "/films", "out": "/out", **demo.SETTINGS})


def test_the_films_last_three_minutes_give_all_questions_and_fall_into_all_splits():
    films = [make_film(demo.FILMS["seed"], demo.FILMS["minutes"], index=index) for index in range(demo.FILMS["count"])]
    for film in films:
        assert film.duration_us >= 180_000_000
        found = derive(film.facts, film.duration_us, tuple(QuestionKind), CONFIG.question.per_template, Random(0))
        count = Counter((each.category, each.kind) for each in found)
        assert min(count[category, kind] for category in QuestionCategory for kind in QuestionKind) >= 2
    ids = [*(film.script.film_id for film in films), demo.MEASURED_FILM]
    videos = [[make_video(film_id)] for film_id in ids]
    splits = assign_splits(videos, dict.fromkeys(ids), CONFIG.assemble, CONFIG.seed)
    assert set(splits.values()) == set(Split) == {splits[film_id] for film_id in ids[:-1]}


def test_films_are_listed_with_their_facts_but_for_one_and_are_rendered_once(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "FILMS", {"count": 1, "minutes": (0.5, 0.6), "seed": 50})
    monkeypatch.setattr(demo, "MEASURED_SHOTS", 1)
    changes = []
    for _ in range(2):
        manifest = demo.make_films(tmp_path, Console(file=io.StringIO()))
        story, measured = read_sources(str(manifest), store=Store(str(tmp_path / "store"))).sources
        assert (story.source_id, measured.source_id) == ("story_50_0000", demo.MEASURED_FILM)
        assert story.facts_uri and story.annotations
        assert not (measured.facts_uri or measured.annotations)
        changes.append([Path(film.uri).stat().st_mtime_ns for film in (story, measured)])
    assert changes[0] == changes[1]
