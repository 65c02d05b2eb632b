"""Chooses the wrong options of a question so that no option stands out by its length, by its words or by its frequency.

A reader of the text alone must not find the answer. All options share equally many words with the question, the answer
is the longest as often as it is the shortest, and over the questions of a video the right option has a word a quarter
of the times that it is in any.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from random import Random

from operators.questions.answers import folded
from operators.questions.facts.wording import content_words

WRONG_OPTIONS = 3
MAX_RATIO = 1.6
"""Length of the longest option divided by that of the shortest, at most, if they differ by more than `FEW_LETTERS`."""
FEW_LETTERS = 8


class Balance:
    """How much more often than a quarter each word was in right options, over the questions of a video."""

    def __init__(self) -> None:
        self._excess: Counter[str] = Counter()

    def excess(self, text: str) -> float:
        """How much more often than expected the words of the text were right, on average."""
        tokens = _tokens(text)
        return sum(self._excess[each] for each in tokens) / max(1, len(tokens))

    def add(self, answer: str, wrong: Iterable[str]) -> None:
        """Count the options of a question."""
        for word in _tokens(answer):
            self._excess[word] += WRONG_OPTIONS
        for option in wrong:
            for word in _tokens(option):
                self._excess[word] -= 1


def choose_wrong(
    question: str, answer: str, pool: Iterable[str], usual: frozenset[str], balance: Balance, rng: Random
) -> tuple[str, ...]:
    """Three wrong options, or none if there are not enough that are like the answer.

    Args:
        question: the question as it is worded.
        answer: the right option.
        pool: wrong answers.
        usual: right answers to other questions of the same template. They are preferred.
        balance: the words of the options so far.
        rng: breaks ties and draws whether the answer is to be long or short.
    """
    named = content_words(question)
    shared = len(content_words(answer) & named)
    alike = {
        folded(each): each
        for each in pool
        if len(content_words(each) & named) == shared and _has_similar_length(each, answer)
    }
    alike.pop(folded(answer), None)
    candidates = rng.sample(list(alike.values()), len(alike))
    if len(candidates) < WRONG_OPTIONS:
        return ()
    candidates.sort(key=lambda each: (each not in usual, -balance.excess(each)))
    shorter = [each for each in candidates if len(each) < len(answer)]
    longer = [each for each in candidates if len(each) >= len(answer)]
    rank = rng.randint(0, WRONG_OPTIONS)
    rank = min(max(rank, WRONG_OPTIONS - len(longer)), len(shorter))
    return (*shorter[:rank], *longer[: WRONG_OPTIONS - rank])


def _has_similar_length(one: str, other: str) -> bool:
    short, long = sorted((len(one), len(other)))
    return long - short <= FEW_LETTERS or long <= MAX_RATIO * short


def _tokens(text: str) -> frozenset[str]:
    return content_words(text) | {text}
