"""Chains of thought: written by program for derived questions, by the reasoner for the others."""

import pytest

from operators.stages import question as question_stage
from operators.stages.reason import STAGE
from schemas.base import Span
from schemas.config import Writer
from tests.support.films import SECOND, captions_of, film, shown
from tests.support.openai_server import Reply, last_text
from tests.support.rows import make_question, make_video

FILM = film(shown("NORA NEEDS A LAMP", 9, 14), shown("THE LAST FERRY", 17, 21), shown("FRESH APPLES", 33, 45))
CAPTIONS = captions_of(FILM)
QUESTION = make_question(1, "film").model_copy(
    update={"writer": "model", "evidence": (Span(start_us=33 * SECOND, end_us=35 * SECOND),)}
)
GOOD = {"reasoning": "At 00:33 a boat comes in. So it is a boat.", "evidence": ["00:33 - 00:40"]}


def test_derived_questions_are_explained_without_a_model(stages, server):
    video = make_video("film")
    questions = stages.run(
        question_stage.STAGE, [video], CAPTIONS, [], question={"writers": [Writer.PROGRAM]}, verify={"blind_trials": 0}
    )
    reasonings = stages.run(STAGE, CAPTIONS, questions, [])
    assert [each.question_id for each in reasonings] == [each.question_id for each in questions]
    assert all(r.evidence == q.evidence and q.answer in r.reasoning for q, r in zip(questions, reasonings, strict=True))
    assert not server.requests


def test_the_reasoner_sees_video_evidence_question_and_answer(stages, server):
    server.script = lambda body: GOOD
    (reasoning,) = stages.run(STAGE, CAPTIONS, [QUESTION], [])
    assert reasoning.question_id == QUESTION.question_id
    assert reasoning.reasoning == GOOD["reasoning"]
    assert [(span.start_us // SECOND, span.end_us // SECOND) for span in reasoning.evidence] == [(33, 40)]
    (seen,) = server.requests
    text = last_text(seen.body)
    assert text.count("00:30 - 00:40: A scene") == 2  # in the whole timeline, and as evidence
    assert text.count("00:40 - 00:50: A scene") == 1
    assert all(part in text for part in (QUESTION.question, QUESTION.answer, *QUESTION.options))


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ({**GOOD, "evidence": ["09:00 - 09:10"]}, "bad_evidence"),
        ({**GOOD, "reasoning": " "}, "schema"),
        (Reply(GOOD, finish_reason="length"), "truncated"),
    ],
)
def test_an_answer_that_is_no_reasoning_is_a_reject(stages, server, answer, reason):
    server.script = lambda body: answer
    assert stages.run(STAGE, CAPTIONS, [QUESTION], []) == []
    (reject,) = stages.rejects
    assert (reject.reason, reject.key) == (reason, QUESTION.question_id)
    assert QUESTION.question_id in reject.message
