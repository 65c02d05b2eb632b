import pytest
import torch

from tests.trainer_plugin.parity import Case, Clip, Draft, stepped
from trainer_plugin.model import RunOptions
from trainer_plugin.offload import MIN_BYTES, HostMemory
from trainer_plugin.plan import Layout

DRAFTS = (Draft((3, Clip(2), 9)), Draft((16,), seed=1))


def test_gradients_are_those_without_any_of_it(ranks):
    """Nothing recomputed, kept or held elsewhere: what all runs have in common would not show between two others."""
    plain = RunOptions(vision_patches=24, recomputed_layers=0, keep_attention=False)
    cases = [plain, RunOptions(vision_patches=24), RunOptions(vision_patches=24, offload=True)]
    expected, *found = (stepped(ranks[1], Case("qwen3_vl", DRAFTS, Layout(), options=case)) for case in cases)
    assert [max(run.differences(expected, floor=0).values()) for run in found] == [0, 0]


def test_nothing_leaves_a_host_that_is_the_device():
    host = HostMemory(torch.device("cpu"))
    tensor = torch.zeros(MIN_BYTES)
    assert host.hold(tensor) is tensor
    assert host.fetch(tensor) is tensor


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_what_is_held_is_off_the_device_and_comes_back():
    device = torch.device("cuda", 0)
    host = HostMemory(device)
    torch.cuda.reset_peak_memory_stats()
    first = torch.randn(1 << 24, device=device)
    expected = first.cpu()
    held = host.hold(first)
    del first
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() < 1 << 20
    assert torch.equal(host.fetch(held).cpu(), expected)
    small = torch.zeros(3, device=device)
    assert host.hold(small) is small
