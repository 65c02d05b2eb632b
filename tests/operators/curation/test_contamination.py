"""Questions that are equal or nearly equal to listed ones."""

import pytest

from operators.curation.contamination import ListedQuestions
from operators.curation.evaluation_lists import ListedItem

PICK = "What does the woman pick up from the table after the bell in the hall rings?"


def listed(*questions, overlap=0.5):
    items = [ListedItem(f"eval.csv, line {line}", frozenset(), each) for line, each in enumerate(questions, start=2)]
    return ListedQuestions(items, overlap)


@pytest.mark.parametrize(
    "question",
    [
        PICK,
        PICK.upper().replace("?", " ..."),
        PICK.replace("the hall", "the old hall"),
        f"Watch closely. {PICK}",
        "What does the woman pick up from the table after the second ring of a bell?",
    ],
)
def test_an_equal_or_nearly_equal_question_is_found(question):
    match = listed("Where is she?", PICK).find(question)
    assert match.item.place == "eval.csv, line 3"


@pytest.mark.parametrize(
    "question",
    [
        "What does the woman pick up?",
        "What does the man put down on the chair before the phone in the kitchen rings twice?",
        "What does the woman pick up from the chair when she comes home on the last evening of the film with her son?",
        "",
    ],
)
def test_a_question_with_less_in_common_is_not(question):
    assert listed(PICK).find(question) is None


def test_a_listed_question_with_its_options_is_found():
    match = listed(f"{PICK}\nA. a key\nB. a lamp that the old man has brought\nC. a letter\nD. nothing").find(PICK)
    assert match.share == 1.0
    assert str(match) == "100% of its words are in a question of evaluation list eval.csv, line 2"


def test_a_short_question_must_be_equal():
    assert listed("What is she doing?").find("what is SHE doing").share == 1.0
    assert listed("What is she doing?").find("What is she doing in the kitchen?") is None
    assert listed("What is she doing in the kitchen?").find("What is she doing?") is None


def test_the_most_similar_question_is_named_and_of_equal_ones_the_first():
    found = listed(PICK.replace("hall", "church"), PICK, PICK).find(PICK)
    assert (found.item.place, found.share) == ("eval.csv, line 3", 1.0)


def test_the_share_is_a_setting():
    other = "What does the woman pick up from the table when she comes back home late?"
    share = listed(PICK, overlap=0.1).find(other).share
    assert 0.5 < share < 0.7
    assert listed(PICK, overlap=0.7).find(other) is None
