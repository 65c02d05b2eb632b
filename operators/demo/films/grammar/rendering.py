"""Renders films of the story grammar, each with its ground truth and its facts, and lists them in a manifest.

    render_films(Path("films"), count=10, minutes=(3, 5), seed=1)

A film's facts are written before it and its ground truth after it. So an interrupted run leaves no incomplete film, and
the next run renders only what is missing.
"""

import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple, cast, get_args

import cv2

from operators.demo.films.film import FilmRenderError, render_film
from operators.demo.films.gallery import write_manifest
from operators.demo.films.grammar.film import Texts, make_film
from schemas.errors import BadInput
from schemas.manifest import FactsFile, ManifestRow


class FilmOrder(NamedTuple):
    """Which film of a seed is to be rendered, and how long it may be, in minutes."""

    seed: int
    number: int
    minutes: tuple[float, float]
    texts: Texts


def render_films(
    directory: Path,
    *,
    count: int,
    minutes: tuple[float, float],
    seed: int,
    texts: Texts = "none",
    workers: int | None = None,
    progress: Callable[[str], None] | None = None,
) -> Path:
    """Render `count` films of a seed into `directory`, unless they are there, and return the path of their manifest.

    Next to each `<film>.mp4` are `<film>.truth.json` (`operators.demo.films.script.FilmTruth`) and `<film>.facts.json`
    (`schemas.manifest.FactsFile`). `manifest.json` lists the films of this call and is a source for builds. Only one
    run at a time may write into a folder.

    Args:
        workers: films that are rendered concurrently; by default one for each core.
        progress: gets one line for each finished film.

    Raises:
        BadInput: no films are requested, or their length is impossible.
        FilmRenderError: the folder cannot be written, or ffmpeg fails.
    """
    if count < 1:
        raise BadInput(f"{count} films cannot be rendered; request at least one")
    _clear_scratch(directory)
    report = progress or (lambda line: None)
    started = time.monotonic()
    orders = [FilmOrder(seed, index, minutes, texts) for index in range(count)]
    rows: dict[int, ManifestRow] = {}
    processes = min(workers or os.cpu_count() or 1, count)
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        jobs = [pool.submit(_render, order, directory) for order in orders]
        try:
            for job in as_completed(jobs):
                index, rows[index], line = job.result()
                report(f"{line}, {time.monotonic() - started:.0f} s after the start")
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return write_manifest(directory, [rows[index] for index in range(count)])


def parse_minutes(text: str) -> tuple[float, float]:
    """The bounds that `4` or `3..5` stand for.

    Raises:
        BadInput: the text has another form.
    """
    first, dots, last = text.partition("..")
    try:
        return float(first), float(last if dots else first)
    except ValueError as error:
        raise BadInput(f"{text!r} is not a length in minutes; write `4`, or bounds such as `3..5`") from error


def parse_texts(text: str) -> Texts:
    """How much text is shown on the screen.

    Raises:
        BadInput: the word is unknown.
    """
    for known in get_args(Texts):
        if text == known:
            return cast(Texts, text)
    raise BadInput(f"{text!r} is no amount of on-screen text; choose one of {', '.join(get_args(Texts))}")


def _clear_scratch(directory: Path) -> None:
    """Make the folder, check that it can be written, and remove what killed runs have left in it."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for scratch in directory.glob(".story_*"):
            shutil.rmtree(scratch)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise FilmRenderError(f"films cannot be written into {directory}: {error}; choose another folder") from error


def _render(order: FilmOrder, directory: Path) -> tuple[int, ManifestRow, str]:
    # One process per film already uses all cores. OpenCV's own threads would only compete with the encoder.
    cv2.setNumThreads(1)
    film = make_film(order.seed, order.minutes, order.texts, order.number)
    facts = directory / f"{film.script.film_id}.facts.json"
    text = FactsFile(annotations=film.captions, facts=film.facts).model_dump_json(exclude_defaults=True)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{film.script.film_id}.", dir=directory) as scratch:
            draft = Path(scratch) / facts.name
            draft.write_text(text, encoding="utf-8")
            draft.replace(facts)
    except OSError as error:
        raise FilmRenderError(f"film {film.script.film_id}: cannot write {facts}: {error}") from error
    rendered = render_film(film.script, directory)
    row = ManifestRow(
        uri=rendered.path.name,
        source_id=film.script.film_id,
        title=film.script.title,
        category=film.script.category,
        licence="CC0-1.0",
        origin=f"rendered by `lvr films --seed {order.seed}`",
        facts=facts.name,
    )
    minutes, seconds = divmod(film.duration_us // 1_000_000, 60)
    done = "reused" if rendered.reused else "rendered"
    what = f"{len(film.script.shots)} shots, {len(film.facts.events)} events"
    return order.number, row, f"{film.script.film_id}: {minutes}:{seconds:02d}, {what}, {done}"
