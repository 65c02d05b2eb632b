from dataclasses import replace

import pytest
import torch
import torch.distributed as dist

from tests.trainer_plugin.parity import Clip, Draft, groups, make_samples, tiny_config
from trainer_plugin.data.video_decode import BadVideo
from trainer_plugin.distributed.sequence_plan import Costs, Layout
from trainer_plugin.families import family_of
from trainer_plugin.training.step_feed import (
    Load,
    drop_recovered,
    mask_failed_samples,
    plan_row,
    position_of,
    positions,
    rank_input,
)
from trainer_plugin.types import PackedRow

WORDS = (3 + 4 + 2 - 1, 2 + 5 + 2 - 1, 2 + 3 + 2 - 1, 8 - 1)
"""Supervised tokens of each sample: words and the two markers of a video, without the first word."""


def loads_of(parallel, family, costs) -> list[Load]:
    """Two rows of two samples; the last rank failed to decode its frames of the second row's first sample."""
    drafts = [(3, Clip(2), 4), (2, Clip(1), 5), (2, Clip(3), 3), (8,)]
    samples = make_samples(family, [Draft(pieces, 1.0, number) for number, pieces in enumerate(drafts)])
    loads = []
    for number in range(2):
        row = PackedRow(tuple(sample.example for sample in samples[2 * number : 2 * number + 2]), 0)
        plan, shares = plan_row(row, family, parallel, costs)
        pixels = tuple(torch.zeros(2 * (share.end - share.first), 56, 84, 3, dtype=torch.uint8) for share in shares)
        loads.append(Load(row, plan, tuple(shares), pixels, {}, torch.zeros(2, dtype=torch.bool)))
    if parallel.rank == parallel.world_size - 1:
        loads[1].failed[0] = True
        loads[1] = replace(loads[1], failures={"s2": BadVideo("v2", "damaged", "it is")})
    return loads


def agreed(sp: int) -> tuple[list[int], dict[str, str], list[int], bool]:
    config = tiny_config("qwen2_5_vl")
    family, costs = family_of(config), Costs.of(config.get_text_config())
    parallel = groups(Layout(sp))
    loads = loads_of(parallel, family, costs)
    kept, reasons = mask_failed_samples(loads, family, parallel, costs)
    counts = [load.plan.supervised_count for load in kept]
    everyone: list = [None] * parallel.world_size
    dist.all_gather_object(everyone, (counts, [len(rank_input(load, parallel).share.targets) for load in kept]))
    learned = [sum(mine[row] for _, mine in everyone) for row in range(2)]
    same_frames = all(load.shares == before.shares for load, before in zip(kept, loads, strict=True))
    return counts, reasons, learned, same_frames


def test_what_one_rank_of_a_group_could_not_decode_is_learned_by_none(ranks):
    counts, reasons, learned, same_frames = ranks[2].run(agreed, 2)[0]
    assert counts == [WORDS[0] + WORDS[1], WORDS[3]]
    assert learned == counts
    assert reasons == {"s2": "damaged"}
    assert same_frames


def test_other_groups_learn_theirs_but_know_of_it(ranks):
    counts, reasons, learned, _ = ranks[2].run(agreed, 1)[0]
    assert counts == [WORDS[0] + WORDS[1], WORDS[2] + WORDS[3]]
    assert reasons == {"s2": "damaged"}
    assert learned == [2 * (WORDS[0] + WORDS[1]), WORDS[2] + 2 * WORDS[3]]


def left_out_after() -> dict[str, str]:
    """Skipped samples that remain after a step in which each rank has one of the rows."""
    config = tiny_config("qwen2_5_vl")
    family, costs = family_of(config), Costs.of(config.get_text_config())
    parallel = groups(Layout(1))
    loads, _ = mask_failed_samples(loads_of(parallel, family, costs), family, parallel, costs)
    return drop_recovered(dict.fromkeys(("s0", "s2", "s3", "s9"), "missing"), [loads[parallel.rank]], parallel)


def test_a_sample_that_any_rank_learns_is_left_out_no_more(ranks):
    """Sample s2 is in the row of the last rank but failed to decode."""
    assert ranks[2].run(left_out_after) == [{"s2": "missing", "s9": "missing"}] * 2


class OwnRows:
    """Rows that are separate for each data-parallel rank, like those of text data."""


def taken_up(sp: int) -> tuple[tuple[dict, ...], dict]:
    parallel = groups(Layout(sp))
    saved = positions({"of": dist.get_rank()}, OwnRows(), parallel)
    return saved, position_of(saved, OwnRows(), parallel)


def test_each_data_parallel_rank_goes_on_where_it_was(ranks):
    assert ranks[2].run(taken_up, 1) == [(({"of": 0}, {"of": 1}), {"of": 0}), (({"of": 0}, {"of": 1}), {"of": 1})]
    assert ranks[2].run(taken_up, 2) == [(({"of": 0},), {"of": 0})] * 2


def refused(before: int) -> None:
    position_of([{}] * before, OwnRows(), groups(Layout(1)))


@pytest.mark.parametrize(("before", "now"), [(2, 1), (1, 2)])
def test_with_other_ranks_what_each_had_of_its_own_is_refused(ranks, before, now):
    errors, _ = ranks[now].outcomes(refused, before)
    message = f"written by {before} data-parallel ranks that read text data; resume with as many, not {now}"
    assert len(errors) == now and all(message in error for error in errors.values())
