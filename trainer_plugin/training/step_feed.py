"""The rows of each optimizer step: planned, decoded ahead, cut to this rank's part, and counted over all ranks.

Every trainer takes its steps from a `StepFeed`. If a rank cannot decode a sample, no rank may use its labels: all ranks
agree on this before the forward pass. The feed also saves and restores a run's position in its data, and a `Step` names
its samples if it is not finite.

Not here: the optimizer step itself (`trainer_plugin.training.optimizer_step`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch
import torch.distributed as dist

from schemas.errors import BadInput
from trainer_plugin.data.features import FeatureFolder
from trainer_plugin.data.packing import RowStream, mask_labels
from trainer_plugin.data.row_loader import PreparedRow, RowLoader, RowSource
from trainer_plugin.data.samples import ReleaseDataset
from trainer_plugin.data.texts import TextRowStream
from trainer_plugin.distributed.mesh import RankContext, run_on_all_ranks
from trainer_plugin.distributed.sequence_plan import Costs, SequencePlan
from trainer_plugin.families.base import Family
from trainer_plugin.model import LongVideoModel, RankInput
from trainer_plugin.training.checkpoint import check_data
from trainer_plugin.training.metrics import by_reason
from trainer_plugin.training.model_identity import tower_identity
from trainer_plugin.training.optimizer_step import NotFinite
from trainer_plugin.types import FrameRange, PackedRow

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Step:
    """The rows of one optimizer step, with the counts over all ranks."""

    rows: tuple[PreparedRow[SequencePlan], ...]
    """This rank's rows. Samples that some rank could not decode have no labels."""
    counted: tuple[PreparedRow[SequencePlan], ...]
    """Those of `rows` that this rank adds to a sum over all ranks: rows with supervised tokens, on the first of the
    ranks that share them."""
    sp_rank: int
    """This process's rank among those that share its rows."""
    tokens: int
    """Number of all tokens of rows with supervised tokens, over all ranks."""
    supervised_tokens: int
    """Number of supervised tokens over all ranks, at least 1."""
    samples: int
    """Number of samples with supervised tokens, over all ranks."""
    position_before: dict[str, Any]
    """State of this rank's stream of rows before these rows."""
    data_seconds: float
    """Seconds in which this rank waited until all ranks had their rows."""

    @property
    def epoch(self) -> int:
        """Zero-based epoch of the last row."""
        return self.rows[-1].packed.epoch

    def rank_inputs(self) -> Iterator[RankInput]:
        """Yield the part of each row that this rank computes. Each is created when it is requested."""
        for row in self.rows:
            yield RankInput(row.plan.rank_plan(self.sp_rank), row.pixels)

    def describe_samples(self, error: NotFinite) -> str:
        """Description of the samples of this rank's rows that made the step not finite."""
        rows = [self.rows[number] for number in error.rows] or self.rows
        keys = [example.key for row in rows for example in row.packed.examples]
        which = "rows that are not finite" if error.rows else "rows (their loss is finite)"
        return f"samples of this rank's {which}: {', '.join(keys)}"


class StepFeed:
    """Feeds a trainer with the rows of each optimizer step.

    Use it as a context manager: worker processes decode frames ahead until the block ends.
    """

    def __init__(
        self,
        row_stream: RowSource,
        family: Family,
        ranks: RankContext,
        costs: Costs,
        *,
        rows_per_step: int,
        workers: int = 4,
    ) -> None:
        """
        Args:
            row_stream: this data-parallel rank's rows.
            family: the model's family.
            ranks: this process's rank and groups.
            costs: the decoder's costs, by which a row is divided among the ranks that share it.
            rows_per_step: maximum number of this rank's rows in a step.
            workers: number of decoder processes, as in `RowLoader`.
        """
        self.row_stream = row_stream
        self.family = family
        self.ranks = ranks
        self.costs = costs
        self.rows_per_step = rows_per_step
        self.workers = workers
        self.position = row_stream.state_dict()
        """State of this rank's stream after the rows of the last step."""
        self.unusable: dict[str, str] = {}
        """Samples that were masked or skipped on any rank while rows were loaded, and that no rank has trained on
        since: the reason by key. The same on every rank."""
        self._loader: RowLoader[SequencePlan]

    def __enter__(self) -> StepFeed:
        resample, square = self.family.resample, self.family.square
        self._loader = RowLoader(self.row_stream, self._plan, resample=resample, square=square, workers=self.workers)
        return self

    def __exit__(self, *exception: object) -> None:
        self._loader.close()

    @property
    def skipped(self) -> dict[str, str]:
        """The reason by key of each sample that was skipped and has not been trained on since.

        These are samples that do not fit into a row, undecodable videos, and documents that cannot be used.
        """
        return {**self.position.get("skipped", {}), **self.unusable}

    @property
    def row_tokens(self) -> int | None:
        """Maximum number of tokens of a row; None for streams other than `RowStream` and `TextRowStream`."""
        if isinstance(self.row_stream, RowStream):
            return self.row_stream.token_budget
        return self.row_stream.length if isinstance(self.row_stream, TextRowStream) else None

    def next_step(self, number: int, is_interrupted: Callable[[], bool] = lambda: False) -> Step | None:
        """Load the rows of the next step. Every rank must call it.

        Rows are skipped while no rank has a supervised token in them. When the data end, the remaining rows form a last
        step.

        Args:
            number: one-based number of the step, for messages.
            is_interrupted: called on every rank after rows were skipped; must return the same on every rank.

        Returns:
            The step; None at the end of the data, or if `is_interrupted` returned True.

        Raises:
            BadInput: on every rank, if all samples of the data have been skipped.
        """
        while True:
            position, started = self.position, time.perf_counter()
            rows = run_on_all_ranks(lambda: list(islice(self._loader, self.rows_per_step)))
            if not rows:
                return None
            seconds = time.perf_counter() - started
            self.position = self._loader.state_dict()
            rows = self._mask_failed_samples(rows)
            self._drop_recovered(rows)
            step = self._count(rows, position, seconds)
            if step.supervised_tokens:
                return step
            self._check_trainable_samples_remain()
            if self.ranks.rank == 0:
                log.warning("step %d: no rank has supervised tokens in its rows; skipping them", number)
            if is_interrupted():
                return None

    def positions(self) -> tuple[dict[str, Any], ...]:
        """Positions of all data-parallel ranks, each with the facts of its data, for a checkpoint.

        Every rank must call it, between steps.

        Returns:
            One state if all ranks have the same (`RowStream`), else one for each data-parallel rank.
        """
        state = {**self.position, "data": facts} if (facts := self._facts()) else self.position
        if isinstance(self.row_stream, RowStream):
            return (state,)
        return tuple(self._gather(state)[:: self.ranks.sp])

    def resume(self, saved: Sequence[dict[str, Any]], unusable: Mapping[str, str] | None = None) -> None:
        """Continue from the positions of a checkpoint.

        It involves no other rank; call it through `run_on_all_ranks`.

        Args:
            saved: result of `positions`.
            unusable: the attribute `unusable` of the saved run.

        Raises:
            BadInput: the data differ from those of the saved run; or each data-parallel rank had its own state and the
                number of ranks differs.
        """
        facts = self._facts()
        check_data(saved[0].get("data") or facts, facts)  # checkpoints of earlier versions have no facts
        number = 0
        if not isinstance(self.row_stream, RowStream):
            number = self.ranks.dp_rank
            if len(saved) != self.ranks.dp:
                raise BadInput(
                    f"the checkpoint was written by {len(saved)} data-parallel ranks that read text data; resume with "
                    f"as many, not {self.ranks.dp}"
                )
        self._loader.load_state_dict(saved[number])
        self.position = saved[number]
        self.unusable = dict(unusable or {})

    def _plan(self, row: PackedRow) -> tuple[SequencePlan, Sequence[FrameRange]]:
        """A row's plan, and the frames that this rank encodes."""
        plan = SequencePlan(row.examples, self.family, self.ranks.layout, self.costs)
        return plan, plan.frame_ranges[self.ranks.sp_rank]

    def _mask_failed_samples(self, rows: list[PreparedRow[SequencePlan]]) -> list[PreparedRow[SequencePlan]]:
        """Mask the labels of samples that a rank could not decode, and record them and the skipped documents."""
        failed = torch.cat([row.failed for row in rows]).to(torch.int32)
        if self.ranks.sp_group is not None:
            dist.all_reduce(failed, dist.ReduceOp.MAX, group=self.ranks.sp_group)
        found = {key: bad.reason for row in rows for key, bad in row.failures.items()}
        for row in rows:
            found |= row.packed.skipped
        on_any_rank = torch.tensor(int(bool(found) or bool(failed.any())))
        dist.all_reduce(on_any_rank, dist.ReduceOp.MAX)
        if not on_any_rank:
            return rows
        for each in self._gather(found):
            self.unusable |= each
        flags = failed.bool().split([len(row.failed) for row in rows])
        return [self._mask(row, flag) if flag.any() else row for row, flag in zip(rows, flags, strict=True)]

    def _mask(self, row: PreparedRow[SequencePlan], failed: torch.Tensor) -> PreparedRow[SequencePlan]:
        packed = mask_labels(row.packed, failed)
        plan, frame_ranges = self._plan(packed)
        return replace(row, packed=packed, plan=plan, frame_ranges=tuple(frame_ranges), failed=failed)

    def _drop_recovered(self, rows: Sequence[PreparedRow[SequencePlan]]) -> None:
        """Drop the samples from `unusable` that some rank's rows supervise now."""
        if self.unusable:
            supervised = {example.key for row in rows for example in row.packed.examples if example.has_loss}
            for recovered in self._gather(supervised & self.unusable.keys()):
                for key in recovered:
                    self.unusable.pop(key, None)

    def _count(self, rows: Sequence[PreparedRow[SequencePlan]], position: dict[str, Any], seconds: float) -> Step:
        sp_rank = self.ranks.sp_rank
        counted = tuple(row for row in rows if row.plan.supervised_count and sp_rank == 0)
        counts = torch.tensor(
            [
                sum(len(row.plan) for row in counted),
                sum(row.plan.supervised_count for row in counted),
                sum(example.has_loss for row in counted for example in row.packed.examples),
            ]
        )
        dist.all_reduce(counts)
        tokens, supervised_tokens, samples = counts.tolist()
        return Step(tuple(rows), counted, sp_rank, tokens, supervised_tokens, samples, position, seconds)

    def _check_trainable_samples_remain(self) -> None:
        """Check that not all samples have been skipped.

        Without this check a run could continue forever, since rows may be endless even if no video can be decoded.
        """
        skipped = self.skipped
        if isinstance(self.row_stream, RowStream) and len(skipped) == len(self.row_stream.samples):
            raise BadInput(
                f"not one of the {len(skipped)} samples can be trained on: {by_reason(skipped)}; "
                f"check the release and the location of its videos"
            )

    def _facts(self) -> dict[str, Any]:
        """Everything that determines the rows, as JSON values by name. A position is valid only in the same data."""
        stream = self.row_stream
        if isinstance(stream, RowStream):
            return dict(stream.samples.facts) if isinstance(stream.samples, ReleaseDataset) else {}
        return dict(stream.facts) if isinstance(stream, TextRowStream) else {}

    def _gather(self, value: Any) -> list[Any]:
        """The values of all ranks, in rank order."""
        values: list[Any] = [None] * self.ranks.world_size
        dist.all_gather_object(values, value)
        return values


def check_features(row_stream: RowSource, model: LongVideoModel) -> None:
    """Check that precomputed features fit the model. Every rank must call it before the first step.

    Raises:
        BadInput: as `check_feature_folder`, if the rows read features.
    """
    samples = row_stream.samples if isinstance(row_stream, RowStream) else None
    if isinstance(samples, ReleaseDataset):
        check_feature_folder(samples.features, model)


def check_feature_folder(features: FeatureFolder | None, model: LongVideoModel) -> None:
    """Check that precomputed features fit the model. Every rank must call it before the first step.

    Args:
        features: the folder of the run's features; None if it has none.

    Raises:
        BadInput: they are of another tower than the model's, or the tower or its projector is trainable.
    """
    if features is None:
        return
    if model.vision_tower_is_trainable():
        raise BadInput(
            f"features in {features.url} are of a frozen tower, but this model's tower or projector is "
            f"trained; set trained.vision_tower and trained.projector to false, or unset videos.features"
        )
    if (tower := features.tower) != (identity := tower_identity(model)):
        raise BadInput(
            f"videos.features.tower is {tower!r}, but this model's tower is {identity!r}: its features would be "
            f"others. Encode the videos with this model (python -m trainer_plugin.encode_features), or train the other "
            f"one"
        )
