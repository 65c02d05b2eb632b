import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from schemas.config import Media
from schemas.errors import BadInput
from tests.trainer_plugin.runs import (
    SETTINGS,
    collect_log,
    curve,
    make_recipe,
    model_folder,
    python_path,
    whole_parameters,
)
from tests.trainer_plugin.support import numbered_film, release_of
from trainer_plugin.evaluation.during_training import PeriodicEvaluation
from trainer_plugin.recipe import Optimizer, Schedule, load_recipe
from trainer_plugin.sft import Training, main, train
from trainer_plugin.training.optimizer_step import BadStep
from trainer_plugin.training.run import learning_rate

ROOT = Path(__file__).parents[2]


def test_the_loss_falls_and_every_step_is_recorded(alone, release, tmp_path):
    losses = curve(make_recipe(tmp_path, release, "steps=10"))
    assert losses[-1] < 0.85 * losses[0]
    recorded = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["loss"] for row in recorded] == losses
    assert [row["step"] for row in recorded] == list(range(1, 11))
    assert all(512 < row["tokens"] <= 1024 and row["samples"] >= 2 for row in recorded)
    assert list((tmp_path / "tensorboard").iterdir())


def test_the_ten_line_job_of_the_documents_logs_its_progress(release, tmp_path):
    page = (ROOT / "docs" / "trainer.md").read_text()
    [job] = [block.partition("```")[0] for block in page.split("```python\n") if "with Training" in block]
    settings = [*SETTINGS, f"out={tmp_path}", f"videos.release={release}", "steps=3", "export=model"]
    given = '"cot_sft", ["out=/runs/cot", "model.path=/models/qwen", "videos.release=/data/v0001"]'
    assert given in job
    job = job.replace(given, f'"demo", {settings}')
    quiet = (
        "import trainer_plugin.training.metrics as metrics\nmetrics._QUIET_SECONDS = 0.01\n"  # instead of one minute
    )
    environment = {**os.environ, "PYTHONPATH": python_path(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", quiet + job], env=environment, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stderr
    for step in (1, 2, 3):
        line = rf"INFO step {step} of 3  loss \d\.\d{{4}}  .*: [\d,]+/s, .*  (\d+ s|\d+ min) left$"
        assert len(re.findall(line, done.stderr, re.MULTILINE)) == 1, done.stderr
    assert f"INFO checkpoint written to {tmp_path}/checkpoints/step-00000003\n" in done.stderr
    assert f"INFO exported to {tmp_path}/export\n" in done.stderr
    assert re.search(r"INFO reading the data and the model, for \d+ s$", done.stderr, re.MULTILINE)
    assert re.search(r"INFO in step 2, for \d+ s$", done.stderr, re.MULTILINE)


def parameters_after(recipe, stop_after: int | None = None) -> dict[str, torch.Tensor]:
    with Training(recipe) as training:
        for metrics in training:
            if metrics.step == stop_after:
                training.save()
                break
        return whole_parameters(training)


def test_a_step_that_the_caller_has_saved_is_not_saved_again(alone, release, tmp_path, caplog):
    caplog.set_level("INFO", "trainer_plugin")
    with Training(make_recipe(tmp_path, release, "steps=2", "checkpoints.every_steps=1")) as training:
        for _ in training:
            training.save()
    assert caplog.text.count("checkpoint written to") == 2


def test_a_run_resumes_bit_by_bit_in_the_middle_of_an_epoch_with_other_workers(alone, release, tmp_path):
    settings = ("steps=5", "optimizer.schedule=cosine", "optimizer.warmup=0.5")
    straight = parameters_after(make_recipe(tmp_path / "straight", release, *settings))
    parameters_after(make_recipe(tmp_path / "halves", release, *settings), stop_after=2)
    resumed = parameters_after(make_recipe(tmp_path / "halves", release, *settings, "videos.workers=2"))
    assert all(torch.equal(resumed[name], straight[name]) for name in straight)
    losses, rates = (
        [
            [json.loads(line)[name] for line in (tmp_path / run / "metrics.jsonl").read_text().splitlines()]
            for run in ("straight", "halves")
        ]
        for name in ("loss", "learning_rate")
    )
    assert losses[0] == losses[1]
    assert rates[0] == rates[1] and len(set(rates[0])) == 5


def test_the_curve_does_not_depend_on_ranks_also_across_a_resume(ranks, release, tmp_path):
    one = ranks[1].run(curve, make_recipe(tmp_path / "one", release, "steps=3"))[0]
    sp = make_recipe(tmp_path / "sp", release, "steps=3", "parallel.sp=2")
    assert ranks[2].run(curve, sp)[0] == pytest.approx(one, rel=1e-4)
    dp = make_recipe(tmp_path / "dp", release, "steps=3")
    ranks[1].run(parameters_after, dp, 1)
    assert ranks[2].run(curve, dp)[0] == pytest.approx(one[1:], rel=1e-4)


def test_epochs_end_when_every_sample_was_seen(alone, release, tmp_path):
    recipe = make_recipe(tmp_path, release, "steps=null", "epochs=2", "optimizer.schedule=cosine")
    with Training(recipe) as training:
        found = list(training)
        assert training.share_done == 1
    assert sum(metrics.samples for metrics in found) == 16
    rates = [metrics.learning_rate for metrics in found]
    assert 0 < rates[-1] < max(rates) / 5


def test_samples_that_do_not_fit_or_cannot_be_decoded_are_skipped_and_named(alone, tmp_path, caplog):
    films = [numbered_film(tmp_path, name, 1.0) for name in ("good", "bad")]
    url = release_of(tmp_path, films, media=Media.NONE)
    Path(films[1].uri).write_bytes(Path(films[1].uri).read_bytes()[:2000])
    with Training(make_recipe(tmp_path / "broken", url, "steps=2", f"videos.media={tmp_path}")) as training:
        found = list(training)
        assert set(training.skipped.values()) == {"no_video_stream"}
    assert found[-1].skipped == {"no_video_stream": 2}
    assert "video bad" in caplog.text
    tight = make_recipe(
        tmp_path / "tight", url, "steps=1", "row_tokens=96", "step_tokens=96", f"videos.media={tmp_path}"
    )
    with Training(tight) as training:
        [metrics] = training
        assert sorted(training.skipped.values()) == ["no_video_stream", "too_long", "too_long"]
    assert metrics.skipped == {"too_long": 2, "no_video_stream": 1}
    assert "raise row_tokens; skipping this and all further samples that are too_long" in caplog.text


def test_a_skipped_sample_that_is_trained_on_later_is_removed_from_the_skipped(alone, tmp_path):
    films = [numbered_film(tmp_path, name, 1.0) for name in ("good", "late")]
    url = release_of(tmp_path, films, media=Media.NONE)
    late = Path(films[1].uri)
    content = late.read_bytes()
    late.unlink()
    small = ("row_tokens=256", "step_tokens=256", f"videos.media={tmp_path}", "checkpoints.every_steps=1000")
    with Training(make_recipe(tmp_path / "run", url, "steps=null", "epochs=8", *small)) as training:
        found = [metrics.skipped for metrics in training if late.exists() or late.write_bytes(content)]
        assert found[0] and not found[-1] and not training.skipped
        saved = json.loads((training.checkpoints.latest() / "state.json").read_text())
    assert saved["skipped"] == {}


def epoch_of(recipe) -> tuple[int, int, int]:
    """Total samples, tokens and supervised tokens of a whole run."""
    with Training(recipe) as training:
        found = [(metrics.samples, metrics.tokens, metrics.supervised_tokens) for metrics in training]
        assert training.tokens == sum(tokens for _, tokens, _ in found)
    return tuple(map(sum, zip(*found, strict=True)))


def test_repeated_rows_of_ranks_without_samples_are_not_counted(ranks, release, tmp_path):
    settings = ("steps=null", "epochs=1", "row_tokens=256", "step_tokens=768")
    one = ranks[1].run(epoch_of, make_recipe(tmp_path / "one", release, *settings))[0]
    assert one[0] == 8
    assert ranks[3].run(epoch_of, make_recipe(tmp_path / "three", release, *settings)) == [one] * 3


def test_a_run_of_which_no_video_can_be_decoded_ends(alone, tmp_path):
    url = release_of(tmp_path, [numbered_film(tmp_path, name, 1.0) for name in ("one", "two")], media=Media.NONE)
    recipe = make_recipe(tmp_path / "run", url, "steps=2", f"videos.media={tmp_path / 'elsewhere'}")
    with pytest.raises(BadInput, match=r"not one of the 4 samples can be trained on: \{'missing': 4\}"):
        curve(recipe)


def messages_about_empty_steps(recipe) -> list[str]:
    """Messages of this rank about steps without supervised tokens, until all samples are skipped."""
    with (
        collect_log("trainer_plugin.training.step_feed") as messages,
        pytest.raises(BadInput, match="not one of the 4 samples"),
    ):
        curve(recipe)
    return [message for message in messages if "skipping them" in message]


def test_a_step_without_supervised_tokens_is_logged_once_for_all_ranks(ranks, tmp_path):
    url = release_of(tmp_path, [numbered_film(tmp_path, name, 1.0) for name in ("one", "two")], media=Media.NONE)
    settings = ("steps=2", f"videos.media={tmp_path / 'elsewhere'}", "row_tokens=256", "step_tokens=256")
    first, other = ranks[2].run(
        messages_about_empty_steps, make_recipe(tmp_path / "run", url, *settings, "parallel.sp=2")
    )
    assert set(first) == {"step 1: no rank has supervised tokens in its rows; skipping them"}
    assert other == []


def test_a_signal_ends_the_run_between_steps_without_supervised_tokens(alone, tmp_path):
    url = release_of(tmp_path, [numbered_film(tmp_path, name, 1.0) for name in ("one", "two")], media=Media.NONE)
    settings = ("steps=2", f"videos.media={tmp_path / 'elsewhere'}", "row_tokens=256", "step_tokens=256")
    with Training(make_recipe(tmp_path / "run", url, *settings)) as training:
        signal.raise_signal(signal.SIGTERM)
        assert list(training) == []
        assert training.interrupted
        assert 0 < len(training.skipped) < 4


def test_context_extension_trains_on_text_data_and_resumes_in_it(alone, tmp_path):
    for number in range(2):
        documents = [f"Document {number}.{line}: " + "a quick brown fox. " * (line % 7) for line in range(20)]
        (tmp_path / f"{number}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))

    def extension_recipe(run: str):
        model = load_recipe("demo", ["out=x", "videos.release=x"]).model.config
        settings = [f"out={tmp_path / run}", f"texts.files={tmp_path}/*.jsonl", f"model.config={json.dumps(model)}"]
        settings += ["row_tokens=128", "step_tokens=256", "steps=6", "parallel.sp=1", "precision=float32"]
        return load_recipe("extend_64k", [*settings, "optimizer.learning_rate=0.03"])

    losses = curve(extension_recipe("straight"))
    assert losses[-1] < losses[0]
    with Training(extension_recipe("halves")) as training:
        first = [metrics.loss for _, metrics in zip(range(3), training, strict=False)]
        training.save()
    with Training(extension_recipe("halves")) as training:
        assert first + [metrics.loss for metrics in training] == losses
        training.export()
    exported = json.loads((tmp_path / "halves" / "export" / "config.json").read_text())["text_config"]
    assert exported["rope_parameters"]["rope_theta"] == 15_300_000
    assert exported["max_position_embeddings"] == 131_072


def test_evaluations_do_not_count_in_the_seconds_of_a_step(alone, split_release, tmp_path, monkeypatch):
    evaluating = 0.0
    run_evaluation = PeriodicEvaluation.evaluate_if_due

    def measure(self, **options) -> None:
        nonlocal evaluating
        began = time.perf_counter()
        run_evaluation(self, **options)
        evaluating += time.perf_counter() - began

    monkeypatch.setattr(PeriodicEvaluation, "evaluate_if_due", measure)
    settings = ("steps=3", "evaluation.every_steps=1", "evaluation.max_tokens=16", "checkpoints.every_steps=10")
    with Training(make_recipe(tmp_path, split_release, *settings)) as training:
        began = time.perf_counter()
        seconds = sum(metrics.seconds for metrics in training)
        assert seconds + evaluating <= time.perf_counter() - began
    assert len(list((tmp_path / "evaluations").iterdir())) == 4


def test_a_run_on_texts_is_evaluated_on_a_release(ranks, split_release, tmp_path):
    evaluation = f"{{release: {split_release}, prompt_tokens: 2048, max_tokens: 4, before: false, questions: 1}}"
    ranks[2].run(curve, text_recipe(tmp_path, "steps=1", f"evaluation={evaluation}"))
    [folder] = (tmp_path / "run" / "evaluations").iterdir()
    assert json.loads((folder / "evaluation.json").read_text())["questions"] == 1


def text_recipe(tmp_path: Path, *settings: str):
    """Recipe for two ranks; each rank reads one of two files with twenty documents."""
    model = load_recipe("demo", ["out=x", "videos.release=x"]).model.config
    for number in range(2):
        (tmp_path / f"{number}.jsonl").write_text('{"text": "a quick brown fox. a quick brown fox."}\n' * 20)
    given = [f"out={tmp_path / 'run'}", f"texts.files={tmp_path}/*.jsonl", f"model.config={json.dumps(model)}"]
    given += ["row_tokens=128", "step_tokens=256", "steps=10", "parallel.sp=1", "precision=float32", "export=none"]
    return load_recipe("extend_64k", [*given, *settings])


def steps_and_skipped(recipe) -> tuple[int, dict[str, str], dict[str, int]]:
    with Training(recipe) as training:
        *_, last = training
        return last.step, training.skipped, last.skipped


def test_a_line_that_is_no_text_is_skipped_and_counted_on_every_rank(ranks, tmp_path):
    recipe = text_recipe(tmp_path)
    lines = (tmp_path / "1.jsonl").read_text().splitlines()
    (tmp_path / "1.jsonl").write_text("\n".join([*lines[:5], '{"text": "cut', *lines[5:]]))
    skipped = {f"file://{tmp_path}/1.jsonl:5": "not_a_text"}
    assert ranks[2].run(steps_and_skipped, recipe) == [(10, skipped, {"not_a_text": 1})] * 2
    saved = json.loads((tmp_path / "run" / "checkpoints" / "step-00000010" / "state.json").read_text())
    assert saved["skipped"] == skipped


def error_in_training(recipe) -> str:
    with pytest.raises(BadInput) as raised:
        curve(recipe)
    return str(raised.value)


def test_all_ranks_refuse_data_that_one_of_them_finds_unusable_in_training(ranks, tmp_path):
    recipe = text_recipe(tmp_path)
    with (tmp_path / "1.jsonl").open("a") as file:
        file.write("no JSON\n" * 1000)
    one, other = ranks[2].run(error_in_training, recipe)
    assert one == other
    assert one.startswith("1000 documents one after the other are no texts, the last: ")
    assert steps_of(tmp_path / "run") > 0


def error_of_resuming(recipe) -> str:
    """Error of this rank when it resumes within its text data."""
    with pytest.raises(BadInput) as raised:
        Training(recipe)
    return str(raised.value)


def test_all_ranks_refuse_text_data_in_which_one_of_them_cannot_resume(ranks, tmp_path):
    recipe = text_recipe(tmp_path, "steps=1")
    file = tmp_path / "1.jsonl"
    file.write_text('{"text": "a fox"}\n' * 2000)
    ranks[2].run(curve, recipe)
    first, *others = file.read_text().splitlines(keepends=True)
    file.write_text(first + "".join(others).replace("{", "?"))
    one, other = ranks[2].run(error_of_resuming, recipe)
    assert one == other
    assert one.startswith("1000 documents one after the other are no texts, the last: ")


def test_a_loss_that_is_not_finite_names_the_samples_and_leaves_the_checkpoint(alone, release, tmp_path):
    with Training(make_recipe(tmp_path, release, "steps=3")) as training:
        steps = iter(training)
        next(steps)
        saved = training.save()
        before = whole_parameters(training)
        with torch.no_grad():
            next(training.model.model.model.language_model.parameters()).to_local().fill_(torch.nan)
        with pytest.raises(
            BadStep, match=r"step 2: loss nan.*the last checkpoint is .*step-00000001;.*q[0-9a-z]+"
        ) as raised:
            next(steps)
    keys = {training.row_stream.samples.key(number) for number in range(8)}
    assert {key for key in keys if key in str(raised.value)}
    with Training(make_recipe(tmp_path, release, "steps=3")) as training:
        assert training.checkpoints.latest() == saved
        assert all(torch.equal(value, before[name]) for name, value in whole_parameters(training).items())


def test_errors_of_the_settings_are_reported_before_anything_is_loaded(alone, release, tmp_path, caplog):
    assert main(["demo", f"out={tmp_path}", f"videos.release={release}", "parallel.sp=3"]) == 2
    assert "sequence-parallel size 3 does not divide 1 processes" in caplog.text
    with pytest.raises(BadInput, match="no such folder; models are read from disk"):
        Training(make_recipe(tmp_path, release, "model={path: Qwen/Qwen2.5-VL-7B-Instruct}"))
    assert main(["demo", f"out={tmp_path}", "videos.release=x", "optimiser.learning_rate=1"]) == 2
    assert "optimiser: no such field; did you mean 'optimizer'?" in caplog.text


def error_without_module(module: str, recipe) -> str:
    """Error of this rank if rank 0 lacks a package."""
    with pytest.MonkeyPatch.context() as patch:
        if torch.distributed.get_rank() == 0:
            patch.setitem(sys.modules, module, None)
        with pytest.raises(BadInput) as raised:
            Training(recipe)
    return str(raised.value)


@pytest.mark.parametrize("module", ["wandb", "torch.utils.tensorboard"])
def test_all_ranks_refuse_a_logger_that_rank_0_cannot_import_before_a_model_is_loaded(ranks, tmp_path, module):
    recipe = make_recipe(tmp_path, "nowhere", "wandb_project=mine", "model={path: nowhere}")
    one, other = ranks[2].run(error_without_module, module, recipe)
    assert one == other
    assert one.startswith(f"{module} cannot be imported")


def error_without_model(folders, url: str, out: Path) -> str:
    """Error of this rank if only the host of rank 0 has the model."""
    with pytest.raises(BadInput) as raised:
        Training(make_recipe(out, url, f"model={{path: {folders[torch.distributed.get_rank()]}}}"))
    return str(raised.value)


def test_all_ranks_refuse_a_model_that_is_not_on_all_hosts(ranks, release, tmp_path):
    folders = [model_folder(tmp_path / "model"), tmp_path / "elsewhere"]
    one, other = ranks[2].run(error_without_model, folders, release, tmp_path / "run")
    assert one == other == f"{tmp_path}/elsewhere: no such folder; models are read from disk, not from a hub"


def error_of_starting(recipe) -> str:
    with pytest.raises(BadInput) as raised:
        Training(recipe)
    return str(raised.value)


def test_all_ranks_refuse_a_folder_that_cannot_be_written_to(ranks, release, tmp_path):
    (tmp_path / "metrics.jsonl").mkdir()
    one, other = ranks[2].run(error_of_starting, make_recipe(tmp_path, release))
    assert one == other
    assert one.startswith(f"metrics cannot be written to {tmp_path}: ")


def test_the_learning_rate_rises_and_falls():
    cosine = Optimizer(learning_rate=2.0, warmup=0.1)
    fractions = [0.0, 0.05, 0.1, 0.55, 1.0]
    assert [learning_rate(cosine, fraction) for fraction in fractions] == pytest.approx([0.0, 1.0, 2.0, 1.0, 0.0])
    constant = Optimizer(learning_rate=2.0, warmup=0.5, schedule=Schedule.CONSTANT)
    assert [learning_rate(constant, fraction) for fraction in (0.25, 0.5, 1.0)] == [1.0, 2.0, 2.0]
    assert not math.isnan(learning_rate(Optimizer(warmup=1.0), 1.0))


def start(launcher: list[str], out: Path, url: str, *settings: str) -> subprocess.Popen:
    command = [sys.executable, *launcher, "-m", "trainer_plugin.sft", "demo", *SETTINGS]
    command += [f"out={out}", f"videos.release={url}", *settings]
    environment = {**os.environ, "PYTHONPATH": python_path(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)


TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
ENDLESS = ("steps=100000", "optimizer.warmup=0", "videos.workers=1")


def steps_of(out: Path) -> int:
    file = out / "metrics.jsonl"
    return len(file.read_text().splitlines()) if file.exists() else 0


def wait_for_steps(process: subprocess.Popen, out: Path, count: int) -> None:
    while steps_of(out) < count:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.1)


def ranks_of(process: subprocess.Popen) -> list[int]:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(child) for child in children if b"trainer_plugin.sft" in Path(f"/proc/{child}/cmdline").read_bytes()]


def saved_at_the_end(out: Path) -> bool:
    return (out / "checkpoints" / "latest").read_text() == f"step-{steps_of(out):08d}"


def train_and_log(recipe) -> tuple[int, list[str]]:
    """Signal that ended the training on this rank, and the messages that it logged."""
    with collect_log("trainer_plugin.training.run") as messages:
        return train(recipe), messages


def test_all_ranks_save_and_end_when_one_or_all_get_a_signal(ranks, release, tmp_path):
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(
            ranks[2].run, train_and_log, make_recipe(tmp_path, release, *ENDLESS, "parallel.sp=2", "videos.workers=0")
        )
        while steps_of(tmp_path) < 1:
            assert not running.done(), running.result()
            time.sleep(0.1)
        os.kill(ranks[2].processes[1].pid, signal.SIGTERM)  # one rank is enough: all ranks agree to stop
        (ended_by, messages), (other, _) = running.result()
    assert ended_by == other == signal.SIGTERM
    before = steps_of(tmp_path)
    assert f"stopped after step {before} by SIGTERM; run it again to resume" in messages
    assert saved_at_the_end(tmp_path)

    process = start(TORCHRUN, tmp_path, release, *ENDLESS, "parallel.sp=2")
    wait_for_steps(process, tmp_path, before + 1)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does; torchrun forwards it to the process group of each rank
    output = process.communicate()[1]
    done = steps_of(tmp_path)
    assert f"resuming from {tmp_path}/checkpoints/step-{before:08d}" in output
    assert output.count(f"stopped after step {done} by SIGINT") == 1
    assert "KeyboardInterrupt" not in output  # the only traceback is that of torchrun
    assert saved_at_the_end(tmp_path)


def test_ranks_that_outlive_torchrun_keep_the_next_run_out_and_end_when_one_dies(alone, release, tmp_path):
    process = start(TORCHRUN, tmp_path, release, *ENDLESS, "parallel.sp=2")
    wait_for_steps(process, tmp_path, 1)
    first, second = ranks_of(process)
    process.kill()
    process.wait()
    try:
        with pytest.raises(BadInput, match=rf"^{tmp_path} is in use by process ({first}|{second}) on host .* kill"):
            Training(make_recipe(tmp_path, release, *ENDLESS))
    finally:
        os.kill(second, signal.SIGKILL)
    output = process.stderr.read()  # reads to the end: the other rank has ended too
    assert output.count("another rank has ended or does not answer") == 1
    with Training(make_recipe(tmp_path, release, *ENDLESS)):
        assert (tmp_path / "_lock").read_text().startswith(f"process {os.getpid()} on host ")


@pytest.mark.slow  # the status is tested in test_command.py, saving at a signal above
def test_ctrl_c_saves_and_ends_one_process(release, tmp_path):
    process = start([], tmp_path, release, *ENDLESS, "videos.workers=0")
    wait_for_steps(process, tmp_path, 1)
    process.send_signal(signal.SIGINT)
    output = process.communicate()[1]
    assert process.returncode == 128 + signal.SIGINT
    assert f"stopped after step {steps_of(tmp_path)} by SIGINT" in output
    assert "Traceback" not in output
    assert saved_at_the_end(tmp_path)
