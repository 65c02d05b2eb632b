"""Recall and precision of the gates on questions with planted defects.

    python -m benchmarks.gates [--sets 1 2] [--seeds 8] [--clips 120] [--slips 0 0.05 0.1 0.2]

The models are fakes that know exactly what the captions or frames show which a gate gives them
(`tests/support/event_world.py`), and err in a share of their answers (`--slips`). So the figures are those of the
gates with a judge of that quality. Set 1 was written with the gates (`tests/support/planted_defects.py`), set 2 by
an author without a knowledge of them (`tests/support/planted_defects_2.py`). A defect counts as caught if its question
is rejected, or repaired where a gate repairs.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from operators.execution.stage import Context, Stage
from operators.models.session import ModelPool
from operators.questions.gates.run import PROMPTS, model_gates, run_gates
from operators.questions.outcome import Material
from schemas.base import Row, Span
from schemas.config import Role
from schemas.tables import Caption, Question, Video
from tests.support import planted_defects, planted_defects_2
from tests.support.event_world import EventWorld, FakeModels
from tests.support.openai_server import OpenAIServer
from tests.support.planted_defects import Planted
from tests.support.rows import make_video, of_file
from tests.support.stages import StageRunner
from tests.support.videos import plain_video


@dataclass(frozen=True)
class DefectSet:
    """A way to plant defects in questions about a world."""

    plant: Callable[[EventWorld, int, int], list[Planted]]
    """Good and defective questions of a world, for a seed and a number of questions per defect."""
    names: tuple[str, ...]
    repaired: frozenset[str]
    """Defects that a gate may correct instead of rejecting the question."""


SETS = {
    1: DefectSet(
        lambda world, _, each: planted_defects.plant_questions(world, good=20, per_defect=each),
        tuple(planted_defects.DEFECTS),
        planted_defects.REPAIRED,
    ),
    2: DefectSet(
        lambda world, seed, each: planted_defects_2.plant(world, seed, good=40, each=each),
        planted_defects_2.NAMES,
        planted_defects_2.REPAIRED,
    ),
}


@dataclass
class Score:
    """Counts over several seeds."""

    good: int = 0
    good_lost: Counter[str] = field(default_factory=Counter)
    """Good questions that were rejected, by reason."""
    planted: Counter[str] = field(default_factory=Counter)
    caught: Counter[str] = field(default_factory=Counter)
    reasons: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """Reasons for which the questions of each defect were rejected."""
    missed: list[str] = field(default_factory=list)
    requests: int = 0

    @property
    def recall(self) -> float:
        return sum(self.caught.values()) / sum(self.planted.values())

    @property
    def precision(self) -> float:
        """Rejected or repaired questions that have a defect, divided by all rejected or repaired ones."""
        caught = sum(self.caught.values())
        return caught / (caught + sum(self.good_lost.values()))

    @property
    def loss(self) -> float:
        return sum(self.good_lost.values()) / self.good


def score_gates(
    folder: Path,
    pool: ModelPool,
    seeds: Sequence[int],
    clips: int,
    slips: float,
    per_defect: int = 2,
    defects: DefectSet = SETS[1],
) -> Score:
    """Plant questions in one world per seed, run the gates, and count."""
    score = Score()
    for seed in seeds:
        world = EventWorld(clips, seed)
        planted = defects.plant(world, seed, per_defect)
        place = folder / f"{seed}-{slips:g}"
        place.mkdir()
        kept, rejected, requests = run_planted(place, pool, world, planted, slips)
        score.requests += requests
        _count(score, planted, kept, rejected, defects.repaired)
    return score


def run_planted(
    folder: Path, pool: ModelPool, world: EventWorld, planted: Sequence[Planted], slips: float
) -> tuple[dict[str, Question], dict[str, str], int]:
    """The questions that were kept, the reasons of those that were not, and the number of requests."""
    video = of_file(make_video(world.video_id), plain_video(folder / "film.mp4", world.duration_us // 1_000_000))
    video = video.model_copy(update={"duration_us": world.duration_us})
    with OpenAIServer() as server:
        server.script = FakeModels(world, slips)
        runner = StageRunner(folder, server, pool, vision=True)
        questions = [each.question for each in planted]
        rows = runner.run(GATES, [video], world.captions(), questions)
        kept = {row.question_id: row for row in rows if isinstance(row, Question) and row.passed}
        return kept, {row.key: row.reason for row in runner.rejects}, len(server.requests)


def _run_gates(
    context: Context, videos: Sequence[Video], captions: Sequence[Caption], questions: Sequence[Question]
) -> Iterator[Row]:
    material = Material(context, videos[0], captions, None)
    yield from run_gates(material, questions, model_gates(context.config.verify))


GATES = Stage(
    name="question",
    version=1,
    row=Question,
    reads={"videos": "ingest", "captions": "caption", "questions": "question"},
    run=_run_gates,
    section=lambda config: config.verify,
    prompts=PROMPTS,
    roles=(Role.JUDGE, Role.VIEWER),
)


def _count(
    score: Score,
    planted: Sequence[Planted],
    kept: dict[str, Question],
    rejected: dict[str, str],
    may_be_repaired: frozenset[str],
) -> None:
    for each in planted:
        name = each.question.question_id
        if not each.defect:
            score.good += 1
            if name in rejected:
                score.good_lost[rejected[name]] += 1
            continue
        score.planted[each.defect] += 1
        repaired = each.defect in may_be_repaired and (name in rejected or _is_repaired(each, kept[name]))
        if name in rejected:
            score.reasons[each.defect].add(rejected[name])
        if name in rejected or repaired:
            score.caught[each.defect] += 1
        else:
            score.missed.append(f"{each.defect}: {each.question.question!r} ({each.question.answer!r})")


def _is_repaired(planted: Planted, kept: Question) -> bool:
    before = planted.question
    return kept.category is not before.category or _seconds(kept.evidence) < _seconds(before.evidence)


def _seconds(evidence: Sequence[Span]) -> float:
    return sum(span.end_us - span.start_us for span in evidence) / 1_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--clips", type=int, default=120)
    parser.add_argument("--per-defect", type=int, default=2)
    parser.add_argument("--slips", type=float, nargs="+", default=[0.0, 0.05, 0.1, 0.2])
    options = parser.parse_args()
    for number in options.sets:
        with tempfile.TemporaryDirectory() as folder, ModelPool() as pool:
            seeds, each = range(options.seeds), options.per_defect
            scores = {
                slips: score_gates(Path(folder), pool, seeds, options.clips, slips, each, SETS[number])
                for slips in options.slips
            }
        print(f"\nset {number}\n")
        _print(scores, SETS[number].names)


def _print(scores: dict[float, Score], names: Sequence[str]) -> None:
    print("| slips of the models | recall | precision | good questions lost | requests per question |")
    print("|---|---|---|---|---|")
    for slips, score in scores.items():
        questions = score.good + sum(score.planted.values())
        print(
            f"| {slips:.0%} | {score.recall:.3f} | {score.precision:.3f} | {score.loss:.1%} of {score.good} | "
            f"{score.requests / questions:.1f} |"
        )
    print("\n| defect | " + " | ".join(f"{slips:.0%}" for slips in scores) + " |")
    print("|---" * (len(scores) + 1) + "|")
    for name in names:
        found = (f"{score.caught[name]} of {score.planted[name]}" for score in scores.values())
        print(f"| {name} | {' | '.join(found)} |")
    for slips, score in scores.items():
        print(f"\ngood questions lost with {slips:.0%} slips: {dict(score.good_lost)}")
        for missed in score.missed[:20] if slips == 0 else ():
            print(f"missed: {missed}")


if __name__ == "__main__":
    main()
