"""Metrics of one step of a GRPO run, over all ranks, from its rollouts and its update."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from schemas.base import Fraction, Model
from trainer_plugin.rl.rollout import Finish
from trainer_plugin.rl.rollout_table import RolloutRow, RolloutStatus
from trainer_plugin.training.metrics import duration, flatten_numbers


class GroupCounts(Model):
    """Numbers of groups of a step. A group is one prompt with its responses."""

    total: int
    """All groups that were sampled, in all rounds."""
    all_right: int
    """Groups whose known answers are all right."""
    all_wrong: int
    """Groups whose known answers are all wrong."""
    without_signal: int
    """Groups in which all known rewards are equal, or at most one is known."""
    kept: int
    """Groups with a response that counts in the loss."""
    rounds: int
    """Rounds of sampling, 1 without refill."""


class ResponseCounts(Model):
    """Number, lengths and endings of the responses of a step."""

    total: int
    mean_tokens: float
    max_tokens: int
    truncated: Fraction
    """Share that ended at the length limit."""
    empty: Fraction
    """Share without text."""
    failed: Fraction
    """Share without a known reward."""


class GrpoMetrics(Model):
    """Metrics of one step: all its rounds of sampling, and its optimizer updates."""

    step: int
    """One-based number of the step."""
    reward_mean: float | None
    """Mean weighted reward over all responses with one, also of groups that were dropped."""
    reward_std: float | None
    """Its standard deviation over the responses."""
    reward: dict[str, float]
    """Mean of each reward where it applies, by name."""
    reward_by_kind: dict[str, float]
    reward_by_category: dict[str, float]
    accuracy: float | None
    """Share of right answers among those for which a reward states it (`rollout_table.find_right`)."""
    accuracy_by_kind: dict[str, float]
    accuracy_by_category: dict[str, float]
    groups: GroupCounts
    responses: ResponseCounts
    entropy: float | None
    """Mean over all sampled tokens, also of dropped groups, of their negative log-probability, in nats. This is an
    unbiased estimate of the entropy at the sampling temperature. `policy["entropy"]` is exact and without dropped
    groups."""
    policy: dict[str, float]
    """`UpdateReport.policy`: KL, clipped shares, ratios and the entropy. Empty without an update."""
    mismatch: dict[str, float]
    """`rollout_correction.Mismatch.metrics`, and `k3_max`: the largest mean k3 of a response. Empty without values."""
    loss: float | None
    """Mean loss of the step's updates; None without an update."""
    grad_norm: float | None
    """Mean gradient norm before clipping."""
    learning_rate: float
    seconds: float
    """Wall time since the end of the last step or checkpoint."""
    phases: dict[str, float]
    """Seconds of the slowest rank by phase, such as `rollout` or `update`."""
    response_tokens: int
    """Sampled tokens."""
    tokens: int
    """Sampled tokens and those of the prompts, each prompt once per group."""
    response_tokens_per_second: float
    tokens_per_second: float
    memory_bytes: int
    """As in `StepMetrics`."""
    skipped: dict[str, int]
    """Samples skipped so far: counts by reason."""
    steps: int | None = None
    """Number of steps of the whole run; None if the run counts epochs."""
    share_done: float | None = None
    """Fraction of the whole run that is done, from 0 to 1."""
    seconds_left: float | None = None
    """Estimated time left, from the speed since the run was last started."""

    @classmethod
    def of_rollouts(
        cls,
        rows: Sequence[RolloutRow],
        *,
        updates: Sequence[tuple[float, float]],
        seconds: float,
        mismatch: Mapping[str, float],
        **values: Any,
    ) -> GrpoMetrics:
        """The metrics of a step.

        Args:
            rows: all responses of the step. Those of a group are neighbours, in the order of their numbers.
            updates: loss and gradient norm of each optimizer step.
            seconds: wall time of the step.
            mismatch: `Mismatch.metrics`.
            values: the other fields that do not follow from the rows.
        """
        groups = _divide_groups(rows)
        totals = [row.reward for row in rows if row.reward is not None]
        rights = [float(row.right) for row in rows if row.right is not None]
        response_tokens = sum(row.response_tokens for row in rows)
        tokens = response_tokens + sum(group[0].prompt_tokens for group in groups)
        k3 = [row.mismatch_k3 for row in rows if row.mismatch_k3 is not None]
        named: defaultdict[str, list[float]] = defaultdict(list)
        for row in rows:
            for reward in row.rewards:
                named[reward.name] += [] if reward.value is None else [reward.value]
        log_probs = sum(row.log_prob * row.response_tokens for row in rows)
        return cls(
            reward_mean=statistics.fmean(totals) if totals else None,
            reward_std=statistics.pstdev(totals) if totals else None,
            reward={name: statistics.fmean(found) for name, found in named.items() if found},
            reward_by_kind=_means(rows, lambda row: row.kind, lambda row: row.reward),
            reward_by_category=_means(rows, lambda row: row.category, lambda row: row.reward),
            accuracy=statistics.fmean(rights) if rights else None,
            accuracy_by_kind=_means(rows, lambda row: row.kind, lambda row: row.right),
            accuracy_by_category=_means(rows, lambda row: row.category, lambda row: row.right),
            groups=_count_groups(groups),
            responses=_count_responses(rows),
            entropy=-log_probs / response_tokens if response_tokens else None,
            mismatch={**mismatch, **({"k3_max": max(k3)} if k3 else {})},
            loss=statistics.fmean(loss for loss, _ in updates) if updates else None,
            grad_norm=statistics.fmean(norm for _, norm in updates) if updates else None,
            seconds=seconds,
            response_tokens=response_tokens,
            tokens=tokens,
            response_tokens_per_second=response_tokens / seconds,
            tokens_per_second=tokens / seconds,
            **values,
        )

    def numbers(self) -> dict[str, float]:
        """All numbers by name, those of nested fields as `reward/accuracy`."""
        return flatten_numbers(self)

    def line(self) -> str:
        """The metrics as a line for the console."""
        of = "" if self.steps is None else f" of {self.steps}"
        if self.steps is None and self.share_done is not None:
            of = f" ({self.share_done:.0%})"
        parts = [f"step {self.step}{of}"]
        if self.reward_mean is not None:
            parts.append(f"reward {self.reward_mean:.3f} ± {self.reward_std:.3f}")
        if self.accuracy is not None:
            parts.append(f"accuracy {self.accuracy:.1%}")
        groups, responses = self.groups, self.responses
        rounds = f" in {groups.rounds} rounds" if groups.rounds > 1 else ""
        parts.append(
            f"groups {groups.kept} of {groups.total} kept{rounds} ({groups.all_right} all right, {groups.all_wrong} "
            f"all wrong)"
        )
        if self.loss is None:
            parts.append("no update")
        else:
            parts.append(f"loss {self.loss:.4f}  grad {self.grad_norm:.3f}  lr {self.learning_rate:.2e}")
        shown = (
            ("kl", "kl_old_k3", self.policy),
            ("ref kl", "kl_reference_k3", self.policy),
            ("k3", "k3", self.mismatch),
        )
        parts += [f"{name} {found[key]:.2g}" for name, key, found in shown if found.get(key)]
        if self.policy:
            parts.append(f"clip {self.policy['clip_low'] + self.policy['clip_high']:.2%}")
        if self.entropy is not None:
            parts.append(f"entropy {self.entropy:.3f}")
        parts.append(
            f"length {responses.mean_tokens:.0f} (max {responses.max_tokens}, {responses.truncated:.0%} truncated)"
        )
        if responses.failed:
            parts.append(f"failed {responses.failed:.1%}")
        phases = ", ".join(f"{name} {seconds:.1f}" for name, seconds in self.phases.items())
        parts.append(
            f"{self.seconds:.1f} s ({phases}): {self.response_tokens_per_second:,.0f} response tokens/s, "
            f"{self.tokens_per_second:,.0f}/s"
        )
        parts.append(f"memory {self.memory_bytes / 2**30:.1f} GiB")
        if self.skipped:
            parts.append(f"skipped {sum(self.skipped.values())}")
        if self.seconds_left is not None:
            parts.append(f"{duration(self.seconds_left)} left")
        return "  ".join(parts)


def _divide_groups(rows: Sequence[RolloutRow]) -> list[Sequence[RolloutRow]]:
    starts = [
        index
        for index, row in enumerate(rows)
        if index == 0 or row.question_id != rows[index - 1].question_id or row.number <= rows[index - 1].number
    ]
    return [rows[first:end] for first, end in pairwise([*starts, len(rows)])]


def _count_groups(groups: Sequence[Sequence[RolloutRow]]) -> GroupCounts:
    rights = [[row.right for row in group if row.right is not None] for group in groups]
    return GroupCounts(
        total=len(groups),
        all_right=sum(bool(found) and all(found) for found in rights),
        all_wrong=sum(bool(found) and not any(found) for found in rights),
        without_signal=sum(len({row.reward for row in group if row.reward is not None}) < 2 for group in groups),
        kept=sum(any(row.status is RolloutStatus.KEPT for row in group) for group in groups),
        rounds=max((row.round for group in groups for row in group), default=-1) + 1,
    )


def _count_responses(rows: Sequence[RolloutRow]) -> ResponseCounts:
    count = max(1, len(rows))
    return ResponseCounts(
        total=len(rows),
        mean_tokens=sum(row.response_tokens for row in rows) / count,
        max_tokens=max((row.response_tokens for row in rows), default=0),
        truncated=sum(row.finish is Finish.LENGTH for row in rows) / count,
        empty=sum(not row.response.strip() for row in rows) / count,
        failed=sum(row.reward is None for row in rows) / count,
    )


def _means(
    rows: Iterable[RolloutRow], key: Callable[[RolloutRow], str], value: Callable[[RolloutRow], float | None]
) -> dict[str, float]:
    """The mean of the known values of rows by key, in the order of the keys."""
    found: defaultdict[str, list[float]] = defaultdict(list)
    for row in rows:
        if (known := value(row)) is not None:
            found[str(key(row))].append(float(known))
    return {name: statistics.fmean(values) for name, values in sorted(found.items())}
