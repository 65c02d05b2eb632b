"""Writes the chain of thought of a question from facts: what is seen, when, and what follows from it."""

from __future__ import annotations

from random import Random

from operators.questions.facts.derive import TEMPLATES
from operators.questions.facts.index import FactIndex
from schemas.facts import VideoFacts
from schemas.tables import Question


def explain(facts: VideoFacts, question: Question, rng: Random) -> str:
    """The reasoning for a question from facts.

    Args:
        facts: the facts about its video.
        question: a question with a derivation.
        rng: chooses the wording.

    Raises:
        ValueError: the question was not derived from facts, or they state something else now.
    """
    if question.derivation is None or question.derivation.template not in TEMPLATES:
        raise ValueError(f"question {question.question_id} was not derived from facts; use the writer that made it")
    index = FactIndex(facts, max((each.end_us for each in (*facts.events, *question.evidence)), default=0))
    known = index.ids.issuperset(question.derivation.subjects)
    state = TEMPLATES[question.derivation.template].state
    statement = state(index, *question.derivation.subjects) if known else None
    if statement is None or statement.answer != question.answer:
        raise ValueError(
            f"question {question.question_id}: the facts do not state {question.answer!r} for "
            f"{question.derivation.template} of {question.derivation.subjects}; they have changed, derive it again"
        )
    return " ".join(rng.choice(wordings) for wordings in statement.chain)
