"""The target answers verified questions n times: from frames of the real file if it has vision, else from captions."""

import re
from pathlib import Path

import pytest

from operators.models.session import ModelPool
from operators.process.isolate import Stopped, run_isolated, stop_children
from operators.sources.access import SourceFiles
from operators.stages.difficulty import STAGE
from schemas.tables import Check, QuestionKind
from tests.support.films import captions_of, film
from tests.support.openai_server import Fault, OpenAIServer, last_text
from tests.support.rows import make_question, make_reasoning, make_video, of_file
from tests.support.stages import StageRunner
from tests.support.videos import counting_video

CAPTIONS = captions_of(film())
CHOICE = make_question(1, "film")
OPEN = make_question(2, "film", QuestionKind.OPEN)
VIDEO = make_video("film")


def make_reasonings(*questions):
    return [make_reasoning(each) for each in questions]


def right_for_first_letters(body):
    """Answers open questions correctly, and choice questions only if the right option is A or B: half of all trials."""
    if body["response_format"]["json_schema"]["name"] == "Letter":
        right = re.search(r"^([A-D])\. a boat$", last_text(body), re.MULTILINE)[1]
        return {"answer": right if right in "AB" else "A"}
    return {"answer": "A boat."}


def test_the_pass_rate_is_counted(stages, server):
    server.script = right_for_first_letters
    trials = stages.run(
        STAGE, [VIDEO], CAPTIONS, [CHOICE, OPEN], make_reasonings(CHOICE, OPEN), [], difficulty={"trials": 8}
    )
    assert [(t.question_id, t.check, t.correct, t.n, t.passed) for t in trials] == [
        (CHOICE.question_id, Check.DIFFICULTY, 4, 8, True),
        (OPEN.question_id, Check.DIFFICULTY, 8, 8, True),
    ]
    assert trials[0].answers.count("a boat") == 4
    assert {each.prompt_id for each in trials[0].provenance} == {"difficulty_choice"}


def test_only_questions_with_a_chain_of_thought_are_tried(stages, server):
    server.script = right_for_first_letters
    rows = stages.run(STAGE, [VIDEO], CAPTIONS, [CHOICE, OPEN], make_reasonings(OPEN), [])
    assert [row.question_id for row in rows] == [OPEN.question_id]


def test_without_vision_the_captions_come_first_and_the_question_last(stages, server):
    server.script = right_for_first_letters
    stages.run(STAGE, [VIDEO], CAPTIONS, [CHOICE, OPEN], make_reasonings(CHOICE, OPEN), [])
    texts = [last_text(seen.body) for seen in server.requests]
    assert len({text[: text.index("Answer a question")] for text in texts}) == 1
    assert all("00:50 - 01:00: A scene" in text for text in texts)


def test_a_target_that_sees_gets_frames_of_the_whole_video(stages, server, tmp_path):
    path = counting_video(tmp_path / "film.mp4", fps=25)
    video = of_file(VIDEO, path).model_copy(update={"duration_us": 4_000_000, "frame_count": 100})
    stages.vision = True
    server.script = right_for_first_letters
    (trial,) = stages.run(
        STAGE,
        [video],
        CAPTIONS,
        [OPEN],
        make_reasonings(OPEN),
        [],
        difficulty={"trials": 2, "frames": 4, "frame_side": 112},
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


def test_a_question_without_an_answer_has_no_pass_rate_and_is_out(stages, server):
    server.fail(Fault(400, "maximum context length is 2048 tokens", "context_length_exceeded"), times=9)
    (trial,) = stages.run(STAGE, [VIDEO], CAPTIONS, [OPEN], make_reasonings(OPEN), [], difficulty={"trials": 3})
    assert (trial.n, trial.correct, trial.answers, trial.passed) == (0, 0, (), False)
    (reject,) = stages.rejects
    assert (reject.key, reject.reason) == (OPEN.question_id, "unanswered")
    assert "too_long" in reject.message


def test_a_missing_answer_is_replaced(stages, server):
    server.script = right_for_first_letters
    server.fail(Fault(400, "maximum context length is 2048 tokens", "context_length_exceeded"))
    (trial,) = stages.run(STAGE, [VIDEO], CAPTIONS, [OPEN], make_reasonings(OPEN), [], difficulty={"trials": 3})
    assert (trial.n, trial.correct, trial.passed) == (3, 3, True)
    assert stages.rejects == []


def run_with_vision(stages: StageRunner, path: Path) -> list:
    """Rows of the stage for two questions about this file and a target with vision."""
    stages.vision = True
    video = of_file(VIDEO, path)
    return stages.run(
        STAGE, [video], CAPTIONS, [CHOICE, OPEN], make_reasonings(CHOICE, OPEN), [], difficulty={"trials": 1}
    )


@pytest.mark.parametrize(
    ("name", "reason"), [("gone.mp4", "missing_file"), (".", "missing_file"), ("a.txt", "not_a_video")]
)
def test_a_file_that_cannot_be_read_is_a_reject_of_every_question(stages, server, tmp_path, name, reason):
    (tmp_path / "a.txt").write_text("nothing to see")
    assert run_with_vision(stages, tmp_path / name) == []
    assert [(each.key, each.reason) for each in stages.rejects] == [
        (CHOICE.question_id, reason),
        (OPEN.question_id, reason),
    ]
    assert not server.requests


def test_a_file_that_vanishes_after_it_was_found_is_left_to_the_runner(stages, tmp_path, monkeypatch):
    monkeypatch.setattr(SourceFiles, "fetch", lambda files, source_id, uri, folder: Path(uri))  # as if the file existed
    with pytest.raises(FileNotFoundError):
        run_with_vision(stages, tmp_path / "gone.mp4")


CRASH = """
import os, signal, sys

if any("fork_server" in part for part in sys.orig_argv):
    import av

    av.open = lambda *_, **__: os.kill(os.getpid(), signal.SIGSEGV)
"""
"""Code that crashes the child process when it opens a video, as a faulty decoder would."""


def test_a_crash_of_the_decoder_is_a_reject(stages, tmp_path, monkeypatch):
    path = counting_video(tmp_path / "film.mp4", fps=25)
    (tmp_path / "sitecustomize.py").write_text(CRASH)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert run_with_vision(stages, path) == []
    assert {each.reason for each in stages.rejects} == {"crashed"}
    assert "SIGSEGV" in stages.rejects[0].message


def run_while_stopping(folder: Path) -> list:
    """Rejects of a program that is shutting down. Must run in a process of its own, which cannot be used afterwards."""
    stop_children()
    with OpenAIServer() as server, ModelPool(retries=0) as pool:
        stages = StageRunner(folder, server, pool)
        run_with_vision(stages, counting_video(folder / "film.mp4", fps=25))
        return stages.rejects


def test_a_program_that_ends_rejects_nothing(tmp_path):
    with pytest.raises(Stopped):
        run_isolated(run_while_stopping, tmp_path, timeout_seconds=60)


def test_no_verified_question_costs_nothing(stages, server):
    assert stages.run(STAGE, [VIDEO], CAPTIONS, [CHOICE], [], []) == []
    assert not server.requests
