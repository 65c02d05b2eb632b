"""The number of questions that remain after each gate between question and sample, by writer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from schemas.tables import Check


@dataclass(frozen=True)
class Step:
    """A gate, and the number of questions of each writer that passed it.

    None means that its stage has not run, or that it checked no question, e.g. because it is switched off.
    """

    name: str
    left: dict[str, int] | None


_GATES = (
    (Check.RULES, "well-formed"),
    (Check.REVIEW, "worded as a question about the video"),
    (Check.BLIND, "not answerable blind"),
    (Check.GROUNDED, "agrees with its evidence"),
    (Check.TIMELINE, "agrees with the whole video"),
    (Check.FRAMES, "agrees with frames"),
    (Check.DUPLICATE, "no duplicate"),
)


def funnel(
    writers: Sequence[str],
    questions: pd.DataFrame,
    checks: pd.DataFrame,
    reasoned: set[str] | None,
    measured: set[str] | None,
    samples: set[str] | None,
) -> tuple[Step, ...]:
    """Compute the gates in order. An argument is None if its stage has not run.

    Args:
        writers: the writers to count questions for.
        questions: all questions. Columns: `question_id`, `writer`, `passed`.
        checks: all checks of the questions. Columns: `question_id`, `check`, `passed`.
        reasoned, measured, samples: question ids that passed the stages reason, difficulty and assemble.
    """

    def step(name: str, alive: pd.Series | None) -> Step:
        if alive is None:
            return Step(name, None)
        counts = questions.loc[alive, "writer"].value_counts()
        return Step(name, {writer: int(counts.get(writer, 0)) for writer in writers})

    ids = questions["question_id"]
    alive = pd.Series(True, index=questions.index)
    steps = [step("written", alive)]
    for check, name in _GATES:
        failed = checks.loc[(checks["check"] == check.value) & ~checks["passed"].astype(bool), "question_id"]
        alive &= ~ids.isin(set(failed))
        steps.append(step(name, alive if (checks["check"] == check.value).any() else None))
    alive &= questions["passed"].astype(bool)  # a check without enough answers has no trial
    for name, through in (("reasoned", reasoned), ("difficulty measured", measured), ("samples", samples)):
        if through is not None:
            alive &= ids.isin(through)
        steps.append(step(name, alive if through is not None else None))
    return tuple(steps)
