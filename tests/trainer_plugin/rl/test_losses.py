"""Losses against TRL 1.16's `GRPOTrainer._compute_loss`, against numbers worked by hand, and under division.

TRL's method runs unbound on a stub: its log-probs and entropies are leaf tensors, whose gradients are compared.
"""

import math
from collections import defaultdict
from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from trainer_plugin.rl.advantages import group_advantages
from trainer_plugin.rl.losses import (
    StepCounts,
    check_tokens,
    cispo_terms,
    clipped_terms,
    count_kept,
    entropy_threshold,
    high_entropy_mask,
    identity,
    kept_responses,
    kl_terms,
    policy_metrics,
    reinforce_terms,
    response_means,
    sequence_log_ratio,
    soft_overlong_punishment,
    step_loss,
    token_log_ratio,
    token_terms,
    token_weights,
)

LIMIT = 16  # of a response's length in these tests


@dataclass(frozen=True)
class Step:
    """A step's responses, and its tokens as 1-D tensors."""

    lengths: Tensor
    kept: Tensor
    response: Tensor
    log_probs: Tensor
    entropies: Tensor
    old: Tensor
    reference: Tensor
    weights: Tensor
    advantages: Tensor  # per response

    def select(self, tokens: Tensor) -> "Step":
        """The same responses with some of their tokens: what one rank holds."""
        per_token = ("response", "log_probs", "entropies", "old", "reference", "weights")
        return replace(self, **{name: getattr(self, name)[tokens] for name in per_token})


def random_step(lengths: list[int], kept: list[bool] | None = None, seed: int = 0, dtype=torch.float64) -> Step:
    draw = torch.Generator().manual_seed(seed)
    response = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    n = len(response)

    def normal(scale: float, size: int = n) -> Tensor:
        return scale * torch.randn(size, generator=draw, dtype=dtype)

    log_probs = -normal(1.5).abs()
    return Step(
        lengths=torch.tensor(lengths),
        kept=torch.tensor([True] * len(lengths) if kept is None else kept, dtype=torch.bool),
        response=response,
        log_probs=log_probs,
        entropies=normal(1.0).abs(),
        old=log_probs + normal(0.3),
        reference=log_probs + normal(0.3),
        weights=normal(0.3).exp(),
        advantages=normal(1.0, len(lengths)),
    )


@dataclass(frozen=True)
class Algorithm:
    """One combination of our functions, and TRL's names for it."""

    policy: str = "clipped"
    aggregation: str = "token_mean"
    sequence_ratio: bool = False
    clip_low: float = 0.2
    clip_high: float = 0.28
    ratio_max: float = 1.3
    delta: float | None = None
    kl: str = "k3"
    beta: float = 0.0
    importance: bool = False
    top_entropy: float = 1.0
    entropy_coefficient: float = 0.0

    def loss(self, step: Step, counts: StepCounts | None = None, reduce=identity, threshold=None) -> Tensor:
        counts = counts or count_kept(step.lengths, step.kept)
        advantages = step.advantages[step.response]
        token_ratio = token_log_ratio(step.log_probs, step.old)
        ratio = token_ratio
        if self.sequence_ratio:
            ratio = sequence_log_ratio(step.log_probs, step.old, step.response, step.lengths, reduce)
        if self.policy == "clipped":
            bounds = {"clip_low": self.clip_low, "clip_high": self.clip_high, "delta": self.delta}
            policy = clipped_terms(ratio, advantages, **bounds)
        elif self.policy == "cispo":
            policy = cispo_terms(step.log_probs, ratio, advantages, ratio_min=0.0, ratio_max=self.ratio_max)
        else:
            policy = reinforce_terms(step.log_probs, advantages)
        if self.top_entropy < 1 and threshold is None:
            threshold = entropy_threshold(step.entropies[step.kept[step.response]], self.top_entropy)
        terms = token_terms(
            policy,
            weights=step.weights if self.importance else None,
            mask=high_entropy_mask(step.entropies, threshold) if self.top_entropy < 1 else None,
            kl=kl_terms(self.kl, step.log_probs, step.reference, token_ratio) if self.beta else None,
            beta=self.beta,
            entropies=step.entropies,
            entropy_coefficient=self.entropy_coefficient,
        )
        weights = token_weights(self.aggregation, step.lengths, step.kept, counts, LIMIT)
        return step_loss(terms, step.response, weights)

    def gradients(self, step: Step, **options) -> tuple[Tensor, Tensor, Tensor]:
        """Loss, and gradients of the log-probs and entropies."""
        leaves = step.log_probs.clone().requires_grad_(), step.entropies.clone().requires_grad_()
        loss = self.loss(replace(step, log_probs=leaves[0], entropies=leaves[1]), **options)
        loss.backward()
        return loss.detach(), *(torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves)


# --------------------------------------------------------------------------------------------------------------- TRL


@pytest.fixture(scope="session")
def trainer():
    pytest.importorskip("trl", minversion="1.16.0")
    from trl.trainer.grpo_trainer import GRPOTrainer

    return GRPOTrainer


def run_trl(
    trainer, step: Step, algorithm: Algorithm, loss_type: str, padded: Tensor, micro_batches: int = 1, items: int = 0
):
    """TRL's loss of a step whose tokens stand at the true places of `padded` [B, T]. Returns also its metrics.

    With more micro-batches it is one of them, in an accumulation window of `items` tokens.
    """

    def pad(tokens: Tensor) -> Tensor:
        # Padding holds values that would change the result if they were read.
        return torch.full(padded.shape, -3.0, dtype=tokens.dtype).masked_scatter(padded, tokens)

    log_probs, entropies = pad(step.log_probs).requires_grad_(), pad(step.entropies).requires_grad_()
    stub = SimpleNamespace(
        top_entropy_quantile=algorithm.top_entropy,
        off_policy_mask_threshold=None,
        importance_sampling_level="sequence" if algorithm.sequence_ratio else "token",
        beta=algorithm.beta,
        args=SimpleNamespace(
            delta=algorithm.delta,
            use_bias_correction_kl=algorithm.kl == "k3_ratio",
            steps_per_generation=micro_batches,
        ),
        loss_type=loss_type,
        epsilon_low=algorithm.clip_low,
        epsilon_high=algorithm.ratio_max if loss_type == "cispo" else algorithm.clip_high,
        use_vllm=algorithm.importance,
        vllm_importance_sampling_correction=algorithm.importance,
        aux_loss_enabled=False,
        max_completion_length=LIMIT,
        current_gradient_accumulation_steps=micro_batches,
        model=SimpleNamespace(training=True),
        entropy_coef=algorithm.entropy_coefficient,
        _entropy_bonus_enabled=algorithm.entropy_coefficient != 0,
        use_adaptive_entropy=False,
        _metrics=defaultdict(lambda: defaultdict(list)),
        accelerator=SimpleNamespace(
            gather=lambda tensor: tensor,
            reduce=lambda tensor, reduction: tensor,
            pad_across_processes=lambda tensor, dim, pad_index: tensor,
            num_processes=1,
            sync_gradients=True,
        ),
        _get_per_token_logps_and_entropies=lambda *args, **kwargs: (log_probs, entropies, None),
    )
    stub.get_high_entropy_mask = partial(trainer.get_high_entropy_mask, stub)
    rows, width = padded.shape
    inputs = {
        "prompt_ids": torch.zeros(rows, 1, dtype=torch.int64),
        "prompt_mask": torch.ones(rows, 1, dtype=torch.int64),
        "completion_ids": torch.zeros(rows, width, dtype=torch.int64),
        "completion_mask": padded.long(),
        "advantages": step.advantages,
        "num_items_in_batch": torch.tensor(items) if items else padded.sum(),
        "old_per_token_logps": pad(step.old),
        "ref_per_token_logps": pad(step.reference),
        "importance_sampling_ratio": pad(step.weights),
    }
    loss = trainer._compute_loss(stub, None, inputs)
    loss.backward()
    gradients = [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in (log_probs, entropies)]
    assert all(not gradient[~padded].any() for gradient in gradients)
    return (loss.detach(), *(gradient[padded] for gradient in gradients)), stub._metrics["train"]


def random_padding(seed: int, rows: int = 5, width: int = 12) -> Tensor:
    """[B, T] bool with holes (tools' tokens) and at least one token in each row."""
    padded = torch.rand(rows, width, generator=torch.Generator().manual_seed(seed)) < 0.6
    padded[torch.arange(rows), torch.arange(rows)] = True
    return padded


def assert_equal(ours, theirs, rtol: float = 1e-6) -> None:
    for name, left, right in zip(("loss", "log-probs' gradient", "entropies' gradient"), ours, theirs, strict=True):
        torch.testing.assert_close(
            left, right, rtol=rtol, atol=rtol / 10, msg=lambda text, name=name: f"{name}: {text}"
        )


EVERYTHING = {"kl": "k3_ratio", "beta": 0.1, "importance": True, "top_entropy": 0.4}
TRL = {
    "grpo": ("grpo", Algorithm(aggregation="sequence_mean")),
    "dr_grpo": ("dr_grpo", Algorithm(aggregation="constant")),
    "bnpo": ("bnpo", Algorithm()),
    "dapo": ("dapo", Algorithm()),
    "cispo": ("cispo", Algorithm(policy="cispo")),
    "gspo": ("grpo", Algorithm(aggregation="sequence_mean", sequence_ratio=True, clip_low=0.02, clip_high=0.03)),
    "gspo that never clips": ("grpo", Algorithm(aggregation="sequence_mean", sequence_ratio=True, clip_high=9.0)),
    "luspo": ("luspo", Algorithm(aggregation="sequence_sum_mean", sequence_ratio=True)),
    "delta": ("dapo", Algorithm(delta=1.35)),
    "k3": ("dapo", Algorithm(beta=0.07)),
    "k3 of grpo": ("grpo", Algorithm(aggregation="sequence_mean", beta=0.07)),
    "k3 times ratio": ("dapo", Algorithm(beta=0.07, kl="k3_ratio")),
    "importance weights": ("dapo", Algorithm(importance=True)),
    "high entropy": ("dapo", Algorithm(top_entropy=0.3)),
    "entropy bonus": ("dapo", Algorithm(entropy_coefficient=0.05)),
    "everything": ("dr_grpo", Algorithm("clipped", "constant", delta=1.5, **EVERYTHING)),
    "everything of cispo": ("cispo", Algorithm("cispo", **EVERYTHING)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", TRL)
def test_losses_and_gradients_equal_those_of_trl(trainer, case, dtype):
    loss_type, algorithm = TRL[case]
    for seed in range(4):
        padded = random_padding(seed)
        step = random_step(padded.sum(1).tolist(), seed=seed, dtype=dtype)
        theirs, _ = run_trl(trainer, step, algorithm, loss_type, padded)
        assert_equal(algorithm.gradients(step), theirs)


@pytest.mark.parametrize("case", ["grpo", "dr_grpo", "dapo", "cispo", "gspo", "luspo", "k3 times ratio"])
def test_a_step_equals_the_sum_of_trls_micro_batches(trainer, case):
    loss_type, algorithm = TRL[case]
    padded = random_padding(7, rows=6)
    step = random_step(padded.sum(1).tolist(), seed=7)
    parts = []
    for rows in (torch.arange(6) < 3, torch.arange(6) >= 3):
        part = without(step, ~rows)
        parts.append(run_trl(trainer, part, algorithm, loss_type, padded[rows], 2, int(padded.sum()))[0])
    first, second = parts
    theirs = (first[0] + second[0], *(torch.cat(pair) for pair in zip(first[1:], second[1:], strict=True)))
    assert_equal(algorithm.gradients(step), theirs)


def swapped_advantage(step: Step, counts: StepCounts):
    return replace(step, advantages=step.advantages.flip(0)), counts


def neighbours_token(step: Step, counts: StepCounts):
    response = step.response.clone()
    response[step.lengths[0]] = 0  # the first token of response 1
    return replace(step, response=response, lengths=torch.bincount(response)), counts


def old_and_new_exchanged(step: Step, counts: StepCounts):
    return replace(step, old=2 * step.log_probs - step.old), counts


def one_more_response_in_the_denominator(step: Step, counts: StepCounts):
    return step, StepCounts(counts.responses + 1, counts.tokens + 5)


@pytest.mark.parametrize(
    "mistake", [swapped_advantage, neighbours_token, old_and_new_exchanged, one_more_response_in_the_denominator]
)
@pytest.mark.parametrize("case", ["grpo", "dapo", "gspo", "cispo"])
def test_the_comparison_with_trl_notices_mistakes(trainer, case, mistake):
    loss_type, algorithm = TRL[case]
    padded = random_padding(0)
    step = random_step(padded.sum(1).tolist())
    theirs, _ = run_trl(trainer, step, algorithm, loss_type, padded)
    wrong, counts = mistake(step, count_kept(step.lengths, step.kept))
    with pytest.raises(AssertionError, match="not close"):
        assert_equal(algorithm.gradients(wrong, counts=counts), theirs)


def test_trl_keeps_a_masked_response_in_the_denominator_and_we_do_not(trainer):
    padded = random_padding(1)
    padded[2] = False
    step = random_step(padded.sum(1).tolist())
    algorithm = Algorithm(aggregation="sequence_mean")
    theirs, _ = run_trl(trainer, step, algorithm, "grpo", padded)
    ours = algorithm.gradients(step)
    assert_equal(ours, [5 / 4 * value for value in theirs])


def test_metrics_equal_those_of_trl(trainer):
    padded = random_padding(3)
    step = random_step(padded.sum(1).tolist(), seed=3)
    _, theirs = run_trl(trainer, step, Algorithm(beta=0.1), "dapo", padded)
    ratio, all_tokens = token_log_ratio(step.log_probs, step.old), torch.ones(len(step.response), dtype=torch.bool)
    ours = policy_metrics(
        step.log_probs,
        step.old,
        ratio,
        step.advantages[step.response],
        all_tokens,
        ratio_min=0.8,
        ratio_max=1.28,
        reference=step.reference,
        entropies=step.entropies,
    ).means()
    assert ours["clip_low"] == pytest.approx(theirs["clip_ratio/low_mean"][0]) and ours["clip_low"] > 0
    assert ours["clip_high"] == pytest.approx(theirs["clip_ratio/high_mean"][0]) and ours["clip_high"] > 0
    assert ours["kl_reference_k3"] == pytest.approx(theirs["kl"][0])
    assert ours["entropy"] == pytest.approx(theirs["entropy"][0])


def test_soft_overlong_punishment_equals_trls(trainer):
    from trl.rewards import get_soft_overlong_punishment

    lengths = list(range(0, 130, 3))
    theirs = get_soft_overlong_punishment(max_completion_len=100, soft_punish_cache=20)([[1] * n for n in lengths])
    ours = soft_overlong_punishment(torch.tensor(lengths), max_length=100, buffer=20)
    assert ours.tolist() == pytest.approx(theirs)


# -------------------------------------------------------------------------------------------------- division of a step

ALGORITHMS = {case: algorithm for case, (_, algorithm) in TRL.items()} | {
    "reinforce": Algorithm("reinforce", beta=0.1, kl="k3_unbiased"),
    "k2": Algorithm(aggregation="sequence_mean", beta=0.1, kl="k2"),
}


def check_property(property_of_a_step) -> None:
    """Try a property on random steps. Skipped without hypothesis."""
    hypothesis = pytest.importorskip("hypothesis")
    st = hypothesis.strategies
    responses = st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=1, max_size=6)

    @hypothesis.settings(max_examples=60, deadline=None)
    @hypothesis.given(responses, st.integers(0, 999), st.sampled_from(sorted(ALGORITHMS)), st.data())
    def check(responses, seed, case, data):
        lengths, kept = map(list, zip(*responses, strict=True))
        property_of_a_step(random_step(lengths, kept, seed), ALGORITHMS[case], data, st)

    check()


def without(step: Step, responses: Tensor) -> Step:
    """A step without the responses that are marked."""
    index = (~responses).cumsum(0) - 1
    smaller = step.select(~responses[step.response])
    per_response = {name: getattr(step, name)[~responses] for name in ("lengths", "kept", "advantages")}
    return replace(smaller, response=index[smaller.response], **per_response)


def test_the_order_of_responses_does_not_matter():
    def check(step, algorithm, data, st):
        order = torch.tensor(data.draw(st.permutations(range(len(step.lengths)))))
        place = order.argsort()
        tokens = place[step.response].argsort(stable=True)
        permuted = replace(
            step.select(tokens),
            response=place[step.response][tokens],
            lengths=step.lengths[order],
            kept=step.kept[order],
            advantages=step.advantages[order],
        )
        loss, *gradients = algorithm.gradients(step)
        assert_equal(algorithm.gradients(permuted), (loss, *(each[tokens] for each in gradients)), rtol=1e-9)

    check_property(check)


def run_ranks(algorithm: Algorithm, parts: list[Step], counts: StepCounts, threshold: Tensor | None):
    """Loss and gradients on simulated ranks that share all responses: `reduce` adds what every rank passed to it."""
    passed: list[Tensor] = []

    def record(sums):
        passed.append(sums)
        return sums

    for part in parts:
        algorithm.loss(part, counts=counts, reduce=record, threshold=threshold)
    total = torch.stack(passed).sum(0) if passed else None
    return [algorithm.gradients(part, counts=counts, reduce=lambda _: total, threshold=threshold) for part in parts]


def test_tokens_can_be_divided_among_ranks():
    def check(step, algorithm, data, st):
        world, n = data.draw(st.integers(2, 4)), len(step.response)
        owner = torch.tensor(data.draw(st.lists(st.integers(0, world - 1), min_size=n, max_size=n)), dtype=torch.int64)
        held = [(owner == rank).nonzero()[:, 0] for rank in range(world)]
        threshold = entropy_threshold(step.entropies[step.kept[step.response]], algorithm.top_entropy)
        counts = count_kept(step.lengths, step.kept)
        results = run_ranks(algorithm, [step.select(tokens) for tokens in held], counts, threshold)
        loss = sum(result[0] for result in results)
        gradients = [torch.zeros_like(step.log_probs) for _ in range(2)]
        for tokens, result in zip(held, results, strict=True):
            for whole, part in zip(gradients, result[1:], strict=True):
                whole[tokens] = part
        assert_equal((loss, *gradients), algorithm.gradients(step), rtol=1e-9)

    check_property(check)


def test_responses_can_be_divided_among_rows():
    def check(step, algorithm, data, st):
        second = torch.tensor([data.draw(st.booleans()) for _ in step.lengths])
        threshold = entropy_threshold(step.entropies[step.kept[step.response]], algorithm.top_entropy)
        rows = without(step, second), without(step, ~second)
        each = [count_kept(row.lengths, row.kept) for row in rows]
        counts = StepCounts(sum(c.responses for c in each), sum(c.tokens for c in each))
        loss = sum(algorithm.loss(row, counts=counts, threshold=threshold) for row in rows)
        torch.testing.assert_close(loss, algorithm.loss(step))

    check_property(check)


def test_an_empty_response_changes_nothing():
    def check(step, algorithm, data, st):
        more = replace(
            step,
            lengths=torch.cat([step.lengths, torch.tensor([0])]),
            kept=torch.cat([step.kept, torch.tensor([data.draw(st.booleans())])]),
            advantages=torch.cat([step.advantages, torch.ones(1).double()]),
        )
        assert_equal(algorithm.gradients(more), algorithm.gradients(step), rtol=1e-12)

    check_property(check)


def test_a_rejected_response_changes_nothing_and_gets_no_gradient():
    """slime #657 left rejected responses in the denominator."""

    def check(step, algorithm, data, st):
        rejected = ~step.kept
        loss, *gradients = algorithm.gradients(step)
        tokens = rejected[step.response]
        assert all(not gradient[tokens].any() for gradient in gradients)
        if rejected.all():
            assert loss == 0
            return
        expected = algorithm.gradients(without(step, rejected))
        assert_equal((loss, *(gradient[~tokens] for gradient in gradients)), expected, rtol=1e-9)

    check_property(check)


def test_a_rejected_response_of_impossible_tokens_changes_nothing():
    """Its ratios are e^±500: a weight of 0 must not meet an infinite term."""
    step = random_step([3, 4, 2], [True, False, True])
    far = torch.where(step.kept[step.response], 0.0, 500.0)
    sign = torch.where(torch.arange(9) % 2 == 0, 1.0, -1.0)
    wild = replace(step, old=step.old + sign * far, reference=step.reference - sign * far)
    for case, algorithm in ALGORITHMS.items():
        ours, expected = algorithm.gradients(wild), algorithm.gradients(step)
        assert all(torch.equal(left, right) for left, right in zip(ours, expected, strict=True)), case


def test_a_rejected_response_left_in_the_denominator_is_noticed():
    step = random_step([3, 4, 5], [True, False, True])
    everything = count_kept(step.lengths, torch.ones(3, dtype=torch.bool))
    for algorithm in ALGORITHMS.values():
        expected = algorithm.gradients(without(step, ~step.kept))
        keep = step.kept[step.response]
        loss, *gradients = algorithm.gradients(step, counts=everything)
        with pytest.raises(AssertionError, match="not close"):
            assert_equal((loss, *(each[keep] for each in gradients)), expected)


def test_gspo_without_reduce_on_divided_tokens_is_noticed():
    step, algorithm = random_step([4, 6]), TRL["luspo"][1]
    parts = [step.select(torch.arange(10) % 2 == rank) for rank in (0, 1)]
    counts = count_kept(step.lengths, step.kept)
    loss = sum(algorithm.loss(part, counts=counts) for part in parts)
    with pytest.raises(AssertionError, match="not close"):
        torch.testing.assert_close(loss, algorithm.loss(step))


def test_a_step_in_which_nothing_is_kept_has_loss_0_and_empty_counts():
    step = random_step([3, 0, 2], [False, True, False])
    counts = count_kept(step.lengths, step.kept)
    assert counts == StepCounts(0, 0) and counts.empty
    for aggregation in ("token_mean", "sequence_mean", "sequence_sum_mean", "constant"):
        loss, *gradients = Algorithm(aggregation=aggregation, beta=0.1, sequence_ratio=True).gradients(step)
        assert loss == 0 and not any(gradient.any() for gradient in gradients)


def test_a_rank_without_tokens_takes_part():
    step = random_step([3, 2]).select(torch.tensor([], dtype=torch.int64))
    for algorithm in ALGORITHMS.values():
        loss, gradient, _ = algorithm.gradients(step)
        assert loss == 0 and gradient.shape == (0,)
    metrics = policy_metrics(*[step.log_probs] * 4, step.response > 0, ratio_min=0.8, ratio_max=1.2)
    assert metrics.means() == {}


# -------------------------------------------------------------------------------------------------- numbers by hand

LN2 = math.log(2)


def tokens(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def gradient_of(function, *values: float) -> list[float]:
    leaf = tokens(*values).requires_grad_()
    function(leaf).sum().backward()
    return leaf.grad.tolist()


@pytest.mark.parametrize(
    "aggregation, expected",
    [
        ("token_mean", [1 / 8, 0, 0, 1 / 8]),
        ("sequence_mean", [1 / 6, 0, 0, 1 / 15]),
        ("sequence_sum_mean", [1 / 3, 0, 0, 1 / 3]),
        ("constant", [1 / 30, 0, 0, 1 / 30]),
    ],
)
def test_weights_of_a_step_with_one_kept_response_elsewhere(aggregation, expected):
    lengths, kept = torch.tensor([2, 4, 0, 5]), torch.tensor([True, False, True, True])
    assert count_kept(lengths, kept) == StepCounts(2, 7)
    weights = token_weights(aggregation, lengths, kept, StepCounts(3, 8), max_length=10)  # another rank: 1 of 1 token
    assert weights.tolist() == pytest.approx(expected)


def test_kept_responses_are_neither_empty_nor_unscored_nor_truncated_nor_rejected():
    lengths = torch.tensor([3, 0, 3, 3, 3])
    flags = {
        "scored": torch.tensor([True, True, False, True, True]),
        "truncated": torch.tensor([False, False, False, True, False]),
        "accepted": torch.tensor([True, True, True, True, False]),
    }
    assert kept_responses(lengths, **flags).tolist() == [True, False, False, False, False]
    assert kept_responses(lengths).tolist() == [True, False, True, True, True]


def test_clipped_terms_by_hand():
    """Ratios 2, 2, 0.5, 0.5, 1.1 with bounds 0.8 and 1.28."""
    advantages = tokens(1, -1, 1, -1, 2)

    def terms(log_ratio):
        return clipped_terms(log_ratio, advantages, clip_low=0.2, clip_high=0.28)

    ratios = (LN2, LN2, -LN2, -LN2, math.log(1.1))
    assert terms(tokens(*ratios)).tolist() == pytest.approx([-1.28, 2, -0.5, 0.8, -2.2])
    assert gradient_of(terms, *ratios) == pytest.approx([0, 2, -0.5, 0, -2.2])


def test_dual_clip_and_delta_bound_the_loss_of_worse_tokens_only():
    log_ratio, advantages = tokens(math.log(8), math.log(8), 0.0), tokens(-1, 1, -1)
    bounds = {"clip_low": 0.2, "clip_high": 0.28}
    assert clipped_terms(log_ratio, advantages, **bounds, dual_clip=3.0).tolist() == pytest.approx([3, -1.28, 1])
    assert clipped_terms(log_ratio, advantages, **bounds, delta=4.0).tolist() == pytest.approx([4, -1.28, 1])
    for bound in ({"dual_clip": 3.0}, {"delta": 4.0}):
        function = partial(clipped_terms, advantages=advantages, **bounds, **bound)
        assert gradient_of(function, *log_ratio.tolist()) == pytest.approx([0, 0, 1])


def test_cispo_keeps_a_gradient_where_it_clips():
    log_ratio, advantages = tokens(math.log(8), -math.log(8), 0.0), tokens(1, -1, 2)
    function = partial(cispo_terms, log_ratio=log_ratio, advantages=advantages, ratio_min=0.5, ratio_max=5.0)
    assert function(tokens(-1, -2, -3)).tolist() == pytest.approx([5, -1, 6])
    assert gradient_of(function, -1, -2, -3) == pytest.approx([-5, 0.5, -2])


def test_the_mask_drops_policy_and_entropy_and_the_weight_scales_the_policy_only():
    terms = token_terms(
        tokens(1, 1),
        weights=tokens(2, 2),
        mask=torch.tensor([True, False]),
        kl=tokens(3, 3),
        beta=0.1,
        entropies=tokens(4, 4),
        entropy_coefficient=0.01,
    )
    assert terms.tolist() == pytest.approx([2 + 0.3 - 0.04, 0.3])


def test_reinforce_by_hand():
    function = partial(reinforce_terms, advantages=tokens(2, -1))
    assert function(tokens(-1, -3)).tolist() == [2, -3]
    assert gradient_of(function, -1, -3) == [-2, 1]


@pytest.mark.parametrize(
    "kind, value, gradient",
    [
        ("k1", LN2, 1),
        ("k2", LN2**2 / 2, LN2),
        ("k3", 0.5 + LN2 - 1, 1 - 0.5),
        ("k3_unbiased", 0.5 + LN2 - 1, LN2),
        ("k3_ratio", 3 * (0.5 + LN2 - 1), 3 * (1 - 0.5) + 3 * (0.5 + LN2 - 1)),
    ],
)
def test_kl_terms_of_a_token_twice_as_likely_as_in_the_reference(kind, value, gradient):
    def terms(log_probs):
        return kl_terms(kind, log_probs, tokens(-1 - LN2), token_log_ratio(log_probs, tokens(-1 - math.log(3))))

    assert terms(tokens(-1)).item() == pytest.approx(value)
    assert gradient_of(terms, -1) == pytest.approx([gradient])


def test_k3_unbiased_has_the_gradient_of_the_kl_on_policy_and_k3_does_not():
    """Exact over a distribution of three tokens: sum of p(x) times the gradient of the estimate at x."""
    logits, reference = tokens(0.3, -0.4, 1.1).requires_grad_(), tokens(0.9, 0.2, -0.5).log_softmax(0)
    (logits.log_softmax(0).exp() * (logits.log_softmax(0) - reference)).sum().backward()
    exact, gradients = logits.grad, {}
    for kind in ("k1", "k2", "k3", "k3_unbiased"):
        logits.grad = None
        policy = logits.log_softmax(0)
        (policy.detach().exp() * kl_terms(kind, policy, reference)).sum().backward()
        gradients[kind] = logits.grad
    torch.testing.assert_close(gradients["k2"], exact)
    torch.testing.assert_close(gradients["k3_unbiased"], exact)
    torch.testing.assert_close(gradients["k1"], torch.zeros(3).double(), atol=1e-12, rtol=0)
    assert not torch.allclose(gradients["k3"], exact, rtol=0.05)


def test_the_ratio_is_exactly_1_and_the_kl_exactly_0_at_the_first_update():
    for dtype in (torch.float32, torch.float64):
        step = random_step([7, 5, 3], dtype=dtype)
        log_probs = step.log_probs.clone().requires_grad_()
        old = log_probs.detach().clone()
        for ratio in (
            token_log_ratio(log_probs, old),
            sequence_log_ratio(log_probs, old, step.response, step.lengths),
        ):
            assert (ratio.exp() == 1).all()
        for kind in ("k1", "k2", "k3", "k3_unbiased"):
            assert (kl_terms(kind, log_probs, old) == 0).all()


def test_the_sequence_ratio_keeps_its_digits_next_to_large_log_probs():
    """GSPO's clip range is 3e-4: the rounding error of a float32 log-prob of -30 would be 1 % of it."""
    old = torch.full((4,), -30.0)
    log_probs = old + torch.tensor([0.0, 2e-4, 0.0, 2e-4])
    response = torch.zeros(4, dtype=torch.int64)
    exact = (log_probs.double() - old.double()).mean().float()
    assert (sequence_log_ratio(log_probs, old, response, torch.tensor([4])) == exact).all()


def test_no_gradient_flows_into_old_reference_or_importance_weights():
    step = random_step([3, 4])
    fixed = {name: getattr(step, name).clone().requires_grad_() for name in ("old", "reference", "weights")}
    log_probs = step.log_probs.clone().requires_grad_()
    for sequence in (False, True):
        algorithm = Algorithm(beta=0.1, kl="k3_ratio", importance=True, sequence_ratio=sequence)
        algorithm.loss(replace(step, log_probs=log_probs, **fixed)).backward()
    assert log_probs.grad.any() and all(tensor.grad is None for tensor in fixed.values())


def test_far_ratios_stay_finite():
    log_ratio = torch.tensor([200.0, -200.0])
    terms = clipped_terms(log_ratio, torch.tensor([-1.0, 1.0]), clip_low=0.2, clip_high=0.2)
    assert terms.isfinite().all() and terms[0] == pytest.approx(math.exp(20))
    assert kl_terms("k3", torch.tensor([-200.0, 0.0]), torch.tensor([0.0, -200.0])).isfinite().all()


def test_entropy_threshold_is_the_quantile_over_all_ranks():
    entropies = torch.rand(101, generator=torch.Generator().manual_seed(1))
    for top in (0.01, 0.2, 0.5, 0.77, 1.0):
        threshold = entropy_threshold(entropies, top)
        torch.testing.assert_close(threshold, torch.quantile(entropies, 1 - top))
        parts = [high_entropy_mask(part, threshold) for part in entropies.split(40)]
        assert torch.equal(torch.cat(parts), entropies >= threshold)
    assert high_entropy_mask(entropies, entropy_threshold(entropies, 0.2)).sum() == 21
    assert not high_entropy_mask(entropies, entropy_threshold(entropies[:0], 0.2)).any()


def test_metrics_of_ranks_add_up():
    step = random_step([4, 6, 3], [True, False, True])
    kept = step.kept[step.response]

    def measure(part: Step, kept: Tensor):
        ratio = token_log_ratio(part.log_probs, part.old)
        advantages = part.advantages[part.response]
        return policy_metrics(part.log_probs, part.old, ratio, advantages, kept, ratio_min=0.8, ratio_max=1.28)

    whole, first = measure(step, kept), torch.arange(13) % 3 == 0
    parts = [measure(step.select(some), kept[some]) for some in (first, ~first)]
    reduced = replace(
        whole,
        sums=torch.stack([part.sums for part in parts]).sum(0),
        maxima=torch.stack([part.maxima for part in parts]).amax(0),
    )
    assert reduced.means() == pytest.approx(whole.means())
    ratio = (step.log_probs - step.old)[kept].exp()
    assert whole.means()["ratio_min"] == pytest.approx(ratio.min().item())
    assert whole.means()["ratio_max"] == pytest.approx(ratio.max().item())
    assert whole.means()["kl_old_k1"] == pytest.approx(-ratio.log().mean().item())
    assert whole.means()["kl_old_k3"] == pytest.approx((ratio - ratio.log() - 1).mean().item())


def test_a_step_of_one_group_by_hand():
    """GRPO of two responses with rewards 1 and 0, three tokens, on policy: the loss is 0, gradients are ∓A / (2 L)."""
    advantages = group_advantages(torch.tensor([1.0, 0.0]), torch.tensor([2]), epsilon=1e-9).values
    assert advantages.tolist() == pytest.approx([math.sqrt(0.5), -math.sqrt(0.5)])
    step = replace(random_step([1, 2]), advantages=advantages.double())
    step = replace(step, old=step.log_probs)
    loss, gradient, _ = Algorithm(aggregation="sequence_mean").gradients(step)
    assert loss.item() == pytest.approx(0, abs=1e-7)
    a = math.sqrt(0.5)
    assert gradient.tolist() == pytest.approx([-a / 2, a / 4, a / 4])


# ------------------------------------------------------------------------------------------------------- wrong input

ONE = torch.zeros(1)
FLAG = torch.tensor([True])
INDEX = torch.tensor([0])


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: token_log_ratio(torch.zeros(2, 3), torch.zeros(2, 3)), r"log_probs has shape \(2, 3\).*1-D"),
        (lambda: token_log_ratio(ONE, torch.zeros(2)), "old has 2 tokens, log_probs 1"),
        (lambda: token_log_ratio(torch.tensor([0.0, torch.nan]), torch.zeros(2)), r"log_probs\[1\] of 2 tokens is nan"),
        (lambda: token_log_ratio(ONE, torch.tensor([-torch.inf])), r"old\[0\] of 1 tokens is -inf"),
        (lambda: token_log_ratio(ONE.bfloat16(), ONE), "log_probs is torch.bfloat16.*float32"),
        (lambda: clipped_terms(ONE, ONE, clip_low=0.0, clip_high=0.2), "clip_low is 0.0"),
        (lambda: clipped_terms(ONE, ONE, clip_low=0.2, clip_high=-1), "clip_high -1"),
        (lambda: clipped_terms(ONE, ONE, clip_low=0.2, clip_high=0.2, dual_clip=1.0), "dual_clip is 1.0"),
        (lambda: clipped_terms(ONE, ONE, clip_low=0.2, clip_high=0.2, delta=1.1), "delta is 1.1.*above"),
        (lambda: clipped_terms(ONE, ONE * torch.nan, clip_low=0.2, clip_high=0.2), r"advantages\[0\] of 1 .* is nan"),
        (lambda: cispo_terms(ONE, ONE, ONE, ratio_min=0.8, ratio_max=0.28), "ratio_max 0.28.*ratio itself"),
        (lambda: kl_terms("k4", ONE, ONE), "kind is 'k4'"),
        (lambda: kl_terms("k3_ratio", ONE, ONE), "needs log_ratio"),
        (lambda: entropy_threshold(ONE, 0.0), "top is 0.0"),
        (lambda: token_terms(ONE, beta=0.1), "beta is 0.1 and kl missing"),
        (lambda: token_terms(ONE, beta=-0.1, kl=ONE), "beta is -0.1"),
        (lambda: token_terms(ONE, entropy_coefficient=0.1), "entropy_coefficient is 0.1"),
        (lambda: token_terms(ONE, mask=ONE), "mask is torch.float32"),
        (lambda: token_terms(ONE, weights=torch.zeros(2)), "weights has 2 tokens, policy 1"),
        (lambda: step_loss(ONE, torch.tensor([1]), ONE), r"response\[0\] is 1: indices are in \[0, 1\)"),
        (lambda: step_loss(ONE, ONE, ONE), "response is torch.float32"),
        (lambda: response_means(torch.zeros(2), INDEX.repeat(2), torch.tensor([1])), "response 0 has 2 tokens.*is 1"),
        (lambda: token_weights("mean", INDEX, FLAG, StepCounts(0, 0)), "aggregation is 'mean'"),
        (lambda: token_weights("constant", INDEX, FLAG, StepCounts(0, 0)), "max_length is None"),
        (lambda: token_weights("token_mean", INDEX + 3, FLAG, StepCounts(0, 2)), "smaller than this rank's own"),
        (lambda: count_kept(INDEX, torch.tensor([1])), "kept is torch.int64"),
        (lambda: kept_responses(INDEX, scored=torch.tensor([True, False])), r"scored is torch.bool of shape \(2,\)"),
        (lambda: soft_overlong_punishment(INDEX, max_length=10, buffer=0), "buffer is 0"),
        (lambda: policy_metrics(ONE, ONE, ONE, ONE, ONE, ratio_min=0.8, ratio_max=1.2), "kept is torch.float32"),
    ],
)  # fmt: skip
def test_errors_name_what_is_wrong_and_the_value(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_only_the_named_tensor_may_hold_nan():
    missing = torch.tensor([torch.nan])
    check_tokens(old=ONE, rollout=missing, allow_nan="rollout")
    with pytest.raises(ValueError, match="old"):
        check_tokens(rollout=missing, old=missing, allow_nan="rollout")
    with pytest.raises(ValueError, match=r"rollout\[0\] of 1 tokens is inf"):
        check_tokens(rollout=torch.tensor([torch.inf]), allow_nan="rollout")
