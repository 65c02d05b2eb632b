"""Runs the gates: each on the questions that passed the one before, cheap ones first.

Duplicates come last: a question must not be lost because it repeats one that is rejected for another reason.
"""

from __future__ import annotations

from collections.abc import Sequence

from operators.questions.gates.blind import check_blind
from operators.questions.gates.duplicates import check_duplicates
from operators.questions.gates.form import check_form
from operators.questions.gates.frames import check_frames
from operators.questions.gates.grounding import check_derivation, check_evidence, check_parts, check_timeline
from operators.questions.gates.review import check_review
from operators.questions.outcome import Gate, Material, Outcome, Problem, reject_question
from operators.questions.spatial import check_wording
from schemas.config import VerifyConfig
from schemas.tables import Question, Reject

PROMPTS = (
    "answer_blind_choice",
    "answer_blind_open",
    "answer_choice",
    "answer_open",
    "collect_notes",
    "judge",
    "review_question",
    "same_question",
)
"""All prompts that gates use."""

PROGRAM_GATES: tuple[Gate, ...] = (check_form, check_blind, check_derivation, check_duplicates)
"""The gates of questions that a program derived and worded, in order."""
WORDED_GATES: tuple[Gate, ...] = (
    check_form,
    check_wording,
    check_review,
    check_blind,
    check_derivation,
    check_frames,
    check_duplicates,
)
"""The gates of questions that a program derived from boxes and a model worded, in order. Captions do not hold boxes, so
nothing is answered from them; the viewer sees the moment itself."""


def model_gates(settings: VerifyConfig) -> tuple[Gate, ...]:
    """The gates of questions that a model wrote, in order."""
    timeline = (check_timeline,) if settings.timeline else ()
    parts = (check_parts,) if settings.parts else ()
    return (check_form, check_review, check_blind, check_evidence, *timeline, check_frames, *parts, check_duplicates)


def run_gates(material: Material, questions: Sequence[Question], gates: Sequence[Gate]) -> list[Question | Reject]:
    """The questions with their checks and verdicts, in the order given, each reject after its question."""
    settled: dict[str, Outcome] = {}
    alive = list(questions)
    for gate in gates:
        outcomes = gate(material, alive)
        settled |= {outcome.question.question_id: outcome for outcome in outcomes}
        alive = [outcome.question for outcome in outcomes if outcome.problem is None]
    rows: list[Question | Reject] = []
    for question in questions:
        outcome = settled[question.question_id]
        rows += _rows(material, outcome.question, outcome.problem)
    return rows


def _rows(material: Material, question: Question, problem: Problem | None) -> list[Question | Reject]:
    if problem is None:
        return [question.model_copy(update={"passed": True})]
    return [question.model_copy(update={"passed": False}), reject_question(material.context, question, problem)]
