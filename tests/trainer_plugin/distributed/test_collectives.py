"""Each collective moves the documented data, and its backward is its adjoint.

The adjoint identity is <f(x), y> = <x, f'(y)>, summed over the ranks.
"""

from itertools import accumulate

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.fsdp._fully_shard._fsdp_collectives import DefaultReduceScatter

from tests.support.properties import HealthCheck, given, settings, st
from tests.trainer_plugin.ops.test_log_probs import GPU
from tests.trainer_plugin.ranks import Ranks
from trainer_plugin.distributed.collectives import GradientReduction, exchange, gather, heads_to_tokens, tokens_to_heads

WORLD = 3
HEADS, DIM = 2, 4


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    running = Ranks(WORLD, tmp_path_factory.mktemp("ranks"))
    yield running
    running.stop()


counts = st.integers(0, 5)
sizes = st.tuples(*[counts] * WORLD)
matrices = st.tuples(*[sizes] * WORLD)
some = settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))


def rows(count: int, *shape: int, rank: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(100 * seed + rank)
    return torch.randn(count, *shape, generator=generator, dtype=torch.float64)


def column(matrix, rank):
    return tuple(row[rank] for row in matrix)


def adjoint(function, x: torch.Tensor) -> tuple[torch.Tensor, float, float]:
    """Output of the function for x, and both sides of the adjoint identity for a random y, summed over all ranks."""
    x.requires_grad_()
    found = function(x)
    y = rows(len(found), *found.shape[1:], rank=dist.get_rank(), seed=9)
    [back] = torch.autograd.grad(found, x, y)
    assert back.shape == x.shape
    sides = torch.stack([(found.detach() * y).sum(), (x.detach() * back).sum()])
    dist.all_reduce(sides)
    return found.detach(), *sides.tolist()


def exchange_and_adjoint(matrix):
    rank = dist.get_rank()
    x = rows(sum(matrix[rank]), DIM, rank=rank)
    return adjoint(lambda x: exchange(x, matrix[rank], column(matrix, rank), dist.group.WORLD), x)


@some
@given(matrices)
def test_exchange_sends_rows_to_their_ranks(ranks, matrix):
    everything = [rows(sum(sent), DIM, rank=rank).split(list(sent)) for rank, sent in enumerate(matrix)]
    for rank, (found, one, other) in enumerate(ranks.run(exchange_and_adjoint, matrix)):
        assert torch.equal(found, torch.cat([sent[rank] for sent in everything]))
        assert one == pytest.approx(other)


def gather_and_adjoint(sizes):
    rank = dist.get_rank()
    return adjoint(lambda x: gather(x, sizes, dist.group.WORLD), rows(sizes[rank], HEADS, DIM, rank=rank))


@some
@given(sizes)
def test_gather_gives_all_rows_to_every_rank(ranks, sizes):
    everything = torch.cat([rows(size, HEADS, DIM, rank=rank) for rank, size in enumerate(sizes)])
    for found, one, other in ranks.run(gather_and_adjoint, sizes):
        assert torch.equal(found, everything)
        assert one == pytest.approx(other)


def swap_and_adjoint(sizes):
    rank = dist.get_rank()
    group = dist.group.WORLD
    x = rows(sizes[rank], WORLD, HEADS, DIM, rank=rank)
    there = adjoint(lambda x: tokens_to_heads(x, sizes, group), x)
    back = adjoint(lambda x: heads_to_tokens(x, sizes, group), there[0])
    return x.detach(), there, back


@some
@given(sizes)
def test_tokens_become_heads_and_heads_tokens(ranks, sizes):
    results = ranks.run(swap_and_adjoint, sizes)
    everything = torch.cat([x for x, _, _ in results])
    starts = [0, *accumulate(sizes)]
    for rank, (_, (heads, one, other), (tokens, two, another)) in enumerate(results):
        assert torch.equal(heads, everything[:, rank])
        assert torch.equal(tokens, everything[starts[rank] : starts[rank + 1]])
        assert (one, two) == (pytest.approx(other), pytest.approx(another))


def gradient_in_half_precision():
    """Gradient of one row that every rank uses: rank 0 contributes 256, each other rank 1."""
    x = torch.zeros(1 if dist.get_rank() == 0 else 0, 1, dtype=torch.bfloat16, requires_grad=True)
    weight = 256.0 if dist.get_rank() == 0 else 1.0
    (gather(x, (1, 0, 0), dist.group.WORLD) * weight).sum().backward()
    return x.grad.float()


def test_gradients_in_half_precision_are_summed_in_float32(ranks):
    assert ranks.run(gradient_in_half_precision)[0].item() == 258  # in bfloat16, 256 + 1 is 256


def test_one_rank_alone_needs_no_group():
    x = rows(5, 1, HEADS, DIM, rank=0)
    assert exchange(x, (5,), (5,), None) is x
    assert gather(x, (5,), None) is x
    assert torch.equal(tokens_to_heads(x, (5,), None), x[:, 0])
    assert torch.equal(heads_to_tokens(x[:, 0], (5,), None), x)


class RecordedReduction(GradientReduction):
    def __init__(self) -> None:
        self.given: list[torch.Tensor] = []

    def allocate(self, size, *, dtype, device):
        self.given.append(super().allocate(size, dtype=dtype, device=device))
        return self.given[-1]


def linear(device: str, reduction) -> nn.Module:
    """A sharded layer whose gradients are summed over all ranks."""
    mesh = init_device_mesh(device, (dist.get_world_size(),))
    layer = fully_shard(nn.Linear(1024, 2 * WORLD, bias=False, device=device), mesh=mesh)
    layer.set_custom_reduce_scatter(reduction)
    layer.set_force_sum_reduction_for_comms(True)
    if dist.get_world_size() > 1:
        layer.set_gradient_divide_factor(1.0)
    return layer


def reduce_in_own_buffers():
    """Gradient of a sum over all ranks, and whether this rank's shard of it lies in one of our buffers."""
    reduction = RecordedReduction()
    layer = linear("cpu", reduction)
    layer(rows(5, 1024, rank=dist.get_rank()).float()).sum().backward()
    gradient = layer.weight.grad
    own = gradient.to_local().untyped_storage().data_ptr()
    return gradient.full_tensor(), own in {buffer.untyped_storage().data_ptr() for buffer in reduction.given}


def test_gradients_are_summed_into_the_reductions_own_buffers(ranks):
    expected = sum(rows(5, 1024, rank=rank).float().sum(0) for rank in range(WORLD))
    for gradient, ours in ranks.run(reduce_in_own_buffers):
        torch.testing.assert_close(gradient, expected.expand(2 * WORLD, -1), rtol=1e-5, atol=1e-5)
        assert ours


class TestOnGpu:
    """Memory allocated on a stream returns to the pool of that stream, and only that stream reuses it."""

    pytestmark = GPU
    device = torch.device("cuda", 0)

    def pool(self, tensor: torch.Tensor) -> int:
        """Stream whose pool holds a tensor's memory; 0 is the default stream, on which all computation runs."""
        [stream] = [
            segment["stream"]
            for segment in torch.cuda.memory_snapshot()
            if segment["address"] <= tensor.data_ptr() < segment["address"] + segment["total_size"]
        ]
        return stream

    def test_a_buffer_is_of_memory_that_the_computation_set_free(self):
        numbers = 1 << 26
        reducing = torch.cuda.Stream(self.device)
        torch.empty(numbers, device=self.device)  # freed immediately
        reserved = torch.cuda.memory_reserved()

        def allocated(reduction) -> torch.Tensor:
            reducing.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(reducing):
                return reduction.allocate((numbers,), dtype=torch.float32, device=self.device)

        ours = allocated(GradientReduction())
        assert (ours.numel(), ours.dtype, ours.device) == (numbers, torch.float32, self.device)
        assert (self.pool(ours), torch.cuda.memory_reserved()) == (0, reserved)
        stock = allocated(DefaultReduceScatter())
        assert self.pool(stock) == reducing.cuda_stream

    @pytest.mark.parametrize(("reduction", "ours"), [(GradientReduction, True), (DefaultReduceScatter, False)])
    def test_gradients_stay_in_the_computations_memory(self, alone, reduction, ours):
        layer = linear("cuda", reduction())
        x = torch.randn(5, 1024, device=self.device)
        layer(x).sum().backward()
        torch.cuda.synchronize()
        gradient = layer.weight.grad.to_local()
        torch.testing.assert_close(gradient, x.sum(0).expand(2 * WORLD, -1))
        assert (self.pool(gradient) == 0) is ours
