"""GRPO on the toy world of the tests: three seeds and two controls, with the accuracy on held-out clips by step.

    python -m benchmarks.toy_world FOLDER [RUN ...]

Each run trains a tiny model with supervised answers, then with GRPO (`tests/trainer_plugin/rl/toy_world.py`). Runs that
FOLDER holds already are not repeated, so that several processes can share the work. FOLDER/toy-world.svg shows all runs
that are complete.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch

from benchmarks.curves import draw_curves
from tests.trainer_plugin.rl.toy_world import GUESSING, Control, train_format, train_order, write_world
from trainer_plugin.distributed.mesh import init_distributed

RUNS: dict[str, tuple[int, Control | None]] = {
    "seed 0": (0, None),
    "seed 1": (1, None),
    "seed 2": (2, None),
    "shuffled rewards": (0, Control.REWARDS),
    "shuffled frames": (0, Control.FRAMES),
}
COLOURS = ("#4c78a8", "#54a24b", "#b279a2", "#f58518", "#e45756")


def run(name: str, folder: Path) -> None:
    """Train one run and write its curve to `{folder}/{name}.json`."""
    seed, control = RUNS[name]
    work = folder / name
    started, cpu = time.perf_counter(), time.process_time()
    url = write_world(work / "world", shuffled=control is Control.FRAMES)
    model = train_format(work / "sft", url, seed)
    supervised = time.process_time() - cpu
    course = train_order(work / "grpo", url, model, seed, control, evaluate_every=10)
    found = {
        "accuracy": course.accuracies,
        "well_formed": {step: each.lines[0].well_formed for step, each in course.evaluations.items()},
        "shuffled_frames": {step: each.scalars()["shuffled_frames"] for step, each in course.evaluations.items()},
        "reward": [step.reward_mean for step in course.steps],
        "entropy": [step.entropy for step in course.steps],
        "seconds": round(time.perf_counter() - started),
        "cpu_seconds": round(time.process_time() - cpu),
        "cpu_seconds_until_grpo": round(supervised),
    }
    (folder / f"{name}.json").write_text(json.dumps(found))
    print(name, found["accuracy"], f"{found['cpu_seconds']} CPU s, {found['seconds']} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("runs", nargs="*", metavar="RUN", help=f"all by default: {', '.join(RUNS)}")
    given = parser.parse_args()
    torch.set_num_threads(1)
    init_distributed()
    for name in given.runs or RUNS:
        if not (given.folder / f"{name}.json").exists():
            run(name, given.folder)
    done = {name: given.folder / f"{name}.json" for name in RUNS if (given.folder / f"{name}.json").exists()}
    curves = {
        name: {int(step): share for step, share in json.loads(path.read_bytes())["accuracy"].items()}
        for name, path in done.items()
    }
    colours = dict(zip(RUNS, COLOURS, strict=True))
    (given.folder / "toy-world.svg").write_text(draw_curves(curves, colours, what="held-out clips", guessing=GUESSING))


if __name__ == "__main__":
    main()
