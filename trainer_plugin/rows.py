"""From a row to this rank's share of it: planned before its frames are decoded, cut after.

What some rank could not decode is no label of any rank: the ranks that share a row agree on it before the forward pass.
Rows also say where a run was in its data, and which samples a step was about.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist

from schemas.errors import BadInput
from trainer_plugin.batches import RowStream, without_labels
from trainer_plugin.checkpoint import differences, shown
from trainer_plugin.dataset import ReleaseDataset
from trainer_plugin.examples import Row
from trainer_plugin.families.base import Family
from trainer_plugin.loader import Loaded, Rows
from trainer_plugin.metrics import by_reason
from trainer_plugin.model import LongVideoModel, RowShare
from trainer_plugin.parallel import Parallel
from trainer_plugin.plan import Costs, FrameShare, SequencePlan
from trainer_plugin.step import NotFinite
from trainer_plugin.texts import TextRows
from trainer_plugin.weights import tower_identity

Load = Loaded[SequencePlan]
"""A planned row, with the frames that this rank encodes."""


def plan_row(row: Row, family: Family, parallel: Parallel, costs: Costs) -> tuple[SequencePlan, Sequence[FrameShare]]:
    """A row's plan, and what this rank encodes of it: what `RowLoader` asks for."""
    plan = SequencePlan(row.examples, family, parallel.layout, costs)
    return plan, plan.frame_shares[parallel.sp_rank]


def row_share(load: Load, parallel: Parallel) -> RowShare:
    """What this rank computes of a row."""
    return RowShare(load.plan.share(parallel.sp_rank), load.pixels)


def without_failed(
    loads: Sequence[Load], family: Family, parallel: Parallel, costs: Costs
) -> tuple[list[Load], dict[str, str]]:
    """The rows of one step without the labels of samples that some rank could not decode. Every rank must call it.

    Returns:
        The rows, and reasons by key of the samples that were left out or passed over: those of all ranks.
    """
    failed = torch.cat([load.failed for load in loads]).to(torch.int32)
    if parallel.sp_group is not None:
        dist.all_reduce(failed, dist.ReduceOp.MAX, group=parallel.sp_group)
    mine = {key: bad.reason for load in loads for key, bad in load.failures.items()}
    for load in loads:
        mine |= load.row.passed_over
    somewhere = torch.tensor(int(bool(mine) or bool(failed.any())))
    dist.all_reduce(somewhere, dist.ReduceOp.MAX)
    if not somewhere:
        return list(loads), {}
    flags = failed.bool().split([len(load.failed) for load in loads])
    kept = [_masked(load, flag, family, parallel, costs) for load, flag in zip(loads, flags, strict=True)]
    found: list[dict[str, str]] = [{}] * parallel.world_size
    dist.all_gather_object(found, mine)
    return kept, {key: reason for failures in found for key, reason in failures.items()}


def still_left_out(left_out: Mapping[str, str], loads: Sequence[Load], parallel: Parallel) -> dict[str, str]:
    """`left_out`, which is the same on every rank, without samples that some rank's rows teach now. Every rank must
    call it."""
    if not left_out:
        return {}
    learned: list[set[str]] = [set()] * parallel.world_size
    mine = {example.key for load in loads for example in load.row.examples if example.is_learned}
    dist.all_gather_object(learned, mine & left_out.keys())
    return {key: reason for key, reason in left_out.items() if key not in set().union(*learned)}


def check_some_left(rows: Rows, skipped: Mapping[str, str]) -> None:
    """To be asked when a step had nothing to learn: rows may be endless, though no video can be decoded.

    Args:
        skipped: reasons by key, of all samples left out so far; the same on every rank.

    Raises:
        BadInput: those are all that there are.
    """
    if isinstance(rows, RowStream) and len(skipped) == len(rows.samples):
        raise BadInput(
            f"not one of the {len(skipped)} samples can be trained on: {by_reason(skipped)}; "
            f"look at the release and at where its videos are"
        )


def check_features(rows: Rows, model: LongVideoModel) -> None:
    """To be asked before the first step. Every rank must call it.

    Raises:
        BadInput: the rows read features of another tower than the model's, or of one that is being trained.
    """
    samples = rows.samples if isinstance(rows, RowStream) else None
    if not isinstance(samples, ReleaseDataset) or samples.features is None:
        return
    if model.tower_learns():
        raise BadInput(
            f"features in {samples.features.url} are of a frozen tower, but this model's tower or projector is "
            f"trained; set trained.vision_tower and trained.projector to false, or leave videos.features out"
        )
    if (asked := samples.features.tower) != (own := tower_identity(model)):
        raise BadInput(
            f"videos.features.tower is {asked!r}, but this model's tower is {own!r}: its features would be "
            f"others. Encode the videos with this model (python -m trainer_plugin.encode), or train the other one"
        )


def samples_of(error: NotFinite, loads: Sequence[Load]) -> str:
    """Names the samples of this rank's rows that made a step not finite."""
    rows = [loads[number] for number in error.rows] or loads
    keys = [example.key for row in rows for example in row.row.examples]
    which = "rows that are not finite" if error.rows else "rows (their loss is finite)"
    return f"samples of this rank's {which}: {', '.join(keys)}"


def data_facts(rows: Rows) -> dict[str, Any]:
    """What the rows follow from, as JSON values by name. A run keeps them: its position is one in these data."""
    if isinstance(rows, RowStream):
        return dict(rows.samples.facts) if isinstance(rows.samples, ReleaseDataset) else {}
    return dict(rows.facts) if isinstance(rows, TextRows) else {}


def row_tokens(rows: Rows) -> int | None:
    """The most tokens of a row; None for rows of another kind than ours."""
    if isinstance(rows, RowStream):
        return rows.token_budget
    return rows.length if isinstance(rows, TextRows) else None


def positions(state: dict[str, Any], rows: Rows, parallel: Parallel) -> tuple[dict[str, Any], ...]:
    """The state of all data-parallel ranks' rows, from this rank's: one if they all have the same (`RowStream`), each
    with the facts of its data.

    Every rank must call it.
    """
    if facts := data_facts(rows):
        state = {**state, "data": facts}
    if isinstance(rows, RowStream):
        return (state,)
    found: list[dict[str, Any]] = [{}] * parallel.world_size
    dist.all_gather_object(found, state)
    return tuple(found[:: parallel.sp])


def position_of(saved: Sequence[dict[str, Any]], rows: Rows, parallel: Parallel) -> dict[str, Any]:
    """Among them, where this rank's rows go on.

    Raises:
        BadInput: the data were others; or each data-parallel rank had its own, and there were more or fewer of them.
    """
    # An earlier version saved no facts.
    if differing := differences(saved[0].get("data") or data_facts(rows), data_facts(rows)):
        raise BadInput(
            f"the run began with other data: {shown(differing)}; go on with those, or begin a new run in another out "
            f"folder, from the exported model if it is to go on from what was learned"
        )
    if isinstance(rows, RowStream):
        return saved[0]
    if len(saved) != parallel.dp:
        raise BadInput(
            f"the checkpoint was written by {len(saved)} data-parallel ranks that read texts; go on with as many, "
            f"not {parallel.dp}"
        )
    return saved[parallel.dp_rank]


def _masked(load: Load, failed: torch.Tensor, family: Family, parallel: Parallel, costs: Costs) -> Load:
    if not failed.any():
        return load
    row = without_labels(load.row, failed)
    plan, shares = plan_row(row, family, parallel, costs)
    return Loaded(row, plan, tuple(shares), load.pixels, load.failures, failed)
