"""Rollout correction: weights, rejection and mismatch by hand, missing log-probs, and equality on ranks."""

import math
from dataclasses import replace

import pytest
import torch

from trainer_plugin.rl.losses import token_log_ratio
from trainer_plugin.rl.rollout_correction import (
    geometric_accepted,
    masked_weights,
    measure_mismatch,
    old_from_rollout,
    truncated_weights,
)

NAN = math.nan
OLD = torch.zeros(5)
ROLLOUT = -torch.tensor([4.0, 0.25, 1.0, 1.5, NAN]).log()  # ratios 4, 1/4, 1, 1.5 and unknown


def test_truncated_weights_bound_the_ratio_from_above():
    assert truncated_weights(OLD, ROLLOUT, cap=2.0).tolist() == pytest.approx([2, 0.25, 1, 1.5, 1])


def test_masked_weights_are_0_outside_the_bounds():
    assert masked_weights(OLD, ROLLOUT, low=0.5, high=2.0).tolist() == pytest.approx([0, 0, 1, 1.5, 1])


def test_weights_of_impossible_tokens_are_finite():
    weights = truncated_weights(torch.tensor([0.0, -500.0]), torch.tensor([-500.0, 0.0]), cap=1e30)
    assert weights.tolist() == pytest.approx([math.exp(20), math.exp(-20)])


def test_weights_have_no_gradient():
    old = OLD.clone().requires_grad_()
    assert not truncated_weights(old, ROLLOUT, cap=2.0).requires_grad
    assert not masked_weights(old, ROLLOUT, low=0.5, high=2.0).requires_grad


def test_a_response_is_accepted_if_its_geometric_mean_ratio_is_within_bounds():
    """Mean log ratios: 0 of ±0.5; 0.02; -0.02; 0.03 / 3 with one unknown token; none."""
    old = torch.tensor([0.5, -0.5, 0.02, -0.02, 0.02, NAN, 0.01]).nan_to_num()
    rollout = torch.tensor([0, 0, 0, 0, 0, NAN, 0])
    response, lengths = torch.tensor([0, 0, 1, 2, 3, 3, 3]), torch.tensor([2, 1, 1, 3, 0])
    accepted = geometric_accepted(old, rollout, response, lengths, low=0.985, high=1.015)
    assert accepted.tolist() == [True, False, False, True, True]
    assert geometric_accepted(old, rollout, response, lengths, low=0.5, high=2.0).all()


def test_ranks_accept_the_same_responses_as_one_rank():
    hypothesis = pytest.importorskip("hypothesis")
    st = hypothesis.strategies

    @hypothesis.settings(max_examples=60, deadline=None)
    @hypothesis.given(st.lists(st.integers(0, 7), min_size=1, max_size=5), st.integers(2, 4), st.integers(0, 999))
    def check(lengths, world, seed):
        draw = torch.Generator().manual_seed(seed)
        response = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
        old, rollout = torch.randn(2, len(response), generator=draw) * 0.02
        rollout[torch.rand(len(response), generator=draw) < 0.1] = NAN
        owner = torch.randint(0, world, (len(response),), generator=draw)
        passed = []

        def record(sums):
            passed.append(sums)
            return sums

        def accept(tokens, reduce):
            part = (tensor[tokens] for tensor in (old, rollout, response))
            return geometric_accepted(*part, torch.tensor(lengths), low=0.99, high=1.01, reduce=reduce)

        for rank in range(world):
            accept(owner == rank, record)
        total = sum(passed)
        for rank in range(world):
            assert torch.equal(accept(owner == rank, lambda _: total), accept(owner >= 0, lambda sums: sums))

    check()


def test_bypass_takes_the_rollouts_log_probs_and_a_ratio_of_1_where_there_is_none():
    log_probs = torch.tensor([-1.0, -2.0], requires_grad=True)
    old = old_from_rollout(torch.tensor([-1.5, NAN]), log_probs)
    assert old.tolist() == [-1.5, -2] and not old.requires_grad
    assert token_log_ratio(log_probs, old).tolist() == [0.5, 0]


def test_mismatch_by_hand():
    """Ratios 2 and 1/2 at positions 0 and 5, one token without log-prob at 4, one that is not kept."""
    old, rollout = torch.tensor([math.log(2), 0.0, -math.log(2), 9.0]), torch.tensor([0.0, NAN, 0.0, 0.0])
    kept, positions = torch.tensor([True, True, True, False]), torch.tensor([0, 4, 5, 1])
    metrics = measure_mismatch(old, rollout, kept, positions, edges=[4, 100]).metrics()
    ln2 = math.log(2)
    assert metrics == pytest.approx(
        {
            "unscored": 1 / 3,
            "k1": 0,
            "k3": (2 - ln2 - 1 + 0.5 + ln2 - 1) / 2,
            "perplexity_ratio": 1,
            "effective_sample_size": 2.5**2 / (2 * 4.25),
            "unscored@0": 0,
            "k1@0": -ln2,
            "k3@0": 1 - ln2,
            "perplexity_ratio@0": 0.5,
            "effective_sample_size@0": 1,
            "unscored@4": 1 / 2,
            "k1@4": ln2,
            "k3@4": ln2 - 0.5,
            "perplexity_ratio@4": 2,
            "effective_sample_size@4": 1,
        },
        abs=1e-7,
    )


def test_mismatch_is_0_for_equal_log_probs_and_empty_without_tokens():
    old = -torch.rand(20, generator=torch.Generator().manual_seed(0))
    kept, positions = torch.ones(20, dtype=torch.bool), torch.arange(20)
    expected = {"unscored": 0, "k1": 0, "k3": 0, "perplexity_ratio": 1, "effective_sample_size": 1}
    assert measure_mismatch(old, old.clone(), kept, positions).metrics() == expected
    assert measure_mismatch(old, old, ~kept, positions).metrics() == {}
    assert measure_mismatch(old[:0], old[:0], kept[:0], positions[:0], [3]).metrics() == {}
    assert measure_mismatch(old, old * NAN, kept, positions).metrics() == {"unscored": 1}


def test_mismatch_of_ranks_adds_up():
    draw = torch.Generator().manual_seed(1)
    old, rollout = -torch.rand(2, 60, generator=draw)
    kept, positions, first = torch.rand(60, generator=draw) < 0.8, torch.arange(60) % 20, torch.arange(60) % 3 == 0
    whole = measure_mismatch(old, rollout, kept, positions, [5, 10])
    parts = [measure_mismatch(old[s], rollout[s], kept[s], positions[s], [5, 10]) for s in (first, ~first)]
    reduced = replace(whole, sums=parts[0].sums + parts[1].sums)
    assert reduced.metrics() == pytest.approx(whole.metrics())
    assert {"k3@0", "k3@5", "k3@10"} <= whole.metrics().keys()


ONE = torch.zeros(1)
FLAG = torch.tensor([True])
INDEX = torch.tensor([0])


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: truncated_weights(ONE, ONE, cap=0.5), "cap is 0.5"),
        (lambda: truncated_weights(ONE, torch.zeros(2), cap=2.0), "rollout has 2 tokens, old 1"),
        (lambda: truncated_weights(ONE * NAN, ONE, cap=2.0), r"old\[0\] of 1 tokens is nan"),
        (lambda: truncated_weights(ONE, ONE - math.inf, cap=2.0), r"rollout\[0\] of 1 tokens is -inf"),
        (lambda: masked_weights(ONE, ONE, low=0.0, high=2.0), "low is 0.0"),
        (lambda: masked_weights(ONE, ONE, low=0.5, high=0.9), "high 0.9"),
        (lambda: geometric_accepted(ONE, ONE, INDEX, INDEX, low=0.9, high=1.1), "response 0 has 1 tokens"),
        (lambda: geometric_accepted(ONE, ONE, INDEX, INDEX + 1, low=1.01, high=1.1), "low is 1.01"),
        (lambda: old_from_rollout(ONE, ONE * NAN), r"log_probs\[0\] of 1 tokens is nan"),
        (lambda: measure_mismatch(ONE, ONE, ONE, INDEX), "kept is torch.float32"),
        (lambda: measure_mismatch(ONE, ONE, FLAG, torch.tensor([0, 1])), "positions is torch.int64 of shape"),
        (lambda: measure_mismatch(ONE, ONE, FLAG, INDEX, [4, 2]), r"edges are \[4, 2\]"),
    ],
)
def test_errors_name_what_is_wrong_and_the_value(call, message):
    with pytest.raises(ValueError, match=message):
        call()
