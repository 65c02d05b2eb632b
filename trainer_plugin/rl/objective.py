"""The objective of a policy update: which terms its loss has, and the loss of one row.

    values = RowValues(response=plan.responses, lengths=..., advantages=..., weights=..., old=..., reference=...)
    train_step(model, optimizer, [rank_input], row_loss(objective, values, ranks.sp_group), entropy=True)

`RowValues` are the same on all ranks that share the row. Each rank takes those of its tokens by
`RankPlan.supervised_index`, as the plan cuts targets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch.distributed as dist
from pydantic import Field, model_validator
from torch import Tensor
from torch.distributed import ProcessGroup

from schemas.base import Model
from trainer_plugin.model import RankInput
from trainer_plugin.rl import losses
from trainer_plugin.rl.losses import KL, Aggregation, PolicyMetrics
from trainer_plugin.training.chunked_groups import LossFunction


class Objective(Model):
    """Terms of the loss. The defaults are DAPO's (arXiv 2503.14476)."""

    policy: Literal["clip", "gspo", "cispo", "reinforce"] = "clip"
    """`clip`: PPO's clipped ratio per token (GRPO, Dr.GRPO, DAPO). `gspo`: the same with the ratio of the response.
    `cispo`: bounded ratios as weights. `reinforce`: no ratio, for one update per rollout (RLOO, REINFORCE++)."""
    aggregation: Aggregation = "token_mean"
    clip_low: float = Field(default=0.2, gt=0, le=1)
    clip_high: float = Field(default=0.28, gt=0)
    dual_clip: float | None = Field(default=None, gt=1)
    delta: float | None = Field(default=None, gt=1)
    ratio_min: float = Field(default=0.0, ge=0)
    """CISPO's bounds of the ratio itself."""
    ratio_max: float = Field(default=5.0, gt=0)
    beta: float = Field(default=0.0, ge=0)
    """Coefficient of the KL term. With 0 no reference is computed."""
    kl: KL = "k3"
    entropy_coefficient: float = 0.0
    top_entropy: float = Field(default=1.0, gt=0, le=1)
    """Part of the tokens, those of highest entropy, that have a policy term; 1 for all."""

    @model_validator(mode="after")
    def _agree(self) -> Objective:
        if self.ratio_min >= self.ratio_max:
            raise ValueError(f"ratio_min {self.ratio_min} must be below ratio_max {self.ratio_max}")
        if self.delta is not None and self.delta <= 1 + self.clip_high:
            raise ValueError(f"delta {self.delta} must be above 1 + clip_high = {1 + self.clip_high}")
        return self

    @property
    def ratio_bounds(self) -> tuple[float, float]:
        """Smallest and largest ratio that is not clipped."""
        if self.policy == "cispo":
            return self.ratio_min, self.ratio_max
        return 1 - self.clip_low, 1 + self.clip_high

    @property
    def needs_entropy(self) -> bool:
        """Whether the policy's entropies enter the loss."""
        return self.entropy_coefficient != 0


@dataclass(frozen=True)
class RowValues:
    """Values of the R responses of one row, and of their tokens in the order of the row's supervised tokens."""

    response: Tensor
    """int64 [tokens]: number of the token's response (`SequencePlan.responses`)."""
    lengths: Tensor
    """int64 [R]: number of tokens of each response."""
    advantages: Tensor
    """float32 [R]."""
    weights: Tensor
    """float32 [R]: weight of each token of the response in the loss of the step (`losses.token_weights`); 0 for
    responses that are not kept."""
    correction: Tensor | None = None
    """float32 [tokens]: importance weights of the rollout correction; None for 1."""
    old: Tensor | None = None
    """float32 [tokens]: log-probabilities before the update; None on policy, where they are the policy's own."""
    reference: Tensor | None = None
    """float32 [tokens]: log-probabilities of the reference; needed if `beta` is not 0."""
    mask: Tensor | None = None
    """bool [tokens]: tokens that have a policy term (`losses.high_entropy_mask`); None for all."""

    def cut(self, index: Tensor) -> RowValues:
        """The same responses with the values of some tokens, on the device of `index` [N]."""
        per_token = {name: getattr(self, name) for name in ("response", "correction", "old", "reference", "mask")}
        found: dict[str, Any] = {
            name: None if each is None else each.to(index.device)[index] for name, each in per_token.items()
        }
        found |= {name: getattr(self, name).to(index.device) for name in ("lengths", "advantages", "weights")}
        return replace(self, **found)


def row_loss(
    objective: Objective,
    values: RowValues,
    group: ProcessGroup | None = None,
    record: Callable[[PolicyMetrics], None] | None = None,
) -> LossFunction:
    """The loss function of one row for `train_step` and `add_gradients`.

    Args:
        objective: terms of the loss.
        values: of the row's responses.
        group: the ranks that share the row.
        record: is given this rank's metrics of the row's kept tokens.

    Raises:
        ValueError: from the loss function, if values are missing or do not fit the row.
    """

    def loss(row: RankInput, log_probs: Tensor, entropies: Tensor | None) -> Tensor:
        mine = values.cut(row.plan.supervised_index)
        old = log_probs if mine.old is None else mine.old  # no gradient flows into it
        advantages = mine.advantages[mine.response]
        ratio = token_ratio = losses.token_log_ratio(log_probs, old)
        if objective.policy == "gspo":
            reduce = partial(_sum, group=group)
            ratio = losses.sequence_log_ratio(log_probs, old, mine.response, mine.lengths, reduce)
        kl = None
        if objective.beta:
            if mine.reference is None:
                raise ValueError(
                    f"beta is {objective.beta}, but there are no reference log-probabilities; compute them"
                )
            kl = losses.kl_terms(objective.kl, log_probs, mine.reference, token_ratio)
        terms = losses.token_terms(
            _policy_terms(objective, log_probs, ratio, advantages),
            weights=mine.correction,
            mask=mine.mask,
            kl=kl,
            beta=objective.beta,
            entropies=entropies,
            entropy_coefficient=objective.entropy_coefficient,
        )
        if record is not None:
            kept = mine.weights[mine.response] != 0
            low, high = objective.ratio_bounds
            record(
                losses.policy_metrics(
                    log_probs,
                    old,
                    ratio,
                    advantages,
                    kept,
                    ratio_min=low,
                    ratio_max=high,
                    reference=mine.reference,
                    entropies=entropies,
                )
            )
        return losses.step_loss(terms, mine.response, mine.weights)

    return loss


def _policy_terms(objective: Objective, log_probs: Tensor, log_ratio: Tensor, advantages: Tensor) -> Tensor:
    """The policy term of each token, [N]."""
    if objective.policy == "reinforce":
        return losses.reinforce_terms(log_probs, advantages)
    if objective.policy == "cispo":
        low, high = objective.ratio_bounds
        return losses.cispo_terms(log_probs, log_ratio, advantages, ratio_min=low, ratio_max=high)
    return losses.clipped_terms(
        log_ratio,
        advantages,
        clip_low=objective.clip_low,
        clip_high=objective.clip_high,
        dual_clip=objective.dual_clip,
        delta=objective.delta,
    )


def _sum(sums: Tensor, group: ProcessGroup | None) -> Tensor:
    if group is not None:
        dist.all_reduce(sums, group=group)
    return sums
