import hashlib
import json
import logging
import signal
from pathlib import Path

import pytest
import torch

from schemas.arrow import rows_from_parquet
from schemas.errors import BadInput, Outage
from tests.trainer_plugin.runs import collect_log, make_recipe, whole_parameters
from tests.trainer_plugin.support import numbered_film, release_of
from trainer_plugin.evaluate import evaluate_recipe, load_evaluation
from trainer_plugin.evaluation.answers import AnswerRow
from trainer_plugin.evaluation.table import Evaluation
from trainer_plugin.grpo import GrpoTraining
from trainer_plugin.rl.recipe import load_grpo_recipe
from trainer_plugin.sft import Training, train

EVALUATION = ("evaluation.every_steps=2", "evaluation.max_tokens=5")
ONE_BY_ONE = (*EVALUATION, "evaluation.requests=1")
NO_TOWER = "trained={language_model: false, projector: false, lora: {rank: 4}}"


def losses_and_state(recipe) -> tuple[list[float], dict[str, torch.Tensor], torch.Tensor]:
    """The losses of a run, and its parameters and the RNG state at the end."""
    torch.manual_seed(0)
    with Training(recipe) as training:
        losses = [metrics.loss for metrics in training]
        return losses, whole_parameters(training), torch.get_rng_state()


def is_same(found, expected) -> bool:
    (losses, parameters, state), (expected_losses, expected_parameters, expected_state) = found, expected
    return (
        losses == expected_losses
        and all(torch.equal(parameters[name], expected_parameters[name]) for name in expected_parameters)
        and torch.equal(state, expected_state)
    )


def folders(out: Path) -> list[str]:
    return sorted(path.name for path in (out / "evaluations").iterdir())


def read(out: Path, step: int) -> Evaluation:
    return Evaluation.model_validate_json((out / f"evaluations/step-{step:08d}/evaluation.json").read_bytes())


def answers(out: Path, step: int) -> list[AnswerRow]:
    file = out / f"evaluations/step-{step:08d}/answers.parquet"
    return rows_from_parquet(file.read_bytes(), AnswerRow, "answers")


@pytest.mark.parametrize(
    ("world", "settings"),
    [(1, ()), (2, ()), (2, ("parallel.sp=2",)), (2, (NO_TOWER,))],
    ids=["one rank", "data-parallel", "sequence-parallel", "adapters"],
)
def test_training_is_bit_equal_with_and_without_evaluations(ranks, split_release, tmp_path, world, settings):
    plain = make_recipe(tmp_path / "plain", split_release, "steps=3", *settings)
    evaluated = make_recipe(tmp_path / "evaluated", split_release, "steps=3", *settings, *EVALUATION)
    expected, found = (ranks[world].run(losses_and_state, recipe) for recipe in (plain, evaluated))
    assert all(map(is_same, found, expected))
    assert folders(tmp_path / "evaluated") == ["step-00000000", "step-00000002", "step-00000003"]
    assert not (tmp_path / "plain/evaluations").exists()
    lines = [json.loads(line) for line in (tmp_path / "evaluated/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]


def grpo_losses_and_state(recipe) -> tuple[list[float], dict[str, torch.Tensor], torch.Tensor]:
    """As `losses_and_state`."""
    torch.manual_seed(0)
    with GrpoTraining(recipe) as training:
        losses = [metrics.loss for metrics in training]
        return losses, whole_parameters(training), torch.get_rng_state()


def test_grpo_is_bit_equal_with_and_without_evaluations(ranks, split_release, tmp_path):
    (tmp_path / "mine.py").write_text(
        "def variety(completions, **columns):\n    return [len(set(text)) / 5 for text in completions]\n"
    )
    settings = [f"videos.release={split_release}", "videos.split=sft", "videos.workers=0", "steps=2", "export=none"]
    settings += ["videos.frames={fps: 1.0, max_frames: 4, max_video_tokens: 24}", "evaluation=null"]
    settings += [
        "rollout={prompts: 2, responses: 2, max_tokens: 5, mask_truncated: false}",
        f"rewards=[{{reward: '{tmp_path}/mine.py:variety'}}]",
    ]
    plain = load_grpo_recipe("demo", [*settings, f"out={tmp_path}/plain"])
    evaluated = load_grpo_recipe("demo", [*settings, f"out={tmp_path}/evaluated", "evaluation={every_steps: 1}"])
    expected, found = (ranks[2].run(grpo_losses_and_state, recipe) for recipe in (plain, evaluated))
    assert all(map(is_same, found, expected))
    assert len(expected[0][0]) == 2 and any(expected[0][0])
    assert folders(tmp_path / "evaluated") == ["step-00000000", "step-00000001", "step-00000002"]
    assert all(row.tokens <= 5 for row in answers(tmp_path / "evaluated", 2))


def test_the_last_evaluation_is_that_of_the_export(alone, split_release, tmp_path, caplog):
    caplog.set_level(logging.INFO, "trainer_plugin.evaluation.during_training")
    settings = ("steps=2", "export=model", *EVALUATION, "evaluation.baselines=[text]", "evaluation.samples=2")
    recipe = make_recipe(tmp_path, split_release, *settings)
    assert train(recipe) == 0
    same = ["videos.frames={fps: 1.0, max_frames: 4, max_video_tokens: 24}", "videos.workers=0"]
    same += ["videos.target=answer", "precision=float32", "evaluation.max_tokens=5", "evaluation.samples=2"]
    same += ["evaluation.prompt_tokens=512", "evaluation.baselines=[text]", f"out={tmp_path}/again"]
    exported = evaluate_recipe(load_evaluation(f"{tmp_path}/export", split_release, same))
    assert read(tmp_path, 2) == exported
    assert exported.questions == 4
    again = rows_from_parquet((tmp_path / "again/answers.parquet").read_bytes(), AnswerRow, "answers")
    assert [row.response for row in answers(tmp_path, 2)] == [row.response for row in again]
    assert [row.response for row in answers(tmp_path, 0)] != [row.response for row in again]
    facts = [
        json.loads((tmp_path / path / "facts.json").read_text()) for path in ("evaluations/step-00000002", "again")
    ]
    assert {**facts[0], "model": None} == {**facts[1], "model": None}
    assert f"evaluation of step 2: {exported.line()}; see {tmp_path}/evaluations/step-00000002" in caplog.messages


def test_accuracies_are_curves_in_tensorboard(alone, split_release, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(make_recipe(tmp_path, split_release, "steps=2", *EVALUATION, "evaluation.baselines=[shuffled]"))
    found = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    for step in (0, 2):
        for name, number in read(tmp_path, step).scalars().items():
            [value] = [event.value for event in found.Scalars(f"evaluation/{name}") if event.step == step]
            assert value == pytest.approx(number)


def test_prompts_and_responses_are_as_long_as_in_training_unless_they_are_set():
    given = ["out=o", "model.path=m", "videos.release=r", "row_tokens=5000", "rollout.max_tokens=900"]
    recipe = load_grpo_recipe("longvila_r1", given)
    assert recipe.evaluation_defaults == {"prompt_tokens": 4100, "max_tokens": 900}


class SignalAfterFirstRound(logging.Handler):
    """Sends this process a signal when the first questions of the evaluation are answered."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage().endswith("of 4 questions answered"):
            signal.raise_signal(signal.SIGTERM)


def train_until_first_answers(recipe) -> tuple[int, int]:
    """Train until the first evaluation has answers. Returns the signal that ended the run, and its number of steps."""
    logger, handler = logging.getLogger("trainer_plugin.evaluation.run"), SignalAfterFirstRound()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        with Training(recipe) as training:
            return len(list(training)), training.ended_by
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


@pytest.mark.parametrize(
    ("world", "before", "step"), [(1, "true", 0), (2, "false", 2)], ids=["before the first step", "two ranks"]
)
def test_a_signal_ends_an_evaluation_that_a_resumed_run_continues(ranks, split_release, tmp_path, world, before, step):
    settings = ("steps=3", *ONE_BY_ONE, f"evaluation.before={before}")
    straight = ranks[world].run(losses_and_state, make_recipe(tmp_path / "straight", split_release, *settings))
    recipe = make_recipe(tmp_path / "halves", split_release, *settings)
    assert ranks[world].run(train_until_first_answers, recipe) == [(step, signal.SIGTERM)] * world
    folder = tmp_path / f"halves/evaluations/step-{step:08d}"
    assert not (folder / "evaluation.json").exists()
    [kept] = folder.glob("answers-*.parquet")
    first = rows_from_parquet(kept.read_bytes(), AnswerRow, "part")
    assert len(first) == world
    assert (tmp_path / "halves/checkpoints/latest").read_text() == f"step-{step:08d}"

    messages, resumed = ranks[world].run(resume_and_log, recipe)[0]
    assert f"video, greedy: {4 - world} of {4 - world} questions answered" in messages
    assert is_same((straight[0][0][step:], *straight[0][1:]), resumed)
    for each in {step, 2, 3}:
        assert read(tmp_path / "halves", each) == read(tmp_path / "straight", each)
        assert answers(tmp_path / "halves", each) == answers(tmp_path / "straight", each)


def resume_and_log(recipe):
    """What an evaluation logs, and the losses and the state of the run."""
    logger = logging.getLogger("trainer_plugin.evaluation.run")
    level = logger.level
    logger.setLevel(logging.INFO)
    try:
        with collect_log("trainer_plugin.evaluation.run") as messages:
            result = losses_and_state(recipe)
        return messages, result
    finally:
        logger.setLevel(level)


def test_a_complete_evaluation_is_not_repeated(alone, split_release, tmp_path):
    train(make_recipe(tmp_path, split_release, "steps=2", *EVALUATION))
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "evaluations").glob("*/*")}
    train(make_recipe(tmp_path, split_release, "steps=3", *EVALUATION, "evaluation.max_tokens=6"))
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert folders(tmp_path) == ["step-00000000", "step-00000002", "step-00000003"]


def test_an_evaluation_of_other_weights_is_replaced(alone, split_release, tmp_path):
    settings = ("steps=1", *EVALUATION, "evaluation.at_end=false")
    with Training(make_recipe(tmp_path / "one", split_release, *settings)):
        pass
    train(make_recipe(tmp_path / "one", split_release, *settings))
    train(make_recipe(tmp_path / "two", split_release, *settings, "seed=1"))
    (tmp_path / "one/checkpoints").rename(tmp_path / "lost")
    with collect_log("trainer_plugin.evaluation.during_training") as messages:
        train(make_recipe(tmp_path / "one", split_release, *settings, "seed=1"))
    assert f"{tmp_path}/one/evaluations/step-00000000 is of other weights or other settings; it is replaced" in messages
    assert answers(tmp_path / "one", 0) == answers(tmp_path / "two", 0)


DOWN = """
from schemas.errors import Outage

def judge(completions, **columns):
    raise Outage("the judge does not answer")
"""


def test_an_outage_of_the_judge_ends_a_run_only_before_its_first_step(alone, split_release, tmp_path):
    (tmp_path / "mine.py").write_text(DOWN)
    judge = ("evaluation.open_grading=judge", f"evaluation.judge={tmp_path}/mine.py:judge")
    settings = ("steps=2", *EVALUATION, *judge)
    with pytest.raises(Outage, match="the judge does not answer"):
        train(make_recipe(tmp_path / "before", split_release, *settings))
    recipe = make_recipe(tmp_path / "later", split_release, *settings, "evaluation.before=false")
    with collect_log("trainer_plugin.evaluation.during_training") as messages:
        assert train(recipe) == 0
    [warning] = messages
    assert warning.startswith("the evaluation of step 2 failed, and the training continues: ")
    folder = tmp_path / "later/evaluations/step-00000002"
    assert list(folder.glob("answers-*.parquet")) and not (folder / "evaluation.json").exists()
    (tmp_path / "mine.py").write_text("def judge(completions, **columns):\n    return [1.0] * len(completions)\n")
    train(recipe)  # complete: nothing is left but the evaluation
    assert read(tmp_path / "later", 2).lines[0].groups["open"].questions == 2


def empty_release(folder: Path) -> str:
    """A release whose only tar holds no videos."""
    url = release_of(folder, [numbered_film(folder, "film", 1.0)])
    manifest = json.loads(Path(url, "manifest.json").read_text())
    [file] = [file for file in manifest["files"] if file["path"].startswith("data/")]
    content = bytes(10240)
    Path(url, file["path"]).write_bytes(content)
    file.update(videos=0, samples=0, bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    Path(url, "manifest.json").write_text(json.dumps(manifest))
    return url


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("evaluation.split=rl", "no split 'rl' under data/; it has"),
        (
            "evaluation={release: EMPTY, split: sft}",
            "EMPTY: the split sft has no questions to evaluate",
        ),
        (
            "evaluation={release: FULL, media: /films}",
            "it holds its videos, but /films was given",
        ),
        ("evaluation={open_grading: judge, judge: juge}", "reward 'juge': did you mean 'judge'"),
    ],
)
def test_an_evaluation_that_cannot_work_is_an_error_before_the_model_is_loaded(
    alone, split_release, tmp_path, setting, message
):
    empty = empty_release(tmp_path)
    setting = setting.replace("EMPTY", empty).replace("FULL", split_release)
    with pytest.raises(BadInput, match=message.replace("EMPTY", empty)):
        Training(make_recipe(tmp_path / "out", split_release, "steps=1", setting))
    assert not (tmp_path / "out").exists()
