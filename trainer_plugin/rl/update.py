"""The policy updates of one rollout: rows of groups, their log-probabilities, the weights of the loss, and the steps.

All ranks have the responses, rewards and advantages of all groups. They pack the groups into the same rows, and each
data-parallel rank trains on its own. What a rank computes of its rows alone, such as which responses the rollout
correction rejects, is added over all ranks before it enters a denominator.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import pairwise
from typing import Literal

import torch
import torch.distributed as dist
from pydantic import Field, model_validator
from torch import Tensor
from torch.optim import Optimizer

from schemas.base import Model
from schemas.errors import BadInput
from trainer_plugin.distributed.mesh import run_on_all_ranks
from trainer_plugin.distributed.sequence_plan import SequencePlan
from trainer_plugin.model import LongVideoModel, RankInput, all_reduce_max, reshard
from trainer_plugin.rl.losses import (
    MAX_LOG_RATIO,
    PolicyMetrics,
    count_kept,
    entropy_threshold,
    high_entropy_mask,
    kept_responses,
    token_weights,
)
from trainer_plugin.rl.objective import Objective, RowValues, row_loss
from trainer_plugin.rl.packing import pack_groups
from trainer_plugin.rl.rollout_correction import (
    Mismatch,
    geometric_accepted,
    masked_weights,
    measure_mismatch,
    truncated_weights,
)
from trainer_plugin.rl.scoring import adapters_off, score, whole_row
from trainer_plugin.training.chunked_groups import ChunkedInput, LossFunction, plan_chunks
from trainer_plugin.training.optimizer_step import NotFinite, StepResult, train_step
from trainer_plugin.types import IGNORED, Example, PromptGroup, VideoClip

ClipReader = Callable[[VideoClip, int, int], Tensor]
"""Returns temporal patches [first, end) of a clip, as an element of `RankInput.pixels`."""

MISMATCH_EDGES = (256, 1024, 4096)
"""Positions in a response at which the buckets of the mismatch begin."""


class CorrectionSettings(Model):
    """Correction for the differences between the log-probabilities of the engine and of the trainer."""

    weights: Literal["truncate", "mask", "none"] = "truncate"
    """Importance weights of tokens: truncated at `cap`; 0 outside of `low` to `high`; or 1."""
    cap: float = Field(default=2.0, ge=1)
    low: float = Field(default=0.5, gt=0, le=1)
    high: float = Field(default=5.0, ge=1)
    geometric: tuple[float, float] | None = (0.99, 1.01)
    """Bounds of the geometric mean ratio of a response. Responses outside are rejected. None: no rejection."""

    @model_validator(mode="after")
    def _bounds_ascend(self) -> CorrectionSettings:
        if self.geometric is not None and not 0 < self.geometric[0] <= 1 <= self.geometric[1]:
            raise ValueError(f"geometric {list(self.geometric)} must be bounds around 1, such as [0.99, 1.01]")
        return self


class UpdateSettings(Model):
    """Number of optimizer steps for each rollout: minibatches times passes."""

    minibatches: int = Field(default=1, ge=1)
    """Number of parts of a rollout, each for an optimizer step of its own."""
    passes: int = Field(default=1, ge=1)
    """Number of passes over a rollout."""


@dataclass(frozen=True)
class RolloutBatch:
    """The groups of one rollout and their R responses, the same on all ranks."""

    groups: tuple[PromptGroup, ...]
    log_probs: tuple[Tensor, ...]
    """Of each response, float32 [tokens]: log-probabilities by the engine that sampled it."""
    advantages: Tensor
    """float32 [R]."""
    scored: Tensor
    """bool [R]: a reward is known."""
    truncated: Tensor
    """bool [R]: the response ended at the length limit, and such responses are masked."""

    @cached_property
    def lengths(self) -> Tensor:
        """int64 [R]: number of tokens of each response."""
        return torch.tensor([len(ids) for group in self.groups for ids in group.responses])

    def select(self, responses: Tensor) -> Tensor:
        """The engine's log-probabilities of the tokens of some responses, float32 [tokens]."""
        return torch.cat([torch.empty(0), *(self.log_probs[number] for number in responses.tolist())])


@dataclass
class UpdateReport:
    """What the updates of one rollout did, the same on all ranks."""

    kept: Tensor
    """bool [R]: responses that count in the loss."""
    accepted: Tensor
    """bool [R]: False for those that the rollout correction rejects."""
    mismatch: dict[str, float]
    """`Mismatch.metrics` over all responses."""
    response_means: Tensor
    """float64 [R, 3]: means over the tokens of each response: rollout - old log-probability, its k3, and the entropy in
    nats. 0 for an empty response. NaN where there was no pass before or in an update."""
    policy: dict[str, float]
    """`PolicyMetrics.means` over all optimizer steps; empty if there are none. `entropy` is the mean over the tokens of
    all responses before the update, in nats."""
    steps: tuple[StepResult, ...]
    """Of each optimizer step. None is taken where no response is kept."""
    tokens: int
    """Number of tokens of all rows, over all data-parallel ranks."""


@dataclass
class _Part:
    """The responses of a row, or of one chunk of it."""

    plan: SequencePlan
    responses: Tensor
    """int64: numbers of its responses in the rollout. Empty for a part that only keeps step with the other ranks."""
    old: Tensor | None = None
    """float32 [tokens], in the order of the supervised tokens, on all ranks that share the row."""
    reference: Tensor | None = None
    entropies: Tensor | None = None


@dataclass(frozen=True)
class _Row:
    """One row of this rank's data-parallel group."""

    clips: tuple[VideoClip, ...]
    parts: tuple[_Part, ...]
    prompt: SequencePlan | None = None
    """The plan of the prompt, if the responses are in chunks."""
    group: PromptGroup | None = None
    """The group, if its responses are in chunks."""


@dataclass(frozen=True)
class _Minibatch:
    """The rows of one optimizer step, and which responses of the rollout are in it."""

    rows: tuple[_Row, ...]
    responses: Tensor
    """bool [R]."""


class PolicyUpdate:
    """Updates a model from rollouts. Every rank must call its methods with the same rollout."""

    def __init__(
        self,
        model: LongVideoModel,
        optimizer: Optimizer,
        read: ClipReader,
        *,
        objective: Objective,
        correction: CorrectionSettings | None,
        update: UpdateSettings,
        row_tokens: int,
        temperature: float,
        max_response_tokens: int,
        max_norm: float | None,
        reference: LongVideoModel | None = None,
    ) -> None:
        """
        Args:
            read: returns the frames or features of a clip.
            correction: None: the engine's log-probabilities count as equal to the trainer's.
            row_tokens: maximum number of tokens of a row.
            temperature: that of the sampling.
            max_response_tokens: length limit of responses.
            max_norm: as in `train_step`.
            reference: the reference model, if `objective.beta` is not 0 and the policy does not train adapters. None:
                the policy without its adapters.
        """
        self.model = model
        self.optimizer = optimizer
        self.read = read
        self.objective = objective
        self.correction = correction
        self.update = update
        self.row_tokens = row_tokens
        self.temperature = temperature
        self.max_response_tokens = max_response_tokens
        self.max_norm = max_norm
        self.reference = reference

    @property
    def scores_first(self) -> bool:
        """Whether the old log-probabilities are computed in a pass of their own, before the update."""
        several = self.update.minibatches * self.update.passes > 1
        return self.correction is not None or several or self.objective.top_entropy < 1

    def run(self, batch: RolloutBatch) -> UpdateReport:
        """Take the optimizer steps of one rollout. Every rank must call it.

        Raises:
            NotFinite: on every rank, if a log-probability, the loss or the gradient norm of a step is not finite. That
                step was not applied.
            BadInput: on every rank, if a group does not fit a row, or the frames or features of a video do not fit.
        """
        minibatches = self._plan_minibatches(batch)
        rows = [row for minibatch in minibatches for row in minibatch.rows]
        measured = _Measured(batch)
        if self.scores_first:
            self._score_old(rows, measured)
        if self.objective.beta:
            self._score_reference(rows)
        accepted = self._find_accepted(batch, rows)
        kept = kept_responses(batch.lengths, scored=batch.scored, truncated=batch.truncated, accepted=accepted)
        threshold = self._entropy_threshold(kept, rows)
        steps = []
        for _ in range(self.update.passes):
            for minibatch in minibatches:
                chosen = kept & minibatch.responses
                if chosen.any():
                    losses = self._losses(batch, minibatch, chosen, threshold, measured)
                    steps.append(self._step(minibatch, losses))
        return UpdateReport(kept, accepted, *measured.reduce(), steps=tuple(steps), tokens=self._count_tokens(rows))

    def _plan_minibatches(self, batch: RolloutBatch) -> list[_Minibatch]:
        sizes = [len(group.responses) for group in batch.groups]
        owner = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
        count = min(self.update.minibatches, len(sizes))
        bounds = [len(sizes) * number // count for number in range(count + 1)]
        planned = run_on_all_ranks(
            lambda: [self._plan_rows(batch, range(first, end), owner) for first, end in pairwise(bounds)]
        )
        parts = iter(all_reduce_max(*(len(row.parts) for rows in planned for row in rows)))
        filled = run_on_all_ranks(
            lambda: [tuple(self._add_idle_chunks(row, next(parts)) for row in rows) for rows in planned]
        )
        return [
            _Minibatch(rows, (owner >= first) & (owner < end))
            for rows, (first, end) in zip(filled, pairwise(bounds), strict=True)
        ]

    def _plan_rows(self, batch: RolloutBatch, numbers: range, owner: Tensor) -> tuple[_Row, ...]:
        """This rank's rows of some groups. All ranks have equally many, of the same kinds."""
        parallel = self.model.parallel
        groups = [batch.groups[number] for number in numbers]
        rounds, unusable = pack_groups(groups, self.row_tokens, parallel.dp)
        if unusable:
            raise BadInput(str(unusable[0]))
        rows = []
        for each in rounds:
            row = each.rows[parallel.dp_rank]
            mine = [groups[number] for number in row.numbers] or [_empty_group(self.model.family.rope_rows)]
            responses = torch.cat(
                [torch.empty(0, dtype=torch.int64)]
                + [(owner == numbers[number]).nonzero()[:, 0] for number in row.numbers]
            )
            plan = self._plan_chunks if each.chunked else self._plan_whole
            rows.append(plan(mine, responses, row.chunk_tokens))
        return tuple(rows)

    def _plan_whole(self, groups: Sequence[PromptGroup], responses: Tensor, _: int | None) -> _Row:
        plan = SequencePlan(groups, self.model.family, self.model.parallel.layout, self.model.costs)
        return _Row(tuple(clip for group in groups for clip in group.prompt.videos), (_Part(plan, responses),))

    def _plan_chunks(self, groups: Sequence[PromptGroup], responses: Tensor, chunk_tokens: int | None) -> _Row:
        [group] = groups
        prompt, chunks = plan_chunks(
            group, chunk_tokens or 1, self.model.family, self.model.parallel.layout, self.model.costs
        )
        parts, first = [], 0
        for chunk in chunks:
            end = first + chunk.response_count
            parts.append(_Part(chunk, responses[first:end]))
            first = end
        return _Row(group.prompt.videos, tuple(parts), prompt, group)

    def _add_idle_chunks(self, row: _Row, count: int) -> _Row:
        """A row in `count` parts: chunks without a response keep step with the ranks that have more."""
        missing = count - len(row.parts)
        if not missing:
            return row
        assert row.group is not None
        idle = replace(row.group, responses=(row.group.prompt.input_ids[:0],))
        plan = SequencePlan([idle], self.model.family, self.model.parallel.layout, self.model.costs, row.prompt)
        return replace(row, parts=(*row.parts, *[_Part(plan, torch.empty(0, dtype=torch.int64))] * missing))

    def _inputs(self, rows: Iterable[_Row]) -> Iterator[RankInput | ChunkedInput]:
        """This rank's input of each row, created when it is requested. All ranks must exhaust it."""
        for row in rows:
            yield run_on_all_ranks(partial(self._input, row))

    def _input(self, row: _Row) -> RankInput | ChunkedInput:
        if row.prompt is None:
            return self._rank_input(row.parts[0].plan, row.clips)
        chunks = tuple(self._rank_input(part.plan, ()) for part in row.parts)
        return ChunkedInput(self._rank_input(row.prompt, row.clips), chunks)

    def _rank_input(self, plan: SequencePlan, clips: Sequence[VideoClip]) -> RankInput:
        mine = plan.rank_plan(self.model.parallel.sp_rank)
        return RankInput(mine, tuple(self.read(clips[each.video], each.first, each.end) for each in mine.frames))

    def _score_old(self, rows: Sequence[_Row], measured: _Measured) -> None:
        """Compute the old log-probabilities and the entropies of all parts."""
        for part, mine, log_probs, entropies in self._score(self.model, rows, entropy=True):
            assert entropies is not None
            measured.add_tokens(part, mine, log_probs, entropies)
            part.old = whole_row(self.model, part.plan, mine, log_probs).cpu()
            part.entropies = whole_row(self.model, part.plan, mine, entropies).cpu()

    def _score_reference(self, rows: Sequence[_Row]) -> None:
        """Compute the reference's log-probabilities of all parts."""
        with adapters_off(self.model) if self.reference is None else nullcontext():
            for part, mine, log_probs, _ in self._score(self.reference or self.model, rows, entropy=False):
                part.reference = whole_row(self.model, part.plan, mine, log_probs).cpu()

    def _score(
        self, model: LongVideoModel, rows: Sequence[_Row], entropy: bool
    ) -> Iterator[tuple[_Part, RankInput, Tensor, Tensor | None]]:
        """Each part with this rank's input, log-probabilities [N] and entropies [N]. All ranks must exhaust it."""
        for number, (row, given) in enumerate(zip(rows, self._inputs(rows), strict=True)):
            inputs = given.chunks if isinstance(given, ChunkedInput) else (given,)
            found = score(model, given, temperature=self.temperature, entropy=entropy)
            wrong = not all(log_probs.isfinite().all() for log_probs, _ in found)
            if any(all_reduce_max(wrong)):
                raise NotFinite(math.nan, math.nan, (number,) if wrong else ())
            for part, mine, (log_probs, entropies) in zip(row.parts, inputs, found, strict=True):
                yield part, mine, log_probs, entropies
        reshard(model)

    def _find_accepted(self, batch: RolloutBatch, rows: Sequence[_Row]) -> Tensor:
        """bool [R]: False for responses that the rollout correction rejects."""
        rejected = torch.zeros(len(batch.lengths), dtype=torch.int32)
        bounds = None if self.correction is None else self.correction.geometric
        if bounds is not None:
            low, high = bounds
            for part in self._filled_parts(rows):
                assert part.old is not None
                lengths = batch.lengths[part.responses]
                accepted = geometric_accepted(
                    part.old, batch.select(part.responses), part.plan.responses, lengths, low=low, high=high
                )
                rejected[part.responses] = (~accepted).to(torch.int32)
            dist.all_reduce(rejected, dist.ReduceOp.MAX)
        return rejected == 0

    def _entropy_threshold(self, kept: Tensor, rows: Sequence[_Row]) -> Tensor | None:
        """Entropy from which on tokens have a policy term; None for all tokens."""
        if self.objective.top_entropy == 1:
            return None
        mine = [torch.empty(0)]
        for part in self._filled_parts(rows) if self.model.parallel.sp_rank == 0 else ():
            assert part.entropies is not None
            mine.append(part.entropies[kept[part.responses][part.plan.responses]])
        found: list[Tensor] = [torch.empty(0)] * self.model.parallel.world_size
        dist.all_gather_object(found, torch.cat(mine))
        return entropy_threshold(torch.cat(found), self.objective.top_entropy)

    def _step(self, minibatch: _Minibatch, losses: Sequence[LossFunction]) -> StepResult:
        """Take one optimizer step. The losses are those of all parts, in the order in which their rows run."""
        waiting = iter(losses)

        def loss(row: RankInput, log_probs: Tensor, entropies: Tensor | None) -> Tensor:
            return next(waiting)(row, log_probs, entropies)

        return train_step(
            self.model,
            self.optimizer,
            self._inputs(minibatch.rows),
            loss,
            max_norm=self.max_norm,
            temperature=self.temperature,
            entropy=self.objective.needs_entropy or not self.scores_first,
        )

    def _losses(
        self,
        batch: RolloutBatch,
        minibatch: _Minibatch,
        kept: Tensor,
        threshold: Tensor | None,
        measured: _Measured,
    ) -> list[LossFunction]:
        """The loss of each part of a minibatch.

        Args:
            kept: bool [R]: responses that count in the loss of this step.
            threshold: of the entropy, as `_entropy_threshold`.
        """
        lengths = batch.lengths
        weights = token_weights(
            self.objective.aggregation, lengths, kept, count_kept(lengths, kept), self.max_response_tokens
        )
        return [
            self._part_loss(batch, part, weights, threshold, measured) for row in minibatch.rows for part in row.parts
        ]

    def _part_loss(
        self, batch: RolloutBatch, part: _Part, weights: Tensor, threshold: Tensor | None, measured: _Measured
    ) -> LossFunction:
        if not len(part.responses):
            return lambda row, log_probs, entropies: log_probs.sum()  # of no tokens
        values = RowValues(
            part.plan.responses,
            batch.lengths[part.responses],
            batch.advantages[part.responses],
            weights[part.responses],
            correction=self._importance_weights(batch, part),
            old=part.old,
            reference=part.reference,
            mask=None if threshold is None or part.entropies is None else high_entropy_mask(part.entropies, threshold),
        )
        loss = row_loss(self.objective, values, self.model.parallel.sp_group, measured.add_policy)
        if self.scores_first:
            return loss

        def measure(row: RankInput, log_probs: Tensor, entropies: Tensor | None) -> Tensor:
            assert entropies is not None
            if log_probs.isfinite().all():  # otherwise the loss is not finite, and `train_step` raises on all ranks
                measured.add_tokens(part, row, log_probs.detach(), entropies.detach())
            return loss(row, log_probs, entropies)

        return measure

    def _importance_weights(self, batch: RolloutBatch, part: _Part) -> Tensor | None:
        if self.correction is None or self.correction.weights == "none":
            return None
        assert part.old is not None
        rollout = batch.select(part.responses)
        if self.correction.weights == "mask":
            return masked_weights(part.old, rollout, low=self.correction.low, high=self.correction.high)
        return truncated_weights(part.old, rollout, cap=self.correction.cap)

    def _filled_parts(self, rows: Sequence[_Row]) -> list[_Part]:
        return [part for row in rows for part in row.parts if len(part.responses)]

    def _count_tokens(self, rows: Sequence[_Row]) -> int:
        plans = [plan for row in rows for plan in (row.prompt, *(part.plan for part in row.parts)) if plan is not None]
        count = torch.tensor(sum(map(len, plans)) if self.model.parallel.sp_rank == 0 else 0)
        dist.all_reduce(count)
        return int(count)


class _Measured:
    """Sums over this rank's tokens, which are added over all ranks at the end."""

    def __init__(self, batch: RolloutBatch) -> None:
        self._batch = batch
        self._mismatch = Mismatch(MISMATCH_EDGES, torch.zeros(len(MISMATCH_EDGES) + 1, 6, dtype=torch.float64))
        self._responses = torch.zeros(len(batch.lengths), 3, dtype=torch.float64)
        self._policy = PolicyMetrics(
            torch.zeros(len(PolicyMetrics.NAMES) + 1, dtype=torch.float64),
            torch.full((2,), -torch.inf, dtype=torch.float64),
        )

    def add_tokens(self, part: _Part, row: RankInput, log_probs: Tensor, entropies: Tensor) -> None:
        """Add this rank's tokens [N] of a part, with their log-probabilities and entropies before the update."""
        if not len(part.responses):
            return
        index = row.plan.supervised_index.cpu()
        old, rollout = log_probs.cpu(), self._batch.select(part.responses)[index]
        lengths = self._batch.lengths[part.responses]
        positions = torch.cat([torch.arange(int(length)) for length in lengths])[index]
        found = measure_mismatch(old, rollout, torch.ones_like(index, dtype=torch.bool), positions, MISMATCH_EDGES)
        self._mismatch.sums.add_(found.sums)
        moved = (rollout - old).double().nan_to_num(nan=0.0).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
        columns = torch.stack([moved, (-moved).exp() + moved - 1, entropies.cpu().double()], dim=1)
        self._responses.index_add_(0, part.responses[part.plan.responses[index]], columns)

    def add_policy(self, metrics: PolicyMetrics) -> None:
        """Add the metrics of this rank's tokens of a part."""
        self._policy.sums.add_(metrics.sums.cpu())
        self._policy.maxima.copy_(torch.maximum(self._policy.maxima, metrics.maxima.cpu()))

    def reduce(self) -> tuple[dict[str, float], Tensor, dict[str, float]]:
        """The fields from `mismatch` to `policy` of `UpdateReport`. Every rank must call it."""
        for sums in (self._mismatch.sums, self._responses, self._policy.sums):
            dist.all_reduce(sums)
        dist.all_reduce(self._policy.maxima, dist.ReduceOp.MAX)
        lengths = self._batch.lengths
        means = self._responses / lengths.clamp(min=1)[:, None]
        if not self._mismatch.sums.any():  # no step was taken, and none needed a pass before it
            means.fill_(torch.nan)
        if policy := self._policy.means():
            policy["entropy"] = float(self._responses[:, 2].sum() / lengths.sum().clamp(min=1))
        return self._mismatch.metrics(), means, policy


def _empty_group(rope_rows: int) -> PromptGroup:
    """A group without supervised tokens, for a rank that has no row in a round."""
    ids = torch.zeros(2, dtype=torch.int64)
    prompt = Example("no group", ids, torch.full_like(ids, IGNORED), torch.arange(2).expand(rope_rows, -1))
    return PromptGroup(prompt, (ids[:0],))
