"""What work costs: CPU seconds in this process and those it started, and memory in a process of its own.

CPU seconds, not seconds on the clock: the machine may be shared. Even so a busy neighbour costs cache and clock rate,
so what is compared runs in turns, several times, and the least of each counts.
"""

from __future__ import annotations

import multiprocessing
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from resource import RUSAGE_CHILDREN, RUSAGE_SELF, getrusage

from operators.video.ffmpeg import ffmpeg_executable

_LOOK_SECONDS = 0.05


@dataclass(frozen=True)
class Watched:
    """What a process of its own has taken."""

    cpu_seconds: float
    wall_seconds: float
    peak_bytes: int
    """Most memory resident at once, interpreter and libraries included."""
    wanted_seconds: float
    """CPU seconds, and seconds in which threads were ready to run but the cores were taken by other programs."""


def cpu_seconds() -> float:
    """Of this process and of all its children that have ended."""
    usages = getrusage(RUSAGE_SELF), getrusage(RUSAGE_CHILDREN)
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def least_cpu_seconds(rows: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Run all rows in turns; the least CPU seconds of each."""
    least = dict.fromkeys(rows, float("inf"))
    for _ in range(repeats):
        for name, work in rows.items():
            before = cpu_seconds()
            work()
            least[name] = min(least[name], cpu_seconds() - before)
    return least


def ffmpeg_cli(*arguments: str | Path) -> None:
    """Run the ffmpeg that the engine uses, as a user would on the command line."""
    command = [ffmpeg_executable(), "-nostdin", "-hide_banner", "-loglevel", "error", "-y", *map(str, arguments)]
    subprocess.run(command, check=True)


def watched(work: Callable[..., object], *arguments: object) -> Watched:
    """Run a module's function in a fresh process."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_watch, work, arguments).result()


def _watch(work: Callable[..., object], arguments: Sequence[object]) -> Watched:
    ended = threading.Event()
    waits: dict[str, float] = {}
    watcher = threading.Thread(target=_note_waits, args=(ended, waits))
    watcher.start()
    started, before = time.monotonic(), cpu_seconds()
    try:
        work(*arguments)
    finally:
        ended.set()
        watcher.join()
    used = cpu_seconds() - before
    return Watched(used, time.monotonic() - started, _peak_bytes(), used + sum(waits.values()))


def _note_waits(ended: threading.Event, waits: dict[str, float]) -> None:
    """Seconds that each thread has waited for a core since the beginning; a thread's figure goes away with it."""
    first: dict[str, float] = {}
    while not ended.wait(_LOOK_SECONDS):
        for task in Path("/proc/self/task").iterdir():
            try:
                waited = int((task / "schedstat").read_text().split()[1]) / 1e9
            except (FileNotFoundError, ProcessLookupError):
                continue  # the thread has ended meanwhile
            waits[task.name] = waited - first.setdefault(task.name, 0.0 if waits else waited)


def _peak_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
