"""Whether an answer is right."""

from __future__ import annotations

import re
import unicodedata
from enum import StrEnum

from schemas.answer_format import choice_letter
from schemas.sample import Sample
from schemas.tables import QuestionKind

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION = re.compile(r"[^\w\s]|_")


class OpenGrading(StrEnum):
    """How answers to open questions are graded."""

    EXACT = "exact"
    """Equal to the reference, without white space around it."""
    LENIENT = "lenient"
    """Equal but for case, punctuation, articles and white space, as in SQuAD's script (arXiv 1606.05250)."""
    JUDGE = "judge"
    """By a reward, such as the judge."""


def grade(sample: Sample, answer: str | None, grading: OpenGrading) -> bool | None:
    """Whether an answer is right; None if a judge must decide.

    A response without an answer, or whose choice is uncertain, is wrong and not excluded.

    Args:
        answer: `ParsedResponse.answer` of a response.
    """
    if answer is None:
        return False
    if sample.kind is QuestionKind.CHOICE:
        return choice_letter(answer, sample.options) == sample.final_answer
    if grading is OpenGrading.EXACT:
        return answer.strip() == sample.answer_text.strip()
    return fold(answer) == fold(sample.answer_text) if grading is OpenGrading.LENIENT else None


def fold(text: str) -> str:
    """A text without case, punctuation, articles and repeated white space.

    A text of these alone, such as `+`, stays as it is.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(_ARTICLES.sub(" ", _PUNCTUATION.sub(" ", folded)).split()) or folded.strip()
