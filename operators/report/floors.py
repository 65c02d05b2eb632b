"""What one can score on the choice questions without watching: the floors under every accuracy on this data."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from schemas.sample import LETTERS


@dataclass(frozen=True)
class Floor:
    """The accuracy of one way to answer without the video, beside what guessing gives."""

    name: str
    accuracy: float
    chance: float
    """Mean of 1 / number of options, over the same questions."""
    answers: int
    of_samples: bool = True
    """False: over all questions, among them those that the checks took out."""

    @property
    def deviation(self) -> float:
        """How far above chance, in standard errors of `answers` independent guesses (normal approximation)."""
        spread = math.sqrt(self.chance * (1 - self.chance) / self.answers)
        return (self.accuracy - self.chance) / spread if spread else 0.0


def floors(choices: pd.DataFrame, asked: pd.DataFrame, blind: pd.DataFrame) -> tuple[Floor, ...]:
    """The floors of a build; one without answers to count is left out.

    Args:
        choices: samples with options: `question_id`, `options` (texts in order), `answer_text`, `letter`.
        asked: questions with options, verified or not: `question_id`, `options`.
        blind: blind trials: `question_id`, `n`, `correct`.
    """
    found: list[Floor] = []
    if len(choices):
        chance = float((1 / choices["options"].map(len)).mean())
        counts = choices["letter"].value_counts().sort_index()
        letter = str(counts.idxmax())
        longest = [_longest(*row) for row in zip(choices["options"], choices["answer_text"], strict=True)]
        found += [
            Floor(f"Always the letter {letter}", float(counts.max() / len(choices)), chance, len(choices)),
            Floor("Always the longest option", sum(longest) / len(longest), chance, len(longest)),
        ]
    for name, questions, of_samples in (
        ("Judge without video, samples", choices, True),
        ("Judge without video, all asked", asked, False),
    ):
        tried = blind.merge(questions[["question_id", "options"]], on="question_id")
        if answers := int(tried["n"].sum()):
            chance = float((tried["n"] / tried["options"].map(len)).sum() / answers)
            found.append(Floor(name, float(tried["correct"].sum() / answers), chance, answers, of_samples))
    return tuple(found)


def expected_letters(choices: pd.DataFrame) -> dict[str, float]:
    """How often each letter would be right if the order of options were drawn uniformly."""
    sizes = choices["options"].map(len)
    used = LETTERS[: int(sizes.max())] if len(choices) else ""
    return {letter: float((1 / sizes[sizes > index]).sum()) for index, letter in enumerate(used)}


def _longest(options: list[str], answer: str) -> float:
    """Chance of being right with the longest option; a tie is broken by a coin."""
    length = max(len(option) for option in options)
    longest = [option for option in options if len(option) == length]
    return 1 / len(longest) if answer in longest else 0.0
