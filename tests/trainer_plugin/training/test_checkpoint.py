import json
import os
import re
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.distributed.checkpoint.api import CheckpointException

from schemas.errors import BadInput
from tests.trainer_plugin.parity import OPTIONS, Clip, Draft, groups, make_samples, plan_of, rank_pixels, tiny_model
from tests.trainer_plugin.runs import curve, make_recipe, make_unreadable, model_folder, whole_parameters
from tests.trainer_plugin.support import numbered_film, release_of
from trainer_plugin.atomic_files import FullDisk, locked
from trainer_plugin.distributed.sequence_plan import Layout
from trainer_plugin.model import LongVideoModel, RankInput, shard_parameters
from trainer_plugin.sft import Training
from trainer_plugin.training import checkpoint
from trainer_plugin.training.checkpoint import CheckpointFolder, load_tensors, record_files, save_tensors
from trainer_plugin.training.model_identity import model_values
from trainer_plugin.training.optimizer_step import adamw, cross_entropy, supervised_tokens, train_step

LORA = (
    "trained.lora={rank: 2}",
    "trained.language_model=false",
    "trained.projector=false",
    "trained.vision_tower=false",
)


@pytest.fixture
def run(alone, release, tmp_path):
    """Folder of a saved run of one step."""
    curve(make_recipe(tmp_path / "run", release, "steps=1"))
    return tmp_path / "run"


def test_only_the_last_ones_are_kept_and_latest_names_a_whole_one(alone, release, tmp_path):
    curve(make_recipe(tmp_path, release, "steps=4", "checkpoints.every_steps=1", "checkpoints.keep=2"))
    found = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert found == ["latest", "step-00000003", "step-00000004"]
    assert (tmp_path / "checkpoints" / "latest").read_text() == "step-00000004"


def test_a_run_resumed_from_an_earlier_step_keeps_the_checkpoint_it_saves(alone, release, tmp_path):
    curve(make_recipe(tmp_path, release, "steps=4", "checkpoints.every_steps=1", "checkpoints.keep=3"))
    (tmp_path / "checkpoints" / "latest").write_text("step-00000002")
    again = make_recipe(tmp_path, release, "steps=4", "checkpoints.every_steps=1", "checkpoints.keep=1")
    with Training(again) as training:
        next(iter(training))
        saved = training.save()
        assert saved.name == "step-00000003" and saved.exists()
        found = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert found == ["latest", "step-00000003", "step-00000004"]


def test_a_kill_while_a_step_is_saved_again_leaves_a_whole_checkpoint(run, release, monkeypatch):
    rename = Path.rename

    def raise_before_rename(path: Path, target: Path) -> Path:
        if path.name.endswith(".writing"):
            raise KeyboardInterrupt
        return rename(path, target)

    with Training(make_recipe(run, release, "steps=2")) as training:
        monkeypatch.setattr(Path, "rename", raise_before_rename)
        with pytest.raises(KeyboardInterrupt):
            training.save()
        monkeypatch.undo()
    with Training(make_recipe(run, release, "steps=2")) as training:
        assert training.step == 1
        training.save()
    found = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert found == ["latest", "step-00000001"]


def test_a_save_that_fails_leaves_the_last_checkpoint(run, release, monkeypatch):
    with Training(make_recipe(run, release, "steps=3")) as training:
        steps = iter(training)
        next(steps)

        def raise_full(*arguments):
            raise OSError("No space left on device")

        monkeypatch.setattr(os, "fsync", raise_full)
        with pytest.raises(CheckpointException, match="No space left"):
            training.save()
        monkeypatch.undo()
    with Training(make_recipe(run, release, "steps=3")) as training:
        assert training.step == 1
        assert len(list(training)) == 2


def error_of_a_full_disk(recipe) -> str:
    """Error of this rank if the disk of rank 0 is full after all shards of the first checkpoint are written."""

    def raise_full(*arguments):
        raise OSError("No space left on device")

    with pytest.MonkeyPatch.context() as patch, Training(recipe) as training:
        if torch.distributed.get_rank() == 0:
            patch.setattr("trainer_plugin.training.checkpoint.atomic_write_bytes", raise_full)
        with pytest.raises((OSError, RuntimeError)) as raised:
            list(training)
    return str(raised.value)


def fail_to_record(folder: Path) -> str:
    with pytest.raises((OSError, RuntimeError)) as raised:
        record_files(folder)
    return str(raised.value)


def test_a_shard_that_its_rank_cannot_read_again_is_an_error_on_every_rank(ranks, tmp_path):
    (tmp_path / "__1_0.distcp").mkdir()
    first, last = ranks[2].run(fail_to_record, tmp_path)
    assert last == f"[Errno 21] Is a directory: '{tmp_path / '__1_0.distcp'}'"
    assert first == f"rank 1 has failed: {last}"


def test_a_full_disk_of_the_first_rank_is_an_error_on_every_rank(ranks, release, tmp_path):
    expected = ["No space left on device", "rank 0 has failed: No space left on device"]
    assert ranks[2].run(error_of_a_full_disk, make_recipe(tmp_path, release, "steps=1")) == expected


def test_a_full_disk_is_reported_with_the_missing_bytes_and_leaves_nothing_behind(alone, release, small_disk, caplog):
    recipe = make_recipe(small_disk / "run", release, "steps=2", "checkpoints.every_steps=1")
    caplog.set_level("INFO")
    message = (
        r"^the disk of .*/run/checkpoints is full: [\d.]+ MB are to be written, [\d.]+ [MK]B are free; make room for "
    )
    for _ in range(2):  # the next start reports the same
        with pytest.raises(FullDisk, match=message + r"[\d.]+ [MK]B more$"):
            curve(recipe)
        assert [path.name for path in (small_disk / "run" / "checkpoints").iterdir()] == []
        assert not (small_disk / "run" / "_lock").exists()
    assert "No space left" not in caplog.text


def fill(folder: Path, room: int) -> None:
    """Fill the disk of a folder until `room` bytes are free."""
    (folder / "others").write_bytes(bytes(shutil.disk_usage(folder).free - room))


def test_a_disk_that_others_fill_during_a_save_is_reported_as_full(alone, release, small_disk, monkeypatch):
    recipe = make_recipe(small_disk / "run", release, "steps=1", *LORA)
    with Training(recipe) as training:
        next(iter(training))
        save = checkpoint.save_tensors
        monkeypatch.setattr(checkpoint, "save_tensors", lambda *given: (fill(small_disk, 20_000), save(*given)))
        with pytest.raises(FullDisk, match="is full"):
            training.save()
        monkeypatch.undo()
        (small_disk / "others").unlink()
        assert training.save().exists()


DAMAGES = {
    "cut off": (lambda path: next(path.glob("*.distcp")).open("r+b").truncate(100), r"__0_0\.distcp is not what was"),
    "another bit": (lambda path: flip(next(path.glob("*.distcp"))), r"__0_0\.distcp is not what was written"),
    "no tensors": (lambda path: next(path.glob("*.distcp")).unlink(), r"__0_0\.distcp is missing"),
    "no index": (lambda path: (path / ".metadata").unlink(), r"\.metadata is missing"),
    "no state": (lambda path: (path / "state.json").unlink(), r"state\.json is missing"),
    "no hashes": (lambda path: (path / "files.json").write_text("{"), r"files\.json cannot be read"),
}


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(alone, release, tmp_path, caplog):
    recipe = make_recipe(tmp_path, release, "steps=2", "checkpoints.every_steps=1")
    curve(recipe)
    first, last = (tmp_path / "checkpoints" / f"step-0000000{step}" for step in (1, 2))
    shutil.copytree(last, tmp_path / "whole")
    for damage, message in DAMAGES.values():
        damage(last)
        caplog.clear()
        with Training(recipe) as training:
            assert training.step == 1
        assert re.search(rf"checkpoint {last} is damaged: {message}.*; resuming .*, {first}", caplog.text)
        shutil.rmtree(last)
        shutil.copytree(tmp_path / "whole", last)
    for path in (first, last):
        flip(path / "state.json")
    damaged = (
        r"step-00000002 is damaged: state\.json .*step-00000001 is damaged: state\.json .*; copy it again, or start"
    )
    with pytest.raises(BadInput, match=damaged):
        Training(recipe)


def resume_without(recipe, name: str, rank: int) -> str:
    """Error of this rank if one rank cannot read a file of the checkpoint."""
    with make_unreadable(name, rank), pytest.raises((OSError, RuntimeError)) as raised:
        Training(recipe)
    return str(raised.value)


@pytest.mark.parametrize(("name", "rank"), [("latest", 0), ("state.json", 1), (".metadata", 1)])
def test_a_file_that_one_rank_cannot_read_is_an_error_on_every_rank(ranks, run, release, name, rank):
    found = ranks[2].run(resume_without, make_recipe(run, release, "steps=2"), name, rank)
    assert found[rank].startswith("[Errno 5] Input/output error: ") and f"{name}'" in found[rank]
    assert found[1 - rank] == f"rank {rank} has failed: {found[rank]}"


def test_a_leftover_of_a_kill_is_resumed_from_or_the_newest_whole_one_before_it(alone, release, tmp_path, caplog):
    recipe = make_recipe(tmp_path, release, "steps=3", "checkpoints.every_steps=1", "checkpoints.keep=3")
    curve(recipe)
    folder = tmp_path / "checkpoints"
    last, backup = folder / "step-00000003", folder / ".step-00000003.replaced"
    shutil.copytree(last, backup)  # as if killed after the second rename
    flip(last / "state.json")
    with Training(recipe) as training:
        assert training.step == 3
    assert (
        f"{last} is damaged: state.json is not what was written; resuming from the previous one, {backup}"
        in caplog.text
    )
    shutil.rmtree(last)  # as if killed before it
    flip(backup / "state.json")
    with Training(recipe) as training:
        assert training.step == 2
        training.save()
    assert sorted(path.name for path in folder.iterdir()) == ["latest", "step-00000001", "step-00000002"]


def train_until_killed_in_a_save(recipe) -> None:
    """Train until the last rank is killed in the middle of the second checkpoint."""
    with Training(recipe) as training:
        for metrics in training:
            if metrics.step == 2 and torch.distributed.get_rank() == torch.distributed.get_world_size() - 1:
                os.fsync = lambda file: os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("world", [1, 2])
def test_a_kill_in_the_middle_of_a_checkpoint_leaves_the_last_whole_one(ranks, release, tmp_path, world):
    recipe, straight = (make_recipe(tmp_path / name, release, "steps=3", "checkpoints.every_steps=1") for name in "ab")
    errors, _ = ranks[world].outcomes(train_until_killed_in_a_save, recipe)
    assert ranks[world].died == {world - 1: -signal.SIGKILL}
    assert set(errors) == set(range(world - 1))
    folder = tmp_path / "a" / "checkpoints"
    [half, *whole] = sorted(path.name for path in folder.iterdir())
    assert half.endswith(".writing") and whole == ["latest", "step-00000001"]
    assert ranks[world].run(curve, recipe)[0] == ranks[world].run(curve, straight)[0][1:]
    assert sorted(path.name for path in folder.iterdir()) == ["latest", "step-00000002", "step-00000003"]


def test_another_model_is_refused_by_naming_the_difference(run, release):
    before = {path: path.stat().st_mtime for path in run.rglob("*") if path.is_file() and "checkpoints" in str(path)}
    with pytest.raises(BadInput, match=r"another model: text_config.num_hidden_layers is 2, not 3"):
        Training(make_recipe(run, release, "steps=3", "model.config.text_config.num_hidden_layers=3"))
    with pytest.raises(BadInput, match=r"does not match the trainable parameters .*visual.* is not trainable here"):
        Training(make_recipe(run, release, "steps=3", "trained.vision_tower=false"))
    with pytest.raises(BadInput, match=r"lora_A\.default\.weight is not in it"):
        Training(make_recipe(run, release, "steps=3", *LORA))
    assert {path: path.stat().st_mtime for path in before} == before


def test_adapters_of_another_scale_or_on_other_frozen_weights_are_refused(alone, release, tmp_path):
    def lora_recipe(folder: str, lora: str = "{rank: 2}"):
        settings = (f"model={{path: {tmp_path / folder}}}", *LORA, f"trained.lora={lora}", "steps=1")
        return make_recipe(tmp_path / "run", release, *settings)

    for seed, folder in enumerate(("own", "other")):
        model_folder(tmp_path / folder, seed)
    curve(lora_recipe("own"))
    with pytest.raises(BadInput, match=r"another model: lora\.default\.alpha is 32, not 64"):
        Training(lora_recipe("own", "{rank: 2, alpha: 64}"))
    with pytest.raises(BadInput, match=r"another model: frozen_bits is -?\d+, not -?\d+"):
        Training(lora_recipe("other"))
    with Training(lora_recipe("own")) as training:
        assert training.step == 1


def frozen_bits(recipe) -> int:
    with Training(recipe) as training:
        list(training)
        return model_values(training.model)["frozen_bits"]


def test_frozen_weights_are_the_same_for_any_number_of_ranks(ranks, release, tmp_path):
    recipe = make_recipe(tmp_path, release, "steps=1", "trained={projector: false}")
    [one] = ranks[1].run(frozen_bits, recipe)
    assert one != 0
    assert ranks[2].run(frozen_bits, recipe) == [one, one]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> dict[str, str]:
    """Releases of two questions about a film: unchanged, with other questions, and with another film."""
    folder = tmp_path_factory.mktemp("data")
    for name in ("own", "questions", "film"):
        (folder / name).mkdir()
    film, other = numbered_film(folder / "own", "film", 2.0), numbered_film(folder / "film", "film", 1.0)
    return {
        "own": release_of(folder / "own", [film]),
        "other questions": release_of(folder / "questions", [film], problem="What?"),
        "another film": release_of(folder / "film", [other]),
    }


def begin(out: Path, release: str, *settings: str) -> Path:
    with Training(make_recipe(out, release, "steps=3", *settings)) as training:
        return training.save()


OTHER_DATA = (
    ("own", ["videos.target=reasoning"], "videos.target is 'answer', not 'reasoning'"),
    ("own", ["videos.frames.max_frames=2"], "videos.frames.max_frames is 4, not 2"),
    ("own", ["videos.frames={fps: null, frames: 2}"], r"frames.fps is 1\.0, not None; videos.frames.frames is None,"),
    ("own", ["seed=7"], "seed is 7, but the saved position is of seed 0; set seed to that"),
    (
        "other questions",
        [],
        "other data: hash of the release's samples is '[0-9a-f]{16}', not '[0-9a-f]{16}'; use those",
    ),
    ("another film", [], "other data: hash of the release's samples is"),
)


def test_other_data_are_refused_by_what_differs(alone, data, tmp_path):
    begin(tmp_path, data["own"])
    for release, settings, message in OTHER_DATA:
        with pytest.raises(BadInput, match=message):
            Training(make_recipe(tmp_path, data[release], "steps=3", *settings))


def test_other_budgets_of_the_models_processor_are_refused_as_other_data(alone, data, tmp_path):
    model = model_folder(tmp_path / "model")
    processor, setting = model / "video_preprocessor_config.json", f"model={{path: {model}}}"
    processor.write_text('{"size": {"longest_edge": 50176}}')
    begin(tmp_path / "run", data["own"], setting)
    processor.write_text('{"size": {"longest_edge": 100352}}')
    with pytest.raises(BadInput, match=r"other data: model's processor\.most_pixels is 50176, not 100352; use those"):
        Training(make_recipe(tmp_path / "run", data["own"], "steps=3", setting))


def test_other_settings_are_refused_and_allowed_by_name(alone, data, tmp_path, caplog):
    changes = {
        "optimizer.learning_rate": ("0.001", "0.003 -> 0.001"),
        "optimizer.schedule": ("cosine", "'constant' -> 'cosine'"),
        "optimizer.warmup": ("0.5", "0.1 -> 0.5"),
        "precision": ("bfloat16", "'float32' -> 'bfloat16'"),
        "row_tokens": ("256", "512 -> 256"),
        "step_tokens": ("512", "1024 -> 512"),
        "steps": ("4", "3 -> 4"),
    }
    settings = [f"{name}={value}" for name, (value, _) in changes.items()]
    begin(tmp_path, data["own"])
    with pytest.raises(BadInput, match=r"^the saved run has other settings: ") as raised:
        Training(make_recipe(tmp_path, data["own"], *settings, "resume_changes=[optimizer, row_tokens]"))
    assert "resume_changes=[precision, step_tokens, steps]" in str(raised.value)
    assert "precision is 'float32', not 'bfloat16'; step_tokens is 1024, not 512; steps is 3, not 4" in str(
        raised.value
    )
    with Training(make_recipe(tmp_path, data["own"], *settings, f"resume_changes=[{', '.join(changes)}]")) as training:
        assert [metrics.step for metrics in training] == [1, 2, 3, 4]
    assert all(f"{name} {change}" in caplog.text for name, (_, change) in changes.items())
    with Training(
        make_recipe(tmp_path, data["own"], *settings, "resume_changes=[]")
    ) as training:  # now part of the run
        assert training.step == 4


def test_a_run_that_has_done_more_steps_than_now_requested_is_finished(alone, data, tmp_path):
    assert len(curve(make_recipe(tmp_path, data["own"], "steps=2"))) == 2
    with Training(make_recipe(tmp_path, data["own"], "steps=1", "resume_changes=[steps]")) as training:
        assert training.step == 2 and next(iter(training), None) is None


def test_settings_that_do_not_change_the_result_may_change_on_resume(alone, data, tmp_path):
    begin(tmp_path, data["own"])
    moved = data["own"].replace("own", "moved")
    shutil.copytree(data["own"], moved)
    how = ("memory.checkpointed_layers=1", "head=full", "videos.workers=1", "checkpoints.every_steps=7", "export=model")
    with Training(make_recipe(tmp_path, moved, "steps=3", "resume_changes=[]", *how)) as training:
        assert training.step == 0


def draw_before_and_after_saving(recipe) -> list[float]:
    with Training(recipe) as training:
        drawn = float(torch.rand(()))
        training.save()
        return [drawn, float(torch.rand(()))]


def test_the_random_state_resumes_where_it_was(alone, release, tmp_path):
    _, expected = draw_before_and_after_saving(make_recipe(tmp_path, release, "steps=1"))
    torch.manual_seed(99)
    with Training(make_recipe(tmp_path, release, "steps=1")):
        assert float(torch.rand(())) == expected


def error_of_different_folders(folders, release) -> str:
    """Error of this rank if every rank has a different `out` folder."""
    with pytest.raises(BadInput) as raised:
        Training(make_recipe(folders[torch.distributed.get_rank()], release, "steps=2"))
    return str(raised.value)


def test_ranks_that_write_into_different_folders_are_refused_at_the_start(ranks, release, tmp_path):
    folders = [tmp_path / "shared", tmp_path / "own"]
    expected = (
        f"rank 1 does not see in {folders[1] / 'checkpoints'} what the first rank wrote there; put `out` on a disk "
        f"that all hosts share"
    )
    assert ranks[2].run(error_of_different_folders, folders, release) == [expected, expected]
    assert list((folders[0] / "checkpoints").iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named_at_the_start(alone, release, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(
        BadInput, match=rf"^nothing can be written into {tmp_path}/file: .*(Not a directory|File exists)"
    ):
        Training(make_recipe(tmp_path / "file", release))


def test_a_second_run_in_the_same_folder_is_refused_until_the_first_has_ended(run, release):
    with Training(make_recipe(run, release, "steps=3")):
        with pytest.raises(BadInput, match=rf"^{run} is in use by process {os.getpid()} on host"):
            Training(make_recipe(run, release, "steps=3"))
        assert (run / "_lock").exists()
    with Training(make_recipe(run, release, "steps=3")) as training:
        assert training.step == 1
    assert not (run / "_lock").exists()
    with pytest.raises(BadInput, match="other settings"):  # a refused run leaves no lock either
        Training(make_recipe(run, release, "steps=3", "row_tokens=256"))
    assert not (run / "_lock").exists()


def test_a_run_of_an_earlier_version_keeps_out_another(run, release):
    """A run of an earlier version holds a lock with another name."""
    with locked(run / ".lock", run), pytest.raises(BadInput, match=rf"^{run} is in use by process {os.getpid()} on"):
        Training(make_recipe(run, release, "steps=3"))
    with Training(make_recipe(run, release, "steps=3")) as training:
        assert training.step == 1


def error_of_different_checkpoints(paths) -> str:
    with pytest.raises(BadInput) as raised:
        CheckpointFolder.latest_on_all_ranks(SimpleNamespace(latest=lambda: paths[torch.distributed.get_rank()]))
    return str(raised.value)


def test_ranks_that_see_different_checkpoints_are_refused(ranks):
    expected = "ranks see different checkpoints (rank 0: here, rank 1: None); put `out` on a disk that all hosts share"
    assert ranks[2].run(error_of_different_checkpoints, ["here", None]) == [expected, expected]


def test_a_latest_that_is_gone_is_named_with_those_that_are_there(run, release):
    for latest in ("step-00000009", ""):
        (run / "checkpoints" / "latest").write_text(latest)
        with pytest.raises(BadInput, match=rf"latest names '{latest}', which is not there; .* \(step-00000001\)"):
            Training(make_recipe(run, release, "steps=3"))


def moments_after_resume(recipe) -> dict[str, torch.Tensor]:
    with Training(recipe) as training:
        states = training.optimizer.state
        found = whole_parameters(training)
        for name, parameter in training.model.model.named_parameters():
            found |= {f"{name}.{key}": states[parameter][key].full_tensor() for key in ("exp_avg", "exp_avg_sq")}
            assert float(states[parameter]["step"]) == 1
        return found


def text_between_videos(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Parameters after a step on a video that follows two steps on text: without a break, and resumed.

    In the steps on text the vision tower has no gradients.
    """
    drafts = {"video": Draft((3, Clip(2), 9)), "text": Draft((34,), seed=1)}

    def start() -> tuple[LongVideoModel, torch.optim.Optimizer]:
        parallel = groups(Layout())
        model = shard_parameters(LongVideoModel(tiny_model("qwen3_vl"), parallel, OPTIONS), compute=None).train()
        return model, adamw(model, 1e-2)

    def run_steps(model: LongVideoModel, optimizer: torch.optim.Optimizer, *names: str) -> dict[str, torch.Tensor]:
        for name in names:
            samples = make_samples(model.family, [drafts[name]])
            rank_plan = plan_of(model, samples).rank_plan(0)
            row = RankInput(rank_plan, rank_pixels(model.family, rank_plan, samples))
            train_step(model, optimizer, [row], cross_entropy(supervised_tokens([row])))
        return {name: parameter.detach().full_tensor().clone() for name, parameter in model.named_parameters()}

    model, optimizer = start()
    run_steps(model, optimizer, "video", "text", "text")
    save_tensors(folder, model, optimizer)
    values = model_values(model)
    straight = run_steps(model, optimizer, "video")
    model, optimizer = start()
    load_tensors(folder, model, optimizer, values)
    return straight, run_steps(model, optimizer, "video")


def test_a_tower_without_gradients_in_some_steps_resumes_exactly(ranks, tmp_path):
    straight, resumed = ranks[1].run(text_between_videos, tmp_path / "state")[0]
    assert all(torch.equal(value, resumed[name]) for name, value in straight.items())


def test_run_state_of_an_earlier_version_loads(run, release):
    """Version 0.1 named the skipped samples `left_out`, and wrote no hashes."""
    folder = run / "checkpoints" / "step-00000001"
    state = json.loads((folder / "state.json").read_text())
    assert state.pop("skipped") == {}
    (folder / "state.json").write_text(json.dumps({**state, "left_out": {"q": "missing"}}))
    (folder / "files.json").unlink()
    with Training(make_recipe(run, release, "steps=2")) as training:
        assert training.step == 1
        assert training.skipped == {"q": "missing"}
        saved = json.loads((training.save() / "state.json").read_text())
    assert saved["skipped"] == {"q": "missing"}


def test_a_forward_pass_before_a_save_changes_nothing(alone, release, tmp_path):
    def run(folder: str, forward: bool) -> dict[str, torch.Tensor]:
        recipe = make_recipe(tmp_path / folder, release, "steps=2", "precision=bfloat16")
        with Training(recipe) as training:
            next(iter(training))
            if forward:
                with torch.no_grad():
                    training.model(next(training.feed.next_step(2).rank_inputs()))
            training.save()
        return moments_after_resume(recipe)

    expected, found = run("plain", forward=False), run("forward", forward=True)
    assert all(torch.equal(value, expected[name]) for name, value in found.items())


def test_a_checkpoint_loads_on_any_number_of_ranks(ranks, release, tmp_path):
    recipe = make_recipe(tmp_path, release, "steps=1")
    ranks[2].run(curve, recipe)
    two = ranks[2].run(moments_after_resume, recipe)[0]
    one = ranks[1].run(moments_after_resume, recipe)[0]
    assert two.keys() == one.keys()
    assert all(torch.equal(two[name], one[name]) for name in one)
    assert any(value.abs().max() > 0 for name, value in one.items() if name.endswith("exp_avg"))
