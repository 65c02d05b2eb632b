"""Whether an answer is right, and how certain a share of right answers is."""

from __future__ import annotations

import math
import re
import unicodedata
from enum import StrEnum

from schemas.answer_format import choice_letter
from schemas.sample import Sample
from schemas.tables import QuestionKind

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION = re.compile(r"[^\w\s]|_")

_Z = 1.959963984540054
"""Quantile 0.975 of the normal distribution, for intervals of 95 %."""


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


def wilson_interval(right: float, count: int) -> tuple[float, float]:
    """Wilson's score interval of 95 % for a share (Wilson 1927, doi 10.2307/2276774).

    Args:
        right: number of right answers out of `count`. It is a fraction if every question counts with the mean of
            several answers; the interval is then an upper bound, because such means vary less than single answers.
        count: number of questions, at least 1.

    Returns:
        The lower and the upper limit, from 0 to 1.
    """
    share, square = right / count, _Z * _Z
    centre = (share + square / (2 * count)) / (1 + square / count)
    half = _Z / (1 + square / count) * math.sqrt(share * (1 - share) / count + square / (4 * count * count))
    return max(0.0, centre - half), min(1.0, centre + half)
