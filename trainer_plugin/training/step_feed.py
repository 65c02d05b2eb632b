"""The part of a row that this rank computes: planned before frames are decoded, cut out afterwards.

If a rank cannot decode a sample, no rank may use its labels: the ranks that share a row agree on this before the
forward pass. This module also saves and restores a run's position in its data, and names the samples of a step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist

from schemas.errors import BadInput
from trainer_plugin.data.packing import RowStream, mask_labels
from trainer_plugin.data.row_loader import PreparedRow, RowSource
from trainer_plugin.data.samples import ReleaseDataset
from trainer_plugin.data.texts import TextRowStream
from trainer_plugin.distributed.mesh import RankContext
from trainer_plugin.distributed.sequence_plan import Costs, SequencePlan
from trainer_plugin.families.base import Family
from trainer_plugin.model import LongVideoModel, RankInput
from trainer_plugin.training.checkpoint import differences, shown
from trainer_plugin.training.metrics import by_reason
from trainer_plugin.training.model_identity import tower_identity
from trainer_plugin.training.optimizer_step import NotFinite
from trainer_plugin.types import FrameRange, PackedRow

Load = PreparedRow[SequencePlan]
"""A planned row, with the frames that this rank encodes."""


def plan_row(
    row: PackedRow, family: Family, parallel: RankContext, costs: Costs
) -> tuple[SequencePlan, Sequence[FrameRange]]:
    """A row's plan, and the frames that this rank encodes: the `plan` of `RowLoader`."""
    plan = SequencePlan(row.examples, family, parallel.layout, costs)
    return plan, plan.frame_shares[parallel.sp_rank]


def rank_input(load: Load, parallel: RankContext) -> RankInput:
    """The part of a row that this rank computes."""
    return RankInput(load.plan.rank_plan(parallel.sp_rank), load.pixels)


def mask_failed_samples(
    loads: Sequence[Load], family: Family, parallel: RankContext, costs: Costs
) -> tuple[list[Load], dict[str, str]]:
    """The rows of one step, with masked labels in samples that a rank could not decode. Every rank must call it.

    Returns:
        The rows, and the samples that were masked or skipped on any rank: reason by key.
    """
    failed = torch.cat([load.failed for load in loads]).to(torch.int32)
    if parallel.sp_group is not None:
        dist.all_reduce(failed, dist.ReduceOp.MAX, group=parallel.sp_group)
    mine = {key: bad.reason for load in loads for key, bad in load.failures.items()}
    for load in loads:
        mine |= load.row.skipped
    somewhere = torch.tensor(int(bool(mine) or bool(failed.any())))
    dist.all_reduce(somewhere, dist.ReduceOp.MAX)
    if not somewhere:
        return list(loads), {}
    flags = failed.bool().split([len(load.failed) for load in loads])
    kept = [_masked(load, flag, family, parallel, costs) for load, flag in zip(loads, flags, strict=True)]
    found: list[dict[str, str]] = [{}] * parallel.world_size
    dist.all_gather_object(found, mine)
    return kept, {key: reason for failures in found for key, reason in failures.items()}


def drop_recovered(left_out: Mapping[str, str], loads: Sequence[Load], parallel: RankContext) -> dict[str, str]:
    """The skipped samples that no rank's rows supervise now. Every rank must call it.

    Args:
        left_out: samples skipped so far, reason by key; the same on every rank.
    """
    if not left_out:
        return {}
    learned: list[set[str]] = [set()] * parallel.world_size
    mine = {example.key for load in loads for example in load.row.examples if example.has_loss}
    dist.all_gather_object(learned, mine & left_out.keys())
    return {key: reason for key, reason in left_out.items() if key not in set().union(*learned)}


def assert_trainable_samples_remain(rows: RowSource, skipped: Mapping[str, str]) -> None:
    """Check that not all samples have been skipped. Call it when a step has no supervised token.

    Without this check a run could continue forever, since rows may be endless even if no video can be decoded.

    Args:
        skipped: all samples skipped so far, reason by key; the same on every rank.

    Raises:
        BadInput: every sample has been skipped.
    """
    if isinstance(rows, RowStream) and len(skipped) == len(rows.samples):
        raise BadInput(
            f"not one of the {len(skipped)} samples can be trained on: {by_reason(skipped)}; "
            f"check the release and the location of its videos"
        )


def check_features(rows: RowSource, model: LongVideoModel) -> None:
    """Check that precomputed features fit the model. Every rank must call it before the first step.

    Raises:
        BadInput: the rows read features of another tower than the model's, or the tower or its projector is trainable.
    """
    samples = rows.samples if isinstance(rows, RowStream) else None
    if not isinstance(samples, ReleaseDataset) or samples.features is None:
        return
    if model.vision_tower_is_trainable():
        raise BadInput(
            f"features in {samples.features.url} are of a frozen tower, but this model's tower or projector is "
            f"trained; set trained.vision_tower and trained.projector to false, or unset videos.features"
        )
    if (asked := samples.features.tower) != (own := tower_identity(model)):
        raise BadInput(
            f"videos.features.tower is {asked!r}, but this model's tower is {own!r}: its features would be "
            f"others. Encode the videos with this model (python -m trainer_plugin.encode_features), or train the other "
            f"one"
        )


def samples_of(error: NotFinite, loads: Sequence[Load]) -> str:
    """Description of the samples of this rank's rows that made a step not finite."""
    rows = [loads[number] for number in error.rows] or loads
    keys = [example.key for row in rows for example in row.row.examples]
    which = "rows that are not finite" if error.rows else "rows (their loss is finite)"
    return f"samples of this rank's {which}: {', '.join(keys)}"


def data_facts(rows: RowSource) -> dict[str, Any]:
    """Everything that determines the rows, as JSON values by name.

    Checkpoints keep it, because a position is valid only in the same data.
    """
    if isinstance(rows, RowStream):
        return dict(rows.samples.facts) if isinstance(rows.samples, ReleaseDataset) else {}
    return dict(rows.facts) if isinstance(rows, TextRowStream) else {}


def row_tokens(rows: RowSource) -> int | None:
    """Maximum number of tokens of a row; None for streams other than `RowStream` and `TextRowStream`."""
    if isinstance(rows, RowStream):
        return rows.token_budget
    return rows.length if isinstance(rows, TextRowStream) else None


def positions(state: dict[str, Any], rows: RowSource, parallel: RankContext) -> tuple[dict[str, Any], ...]:
    """States of the rows of all data-parallel ranks, each with the facts of its data. Every rank must call it.

    Args:
        state: the state of this rank's rows.

    Returns:
        One state if all ranks have the same (`RowStream`), else one for each data-parallel rank.
    """
    if facts := data_facts(rows):
        state = {**state, "data": facts}
    if isinstance(rows, RowStream):
        return (state,)
    found: list[dict[str, Any]] = [{}] * parallel.world_size
    dist.all_gather_object(found, state)
    return tuple(found[:: parallel.sp])


def position_of(saved: Sequence[dict[str, Any]], rows: RowSource, parallel: RankContext) -> dict[str, Any]:
    """The saved state from which this rank's rows resume.

    Raises:
        BadInput: the data differ from those of the saved run; or each data-parallel rank had its own state and the
            number of ranks differs.
    """
    # Checkpoints of earlier versions have no facts.
    if differing := differences(saved[0].get("data") or data_facts(rows), data_facts(rows)):
        raise BadInput(
            f"the run began with other data: {shown(differing)}; use those, or start a new run in another out "
            f"folder, from the exported model to continue from its weights"
        )
    if isinstance(rows, RowStream):
        return saved[0]
    if len(saved) != parallel.dp:
        raise BadInput(
            f"the checkpoint was written by {len(saved)} data-parallel ranks that read text data; resume with as many, "
            f"not {parallel.dp}"
        )
    return saved[parallel.dp_rank]


def _masked(load: Load, failed: torch.Tensor, family: Family, parallel: RankContext, costs: Costs) -> Load:
    if not failed.any():
        return load
    row = mask_labels(load.row, failed)
    plan, shares = plan_row(row, family, parallel, costs)
    return PreparedRow(row, plan, tuple(shares), load.pixels, load.failures, failed)
