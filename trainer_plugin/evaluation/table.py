"""The table of an evaluation: one line for the model, its samples and each baseline, with accuracies by group."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

from schemas.answer_format import LETTERS
from schemas.base import Model
from schemas.sample import Sample
from schemas.statistics import wilson_interval
from schemas.tables import QuestionCategory, QuestionKind
from trainer_plugin.data.samples import PromptVariant
from trainer_plugin.evaluation.answers import AnswerRow, Answers, Decoding
from trainer_plugin.rl.rollout import Finish

OVERALL = "overall"

_MINUTE_US = 60_000_000
_LENGTHS = {2: "under 2 min", 10: "2 to 10 min", 30: "10 to 30 min", 60: "30 to 60 min"}
_LONGEST = "60 min and more"

GROUPS = (
    *(str(category) for category in QuestionCategory),
    OVERALL,
    *(str(kind) for kind in QuestionKind),
    *_LENGTHS.values(),
    _LONGEST,
)
"""Columns in order: categories as in LongVideo-Reason's table, all questions, kinds, and lengths of the video."""

_LONGEST_OPTION = "longest option"

_VARIANTS = {PromptVariant.TEXT: "text only", PromptVariant.SHUFFLED: "shuffled frames"}


class Accuracy(Model):
    """Right answers among some questions."""

    right: float
    """Number of right answers. Every question counts once, with the mean over its answers if it has several."""
    questions: int
    low: float
    """Lower limit of the confidence interval of 95 % (`wilson_interval`)."""
    high: float

    @property
    def share(self) -> float:
        """Share of right answers, from 0 to 1."""
        return self.right / self.questions


class Line(Model):
    """One way to answer, and its accuracies."""

    name: str
    is_baseline: bool
    groups: dict[str, Accuracy]
    """By group (`GROUPS`); groups without questions are missing."""
    responses: int = 0
    """Number of responses; 0 if the line has none of its own. The numbers below are of these."""
    without_answer: float = 0.0
    """Share of responses without an answer, or whose choice is uncertain. They count as wrong."""
    truncated: float = 0.0
    """Share of responses that reached the limit of their length."""
    well_formed: float = 0.0
    """Share of responses that are one thought and one answer in their tags."""
    mean_tokens: float = 0.0


class Evaluation(Model):
    """Result of an evaluation."""

    split: str
    questions: int
    """Number of questions in the evaluation, with the skipped ones."""
    skipped: dict[str, str]
    """Questions that cannot be answered, which are in no accuracy: why, by question id."""
    not_judged: int
    """Number of answers to open questions without a verdict. They are in no accuracy."""
    lines: tuple[Line, ...]

    @property
    def accuracy(self) -> Accuracy:
        """Accuracy of the model over all questions: greedy if there is such a line, else the mean of the samples."""
        return self.lines[0].groups[OVERALL]

    def line(self) -> str:
        """The model's accuracies in percent as a line for the console: over all questions, then by category."""
        groups = self.lines[0].groups
        shown = [OVERALL, *(group for group in map(str, QuestionCategory) if group in groups)]
        return "  ".join([self.lines[0].name, *(f"{group} {_format(groups[group])}" for group in shown)])

    def scalars(self) -> dict[str, float]:
        """Numbers for a curve: the model's accuracies over all questions and by category, those of the baselines that
        it answered, and what its responses are like."""
        model = self.lines[0]
        accuracies = {group: model.groups[group].share for group in map(str, QuestionCategory) if group in model.groups}
        baselines = {
            line.name.replace(" ", "_"): line.groups[OVERALL].share
            for line in self.lines
            if line.is_baseline and line.responses and OVERALL in line.groups
        }
        responses = {name: getattr(model, name) for name in ("without_answer", "truncated", "well_formed")}
        return {"accuracy": self.accuracy.share, **accuracies, **baselines, **responses, "tokens": model.mean_tokens}

    def markdown(self) -> str:
        """Two Markdown tables in percent, by category and by kind and length, and what the numbers exclude."""
        shown = [group for group in GROUPS if any(group in line.groups for line in self.lines)]
        split = shown.index(OVERALL) + 1
        notes = [
            f"Split {self.split}, {self.questions} questions. Percent right [95 % interval], and the number of "
            f"questions in parentheses where it is not that of the column."
        ]
        if any(line.name.startswith(_LONGEST_OPTION) for line in self.lines):
            notes.append("Of several longest options, each counts as chosen with equal probability.")
        if self.skipped:
            first, reason = next(iter(self.skipped.items()))
            notes.append(f"{len(self.skipped)} questions were skipped, e.g. {first}: {reason}.")
        if self.not_judged:
            notes.append(f"{self.not_judged} answers to open questions are not judged and not counted.")
        parts = [self._table(shown[:split]), self._table(shown[split:]), self._responses(), " ".join(notes)]
        return "\n\n".join(parts) + "\n"

    def _table(self, groups: Sequence[str]) -> str:
        counts = [max(line.groups[group].questions for line in self.lines if group in line.groups) for group in groups]
        head = ["", *(f"{group} ({count})" for group, count in zip(groups, counts, strict=True))]
        rows = [
            [line.name, *(_format(line.groups.get(group), count) for group, count in zip(groups, counts, strict=True))]
            for line in self.lines
        ]
        return _align([head, *rows])

    def _responses(self) -> str:
        head = ["", "responses", "without answer", "truncated", "well-formed", "mean tokens"]
        rows = [
            [
                line.name,
                str(line.responses),
                *(f"{100 * share:.1f} %" for share in (line.without_answer, line.truncated, line.well_formed)),
                f"{line.mean_tokens:.0f}",
            ]
            for line in self.lines
            if line.responses
        ]
        return _align([head, *rows])


def tabulate(samples: Sequence[Sample], answers: Answers, skipped: Mapping[str, str], split: str) -> Evaluation:
    """Compute the table of all answers.

    Args:
        samples: the questions that count.
        answers: answers to these questions.
        skipped: the other questions of the evaluation: why they do not count, by question id.

    Raises:
        ValueError: there is no answer with a verdict.
    """
    rows = [answers[key] for key in sorted(answers)]
    by_id = {sample.question_id: sample for sample in samples}
    lines = []
    for variant in PromptVariant:
        for decoding in Decoding:
            own = [row for row in rows if (row.variant, row.decoding) == (variant, decoding)]
            lines += _model_lines(own, by_id, _VARIANTS.get(variant)) if own else []
    lines += _rule_lines(samples)
    missing = sum(row.correct is None for row in rows)
    if not lines or OVERALL not in lines[0].groups:
        raise ValueError("there is no answer with a verdict")
    return Evaluation(
        split=split,
        questions=len(samples) + len(skipped),
        skipped=dict(skipped),
        not_judged=missing,
        lines=tuple(lines),
    )


def _model_lines(rows: Sequence[AnswerRow], samples: Mapping[str, Sample], baseline: str | None) -> list[Line]:
    """The lines of the responses to one variant of the prompts by one decoding."""
    verdicts = {
        key: [row.correct for row in group if row.correct is not None]
        for key, group in groupby(rows, key=lambda row: row.question_id)
    }
    judged = {samples[key]: found for key, found in verdicts.items() if found}
    responses: dict[str, Any] = {
        "responses": len(rows),
        "without_answer": _mean(
            row.answer is None or (row.letter is None and samples[row.question_id].kind is QuestionKind.CHOICE)
            for row in rows
        ),
        "truncated": _mean(row.finish is Finish.LENGTH for row in rows),
        "well_formed": _mean(row.problem is None for row in rows),
        "mean_tokens": _mean(row.tokens for row in rows),
    }
    means = {sample: sum(found) / len(found) for sample, found in judged.items()}
    if rows[0].decoding is Decoding.GREEDY:
        return [_line(baseline or "greedy", means, baseline is not None, **responses)]
    count = 1 + max(row.number for row in rows)
    best = {sample: float(any(found)) for sample, found in judged.items()}
    return [
        _line(f"mean of {count} samples", means, False, **responses),
        _line(f"pass@{count}", best, False),
    ]


def _rule_lines(samples: Sequence[Sample]) -> list[Line]:
    """The baselines that need no model, on the choice questions."""
    choices = [sample for sample in samples if sample.kind is QuestionKind.CHOICE]
    if not choices:
        return []
    right = [sample.final_answer for sample in choices]
    letter = max(LETTERS, key=right.count)
    rules: dict[str, Callable[[Sample], float]] = {
        "guessing": lambda sample: 1 / len(sample.options),
        f"always {letter}": lambda sample: float(sample.final_answer == letter),
        _LONGEST_OPTION: _longest_option,
    }
    return [
        _line(f"{name} (choice)", {sample: rule(sample) for sample in choices}, True) for name, rule in rules.items()
    ]


def _longest_option(sample: Sample) -> float:
    """Probability that the longest option is right, with ties broken uniformly at random."""
    length = max(map(len, sample.options))
    longest = [option for option in sample.options if len(option) == length]
    return 1 / len(longest) if sample.answer_text in longest else 0.0


def _line(name: str, scores: Mapping[Sample, float], is_baseline: bool, **responses: Any) -> Line:
    grouped: dict[str, list[float]] = {}
    for sample, score in scores.items():
        for group in (sample.problem_type, OVERALL, sample.kind, length_group(sample.duration_us)):
            grouped.setdefault(str(group), []).append(score)
    groups = {}
    for group, found in grouped.items():
        low, high = wilson_interval(sum(found), len(found))
        groups[group] = Accuracy(right=sum(found), questions=len(found), low=low, high=high)
    return Line(name=name, is_baseline=is_baseline, groups=groups, **responses)


def length_group(duration_us: int) -> str:
    """The group of a video's length."""
    return next((name for minutes, name in _LENGTHS.items() if duration_us < minutes * _MINUTE_US), _LONGEST)


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found)


def _format(accuracy: Accuracy | None, questions: int | None = None) -> str:
    """An accuracy in percent with its interval; and with its number of questions, if that is not the expected one."""
    if accuracy is None:
        return "–"
    count = "" if questions in (None, accuracy.questions) else f" ({accuracy.questions})"
    return f"{100 * accuracy.share:.1f} [{100 * accuracy.low:.1f}, {100 * accuracy.high:.1f}]{count}"


def _align(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns are aligned in plain text too. The first row is the head."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    first, *rest = (
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    )
    return "\n".join([first, "|" + "|".join("-" * (width + 2) for width in widths) + "|", *rest])
