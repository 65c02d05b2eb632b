"""Answers with the same meaning are equal in any wording, others differ, and unclear cases are left to a judge."""

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from operators.questions.answers import compare_open, same_answer, same_count, same_place, same_texts
from operators.questions.phrases import REGIONS
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
    ("00:42", "at 00:42, when she leaves"),
    ("about 5 seconds", "It stays on screen for 6 seconds."),
]
DIFFERENT = [
    ("3", "4"),
    ("3 boats", "4"),
    ("00:42", "00:45"),
    ("about 6 seconds", "about 12 seconds"),
    ("00:42", "42 minutes"),
    ("3", "no idea at all"),
    ("00:42", "near the end"),
    ("00:21", "2023-01-14 04:33:16.132"),
    ("00:21", "00:21 or 00:40"),
    ("about 5 seconds", "7.4678813145861568112, 12, 2018"),
    ("about 5 seconds", "5 boats go by"),
    ("about 5 seconds", "The text"),
    ("3", "between 2 and 4"),
]
FOR_A_JUDGE = [
    ("Nora", "the girl in red"),
    ('"A", then "B"', '"B", then "A"'),
    ("top left", "in the upper left corner"),
    ("FERRY 1", "FERRY 2"),
    ("3 boats", "4 boats"),
    ("1.5 m wide", "15 m wide"),
    ("NORA at 00:42", "NORA at 00:43"),
]
TEXTS = '"FRESH APPLES", then "FERRY 1", then "SALT, AND PEPPER"'


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


@settings(deadline=None)
@given(st.text(max_size=40), st.sampled_from(["00:21", "3", "about 5 seconds"]))
def test_a_mere_quantity_is_never_for_a_judge(answer, right):
    assert compare_open(answer, right) in (True, False)


@pytest.mark.parametrize(
    ("answer", "same"),
    [("3", True), ("three times", True), ("4", False), ("00:03", False), ("3 seconds", False), ("EXIT", False)],
)
def test_a_count_is_a_number_and_no_time(answer, same):
    assert same_count(answer, "3") is same


@pytest.mark.parametrize(
    ("answer", "right", "same"),
    [
        ("In the upper left-hand corner of the screen.", "top left", True),
        ("top", "top centre", True),
        ("Top center", "top centre", True),
        ("middle left", "centre left", True),
        ("in the middle", "centre", True),
        ("top", "top left", False),
        ("top or bottom left", "top left", False),
        ("The text", "top centre", False),
        ("The text", "centre", False),
        ("left of the boat", "centre left", False),
        ("", "centre", False),
    ],
)
def test_places_in_the_picture(answer, right, same):
    assert same_place(answer, right) is same


@pytest.mark.parametrize("one", REGIONS.values())
def test_a_place_is_itself_only(one):
    assert [other for other in REGIONS.values() if same_place(one, other)] == [one]


@pytest.mark.parametrize(
    ("answer", "right", "same"),
    [
        ("chapter 1 the harbour", "CHAPTER 1: THE HARBOUR", True),
        ("CHAPTER 1: THE HARB0UR", "CHAPTER 1: THE HARBOUR", True),
        ("CHAPTER 1: THE HARBQUR", "CHAPTER 1: THE HARBOUR", True),
        ("CHAPTER 2: THE HARBOUR", "CHAPTER 1: THE HARBOUR", False),
        ('It is the text "FRESH APPLES".', "FRESH APPLES", True),
        ("The text is FRESH APPLES", "FRESH APPLES", True),
        ("She says “NO”", "SHE SAYS “NO”", True),
        ("NO", "SHE SAYS “NO”", False),
        ("FRESH APPLES or EXIT", "EXIT", False),
        ("1", "FERRY 1", False),
        ("The text", "EXIT", False),
        ("", "EXIT", False),
        (TEXTS, TEXTS, True),
        ("1. Fresh apples\n2. Ferry 1\n3. “Salt and pepper”", TEXTS, False),  # one quoted text is not three
        ("fresh apples, ferry 1, salt and pepper", TEXTS, True),
        ("“Fresh Aples” → “Ferry 1” → “Salt, and Pepper”", TEXTS, True),
        ("1. EXIT\n2. FERRY 1\n3. OPEN DAILY", '"EXIT", then "FERRY 1", then "OPEN DAILY"', True),
        ('"FERRY 1", then "FRESH APPLES", then "SALT, AND PEPPER"', TEXTS, False),
        ("ferry 1, fresh apples, salt and pepper", TEXTS, False),
        ("FRESH APPLES", TEXTS, False),
    ],
)
def test_texts_on_screen(answer, right, same):
    assert same_texts(answer, right) is same
