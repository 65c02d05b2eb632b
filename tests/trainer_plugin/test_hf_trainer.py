import json
import math
import os
import signal
import socket
from concurrent.futures import Future
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub.utils import filter_repo_objects
from transformers import TrainerCallback, TrainingArguments

from schemas.config import Media
from schemas.errors import BadInput
from tests.trainer_plugin.runs import curve, make_recipe, make_unreadable, model_folder
from tests.trainer_plugin.support import numbered_film, release_of
from trainer_plugin import recipe as recipes
from trainer_plugin.data import row_loader as loader
from trainer_plugin.data.packing import RowStream
from trainer_plugin.data.video_decode import read_frames
from trainer_plugin.distributed.mesh import init_distributed, parallelize
from trainer_plugin.hf_trainer import REFUSED, LongVideoTrainer
from trainer_plugin.recipe import FeatureSource, Recipe
from trainer_plugin.training.from_recipe import open_samples
from trainer_plugin.training.optimizer_step import BadStep
from trainer_plugin.training.weights import build_model, read_config, read_tokenizer


def trainer_of(recipe: Recipe, folder, steps: int, kind=LongVideoTrainer, features=None, **options) -> LongVideoTrainer:
    """A Trainer for the run of a recipe, with the same model, rows, optimizer and learning rate."""
    config, tokenizer = read_config(recipe.model), read_tokenizer(recipe.model)
    parallel = parallelize(recipe.parallel.sp, config.get_text_config(), init_distributed())
    model = build_model(recipe.model, recipe.trained, config, parallel, compute=torch.float32, seed=recipe.seed)
    videos = recipe.videos.model_copy(update={"features": features})
    samples = open_samples(videos, model.family, tokenizer)
    rows = RowStream(samples, recipe.row_tokens, seed=recipe.seed, rank=parallel.dp_rank, ranks=parallel.dp)
    arguments = TrainingArguments(
        str(folder),
        max_steps=steps,
        gradient_accumulation_steps=recipe.micro_steps(parallel.dp),
        adam_beta2=0.999,
        logging_steps=1,
        disable_tqdm=True,
        report_to=[],
        use_cpu=True,
        **{
            "save_strategy": "no",
            "lr_scheduler_type": "constant",
            "learning_rate": recipe.optimizer.learning_rate,
            **options,
        },
    )
    return kind(model, arguments, rows, tokenizer, workers=0)


def as_torchrun_would() -> None:
    """Set the environment variables of torchrun for the existing process group; accelerate reads them."""
    rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


def trainer_curve(recipe: Recipe, folder, steps: int) -> list[float]:
    if torch.distributed.get_world_size() > 1:
        as_torchrun_would()
    trainer = trainer_of(recipe, folder, steps)
    trainer.train()
    return [number for row in trainer.state.log_history if "loss" in row for number in (row["loss"], row["grad_norm"])]


@pytest.mark.parametrize(("world", "sp"), [(1, 1), (2, 2), (2, 1)])
def test_the_losses_are_those_of_the_recipes_own_run(ranks, release, tmp_path, world, sp):
    settings = ("steps=4", "optimizer.warmup=0", f"parallel.sp={sp}")
    recipe = make_recipe(tmp_path / "own", release, *settings)
    expected = ranks[1].run(curve, make_recipe(tmp_path / "own", release, *settings[:2]))[0]
    found = ranks[world].run(trainer_curve, recipe, tmp_path / "trainer", 4)[0]
    assert found[::2] == pytest.approx(expected, rel=2e-4)
    assert found[-2] < 0.95 * found[0]


class SampleRecorder(TrainerCallback):
    """Callback that records the samples of each step."""

    def __init__(self, trainer: LongVideoTrainer) -> None:
        self.trainer = trainer
        self.steps: list[list[str]] = []

    def on_step_end(self, *arguments, **state) -> None:
        self.steps.append([example.key for row in self.trainer._step.rows for example in row.packed.examples])


def train_and_record(trainer: LongVideoTrainer, checkpoint: bool | None = None) -> list[list[str]]:
    """Train, and return the samples of each step."""
    notes = SampleRecorder(trainer)
    trainer.add_callback(notes)
    trainer.train(resume_from_checkpoint=checkpoint)
    return notes.steps


def test_a_run_resumes_exactly_and_saves_a_model_that_loads(alone, release, tmp_path, monkeypatch):
    from transformers import AutoModelForImageTextToText

    decoded = []
    monkeypatch.setattr(loader, "read_frames", lambda *arguments: decoded.append(arguments) or read_frames(*arguments))
    recipe = make_recipe(tmp_path, release, "optimizer.warmup=0", f"model={{path: {model_folder(tmp_path / 'model')}}}")
    straight = trainer_of(recipe, tmp_path / "straight", 4)
    samples, all_frames = train_and_record(straight), decoded.copy()
    saving = {"save_strategy": "steps", "save_steps": 2}
    first = train_and_record(trainer_of(recipe, tmp_path / "halves", 2, **saving))
    decoded.clear()
    resumed = trainer_of(recipe, tmp_path / "halves", 4, **saving)
    assert first + train_and_record(resumed, checkpoint=True) == samples
    assert 0 < len(decoded) < len(all_frames)
    assert decoded == all_frames[-len(decoded) :]
    assert len(decoded) == sum(map(len, samples[2:]))
    assert resumed.state.epoch == straight.state.epoch
    for (name, value), (_, other) in zip(
        resumed.model.named_parameters(), straight.model.named_parameters(), strict=True
    ):
        assert torch.equal(value.full_tensor(), other.full_tensor()), name
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "halves" / "checkpoint-4")
    expected = dict(straight.model.model.named_parameters())
    assert all(torch.equal(value, expected[name].full_tensor()) for name, value in loaded.named_parameters())


class Rates(TrainerCallback):
    """Callback that records the applied learning rates and betas per parameter group, and stops at step `end`."""

    def __init__(self, end: int | None = None) -> None:
        self.end = end
        self.applied: list[list[tuple[float, tuple[float, float]]]] = []

    def on_pre_optimizer_step(self, args, state, control, optimizer=None, **others) -> None:
        self.applied.append([(group["lr"], tuple(group["betas"])) for group in optimizer.param_groups])

    def on_step_end(self, args, state, control, **others) -> None:
        control.should_training_stop |= state.global_step == self.end


class Cycled(LongVideoTrainer):
    """A Trainer whose schedule also changes the betas and has a different peak for each parameter group."""

    def create_scheduler(self, num_training_steps, optimizer=None):
        peaks = [0.003 / (1 + number) for number in range(len(self._adam.param_groups))]
        self.lr_scheduler = torch.optim.lr_scheduler.OneCycleLR(self._adam, peaks, total_steps=num_training_steps)
        return self.lr_scheduler


@pytest.mark.parametrize(
    ("kind", "schedule", "after"),
    [
        (LongVideoTrainer, {"lr_scheduler_type": "linear"}, 1),
        (LongVideoTrainer, {"lr_scheduler_type": "cosine", "warmup_steps": 2}, 1),
        (LongVideoTrainer, {"lr_scheduler_type": "constant_with_warmup", "warmup_steps": 4}, 2),
        (Cycled, {}, 2),
    ],
    ids=["linear", "cosine-after-warmup", "warmup", "one-cycle"],
)
def test_a_resumed_run_has_the_learning_rates_of_an_uninterrupted_one(alone, release, tmp_path, kind, schedule, after):
    def run(resume: str | None = None, **saving):
        trainer = trainer_of(recipe, tmp_path, 4, kind=kind, weight_decay=0.1, **schedule, **saving)
        rates = Rates()
        trainer.add_callback(rates)
        trainer.train(resume_from_checkpoint=resume)
        return rates.applied, trainer

    recipe = make_recipe(tmp_path, release, "row_tokens=256", "step_tokens=256")
    applied, straight = run(save_strategy="steps", save_steps=after)
    rest, resumed = run(str(tmp_path / f"checkpoint-{after}"))  # as after a kill of the run
    assert len(applied[0]) == 2  # parameter groups: with and without weight decay
    assert rest == applied[after:]
    logged = [row["learning_rate"] for row in resumed.state.log_history if "learning_rate" in row]
    assert logged == [groups[0][0] for groups in applied]
    for (name, value), other in zip(straight.model.named_parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(value.full_tensor(), other.full_tensor()), name


def test_other_settings_are_refused_and_allowed_by_name(alone, release, tmp_path):
    recipe = make_recipe(tmp_path, release, "row_tokens=256", "step_tokens=256")
    saving = {"save_strategy": "steps", "save_steps": 1, "lr_scheduler_type": "linear"}
    trainer_of(recipe, tmp_path / "out", 1, **saving).train()

    def resume(*names: str, folder="out", other=recipe, kind=LongVideoTrainer, **changes) -> Rates:
        kind = partial(kind, resume_changes=names)
        trainer = trainer_of(other, tmp_path / folder, 4, kind=kind, **{**saving, **changes, "save_strategy": "no"})
        rates = Rates()
        trainer.add_callback(rates)
        trainer.train(resume_from_checkpoint=str(tmp_path / folder / "checkpoint-1"))
        return rates

    changes = {"learning_rate": 0.001, "lr_scheduler_type": "constant"}
    message = r"other settings: learning_rate is 0\.003, not 0\.001; lr_scheduler_type is 'linear', not 'constant'"
    with pytest.raises(BadInput, match=message):
        resume(**changes)
    with pytest.raises(BadInput, match=r"row_tokens is 256, not 512; .* resume_changes=\[row_tokens\]"):
        resume(other=make_recipe(tmp_path, release, "row_tokens=512", "step_tokens=512"))
    with pytest.raises(BadInput, match=r"videos.target is 'answer', not 'reasoning'"):
        resume(other=make_recipe(tmp_path, release, "row_tokens=256", "step_tokens=256", "videos.target=reasoning"))
    assert [groups[0][0] for groups in resume(*changes, **changes).applied] == [0.001] * 3
    # The number of steps may change; the schedule adapts.
    assert [groups[0][0] for groups in resume().applied] == pytest.approx([0.00225, 0.0015, 0.00075])
    cycled = trainer_of(recipe, tmp_path / "cycled", 4, kind=Cycled, **saving)
    cycled.add_callback(Rates(end=1))
    cycled.train()
    with pytest.raises(BadInput, match="weight_decay cannot change in mid-run with OneCycleLR"):
        resume("weight_decay", folder="cycled", kind=Cycled, weight_decay=0.5)


class Own(LongVideoTrainer):
    """A Trainer with a custom optimizer and schedule, which the arguments do not describe."""

    rate, decay, cycle = 0.003, 0.1, False

    def create_optimizer(self, model=None):
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=self.rate, weight_decay=self.decay)
        return self.optimizer

    def create_scheduler(self, num_training_steps, optimizer=None):
        if not self.cycle:
            return super().create_scheduler(num_training_steps, optimizer)
        self.lr_scheduler = torch.optim.lr_scheduler.OneCycleLR(self._adam, self.rate, total_steps=num_training_steps)
        return self.lr_scheduler


def test_an_own_optimizer_that_was_changed_is_refused_and_allowed_by_name(alone, release, tmp_path):
    recipe = make_recipe(tmp_path, release, "row_tokens=256", "step_tokens=256")

    def run(folder: str, *names: str, steps: int = 2, resume: bool | None = True, **changes) -> list[float]:
        kind = partial(type("Changed", (Own,), changes), resume_changes=names)
        trainer, rates = trainer_of(recipe, tmp_path / folder, steps, kind=kind, save_strategy="no"), Rates()
        if not resume:
            trainer = trainer_of(recipe, tmp_path / folder, steps, kind=kind, save_strategy="steps", save_steps=1)
            rates.end = 1
        trainer.add_callback(rates)
        trainer.train(resume_from_checkpoint=resume)
        return [groups[0][0] for groups in rates.applied]

    run("constant", resume=None)
    with pytest.raises(
        BadInput, match=r"optimizer\.0\.initial_lr is 0\.003, not 0\.001; .* resume_changes=\[optimizer"
    ):
        run("constant", rate=0.001)
    with pytest.raises(BadInput, match=r"optimizer\.0\.weight_decay is 0\.1, not 0\.5"):
        run("constant", decay=0.5)
    with pytest.raises(BadInput, match="the saved run has a LambdaLR as its schedule, not a OneCycleLR"):
        run("constant", "optimizer", cycle=True)
    assert run("constant", "optimizer", rate=0.001) == [0.001]
    run("cycle", resume=None, cycle=True)
    with pytest.raises(BadInput, match=r"optimizer\.0\.initial_lr is .*; optimizer\.0\.max_lr is 0\.003, not 0\.001"):
        run("cycle", rate=0.001, cycle=True)
    with pytest.raises(BadInput, match=r"optimizer\.0\.max_lr, .* cannot change in mid-run with OneCycleLR"):
        run("cycle", "optimizer", rate=0.001, cycle=True)


def test_a_second_run_in_the_same_folder_is_refused_and_a_damaged_checkpoint_skipped(alone, release, tmp_path, caplog):
    recipe, saving = make_recipe(tmp_path, release), {"save_strategy": "steps", "save_steps": 1}
    out = tmp_path / "out"

    class Second(TrainerCallback):
        def on_train_begin(self, *arguments, **state):
            with pytest.raises(BadInput, match=f"^{out} is in use by process {os.getpid()} on host"):
                trainer_of(recipe, out, 2, **saving).train()

    first = trainer_of(recipe, out, 2, **saving)
    first.add_callback(Second())
    first.train()
    assert sorted(path.name for path in out.iterdir()) == ["checkpoint-1", "checkpoint-2"]
    (out / "checkpoint-2" / "model.safetensors").write_bytes(b"cut")
    damaged = f"checkpoint {out}/checkpoint-2 is damaged: model.safetensors is not what was written"
    with pytest.raises(BadInput, match=damaged):
        trainer_of(recipe, out, 3, **saving).train(resume_from_checkpoint=str(out / "checkpoint-2"))
    resumed = trainer_of(recipe, out, 3, **saving)
    assert len(train_and_record(resumed, checkpoint=True)) == 2
    assert f"{damaged}; resuming from the previous one, {out}/checkpoint-1" in caplog.text


def test_a_checkpoint_that_was_being_replaced_is_resumed_from(alone, release, tmp_path):
    recipe = make_recipe(tmp_path, release, "row_tokens=256", "step_tokens=256")
    saving = {"save_strategy": "steps", "save_steps": 1}
    trainer_of(recipe, tmp_path / "out", 1, **saving).train()
    (tmp_path / "out" / "checkpoint-1").rename(tmp_path / "out" / ".checkpoint-1.replaced")  # as if killed after that
    assert len(train_and_record(trainer_of(recipe, tmp_path / "out", 2, **saving), checkpoint=True)) == 1
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["checkpoint-2"]


def test_a_checkpoint_of_an_earlier_version_resumes_at_the_rate_of_its_schedule(alone, release, tmp_path):
    """Version 0.1 wrote no hashes, and saved only the state of the schedule itself in scheduler.pt."""
    recipe = make_recipe(tmp_path, release, "row_tokens=256", "step_tokens=256")
    first = trainer_of(recipe, tmp_path / "out", 1, save_strategy="steps", save_steps=1, lr_scheduler_type="linear")
    first.train()
    checkpoint = tmp_path / "out" / "checkpoint-1"
    (checkpoint / "files.json").unlink()
    torch.save(torch.load(checkpoint / "scheduler.pt")["schedule"], checkpoint / "scheduler.pt")
    resumed, rates = trainer_of(recipe, tmp_path / "out", 4, lr_scheduler_type="linear"), Rates()
    resumed.add_callback(rates)
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert [groups[0][0] for groups in rates.applied] == pytest.approx([0.00225, 0.0015, 0.00075])


def train_until_killed_in_a_save(recipe: Recipe, folder, where: str) -> None:
    """Train until the last rank is killed in the middle of the second checkpoint."""
    if torch.distributed.get_world_size() > 1:
        as_torchrun_would()
    trainer = trainer_of(recipe, folder, 4, save_strategy="steps", save_steps=1)
    real = getattr(trainer, where)

    def kill_or_save(*arguments):
        if trainer.state.global_step == 2 and torch.distributed.get_rank() == torch.distributed.get_world_size() - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments)

    setattr(trainer, where, kill_or_save)
    trainer.train()


def train_with_checkpoints(recipe: Recipe, folder, steps: int, checkpoint: bool | None) -> list[list[str]]:
    if torch.distributed.get_world_size() > 1:
        as_torchrun_would()
    return train_and_record(
        trainer_of(recipe, folder, steps, save_strategy="steps", save_steps=1, save_total_limit=2), checkpoint
    )


@pytest.mark.parametrize(
    ("world", "where"), [(1, "_save_optimizer_and_scheduler"), (1, "_save_rng_state"), (2, "_save_rng_state")]
)
def test_a_kill_in_the_middle_of_a_checkpoint_leaves_the_last_whole_one(ranks, release, tmp_path, world, where):
    recipe, folder = make_recipe(tmp_path, release), tmp_path / "run"
    errors, _ = ranks[world].outcomes(train_until_killed_in_a_save, recipe, folder, where)
    assert ranks[world].died == {world - 1: -signal.SIGKILL}
    assert set(errors) == set(range(world - 1))
    assert [path.name for path in folder.glob("*checkpoint-*")] == ["checkpoint-1"]
    straight = ranks[world].run(train_with_checkpoints, recipe, tmp_path / "straight", 3, None)[0]
    assert ranks[world].run(train_with_checkpoints, recipe, folder, 3, True)[0] == straight[1:]
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint-2", "checkpoint-3"]
    assert {path.name for path in (folder / "checkpoint-3").iterdir()} >= {"model.safetensors", "trainer_state.json"}


def error_of_a_full_disk(recipe: Recipe, folder, where: str, rank: int) -> str:
    """Error of this rank if the disk of one rank is full in the middle of the first checkpoint."""
    as_torchrun_would()
    trainer = trainer_of(recipe, folder, 2, save_strategy="steps", save_steps=1)

    def raise_full(*arguments, **options):
        raise OSError("No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        if torch.distributed.get_rank() == rank:
            patch.setattr(where, raise_full)
        with pytest.raises((OSError, RuntimeError)) as raised:
            trainer.train()
    return str(raised.value)


@pytest.mark.parametrize(
    ("where", "rank"),
    [
        ("trainer_plugin.training.export._publish", 0),
        ("pathlib.Path.write_text", 0),
        ("transformers.Trainer._save_rng_state", 1),
        ("trainer_plugin.hf_trainer.atomic_replace_dir", 0),
    ],
)
def test_a_disk_that_is_full_for_one_rank_is_an_error_on_every_rank(ranks, release, tmp_path, where, rank):
    expected = [f"rank {rank} has failed: No space left on device"] * 2
    expected[rank] = "No space left on device"
    assert ranks[2].run(error_of_a_full_disk, make_recipe(tmp_path, release), tmp_path / "run", where, rank) == expected
    assert not list((tmp_path / "run").glob("checkpoint-*"))


def error_of_different_folders(recipe: Recipe, folder) -> str:
    """Error of this rank if every rank has a different output folder."""
    as_torchrun_would()
    own = folder / str(torch.distributed.get_rank())
    with pytest.raises(BadInput) as raised:
        trainer_of(recipe, own, 1, save_strategy="steps", save_steps=1)
    return str(raised.value)


def test_ranks_that_would_save_into_different_folders_are_refused_at_the_start(ranks, release, tmp_path):
    beginning = (
        f"rank 1 does not see in {tmp_path / '1'} what the first rank wrote there; put `out` on a disk that all "
    )
    assert all(
        each.startswith(beginning)
        for each in ranks[2].run(error_of_different_folders, make_recipe(tmp_path, release), tmp_path)
    )


def test_a_checkpoint_that_lacks_something_is_refused_by_name(alone, release, tmp_path):
    recipe, saving = (
        make_recipe(tmp_path, release),
        {"save_strategy": "steps", "save_steps": 1, "save_only_model": True},
    )
    trainer_of(recipe, tmp_path / "out", 1, **saving).train()
    lacking = (
        r"checkpoint-1 \(without rows.json, model.json, scheduler.pt, sharded\): .* remove it, or name another one"
    )
    with pytest.raises(BadInput, match=lacking):
        trainer_of(recipe, tmp_path / "out", 2, **saving).train(resume_from_checkpoint=True)


class Hub:
    """Fake of the used part of the Hugging Face hub; records the files that each push would upload."""

    def __init__(self) -> None:
        self.pushed: list[set[str]] = []

    def create_repo(self, name, **options):
        return SimpleNamespace(repo_id=name)

    def upload_folder(self, folder_path, ignore_patterns=None, **options) -> Future:
        names = [str(path.relative_to(folder_path)) for path in Path(folder_path).rglob("*") if path.is_file()]
        self.pushed.append(set(filter_repo_objects(names, ignore_patterns=ignore_patterns)))
        done: Future = Future()
        done.set_result(None)
        return done


def test_a_push_uploads_only_the_model(alone, release, tmp_path, monkeypatch):
    hub = Hub()
    monkeypatch.setattr("transformers.trainer.hf_api", lambda: hub)
    saving = {"save_strategy": "steps", "save_steps": 1, "push_to_hub": True}
    trainer_of(make_recipe(tmp_path, release), tmp_path / "out", 1, **saving).train()
    [pushed] = hub.pushed
    assert pushed == {"config.json", "generation_config.json", "model.safetensors", "training_args.bin"}


def test_the_best_checkpoint_is_named_where_it_is_and_kept(alone, release, tmp_path):
    class Rated(LongVideoTrainer):
        """A Trainer with a custom evaluation."""

        def evaluate(self, *arguments, **options):
            return {"eval_score": -self.state.global_step}

    trainer = trainer_of(
        make_recipe(tmp_path, release),
        tmp_path / "out",
        3,
        save_strategy="steps",
        save_steps=1,
        save_total_limit=2,
        eval_strategy="steps",
        eval_steps=1,
        metric_for_best_model="score",
        kind=partial(Rated, eval_dataset=[None]),
    )
    trainer.train()
    best = tmp_path / "out" / "checkpoint-1"
    assert trainer.state.best_model_checkpoint == str(best)
    saved = json.loads((tmp_path / "out" / "checkpoint-3" / "trainer_state.json").read_text())
    assert saved["best_model_checkpoint"] == str(best)
    assert json.loads((best / "trainer_state.json").read_text())["best_model_checkpoint"] == str(best)
    assert not (tmp_path / "out" / "checkpoint-2").exists()


def test_a_model_saved_into_the_output_folder_leaves_the_checkpoints_which_are_of_that_model_alone(
    alone, release, tmp_path
):
    trainer = trainer_of(make_recipe(tmp_path, release), tmp_path / "out", 1, save_strategy="steps", save_steps=1)
    trainer.train()
    trainer.save_model()
    other = trainer_of(make_recipe(tmp_path, release, "model.rope_theta=5e4"), tmp_path / "out", 2)
    with pytest.raises(BadInput, match=r"another model: text_config.rope_parameters.rope_theta is 10000.0, not 50000"):
        other.train(resume_from_checkpoint=True)
    assert {"checkpoint-1", "model.safetensors"} <= {path.name for path in (tmp_path / "out").iterdir()}
    assert (tmp_path / "out" / "checkpoint-1" / "sharded").is_dir()


def test_the_training_ends_with_the_rows(alone, release, tmp_path, caplog):
    trainer = trainer_of(make_recipe(tmp_path, release), tmp_path, 100)
    trainer.feed.row_stream.epochs = 1
    steps = train_and_record(trainer)
    assert len({key for step in steps for key in step}) == 8
    assert f"the rows end after step {trainer.state.global_step} of 100" in caplog.text


def test_the_last_step_trains_on_the_remaining_rows(alone, release, tmp_path):
    settings = ("row_tokens=256", "step_tokens=768", "optimizer.warmup=0", "steps=null", "epochs=1")
    recipe = make_recipe(tmp_path / "own", release, *settings)
    trainer = trainer_of(recipe, tmp_path / "trainer", 100)
    trainer.feed.row_stream.epochs = 1
    steps = train_and_record(trainer)
    assert len(trainer._step.rows) < trainer.args.gradient_accumulation_steps == 3
    assert sorted(key for step in steps for key in step) == sorted(map(trainer.feed.row_stream.samples.key, range(8)))
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert losses == pytest.approx(curve(recipe), rel=2e-4)


def test_undecodable_videos_are_named_and_steps_without_supervised_tokens_are_skipped(alone, tmp_path):
    films = [numbered_film(tmp_path, name, 1.0) for name in ("good", "bad")]
    url = release_of(tmp_path, films, media=Media.NONE)
    Path(films[1].uri).unlink()
    settings = ("row_tokens=256", "step_tokens=256", "optimizer.warmup=0")
    recipe = make_recipe(tmp_path / "run", url, f"videos.media={tmp_path}", *settings)
    trainer = trainer_of(recipe, tmp_path / "some", 4)
    steps = train_and_record(trainer)
    assert len(steps) == 4
    assert all(set(step) - set(trainer.skipped) for step in steps)
    assert list(trainer.skipped.values()) == ["missing", "missing"]
    Path(films[0].uri).unlink()
    with pytest.raises(BadInput, match=r"not one of the 4 samples can be trained on: \{'missing': 4\}"):
        trainer_of(recipe, tmp_path / "none", 2).train()


def resume_without(recipe: Recipe, folder, name: str, rank: int) -> str:
    """Error of this rank if one rank cannot read a file of the checkpoint."""
    as_torchrun_would()
    trainer = trainer_of(recipe, folder, 2)
    with make_unreadable(name, rank), pytest.raises((OSError, RuntimeError)) as raised:
        trainer.train(resume_from_checkpoint=str(folder / "checkpoint-1"))
    return str(raised.value)


def save_once(recipe: Recipe, folder) -> None:
    as_torchrun_would()
    trainer_of(recipe, folder, 1, save_strategy="steps", save_steps=1).train()


def test_a_file_that_one_rank_cannot_read_is_an_error_on_every_rank(ranks, release, tmp_path):
    recipe = make_recipe(tmp_path, release, "row_tokens=256", "step_tokens=512")
    ranks[2].run(save_once, recipe, tmp_path)
    for name in ("model.json", "rows.json", "scheduler.pt", "trainer_state.json", "rng_state_1.pth"):
        hashes = sorted(json.loads((tmp_path / "checkpoint-1" / "files.json").read_text()))
        rank = 1 if name == "rng_state_1.pth" else 1 - hashes.index(name) % 2  # does not check the hash of it
        found = ranks[2].run(resume_without, recipe, tmp_path, name, rank)
        assert found[rank].startswith("[Errno 5] Input/output error: ") and f"{name}'" in found[rank]
        assert found[1 - rank] == f"rank {rank} has failed: {found[rank]}"


class Damaged(RowStream):
    def __next__(self):
        raise BadInput("film.safetensors: it is cut off")


def error_of_damage_on_one_rank(recipe: Recipe, folder) -> str:
    as_torchrun_would()
    trainer = trainer_of(recipe, folder, 3)
    if torch.distributed.get_rank() == 1:
        trainer.feed.row_stream.__class__ = Damaged
    with pytest.raises(BadInput) as raised:
        trainer.train()
    return str(raised.value)


def test_damaged_data_on_one_rank_ends_the_run_on_every_rank(ranks, release, tmp_path):
    assert (
        ranks[2].run(error_of_damage_on_one_rank, make_recipe(tmp_path, release), tmp_path)
        == ["film.safetensors: it is cut off"] * 2
    )


def error_of_a_nonfinite_loss(recipe: Recipe, folder) -> tuple[str, bool]:
    """Error of a step with a non-finite loss, and whether all other parameters are unchanged."""
    as_torchrun_would()
    trainer = trainer_of(recipe, folder, 3)
    poisoned = next(trainer.model.model.model.language_model.parameters())
    with torch.no_grad():
        poisoned.to_local().fill_(torch.nan)
    others = [parameter for parameter in trainer.model.parameters() if parameter is not poisoned]
    before = [parameter.full_tensor().clone() for parameter in others]
    with pytest.raises(BadStep) as raised:
        trainer.train()
    return str(raised.value), all(torch.equal(p.full_tensor(), b) for p, b in zip(others, before, strict=True))


def test_a_loss_that_is_not_finite_ends_the_run_on_every_rank_and_names_the_samples(ranks, release, tmp_path):
    found = ranks[2].run(error_of_a_nonfinite_loss, make_recipe(tmp_path, release), tmp_path)
    messages = [message for message, _ in found]
    beginning = "step 1: loss nan, gradient norm nan; the step was not applied; lower the learning rate, or check the "
    assert all(message.startswith(f"{beginning}samples of this rank's rows that are") for message in messages)
    named = [set(message.partition("not finite: ")[2].split(", ")) for message in messages]
    assert named[0] and named[1] and named[0] != named[1]
    assert [unchanged for _, unchanged in found] == [True, True]


def test_the_example_in_the_documents_runs(alone, release, tmp_path, monkeypatch):
    page = (Path(__file__).parents[2] / "docs" / "trainer.md").read_text()
    [example] = [block.partition("```")[0] for block in page.split("```python\n") if "LongVideoTrainer" in block]
    monkeypatch.setattr(recipes, "load_recipe", lambda *named: make_recipe(tmp_path, release))
    given = "max_steps=1000, gradient_accumulation_steps=4"
    assert given in example
    shorter = example.replace(given, "max_steps=2, use_cpu=True, report_to=[], disable_tqdm=True, save_steps=2")
    exec(shorter, {})
    assert (tmp_path / "checkpoint-2" / "model.safetensors").exists()


def test_max_steps_must_be_set(alone, release, tmp_path):
    with pytest.raises(BadInput, match="max_steps is -1: set it"):
        trainer_of(make_recipe(tmp_path, release), tmp_path, -1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gradient_checkpointing_kwargs": {}}, r"gradient_checkpointing_kwargs is .* RunOptions\.checkpointed_layers"),
        ({"torch_compile": True}, r"torch_compile is True, but must keep its default: RunOptions\.compile"),
        ({"fp16": True}, "fp16 is True, but must keep its default: gradients would be clipped as scaled"),
        ({"bf16": True}, r"bf16 is True, but the model was built to compute in torch\.float32; build it with"),
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor is 0.1, but must keep its default"),
        ({"neftune_noise_alpha": 5.0}, "neftune_noise_alpha is 5.0, but must keep its default"),
        (
            {"per_device_train_batch_size": 1},
            "per_device_train_batch_size is 1, but must keep its default: rows come packed",
        ),
        ({"auto_find_batch_size": True}, "auto_find_batch_size is True, but must keep its default: rows come packed"),
        ({"include_num_input_tokens_seen": "all"}, "include_num_input_tokens_seen is all, but must keep its default"),
        ({"num_train_epochs": 1}, "num_train_epochs is 1, but must keep its default: max_steps sets the end"),
        ({"dataloader_num_workers": 2}, "dataloader_num_workers is 2, but must keep its default: .* argument workers"),
        (
            {"accelerator_config": {"split_batches": True}},
            "accelerator_config is .* must keep its default: the model is sharded",
        ),
        ({"optim": "adafactor"}, "optim is adafactor, which cannot step on sharded parameters; use adamw_torch, "),
        ({"eval_strategy": "steps"}, "eval_strategy is steps, .* override `evaluate` in a class of your own"),
        ({"eval_on_start": True}, "eval_on_start True: there is no evaluation of packed rows here"),
        ({"load_best_model_at_end": True, "eval_strategy": "no"}, "load_best_model_at_end is True, but must keep"),
    ],
)
def test_arguments_without_effect_are_refused(alone, release, tmp_path, options, message):
    with pytest.raises(BadInput, match=message):
        trainer_of(make_recipe(tmp_path, release), tmp_path, 1, **options)


# Arguments that work as documented by transformers. Of the optimizers, only those in `hf_trainer._OPTIMIZERS`.
HONOURED = frozenset(
    [
        "output_dir",
        "max_steps",
        "gradient_accumulation_steps",
        "learning_rate",
        "lr_scheduler_type",
        "lr_scheduler_kwargs",
        "warmup_steps",
        "optim",
        "optim_args",
        "weight_decay",
        "adam_beta1",
        "adam_beta2",
        "adam_epsilon",
        "max_grad_norm",
        "bf16",
        "gradient_checkpointing",
        "tf32",
        "torch_empty_cache_steps",
        "logging_strategy",
        "logging_steps",
        "logging_first_step",
        "log_on_each_node",
        "log_level",
        "log_level_replica",
        "disable_tqdm",
        "report_to",
        "run_name",
        "project",
        "trackio_space_id",
        "trackio_bucket_id",
        "trackio_static_space_id",
        "eval_strategy",
        "eval_on_start",
        "save_strategy",
        "save_steps",
        "save_total_limit",
        "save_only_model",
        "ignore_data_skip",
        "restore_callback_states_from_checkpoint",
        "push_to_hub",
        "hub_token",
        "hub_private_repo",
        "hub_model_id",
        "hub_strategy",
        "hub_always_push",
        "hub_revision",
        "full_determinism",
        "seed",
        "use_cpu",
        "debug",
        "skip_memory_metrics",
    ]
)

# Arguments without effect on this training. They concern a custom `evaluate`, scripts around a Trainer, dataset
# columns, and the logging of non-finite losses, which end the run here.
ELSEWHERE = frozenset(
    [
        "eval_steps",
        "eval_delay",
        "per_device_eval_batch_size",
        "prediction_loss_only",
        "eval_do_concat_batches",
        "eval_use_gather_object",
        "eval_accumulation_steps",
        "include_for_metrics",
        "batch_eval_metrics",
        "bf16_full_eval",
        "fp16_full_eval",
        "metric_for_best_model",
        "greater_is_better",
        "do_train",
        "do_eval",
        "do_predict",
        "resume_from_checkpoint",
        "local_rank",
        "remove_unused_columns",
        "label_names",
        "logging_nan_inf_filter",
    ]
)


def test_every_argument_is_honoured_refused_or_of_no_concern():
    """Covers the arguments of transformers 5.17 to 5.20, which are the same; new arguments must be added to a list."""
    kinds = [set(HONOURED), set(REFUSED), set(ELSEWHERE)]
    assert set().union(*kinds) == {field.name for field in fields(TrainingArguments)}
    assert sum(map(len, kinds)) == len(set().union(*kinds))


def test_gradient_checkpointing_is_what_the_model_was_built_with(alone, release, tmp_path):
    recipe = make_recipe(tmp_path, release, "row_tokens=256", "step_tokens=256")
    trainer = trainer_of(recipe, tmp_path, 1, gradient_checkpointing=True)
    assert trainer.model.checkpointed_layers == 2
    trainer.train()
    assert trainer.state.global_step == 1
    trainer.model.options = replace(trainer.model.options, checkpointed_layers=0)
    with pytest.raises(BadInput, match="gradient_checkpointing is True, but the model was built with checkpointed_lay"):
        LongVideoTrainer(trainer.model, trainer.args, trainer.feed.row_stream, trainer.tokenizer)


@pytest.mark.parametrize("optim", ["adagrad", "rmsprop", "sgd"])
def test_torchs_optimizers_step_on_shards(ranks, release, tmp_path, optim):
    everyone = ranks[2].run(losses_with, make_recipe(tmp_path, release), tmp_path, optim)
    assert all(math.isfinite(loss) for losses in everyone for loss in losses)
    assert everyone[0][0] != everyone[0][1]


def losses_with(recipe: Recipe, folder, optim: str) -> list[float]:
    as_torchrun_would()
    trainer = trainer_of(recipe, folder, 2, optim=optim)
    trainer.train()
    return [row["loss"] for row in trainer.state.log_history if "loss" in row]


def test_features_that_are_not_of_this_models_frozen_tower_are_refused(alone, release, tmp_path):
    features = FeatureSource(url=str(tmp_path), tower="another")
    with pytest.raises(BadInput, match=r"are of a frozen tower, but this model's tower or projector is trained"):
        trainer_of(make_recipe(tmp_path, release), tmp_path, 1, features=features)
    frozen = make_recipe(tmp_path, release, "trained.vision_tower=false", "trained.projector=false")
    with pytest.raises(BadInput, match=r"videos\.features\.tower is 'another', but this model's tower is"):
        trainer_of(frozen, tmp_path, 1, features=features)


def test_one_process_with_several_gpus_is_refused_naming_torchrun(alone, release, tmp_path, monkeypatch):
    monkeypatch.setattr(TrainingArguments, "n_gpu", 8)
    with pytest.raises(BadInput, match=r"one process sees 8 GPUs, .* start one for each with torchrun"):
        trainer_of(make_recipe(tmp_path, release), tmp_path, 1)


def test_an_optimizer_that_a_checkpoint_would_not_hold_is_refused_before_the_first_step(alone, release, tmp_path):
    recipe = make_recipe(tmp_path, release)
    saving = {"save_strategy": "steps", "save_steps": 1}
    with pytest.raises(BadInput, match="not the state of SGD; use AdamW"):
        trainer_of(recipe, tmp_path, 1, optim="sgd", **saving).train()
    trainer = trainer_of(recipe, tmp_path, 1, optim="sgd")
    trainer.train()
    assert trainer.state.global_step == 1


def test_parameters_stay_where_they_are(alone, release, tmp_path, monkeypatch):
    monkeypatch.setattr(TrainingArguments, "device", torch.device("meta"))
    trainer = trainer_of(make_recipe(tmp_path, release), tmp_path, 1)
    assert {parameter.device.type for parameter in trainer.model.parameters()} == {"cpu"}
