"""Whether the longest option is right more often than guessing, and which questions to drop if it is."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.curation.balance import (
    MAX_PROBABILITY,
    find_longest_surplus,
    guessing_probability,
    length_factor,
    longest_share,
)
from schemas.tables import QuestionKind
from tests.support.rows import make_question


def choice(number, right=10, wrong=(8, 8, 8)):
    """A choice question whose options have these lengths."""
    answer, *others = ("x" * (length - 1) + letter for length, letter in zip((right, *wrong), "abcd", strict=False))
    return make_question(number).model_copy(update={"options": (answer, *others), "answer": answer})


def test_the_longest_option_is_right_or_shares_its_length():
    assert longest_share(("aaa", "b"), "aaa") == 1
    assert longest_share(("aaa", "b"), "b") == 0
    assert longest_share(("aaa", "bbb", "c"), "bbb") == 0.5


@given(st.integers(1, 40), st.sampled_from([0.25, 1 / 3, 0.5]), st.data())
def test_the_probability_is_that_of_the_binomial_distribution(answers, rate, data):
    from math import comb

    right = data.draw(st.integers(0, answers))
    exact = sum(
        comb(answers, count) * rate**count * (1 - rate) ** (answers - count) for count in range(right, answers + 1)
    )
    assert guessing_probability(right, answers, rate) == pytest.approx(exact, rel=1e-9, abs=1e-12)


def test_the_probability_of_a_whole_dataset_is_computed():
    assert guessing_probability(16_000, 60_000, 0.25) < 1e-15
    assert guessing_probability(15_000, 60_000, 0.25) == pytest.approx(0.5, abs=0.01)
    assert guessing_probability(0.4, 3, 0.25) == 1.0
    assert guessing_probability(3, 3, 1.0) == 1.0


def test_nothing_is_dropped_where_the_longest_option_is_right_as_often_as_by_guessing():
    draw = random.Random(0)
    questions = [choice(number, *draw.choice([(10, (8, 8, 8)), *[(8, (10, 8, 8))] * 3])) for number in range(400)]
    assert find_longest_surplus(questions) == []


def test_the_most_extreme_are_dropped_and_no_more_than_necessary():
    biased = [choice(number, right=10 + number) for number in range(80)]
    others = [choice(100 + number, 8, (10, 8, 8)) for number in range(80)]
    dropped = find_longest_surplus([*others, *biased])
    assert [question.question_id for question in dropped] == [f"q{79 - index:04d}" for index in range(len(dropped))]

    def probability(drop):
        return guessing_probability(80 - drop, 160 - drop, 0.25)

    assert probability(len(dropped)) >= MAX_PROBABILITY > probability(len(dropped) - 1)


def test_questions_of_equal_length_factor_are_dropped_by_id():
    dropped = find_longest_surplus([choice(number) for number in reversed(range(40))])
    assert [question.question_id for question in dropped] == [f"q{number:04d}" for number in range(len(dropped))]
    assert 30 < len(dropped) < 40


def test_open_questions_do_not_count():
    assert find_longest_surplus([make_question(number, kind=QuestionKind.OPEN) for number in range(50)]) == []
    assert find_longest_surplus([]) == []


def test_the_factor_compares_with_the_longest_wrong_option():
    assert length_factor(choice(0, 12, (8, 6, 3))) == 1.5
