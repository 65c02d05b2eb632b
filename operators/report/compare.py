"""Compares two runs question by question: what a changed prompt, model or setting did.

A question keeps its id while its video, category, kind, writer and number stay the same. So equal ids are the same slot
of the plan, requested again.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from operators.execution.pipeline import BUILD_STAGES, VIDEO_STAGES
from operators.execution.prompt_diff import diff_prompts, versions_of_run
from operators.report.tables import Tables
from operators.store.run_folder import RunFolder
from schemas.tables import Question

_QUESTION_ID = re.compile(r"q[0-9a-f]{24}")
_COLUMNS = ("question_id", "video_id", "category", "kind", "question", "options", "answer", "provenance")


@dataclass(frozen=True)
class Verdict:
    """A question of a run, and whether it was kept."""

    question_id: str
    video_id: str
    category: str
    """Empty if the answer of the model was no question, as `kind`, `text`, `answer`, `prompt` and `model` are then."""
    kind: str
    text: str
    options: tuple[str, ...]
    """Sorted, because their order has no meaning."""
    answer: str
    prompt: str
    model: str
    reasons: tuple[str, ...]
    """`stage: reason` of its rejects. Empty if it passed."""

    @property
    def passed(self) -> bool:
        return not self.reasons

    @property
    def words(self) -> tuple[str, tuple[str, ...], str]:
        """Everything that a reader of the question sees, and its answer."""
        return self.text, self.options, self.answer

    def __str__(self) -> str:
        verdict = "passed" if self.passed else f"rejected: {', '.join(self.reasons)}"
        return f"{self.text or '(no question)'} [{self.answer}] ({verdict})"


@dataclass(frozen=True)
class Change:
    """One question in both runs. None where a run does not have it."""

    before: Verdict | None
    after: Verdict | None

    @property
    def any(self) -> Verdict:
        """The later of the two."""
        found = self.after or self.before
        assert found is not None
        return found


@dataclass(frozen=True)
class Comparison:
    """What differs between two runs. Counts are of the first and of the second run."""

    before: str
    after: str
    prompts: tuple[str, ...]
    """Prompts that differ: id and what happened to it."""
    only_before: tuple[Change, ...]
    only_after: tuple[Change, ...]
    rewritten: tuple[Change, ...]
    """The same id with another text, options or answer, whatever the verdicts."""
    verdict_changed: tuple[Change, ...]
    """The same words, kept by one run and rejected by the other, or rejected for other reasons."""
    same: int
    """Number of questions with the same words and verdict."""
    counts: Mapping[str, Mapping[str, tuple[int, int]]]
    """Counts by what is counted (`stage`, `category`, `prompt`, `model`), then by name."""

    def as_json(self) -> dict[str, Any]:
        """The comparison as values for JSON."""
        kinds = {
            "only_before": self.only_before,
            "only_after": self.only_after,
            "rewritten": self.rewritten,
            "verdict_changed": self.verdict_changed,
        }
        return {
            "before": self.before,
            "after": self.after,
            "prompts": self.prompts,
            "questions": {
                **{name: [_change_json(change) for change in changes] for name, changes in kinds.items()},
                "same": self.same,
            },
            "counts": self.counts,
        }


def compare_runs(before: RunFolder, after: RunFolder) -> Comparison:
    """Compare the questions of two runs as far as they have got.

    Raises:
        SchemaError: a run was made by a version whose questions lack a column.
    """
    first, second = Tables(before), Tables(after)
    old, new = _verdicts(first), _verdicts(second)
    pairs = [Change(old.get(key), new.get(key)) for key in old.keys() | new.keys()]
    pairs.sort(key=lambda pair: (pair.any.video_id, pair.any.category, pair.any.kind, pair.any.question_id))
    both = [(pair, pair.before, pair.after) for pair in pairs if pair.before and pair.after]
    rewritten = tuple(pair for pair, one, other in both if one.words != other.words)
    judged = tuple(pair for pair, one, other in both if one.words == other.words and one.reasons != other.reasons)
    changes = diff_prompts(versions_of_run(before), versions_of_run(after))
    return Comparison(
        before=before.url,
        after=after.url,
        prompts=tuple(f"{change.prompt_id} {change.what}" for change in changes),
        only_before=tuple(pair for pair in pairs if pair.after is None),
        only_after=tuple(pair for pair in pairs if pair.before is None),
        rewritten=rewritten,
        verdict_changed=judged,
        same=len(both) - len(rewritten) - len(judged),
        counts={
            "stage": _pair_counts(_stage_counts(first), _stage_counts(second)),
            "category": _pair_counts(_count(old, lambda each: each.category), _count(new, lambda each: each.category)),
            "prompt": _pair_counts(_count(old, lambda each: each.prompt), _count(new, lambda each: each.prompt)),
            "model": _pair_counts(_count(old, lambda each: each.model), _count(new, lambda each: each.model)),
        },
    )


def _verdicts(tables: Tables) -> dict[str, Verdict]:
    """All questions of a run by id, also those that the model's answer was not."""
    order = {name: index for index, name in enumerate((*VIDEO_STAGES, *BUILD_STAGES))}
    reasons: dict[str, list[tuple[str, str]]] = defaultdict(list)
    videos: dict[str, str] = {}
    for reject in tables.rejects().to_dict("records"):
        reasons[reject["key"]].append((reject["stage"], reject["reason"]))
        if _QUESTION_ID.fullmatch(reject["key"]):
            videos[reject["key"]] = reject["unit"]
    found = {}
    for row in tables.columns("question", Question, _COLUMNS).to_pylist():
        found[row["question_id"]] = Verdict(
            question_id=row["question_id"],
            video_id=row["video_id"],
            category=row["category"],
            kind=row["kind"],
            text=row["question"],
            options=tuple(sorted(row["options"])),
            answer=row["answer"],
            prompt=row["provenance"]["prompt_id"],
            model=row["provenance"]["model"],
            reasons=_in_order(reasons[row["question_id"]], order),
        )
    for key in videos.keys() - found.keys():
        found[key] = Verdict(key, videos[key], "", "", "", (), "", "", "", _in_order(reasons[key], order))
    return found


def _in_order(reasons: Iterable[tuple[str, str]], order: Mapping[str, int]) -> tuple[str, ...]:
    ordered = sorted(reasons, key=lambda each: (order.get(each[0], len(order)), each[1]))
    return tuple(dict.fromkeys(f"{stage}: {reason}" for stage, reason in ordered))


def _stage_counts(tables: Tables) -> Counter[str]:
    counts: Counter[str] = Counter({name: tables.rows(name) for name in (*VIDEO_STAGES, *BUILD_STAGES)})
    rejects = tables.rejects()
    counts.update(f"{stage}: {reason}" for stage, reason in zip(rejects["stage"], rejects["reason"], strict=True))
    return counts


def _count(verdicts: Mapping[str, Verdict], name: Callable[[Verdict], str]) -> Counter[str]:
    """Questions, passed ones and reasons of rejects by category, prompt or model."""
    counts: Counter[str] = Counter()
    for verdict in verdicts.values():
        label = name(verdict) or "(no question)"
        counts[f"{label}: requested"] += 1
        counts[f"{label}: passed"] += verdict.passed
        counts.update(f"{label}: {reason}" for reason in verdict.reasons)
    return counts


def _pair_counts(before: Counter[str], after: Counter[str]) -> dict[str, tuple[int, int]]:
    names = sorted(before.keys() | after.keys())
    return {name: (before[name], after[name]) for name in names if before[name] or after[name]}


def _change_json(change: Change) -> dict[str, Any]:
    return {
        "question_id": change.any.question_id,
        "video_id": change.any.video_id,
        "category": change.any.category,
        "kind": change.any.kind,
        **{name: _verdict_json(each) for name, each in (("before", change.before), ("after", change.after)) if each},
    }


def _verdict_json(verdict: Verdict) -> dict[str, Any]:
    return {
        "question": verdict.text,
        "options": verdict.options,
        "answer": verdict.answer,
        "prompt": verdict.prompt,
        "model": verdict.model,
        "passed": verdict.passed,
        "reasons": verdict.reasons,
    }
