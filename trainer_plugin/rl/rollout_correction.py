"""Correction for an inference engine that samples from slightly other probabilities than the trainer computes.

The engine's kernels, precision and batching differ from the trainer's, so `old` (the trainer's log-probs of the
policy that sampled) and `rollout` (the engine's log-probs of the same tokens) differ. Here are importance weights of
tokens, the rejection of whole responses, and the measurement of the mismatch. Shapes as in `losses`.

A rollout log-prob of NaN is one the engine did not return. Its ratio counts as 1, as in TRL 1.16.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer_plugin.rl.losses import MAX_LOG_RATIO, Reduce, check_tokens, identity, response_means


def truncated_weights(old: Tensor, rollout: Tensor, *, cap: float) -> Tensor:
    """Truncated importance weight of each token (token TIS): `min(exp(old - rollout), cap)`.

    Source: https://fengyao.notion.site/off-policy-rl; verl `rollout_corr_helper.py` (cap 2), TRL 1.16 `token_truncate`
    (cap 3).

    Args:
        old: [N] of the trainer.
        rollout: [N] of the engine; NaN gives a weight of 1.
        cap: largest weight, at least 1.

    Returns:
        [N] without gradient, for `losses.token_terms`.

    Raises:
        ValueError: the shapes differ, a log-prob is infinite or old is NaN, or cap is below 1.
    """
    if not cap >= 1:
        raise ValueError(f"cap is {cap}: it bounds importance weights from above and must let 1 pass; use e.g. 2.0")
    return _log_ratio(old, rollout).exp().clamp(max=cap)


def masked_weights(old: Tensor, rollout: Tensor, *, low: float, high: float) -> Tensor:
    """Masked importance weight of each token (MIS, IcePop): `exp(old - rollout)`, and 0 outside [low, high].

    Source: IcePop, arXiv 2510.18855 (0.5 and 5); TRL 1.16 `token_mask`. A token with weight 0 stays in the denominator
    of the loss (`losses.token_weights`).

    Args:
        old: [N] of the trainer.
        rollout: [N] of the engine; NaN gives a weight of 1.
        low: smallest ratio that is kept, in (0, 1].
        high: largest ratio that is kept, at least 1.

    Returns:
        [N] without gradient, for `losses.token_terms`.

    Raises:
        ValueError: the shapes differ, a log-prob is infinite or old is NaN, or the bounds do not fit.
    """
    _check_range(low, high)
    ratio = _log_ratio(old, rollout).exp()
    return torch.where((ratio >= low) & (ratio <= high), ratio, 0)


def geometric_accepted(
    old: Tensor,
    rollout: Tensor,
    response: Tensor,
    lengths: Tensor,
    *,
    low: float,
    high: float,
    reduce: Reduce = identity,
) -> Tensor:
    """Responses whose geometric mean ratio is within bounds: `low <= exp(mean(old - rollout)) <= high`.

    The mean does not grow with the length, unlike the product of ratios that TRL's default `sequence_mask` bounds.
    Source: verl `rollout_corr_helper.py`, `geometric` (0.999 and 1.001, which is tight for bfloat16; start with 0.99
    and 1.01). A rejected response leaves the denominators too: pass the result to `losses.kept_responses` before
    anything is counted.

    Args:
        old: [N] of the trainer.
        rollout: [N] of the engine; NaN counts as equal to old.
        response: [N] int64.
        lengths: [R] int64, supervised tokens on all ranks that share the row.
        low: in (0, 1].
        high: at least 1.
        reduce: adds float64 sums [R] over those ranks. Every one of them must call this function.

    Returns:
        [R] bool, equal on all ranks that share the row; True for an empty response.

    Raises:
        ValueError: the shapes differ, a log-prob is infinite or old is NaN, a response index or length is wrong, or the
            bounds do not fit.
    """
    _check_range(low, high)
    ratio = response_means(_log_ratio(old, rollout), response, lengths, reduce).exp()
    return (ratio >= low) & (ratio <= high)


def old_from_rollout(rollout: Tensor, log_probs: Tensor) -> Tensor:
    """The engine's log-probs in place of the old ones (verl's `bypass_mode`), so that no pass for old is needed.

    The policy ratio then corrects both for the engine and for earlier updates of the step. Use no importance weights
    with it. Where the engine returned NaN, it is the policy's own log-prob, so the ratio is 1.

    Args:
        rollout: [N] of the engine, with NaN where unknown.
        log_probs: [N] of the policy.

    Returns:
        [N] without gradient.

    Raises:
        ValueError: the shapes differ, or a value is infinite, or a log-prob of the policy is NaN.
    """
    check_tokens(log_probs=log_probs, rollout=rollout, allow_nan="rollout")
    return torch.where(rollout.isnan(), log_probs, rollout).detach()


@dataclass(frozen=True)
class Mismatch:
    """Sums per bucket of positions over this rank's kept tokens. Over ranks, add `sums`."""

    edges: tuple[int, ...]
    """First position of each bucket but the first, which begins at 0."""
    sums: Tensor
    """[len(edges) + 1, 6] float64: tokens with a rollout log-prob, tokens without, `rollout - old`, k3, ratio, and
    ratio²."""

    def metrics(self) -> dict[str, float]:
        """Metrics over all tokens, and of each bucket with its first position, such as `k3@1024`.

        With x = old - rollout, over tokens that have a rollout log-prob:

        - `k1`: mean(-x), `k3`: mean(exp(x) - x - 1). Both estimate KL(rollout || old) in nats. An alarm on k3 finds a
          trainer and an engine that disagree about the input (prime-rl #2786: 5.24 before, 0.001 after).
        - `perplexity_ratio`: exp(mean(-x)), the trainer's perplexity of the tokens divided by the engine's.
        - `effective_sample_size`: (Σw)² / (n Σw²) of w = exp(x), in (0, 1]; 1 for equal weights.
        - `unscored`: part of all tokens without a rollout log-prob.

        Source: verl `rollout_corr_helper.py`, `compute_offpolicy_metrics`. verl's perplexity ratio is a mean over
        responses, this one is over tokens. A bucket without scored tokens has no entry but `unscored`.
        """
        found: dict[str, float] = {}
        starts = ("", *(f"@{start}" for start in (0, *self.edges))) if self.edges else ("",)
        for suffix, row in zip(starts, [self.sums.sum(0), *self.sums], strict=False):
            scored, unscored, k1, k3, ratio, squares = row.tolist()
            if scored + unscored:
                found[f"unscored{suffix}"] = unscored / (scored + unscored)
            if scored:
                found[f"k1{suffix}"] = k1 / scored
                found[f"k3{suffix}"] = k3 / scored
                found[f"perplexity_ratio{suffix}"] = float(torch.tensor(k1 / scored, dtype=torch.float64).exp())
                found[f"effective_sample_size{suffix}"] = ratio * ratio / (scored * squares)
        return found


def measure_mismatch(
    old: Tensor, rollout: Tensor, kept: Tensor, positions: Tensor, edges: Sequence[int] = ()
) -> Mismatch:
    """Measure how far the engine's log-probs are from the trainer's, by the position of the token in its response.

    A mismatch that grows with the position points at rope, caches or a recurrent state; an even one at precision.

    Args:
        old: [N] of the trainer.
        rollout: [N] of the engine, NaN where unknown.
        kept: [N] bool, tokens that count. Pass what was kept before the rejection by mismatch, or it hides itself.
        positions: [N] int64, index of the token in its response, from 0.
        edges: first positions of the second and further buckets, ascending and positive; none for one bucket.

    Raises:
        ValueError: the shapes differ, a log-prob is infinite or old is NaN, or edges are not ascending and positive.
    """
    for name, tensor, dtype in (("kept", kept, torch.bool), ("positions", positions, torch.int64)):
        if tensor.shape != old.shape or tensor.dtype != dtype:
            raise ValueError(
                f"{name} is {tensor.dtype} of shape {tuple(tensor.shape)}, old has shape {tuple(old.shape)}: pass one "
                f"{dtype} per token"
            )
    if list(edges) != sorted({edge for edge in edges if edge > 0}):
        raise ValueError(f"edges are {list(edges)}: give ascending positive positions, e.g. 256, 1024, 4096")
    x = _log_ratio(old.double(), rollout.double())
    scored = ~rollout.isnan()
    columns = torch.stack([scored.double(), (~scored).double(), -x, x.exp() - x - 1, x.exp(), (2 * x).exp()], dim=1)
    columns[:, 2:] *= scored[:, None]
    bounds = torch.tensor(edges, dtype=torch.int64, device=old.device)
    bucket = torch.bucketize(positions, bounds, right=True)
    sums = torch.zeros(len(edges) + 1, 6, dtype=torch.float64, device=old.device)
    return Mismatch(tuple(edges), sums.index_add(0, bucket[kept], columns[kept]))


def _log_ratio(old: Tensor, rollout: Tensor) -> Tensor:
    """`old - rollout` without gradient, 0 where rollout is NaN, clamped so that its exponential is finite."""
    check_tokens(old=old, rollout=rollout, allow_nan="rollout")
    return (old - rollout).detach().nan_to_num(nan=0.0).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)


def _check_range(low: float, high: float) -> None:
    if not 0 < low <= 1 <= high:
        raise ValueError(
            f"low is {low}, high {high}: they bound a ratio around 1, 0 < low <= 1 <= high, e.g. 0.5 and 5"
        )
