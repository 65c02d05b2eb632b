"""Answers that mean the same are the same, however they are written; others are not; the rest is left to a judge."""

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from operators.questions.answers import compare_open, same_answer
from schemas.tables import QuestionKind

OPEN, CHOICE = QuestionKind.OPEN, QuestionKind.CHOICE

SAME = [
    ("three", "3"),
    ("Three.", "3 times"),
    ("twenty-three", "23"),
    ("007", "7"),
    ("3.50", "3.5"),
    ("twice", "2"),
    ("NORA NEEDS A KEY", "nora needs a key."),
    ("NORA NEEDS A KEY", "Nora needs akey"),
    ('"A", then "B", then "C"', "A, B and C"),
    ("00:42", "0:42"),
    ("00:42", "at 42 seconds"),
    ("00:42", "about 00:43"),
    ("01:05", "1 minute 5 seconds"),
    ("1:01:00", "61 minutes"),
    ("about 6 seconds", "six sec"),
    ("about 6 seconds", "7"),
    ("the top left", "Top left"),
]
DIFFERENT = [
    ("3", "4"),
    ("3 boats", "4"),
    ("00:42", "00:45"),
    ("about 6 seconds", "about 12 seconds"),
    ("00:42", "42 minutes"),
    ("3", "no idea at all"),
    ("00:42", "near the end"),
]
FOR_A_JUDGE = [
    ("Nora", "the girl in red"),
    ('"A", then "B"', '"B", then "A"'),
    ("top left", "in the upper left corner"),
    ("FERRY 1", "FERRY 2"),
    ("3 boats", "4 boats"),
    ("1.5 m wide", "15 m wide"),
    ("NORA at 00:42", "NORA at 00:43"),
    ("3", "between 2 and 4"),
    ("00:42", "at 00:42, when she leaves"),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_same(one, other):
    assert compare_open(one, other) is True
    assert compare_open(other, one) is True
    assert same_answer(one, other, OPEN)


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_different(one, other):
    assert compare_open(one, other) is False
    assert compare_open(other, one) is False


@pytest.mark.parametrize(("one", "other"), FOR_A_JUDGE)
def test_words_that_differ_are_for_a_judge(one, other):
    assert compare_open(one, other) is None
    assert not same_answer(one, other, OPEN)


def test_an_option_is_its_text():
    assert same_answer("About 6 seconds", "about  6 seconds", CHOICE)
    assert not same_answer("about 6 seconds", "about 7 seconds", CHOICE)
    assert not same_answer("3.5", "35", CHOICE)


@settings(deadline=None)
@given(st.text(max_size=40))
def test_every_answer_is_the_same_as_itself(text):
    assert compare_open(text, text) is True
    assert same_answer(text, text, CHOICE)


@settings(deadline=None)
@given(st.text(max_size=20), st.text(max_size=20))
def test_order_does_not_matter(one, other):
    assert compare_open(one, other) is compare_open(other, one)


@settings(deadline=None)
@given(st.lists(st.from_regex(r"[a-z]{3,8}", fullmatch=True), min_size=1, max_size=6), st.data())
def test_case_spaces_and_punctuation_do_not_matter(words, data):
    marks = data.draw(
        st.lists(st.sampled_from(["", ".", ",", "!", ' "', "  "]), min_size=len(words), max_size=len(words))
    )
    dressed = "".join(f" {word.upper()}{mark}" for word, mark in zip(words, marks, strict=True))
    assert same_answer(" ".join(words), dressed, OPEN)


@settings(deadline=None)
@given(st.integers(0, 5_999), st.integers(0, 5_999))
def test_times_agree_within_two_seconds_in_any_notation(one, other):
    clock = f"{one // 60:02d}:{one % 60:02d}"
    words = f"{other // 60} minutes {other % 60} seconds"
    assert compare_open(clock, words) is (abs(one - other) <= 2)


@settings(deadline=None)
@given(st.integers(0, 10**7), st.integers(0, 10**7))
def test_numbers_agree_when_they_are_equal(one, other):
    assume(one != other)
    assert compare_open(str(one), f"{one} boats") is True
    assert compare_open(str(one), str(other)) is False
