"""Baselines compared with cases that can be counted by hand."""

import pandas as pd
import pytest

from operators.report.baselines import baselines, expected_letters


def choices(*rows):
    names = ("question_id", "options", "answer_text", "letter")
    return pd.DataFrame([dict(zip(names, row, strict=True)) for row in rows], columns=list(names))


FOUR = choices(
    ("q1", ["a", "bb", "cc", "d"], "bb", "B"),
    ("q2", ["a", "b", "cc", "d"], "a", "A"),
    ("q3", ["a", "b"], "b", "B"),
    ("q4", ["aaa", "b"], "aaa", "A"),
)
BLIND = pd.DataFrame({"question_id": ["q1", "q3", "other"], "n": [4, 4, 4], "correct": [1, 3, 4]})


def find_baselines(**changed):
    questions = pd.DataFrame({"question_id": ["q1", "q3", "other"], "options": [["a"] * 4, ["a"] * 2, ["a"] * 4]})
    return {
        baseline.name: baseline
        for baseline in baselines(**({"choices": FOUR, "questions": questions, "blind": BLIND} | changed))
    }


def test_chance_is_the_mean_over_questions_of_different_size():
    assert all(
        baseline.chance == pytest.approx((0.25 + 0.25 + 0.5 + 0.5) / 4)
        for name, baseline in find_baselines().items()
        if name.startswith("Always")
    )


def test_always_one_letter_and_longest_option():
    assert (
        find_baselines()["Always the letter A"].accuracy == 0.5
    )  # B is right equally often; the first letter is named
    # q1: one of two longest, q2: wrong, q3: one of two, q4: right
    assert find_baselines()["Always the longest option"].accuracy == pytest.approx((0.5 + 0 + 0.5 + 1) / 4)


def test_blind_accuracy_of_samples_excludes_what_the_check_rejected():
    samples, everything = (
        find_baselines()["Judge without video, samples"],
        find_baselines()["Judge without video, all questions"],
    )
    assert (samples.accuracy, samples.chance, samples.answers, samples.of_samples) == (0.5, 0.375, 8, True)
    assert (everything.accuracy, everything.answers, everything.of_samples) == (pytest.approx(8 / 12), 12, False)


def test_without_samples_only_the_baseline_of_all_questions_remains():
    assert list(find_baselines(choices=FOUR.head(0))) == ["Judge without video, all questions"]
    assert find_baselines(choices=FOUR.head(0), blind=BLIND.head(0)) == {}


def test_expected_letters_add_up_to_the_questions():
    assert expected_letters(FOUR) == {"A": 1.5, "B": 1.5, "C": 0.5, "D": 0.5}
    assert expected_letters(FOUR.head(0)) == {}
