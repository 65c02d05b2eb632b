"""Measures memory against video length, and CPU utilization: `python benchmarks/long_videos.py [--help]`.

Films of 1080p and up to two hours are analysed in full (every frame, with two frames per second sampled) and by key
frames, each in a separate process. Prints the tables and writes a plot of the memory. On a shared machine other
programs use the cores too, so the table shows the share of CPU time that was requested next to the share received.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.films import PLAIN, film
from benchmarks.metering import ProcessCost, measure_process
from benchmarks.passes import key_frames, one_pass
from operators.report.plots import Bar, bars

MEGABYTE = 1_000_000
MAX_MEGABYTES = 400
_STYLE = (
    "text{font:13px sans-serif;fill:#333}.note{fill:#666}.track{fill:#eee}"
    ".s0{fill:#2459c9}.mark{stroke:#d62f2f;stroke-width:2}"
)


def main() -> None:
    arguments = _arguments()
    cores = os.cpu_count() or 1
    rows: list[Bar] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.films or Path(scratch)
        print(f"{'minutes':>8}  {'way':12}{'peak MB':>8}{'CPU s':>9}{'wall s':>9}{'got':>7}{'wanted':>8}   load")
        for minutes in arguments.minutes:
            path = film(folder, PLAIN, 60 * minutes)
            ways = {"key frames": measure_process(key_frames, path)}
            if minutes <= arguments.whole_up_to:
                ways["every frame"] = measure_process(one_pass, path, cores)
            for way, cost in ways.items():
                _report(minutes, way, cost, cores)
                peak = cost.peak_bytes / MEGABYTE
                rows.append(Bar(f"{minutes} min, {way}", (peak,), f"{peak:.0f} MB", MAX_MEGABYTES))
    arguments.plot.write_text(_plot(rows))


def _report(minutes: int, way: str, cost: ProcessCost, cores: int) -> None:
    got, wanted = (seconds / cost.wall_seconds / cores for seconds in (cost.cpu_seconds, cost.wanted_seconds))
    figures = f"{cost.peak_bytes / MEGABYTE:8.0f}{cost.cpu_seconds:9.1f}{cost.wall_seconds:9.1f}"
    print(f"{minutes:8}  {way:12}{figures}{got:7.0%}{wanted:8.0%}   {os.getloadavg()[0]:.1f}", flush=True)


def _plot(rows: list[Bar]) -> str:
    title = "Memory over the length of a 1080p video"
    plot = bars(title, f"Most resident megabytes; the tick is the limit of {MAX_MEGABYTES} MB.", rows)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="720" height="{40 * len(rows)}"><style>{_STYLE}</style>'
    return f"{head}{plot}</svg>\n"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", type=Path, help="folder that keeps the rendered films")
    parser.add_argument("--minutes", type=int, nargs="+", default=[5, 10, 20, 40, 120])
    parser.add_argument("--whole-up-to", type=int, default=40, help="longest film of which every frame is decoded")
    parser.add_argument("--plot", type=Path, default=Path("memory.svg"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
