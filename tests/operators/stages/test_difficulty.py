"""The target answers verified questions n times: from frames of the real file if it can see, else from captions."""

import re

import pytest

from operators.stages.difficulty import STAGE
from schemas.tables import Check, QuestionKind
from tests.support.films import captions_of, film
from tests.support.openai_server import last_text
from tests.support.rows import make_question, make_trial, make_video
from tests.support.videos import counting_video

CAPTIONS = captions_of(film())
CHOICE = make_question(1, "film")
OPEN = make_question(2, "film", QuestionKind.OPEN)
VIDEO = make_video("film")


def passed(*questions):
    return [make_trial(each, check, 0, 1) for each in questions for check in (Check.RULES, Check.BLIND, Check.GROUNDED)]


def right_for_first_letters(body):
    """Right when the right option stands on A or B: half of all trials."""
    if body["response_format"]["json_schema"]["name"] == "Letter":
        right = re.search(r"^([A-D])\. a boat$", last_text(body), re.MULTILINE)[1]
        return {"answer": right if right in "AB" else "A"}
    return {"answer": "A boat."}


def test_the_pass_rate_is_counted(stages, server):
    server.script = right_for_first_letters
    trials = stages.run(STAGE, [VIDEO], CAPTIONS, [CHOICE, OPEN], passed(CHOICE, OPEN), difficulty={"trials": 8})
    assert [(t.question_id, t.check, t.correct, t.n, t.passed) for t in trials] == [
        (CHOICE.question_id, Check.DIFFICULTY, 4, 8, True),
        (OPEN.question_id, Check.DIFFICULTY, 8, 8, True),
    ]
    assert trials[0].answers.count("a boat") == 4
    assert {each.prompt_id for each in trials[0].provenance} == {"difficulty_choice"}


@pytest.mark.parametrize("failed", [Check.RULES, Check.BLIND, Check.GROUNDED])
def test_only_questions_that_passed_every_check_are_tried(stages, server, failed):
    server.script = right_for_first_letters
    trials = [*passed(OPEN), *passed(CHOICE), make_trial(CHOICE, failed, 0, 1, passed=False)]
    rows = stages.run(STAGE, [VIDEO], CAPTIONS, [CHOICE, OPEN, make_question(3, "film")], trials)
    assert [row.question_id for row in rows] == [OPEN.question_id]


def test_without_vision_the_captions_come_first_and_the_question_last(stages, server):
    server.script = right_for_first_letters
    stages.run(STAGE, [VIDEO], CAPTIONS, [CHOICE, OPEN], passed(CHOICE, OPEN))
    texts = [last_text(seen.body) for seen in server.requests]
    assert len({text[: text.index("Answer a question")] for text in texts}) == 1
    assert all("00:50 - 01:00: A scene" in text for text in texts)


def test_a_target_that_sees_gets_frames_of_the_whole_video(stages, server, tmp_path):
    path = counting_video(tmp_path / "film.mp4", fps=25)
    video = VIDEO.model_copy(update={"uri": str(path), "duration_us": 4_000_000, "frame_count": 100})
    stages.vision = True
    server.script = right_for_first_letters
    (trial,) = stages.run(
        STAGE, [video], CAPTIONS, [OPEN], passed(OPEN), difficulty={"trials": 2, "frames": 4, "frame_side": 112}
    )
    assert trial.correct == 2
    content = server.requests[0].body["messages"][-1]["content"]
    assert [part["text"] for part in content[:-1] if part["type"] == "text"] == [
        "[00:00.48]",
        "[00:01.48]",
        "[00:02.48]",
        "[00:03.48]",
    ]
    assert sum(part["type"] == "image_url" for part in content) == 4
    assert OPEN.question in content[-1]["text"]
    assert "A scene" not in content[-1]["text"]


def test_a_missing_answer_counts_as_wrong_and_is_told(stages, server):
    server.script = lambda body: "no JSON"
    (trial,) = stages.run(STAGE, [VIDEO], CAPTIONS, [OPEN], passed(OPEN), difficulty={"trials": 3})
    assert (trial.correct, trial.answers, trial.passed) == (0, ("", "", ""), True)
    assert [reject.reason for reject in stages.rejects] == ["schema"] * 3


def test_no_verified_question_costs_nothing(stages, server):
    assert stages.run(STAGE, [VIDEO], CAPTIONS, [CHOICE], []) == []
    assert not server.requests
