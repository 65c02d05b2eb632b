"""Advantages of responses from their rewards: GRPO, Dr.GRPO, RLOO, REINFORCE++ baseline, and several rewards (GDPO).

All tensors have one element per response. The responses of a group (one prompt) are neighbours, and `sizes` gives the
number of responses of each group. NaN marks a reward that does not apply or failed: the response gets advantage 0, is
not kept, and counts in no mean and no deviation.

A statistic over the batch is passed in as sums over all data-parallel ranks (`batch_sums`), so that all ranks scale
alike. Means and deviations are computed in float64, and a group of equal rewards has advantages of exactly 0, not a
rounding error divided by epsilon.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal, NamedTuple

import torch
from torch import Tensor


class Advantages(NamedTuple):
    """Advantages of responses, and which responses have one."""

    values: Tensor
    """[R] float32, on the scale of the reward or of its standard deviation; 0 where not kept."""
    kept: Tensor
    """[R] bool; False where no reward is known."""


class Estimator(StrEnum):
    """How advantages are computed from rewards."""

    GRPO = "grpo"
    """`group_advantages`."""
    DR_GRPO = "dr_grpo"
    """`group_advantages(scale="none")`."""
    LITE_PPO = "lite_ppo"
    """`scale_by_batch` of Dr.GRPO's."""
    RLOO = "rloo"
    """`leave_one_out_advantages`."""
    REINFORCE_BASELINE = "reinforce_baseline"
    """The REINFORCE++ baseline: Dr.GRPO's, then `whiten` over the batch's tokens."""
    GDPO = "gdpo"
    """`normalize_then_sum` of several rewards, then `whiten` over the batch's responses."""


def compute_advantages(
    estimator: Estimator, rewards: Tensor, weights: Tensor, sizes: Tensor, lengths: Tensor
) -> Advantages:
    """Advantages of the responses of a whole step.

    Args:
        rewards: [R, K] float, of the groups of all ranks; NaN where reward k does not apply to the response.
        weights: [K] float.
        sizes: [G] int64, responses per group.
        lengths: [R] int64, tokens of each response.

    Raises:
        ValueError: as the estimator's functions.
    """
    if estimator is Estimator.GDPO:
        found = normalize_then_sum(rewards, weights, sizes)
        return whiten(found, batch_sums(*found))
    totals = combine_rewards(rewards, weights)
    if estimator is Estimator.GRPO:
        return group_advantages(totals, sizes)
    if estimator is Estimator.RLOO:
        return leave_one_out_advantages(totals, sizes)
    found = group_advantages(totals, sizes, scale="none")
    if estimator is Estimator.LITE_PPO:
        return scale_by_batch(found, batch_sums(totals, ~totals.isnan()))
    if estimator is Estimator.REINFORCE_BASELINE:
        return whiten(found, batch_sums(*found, lengths), epsilon=1e-8)
    return found


def combine_rewards(rewards: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum of several rewards, the first half of sum-then-normalize.

    `sum_k w_k r_k` over the rewards that are not NaN; NaN where all with a weight are. Source: TRL 1.16
    `grpo_trainer.py`, `multi_objective_aggregation="sum_then_normalize"`.

    Args:
        rewards: [R, K] float, NaN where reward k does not apply to the response.
        weights: [K] float.

    Returns:
        [R] float32 rewards, for any of the functions below.

    Raises:
        ValueError: the shapes do not match, or a reward is infinite, or a weight is not finite.
    """
    _check_weights(rewards, weights)
    total = (rewards.double() * weights.to(rewards.device).double()).nansum(dim=1)
    return total.masked_fill(~_find_known(rewards, weights), torch.nan).float()


def normalize_then_sum(rewards: Tensor, weights: Tensor, sizes: Tensor, *, epsilon: float = 1e-4) -> Advantages:
    """Weighted sum of rewards that are each normalized in their group: GDPO, to be followed by `whiten`.

    `sum_k w_k (r_k - mean_group(r_k)) / (std_group(r_k) + epsilon)` with the sample standard deviation. GDPO then
    normalizes the sums over the batch: `whiten(sums, batch_sums(*sums), epsilon=1e-4)`, with the batch sums added over
    all ranks. Source: arXiv 2601.05242; TRL 1.16 `grpo_trainer.py`, `multi_objective_aggregation="normalize_then_sum"`.

    Args:
        rewards: [R, K] float, NaN where reward k does not apply to the response; it then adds 0.
        weights: [K] float.
        sizes: [G] int64, responses per group.
        epsilon: added to the standard deviation, on the scale of the reward.

    Raises:
        ValueError: the shapes do not match, the sizes do not sum to R, a reward is infinite, or epsilon is not
            positive.
    """
    _check_weights(rewards, weights)
    values = torch.zeros(len(rewards), dtype=torch.float64, device=rewards.device)
    for column, weight in zip(rewards.unbind(1), weights.tolist(), strict=True):
        values += weight * group_advantages(column, sizes, epsilon=epsilon).values.double()
    return Advantages(values.float(), _find_known(rewards, weights))


def group_advantages(
    rewards: Tensor, sizes: Tensor, *, scale: Literal["group", "none"] = "group", epsilon: float = 1e-4
) -> Advantages:
    """Advantages relative to the group: GRPO with `scale="group"`, Dr.GRPO with `scale="none"`.

    GRPO: `(r - mean_group) / (std_group + epsilon)`, with the sample standard deviation (n - 1). Dr.GRPO:
    `r - mean_group`. The only known reward of a group has advantage 0. Source: arXiv 2402.03300 (GRPO), 2503.20783
    (Dr.GRPO); TRL 1.16 `grpo_trainer.py`, `scale_rewards`. TRL's epsilon is 1e-4, verl's 1e-6. verl gives a group of
    one its reward as advantage; here and in TRL it is 0.

    Dr.GRPO's advantages divided by the batch's deviation (TRL's `scale_rewards="batch"`) are `scale_by_batch`.

    Args:
        rewards: [R] float, NaN where unknown.
        sizes: [G] int64, responses per group.
        scale: whether to divide by the group's standard deviation.
        epsilon: added to the standard deviation, on the scale of the reward.

    Raises:
        ValueError: the sizes do not sum to R, a reward is infinite, epsilon is not positive, or scale is unknown.
    """
    if scale not in ("group", "none"):
        raise ValueError(f'scale is {scale!r}: use "group" (GRPO) or "none" (Dr.GRPO), then scale_by_batch if wanted')
    groups = _Groups(rewards, sizes)
    deviation = groups.centered()
    if scale == "group":
        _check_epsilon(epsilon)
        variance = groups.sum(deviation.square()) / (groups.count - 1).clamp(min=1)
        deviation = deviation / (variance.sqrt()[groups.index] + epsilon)
    return Advantages(deviation.float(), groups.kept)


def leave_one_out_advantages(rewards: Tensor, sizes: Tensor) -> Advantages:
    """Advantages of RLOO: the reward minus the mean of the group's other rewards.

    `r - (sum_group - r) / (n - 1) = (r - mean_group) n / (n - 1)` over the n known rewards; 0 for a single one.
    Source: arXiv 2402.14740; TRL 1.16 `rloo_trainer.py`.

    Args:
        rewards: [R] float, NaN where unknown.
        sizes: [G] int64, responses per group.

    Raises:
        ValueError: the sizes do not sum to R, or a reward is infinite.
    """
    groups = _Groups(rewards, sizes)
    factor = groups.count / (groups.count - 1).clamp(min=1)
    return Advantages((groups.centered() * factor[groups.index]).float(), groups.kept)


def groups_without_signal(rewards: Tensor, sizes: Tensor) -> Tensor:
    """Groups in which no response is better than another: at most one known reward, or all known rewards equal.

    All their advantages are 0 (before a batch's mean is subtracted). DAPO and later recipes drop such groups and
    sample others (arXiv 2503.14476, "dynamic sampling").

    Args:
        rewards: [R] float, or [R, K] of several rewards that are normalized one by one: such a group has no signal
            in any of them. NaN where unknown.
        sizes: [G] int64, responses per group.

    Returns:
        [G] bool.

    Raises:
        ValueError: the sizes do not sum to R, or a reward is infinite.
    """
    columns = rewards.unbind(1) if rewards.dim() == 2 else (rewards,)
    return torch.stack([_Groups(column, sizes).constant for column in columns]).all(dim=0)


def batch_sums(values: Tensor, kept: Tensor, lengths: Tensor | None = None) -> Tensor:
    """Sums from which the mean and deviation over a batch follow. Add them over all data-parallel ranks before use.

    Args:
        values: [R] float, rewards or advantages.
        kept: [R] bool, which of them count. A kept value may not be NaN.
        lengths: [R] int64, tokens of each response, to weight each by its tokens (REINFORCE++ whitens over tokens);
            None weights all alike.

    Returns:
        [3] float64: the number of values (or tokens), their sum, and the sum of their squares.

    Raises:
        ValueError: the shapes do not match, or a kept value is not finite.
    """
    for name, tensor in (("kept", kept), ("lengths", values if lengths is None else lengths)):
        if tensor.shape != values.shape:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}, values {tuple(values.shape)}: pass one of each")
    wrong = kept & ~values.isfinite()
    if wrong.any():
        at = int(wrong.nonzero()[0])
        raise ValueError(f"values[{at}] is {float(values[at])} and kept: set kept to False where no reward is known")
    weight = kept.double() if lengths is None else kept * lengths.double()
    known = torch.where(kept, values, 0).double()
    return torch.stack([weight.sum(), (weight * known).sum(), (weight * known.square()).sum()])


def scale_by_batch(advantages: Advantages, sums: Tensor, *, epsilon: float = 1e-4) -> Advantages:
    """Advantages divided by the batch's sample standard deviation: `a / (std_batch + epsilon)`.

    With `group_advantages(rewards, sizes, scale="none")` and `batch_sums(rewards, ~rewards.isnan())` this is TRL's
    `scale_rewards="batch"` (arXiv 2508.08221, "lite PPO"). Note that the sums are the rewards', not the advantages'.

    Args:
        advantages: of R responses.
        sums: [3] float64, `batch_sums` added over all data-parallel ranks.
        epsilon: added to the standard deviation, on the scale of the reward.

    Raises:
        ValueError: sums are not those of a batch, or epsilon is not positive.
    """
    _check_epsilon(epsilon)
    _, deviation = _mean_and_deviation(sums)
    return Advantages((advantages.values.double() / (deviation + epsilon)).float(), advantages.kept)


def whiten(advantages: Advantages, sums: Tensor, *, epsilon: float = 1e-4) -> Advantages:
    """Advantages with mean 0 and deviation 1 over the batch: `(a - mean_batch) / (std_batch + epsilon)`.

    The REINFORCE++ baseline is `group_advantages(rewards, sizes, scale="none")`, whitened with `batch_sums` that are
    weighted by the lengths, and epsilon 1e-8 (arXiv 2501.03262; verl `core_algos.py`,
    `compute_reinforce_plus_plus_baseline_outcome_advantage`, which divides by `sqrt(var + 1e-8)`). GDPO whitens
    `normalize_then_sum`, unweighted, with epsilon 1e-4. The deviation is the sample's (n - 1); in a batch of one it
    counts as 0.

    Args:
        advantages: of R responses.
        sums: [3] float64, `batch_sums` of such advantages added over all data-parallel ranks.
        epsilon: added to the standard deviation, on the scale of the advantage.

    Raises:
        ValueError: sums are not those of a batch, or epsilon is not positive.
    """
    _check_epsilon(epsilon)
    mean, deviation = _mean_and_deviation(sums)
    values = (advantages.values.double() - mean) / (deviation + epsilon)
    return Advantages(values.masked_fill(~advantages.kept, 0).float(), advantages.kept)


class _Groups:
    """Rewards of one kind in their groups, in float64."""

    def __init__(self, rewards: Tensor, sizes: Tensor) -> None:
        if rewards.dim() != 1 or sizes.dim() != 1:
            raise ValueError(
                f"rewards has shape {tuple(rewards.shape)}, sizes {tuple(sizes.shape)}: pass one reward per response "
                "and one size per group; combine several rewards first (combine_rewards, normalize_then_sum)"
            )
        if int(sizes.sum()) != len(rewards) or (sizes < 1).any():
            raise ValueError(
                f"sizes {sizes.tolist()} do not divide {len(rewards)} rewards: give each group its number of "
                "responses, at least 1, with a reward of NaN for one that failed"
            )
        if rewards.isinf().any():
            at = int(rewards.isinf().nonzero()[0])
            raise ValueError(f"rewards[{at}] is {float(rewards[at])}: return a finite reward, or NaN for none")
        sizes = sizes.to(rewards.device)
        self.kept = ~rewards.isnan()
        self.index = torch.repeat_interleave(torch.arange(len(sizes), device=rewards.device), sizes)
        self._rewards = torch.where(self.kept, rewards, 0).double()
        self._groups = len(sizes)
        self.count = self.sum(self.kept.double())
        """[G] float64, known rewards."""
        known = torch.where(self.kept, rewards, torch.nan).double()
        empty = torch.full((self._groups,), torch.nan, dtype=torch.float64, device=rewards.device)
        low, high = (
            empty.scatter_reduce(0, self.index[self.kept], known[self.kept], reduce, include_self=False)
            for reduce in ("amin", "amax")
        )
        self.constant = (self.count < 2) | (low == high)
        """[G] bool, whether a group has at most one known reward or all are equal."""

    def sum(self, values: Tensor) -> Tensor:
        """Sum [G] of values [R] in each group."""
        return values.new_zeros(self._groups).index_add(0, self.index, values)

    def centered(self) -> Tensor:
        """Rewards [R] minus their group's mean; 0 where unknown or where all rewards of the group are equal."""
        mean = self.sum(self._rewards) / self.count.clamp(min=1)
        return (self._rewards - mean[self.index]).masked_fill(~self.kept | self.constant[self.index], 0)


def _mean_and_deviation(sums: Tensor) -> tuple[Tensor, Tensor]:
    if sums.shape != (3,) or not sums.isfinite().all() or sums[0] < 0:
        raise ValueError(f"sums is {sums.tolist()}: pass batch_sums, added over all data-parallel ranks")
    count, total, squares = sums.double()
    mean = total / count.clamp(min=1)
    variance = (squares - total * mean) / (count - 1).clamp(min=1)
    return mean, variance.clamp(min=0).sqrt()


def _find_known(rewards: Tensor, weights: Tensor) -> Tensor:
    """[R] bool: a reward with a weight is known. One of weight 0 is only measured, so alone it is no reward."""
    return ~rewards[:, weights.to(rewards.device) != 0].isnan().all(dim=1)


def _check_weights(rewards: Tensor, weights: Tensor) -> None:
    if rewards.dim() != 2 or weights.shape != rewards.shape[1:]:
        raise ValueError(
            f"rewards has shape {tuple(rewards.shape)}, weights {tuple(weights.shape)}: pass rewards [responses, K] "
            "and K weights"
        )
    if not weights.isfinite().all() or rewards.isinf().any():
        raise ValueError(
            f"weights {weights.tolist()} or a reward is infinite or a weight NaN: use finite weights, and NaN for a "
            "reward that does not apply"
        )


def _check_epsilon(epsilon: float) -> None:
    if not epsilon > 0:
        raise ValueError(
            f"epsilon is {epsilon}: use a small positive number, such as 1e-4, so that 0 deviation is safe"
        )
