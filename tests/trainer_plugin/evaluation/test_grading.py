import pytest

from schemas.tables import QuestionKind
from tests.support.rows import make_sample, make_video
from trainer_plugin.evaluation.grading import OpenGrading, fold, grade

CHOICE = make_sample(0, make_video("film"))
OPEN = CHOICE.model_copy(update={"kind": QuestionKind.OPEN, "options": (), "answer_text": "The Red Boat"})


@pytest.mark.parametrize(
    ("answer", "correct"),
    [("A", True), ("(a)", True), ("a boat", True), ("A. a boat", True), ("B", False), ("A or B", False), (None, False)],
)
def test_a_choice_is_right_if_it_certainly_is_the_right_letter(answer, correct):
    assert [grade(CHOICE, answer, grading) for grading in OpenGrading] == [correct] * 3


@pytest.mark.parametrize(
    ("answer", "exact", "lenient"),
    [
        ("The Red Boat", True, True),
        (" The Red Boat\n", True, True),
        ("a red  boat.", False, True),
        ("the red ship", False, False),
        ("red", False, False),
    ],
)
def test_an_open_answer_is_compared_or_left_to_a_judge(answer, exact, lenient):
    assert grade(OPEN, answer, OpenGrading.EXACT) is exact
    assert grade(OPEN, answer, OpenGrading.LENIENT) is lenient
    assert grade(OPEN, answer, OpenGrading.JUDGE) is None
    assert grade(OPEN, None, OpenGrading.JUDGE) is False


def test_a_text_of_signs_alone_is_not_folded_to_nothing():
    assert (fold("+"), fold("The"), fold("Ａ  “Boat”!")) == ("+", "the", "boat")
    assert fold("+") != fold("-")
