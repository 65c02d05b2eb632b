"""How fast films of the story grammar are rendered: seconds of film per second of CPU, next to bare ffmpeg.

    python benchmarks/stories.py [--minutes 5 60] [--seed 1]

The comparison is the same ffmpeg command fed with as many grey frames: no program that encodes with these settings can
be faster.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from operators.demo.films.film import encoder_arguments, ffmpeg_input, render_film
from operators.demo.films.grammar import Film, make_film
from operators.demo.films.script import FRAME_HEIGHT, FRAME_WIDTH
from operators.demo.films.sound import write_sound


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, nargs="+", default=[5.0])
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    print("| minutes | what | CPU s | wall s | x real time per core | peak MB | MB on disk | load |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        for minutes in options.minutes:
            _measure_film(options.seed, minutes, Path(scratch) / f"{minutes}")


def _measure_film(seed: int, minutes: float, folder: Path) -> None:
    folder.mkdir()
    films: list[Film] = []
    _measure("story, facts, captions", minutes, folder, lambda: films.append(make_film(seed, minutes)))
    _measure("rendering", minutes, folder, lambda: render_film(films[0].script, folder))
    _measure("bare ffmpeg, grey frames", minutes, folder, lambda: _encode_grey(films[0], folder / "grey.mp4"))


def _encode_grey(film: Film, path: Path) -> None:
    sound = path.with_suffix(".wav")
    write_sound(film.script, sound)
    planes = np.full((FRAME_HEIGHT * 3 // 2, FRAME_WIDTH), 128, np.uint8)
    with ffmpeg_input("grey", encoder_arguments(sound, path)) as pipe:
        for _ in range(film.duration_us // 40_000):
            pipe.write(planes.data)


def _measure(what: str, minutes: float, folder: Path, work: Callable[[], object]) -> None:
    before, started = _cpu_seconds(), time.monotonic()
    work()
    cpu, wall = _cpu_seconds() - before, time.monotonic() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    size = sum(path.stat().st_size for path in folder.glob("story*.mp4")) / 1e6
    speed = 60 * minutes / cpu
    print(f"| {minutes:g} | {what} | {cpu:.1f} | {wall:.1f} | {speed:.1f} | {peak:.0f} | {size:.1f} | "
          f"{os.getloadavg()[0]:.1f} |", flush=True)  # fmt: skip


def _cpu_seconds() -> float:
    each = [resource.getrusage(process) for process in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in each)


if __name__ == "__main__":
    main()
