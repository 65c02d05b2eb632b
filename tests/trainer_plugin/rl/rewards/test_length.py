"""The length reward equals TRL's soft overlong punishment."""

import pytest

from trainer_plugin.rl.rewards.length import SoftOverlong


def test_the_length_reward_falls_from_zero_to_minus_one():
    responses = [[1] * length for length in (0, 6, 8, 9, 10, 11)]
    assert SoftOverlong(max_length=10, buffer=4)(completion_ids=responses, prompts=[]) == [0, 0, -0.5, -0.75, -1, -1]


def test_the_length_reward_equals_trl():
    rewards = pytest.importorskip("trl.rewards")
    responses = [[1] * length for length in range(40)]
    wanted = rewards.get_soft_overlong_punishment(30, 12)(completion_ids=responses)
    assert SoftOverlong(30, 12)(completion_ids=responses) == pytest.approx(wanted)
