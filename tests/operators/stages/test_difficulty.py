"""The target answers verified questions n times: from frames of the real file if it has vision, else from captions."""

import re
from pathlib import Path

import pytest

from operators.execution.stage import Context
from operators.models.session import ModelPool
from operators.process.isolate import Stopped, run_isolated, stop_children
from operators.questions.trials import sample_options, user_turn
from operators.sources.access import SourceFiles
from operators.stages.difficulty import STAGE
from schemas.answer_format import problem_text
from schemas.config import BuildConfig
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


def answer_half(body):
    """Answers open questions correctly, and choice questions in half of the trials."""
    if "response_format" in body:
        return None  # the judge
    if "letter" not in last_text(body):
        return "<think>It floats.</think><answer>A boat.</answer>"
    right = re.search(r"^([A-D])\. a boat$", last_text(body), re.MULTILINE)[1]
    return f"<think>It floats.</think><answer>{right if body['seed'] % 2 else 'D' if right == 'A' else 'A'}</answer>"


def test_the_pass_rate_is_counted(stages, server):
    server.script = answer_half
    trials = stages.run(
        STAGE, [VIDEO], CAPTIONS, [CHOICE, OPEN], make_reasonings(CHOICE, OPEN), [], difficulty={"trials": 8}
    )
    assert [(t.question_id, t.check, t.correct, t.n, t.passed) for t in trials] == [
        (CHOICE.question_id, Check.DIFFICULTY, trials[0].answers.count("a boat"), 8, True),
        (OPEN.question_id, Check.DIFFICULTY, 8, 8, True),
    ]
    assert 0 < trials[0].correct < 8
    assert {each.prompt_id for each in trials[0].provenance} == {"difficulty"}


def test_a_trial_is_what_the_trainer_requests_and_its_options_keep_their_order(stages, server):
    server.script = answer_half
    stages.run(STAGE, [VIDEO], CAPTIONS, [CHOICE], make_reasonings(CHOICE), [], difficulty={"trials": 4})
    bodies = [seen.body for seen in server.requests]
    assert all("response_format" not in body and body["temperature"] == 1.0 for body in bodies)
    assert len({body["seed"] for body in bodies}) == 4
    [text] = {last_text(body) for body in bodies}
    assert text.endswith("inside <think></think>, then give the letter of the right option inside <answer></answer>.")
    context = Context(STAGE.name, "film", BuildConfig(source="a", out="b"), {}, {}, files=None, scratch=None)
    assert problem_text(CHOICE.question, sample_options(context, CHOICE)) in text


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>A bird? No.</think><answer>{right}</answer>", "a boat"),
        ("<think>The boat.</think>The answer is {right}.", "a boat"),
        ("A boat", "a boat"),
        ("<think>It is {right}", ""),
        ("<answer>A or B</answer>", ""),
        ("I cannot answer.", ""),
    ],
)
def test_a_response_is_read_as_by_the_trainer(stages, server, text, answer):
    def respond(body):
        return text.format(right=re.search(r"^([A-D])\. a boat$", last_text(body), re.MULTILINE)[1])

    server.script = respond
    [trial] = stages.run(STAGE, [VIDEO], CAPTIONS, [CHOICE], make_reasonings(CHOICE), [], difficulty={"trials": 1})
    assert (trial.answers, trial.correct, trial.n) == ((answer,), int(answer != ""), 1)


def test_an_endless_open_answer_is_wrong_without_a_judge(stages, server):
    server.script = lambda body: "<answer>" + "a boat, " * 200
    [trial] = stages.run(STAGE, [VIDEO], CAPTIONS, [OPEN], make_reasonings(OPEN), [], difficulty={"trials": 1})
    assert (trial.correct, trial.n) == (0, 1)
    assert len(server.requests) == 1


def test_only_questions_with_a_chain_of_thought_are_tried(stages, server):
    server.script = answer_half
    rows = stages.run(STAGE, [VIDEO], CAPTIONS, [CHOICE, OPEN], make_reasonings(OPEN), [])
    assert [row.question_id for row in rows] == [OPEN.question_id]


def test_without_vision_the_captions_come_first_and_the_question_last(stages, server):
    server.script = answer_half
    stages.run(STAGE, [VIDEO], CAPTIONS, [CHOICE, OPEN], make_reasonings(CHOICE, OPEN), [])
    texts = [last_text(seen.body) for seen in server.requests]
    assert len({text[: text.index("What comes")] for text in texts}) == 1
    assert all("00:50 - 01:00: A scene" in text for text in texts)


def test_a_target_that_sees_gets_frames_of_the_whole_video(stages, server, tmp_path):
    path = counting_video(tmp_path / "film.mp4", fps=25)
    video = of_file(VIDEO, path).model_copy(update={"duration_us": 4_000_000, "frame_count": 100})
    stages.vision = True
    server.script = answer_half
    (trial,) = stages.run(
        STAGE,
        [video],
        CAPTIONS,
        [OPEN],
        make_reasonings(OPEN),
        [],
        difficulty={"trials": 2, "fps": 1.0},
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
    assert content[-1]["text"] == user_turn(OPEN, ())


def test_frames_no_model_accepts_are_a_reject(stages, server, tmp_path):
    path = counting_video(tmp_path / "film.mp4", fps=25)
    video = of_file(VIDEO, path).model_copy(update={"width": 6000, "height": 8})
    stages.vision = True
    assert stages.run(STAGE, [video], CAPTIONS, [OPEN], make_reasonings(OPEN), []) == []
    assert [(each.key, each.reason) for each in stages.rejects] == [(OPEN.question_id, "frame_shape")]
    assert not server.requests


VIEWER = {"models": {"viewer": {"model": "strong"}, "target": {"model": "weak"}}}


def answer_as_viewer_only(body):
    """The viewer is right, and the target wrong."""
    right = re.search(r"^([A-D])\. a boat$", last_text(body), re.MULTILINE)[1]
    wrong = "A" if right != "A" else "B"
    return f"<think>It floats.</think><answer>{right if body['model'] == 'strong' else wrong}</answer>"


def run_with_viewer(stages, path, **settings):
    """Rows of the stage for a choice question, with a target and a viewer that see this file."""
    stages.vision = True
    stages.server.models = ("fake-model", "strong", "weak")
    video = of_file(VIDEO, path).model_copy(update={"duration_us": 4_000_000, "frame_count": 100})
    arguments = [video], CAPTIONS, [CHOICE], make_reasonings(CHOICE), []
    return stages.run(STAGE, *arguments, difficulty={"trials": 4, "max_frames": 2}, **settings)


def test_the_viewer_answers_what_the_target_never_did(stages, server, tmp_path):
    server.script = answer_as_viewer_only
    path = counting_video(tmp_path / "film.mp4", fps=25)
    measured, solvable = run_with_viewer(stages, path, **VIEWER)
    assert (measured.check, measured.correct, measured.n, measured.passed) == (Check.DIFFICULTY, 0, 4, True)
    assert (solvable.check, solvable.passed) == (Check.SOLVABLE, True)
    assert solvable.correct == solvable.n == server.count["strong"] == 3
    contents = {seen.body["model"]: seen.body["messages"][-1]["content"] for seen in server.requests}
    assert contents["weak"] == contents["strong"]


def test_a_viewer_that_is_wrong_too_does_not_pass_the_question(stages, server, tmp_path):
    server.script = lambda body: "<answer>I cannot see it.</answer>"
    _, solvable = run_with_viewer(stages, counting_video(tmp_path / "film.mp4", fps=25), **VIEWER)
    assert (solvable.correct, solvable.passed) == (0, False)


def test_the_target_itself_is_no_viewer(stages, server, tmp_path):
    server.script = lambda body: "<answer>I cannot see it.</answer>"
    [measured] = run_with_viewer(stages, counting_video(tmp_path / "film.mp4", fps=25))
    assert measured.check is Check.DIFFICULTY


def test_a_viewer_without_frames_is_a_reject_of_the_question(stages, server, tmp_path):
    """A target without vision needs no file."""
    server.models = ("fake-model", "strong")
    server.script = lambda body: "<answer>I cannot see it.</answer>"
    stages.vision = True
    models = {"models": {"viewer": {"model": "strong"}, "target": {"vision": False}}}
    arguments = [of_file(VIDEO, tmp_path / "gone.mp4")], CAPTIONS, [CHOICE], make_reasonings(CHOICE), []
    [measured] = stages.run(STAGE, *arguments, difficulty={"trials": 1}, **models)
    assert (measured.n, measured.passed) == (1, False)
    assert [(each.key, each.reason) for each in stages.rejects] == [(CHOICE.question_id, "missing_file")]


def test_a_question_without_an_answer_has_no_pass_rate_and_is_out(stages, server):
    server.fail(Fault(400, "maximum context length is 2048 tokens", "context_length_exceeded"), times=9)
    (trial,) = stages.run(STAGE, [VIDEO], CAPTIONS, [OPEN], make_reasonings(OPEN), [], difficulty={"trials": 3})
    assert (trial.n, trial.correct, trial.answers, trial.passed) == (0, 0, (), False)
    (reject,) = stages.rejects
    assert (reject.key, reject.reason) == (OPEN.question_id, "unanswered")
    assert "too_long" in reject.message


def test_a_missing_answer_is_replaced(stages, server):
    server.script = answer_half
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
