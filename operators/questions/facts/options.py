"""Chooses the wrong options of a question so that no option stands out by its length, by its words or by its frequency.

A reader of the text alone must not find the answer. The pool holds answers of the same shape (`FactIndex.shape`), so
that no verb and no kind of thing is more often right. All options share equally many words with the question, the
answer is the longest as often as it is the shortest, and over the questions of a video the right option has a word a
quarter of the times that it is in any.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
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
        self._excess: Counter[tuple[str, str]] = Counter()

    def excess(self, template: str, text: str) -> float:
        """How much more often than expected the words of the text were right, in this template and in all."""
        tokens = _tokens(text)
        return sum(self._excess["", each] + self._excess[template, each] for each in tokens) / max(1, len(tokens))

    def add(self, template: str, answer: str, wrong: Iterable[str]) -> None:
        """Count the options of a question."""
        counts = [(answer, WRONG_OPTIONS), *((each, -1) for each in wrong)]
        for text, change in counts:
            for token in _tokens(text):
                self._excess["", token] += change
                self._excess[template, token] += change


def choose_wrong(
    template: str,
    question: str,
    answer: str,
    pool: Iterable[str],
    usual: frozenset[str],
    balance: Balance,
    rng: Random,
) -> tuple[str, ...]:
    """Three wrong options, or none if there are not enough that are like the answer.

    Args:
        template: the question's template.
        question: the question as it is worded.
        answer: the right option.
        pool: wrong answers.
        usual: right answers to other questions of the same template. They are preferred.
        balance: the words of the options so far.
        rng: breaks ties and draws whether the answer is to be long or short.
    """
    named = _stems(question)
    shared = len(_stems(answer) & named)
    alike = {folded(each): each for each in pool if len(_stems(each) & named) == shared}
    alike.pop(folded(answer), None)
    candidates = rng.sample(list(alike.values()), len(alike))
    candidates.sort(key=lambda each: (each not in usual, -balance.excess(template, each)))
    ranks = rng.sample(range(1 + WRONG_OPTIONS), 1 + WRONG_OPTIONS)
    return next((found for rank in ranks if (found := _choose(answer, candidates, rank))), ())


def _choose(answer: str, candidates: Sequence[str], shorter: int) -> tuple[str, ...]:
    """The first candidates of which so many are shorter than the answer, all of similar length; else none."""
    chosen: list[str] = []
    counts = {True: shorter, False: WRONG_OPTIONS - shorter}
    for each in candidates:
        is_shorter = len(each) < len(answer)
        if counts[is_shorter] and _have_similar_length([answer, each, *chosen]):
            counts[is_shorter] -= 1
            chosen.append(each)
    return tuple(chosen) if len(chosen) == WRONG_OPTIONS else ()


def _have_similar_length(options: Sequence[str]) -> bool:
    short, *_, long = sorted(map(len, options))
    return long - short <= FEW_LETTERS or long <= MAX_RATIO * short


def _stems(text: str) -> frozenset[str]:
    """The content words without the `s` of a plural or a verb: `takes the ball` shares a word with `two balls`."""
    return frozenset(each.removesuffix("s") for each in content_words(text))


def _tokens(text: str) -> frozenset[str]:
    return content_words(text) | {text}
