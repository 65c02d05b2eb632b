"""Each check passes good questions and names why the others are dropped. All outcomes are recorded."""

import re

import pytest

from operators.stages import question as question_stage
from operators.stages import reason as reason_stage
from operators.stages.verify import STAGE
from schemas.base import Span
from schemas.config import Writer
from schemas.tables import Check, Question, QuestionCategory, QuestionKind, Reasoning
from tests.support.films import SECOND, captions_of, film, shown
from tests.support.openai_server import last_text
from tests.support.rows import PROGRAM, make_video

FILM = film(shown("NORA NEEDS A LAMP", 9, 14), shown("THE LAST FERRY", 17, 21), shown("FRESH APPLES", 33, 45))
CAPTIONS = captions_of(FILM)
EVIDENCE = (Span(start_us=33 * SECOND, end_us=35 * SECOND),)
ANSWER = "The last ferry leaves"
CHOICE = Question(
    question_id="qchoice",
    video_id="film",
    category=QuestionCategory.GOAL,
    kind=QuestionKind.CHOICE,
    writer="model",
    question="Why does Nora hurry to the harbour at night?",
    options=("It rains", ANSWER, "Max is gone", "The shop is closed"),
    answer=ANSWER,
    evidence=EVIDENCE,
    derivation=None,
    provenance=PROGRAM,
)
OPEN = CHOICE.model_copy(
    update={
        "question_id": "qopen",
        "kind": QuestionKind.OPEN,
        "question": "What does she carry when she comes back?",
        "options": (),
        "answer": "a lamp",
    }
)


def make_reasoning(question: Question) -> Reasoning:
    text = "At 00:33 she looks at the clock and runs."
    return Reasoning(
        question_id=question.question_id, video_id="film", reasoning=text, evidence=EVIDENCE, provenance=PROGRAM
    )


def letter(body, option: str) -> dict:
    """The answer that selects an option, wherever it is listed."""
    return {"answer": re.search(rf"^([A-D])\. {re.escape(option)}$", last_text(body), re.MULTILINE)[1]}


def judge(
    blind: str = "It rains", seen: str = ANSWER, blind_open: str = "a dog", seen_open: str = "lamp", same: bool = False
):
    """Server script of a judge: answers without the video, answers with the evidence, and verdicts of comparisons."""

    def script(body):
        kind = body["response_format"]["json_schema"]["name"]
        without = "have not seen" in last_text(body)
        if kind == "Letter":
            return letter(body, blind if without else seen)
        if kind == "ShortAnswer":
            return {"answer": blind_open if without else seen_open}
        return {"same": same}

    return script


@pytest.fixture
def verify(stages):
    def run(*questions: Question, **settings):
        return stages.run(STAGE, CAPTIONS, questions, [make_reasoning(each) for each in questions], verify=settings)

    return run


def outcome(trials) -> list:
    return [(trial.check, trial.correct, trial.n, trial.passed) for trial in trials]


def test_a_good_choice_passes_all_checks(verify, server, stages):
    server.script = judge()
    trials = verify(CHOICE)
    assert outcome(trials) == [(Check.RULES, 1, 1, True), (Check.BLIND, 0, 4, True), (Check.GROUNDED, 3, 3, True)]
    assert stages.rejects == []
    assert trials[1].answers == ("It rains",) * 4
    assert len(trials[1].provenance) == 4


def test_the_right_option_has_each_letter_once_in_four_trials(verify, server):
    server.script = judge()
    verify(CHOICE)
    blind = [last_text(seen.body) for seen in server.requests if "have not seen" in last_text(seen.body)]
    letters = {re.search(rf"^([A-D])\. {ANSWER}$", text, re.MULTILINE)[1] for text in blind}
    assert letters == set("ABCD")


def test_evidence_is_all_that_the_judge_is_shown(verify, server):
    server.script = judge()
    verify(CHOICE)
    texts = [last_text(seen.body) for seen in server.requests if "have not seen" not in last_text(seen.body)]
    assert all("00:30 - 00:40" in text and "00:10 - 00:20" not in text for text in texts)


def test_a_question_answered_without_the_video_is_rejected_and_not_tried_further(verify, server, stages):
    server.script = judge(blind=ANSWER)
    assert outcome(verify(CHOICE)) == [(Check.RULES, 1, 1, True), (Check.BLIND, 4, 4, False)]
    (reject,) = stages.rejects
    assert (reject.reason, reject.key) == ("answerable_blind", "qchoice")
    assert CHOICE.question in reject.message


def test_below_the_limit_it_may_be_guessed_now_and_then(verify, server):
    server.script = lambda body: {"answer": "A"} if "have not seen" in last_text(body) else letter(body, ANSWER)
    assert outcome(verify(CHOICE))[1] == (Check.BLIND, 1, 4, True)


def test_without_blind_trials_the_check_is_off(verify, server):
    server.script = judge(blind=ANSWER)
    assert outcome(verify(CHOICE, blind_trials=0)) == [(Check.RULES, 1, 1, True), (Check.GROUNDED, 3, 3, True)]


def test_an_answer_that_the_evidence_does_not_give_is_out(verify, server, stages):
    server.script = judge(seen="Max is gone")
    assert outcome(verify(CHOICE))[-1] == (Check.GROUNDED, 0, 3, False)
    assert [reject.reason for reject in stages.rejects] == ["not_grounded"]


def test_open_answers_are_compared_by_program_first(verify, server):
    server.script = judge(seen_open="A LAMP.")
    assert outcome(verify(OPEN))[-1] == (Check.GROUNDED, 3, 3, True)
    judged = [last_text(s.body) for s in server.requests if "Given answer" in last_text(s.body)]
    assert all("a dog" in text for text in judged)  # "a lamp" is accepted without a judge


@pytest.mark.parametrize(("same", "correct"), [(True, 3), (False, 0)])
def test_the_judge_compares_answers_in_other_words_and_sees_the_question(verify, server, same, correct):
    server.script = judge(seen_open="an old lantern", same=same)
    trials = verify(OPEN.model_copy(update={"answer": "a lamp"}), blind_trials=0)
    assert trials[-1].correct == correct
    judged = {last_text(s.body) for s in server.requests if "Given answer" in last_text(s.body)}
    assert len(judged) == 1  # three equal requests to the judge are sent once
    assert all(OPEN.question in text and "an old lantern" in text for text in judged)


def test_all_questions_of_a_check_are_sent_concurrently(verify, server):
    server.script = judge()
    server.delay_seconds = 0.5
    verify(CHOICE, OPEN)
    assert server.peak >= 8


def test_a_question_without_a_valid_answer_is_rejected(verify, server, stages):
    server.script = lambda body: "no JSON"
    assert outcome(verify(CHOICE))[-1] == (Check.BLIND, 0, 0, False)
    (reject,) = stages.rejects
    assert (reject.key, reject.reason, reject.raw) == ("qchoice", "unanswered", "no JSON")
    assert reject.request_sha256
    assert "4 schema" in reject.message


def test_an_occasional_invalid_answer_is_no_reject_of_a_question_that_passes(verify, server, stages):
    good = judge()
    server.script = lambda body: (
        "no JSON" if any(f"\nA. {ANSWER}\n" in each["content"] for each in body["messages"]) else good(body)
    )
    trials = verify(CHOICE, grounded_trials=4)
    assert outcome(trials)[1:] == [(Check.BLIND, 0, 3, True), (Check.GROUNDED, 3, 3, True)]
    assert stages.rejects == []


def test_without_verdicts_of_the_judge_nothing_is_shown(verify, server, stages):
    good = judge(seen_open="an old lantern")
    server.script = lambda body: (
        "no verdict" if body["response_format"]["json_schema"]["name"] == "Verdict" else good(body)
    )
    assert outcome(verify(OPEN, blind_trials=0))[-1] == (Check.GROUNDED, 0, 0, False)
    assert [(reject.reason, reject.raw) for reject in stages.rejects] == [("unanswered", "no verdict")]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"options": ("It rains", ANSWER, "it  rains", "Max is gone")}, "bad_options"),
        ({"answer": "She is late"}, "answer_missing"),
        ({"evidence": ()}, "no_evidence"),
        ({"question": "What does the third clip show of Nora?"}, "meta_talk"),
    ],
)
def test_a_malformed_question_is_rejected_before_any_request(verify, server, stages, changes, reason):
    assert outcome(verify(CHOICE.model_copy(update=changes))) == [(Check.RULES, 0, 1, False)]
    assert [reject.reason for reject in stages.rejects] == [reason]
    assert not server.requests


def test_a_question_without_reasoning_is_out(stages, server):
    trials = stages.run(STAGE, CAPTIONS, [CHOICE], [])
    assert outcome(trials) == [(Check.RULES, 0, 1, False)]
    assert [reject.reason for reject in stages.rejects] == ["no_reasoning"]


def test_the_second_of_two_alike_is_out(verify, server, stages):
    server.script = judge()
    twin = CHOICE.model_copy(update={"question_id": "qtwin", "question": CHOICE.question.replace("Why", "why")})
    trials = verify(CHOICE, twin)
    assert [trial.question_id for trial in trials if not trial.passed] == ["qtwin"]
    assert [(reject.key, reject.reason) for reject in stages.rejects] == [("qtwin", "near_duplicate")]


def test_without_captions_nothing_is_verified(stages, server):
    trials = stages.run(STAGE, [], [CHOICE], [make_reasoning(CHOICE)])
    assert [trial.passed for trial in trials] == [False]
    assert [reject.reason for reject in stages.rejects] == ["evidence_outside"]


def derive_questions(stages):
    questions = stages.run(question_stage.STAGE, [make_video("film")], CAPTIONS, question={"writers": [Writer.PROGRAM]})
    return questions, stages.run(reason_stage.STAGE, CAPTIONS, questions)


def test_derived_questions_are_derived_again_not_judged(stages, server):
    questions, reasonings = derive_questions(stages)
    trials = stages.run(STAGE, CAPTIONS, questions, reasonings, verify={"blind_trials": 0})
    assert stages.rejects == []
    assert [trial.check for trial in trials if trial.passed] == [Check.RULES] * len(questions) + [Check.GROUNDED] * len(
        questions
    )
    assert all(trial.answers for trial in trials if trial.check is Check.GROUNDED)
    assert not server.requests


def test_a_derived_answer_that_the_captions_do_not_give_again_is_out(stages, server):
    questions, reasonings = derive_questions(stages)
    shifted = [
        each.model_copy(
            update={
                "screen_texts": tuple(
                    text.model_copy(update={"text": text.text.replace("FERRY", "TRAIN")}) for text in each.screen_texts
                )
            }
        )
        for each in CAPTIONS
    ]
    trials = stages.run(STAGE, shifted, questions, reasonings, verify={"blind_trials": 0})
    failed = {trial.question_id for trial in trials if not trial.passed}
    about = {q.question_id for q in questions if "THE LAST FERRY" in (*q.derivation.subjects, q.answer)}
    assert failed == about
    assert {reject.reason for reject in stages.rejects} == {"proof_failed"}
