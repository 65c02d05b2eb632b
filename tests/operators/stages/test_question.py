"""Questions written by program and by a model behind a real server. An answer that is not a question is a reject."""

import pytest

from operators.stages.question import STAGE, question_id
from schemas.config import Writer
from schemas.tables import QuestionCategory, QuestionKind
from tests.support.films import BOXES, captions_of, film, shown
from tests.support.openai_server import Reply, last_text
from tests.support.rows import make_video

FILM = film(
    shown("CHAPTER ONE", 2, 6, BOXES[4]),
    shown("NORA NEEDS A LAMP", 9, 14),
    shown("THE LAST FERRY", 17, 21),
    shown("FRESH APPLES", 33, 45, BOXES[6]),
    shown("EXIT", 50, 54),
)
CAPTIONS = captions_of(FILM)
VIDEO = make_video("film").model_copy(update={"duration_us": FILM.duration_us})
GOOD = {
    "evidence": ["00:10 - 00:20", "00:33"],
    "question": "Why does Nora hurry to the harbour?",
    "answer": "The last ferry leaves",
    "wrong_answers": ["It rains", "Max is gone", "The shop is closed"],
}


def settings(*writers: Writer, **more) -> dict:
    return {"writers": writers, **more}


def schema_name(body) -> str:
    return body["response_format"]["json_schema"]["name"]


def test_the_program_writes_derived_questions_of_all_kinds_without_a_model(stages, server):
    questions = stages.run(STAGE, [VIDEO], CAPTIONS, question=settings(Writer.PROGRAM))
    assert {each.kind for each in questions} == set(QuestionKind)
    assert {each.category for each in questions} == {
        QuestionCategory.TEMPORAL,
        QuestionCategory.PLOT,
        QuestionCategory.SPATIAL,
    }
    assert all(each.derivation and each.provenance.model == "program" for each in questions)
    assert len({each.question_id for each in questions}) == len(questions)
    assert not server.requests


def test_ids_follow_from_what_identifies_a_question(stages):
    questions = stages.run(STAGE, [VIDEO], CAPTIONS, question=settings(Writer.PROGRAM))
    first = next(each for each in questions if (each.category, each.kind) == ("spatial", "open"))
    assert first.question_id == question_id("film", QuestionCategory.SPATIAL, QuestionKind.OPEN, Writer.PROGRAM, 0)
    assert first.question_id[0] == "q"
    assert len(first.question_id) == 25


def test_only_questions_of_the_requested_categories_are_written(stages):
    questions = stages.run(STAGE, [VIDEO], CAPTIONS, question=settings(Writer.PROGRAM, categories=["spatial"]))
    assert {each.category for each in questions} == {QuestionCategory.SPATIAL}


def test_texts_that_a_model_noticed_make_no_timeline(stages):
    unread = {"screen_texts": (), "text_sample_times_us": ()}
    described = [each.model_copy(update={**unread, "seen_texts": each.screen_texts}) for each in CAPTIONS]
    assert stages.run(STAGE, [VIDEO], described, question=settings(Writer.PROGRAM)) == []


def test_the_model_is_called_for_each_category_and_kind_in_one_batch(stages, server):
    server.script = lambda body: GOOD
    questions = stages.run(STAGE, [VIDEO], CAPTIONS, question=settings(Writer.MODEL, per_category=2))
    assert [(each.category, each.kind) for each in questions] == [
        (category, kind) for category in QuestionCategory for kind in QuestionKind for _ in range(2)
    ]
    assert server.peak > 1
    choice = next(each for each in questions if each.kind is QuestionKind.CHOICE)
    assert set(choice.options) == {GOOD["answer"], *GOOD["wrong_answers"]}
    assert [(span.start_us, span.end_us) for span in choice.evidence] == [
        (10_000_000, 20_000_000),
        (33_000_000, 34_000_000),
    ]
    assert choice.provenance.prompt_id == "question_choice"
    assert choice.derivation is None


def test_right_answers_do_not_stand_in_one_place(stages, server):
    server.script = lambda body: GOOD
    questions = stages.run(STAGE, [VIDEO], CAPTIONS, question=settings(Writer.MODEL, per_category=5, kinds=["choice"]))
    assert len({each.options.index(each.answer) for each in questions}) > 1


def test_the_reasoner_reads_the_whole_video_first_and_what_is_wished_last(stages, server):
    server.script = lambda body: GOOD
    stages.run(STAGE, [VIDEO], CAPTIONS, question=settings(Writer.MODEL))
    texts = [last_text(seen.body) for seen in server.requests]
    beginnings = {text[: text.index("Write one hard question")] for text in texts}
    assert len(beginnings) == 1  # the shared prefix, which servers keep in their prompt cache
    assert all("00:10 - 00:20: A scene" in beginning for beginning in beginnings)
    assert sum("goal - what somebody wants" in text for text in texts) == 2


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ({**GOOD, "evidence": ["05:00 - 06:00"]}, "bad_evidence"),
        ({**GOOD, "evidence": ["00:30 - 00:10"]}, "bad_evidence"),
        ({**GOOD, "evidence": []}, "schema"),
        ({**GOOD, "question": "x" * 400}, "schema"),
        ("I would rather not.", "schema"),
        (Reply(GOOD, finish_reason="length"), "truncated"),
        (Reply("", finish_reason="content_filter"), "blocked"),
    ],
)
def test_an_answer_that_is_no_question_is_a_reject_with_its_text(stages, server, answer, reason):
    server.script = lambda body: answer
    requested = settings(Writer.MODEL, categories=["goal"], kinds=["choice"])
    assert stages.run(STAGE, [VIDEO], CAPTIONS, question=requested) == []
    (reject,) = stages.rejects
    assert reject.reason == reason
    assert reject.key in reject.message
    assert len(reject.request_sha256) == 64
    assert reject.raw or reason == "blocked"


def test_a_video_without_captions_has_no_questions(stages, server):
    assert stages.run(STAGE, [VIDEO], []) == []
    assert not server.requests
