from dataclasses import replace

import torch
import torch.distributed as dist

from tests.trainer_plugin.parity import make_samples, run_ranks, tiny_model
from trainer_plugin.examples import Row
from trainer_plugin.families import family_of
from trainer_plugin.frames import BadVideo
from trainer_plugin.parallel import parallelize
from trainer_plugin.plan import Costs
from trainer_plugin.rows import Load, plan_row, row_share, without_failed


def loads_of(parallel, family, costs) -> list[Load]:
    """Two rows of two samples; of the second row's first sample, the last rank could not decode what it should have."""
    samples = make_samples("qwen2_5_vl", [(2, 3, 4), (1, 2, 5), (3, 2, 3), (0, 4, 4)])
    loads = []
    for number in range(2):
        row = Row(tuple(sample.example for sample in samples[2 * number : 2 * number + 2]), 0)
        plan, shares = plan_row(row, family, parallel, costs)
        pixels = tuple(torch.zeros(2 * (share.end - share.first), 56, 84, 3, dtype=torch.uint8) for share in shares)
        loads.append(Load(row, plan, tuple(shares), pixels, {}, torch.zeros(2, dtype=torch.bool)))
    if parallel.rank == parallel.world_size - 1:
        loads[1].failed[0] = True
        loads[1] = replace(loads[1], failures={"s2": BadVideo("v2", "damaged", "it is")})
    return loads


def agreed(sp: int) -> tuple[list[int], dict[str, str], list[int], bool]:
    config = tiny_model("qwen2_5_vl").config
    family, costs = family_of(config), Costs.of(config.get_text_config())
    parallel = parallelize(sp, config.get_text_config(), torch.device("cpu"))
    loads = loads_of(parallel, family, costs)
    kept, reasons = without_failed(loads, family, parallel, costs)
    counts = [load.plan.supervised_count for load in kept]
    everyone: list = [None] * parallel.world_size
    dist.all_gather_object(everyone, (counts, [len(row_share(load, parallel).share.targets) for load in kept]))
    learned = [sum(mine[row] for _, mine in everyone) for row in range(2)]
    same_frames = all(load.shares == before.shares for load, before in zip(kept, loads, strict=True))
    return counts, reasons, learned, same_frames


def test_what_one_rank_of_a_group_could_not_decode_is_learned_by_none(tmp_path):
    counts, reasons, learned, same_frames = run_ranks(2, agreed, 2, folder=tmp_path)
    assert counts == [4 + 5, 4]
    assert learned == counts
    assert reasons == {"s2": "damaged"}
    assert same_frames


def test_other_groups_learn_theirs_but_know_of_it(tmp_path):
    counts, reasons, learned, _ = run_ranks(2, agreed, 1, folder=tmp_path)
    assert counts == [9, 3 + 4]
    assert reasons == {"s2": "damaged"}
    assert learned == [18, 7 + 4]
