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
from collections.abc import Mapping
from pathlib import Path

import torch

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
FONT = 'font-family="Helvetica, Arial, sans-serif" font-size="13"'
LEFT, TOP, WIDTH, HEIGHT = 60, 30, 420, 260


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


def draw(curves: Mapping[str, Mapping[int, float]]) -> str:
    """An SVG of accuracies by step."""
    last = max(step for curve in curves.values() for step in curve)

    def x(step: float) -> float:
        return LEFT + WIDTH * step / last

    def y(accuracy: float) -> float:
        return TOP + HEIGHT * (1 - accuracy)

    def text(at: tuple[float, float], content: object, anchor: str = "middle", fill: str = "#555") -> str:
        return f'<text x="{at[0]:.0f}" y="{at[1]:.0f}" {FONT} text-anchor="{anchor}" fill="{fill}">{content}</text>'

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDTH + 165} {TOP + HEIGHT + 50}" role="img">',
        f'<rect width="{LEFT + WIDTH + 165}" height="{TOP + HEIGHT + 50}" fill="#ffffff"/>',
        "<title>Accuracy on held-out clips by step of GRPO</title>",
        text((LEFT, TOP - 12), "accuracy on held-out clips", "start"),
        text((x(last / 2), TOP + HEIGHT + 40), "step of GRPO"),
    ]
    for tenth in range(0, 11, 2):
        height = y(tenth / 10)
        parts.append(f'<path d="M{LEFT} {height:.0f}H{LEFT + WIDTH}" stroke="#e5e5e5"/>')
        parts.append(text((LEFT - 8, height + 4), f"{tenth / 10:.1f}", "end"))
    parts.append(f'<path d="M{LEFT} {y(GUESSING):.0f}H{LEFT + WIDTH}" stroke="#777777" stroke-dasharray="4 4"/>')
    parts.append(text((LEFT + WIDTH - 4, y(GUESSING) - 7), "guessing", "end"))
    parts += [text((x(step), TOP + HEIGHT + 20), step) for step in range(0, last + 1, 10)]
    for number, (name, curve) in enumerate(curves.items()):
        colour = COLOURS[list(RUNS).index(name)]
        points = " ".join(f"{x(step):.1f},{y(accuracy):.1f}" for step, accuracy in sorted(curve.items()))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2.5"/>')
        height = TOP + 12 + 22 * number
        parts.append(f'<path d="M{LEFT + WIDTH + 12} {height}h20" stroke="{colour}" stroke-width="2.5"/>')
        parts.append(text((LEFT + WIDTH + 38, height + 4), name, "start", "#222"))
    return "\n".join([*parts, "</svg>", ""])


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
    (given.folder / "toy-world.svg").write_text(draw(curves))


if __name__ == "__main__":
    main()
