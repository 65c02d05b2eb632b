"""Baselines: accuracies on the choice questions that are reached without the video, by a simple rule or by a model."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from operators.curation.balance import guessing_probability, longest_share
from schemas.answer_format import LETTERS


@dataclass(frozen=True)
class Baseline:
    """A baseline: the accuracy of one way to answer without the video, and that of guessing."""

    name: str
    accuracy: float
    chance: float
    """Accuracy of guessing: the mean of 1 / number of options over the same answers."""
    answers: int
    of_samples: bool = True
    """Whether it covers the samples only. False means all questions, including those that failed a check."""

    @property
    def guessing_probability(self) -> float:
        """Probability that independent guesses reach this accuracy, at least."""
        return guessing_probability(self.accuracy * self.answers, self.answers, self.chance)


def baselines(choices: pd.DataFrame, questions: pd.DataFrame, blind: pd.DataFrame) -> tuple[Baseline, ...]:
    """Compute the baselines of a build. Baselines without any answers are omitted.

    Args:
        choices: samples with options. Columns: `question_id`, `options` (texts in order), `answer_text`, `letter`.
        questions: those with options, verified or not. Columns: `question_id`, `options`.
        blind: blind trials. Columns: `question_id`, `n`, `correct`.
    """
    found: list[Baseline] = []
    if len(choices):
        chance = float((1 / choices["options"].map(len)).mean())
        counts = choices["letter"].value_counts().sort_index()
        letter = str(counts.idxmax())
        longest = [longest_share(*row) for row in zip(choices["options"], choices["answer_text"], strict=True)]
        found += [
            Baseline(f"Always the letter {letter}", float(counts.max() / len(choices)), chance, len(choices)),
            Baseline("Always the longest option", sum(longest) / len(longest), chance, len(longest)),
        ]
    for name, judged, of_samples in (
        ("Judge without video, samples", choices, True),
        ("Judge without video, all questions", questions, False),
    ):
        tried = blind.merge(judged[["question_id", "options"]], on="question_id")
        if answers := int(tried["n"].sum()):
            chance = float((tried["n"] / tried["options"].map(len)).sum() / answers)
            found.append(Baseline(name, float(tried["correct"].sum() / answers), chance, answers, of_samples))
    return tuple(found)


def expected_letters(choices: pd.DataFrame) -> dict[str, float]:
    """Expected number of samples for which each letter is right, if the order of options is drawn uniformly."""
    sizes = choices["options"].map(len)
    used = LETTERS[: int(sizes.max())] if len(choices) else ""
    return {letter: float((1 / sizes[sizes > index]).sum()) for index, letter in enumerate(used)}
