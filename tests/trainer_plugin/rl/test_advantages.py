"""Advantages: numbers worked by hand, failed rewards, groups without signal, and equality on ranks."""

import math

import pytest
import torch
from torch import Tensor

from trainer_plugin.rl.advantages import (
    Advantages,
    Estimator,
    batch_sums,
    combine_rewards,
    compute_advantages,
    group_advantages,
    groups_without_signal,
    leave_one_out_advantages,
    normalize_then_sum,
    scale_by_batch,
    whiten,
)

NAN = math.nan
REWARDS = torch.tensor([1.0, 0.0, 0.0, 1.0, NAN, 3.0, 5.0])
SIZES = torch.tensor([4, 3])
KEPT = [True, True, True, True, False, True, True]


def test_grpo_divides_by_the_sample_deviation_of_the_group():
    """Group 1: mean 1/2, squared deviations 4 x 1/4, sample variance 1/3. Group 2: 3 and 5 are known."""
    values, kept = group_advantages(REWARDS, SIZES, epsilon=1e-4)
    first, second = 0.5 / (math.sqrt(1 / 3) + 1e-4), 1 / (math.sqrt(2) + 1e-4)
    assert values.tolist() == pytest.approx([first, -first, -first, first, 0, -second, second])
    assert kept.tolist() == KEPT and values.dtype == torch.float32


def test_dr_grpo_subtracts_the_mean_only():
    values, kept = group_advantages(REWARDS, SIZES, scale="none")
    assert values.tolist() == [0.5, -0.5, -0.5, 0.5, 0, -1, 1] and kept.tolist() == KEPT


def test_rloo_subtracts_the_mean_of_the_others():
    values, kept = leave_one_out_advantages(REWARDS, SIZES)
    assert values.tolist() == pytest.approx([2 / 3, -2 / 3, -2 / 3, 2 / 3, 0, -2, 2]) and kept.tolist() == KEPT


def test_scaling_by_the_batch_uses_the_rewards_deviation():
    """Known rewards 1 0 0 1 3 5: mean 10/6, sum of squares 36, sample variance (36 - 100/6) / 5."""
    sums = batch_sums(REWARDS, ~REWARDS.isnan())
    assert sums.tolist() == [6, 10, 36]
    deviation = math.sqrt((36 - 100 / 6) / 5) + 1e-4
    values, _ = scale_by_batch(group_advantages(REWARDS, SIZES, scale="none"), sums)
    assert values.tolist() == pytest.approx([each / deviation for each in (0.5, -0.5, -0.5, 0.5, 0, -1, 1)])


def test_reinforce_plus_plus_baseline_whitens_over_tokens():
    """r - mean is ±1/2 with 1 and 3 tokens: mean -1/4, squares 4 x 1/4, sample variance (1 - 4/16) / 3 = 1/4."""
    baseline = group_advantages(torch.tensor([1.0, 0.0]), torch.tensor([2]), scale="none")
    sums = batch_sums(*baseline, lengths=torch.tensor([1, 3]))
    assert sums.tolist() == [4, -1, 1]
    assert whiten(baseline, sums, epsilon=1e-8).values.tolist() == pytest.approx([1.5, -0.5])


def test_sum_then_normalize_ignores_rewards_that_do_not_apply():
    rewards = torch.tensor([[1.0, 0.5], [NAN, 0.5], [0.0, NAN], [NAN, NAN]])
    combined = combine_rewards(rewards, torch.tensor([1.0, 2.0]))
    assert combined[:3].tolist() == [2, 1, 0] and combined[3].isnan()
    values, kept = group_advantages(combined, torch.tensor([4]), scale="none")
    assert values.tolist() == [1, 0, -1, 0] and kept.tolist() == [True, True, True, False]


@pytest.mark.parametrize("estimator", Estimator)
def test_a_measured_reward_without_weight_is_no_reward(estimator):
    """The second response has only such a one. Counted as 0 it would be the worst of its group."""
    rewards = torch.tensor([[1.0, 1.0], [NAN, 1.0], [3.0, 1.0]])
    weights, sizes, lengths = torch.tensor([1.0, 0.0]), torch.tensor([3]), torch.tensor([2, 2, 2])
    values, kept = compute_advantages(estimator, rewards, weights, sizes, lengths)
    assert kept.tolist() == [True, False, True] and values[1] == 0 and values[0] == -values[2] < 0


def test_gdpo_normalizes_each_reward_in_its_group_then_the_sum_over_the_batch():
    """Rewards whose sums are equal keep a signal: (1, 0), (0, 1), (1, 1) of weights 1 and 2."""
    rewards, sizes = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), torch.tensor([3])
    half = (1 / 3) / (math.sqrt(1 / 3) + 1e-4)
    sums = normalize_then_sum(rewards, torch.tensor([1.0, 2.0]), sizes)
    by_hand = [half - 4 * half, -2 * half + 2 * half, half + 2 * half]
    assert sums.values.tolist() == pytest.approx(by_hand, rel=1e-6, abs=1e-7)
    deviation = math.sqrt(sum(each**2 for each in by_hand) / 2) + 1e-4
    assert whiten(sums, batch_sums(*sums)).values.tolist() == pytest.approx(
        [x / deviation for x in by_hand], rel=1e-6, abs=1e-7
    )


def test_gdpo_counts_a_missing_reward_as_0_and_drops_a_response_without_any():
    rewards = torch.tensor([[1.0, NAN], [0.0, 1.0], [NAN, NAN]])
    values, kept = normalize_then_sum(rewards, torch.tensor([1.0, 1.0]), torch.tensor([3]))
    half = 0.5 / (math.sqrt(0.5) + 1e-4)
    assert values.tolist() == pytest.approx([half, -half, 0]) and kept.tolist() == [True, True, False]
    whitened, kept = whiten(Advantages(values + 1, kept), batch_sums(values + 1, kept))
    assert whitened[2] == 0 and kept.tolist() == [True, True, False]


@pytest.mark.parametrize("function", [group_advantages, leave_one_out_advantages])
def test_a_group_of_one_or_with_one_known_reward_has_advantage_0(function):
    values, kept = function(torch.tensor([7.0, NAN, 3.0, NAN]), torch.tensor([1, 2, 1]))
    assert values.tolist() == [0, 0, 0, 0] and kept.tolist() == [True, False, True, False]


@pytest.mark.parametrize("reward", [0.1, 0.7, 1 / 3, 1e4 + 0.1])
def test_equal_rewards_have_advantages_of_exactly_0(reward):
    """Their mean is not exactly the reward in floating point; divided by verl's epsilon the error would be seen."""
    rewards, sizes = torch.full((7,), reward, dtype=torch.float64), torch.tensor([7])
    assert not group_advantages(rewards, sizes, epsilon=1e-9).values.any()
    assert not leave_one_out_advantages(rewards, sizes).values.any()


def test_groups_without_signal_are_equal_or_known_once():
    rewards = torch.tensor([1.0, 1.0, 1.0, 0.0, 1.0, NAN, 0.5, NAN, NAN, 2.0])
    sizes = torch.tensor([2, 2, 2, 3, 1])
    assert groups_without_signal(rewards, sizes).tolist() == [True, False, True, True, True]
    two = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 1.0]])
    assert groups_without_signal(two, torch.tensor([2, 2])).tolist() == [True, False]


def test_the_deviation_of_a_batch_without_two_values_is_0():
    for rewards in (torch.tensor([2.0]), torch.tensor([2.0, NAN]), torch.tensor([NAN])):
        advantages = Advantages(rewards.nan_to_num(), ~rewards.isnan())
        for function in (whiten, scale_by_batch):
            assert function(advantages, batch_sums(*advantages)).values.isfinite().all()
        assert not whiten(advantages, batch_sums(*advantages)).values.any()


def check_property(check) -> None:
    """Try a property on random groups of rewards, some NaN. Skipped without hypothesis."""
    hypothesis = pytest.importorskip("hypothesis")
    st = hypothesis.strategies
    reward = st.one_of(st.just(NAN), st.sampled_from([0.0, 0.5, 1.0]), st.floats(-10, 10, width=32))
    groups = st.lists(st.lists(reward, min_size=1, max_size=5), min_size=1, max_size=5)

    @hypothesis.settings(max_examples=80, deadline=None)
    @hypothesis.given(groups, st.data())
    def run(groups, data):
        check(groups, data, st)

    run()


def tensors(groups: list[list[float]]) -> tuple[Tensor, Tensor]:
    return torch.tensor([reward for group in groups for reward in group]), torch.tensor([len(g) for g in groups])


def test_groups_do_not_see_each_other():
    def check(groups, data, st):
        for function in (group_advantages, leave_one_out_advantages):
            alone = [function(*tensors([group])) for group in groups]
            joined = function(*tensors(groups))
            assert torch.equal(joined.values, torch.cat([each.values for each in alone]))
            assert torch.equal(joined.kept, torch.cat([each.kept for each in alone]))

    check_property(check)


def test_advantages_sum_to_0_and_follow_the_order_of_rewards():
    def check(groups, data, st):
        group = groups[0]
        order = data.draw(st.permutations(range(len(group))))
        for function in (group_advantages, leave_one_out_advantages):
            values, kept = function(*tensors([group]))
            assert values.sum().item() == pytest.approx(0, abs=1e-4)
            permuted = function(*tensors([[group[at] for at in order]]))
            torch.testing.assert_close(permuted.values, values[list(order)])
            known, ordered = torch.tensor(group)[kept], values[kept]
            higher = known[:, None] > known[None, :]
            assert (ordered[:, None] >= ordered[None, :])[higher].all()

    check_property(check)


def test_a_failed_response_changes_no_other_advantage():
    def check(groups, data, st):
        more = [[*group, NAN] for group in groups]
        kept_places = torch.tensor([place < len(group) for group in groups for place in range(len(group) + 1)])
        for function in (group_advantages, leave_one_out_advantages):
            assert torch.equal(function(*tensors(more)).values[kept_places], function(*tensors(groups)).values)
        rewards, longer = tensors(groups)[0], tensors(more)[0]
        torch.testing.assert_close(batch_sums(longer, ~longer.isnan()), batch_sums(rewards, ~rewards.isnan()))

    check_property(check)


def test_ranks_with_added_sums_agree_with_one_rank():
    def check(groups, data, st):
        cut = data.draw(st.integers(0, len(groups) - 1))
        parts = [tensors(part) for part in (groups[:cut], groups[cut:]) if part]
        centered = [group_advantages(*part, scale="none") for part in parts]
        sums = sum(batch_sums(*each) for each in centered)
        whole = group_advantages(*tensors(groups), scale="none")
        divided = torch.cat([whiten(each, sums).values for each in centered])
        torch.testing.assert_close(divided, whiten(whole, batch_sums(*whole)).values)

    check_property(check)


TWO = torch.tensor([1.0, 0.0])


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: group_advantages(TWO, torch.tensor([3])), r"sizes \[3\] do not divide 2 rewards"),
        (lambda: group_advantages(TWO, torch.tensor([2, 0])), r"sizes \[2, 0\] do not divide"),
        (lambda: group_advantages(TWO[:, None], torch.tensor([2])), r"rewards has shape \(2, 1\)"),
        (lambda: group_advantages(torch.tensor([1.0, math.inf]), torch.tensor([2])), r"rewards\[1\] is inf"),
        (lambda: group_advantages(TWO, torch.tensor([2]), epsilon=0.0), "epsilon is 0.0"),
        (lambda: group_advantages(TWO, torch.tensor([2]), scale="batch"), "scale is 'batch'.*scale_by_batch"),
        (lambda: combine_rewards(TWO, TWO), r"rewards has shape \(2,\)"),
        (lambda: combine_rewards(TWO[:, None], TWO), r"weights \(2,\)"),
        (lambda: combine_rewards(TWO[:, None], torch.tensor([NAN])), "finite weights"),
        (lambda: batch_sums(TWO, TWO[:1] > 0), r"kept has shape \(1,\), values \(2,\)"),
        (lambda: batch_sums(TWO, TWO == TWO, TWO[:1]), r"lengths has shape \(1,\)"),
        (lambda: batch_sums(TWO * NAN, TWO == TWO), r"values\[0\] is nan and kept"),
        (lambda: whiten(Advantages(TWO, TWO == TWO), TWO), "pass batch_sums"),
        (lambda: scale_by_batch(Advantages(TWO, TWO == TWO), torch.ones(3), epsilon=-1), "epsilon is -1"),
    ],
)
def test_errors_name_what_is_wrong_and_the_value(call, message):
    with pytest.raises(ValueError, match=message):
        call()
