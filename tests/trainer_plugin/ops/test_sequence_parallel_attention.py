"""The registered attention is causal within each segment for any layout, and raises on unsupported arguments."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from tests.support.properties import HealthCheck, given, settings, st
from tests.trainer_plugin.ops.test_attention_kernels import dense
from tests.trainer_plugin.parity import Draft, groups, make_samples, tiny_config, tiny_family
from tests.trainer_plugin.ranks import Ranks
from trainer_plugin.distributed.sequence_plan import AttentionPlan, Costs, Layout, SequencePlan
from trainer_plugin.ops import attention_kernels as kernels
from trainer_plugin.ops.attention_kernels import Kernel
from trainer_plugin.ops.sequence_parallel_attention import (
    SEQUENCE_PARALLEL,
    AttentionRun,
    register,
    sequence_parallel_attention,
)
from trainer_plugin.types import Block

SCALE = 0.3


class Layer(nn.Module):
    layer_idx = 0


def run_of(*blocks: Block, **options) -> AttentionRun:
    tokens = blocks[-1].query[1]
    attention = AttentionPlan(Layout(), (tokens,), (tokens,), ((0, tokens),), blocks)
    return AttentionRun(attention, None, None, **options)


def states(queries: int, keys: int, heads=(4, 2), seed: int = 0) -> list[torch.Tensor]:
    """q, k and v in the shape that a model passes: [1, heads, S, d]."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(1, heads[0], queries, 8), (1, heads[1], keys, 8), (1, heads[1], keys, 8)]
    return [torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in shapes]


def attend(q, k, v, run, **options):
    return sequence_parallel_attention(Layer(), q, k, v, None, run=run, scaling=SCALE, **options)


def expected(q, k, v, blocks):
    return dense(*(rows[0].transpose(0, 1) for rows in (q, k, v)), blocks, SCALE)[None]


def test_segments_are_causal_each_for_itself():
    blocks = [Block((0, 4), (0, 4)), Block((4, 5), (4, 5)), Block((5, 11), (5, 11))]
    inputs = states(11, 11)
    found, weights = attend(*inputs, run_of(*blocks))
    assert weights is None
    torch.testing.assert_close(found, expected(*inputs, blocks))


def test_the_default_scale_is_that_of_the_head():
    inputs = states(5, 5)
    found, _ = sequence_parallel_attention(Layer(), *inputs, None, run=run_of(Block((0, 5), (0, 5))))
    other, _ = sequence_parallel_attention(Layer(), *inputs, None, run=run_of(Block((0, 5), (0, 5))), scaling=8**-0.5)
    assert torch.equal(found, other)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention_mask": torch.ones(1, 1, 5, 5)}, r"supports no mask \(True\)"),
        ({"dropout": 0.1}, r"no dropout \(0.1\)"),
        ({"sliding_window": 4}, r"no sliding window \(4\)"),
        ({"run": None}, "needs a plan: call the model through LongVideoModel"),
    ],
)
def test_unsupported_options_are_refused(options, message):
    arguments = {"attention_mask": None, "run": run_of(Block((0, 5), (0, 5))), **options}
    with pytest.raises(ValueError, match=message):
        sequence_parallel_attention(Layer(), *states(5, 5), **arguments)


def test_the_attention_is_registered_without_a_mask_so_that_none_is_built():
    register()
    register()
    assert AttentionInterface()[SEQUENCE_PARALLEL] is sequence_parallel_attention
    assert SEQUENCE_PARALLEL not in ALL_MASK_ATTENTION_FUNCTIONS


@pytest.mark.parametrize("keep", [True, False])
def test_kept_outputs_spare_the_kernel_in_the_recomputation(keep, monkeypatch):
    calls = []

    class Counted(kernels._Plain):
        @staticmethod
        def forward(*arguments):
            calls.append(arguments)
            return kernels._Plain.forward(*arguments)

    monkeypatch.setitem(kernels.KERNELS, Kernel.PLAIN, Counted)
    run = run_of(Block((0, 6), (0, 6)), checkpointed_layers=int(keep))
    plain, inputs = states(6, 6), states(6, 6)
    gradients = torch.autograd.grad(expected(*plain, run.plan.blocks).square().sum(), plain)
    out = checkpoint(lambda *inputs: attend(*inputs, run)[0] * 1.0, *inputs, use_reentrant=False)
    found = torch.autograd.grad(out.square().sum(), inputs)
    assert len(calls) == (1 if keep else 2)
    assert not run._kept
    for one, other in zip(found, gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_nothing_is_kept_without_gradients():
    run = run_of(Block((0, 6), (0, 6)), checkpointed_layers=1)
    with torch.no_grad():
        attend(*states(6, 6), run)
    assert not run._kept


# --- on several ranks


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    running = Ranks(4, tmp_path_factory.mktemp("ranks"))
    yield running
    running.stop()


def plan_of(lengths, layout) -> SequencePlan:
    family = tiny_family("smolvlm")
    samples = make_samples(family, [Draft((length,)) for length in lengths])
    costs = Costs.of(tiny_config("smolvlm").get_text_config())
    return SequencePlan([sample.example for sample in samples], family, layout, costs)


def attend_on_this_rank(lengths, layout, heads):
    """Token indices of this rank, and its part of the output and of the gradients."""
    parallel = groups(layout, heads)
    plan = plan_of(lengths, layout)
    attention = plan.rank_plan(parallel.sp_rank).attention
    run = AttentionRun(attention, parallel.ulysses_group, parallel.ring_group)
    mine = torch.cat([torch.arange(0), *(torch.arange(*piece) for piece in plan.shards[parallel.sp_rank])])
    local = [rows.detach()[:, :, mine].requires_grad_() for rows in states(len(plan), len(plan), heads)]
    out, _ = attend(*local, run)
    gradients = torch.autograd.grad(out.square().sum(), local)
    return mine, out.detach(), [gradient.transpose(1, 2) for gradient in gradients]


@settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.integers(1, 13), min_size=1, max_size=4))
@pytest.mark.parametrize(
    ("layout", "heads"),
    [
        (Layout(4, 1), (4, 4)),
        (Layout(4, 1), (8, 2)),
        (Layout(1, 4), (4, 2)),
        (Layout(2, 2), (4, 1)),
        (Layout(2, 1), (2, 2)),
    ],
)
def test_several_ranks_attend_as_one_does(ranks, layout, heads, lengths):
    """Parts in a gather-KV layout have fewer queries than keys; a query attends to keys up to its own position."""
    plan = plan_of(lengths, layout)
    inputs = states(len(plan), len(plan), heads)
    out = expected(*inputs, [Block(segment, segment) for segment in plan.segments])
    gradients = torch.autograd.grad(out.square().sum(), inputs)
    results = ranks.run(attend_on_this_rank, lengths, layout, heads)[: layout.size]
    order = torch.cat([mine for mine, _, _ in results]).argsort()
    torch.testing.assert_close(torch.cat([part for _, part, _ in results], dim=1)[:, order], out)
    for number, gradient in enumerate(gradients):
        found = torch.cat([parts[number] for _, _, parts in results], dim=1)[:, order]
        torch.testing.assert_close(found, gradient.transpose(1, 2))
