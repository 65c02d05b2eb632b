"""The groups of a step: what belongs to which response, on several ranks."""

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from schemas.errors import BadInput
from tests.trainer_plugin.runs import collect_log
from trainer_plugin.grpo import GrpoTraining
from trainer_plugin.rl.recipe import load_grpo_recipe
from trainer_plugin.rl.rollout import RolloutEngine, RolloutResponse

ODD = """
def even(completions):
    return [ValueError(f"{len(text)} is odd") if len(text) % 2 else float(len(text)) for text in completions]
"""

SETTINGS = (
    "videos.split=sft",
    "videos.workers=0",
    "videos.frames.max_frames=4",
    "videos.frames.max_video_tokens=24",
    "rollout={prompts: 3, responses: 4, max_tokens: 8, max_rounds: 1}",
    "row_tokens=512",
    "evaluation=null",
    "export=none",
    "cache.host_gib=0.1",
)


def collect(url: str, folder: Path) -> tuple[list[tuple], list[str]]:
    """The responses of the groups of a step: text, failure, total and value of the reward; and what is logged."""
    settings = [*SETTINGS, f"out={folder}/out", f"videos.release={url}", f"rewards=[{{reward: {folder}/odd.py:even}}]"]
    with collect_log("trainer_plugin.rl.collect") as messages, GrpoTraining(load_grpo_recipe("demo", settings)) as run:
        groups = run.collector.collect(1)
    responses = [
        response
        for group in groups
        for response in zip(
            group.completions, group.failures, group.totals.tolist(), group.rewards[:, 0].tolist(), strict=True
        )
    ]
    return responses, messages


def test_a_reward_and_its_failure_stay_with_their_response(ranks, release, tmp_path):
    """Two ranks sample three prompts, so that the order of ranks is not that of prompts."""
    (tmp_path / "odd.py").write_text(ODD)
    (responses, messages), (others, silent) = ranks[2].run(collect, release, tmp_path)
    failed = [text for text, failure, _, _ in responses if failure]
    assert len(responses) == 12 and 0 < len(failed) < 12
    for text, failure, total, value in responses:
        if len(text) % 2:
            assert f"{len(text)} is odd" in failure and total != total and value != value
        else:
            assert failure is None and total == value == len(text)
    assert [(text, failure) for text, failure, _, _ in others] == [(text, failure) for text, failure, _, _ in responses]
    [message] = messages
    count = f"step 1: {len(failed)} responses are excluded, because a reward failed, e.g. "
    assert message.startswith(f"{count}reward {tmp_path}/odd.py:even failed for")
    assert silent == []


class ChangedResponses:
    """An engine that changes a field of the last response to each request."""

    def __init__(self, engine: RolloutEngine, field: str, change: Callable[[Tensor], Tensor]) -> None:
        self.engine = engine
        self.field = field
        self.change = change

    def generate(self, *arguments):
        found = self.engine.generate(*arguments)
        for responses in found:
            changed = self.change(getattr(responses[-1], self.field))
            responses[-1] = replace(responses[-1], **{self.field: changed})
        return found


def collect_from_changed_responses(url: str, folder: Path, field: str, change: Callable[[Tensor], Tensor]) -> str:
    """The error of a step whose last rank has an engine that changes a field of responses."""
    settings = [*SETTINGS, f"out={folder}/out", f"videos.release={url}", "rewards=[{reward: letters}]"]
    with GrpoTraining(load_grpo_recipe("demo", settings)) as run:
        if run.parallel.rank == run.parallel.world_size - 1:
            run.collector.engine = ChangedResponses(run.collector.engine, field, change)
        with pytest.raises(BadInput) as raised:
            run.collector.collect(1)
    return str(raised.value)


def replace_id(place: int, ids: Tensor) -> Tensor:
    return torch.cat([ids[:place], ids[place : place + 1] + 1, ids[place + 1 :]])


def cut_ids(ids: Tensor) -> Tensor:
    return ids[:5]


def test_an_engine_that_runs_another_prompt_is_named_on_all_ranks(ranks, release, tmp_path):
    for change, message in (
        (partial(replace_id, 7), r"at index 7 the engine has (\d+) and the trainer (\d+)\. "),
        (cut_ids, r"ran 5 prompt tokens and .* at index 5 the engine has None and the trainer (\d+)\. "),
    ):
        found, other = ranks[2].run(collect_from_changed_responses, release, tmp_path, "prompt_ids", change)
        assert re.search(message, found) and found == other
        assert found.startswith("sample ")


def replace_log_prob(value: float, log_probs: Tensor) -> Tensor:
    return torch.cat([torch.tensor([value]), log_probs[1:]])


def drop_log_prob(log_probs: Tensor) -> Tensor:
    return log_probs[1:]


def test_log_probabilities_that_are_not_finite_are_named_on_all_ranks(ranks, release, tmp_path):
    for value in (float("inf"), float("-inf"), float("nan")):
        change = partial(replace_log_prob, value)
        found, other = ranks[2].run(collect_from_changed_responses, release, tmp_path, "log_probs", change)
        message = rf"sample .*: response 3: the engine's log-probability of token 0 \(id \d+\) is {value}; check"
        assert re.match(message, found) and found == other


def test_log_probabilities_that_are_not_one_for_each_token_are_named_on_all_ranks(ranks, release, tmp_path):
    found, other = ranks[2].run(collect_from_changed_responses, release, tmp_path, "log_probs", drop_log_prob)
    assert re.match(r"sample .*: response 3 has (\d+) tokens and \d+ log-probabilities; the engine must", found)
    assert found == other


class RecordedResponses:
    """An engine that keeps what it returned."""

    def __init__(self, engine: RolloutEngine) -> None:
        self.engine = engine
        self.found: list[list[RolloutResponse]] = []

    def generate(self, *arguments):
        self.found = self.engine.generate(*arguments)
        return self.found


def collect_ids(url: str, folder: Path) -> tuple[list[list[int]], ...]:
    """Of a step: the ids that this rank's engine returned, those that are trained on, and those of the completions."""
    settings = [*SETTINGS, f"out={folder}/out", f"videos.release={url}", "rewards=[{reward: letters}]"]
    with GrpoTraining(load_grpo_recipe("demo", settings)) as run:
        engine = run.collector.engine = RecordedResponses(run.collector.engine)
        groups = run.collector.collect(1)
        sampled = [response.token_ids.tolist() for responses in engine.found for response in responses]
        trained = [ids.tolist() for group in groups for ids in group.prompt_group.responses]
        again = [run.run.tokenizer(text)["input_ids"] for group in groups for text in group.completions]
    return sampled, trained, again


def test_the_sampled_ids_are_trained_on_and_not_those_of_their_text(ranks, release, tmp_path):
    """Random bytes are no text, so that their text has other ids."""
    (first, trained, again), (second, others, _) = ranks[2].run(collect_ids, release, tmp_path)
    assert trained == others == [*first[:4], *second, *first[4:]]  # the second of three prompts is the second rank's
    assert sum(ids != other for ids, other in zip(trained, again, strict=True)) > 6


def collect_expanded_prompts(url: str, folder: Path) -> tuple[str, bool]:
    """The error of a step in which the last rank's prompts are expanded, and whether anything was sampled."""
    settings = [*SETTINGS, f"out={folder}/out", f"videos.release={url}", "rewards=[{reward: letters}]"]
    with GrpoTraining(load_grpo_recipe("demo", settings)) as run:
        engine = run.collector.engine = RecordedResponses(run.collector.engine)
        family = run.dataset.family
        if run.parallel.rank == run.parallel.world_size - 1:
            family.placeholder_ids = lambda: [family.vision_start_id, *[family.video_token_id] * 3]
        with pytest.raises(BadInput) as raised:
            run.collector.collect(1)
    return str(raised.value), bool(engine.found)


def test_a_prompt_that_is_expanded_already_is_refused_before_it_is_sampled(ranks, release, tmp_path):
    (found, sampled), other = ranks[2].run(collect_expanded_prompts, release, tmp_path)
    assert re.match(r"sample \w+: its unexpanded prompt has 3 video tokens for 1 videos; each must have one", found)
    assert (found, sampled) == other and not sampled
