"""Each rule rejects the row that breaks it, with its own reason, and passes good rows."""

import pytest

from operators.questions.rules import form_problem, meta_talk
from schemas.base import Span
from schemas.provenance import Provenance
from schemas.tables import Question, QuestionCategory, QuestionKind, Reasoning

COVERED = Span(start_us=0, end_us=60_000_000)
INSIDE = (Span(start_us=5_000_000, end_us=10_000_000),)
OUTSIDE = (Span(start_us=55_000_000, end_us=65_000_000),)
MODEL = Provenance(model="writer")

GOOD = Question(
    question_id="q1",
    video_id="film",
    category=QuestionCategory.PLOT,
    kind=QuestionKind.CHOICE,
    writer="model",
    question="Why does Nora run back to the harbour?",
    options=("She lost her shoe", "The last ferry leaves", "Max is gone", "It starts to rain"),
    answer="The last ferry leaves",
    evidence=INSIDE,
    derivation=None,
    provenance=MODEL,
)
OPEN = GOOD.model_copy(update={"kind": QuestionKind.OPEN, "options": ()})
THOUGHT = Reasoning(
    question_id="q1",
    video_id="film",
    reasoning="At 00:05 the horn sounds and she turns round. So she runs for the ferry.",
    evidence=INSIDE,
    provenance=MODEL,
)


def problem(question=GOOD, thought=THOUGHT, covered=COVERED, earlier=()):
    return form_problem(question, thought, covered, earlier)


def test_good_questions_pass():
    assert problem() is None
    assert problem(OPEN) is None


@pytest.mark.parametrize(
    ("question", "reason"),
    [
        (GOOD.model_copy(update={"options": GOOD.options[:3]}), "bad_options"),
        (GOOD.model_copy(update={"options": (*GOOD.options[:3], "the last  ferry leaves.")}), "bad_options"),
        (OPEN.model_copy(update={"options": GOOD.options}), "bad_options"),
        (GOOD.model_copy(update={"answer": "She is hungry"}), "answer_missing"),
        (OPEN.model_copy(update={"answer": "because " * 21}), "long_answer"),
        (GOOD.model_copy(update={"evidence": ()}), "no_evidence"),
        (GOOD.model_copy(update={"evidence": (*INSIDE, *OUTSIDE)}), "evidence_outside"),
        (GOOD.model_copy(update={"question": "Why run?"}), "too_short"),
        (GOOD.model_copy(update={"question": "What does the caption say about Nora?"}), "meta_talk"),
        (OPEN.model_copy(update={"answer": "as the text above says"}), "meta_talk"),
    ],
)
def test_a_broken_rule_is_named_with_the_question(question, reason):
    found = problem(question)
    assert found is not None
    assert found.reason == reason
    assert "q1" in found.message
    assert question.question in found.message


@pytest.mark.parametrize(
    ("thought", "reason"),
    [
        (None, "no_reasoning"),
        (THOUGHT.model_copy(update={"reasoning": "In the second clip she turns."}), "meta_talk"),
        (THOUGHT.model_copy(update={"reasoning": "She turns, so option B is right."}), "meta_talk"),
        (THOUGHT.model_copy(update={"evidence": ()}), "no_evidence"),
        (THOUGHT.model_copy(update={"evidence": OUTSIDE}), "evidence_outside"),
    ],
)
def test_a_chain_of_thought_must_be_there_and_speak_of_the_video(thought, reason):
    assert problem(thought=thought).reason == reason


def test_a_video_without_captions_holds_no_evidence():
    assert problem(covered=None).reason == "evidence_outside"


@pytest.mark.parametrize(
    ("changes", "duplicate"),
    [
        ({}, True),
        ({"question": "Why does Nora run back to the old harbour?"}, True),
        ({"question": "Why does Nora run back to the harbour?", "kind": QuestionKind.OPEN, "options": ()}, True),
        ({"question": "Where does Max the dog wait all night?"}, False),
        (
            {
                "question": "Why does Nora run back to the market?",
                "answer": "Max is gone",
                "options": ("Max is gone", "She is late", "She is cold", "She forgot her parcel"),
            },
            False,
        ),
    ],
)
def test_a_repeated_question_is_a_near_duplicate(changes, duplicate):
    earlier = GOOD.model_copy(update={"question_id": "q0", **changes})
    found = problem(earlier=[earlier])
    assert (found.reason if found else None) == ("near_duplicate" if duplicate else None)
    assert found is None or "q0" in found.message


def test_the_same_wording_about_another_text_is_another_question():
    one = OPEN.model_copy(update={"question": 'How many times does the text "OPEN" appear on screen?', "answer": "2"})
    other = one.model_copy(update={"question": one.question.replace("OPEN", "SHUT"), "question_id": "q2"})
    assert problem(one, earlier=[other]) is None


@pytest.mark.parametrize(
    "text",
    [
        "The captions say that she leaves.",
        "In this clip a man runs.",
        "According to the description, it rains.",
        "The text above mentions a boat.",
        "The provided notes do not say.",
        "The answer is B because of the boat.",
        "The answer is A.",
        "Choice C fits best.",
        "It must be (D).",
        "Options A and B are wrong.",
        "The transcript has it.",
    ],
)
def test_talk_of_captions_clips_and_letters_is_found(text):
    assert meta_talk(text) is not None


@pytest.mark.parametrize(
    "text",
    [
        'The sign reads "CLIP 3: OPTION A".',
        "A text appears above the door.",
        "The answer is a red car.",
        "She has two options and takes the ferry.",
        "Subtitles are shown at the bottom.",
        "Vitamin A is good for you.",
    ],
)
def test_talk_of_the_video_is_not(text):
    assert meta_talk(text) is None
