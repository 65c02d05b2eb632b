"""The accuracy reward of multiple-choice questions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from schemas.answer_format import LETTERS, choice_letter, format_answer
from schemas.tables import QuestionKind


def accuracy_reward(
    completions: Sequence[str],
    options: Sequence[Sequence[str]],
    answer: Sequence[str],
    kind: Sequence[QuestionKind],
    **_: Any,
) -> list[float | Exception | None]:
    """1 if the response certainly chooses the right option (`choice_letter`), else 0; None for open questions.

    A choice question without options, or whose answer is not the letter of an option, is a failure.

    Args:
        answer: `<answer>B</answer>`, as in the release.
    """
    return [_score(*row) for row in zip(completions, options, answer, kind, strict=True)]


def _score(completion: str, options: Sequence[str], answer: str, kind: QuestionKind) -> float | Exception | None:
    if kind != QuestionKind.CHOICE:
        return None
    if not options:
        return ValueError("a choice question has no options; drop it or correct the release")
    right = next((letter for letter in LETTERS[: len(options)] if answer == format_answer(letter)), None)
    if right is None:
        return ValueError(f"the answer {answer!r} is no letter of {len(options)} options; correct the release")
    return float(choice_letter(completion, options) == right)
