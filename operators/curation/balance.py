"""Whether a rule that needs no video, such as "always the longest option", is right more often than guessing."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence

from schemas.tables import Question, QuestionKind

MAX_PROBABILITY = 0.001
"""Probability of guessing as well as a rule below which the rule counts as better than guessing."""


def longest_share(options: Sequence[str], answer: str) -> float:
    """Probability that the longest option is right, with ties broken uniformly at random."""
    length = max(len(option) for option in options)
    longest = [option for option in options if len(option) == length]
    return 1 / len(longest) if answer in longest else 0.0


def guessing_probability(right: float, answers: int, rate: float) -> float:
    """Probability of at least `right` right answers of `answers` guesses, by the binomial distribution.

    Args:
        right: right answers. Fractions, which come from ties, are rounded down.
        answers: number of guesses.
        rate: probability that one guess is right. If it differs between answers, its mean gives a larger probability
            than the exact distribution (Hoeffding, Annals of Mathematical Statistics 27, 1956), for more right answers
            than expected.
    """
    least = math.floor(right + 1e-9)
    if least <= 0 or rate >= 1:
        return 1.0
    if least > answers or rate <= 0:
        return 0.0
    below = least <= answers * rate  # then the other tail is the shorter sum
    counts = range(least - 1, -1, -1) if below else range(least, answers + 1)
    total, ways = 0.0, math.lgamma(answers + 1)
    for count in counts:
        term = math.exp(
            ways
            - math.lgamma(count + 1)
            - math.lgamma(answers - count + 1)
            + count * math.log(rate)
            + (answers - count) * math.log1p(-rate)
        )
        total += term
        if term < total * 1e-12:  # from here on the terms only decrease
            break
    return max(0.0, 1 - total) if below else min(1.0, total)


def find_longest_surplus(questions: Sequence[Question]) -> list[Question]:
    """The choice questions to drop so that the longest option is no longer right more often than by guessing.

    They are the fewest possible, and those whose right option is longer than the next one by the largest factor. Of
    equal ones, the lower id comes first.
    """
    choices = [question for question in questions if question.kind is QuestionKind.CHOICE]
    shares = {question.question_id: longest_share(question.options, question.answer) for question in choices}
    extreme = sorted(
        (question for question in choices if shares[question.question_id] == 1),
        key=lambda question: (-length_factor(question), question.question_id),
    )
    right, rate = sum(shares.values()), sum(1 / len(question.options) for question in choices)
    dropped_rates = [0.0]
    for question in extreme:
        dropped_rates.append(dropped_rates[-1] + 1 / len(question.options))

    def is_balanced(drop: int) -> bool:
        left = len(choices) - drop
        return left == 0 or (
            guessing_probability(right - drop, left, (rate - dropped_rates[drop]) / left) >= MAX_PROBABILITY
        )

    return extreme[: bisect_left(range(len(extreme) + 1), True, hi=len(extreme), key=is_balanced)]


def length_factor(question: Question) -> float:
    """Length of the right option divided by that of the longest wrong one."""
    others = [len(option) for option in question.options if option != question.answer]
    return len(question.answer) / max(others, default=1)
