import pytest
import torch

from tests.trainer_plugin.parity import Case, relative_error, run_ranks, sharded_gradients
from trainer_plugin.model import RunOptions
from trainer_plugin.offload import MIN_BYTES, HostMemory
from trainer_plugin.plan import Layout

LENGTHS = ((2, 3, 9), (0, 4, 12))


def test_gradients_are_the_same(tmp_path):
    cases = [
        Case("qwen3_vl", LENGTHS, Layout(), options=RunOptions(vision_patches=24, offload=offload))
        for offload in (False, True)
    ]
    (loss, gradients), (other, others) = (run_ranks(1, sharded_gradients, case, folder=tmp_path) for case in cases)
    assert loss == other
    assert relative_error(others, gradients)[0] == 0


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
