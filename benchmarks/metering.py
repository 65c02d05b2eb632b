"""Measures CPU seconds of this process and its children, and the peak memory of work in a separate process.

CPU seconds are used instead of wall time because the machine may be shared. Other programs still cost cache and clock
rate, so the candidates run alternately, several times, and the minimum of each is reported.
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

from operators.video.decode.ffmpeg import ffmpeg_executable

_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class ProcessCost:
    """Resources used by work in a separate process."""

    cpu_seconds: float
    wall_seconds: float
    peak_bytes: int
    """Peak resident memory in bytes, interpreter and libraries included."""
    wanted_seconds: float
    """CPU seconds plus the seconds in which threads were runnable but waited for a core."""


def cpu_seconds() -> float:
    """CPU seconds (user and system) of this process and of all its children that have ended."""
    usages = getrusage(RUSAGE_SELF), getrusage(RUSAGE_CHILDREN)
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def least_cpu_seconds(rows: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Run all rows alternately, `repeats` times, and return the minimum CPU seconds of each."""
    least = dict.fromkeys(rows, float("inf"))
    for _ in range(repeats):
        for name, work in rows.items():
            before = cpu_seconds()
            work()
            least[name] = min(least[name], cpu_seconds() - before)
    return least


def ffmpeg_cli(*arguments: str | Path) -> None:
    """Run the ffmpeg executable that the pipeline uses, with command line arguments."""
    command = [ffmpeg_executable(), "-nostdin", "-hide_banner", "-loglevel", "error", "-y", *map(str, arguments)]
    subprocess.run(command, check=True)


def measure_process(work: Callable[..., object], *arguments: object) -> ProcessCost:
    """Run a module-level function in a new process and measure it."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_measure, work, arguments).result()


def _measure(work: Callable[..., object], arguments: Sequence[object]) -> ProcessCost:
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
    return ProcessCost(used, time.monotonic() - started, _peak_bytes(), used + sum(waits.values()))


def _note_waits(ended: threading.Event, waits: dict[str, float]) -> None:
    """Record the seconds that each thread has waited for a core since the start.

    The threads are polled because the figure of a thread in `/proc` disappears when the thread ends.
    """
    first: dict[str, float] = {}
    while not ended.wait(_POLL_SECONDS):
        for task in Path("/proc/self/task").iterdir():
            try:
                waited = int((task / "schedstat").read_text().split()[1]) / 1e9
            except (FileNotFoundError, ProcessLookupError):
                continue  # the thread has ended in the meantime
            waits[task.name] = waited - first.setdefault(task.name, 0.0 if waits else waited)


def _peak_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
