"""Renders the demo films concurrently, each in its own process."""

import json
import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import cv2

from operators.demo.films.film import RenderedFilm, render_film
from operators.demo.films.stories import film_scripts
from schemas.errors import BadInput
from schemas.manifest import ManifestRow


def render_demo_films(
    directory: Path,
    *,
    films: Sequence[str] | None = None,
    workers: int = 2,
    progress: Callable[[str], None] | None = None,
) -> list[Path]:
    """Render the demo films, or only those named in `films`, into `directory`; return their mp4 paths in order.

    Each `<film>.mp4` has its ground truth in `<film>.truth.json` (`operators.demo.films.script.FilmTruth`). The folder
    also gets a `manifest.json`, which is a source for builds. Films that are already there are kept. `progress` gets
    one line per finished film.

    Raises:
        BadInput: a film is unknown.
        FilmRenderError: ffmpeg or the disk fails.
    """
    known = list(film_scripts())
    wanted = list(dict.fromkeys(known if films is None else films))
    if unknown := [name for name in wanted if name not in known]:
        raise BadInput(f"no demo film is called {', '.join(unknown)}; there are: {', '.join(known)}")
    report = progress or (lambda line: None)
    started = time.monotonic()
    rendered: dict[str, RenderedFilm] = {}
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        jobs = {pool.submit(_render_named, name, directory): name for name in wanted}
        for job in as_completed(jobs):
            film = job.result()
            rendered[jobs[job]] = film
            report(_line(film, time.monotonic() - started))
    write_manifest(directory, [_manifest_row(rendered[name]) for name in wanted])
    return [rendered[name].path for name in wanted]


def write_manifest(directory: Path, rows: Sequence[ManifestRow]) -> Path:
    """Write `manifest.json` into the folder that holds the rows' films, and return its path."""
    path = directory / "manifest.json"
    text = json.dumps([row.model_dump(mode="json", exclude_defaults=True) for row in rows], indent=1)
    path.write_text(text + "\n", encoding="utf-8")
    return path


def _manifest_row(film: RenderedFilm) -> ManifestRow:
    truth = film.truth
    return ManifestRow(
        uri=film.path.name,
        source_id=truth.film_id,
        title=truth.title,
        category=truth.category,
        licence="CC0-1.0",
        origin="rendered by `lvr demo-films`",
    )


def _render_named(name: str, directory: Path) -> RenderedFilm:
    # One process per film already uses all cores. OpenCV's own threads would only compete with the encoder.
    cv2.setNumThreads(1)
    return render_film(film_scripts()[name], directory)


def _line(film: RenderedFilm, seconds: float) -> str:
    truth = film.truth
    minutes, rest = divmod(truth.duration_us // 1_000_000, 60)
    done = "reused" if film.reused else f"rendered, {seconds:.1f} s after the start"
    return f"{truth.film_id}: {minutes}:{rest:02d}, {len(truth.shots)} shots, {truth.film_bytes / 1e6:.1f} MB, {done}"
