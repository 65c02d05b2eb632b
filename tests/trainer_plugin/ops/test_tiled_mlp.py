import pytest
import torch
from torch.utils.checkpoint import checkpoint

from tests.trainer_plugin.parity import Case, Clip, Draft, stepped
from tests.trainer_plugin.test_model import Shapes
from trainer_plugin.distributed.sequence_plan import Layout
from trainer_plugin.model import RunOptions
from trainer_plugin.ops.tiled_mlp import tile

HIDDEN, WIDE = 6, 17


class Gated(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.gate, self.up = (torch.nn.Linear(HIDDEN, WIDE, bias=False) for _ in range(2))
        self.down = torch.nn.Linear(WIDE, HIDDEN, bias=False)
        self.to(torch.float64)

    def forward(self, hidden):
        return self.down(torch.nn.functional.silu(self.gate(hidden)) * self.up(hidden))


def gradients(mlp, hidden, around=lambda function, hidden: function(hidden)):
    """Gradients of an MLP between two functions whose backward passes need its input and its output."""
    for parameter in mlp.parameters():
        parameter.grad = None
    hidden = hidden.clone().requires_grad_()
    around(lambda each: mlp(each.sin()).square(), hidden).sum().backward()
    return {"hidden": hidden.grad} | {name: parameter.grad for name, parameter in mlp.named_parameters()}


def again(function, hidden):
    return checkpoint(function, hidden, use_reentrant=False)


@pytest.mark.parametrize("frozen", [(), ("gate", "down"), ("gate", "up", "down")], ids=str)
@pytest.mark.parametrize("around", [lambda function, hidden: function(hidden), again])
@pytest.mark.parametrize("tokens", [1, 3, 10, 11])
def test_result_and_gradients_are_those_without_tiles(tokens, around, frozen):
    mlp = Gated()
    for name in frozen:
        mlp.get_submodule(name).requires_grad_(False)
    hidden = torch.randn(2, 11, HIDDEN, dtype=torch.float64)
    plain, expected = mlp(hidden), gradients(mlp, hidden)
    tile(mlp, tokens)
    torch.testing.assert_close(mlp(hidden), plain)
    found = gradients(mlp, hidden, around)
    assert {name for name, gradient in found.items() if gradient is None} == {f"{name}.weight" for name in frozen}
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name])


def test_its_weights_get_gradients_when_its_input_needs_none():
    mlp = Gated()
    hidden = torch.randn(11, HIDDEN, dtype=torch.float64)
    mlp(hidden).square().sum().backward()
    expected = mlp.gate.weight.grad
    mlp.gate.weight.grad = None
    tile(mlp, 3)
    mlp(hidden).square().sum().backward()
    torch.testing.assert_close(mlp.gate.weight.grad, expected)


@pytest.mark.parametrize(("tokens", "widest"), [(100, 100), (30, 25)])
def test_no_more_than_a_tile_is_as_wide_as_between(tokens, widest):
    mlp = Gated()
    tile(mlp, tokens)
    with Shapes() as shapes:
        gradients(mlp, torch.randn(100, HIDDEN, dtype=torch.float64), again)
    assert max(rows for rows, columns in (s for s in shapes.seen if len(s) == 2) if columns == WIDE) == widest


def test_in_a_layer_that_is_recomputed_each_tile_is_computed_twice_not_three_times():
    mlp = Gated()
    calls = []
    mlp.gate.register_forward_pre_hook(lambda _, inputs: calls.append(len(inputs[0])))
    tile(mlp, 4)
    hidden = torch.randn(8, HIDDEN, dtype=torch.float64, requires_grad=True)
    again(lambda each: each + mlp(each.sin()), hidden).sum().backward()
    assert calls == [4, 4, 4, 4]


def test_weights_gradients_are_summed_in_float32():
    mlp = Gated().bfloat16()
    hidden = torch.ones(1024, HIDDEN, dtype=torch.bfloat16)
    expected = gradients(mlp, hidden)["down.weight"]
    tile(mlp, 1)  # in bfloat16, a sum of equal terms stops growing at 256 terms
    torch.testing.assert_close(gradients(mlp, hidden)["down.weight"], expected, rtol=1e-2, atol=0)


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl", "smolvlm"])
def test_a_models_gradients_are_those_without_tiles(ranks, family):
    drafts = (Draft((3, Clip(2), 9)), Draft((16,), seed=1))
    whole, tiled = (
        stepped(
            ranks[2], Case(family, drafts, Layout(1, 2), options=RunOptions(vision_patches=24, mlp_tile_tokens=tokens))
        )
        for tokens in (None, 3)
    )
    assert 0 < max(tiled.differences(whole, floor=1e-4).values()) < 1e-5
