"""Rows of questions that are derived from facts."""

from operators.questions.facts.derive import Derived
from schemas.provenance import Provenance
from schemas.tables import Derivation, Question


def question_of(derived: Derived) -> Question:
    """The row of a derived question, without checks."""
    return Question(
        question_id="q", video_id="v", category=derived.category, kind=derived.kind, writer="annotations",
        question=derived.question, options=derived.options, answer=derived.answer, evidence=derived.evidence,
        derivation=Derivation(template=derived.template, subjects=derived.subjects),
        provenance=Provenance(model="program"),
    )  # fmt: skip
