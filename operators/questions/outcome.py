"""Problems of questions and their rejects, and what a gate gets and returns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from schemas.base import Span
from schemas.facts import VideoFacts
from schemas.tables import Caption, Check, Outline, Question, Reject, Trial, Video

if TYPE_CHECKING:
    from operators.execution.stage import Context


@dataclass(frozen=True)
class Problem:
    """Why a question is not kept."""

    reason: str
    """One of `schemas.reject_reasons`."""
    message: str
    """What is wrong and what to do, without naming the question."""
    raw: str = ""
    """The raw text that the problem is about, if it is not the question's own."""
    request_sha256: str = ""


@dataclass(frozen=True)
class Outcome:
    """A question after a gate: with the gate's trial, and the problem if it did not pass."""

    question: Question
    problem: Problem | None = None


@dataclass(frozen=True)
class Material:
    """What the gates may use to check the questions of one video."""

    context: Context
    video: Video
    captions: Sequence[Caption]
    """All captions of the video, in order of time; at least one."""
    outline: Outline | None
    facts: VideoFacts | None = None
    """Facts about the video, if its source has some."""
    kept: Sequence[Question] = ()
    """Questions of the video that have passed already."""

    @property
    def covered_span(self) -> Span:
        """The span of the video that has captions."""
        return Span(
            start_us=min(each.start_us for each in self.captions), end_us=max(each.end_us for each in self.captions)
        )


Gate = Callable[[Material, Sequence[Question]], list[Outcome]]
"""Returns one outcome for each question, in the same order."""


def with_trial(question: Question, trial: Trial) -> Question:
    """The question with one more trial among its checks."""
    return question.model_copy(update={"checks": (*question.checks, trial)})


def rule_trial(question: Question, check: Check, passed: bool, answer: str = "") -> Trial:
    """The trial of a check that needs no model."""
    return Trial(
        question_id=question.question_id,
        video_id=question.video_id,
        check=check,
        n=1,
        correct=int(passed),
        answers=(answer,) if answer else (),
        passed=passed,
        provenance=(),
    )


def reject_question(context: Context, question: Question, problem: Problem) -> Reject:
    """The reject of a question that has a problem."""
    return context.reject(
        question.question_id,
        problem.reason,
        f"question {question.question_id} ({question.question!r}): {problem.message}",
        problem.raw or question.provenance.raw,
        problem.request_sha256,
    )
