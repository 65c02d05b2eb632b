"""Reinforcement-learning runs of a tiny model: what they record, and that ranks, stops and resumes change nothing."""

import json
import logging
import os
import re
import shlex
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from random import Random

import pytest
import torch

import trainer_plugin
from schemas.arrow import rows_from_parquet
from schemas.config import Media
from schemas.errors import BadInput
from schemas.settings import ConfigError
from tests.trainer_plugin import runs
from tests.trainer_plugin.runs import whole_parameters
from tests.trainer_plugin.support import numbered_film, release_of
from trainer_plugin.atomic_files import FullDisk
from trainer_plugin.data.packing import order_key
from trainer_plugin.grpo import GrpoTraining, train
from trainer_plugin.rl.alarms import TrainingAlarm
from trainer_plugin.rl.metrics import GrpoMetrics
from trainer_plugin.rl.recipe import GrpoRecipe, load_grpo_recipe
from trainer_plugin.rl.rewards.base import load_reward
from trainer_plugin.rl.rollout_table import RolloutRow, RolloutStatus
from trainer_plugin.rl.video_cache import VideoCache
from trainer_plugin.types import VideoClip

SETTINGS = (
    "videos.split=sft",
    "videos.workers=0",
    "videos.frames.max_frames=4",
    "videos.frames.max_video_tokens=24",
    "rollout={prompts: 2, responses: 3, max_tokens: 8, batch_requests: 2, mask_truncated: false}",
    "rewards=[{reward: letters}, {reward: format, weight: 0.5}]",
    "row_tokens=512",
    "evaluation=null",
    "export=none",
    "cache.host_gib=0.1",
    "resume_changes=[steps]",
)


LORA = "trained={language_model: false, projector: false, lora: {rank: 2}}"


def make_recipe(out: Path, url: str, *settings: str) -> GrpoRecipe:
    """The demo recipe with few and short responses; `settings` override it."""
    return load_grpo_recipe("demo", [*SETTINGS, f"out={out}", f"videos.release={url}", *settings])


def run(recipe: GrpoRecipe, stop_after: int | None = None) -> tuple[list[GrpoMetrics], dict[str, torch.Tensor]]:
    """Run a recipe. Returns the metrics of its steps and the parameters at the end.

    Args:
        stop_after: save after this step, and end without another one.
    """
    found = []
    with GrpoTraining(recipe) as training:
        for metrics in training:
            found.append(metrics)
            if metrics.step == stop_after:
                training.save()
                break
        return found, whole_parameters(training)


def test_a_run_logs_at_its_start_which_engine_is_faster(alone, release, tmp_path, caplog):
    recipe = make_recipe(tmp_path, release, "rollout.engine=shared_prefix")
    with caplog.at_level(logging.INFO), GrpoTraining(recipe):
        pass
    assert f"prompts have up to {recipe.prompt_tokens} tokens" in caplog.text


def curve(recipe: GrpoRecipe) -> list[tuple[float, float, float]]:
    """Mean reward, loss and gradient norm of each step."""
    return [(metrics.reward_mean, metrics.loss, metrics.grad_norm) for metrics in run(recipe)[0]]


def rollouts(out: Path, step: int) -> list[RolloutRow]:
    path = out / "rollouts" / f"step-{step:06d}.parquet"
    return rows_from_parquet(path.read_bytes(), RolloutRow, str(path))


def write_reward(folder: Path, body: str) -> str:
    """Write a reward and return its path for the recipe."""
    folder.mkdir(exist_ok=True)
    (folder / "mine.py").write_text(f"def mine(completions, question_id, **_):\n    {body}\n")
    return f"{folder}/mine.py:mine"


def test_every_step_and_every_response_is_recorded(alone, release, tmp_path):
    found, _ = run(make_recipe(tmp_path, release, "steps=3"))
    recorded = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in recorded] == [1, 2, 3]
    for metrics in found:
        rows = rollouts(tmp_path, metrics.step)
        assert len(rows) == metrics.responses.total == 3 * metrics.groups.total >= 6
        assert {row.number for row in rows} == {0, 1, 2}
        assert [row.rewards[0].name for row in rows] == ["letters"] * len(rows)
        letters = [sum("a" <= each <= "z" for each in row.response) / max(1, len(row.response)) for row in rows]
        assert [row.rewards[0].value for row in rows] == pytest.approx(letters)
        assert metrics.reward_mean == pytest.approx(sum(row.reward for row in rows) / len(rows))
        assert all((row.mismatch_k3 or 0) < 1e-6 for row in rows)  # the sampler is the model itself
        assert metrics.policy["ratio_max"] == metrics.policy["ratio_min"] == 1
        assert metrics.mismatch["k3"] < 1e-6
    assert found[-1].line().startswith("step 3 of 3  reward ")


def test_the_reward_rises(alone, release, tmp_path):
    settings = ("steps=14", "rollout.prompts=4", "rollout.responses=8", "rewards=[{reward: letters}]")
    found, _ = run(make_recipe(tmp_path, release, *settings))
    rewards = [metrics.reward_mean for metrics in found]
    assert sum(rewards[-3:]) > 1.5 * sum(rewards[:3])


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param((), id="dapo"),
        pytest.param(
            ("update={minibatches: 2, passes: 2}", "objective.beta=0.1", "correction=null", "row_tokens=200"),
            id="several updates in chunks",
        ),
        pytest.param(("trained.vision_tower=true", "trained.projector=true"), id="trainable tower"),
    ],
)
def test_the_curve_does_not_depend_on_ranks(ranks, release, tmp_path, settings):
    one = ranks[1].run(curve, make_recipe(tmp_path / "one", release, "steps=2", *settings))[0]
    for world, sp in ((2, 2), (3, 1)):
        recipe = make_recipe(tmp_path / f"{world}-{sp}", release, "steps=2", f"parallel.sp={sp}", *settings)
        found = ranks[world].run(curve, recipe)
        for step, expected in zip(found[0], one, strict=True):
            assert step == pytest.approx(expected, rel=1e-3, abs=1e-5)
        assert all(other == found[0] for other in found)


def test_a_question_that_occurs_twice_in_a_step_has_other_responses(alone, tmp_path):
    url = release_of(tmp_path, [numbered_film(tmp_path, "film", 1.0)], questions=1)
    run(make_recipe(tmp_path / "run", url, "steps=1", "rollout.max_rounds=1"))
    rows = rollouts(tmp_path / "run", 1)
    assert len({row.question_id for row in rows}) == 1 and len(rows) == 6
    assert len({row.response for row in rows}) > 3


def test_a_run_resumes_bit_by_bit(alone, release, tmp_path):
    settings = ("steps=5", "optimizer.schedule=cosine", "rollout.max_rounds=2")
    straight = make_recipe(tmp_path / "straight", release, *settings)
    halves = make_recipe(tmp_path / "halves", release, *settings, "videos.workers=1")
    _, expected = run(straight)
    run(halves, stop_after=2)
    (tmp_path / "halves/rollouts/step-000004.parquet").write_bytes(b"of a step after the checkpoint")
    _, found = run(halves)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    for step in range(1, 6):
        assert rollouts(tmp_path / "halves", step) == rollouts(tmp_path / "straight", step)


def test_runs_that_are_killed_at_random_moments_end_like_one_that_is_not(ranks, release, tmp_path):
    settings = ("steps=8", "parallel.sp=2", "checkpoints.every_steps=2", "rewards=[{reward: letters}]")
    expected = ranks[2].run(curve, make_recipe(tmp_path / "whole", release, *settings))[0]
    recipe = make_recipe(tmp_path / "killed", release, *settings)
    random, file = Random(1), tmp_path / "killed/metrics.jsonl"
    for after in (1, 5):
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(ranks[2].outcomes, curve, recipe)
            while not file.exists() or len(file.read_text().splitlines()) < after:
                assert not running.done(), running.result()
                time.sleep(0.02)
            time.sleep(random.random() / 5)
            for process in ranks[2].processes:
                process.kill()
            running.result()
    ranks[2].run(curve, recipe)
    recorded = [json.loads(line) for line in file.read_text().splitlines()]
    assert [row["step"] for row in recorded] == list(range(1, 9))
    found = [(row["reward_mean"], row["loss"], row["grad_norm"]) for row in recorded]
    assert found == [tuple(each) for each in expected]


def train_alone(recipe: GrpoRecipe) -> int:
    return train(recipe)


def test_a_signal_to_one_rank_saves_and_ends_all(ranks, release, tmp_path):
    recipe = make_recipe(tmp_path, release, "steps=100000", "parallel.sp=2")
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(ranks[2].run, train_alone, recipe)
        while not (tmp_path / "metrics.jsonl").exists():
            assert not running.done(), running.result()
            time.sleep(0.05)
        os.kill(ranks[2].processes[1].pid, signal.SIGTERM)
        assert running.result() == [signal.SIGTERM, signal.SIGTERM]
    done = len((tmp_path / "metrics.jsonl").read_text().splitlines())
    assert (tmp_path / "checkpoints/latest").read_text() == f"step-{done:08d}"


def test_a_rank_that_dies_ends_the_others(ranks, release, tmp_path):
    recipe = make_recipe(tmp_path, release, "steps=100000", "parallel.sp=2")
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(ranks[2].outcomes, train_alone, recipe)
        while not (tmp_path / "metrics.jsonl").exists():
            assert not running.done(), running.result()
            time.sleep(0.05)
        ranks[2].processes[1].kill()
        errors, values = running.result()
    assert not values and "gloo" in errors[0]  # `command.run` reports it as a rank that has ended


def test_a_full_disk_ends_the_run_and_a_resume_repeats_the_step(alone, release, small_disk):
    recipe = make_recipe(small_disk / "run", release, "steps=2", "checkpoints.every_steps=1", LORA)
    filler = small_disk / "filler"
    with GrpoTraining(recipe) as training, pytest.raises(FullDisk) as full:
        for metrics in training:
            if metrics.step == 1:
                training.save()
                free = os.statvfs(small_disk)
                filler.write_bytes(bytes(free.f_bavail * free.f_frsize))
    assert f"the disk of {small_disk / 'run'}" in str(full.value)
    filler.unlink()
    [metrics], _ = run(recipe)
    assert metrics.step == 2
    assert {row.step for row in rollouts(small_disk / "run", 2)} == {2}


def test_the_first_update_has_no_kl_to_the_reference(alone, release, tmp_path):
    for name, settings in (("whole", ()), ("adapters", (LORA,))):
        [metrics], _ = run(make_recipe(tmp_path / name, release, "steps=1", "objective.beta=0.1", *settings))
        assert metrics.policy["kl_reference_k3"] == 0


def test_features_other_than_those_of_the_sampling_end_the_run(alone, release, tmp_path):
    """The temperature is low, because a model of random weights depends little on what it sees."""
    reward = write_reward(tmp_path / "rewards", "return [float(index) for index in range(len(completions))]")
    settings = (
        "steps=4",
        f"rewards=[{{reward: '{reward}'}}]",
        "rollout.temperature=0.01",
        "optimizer.learning_rate=1e-9",
        "alarms.mismatch_k3=0.001",
    )
    found, _ = run(make_recipe(tmp_path / "equal", release, *settings))
    assert len(found) == 4 and all(metrics.mismatch["k3"] < 1e-6 for metrics in found)
    for name, change in (("zeros", torch.zeros_like), ("reversed", partial(torch.flip, dims=(0,)))):
        with GrpoTraining(make_recipe(tmp_path / name, release, *settings)) as training:
            training._updates.read = partial(read_and_change, training.cache, change)
            with pytest.raises(TrainingAlarm, match=r"^alarm mismatch: .* for 3 steps .* get the same frames"):
                list(training)
        assert len((tmp_path / name / "metrics.jsonl").read_text().splitlines()) == 3


def read_and_change(cache: VideoCache, change: Callable, clip: VideoClip, first: int, end: int) -> torch.Tensor:
    return change(cache.read(clip, first, end))


def test_a_video_that_is_gone_or_damaged_is_skipped_and_named(alone, tmp_path):
    films = [numbered_film(tmp_path, name, length) for name, length in (("good", 1.0), ("gone", 1.2), ("damaged", 1.4))]
    url = release_of(tmp_path, films, media=Media.NONE)
    Path(films[1].uri).unlink()
    Path(films[2].uri).write_bytes(Path(films[2].uri).read_bytes()[:2000])
    settings = (f"videos.media={tmp_path}", "steps=3", "videos.frames.max_frames=8")
    with GrpoTraining(make_recipe(tmp_path / "run", url, *settings)) as training:
        found = list(training)
        assert len(training.skipped) == 4
    assert sum(found[-1].skipped.values()) == 4
    assert {row.video_id for step in (1, 2, 3) for row in rollouts(tmp_path / "run", step)} == {"good"}

    Path(films[0].uri).unlink()
    with (
        pytest.raises(BadInput, match=r"not one of the 6 chosen samples can be used: .*; check the release"),
        GrpoTraining(make_recipe(tmp_path / "none", url, *settings)) as training,
    ):
        list(training)


@pytest.mark.parametrize("problem", ["no usable prompt", "no video"])
def test_a_run_whose_last_sample_is_skipped_ends_with_all_of_its_epochs_done(alone, tmp_path, problem):
    films = [numbered_film(tmp_path, name, length) for name, length in (("first", 1.0), ("last", 1.2))]
    text = "Is it <|im_end|>?" if problem == "no usable prompt" else "What?"
    url = release_of(tmp_path, films, media=Media.NONE, problem=text)  # q0000, q0001, q0010 and the open q0011
    if problem == "no video":
        Path(films[1].uri).unlink()
    keys = ("q0000", "q0001", "q0010", "q0011")
    seed = next(seed for seed in range(99) if max(keys, key=partial(order_key, seed, 0)) == "q0011")
    limits = (
        "rollout={prompts: 1, responses: 2, max_tokens: 4, drop_without_signal: false}",
        f"videos.media={tmp_path}",
    )
    recipe = make_recipe(tmp_path / "run", url, *limits, f"seed={seed}", "steps=null", "epochs=1")
    found, _ = run(recipe)
    assert len(found) == 2 and sum(found[-1].skipped.values()) == 2
    assert found[0].share_done < 1 and found[-1].share_done == 1 and found[-1].seconds_left == 0
    assert found[-1].line().startswith("step 2 (100%)")


def test_groups_without_signal_are_replaced_for_a_few_rounds(alone, release, tmp_path):
    # Only one question has a signal.
    body = 'return [float(index) if key == "{}" else 1.0 for index, key in enumerate(question_id)]'
    with GrpoTraining(make_recipe(tmp_path / "keys", release, "steps=1")) as training:
        key = training.dataset.key(0)
    reward = write_reward(tmp_path / "rewards", body.format(key))
    settings = ("steps=1", "rollout.max_rounds=4", "rollout.prompts=2", f"rewards=[{{reward: '{reward}'}}]")
    [metrics], _ = run(make_recipe(tmp_path / "run", release, *settings))
    rows = rollouts(tmp_path / "run", 1)
    assert {row.question_id for row in rows if row.status is RolloutStatus.KEPT} == {key}
    assert all(row.status is RolloutStatus.NO_SIGNAL for row in rows if row.question_id != key)
    assert metrics.groups.rounds > 1 and metrics.groups.kept >= 1
    assert metrics.groups.total > 2


def test_the_videos_of_dropped_groups_need_no_room(alone, release, tmp_path):
    """The cache has room for two clips of at most 24 tokens of 64 float32, and the rounds show more."""
    reward = write_reward(tmp_path / "rewards", "return [1.0 for _ in completions]")
    room = f"cache.host_gib={2 * 24 * 64 * 4 / 2**30}"
    settings = ("steps=1", "rollout.max_rounds=4", room, f"rewards=[{{reward: '{reward}'}}]")
    run(make_recipe(tmp_path / "run", release, *settings))
    assert len({row.video_id for row in rollouts(tmp_path / "run", 1)}) > 2


def test_a_run_without_any_signal_changes_nothing_and_ends_with_an_alarm(ranks, release, tmp_path):
    reward = write_reward(tmp_path / "rewards", "return [1.0 for _ in completions]")
    settings = ("steps=20", "alarms.no_signal_steps=3", f"rewards=[{{reward: '{reward}'}}]")
    for found, moved in ranks[2].run(run_to_alarm, make_recipe(tmp_path / "run", release, *settings)):
        assert found.startswith("alarm no signal: no group counts in the loss, for 3 steps")
        assert found.endswith("null switches it off; there is no checkpoint yet")
        assert not moved
    assert len((tmp_path / "run/metrics.jsonl").read_text().splitlines()) == 3


def run_to_alarm(recipe: GrpoRecipe) -> tuple[str, bool]:
    """The message of the alarm, and whether a parameter has changed."""
    with GrpoTraining(recipe) as training:
        before = whole_parameters(training)
        with pytest.raises(TrainingAlarm) as raised:
            list(training)
        after = whole_parameters(training)
    return str(raised.value), any(not torch.equal(after[name], before[name]) for name in before)


def test_a_step_whose_responses_are_all_masked_records_no_measurement(alone, release, tmp_path):
    body = "return [float(index) for index in range(len(completions))]"
    reward = write_reward(tmp_path / "rewards", body)
    limit = "rollout={prompts: 2, responses: 2, max_tokens: 2}"
    settings = ("steps=1", "correction=null", limit, "rollout.temperature=100", f"rewards=[{{reward: '{reward}'}}]")
    [metrics], _ = run(make_recipe(tmp_path / "run", release, *settings))
    rows = rollouts(tmp_path / "run", 1)
    assert {row.status for row in rows} == {RolloutStatus.TRUNCATED}
    assert {(row.mismatch_k1, row.mismatch_k3, row.entropy) for row in rows} == {(None, None, None)}
    assert metrics.loss is None and metrics.mismatch == {}


def test_a_reward_that_fails_costs_its_own_response_alone(alone, release, tmp_path):
    body = "return [ValueError('no') if index == 1 else float(index) for index in range(len(completions))]"
    reward = write_reward(tmp_path / "rewards", body)
    [metrics], _ = run(make_recipe(tmp_path / "run", release, "steps=1", f"rewards=[{{reward: '{reward}'}}]"))
    rows = rollouts(tmp_path / "run", 1)
    assert [row.status for row in rows].count(RolloutStatus.FAILED) == 1
    assert rows[1].reward is None and rows[0].reward == 0
    assert metrics.loss is not None


def test_memory_is_flat(alone, tmp_path):
    films = [numbered_film(tmp_path, f"film{number}", 1 + number / 30) for number in range(20)]
    url = release_of(tmp_path, films, questions=1)
    settings = ("steps=50", "rollout.max_tokens=2", "alarms={no_signal_steps: null, entropy: null}")
    sizes = []
    with GrpoTraining(make_recipe(tmp_path / "run", url, *settings)) as training:
        for _ in training:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            sizes.append(pages * os.sysconf("SC_PAGE_SIZE"))
    assert sizes[-1] - sizes[9] < 32 << 20


def test_another_run_in_the_same_folder_is_refused(alone, release, tmp_path):
    run(make_recipe(tmp_path / "run", release, "steps=1"))
    with pytest.raises(BadInput, match=r"other settings: .*rollout.responses is 3, not 4.*resume_changes"):
        GrpoTraining(make_recipe(tmp_path / "run", release, "rollout.responses=4"))
    with pytest.raises(BadInput, match=r"began with other data: .*videos.frames"):
        GrpoTraining(make_recipe(tmp_path / "run", release, "videos.frames.max_frames=6"))
    with pytest.raises(BadInput, match=r"began with other data: prompts.curriculum is 'none', not 'easy_first'"):
        GrpoTraining(make_recipe(tmp_path / "run", release, "prompts.curriculum=easy_first"))


def test_a_checkpoint_of_a_supervised_run_is_refused(alone, release, tmp_path):
    recipe = make_recipe(tmp_path, release, "steps=2")
    model = {"model": recipe.model, "trained": recipe.trained}
    supervised = runs.make_recipe(tmp_path, release, "steps=1").model_copy(update=model)
    runs.curve(supervised)
    with pytest.raises(BadInput, match=r"step-00000001 is a checkpoint of a run of sft, not of grpo; give this run"):
        GrpoTraining(recipe)


def test_rewards_that_may_outlast_the_other_ranks_are_refused(alone, release, tmp_path):
    settings = ("reward_timeout_seconds=100", "parallel.timeout_minutes=5")
    with pytest.raises(BadInput, match=r"the rewards may take 1000 s, but ranks wait for each other 300 s"):
        GrpoTraining(make_recipe(tmp_path, release, *settings))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("rollout.max_tokens=512",), "row_tokens 512 has no room for a prompt"),
        (("rewards=[{reward: format, weight: 0}]",), "rewards are empty or all have weight 0"),
        (
            ("rewards=[{reward: letters}, {reward: format}, {reward: letters}]",),
            "rewards name letters twice",
        ),
        (("objective.policy=reinforce", "update.passes=2"), "policy reinforce has no ratio"),
        (("update.minibatches=3",), "update.minibatches 3 is above rollout.prompts 2"),
        (("rollout.responses=1",), "rollout.responses"),
        (("rollout.top_p=0.9",), "rollout.top_p"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        make_recipe(Path("out"), "release", *settings)


def test_the_documented_options_of_a_reward_are_its_arguments():
    text = (Path(__file__).parents[2] / "docs" / "rl.md").read_text()
    [command] = [code for code in re.findall(r"```bash\n(.*?)```", text, re.DOTALL) if "options: {" in code]
    _, _, _, name, *settings = shlex.split(command.replace("\\\n", ""))
    _, length = [load_reward(each.reward, **each.options) for each in load_grpo_recipe(name, settings).rewards]
    assert length.function([[0] * 1536, [0] * 2048]) == [0, -1]


def test_no_second_processor_prepares_videos():
    """Two processors may size frames differently. Only the engine's own, if it has one, expands prompts."""
    call = re.compile(r"\b\w*Processor\w*(?=\(|\.from_)")
    assert call.findall("AutoProcessor.from_pretrained(folder)")
    for path in Path(trainer_plugin.__file__).parent.rglob("*.py"):
        assert not call.findall(path.read_text()), path
