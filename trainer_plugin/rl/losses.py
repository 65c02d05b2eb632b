"""Policy-gradient losses of single tokens, and the weights with which they sum to the loss of a step.

Under sequence parallelism a rank holds only some tokens of a response, and a step has many rows. So nothing here takes
a mean. The loss of a step is

    sum over all tokens of weight[response of the token] * term of the token

over all rows and ranks, and the weights come from counts that are known before the first backward pass
(`token_weights`). It does not depend on how tokens are divided among rows, micro-batches or ranks.

    ratio = token_log_ratio(log_probs, old)                               # or sequence_log_ratio: GSPO
    policy = clipped_terms(ratio, advantages, clip_low=0.2, clip_high=0.28)  # or cispo_terms, reinforce_terms
    terms = token_terms(policy, weights=truncated_weights(old, rollout, cap=2.0))
    loss = step_loss(terms, response, token_weights("token_mean", lengths, kept, counts))

Shapes, in all functions:

- Token tensors are 1-D [N], float32 or float64, over this rank's supervised tokens. N may be 0. Log-probs and
  entropies are in nats.
- `response` [N] int64 in [0, R) is the response that a token belongs to.
- Response tensors are 1-D [R], equal on all ranks that share the row. `lengths` counts a response's supervised tokens
  over all those ranks.

Nothing here communicates: where sums per response are needed, the caller passes `reduce`. Errors are raised on the rank
that holds the wrong token, so other ranks end by the launcher or the timeout of their next collective.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Aggregation = Literal["token_mean", "sequence_mean", "sequence_sum_mean", "constant"]
KL = Literal["k1", "k2", "k3", "k3_unbiased", "k3_ratio"]
Reduce = Callable[[Tensor], Tensor]

MAX_LOG_RATIO = 20.0
"""Log ratios are clamped to ±20 before `exp`, as in verl's `core_algos.py`: e^20 is 4.9e8, e^89 is infinite in float32.
Beyond it the gradient is 0."""


def identity(sums: Tensor) -> Tensor:
    """Default of `reduce`: this rank holds all tokens of its responses."""
    return sums


@dataclass(frozen=True)
class StepCounts:
    """Numbers of kept responses and of their supervised tokens in a step, over all rows and data-parallel ranks."""

    responses: int
    tokens: int

    @property
    def empty(self) -> bool:
        """No response is kept on any rank: all weights are 0, and the caller skips the step."""
        return self.responses == 0


def kept_responses(
    lengths: Tensor,
    *,
    scored: Tensor | None = None,
    truncated: Tensor | None = None,
    accepted: Tensor | None = None,
) -> Tensor:
    """Responses that count in the loss: not empty, scored, complete, and accepted by the rollout correction.

    A response that does not count is in no denominator either. slime #657 left rejected ones in it, which makes every
    other response's gradient smaller.

    Args:
        lengths: [R] int64, supervised tokens.
        scored: [R] bool, a reward is known (`Advantages.kept`); None for all.
        truncated: [R] bool, the response ended at the length limit; pass it to mask those (DAPO's overlong filtering;
            TRL's `mask_truncated_completions`), None to learn from them.
        accepted: [R] bool, `rollout_correction.geometric_accepted`; None for all.

    Returns:
        [R] bool.

    Raises:
        ValueError: the shapes differ.
    """
    kept = lengths > 0
    for name, flags, wanted in (
        ("scored", scored, True),
        ("truncated", truncated, False),
        ("accepted", accepted, True),
    ):
        if flags is not None:
            _check_responses(lengths, **{name: flags})
            kept = kept & (flags.bool() == wanted)
    return kept


def count_kept(lengths: Tensor, kept: Tensor) -> StepCounts:
    """Count the kept responses of one rank's rows and their tokens. Add the counts of all data-parallel ranks.

    Ranks that share a row hold the same response tensors, so the row is counted on one of them only. A kept response
    without tokens is not counted.

    Args:
        lengths: [R] int64, supervised tokens.
        kept: [R] bool.

    Raises:
        ValueError: the shapes differ.
    """
    _check_responses(lengths, kept=kept)
    counted = kept & (lengths > 0)
    return StepCounts(int(counted.sum()), int(lengths[counted].sum()))


def token_weights(
    aggregation: Aggregation, lengths: Tensor, kept: Tensor, counts: StepCounts, max_length: int | None = None
) -> Tensor:
    """Weight of every token of each response in the loss of the step.

    ================== ===================================== ====================================================
    token_mean         1 / counts.tokens                     DAPO (arXiv 2503.14476), CISPO (arXiv 2506.13585)
    sequence_mean      1 / (counts.responses * length)       GRPO (arXiv 2402.03300), GSPO (arXiv 2507.18071)
    sequence_sum_mean  1 / counts.responses                  LUSPO (arXiv 2602.05261)
    constant           1 / (counts.responses * max_length)   Dr.GRPO (arXiv 2503.20783)
    ================== ===================================== ====================================================

    The denominators hold kept, non-empty responses only, over the whole step. TRL 1.16 (`GRPOTrainer._compute_loss`)
    keeps truncated, unscored and empty responses in some of them, and takes all but the first as means over
    micro-batches of one size. It agrees where every response is kept and micro-batches have equally many. A token whose
    importance weight is 0 (`rollout_correction.masked_weights`) or which the entropy mask drops stays in the
    denominator, here as in TRL.

    Args:
        aggregation: one of the four above.
        lengths: [R] int64, supervised tokens of each response.
        kept: [R] bool.
        counts: of the whole step. If `counts.empty`, all weights are 0; skip the step.
        max_length: the length limit of responses in tokens, for `constant` only.

    Returns:
        [R] float32, 0 for a response that is empty or not kept.

    Raises:
        ValueError: the shapes differ, the aggregation is unknown, counts are smaller than those of this rank, or
            max_length is missing or not positive.
    """
    here = count_kept(lengths, kept)
    if here.responses > counts.responses or here.tokens > counts.tokens:
        raise ValueError(f"counts {counts} are smaller than this rank's own {here}: add count_kept over all ranks")
    counted = (kept & (lengths > 0)).double()
    if aggregation == "token_mean":
        weights = counted / max(counts.tokens, 1)
    elif aggregation == "sequence_mean":
        weights = counted / (max(counts.responses, 1) * lengths.clamp(min=1))
    elif aggregation == "sequence_sum_mean":
        weights = counted / max(counts.responses, 1)
    elif aggregation == "constant":
        if max_length is None or max_length < 1:
            raise ValueError(f"max_length is {max_length}: give the length limit of responses, at least 1 token")
        weights = counted / (max(counts.responses, 1) * max_length)
    else:
        raise ValueError(
            f"aggregation is {aggregation!r}: use token_mean, sequence_mean, sequence_sum_mean or constant"
        )
    return weights.float()


def step_loss(terms: Tensor, response: Tensor, weights: Tensor) -> Tensor:
    """This rank's part of the loss of a step: `sum_t weights[response_t] * terms_t`, summed and never averaged.

    Args:
        terms: [N] of `token_terms`, differentiable.
        response: [N] int64.
        weights: [R] of `token_weights`.

    Returns:
        A scalar; 0 with a graph for a rank without tokens.

    Raises:
        ValueError: the shapes differ, a term is not finite, or a response index is outside [0, R).
    """
    check_tokens(terms=terms)
    _check_index(terms, response, len(weights))
    return (weights[response].to(terms.dtype) * terms).sum()


def token_log_ratio(log_probs: Tensor, old: Tensor) -> Tensor:
    """Log of the probability ratio of each token: `log_probs - old`, the token level of TRL and verl.

    It is exactly 0 where old are the detached log-probs of the same pass.

    Args:
        log_probs: [N] of the policy, differentiable.
        old: [N] of the policy before the update; no gradient flows into them.

    Raises:
        ValueError: the shapes differ, or a log-prob is not finite.
    """
    check_tokens(log_probs=log_probs, old=old)
    return log_probs - old.detach()


def sequence_log_ratio(
    log_probs: Tensor, old: Tensor, response: Tensor, lengths: Tensor, reduce: Reduce = identity
) -> Tensor:
    """Log of GSPO's length-normalized ratio of a response, at each of its tokens.

    The value is `mean over the response of (log_probs - old)`. The gradient goes through the token's own log-prob, the
    token form of verl (`core_algos.py`, `compute_policy_loss_gspo`; arXiv 2507.18071, GSPO-token):
    `mean.detach() + (log_probs - log_probs.detach())`. So a rank needs no gradient of the tokens of others. Summed
    over a response it equals the sequence form of TRL (`importance_sampling_level="sequence"`) if all its tokens have
    the same factors (advantage, importance weight, no entropy mask).

    Args:
        log_probs: [N] of the policy, differentiable.
        old: [N] of the policy before the update; no gradient flows into them.
        response: [N] int64.
        lengths: [R] int64, supervised tokens on all ranks that share the row.
        reduce: adds detached float64 sums [R] over those ranks. Every one of them must call this function.

    Raises:
        ValueError: the shapes differ, a log-prob is not finite, a response index is outside [0, R), or a response has
            more tokens here than its length.
    """
    check_tokens(log_probs=log_probs, old=old)
    mean = response_means(log_probs.detach() - old.detach(), response, lengths, reduce)[response].to(log_probs.dtype)
    # Not (mean + log_probs) - log_probs.detach(): a mean of 1e-4 would lose its digits next to a log-prob of -10.
    return mean + (log_probs - log_probs.detach())


def clipped_terms(
    log_ratio: Tensor,
    advantages: Tensor,
    *,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None = None,
    delta: float | None = None,
) -> Tensor:
    """Clipped policy loss of each token: PPO, GRPO, Dr.GRPO, DAPO, and GSPO with `sequence_log_ratio`.

    `-min(min(ρ, delta) A, clip(ρ, 1 - clip_low, 1 + clip_high) A)` with `ρ = exp(log_ratio)`, and for A < 0 at most
    `-dual_clip A`. Source: arXiv 1707.06347 (PPO), 2503.14476 (DAPO: 0.2 and 0.28); TRL 1.16
    `GRPOTrainer._compute_loss` (`epsilon`, `epsilon_high`, `delta`: INTELLECT-2's two-sided clip, arXiv 2505.07291);
    verl `core_algos.py` (`clip_ratio_c`: arXiv 1912.09729, 3.0). GSPO's own bounds are 3e-4 and 4e-4.

    Args:
        log_ratio: [N] of `token_log_ratio` or `sequence_log_ratio`, differentiable.
        advantages: [N], `Advantages.values[response]`.
        clip_low: distance of the lower bound from 1, in (0, 1].
        clip_high: distance of the upper bound from 1, positive.
        dual_clip: upper bound of the loss divided by -A, for negative advantages; above 1.
        delta: upper bound of the unclipped ratio, which matters for negative advantages; above 1 + clip_high.

    Raises:
        ValueError: the shapes differ, a value is not finite, or a bound is out of its range.
    """
    check_tokens(log_ratio=log_ratio, advantages=advantages)
    if not 0 < clip_low <= 1 or not clip_high > 0:
        raise ValueError(
            f"clip_low is {clip_low}, clip_high {clip_high}: they are distances from a ratio of 1, such as 0.2 and "
            "0.28, positive and clip_low at most 1"
        )
    if dual_clip is not None and not dual_clip > 1:
        raise ValueError(f"dual_clip is {dual_clip}: it bounds the ratio of worse tokens from above; use e.g. 3.0")
    if delta is not None and not delta > 1 + clip_high:
        raise ValueError(f"delta is {delta}: it must be above 1 + clip_high = {1 + clip_high}; use e.g. 4.0")
    ratio = _exp(log_ratio)
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    capped = ratio if delta is None else ratio.clamp(max=delta)
    terms = -torch.minimum(capped * advantages, clipped * advantages)
    if dual_clip is None:
        return terms
    return torch.where(advantages < 0, torch.minimum(terms, -dual_clip * advantages), terms)


def cispo_terms(
    log_probs: Tensor, log_ratio: Tensor, advantages: Tensor, *, ratio_min: float, ratio_max: float
) -> Tensor:
    """CISPO loss of each token: `-clip(ρ, ratio_min, ratio_max).detach() * A * log_probs`.

    Every token keeps a gradient; only its weight is bounded. Source: arXiv 2506.13585.

    The bounds are those of the ratio itself, because the same name means two things elsewhere. TRL's `epsilon_high` is
    `ratio_max`, with no lower bound (`ratio_min=0, ratio_max=5`). verl's `clip_ratio_low` and `clip_ratio_high` are
    distances from 1: `ratio_min = 1 - clip_ratio_low`, `ratio_max = 1 + clip_ratio_high`.

    Args:
        log_probs: [N] of the policy, differentiable.
        log_ratio: [N] of `token_log_ratio`; no gradient flows through it.
        advantages: [N].
        ratio_min: smallest weight, at least 0; 0 for no lower bound.
        ratio_max: largest weight.

    Raises:
        ValueError: the shapes differ, a value is not finite, or the bounds do not fit `0 <= ratio_min < ratio_max`.
    """
    check_tokens(log_probs=log_probs, log_ratio=log_ratio, advantages=advantages)
    if not 0 <= ratio_min < ratio_max:
        raise ValueError(
            f"ratio_min is {ratio_min}, ratio_max {ratio_max}: they bound the ratio itself, 0 <= ratio_min < ratio_max,"
            " e.g. 0 and 5 (TRL's epsilon_high is ratio_max; verl's are distances from 1)"
        )
    weight = _exp(log_ratio.detach()).clamp(ratio_min, ratio_max)
    return -weight * advantages * log_probs


def reinforce_terms(log_probs: Tensor, advantages: Tensor) -> Tensor:
    """REINFORCE loss of each token: `-A * log_probs`, for RLOO and REINFORCE++ on policy.

    One update per rollout only: nothing corrects for a policy that has changed. Source: arXiv 2402.14740 (RLOO),
    2501.03262 (REINFORCE++).

    Args:
        log_probs: [N] of the policy, differentiable.
        advantages: [N].

    Raises:
        ValueError: the shapes differ, or a value is not finite.
    """
    check_tokens(log_probs=log_probs, advantages=advantages)
    return -advantages * log_probs


def kl_terms(kind: KL, log_probs: Tensor, reference: Tensor, log_ratio: Tensor | None = None) -> Tensor:
    """Estimate of KL(policy || reference) at each token, in nats; with d = log_probs - reference.

    ============  =====================  =====================================================================
    k1            d                      unbiased value; as a loss its expected gradient is 0: use it in rewards
    k2            d² / 2                 biased value; on policy the gradient is the KL's
    k3            exp(-d) + d - 1        unbiased value, never negative; biased gradient (GRPO)
    k3_unbiased   k3                     value of k3, gradient of k2 (verl's `k3+`)
    k3_ratio      k3 * exp(log_ratio)    for samples of an older policy (TRL's `use_bias_correction_kl`)
    ============  =====================  =====================================================================

    Source: http://joschu.net/blog/kl-approx.html; arXiv 2402.03300 (GRPO), 2512.02556 (DeepSeek-V3.2: the ratio); TRL
    1.16 `GRPOTrainer._compute_loss`; verl `core_algos.py`, `kl_penalty`. The exponent is clamped to ±20 as in verl;
    verl also clamps the value to ±10, TRL neither.

    With `k3_ratio`, pass `token_log_ratio` also under GSPO: the estimate differs from token to token, so
    `sequence_log_ratio`'s gradient would not be TRL's.

    Args:
        kind: one of the five above.
        log_probs: [N] of the policy, differentiable.
        reference: [N] of the reference model; no gradient flows into them.
        log_ratio: [N] of `token_log_ratio`, for `k3_ratio` only.

    Raises:
        ValueError: the shapes differ, a log-prob is not finite, the kind is unknown, or log_ratio is missing.
    """
    check_tokens(log_probs=log_probs, reference=reference)
    distance = log_probs - reference.detach()
    if kind == "k1":
        return distance
    k2 = distance.square() / 2
    if kind == "k2":
        return k2
    k3 = _k3(-distance)
    if kind == "k3":
        return k3
    if kind == "k3_unbiased":
        return k3.detach() + (k2 - k2.detach())
    if kind != "k3_ratio":
        raise ValueError(f"kind is {kind!r}: use k1, k2, k3, k3_unbiased or k3_ratio")
    if log_ratio is None:
        raise ValueError("k3_ratio needs log_ratio: pass token_log_ratio(log_probs, old)")
    check_tokens(log_probs=log_probs, log_ratio=log_ratio)
    return k3 * _exp(log_ratio)


def entropy_threshold(entropies: Tensor, top: float) -> Tensor:
    """Entropy above which the `top` part of all tokens lies: their (1 - top) quantile, linearly interpolated.

    Source: arXiv 2506.01939 (the 80/20 rule: top 0.2); TRL 1.16 `GRPOTrainer.get_high_entropy_mask`. `torch.quantile`,
    which TRL calls, refuses more than 16 million values; this does not.

    Args:
        entropies: [M] float, nats, of the kept tokens of all ranks, gathered by the caller. M may be 0.
        top: part of the tokens to keep, in (0, 1].

    Returns:
        A scalar for `high_entropy_mask`; infinite if there are no tokens.

    Raises:
        ValueError: an entropy is not finite, or top is out of its range.
    """
    check_tokens(entropies=entropies)
    if not 0 < top <= 1:
        raise ValueError(f"top is {top}: give the part of the tokens to keep, above 0 and at most 1, e.g. 0.2")
    if not len(entropies):
        return entropies.new_tensor(torch.inf)
    ordered = entropies.detach().sort().values
    rank = (1 - top) * (len(ordered) - 1)
    below = ordered[int(rank)]
    return torch.lerp(below, ordered[min(int(rank) + 1, len(ordered) - 1)], rank - int(rank))


def high_entropy_mask(entropies: Tensor, threshold: Tensor) -> Tensor:
    """Tokens [N] bool whose entropy is at least the threshold of `entropy_threshold`.

    Args:
        entropies: [N] of this rank, nats.
        threshold: scalar, equal on all ranks.

    Raises:
        ValueError: an entropy is not finite.
    """
    check_tokens(entropies=entropies)
    return entropies.detach() >= threshold


def token_terms(
    policy: Tensor,
    *,
    weights: Tensor | None = None,
    mask: Tensor | None = None,
    kl: Tensor | None = None,
    beta: float = 0.0,
    entropies: Tensor | None = None,
    entropy_coefficient: float = 0.0,
) -> Tensor:
    """All terms of each token's loss: `policy * mask * weights + beta * kl - entropy_coefficient * entropies * mask`.

    The KL term has neither mask nor importance weight; the entropy bonus has the mask. Source: TRL 1.16
    `GRPOTrainer._compute_loss`. TRL takes the mean of the entropy over the masked tokens whatever the loss, here and
    in verl it is aggregated as the rest: equal under `token_mean` without a mask.

    Args:
        policy: [N] of `clipped_terms`, `cispo_terms` or `reinforce_terms`.
        weights: [N] of `rollout_correction`; no gradient flows into them. None for 1.
        mask: [N] bool of `high_entropy_mask`; None for all tokens.
        kl: [N] of `kl_terms`, needed if beta is not 0.
        beta: coefficient of the KL term, at least 0.
        entropies: [N] of the policy, differentiable, needed if the coefficient is not 0.
        entropy_coefficient: of the entropy bonus; negative to penalize entropy.

    Raises:
        ValueError: the shapes differ, a value is not finite, beta is negative, or a tensor is missing.
    """
    check_tokens(policy=policy)
    if mask is not None and (mask.shape != policy.shape or mask.dtype != torch.bool):
        raise ValueError(f"mask is {mask.dtype} of shape {tuple(mask.shape)}: pass {len(policy)} bools")
    keep = 1.0 if mask is None else mask.to(policy.dtype)
    terms = policy * keep
    if weights is not None:
        check_tokens(policy=policy, weights=weights)
        terms = terms * weights.detach()
    if beta:
        if kl is None or beta < 0:
            raise ValueError(f"beta is {beta} and kl {'missing' if kl is None else 'given'}: pass kl_terms, beta >= 0")
        check_tokens(policy=policy, kl=kl)
        terms = terms + beta * kl
    if entropy_coefficient:
        if entropies is None:
            raise ValueError(f"entropy_coefficient is {entropy_coefficient}: pass the entropies of the tokens too")
        check_tokens(policy=policy, entropies=entropies)
        terms = terms - entropy_coefficient * entropies * keep
    return terms


def soft_overlong_punishment(lengths: Tensor, *, max_length: int, buffer: int) -> Tensor:
    """DAPO's penalty for long responses, to be added to their rewards.

    0 up to `max_length - buffer`, then falling linearly to -1 at `max_length`, -1 beyond. Source: arXiv 2503.14476;
    TRL 1.16 `trl.rewards.get_soft_overlong_punishment`.

    Args:
        lengths: [R] int64, tokens of each response.
        max_length: the length limit, in tokens.
        buffer: length of the slope, in tokens, in [1, max_length].

    Returns:
        [R] float32 in [-1, 0].

    Raises:
        ValueError: buffer is out of its range.
    """
    if not 1 <= buffer <= max_length:
        raise ValueError(f"buffer is {buffer}, max_length {max_length}: 1 <= buffer <= max_length, e.g. a fifth of it")
    return ((max_length - buffer - lengths).double() / buffer).clamp(-1, 0).float()


@dataclass(frozen=True)
class PolicyMetrics:
    """Sums over this rank's kept tokens. Over ranks, add `sums` and take the maximum of `maxima`."""

    sums: Tensor
    """[9] float64, in the order of `NAMES`, after the number of tokens."""
    maxima: Tensor
    """[2] float64: the largest ratio, and minus the smallest; -inf without tokens."""

    NAMES = (
        "ratio",
        "clip_low",
        "clip_high",
        "kl_old_k1",
        "kl_old_k3",
        "kl_reference_k1",
        "kl_reference_k3",
        "entropy",
    )

    def means(self) -> dict[str, float]:
        """Means per token under `NAMES`, with `ratio_min` and `ratio_max`. Empty without tokens."""
        tokens, *sums = self.sums.tolist()
        if not tokens:
            return {}
        largest, smallest = self.maxima.tolist()
        means = {name: total / tokens for name, total in zip(self.NAMES, sums, strict=True)}
        return means | {"ratio_min": -smallest, "ratio_max": largest}


def policy_metrics(
    log_probs: Tensor,
    old: Tensor,
    log_ratio: Tensor,
    advantages: Tensor,
    kept: Tensor,
    *,
    ratio_min: float,
    ratio_max: float,
    reference: Tensor | None = None,
    entropies: Tensor | None = None,
) -> PolicyMetrics:
    """Measure how far the policy has moved, over the kept tokens of this rank, without gradients.

    - `ratio`: mean, smallest and largest `exp(log_ratio)`.
    - `clip_low`: part of the tokens with A < 0 and a ratio below `ratio_min`; `clip_high`: with A > 0 and above
      `ratio_max`. These are the tokens that clipping leaves without gradient (TRL's `clip_ratio/low_mean`,
      `high_mean`, `cispo_clip_ratio`).
    - `kl_old_*`: KL(old || policy), `k1 = old - log_probs`, `k3 = ρ - log ρ - 1`, of the token ratio.
    - `kl_reference_*`: KL(policy || reference) as in `kl_terms`; 0 without reference. `entropy`: 0 without entropies.

    Args:
        log_probs, old, log_ratio, advantages: [N], as for the loss.
        kept: [N] bool, the response of the token is kept: `kept[response]`.
        ratio_min, ratio_max: bounds of the ratio; `1 - clip_low` and `1 + clip_high`, or CISPO's.
        reference: [N] or None.
        entropies: [N] or None.

    Raises:
        ValueError: the shapes differ, or a value is not finite.
    """
    tokens = {
        "log_probs": log_probs,
        "old": old,
        "log_ratio": log_ratio,
        "advantages": advantages,
        "reference": log_probs if reference is None else reference,
        "entropies": torch.zeros_like(log_probs) if entropies is None else entropies,
    }
    check_tokens(allow_nan="", **tokens)
    if kept.shape != log_probs.shape or kept.dtype != torch.bool:
        raise ValueError(f"kept is {kept.dtype} of shape {tuple(kept.shape)}: pass {len(log_probs)} bools")
    values = {name: tensor.detach()[kept].double() for name, tensor in tokens.items()}
    ratio, sign = _exp(values["log_ratio"]), values["advantages"]
    moved, distance = values["log_probs"] - values["old"], values["log_probs"] - values["reference"]
    columns = (
        torch.ones_like(ratio),
        ratio,
        (sign < 0) & (ratio < ratio_min),
        (sign > 0) & (ratio > ratio_max),
        -moved,
        _k3(moved),
        distance,
        _k3(-distance),
        values["entropies"],
    )
    edge = ratio.new_tensor([-torch.inf])
    maxima = torch.stack([torch.cat([ratio, edge]).max(), torch.cat([-ratio, edge]).max()])
    return PolicyMetrics(torch.stack([column.double().sum() for column in columns]), maxima)


def response_means(values: Tensor, response: Tensor, lengths: Tensor, reduce: Reduce = identity) -> Tensor:
    """Mean [R] float64 of detached token values over each response and all ranks that share it; 0 for an empty one.

    Args:
        values: [N] float.
        response: [N] int64.
        lengths: [R] int64, supervised tokens on all those ranks.
        reduce: adds float64 sums [R] over those ranks.

    Raises:
        ValueError: a response index is outside [0, R), or a response has more tokens here than its length.
    """
    _check_index(values, response, len(lengths))
    here = torch.bincount(response, minlength=len(lengths))
    if (here > lengths).any():
        at = int((here > lengths).nonzero()[0])
        raise ValueError(
            f"response {at} has {int(here[at])} tokens on this rank and lengths[{at}] is {int(lengths[at])}: lengths "
            "count the supervised tokens on all ranks that share the row"
        )
    sums = torch.zeros(len(lengths), dtype=torch.float64, device=values.device)
    return reduce(sums.index_add(0, response, values.detach().double())) / lengths.clamp(min=1)


def check_tokens(*, allow_nan: str = "", **tensors: Tensor) -> None:
    """Raise unless all are 1-D token tensors of equal length with finite values.

    Tensors with a graph may hold any value: those are results of the step itself, and `train_step` finds a loss that is
    not finite on all ranks and names the samples. An error on one rank would leave the others waiting.

    Args:
        allow_nan: name of a tensor that may hold NaN.
        tensors: by the name that an error gives them; the first one's length is taken as right.

    Raises:
        ValueError: a shape, a dtype below float32, NaN or infinity; names the tensor, the value and what to do.
    """
    first, length = next((name, tensor.shape) for name, tensor in tensors.items())
    for name, tensor in tensors.items():
        if tensor.dim() != 1:
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)}: token tensors are 1-D over this rank's supervised tokens; "
                "index a padded tensor with its mask"
            )
        if tensor.shape != length:
            raise ValueError(f"{name} has {len(tensor)} tokens, {first} {length[0]}: cut both by the same plan")
        if tensor.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"{name} is {tensor.dtype}: ratios need float32; compute it in float32, then call this")
        if tensor.requires_grad:
            continue
        wrong = tensor.isinf() if name == allow_nan else ~tensor.isfinite()
        if wrong.any():
            at = int(wrong.nonzero()[0])
            raise ValueError(
                f"{name}[{at}] of {len(tensor)} tokens is {float(tensor[at])}: it must be finite; stop the step and "
                "check the weights, the learning rate, or the engine that computed it"
            )


def _check_index(values: Tensor, response: Tensor, responses: int) -> None:
    if response.shape != values.shape or response.dtype != torch.int64:
        raise ValueError(
            f"response is {response.dtype} of shape {tuple(response.shape)} for {len(values)} tokens: pass one int64 "
            "index per token"
        )
    outside = (response < 0) | (response >= responses)
    if outside.any():
        at = int(outside.nonzero()[0])
        raise ValueError(f"response[{at}] is {int(response[at])}: indices are in [0, {responses}), one per response")


def _check_responses(lengths: Tensor, **tensors: Tensor) -> None:
    for name, tensor in tensors.items():
        if lengths.dim() != 1 or tensor.shape != lengths.shape or tensor.dtype != torch.bool:
            raise ValueError(
                f"{name} is {tensor.dtype} of shape {tuple(tensor.shape)}, lengths has shape {tuple(lengths.shape)}: "
                "pass one bool and one length per response"
            )


def _exp(log_ratio: Tensor) -> Tensor:
    return log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()


def _k3(log_ratio: Tensor) -> Tensor:
    """`exp(x) - x - 1` of x = log(q / p): an estimate of KL(p || q) from samples of p."""
    x = log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    return x.exp() - x - 1
