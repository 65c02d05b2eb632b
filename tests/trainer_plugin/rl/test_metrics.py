"""Metrics of a GRPO step from its rollouts: examples, what holds for all rollouts, and where they are written."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from tests.support.properties import given, st
from tests.trainer_plugin.rl.rollouts import make_row, rollout_rows
from trainer_plugin.rl.losses import PolicyMetrics
from trainer_plugin.rl.metrics import GroupCounts, GrpoMetrics
from trainer_plugin.rl.rollout import Finish
from trainer_plugin.rl.rollout_table import RewardValue, RolloutRow, RolloutStatus
from trainer_plugin.training.metrics import MetricsLog

POLICY = {"clip_low": 0.001, "clip_high": 0.004, "kl_old_k3": 0.0004, "kl_reference_k3": 0.0, "entropy": 0.7}


def metrics_of(rows: list[RolloutRow], **changes: Any) -> GrpoMetrics:
    values: dict[str, Any] = {
        "step": 3,
        "updates": [(0.5, 2.0), (-0.1, 4.0)],
        "seconds": 20.0,
        "mismatch": {"k1": 0.0, "k3": 0.0002},
        "policy": POLICY,
        "learning_rate": 1e-6,
        "phases": {"rollout": 12.0, "update": 5.0},
        "memory_bytes": 3 << 30,
        "skipped": {"damaged": 2},
    }
    return GrpoMetrics.of_rollouts(rows, **(values | changes))


def group(question: str, *accuracies: float | None, status=RolloutStatus.KEPT, **fields) -> list[RolloutRow]:
    return [
        make_row(number, question, accuracy=each, status=status, **fields) for number, each in enumerate(accuracies)
    ]


OPEN = {"kind": "open", "category": "plot"}
ROWS = [
    *group("mixed", 1.0, 0.0, 1.0, None),
    *group("right", 1.0, 1.0, status=RolloutStatus.NO_SIGNAL),
    *group("wrong", 0.0, 0.0, status=RolloutStatus.NO_SIGNAL),
    *group("right", 1.0, 1.0, status=RolloutStatus.NO_SIGNAL, round=1),  # the same prompt, as a group of its own
    *group("failed", None, None, status=RolloutStatus.FAILED, round=1, finish=Finish.LENGTH, response=" "),
    *group("open", 0.0, 1.0, round=1, mismatch_k3=0.25, log_prob=-1.0, response_tokens=30, **OPEN),
]


def test_rewards_and_accuracies_are_means_of_known_values():
    found = metrics_of(ROWS)
    assert found.reward_mean == pytest.approx(7 / 11) and found.accuracy == pytest.approx(7 / 11)
    assert found.reward_std == pytest.approx(math.sqrt(7 / 11 * 4 / 11))
    assert found.reward == {"accuracy": pytest.approx(7 / 11)}
    assert found.accuracy_by_kind == found.reward_by_kind == {"choice": pytest.approx(6 / 9), "open": 0.5}
    assert found.accuracy_by_category == found.reward_by_category == {"plot": 0.5, "temporal": pytest.approx(6 / 9)}


def test_groups_are_counted_by_their_answers():
    groups = metrics_of(ROWS).groups
    assert groups.model_dump() == {
        "total": 6, "all_right": 2, "all_wrong": 1, "without_signal": 4, "kept": 2, "rounds": 2
    }  # fmt: skip


def test_lengths_shares_and_speeds():
    found = metrics_of(ROWS)
    assert found.responses.total == 14 and found.responses.max_tokens == 30
    assert found.responses.mean_tokens == 180 / 14
    assert found.responses.truncated == found.responses.empty == 2 / 14 and found.responses.failed == 3 / 14
    assert (found.response_tokens, found.tokens) == (180, 180 + 6 * 100)
    assert (found.response_tokens_per_second, found.tokens_per_second) == (9, 39)
    assert found.entropy == pytest.approx((120 * 0.5 + 60 * 1.0) / 180)
    assert found.mismatch == {"k1": 0.0, "k3": 0.0002, "k3_max": 0.25}
    assert (found.loss, found.grad_norm) == (0.2, 3.0)


def test_a_reward_that_applies_to_no_response_has_no_mean():
    rewards = (RewardValue(name="format", value=0.5), RewardValue(name="judge", value=None))
    assert metrics_of([make_row(rewards=rewards)]).reward == {"format": 0.5}


@given(rows=st.lists(rollout_rows(), max_size=8), data=st.data())
def test_counts_and_shares_fit_each_other(rows, data):
    # Groups of one to three responses.
    groups, numbered = 0, []
    while len(numbered) < len(rows):
        size = min(data.draw(st.integers(1, 3)), len(rows) - len(numbered))
        part = rows[len(numbered) : len(numbered) + size]
        numbered += [
            row.model_copy(update={"number": number, "question_id": f"q{groups}", "prompt_tokens": 7})
            for number, row in enumerate(part)
        ]
        groups += 1
    found = metrics_of(numbered)
    assert found.groups.total == groups and found.responses.total == len(rows)
    assert found.tokens == found.response_tokens + 7 * groups
    assert found.groups.all_right + found.groups.all_wrong <= groups
    assert max(found.groups.without_signal, found.groups.kept) <= groups
    assert set(found.accuracy_by_kind) <= set(found.reward_by_kind) | {str(row.kind) for row in rows}
    assert found.responses.mean_tokens <= found.responses.max_tokens
    assert all(math.isfinite(number) for number in found.numbers().values())
    assert GrpoMetrics.model_validate_json(found.model_dump_json()) == found
    assert found.line().startswith("step 3  ")


def test_a_step_without_rollouts_or_update_has_metrics():
    found = metrics_of([], updates=[], policy={}, mismatch={})
    assert found.reward_mean is found.accuracy is found.entropy is found.loss is found.grad_norm is None
    assert found.groups.total == found.groups.rounds == 0 and found.mismatch == {}
    assert "groups 0 of 0 kept (0 all right, 0 all wrong)  no update" in found.line()


def test_a_line_has_the_main_figures_of_a_step():
    line = metrics_of(ROWS, steps=400, share_done=3 / 400, seconds_left=7800.0).line()
    assert line == (
        "step 3 of 400  reward 0.636 ± 0.481  accuracy 63.6%  groups 2 of 6 kept in 2 rounds (2 all right, 1 all "
        "wrong)  loss 0.2000  grad 3.000  lr 1.00e-06  kl 0.0004  k3 0.0002  clip 0.50%  entropy 0.667  "
        "length 13 (max 30, 14% truncated)  failed 21.4%  "
        "20.0 s (rollout 12.0, update 5.0): 9 response tokens/s, 39/s  memory 3.0 GiB  skipped 2  2 h 10 min left"
    )
    assert metrics_of(ROWS, share_done=0.25).line().startswith("step 3 (25%)  ")


def test_the_documentation_describes_every_metric():
    text = (Path(__file__).parents[3] / "docs" / "rl.md").read_text()
    names = {*GrpoMetrics.model_fields, *PolicyMetrics.NAMES, *GroupCounts.model_fields} - {"step", "reward"}
    assert [name for name in sorted(names) if f"`{name}`" not in text] == []


def test_the_log_of_a_run_writes_them(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = metrics_of(ROWS)
    written = MetricsLog(tmp_path, {})
    written.write(found)
    written.close()
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == found.model_dump(mode="json")
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    for name, value in (
        ("reward/accuracy", 7 / 11),
        ("accuracy_by_category/plot", 0.5),
        ("groups/kept", 2),
        ("policy/clip_high", 0.004),
        ("phases/rollout", 12),
        ("skipped/damaged", 2),
    ):
        [event] = board.Scalars(name)
        assert (event.step, event.value) == (3, pytest.approx(value))
