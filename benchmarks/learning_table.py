"""The results of `benchmarks.learning` as Markdown and as curves."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.curves import draw_curves
from schemas.arrow import rows_from_parquet
from schemas.sample import Sample
from schemas.statistics import wilson_interval
from schemas.tables import QuestionCategory, Split
from trainer_plugin.data.release import index_videos
from trainer_plugin.data.samples import PromptVariant
from trainer_plugin.evaluation.answers import AnswerRow, Decoding

CONTROLS = {"rewards": "shuffled rewards", "films": "other films"}
"""Names of the runs without information, by the option that selects them."""
OVERALL = "overall"
RESAMPLES = 2000
"""Samples of films of a bootstrap interval."""
SHOWN_STEPS = 5
"""First and last steps whose sampled responses the table counts."""
COLOURS = ("#4c78a8", "#54a24b", "#b279a2", "#72b7b2", "#eeca3b", "#9d755d", "#f58518", "#e45756")


@dataclass(frozen=True)
class Answered:
    """Whether greedy answers to the questions of the evaluation were right, by question id, after a step of a stage."""

    step: int
    right: dict[str, bool]
    text_only: dict[str, bool]
    """The same without the film."""


@dataclass(frozen=True)
class Stage:
    """A stage that is complete."""

    name: str
    is_grpo: bool
    evaluations: list[Answered]
    """In the order of their steps."""
    sampled: list[float]
    """Share of right answers among the sampled responses of each step of GRPO."""


def write_results(folder: Path) -> str:
    """Write `learning.md` and `learning.svg` of all stages that are complete, and return the Markdown."""
    videos = index_videos(str(folder / "release"), Split.EVAL)
    questions = {sample.question_id: sample for video in videos for sample in video.record.samples}
    stages = [read_stage(out) for out in _complete_stages(folder)]
    about = f"{len(questions)} questions about {len(videos)} held-out films"
    parts = [
        f"Greedy accuracy on {about}, in percent [95 % interval: Wilson's].",
        _accuracy_table(stages, questions),
        "Gain by GRPO in points [95 % interval: paired bootstrap over films], and right answers among the sampled "
        f"responses of the first and the last {SHOWN_STEPS} steps, in percent.",
        _gain_table(stages, questions),
        "Greedy accuracy by template at the end of each stage, in percent.",
        _template_table(stages, questions),
    ]
    text = "\n\n".join(parts) + "\n"
    (folder / "learning.md").write_text(text)
    curves = {stage.name: _curve(stage) for stage in stages if stage.is_grpo}
    if curves:
        colours = {name: COLOURS[number % len(COLOURS)] for number, name in enumerate(curves)}
        highest = min(1.0, 0.1 + max(share for curve in curves.values() for share in curve.values()))
        (folder / "learning.svg").write_text(draw_curves(curves, colours, what="held-out films", highest=highest))
    return text


def read_stage(out: Path) -> Stage:
    """Read what a stage has written into its folder, `{stage}-{engine}-{control}`."""
    evaluations = []
    for path in sorted((out / "evaluations").glob("step-*/answers.parquet")):
        right: dict[PromptVariant, dict[str, bool]] = defaultdict(dict)
        for row in rows_from_parquet(path.read_bytes(), AnswerRow, str(path)):
            if row.decoding is Decoding.GREEDY:
                right[row.variant][row.question_id] = bool(row.correct)
        evaluations.append(Answered(int(path.parent.name[5:]), right[PromptVariant.VIDEO], right[PromptVariant.TEXT]))
    kind, engine, control, *_ = [*out.name.split("-"), "", ""]
    name = " ".join(filter(None, (kind, engine, CONTROLS.get(control, ""), out.parent.name.replace("-", " "))))
    steps = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    rewards = [each["reward"] for each in steps if each.get("reward")]
    sampled = [value for each in rewards for reward, value in each.items() if reward.endswith("right_words")]
    return Stage(name, kind == "grpo", evaluations, sampled)


def gain_interval(
    before: Mapping[str, bool], after: Mapping[str, bool], film_of: Mapping[str, str], resamples: int = RESAMPLES
) -> tuple[float, float, float]:
    """The gain in accuracy on the same questions, and its paired bootstrap interval of 95 % over films.

    Returns:
        The gain and the limits of the interval, as shares of 1.
    """
    films: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for question, was_right in before.items():
        gained = films[film_of[question]]
        gained[0] += int(after[question]) - int(was_right)
        gained[1] += 1
    counts = torch.tensor(list(films.values()), dtype=torch.float64)
    drawn = counts[torch.randint(len(counts), (resamples, len(counts)), generator=torch.Generator().manual_seed(0))]
    gains = drawn[..., 0].sum(1) / drawn[..., 1].sum(1)
    low, high = torch.quantile(gains, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return float(counts[:, 0].sum() / counts[:, 1].sum()), low, high


def _accuracy_table(stages: Sequence[Stage], questions: Mapping[str, Sample]) -> str:
    groups = _groups(questions)
    lines = [f"| stage | {' | '.join(groups)} | question alone |", f"|---|{'---|' * (len(groups) + 1)}"]
    for stage in stages:
        last = stage.evaluations[-1]
        cells = [_share(_select(last.right, group, questions)) for group in groups]
        lines.append(f"| {stage.name} | {' | '.join(cells)} | {_share(last.text_only)} |")
    return "\n".join(lines)


def _gain_table(stages: Sequence[Stage], questions: Mapping[str, Sample]) -> str:
    groups = _groups(questions)
    film_of = {name: each.video_id for name, each in questions.items()}
    lines = [f"| run | steps | {' | '.join(groups)} | sampled |", f"|---|---|{'---|' * (len(groups) + 1)}"]
    for stage in stages:
        if not stage.is_grpo:
            continue
        first, last = stage.evaluations[0], stage.evaluations[-1]
        cells = []
        for group in groups:
            before, after = (_select(each.right, group, questions) for each in (first, last))
            gain, low, high = gain_interval(before, after, film_of) if before else (0.0, 0.0, 0.0)
            cells.append(f"{100 * gain:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]")
        ends = (stage.sampled[:SHOWN_STEPS], stage.sampled[-SHOWN_STEPS:])
        sampled = ", ".join(f"{100 * sum(each) / max(1, len(each)):.1f}" for each in ends)
        lines.append(f"| {stage.name} | {last.step} | {' | '.join(cells)} | {sampled} |")
    return "\n".join(lines)


def _template_table(stages: Sequence[Stage], questions: Mapping[str, Sample]) -> str:
    by_template: dict[str, list[str]] = defaultdict(list)
    for name, each in questions.items():
        by_template[each.writer].append(name)
    lines = [
        f"| template | questions | {' | '.join(each.name for each in stages)} |",
        f"|---|---|{'---|' * len(stages)}",
    ]
    for template, names in sorted(by_template.items()):
        cells = []
        for stage in stages:
            right = [stage.evaluations[-1].right[name] for name in names if name in stage.evaluations[-1].right]
            cells.append(f"{100 * sum(right) / len(right):.0f}" if right else "")
        lines.append(f"| {template} | {len(names)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _groups(questions: Mapping[str, Sample]) -> list[str]:
    categories = {each.problem_type for each in questions.values()}
    return [OVERALL, *(str(each) for each in QuestionCategory if each in categories)]


def _select(answers: Mapping[str, bool], group: str, questions: Mapping[str, Sample]) -> dict[str, bool]:
    return {name: right for name, right in answers.items() if group in (OVERALL, str(questions[name].problem_type))}


def _share(answers: Mapping[str, bool]) -> str:
    if not answers:
        return ""
    right = sum(answers.values())
    low, high = wilson_interval(right, len(answers))
    return f"{100 * right / len(answers):.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def _curve(stage: Stage) -> dict[int, float]:
    return {each.step: sum(each.right.values()) / len(each.right) for each in stage.evaluations}


def _complete_stages(folder: Path) -> Iterator[Path]:
    found = [path.parent for path in folder.glob("seed-*/*/done")]
    order = ("sft", "cot", "grpo")
    yield from sorted(found, key=lambda out: (order.index(out.name.partition("-")[0]), out.name, out.parent.name))
