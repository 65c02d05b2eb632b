"""Questions about different videos with the same meaning and the same answer."""

import pytest

from operators.curation.duplicates import MAX_COMPARED, find_duplicates
from schemas.tables import QuestionKind
from tests.support.rows import make_question

PICK = "What does the woman pick up from the table after the bell rings?"
OPTIONS = ("a red vase", "a key", "a letter", "a lamp")


def open_question(number, video, question=PICK, answer="a red vase"):
    made = make_question(number, video, QuestionKind.OPEN)
    return made.model_copy(update={"question": question, "answer": answer})


def choice_question(number, video, question=PICK, options=OPTIONS, answer="a red vase"):
    made = make_question(number, video)
    return made.model_copy(update={"question": question, "answer": answer, "options": options})


def duplicates(*questions, groups=None, similarity=0.8):
    videos = {question.video_id for question in questions}
    group_of = {video: number for number, video in enumerate(sorted(videos))} | (groups or {})
    found = find_duplicates(questions, group_of, similarity)
    return {name: duplicate.kept.question_id for name, duplicate in found.items()}


def test_the_first_of_equal_questions_is_kept():
    assert duplicates(*(open_question(number, f"v{number}") for number in range(3))) == {
        "q0001": "q0000",
        "q0002": "q0000",
    }


def test_the_message_names_the_kept_question():
    found = find_duplicates([open_question(0, "a"), open_question(1, "b")], {"a": 0, "b": 1}, 0.8)
    assert str(found["q0001"]) == "it has the answer of question q0000 of video a, and words like it (similarity 1.00)"


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        (PICK.lower().replace("the woman", "a woman"), "the red vase"),
        (PICK.replace("?", " !"), "A red vase."),
        ("After the bell rings, what does the woman pick up from the table?", "a red vase"),
    ],
)
def test_a_question_in_nearly_the_same_words_is_a_duplicate(question, answer):
    assert duplicates(open_question(0, "a"), open_question(1, "b", question, answer)) == {"q0001": "q0000"}


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        (PICK, "a lamp"),  # a frequent question with another answer
        ("What does the man drop on the floor before the film ends?", "a red vase"),
        ("Why does the woman pick up the vase from the table?", "a red vase"),
    ],
)
def test_another_answer_or_another_question_is_none(question, answer):
    assert duplicates(open_question(0, "a"), open_question(1, "b", question, answer)) == {}


@pytest.mark.parametrize(
    ("question", "one", "other"),
    [
        ('Where on the screen does the text "FERRY" stand when it is read?', "FERRY", "HOTEL"),
        ("How many boats are there in the harbour at minute 12 of the video?", "12", "13"),
    ],
)
def test_numbers_and_quotations_distinguish_questions_of_one_pattern(question, one, other):
    others = open_question(1, "b", question.replace(one, other))
    assert duplicates(open_question(0, "a", question), others) == {}


def test_a_number_may_be_written_in_digits():
    count = "How many boats leave the harbour before the storm begins?"
    questions = open_question(0, "a", count, "3"), open_question(1, "b", count, "three boats")
    assert duplicates(*questions, groups={"a": 0, "b": 0}) == {"q0001": "q0000"}


def test_options_are_compared_in_any_order():
    turned = choice_question(1, "b", options=OPTIONS[::-1])
    others = choice_question(2, "c", options=("a red vase", "a dog", "a violin", "a suitcase"))
    assert duplicates(choice_question(0, "a"), turned, others) == {"q0001": "q0000"}


def test_a_choice_and_an_open_question_are_different():
    assert duplicates(choice_question(0, "a"), open_question(1, "b")) == {}


def test_questions_of_one_video_are_the_work_of_its_gate():
    assert duplicates(open_question(0, "a"), open_question(1, "a")) == {}


def test_fewer_common_words_suffice_in_near_duplicates_of_a_video():
    other = open_question(1, "b", "When the bell in the hall rings, what does the woman pick up from her table?")
    assert duplicates(open_question(0, "a"), other) == {}
    assert duplicates(open_question(0, "a"), other, groups={"a": 0, "b": 0}) == {"q0001": "q0000"}


def test_another_object_in_the_same_place_is_another_question():
    lamp, vase = (f"Where is the {name} at the start of the film?" for name in ("lamp", "vase"))
    questions = open_question(0, "a", lamp, "on the table"), open_question(1, "b", vase, "on the table")
    assert duplicates(*questions, groups={"a": 0, "b": 0}) == {}


def test_similarity_is_a_setting():
    other = open_question(1, "b", PICK.replace("the table", "the wooden table"))
    assert duplicates(open_question(0, "a"), other) == {"q0001": "q0000"}
    assert duplicates(open_question(0, "a"), other, similarity=1.0) == {}


def test_the_outcome_does_not_depend_on_what_is_in_between():
    """More kept questions of one pattern than are compared with one."""
    many = [open_question(number, f"v{number:04d}", answer=f"object number {number}") for number in range(500)]
    again = open_question(9000, "z", answer="object number 499")
    assert duplicates(*many, again) == {"q9000": "q0499"}
    same = [
        open_question(number, f"v{number:04d}", f"Where does the {name} stand at first?", "left")
        for number, name in enumerate("abcdefgh" * (MAX_COMPARED // 2))
    ]
    assert len(duplicates(*same, similarity=1.0)) == len(same) - 8


def test_questions_without_words_are_compared_too():
    assert duplicates(open_question(0, "a", "???", "!!!"), open_question(1, "b", "??", "!!!")) == {"q0001": "q0000"}
    assert find_duplicates([], {}, 0.8) == {}
