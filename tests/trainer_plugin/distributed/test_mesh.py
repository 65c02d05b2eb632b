"""Process groups follow dp x ring x ulysses; a rank that dies or hangs soon raises an error on the others."""

import os
import signal
import time
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from transformers import Qwen2Config

from schemas.errors import BadInput
from tests.trainer_plugin.parity import Case, Clip, Draft, sharded
from tests.trainer_plugin.ranks import Ranks
from trainer_plugin.distributed.collectives import gather
from trainer_plugin.distributed.mesh import init_distributed, parallelize, run_on_all_ranks
from trainer_plugin.distributed.sequence_plan import Layout

CPU = torch.device("cpu")


@pytest.fixture
def ranks(request, tmp_path):
    running = Ranks(*request.param[:1], tmp_path, *request.param[1:])
    yield running
    running.stop()


def config(heads: int = 4, kv_heads: int = 2) -> Qwen2Config:
    return Qwen2Config(num_attention_heads=heads, num_key_value_heads=kv_heads)


def place(sp, layout):
    """This rank's (dp, dp_rank, sp_rank), and the members of its groups."""
    parallel = parallelize(sp, config(), CPU, layout)
    groups = parallel.sp_group, parallel.ulysses_group, parallel.ring_group
    members = [None if group is None else dist.get_process_group_ranks(group) for group in groups]
    assert (parallel.world_size, parallel.rank, parallel.sp) == (dist.get_world_size(), dist.get_rank(), sp)
    return (parallel.dp, parallel.dp_rank, parallel.sp_rank), *members


@pytest.mark.parametrize("ranks", [(8,)], indirect=True)
def test_ulysses_ranks_are_neighbours_and_data_parallel_ones_far_apart(ranks):
    assert ranks.run(place, 4, Layout(2, 2))[5] == ((2, 1, 1), [4, 5, 6, 7], [4, 5], [5, 7])
    assert ranks.run(place, 2, Layout(1, 2))[3] == ((4, 1, 1), [2, 3], None, [2, 3])
    assert ranks.run(place, 4, Layout(4, 1))[6] == ((2, 1, 2), [4, 5, 6, 7], [4, 5, 6, 7], None)
    assert ranks.run(place, 1, Layout())[6] == ((8, 6, 0), None, None, None)
    assert ranks.run(place, 8, None)[7] == ((1, 0, 7), list(range(8)), [4, 5, 6, 7], [3, 7])


@pytest.fixture
def alone(monkeypatch):
    """Process group of this process only, without torchrun."""
    monkeypatch.delenv("RANK", raising=False)
    assert init_distributed() == CPU
    yield
    dist.destroy_process_group()


def test_one_process_is_a_group_of_one(alone):
    parallel = parallelize(1, config(), CPU)
    assert (parallel.world_size, parallel.dp, parallel.sp) == (1, 1, 1)
    assert (parallel.sp_group, parallel.ulysses_group, parallel.ring_group) == (None, None, None)
    assert init_distributed() == CPU  # a second call changes nothing


def test_ranks_that_would_share_the_first_gpu_are_refused(monkeypatch):
    monkeypatch.setenv("RANK", "3")
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    with pytest.raises(BadInput, match=r"not LOCAL_RANK, .* the first of its 8 GPUs; start them with torchrun"):
        init_distributed()


def test_more_ranks_than_gpus_are_refused(monkeypatch):
    monkeypatch.setenv("RANK", "4")
    monkeypatch.setenv("LOCAL_RANK", "4")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    with pytest.raises(BadInput, match=r"LOCAL_RANK is 4, but this host shows 4 GPUs, .* --nproc-per-node 4, or"):
        init_distributed()


@pytest.mark.parametrize(
    ("sp", "layout", "message"),
    [
        (2, None, "sequence-parallel size 2 does not divide 1 processes; start a multiple of 2, or set parallel.sp=1"),
        (0, None, "sequence-parallel size 0 does not divide"),
        (1, Layout(2, 1), "layout 2 x 1 is not of 1 ranks"),
    ],
)
def test_too_few_processes_and_other_layouts_are_refused(alone, sp, layout, message):
    with pytest.raises(ValueError, match=message):
        parallelize(sp, config(), CPU, layout)


@pytest.mark.parametrize("ranks", [(4,)], indirect=True)
@pytest.mark.parametrize(("heads", "kv_heads"), [(6, 6), (12, 3)])
def test_heads_that_do_not_fit_are_refused(ranks, heads, kv_heads):
    errors, _ = ranks.outcomes(parallelize_heads, heads, kv_heads)
    assert set(errors) == {0, 1, 2, 3}
    assert all(
        f"does not fit {heads} query and {kv_heads} kv heads; use a divisor" in error for error in errors.values()
    )


def parallelize_heads(heads, kv_heads):
    parallelize(4, config(heads, kv_heads), CPU, Layout(4, 1))


def run_and_catch(errors):
    """Run a function on all ranks that raises on some; return its result, or type and message of the error."""

    def fail():
        if (error := errors[dist.get_rank()]) is not None:
            raise error
        return dist.get_rank()

    try:
        return run_on_all_ranks(fail), None
    except (BadInput, OSError, RuntimeError) as error:
        return type(error).__name__, str(error)


@pytest.mark.parametrize("ranks", [(3,)], indirect=True)
def test_an_error_of_one_rank_is_raised_on_every_rank(ranks):
    assert ranks.run(run_and_catch, [None, None, None]) == [(0, None), (1, None), (2, None)]
    assert ranks.run(run_and_catch, [None, BadInput("no film"), None]) == [("BadInput", "no film")] * 3
    own, other = ("OSError", "disk away"), ("RuntimeError", "rank 1 has failed: disk away")
    assert ranks.run(run_and_catch, [None, OSError("disk away"), None]) == [other, own, other]
    assert ranks.run(run_and_catch, [BadInput("no film"), OSError("disk away"), None])[1:] == [
        own,
        ("BadInput", "no film"),
    ]


STEP = Case("qwen2_5_vl", (Draft((5, Clip(4), 20), supervised=1.0),), Layout(3, 1), heads=(6, 3))


def seconds_until_a_death_is_noticed(victim):
    """Seconds until this rank raises an error after the victim is killed."""
    sharded(STEP)
    if dist.get_rank() == victim:
        os.kill(os.getpid(), signal.SIGKILL)
    begin = time.monotonic()
    with pytest.raises(RuntimeError, match=r"[Cc]onnection"):
        sharded(STEP)
    return time.monotonic() - begin


@pytest.mark.parametrize("ranks", [(3,)], indirect=True)
def test_a_rank_that_dies_is_an_error_on_every_other_within_seconds(ranks):
    errors, waited = ranks.outcomes(seconds_until_a_death_is_noticed, 1)
    assert (errors, set(waited)) == ({}, {0, 2})
    assert max(waited.values()) < 10


def seconds_until_the_time_out(absentee, seconds):
    """Seconds until this rank times out while it waits for the absent rank, in a separate group."""
    group = parallelize(3, config(3, 3), CPU, timeout=timedelta(seconds=seconds)).sp_group
    if dist.get_rank() == absentee:
        time.sleep(2 * seconds)
        return 0.0
    begin = time.monotonic()
    with pytest.raises(RuntimeError, match=r"[Tt]imed out"):
        gather(torch.ones(1), (1, 1, 1), group)
    return time.monotonic() - begin


@pytest.mark.parametrize("ranks", [(3,)], indirect=True)
def test_a_rank_that_hangs_is_an_error_after_the_time_out(ranks):
    waited = ranks.run(seconds_until_the_time_out, 2, 2)
    assert all(1.5 < seconds < 7 for seconds in waited[:2])
