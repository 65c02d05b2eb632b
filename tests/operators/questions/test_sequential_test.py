"""The sequential test needs no superfluous trials, and errs as seldom as it states."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.questions.sequential_test import SequentialTest

AGREEMENT = SequentialTest(high=0.85, low=0.35, miss_rate=0.015, false_alarm_rate=0.1, max_trials=9)
BLIND = SequentialTest(high=0.6, low=0.25, miss_rate=0.06, false_alarm_rate=0.01, max_trials=32)
RATES = st.floats(0.01, 0.2)


@st.composite
def sequential_tests(draw):
    low = draw(st.floats(0.05, 0.6))
    high = draw(st.floats(low + 0.1, 0.95))
    return SequentialTest(high, low, draw(RATES), draw(RATES), draw(st.integers(1, 40)))


@given(test=sequential_tests(), seed=st.integers(0, 1000))
def test_as_many_trials_as_named_reach_a_decision_within_the_limit(test, seed):
    rng = Random(seed)
    right = wrong = 0
    while more := test.more_trials(right, wrong):
        assert test.decide(right, wrong) is None
        for index in range(more):
            assert index == 0 or test.decide(right, wrong) is None, "fewer trials would have been enough"
            answer = rng.random() < 0.5
            right, wrong = right + answer, wrong + (not answer)
    assert test.decide(right, wrong) is not None
    assert right + wrong <= test.max_trials


@given(test=sequential_tests())
def test_equal_answers_decide_for_themselves(test):
    assert test.probability_of_high(1.0) == pytest.approx(1.0)
    assert test.probability_of_high(0.0) == pytest.approx(0.0)


def test_without_a_limit_the_error_rates_hold():
    test = SequentialTest(high=0.6, low=0.25, miss_rate=0.06, false_alarm_rate=0.01, max_trials=400)
    assert 1 - test.probability_of_high(0.6) <= 0.06
    assert test.probability_of_high(0.25) <= 0.01


def test_probabilities_agree_with_simulated_trials():
    rng = Random(1)
    decided = [_simulate(AGREEMENT, 0.7, rng) for _ in range(4000)]
    assert sum(high for high, _ in decided) / 4000 == pytest.approx(AGREEMENT.probability_of_high(0.7), abs=0.03)
    assert sum(trials for _, trials in decided) / 4000 == pytest.approx(AGREEMENT.mean_trials(0.7), abs=0.15)


def test_a_judge_that_errs_in_one_of_ten_answers_loses_few_good_questions():
    assert AGREEMENT.probability_of_high(0.9) > 0.99
    assert AGREEMENT.probability_of_high(0.1) < 0.002
    assert AGREEMENT.mean_trials(0.9) < 4.1
    assert AGREEMENT.more_trials(0, 0) == 3


def test_guessing_among_four_options_is_seldom_taken_for_knowledge():
    assert BLIND.probability_of_high(0.25) < 0.02
    assert BLIND.probability_of_high(0.6) > 0.94


def _simulate(test, p, rng):
    right = wrong = 0
    while test.decide(right, wrong) is None:
        answer = rng.random() < p
        right, wrong = right + answer, wrong + (not answer)
    return test.decide(right, wrong), right + wrong


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((0.2, 0.6, 0.1, 0.1, 9), "low"),
        ((0.6, 0.2, 0.6, 0.1, 9), "miss_rate"),
        ((0.6, 0.2, 0.1, 0.0, 9), "false_alarm_rate"),
        ((0.6, 0.2, 0.1, 0.1, 0), "max_trials"),
    ],
)
def test_values_without_meaning_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        SequentialTest(*values)
