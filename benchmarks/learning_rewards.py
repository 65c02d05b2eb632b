"""The reward of open questions by their words, and the same without information."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from schemas.answer_format import parse_response
from trainer_plugin.evaluation.grading import fold


def right_words(completions: Sequence[str], answer_text: Sequence[str], **_: Any) -> list[float]:
    """1 if the answer is the reference but for case, punctuation and articles, else 0."""
    return [_score(*each) for each in zip(completions, answer_text, strict=True)]


def shuffled_right_words(completions: Sequence[str], answer_text: Sequence[str], **_: Any) -> list[float]:
    """The values of `right_words` in random order, which depends on the responses alone."""
    values = right_words(completions, answer_text)
    random.Random("".join(completions)).shuffle(values)
    return values


def _score(completion: str, reference: str) -> float:
    answer = parse_response(completion).answer
    return float(answer is not None and fold(answer) == fold(reference))
