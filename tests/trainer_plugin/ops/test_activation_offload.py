import pytest
import torch

from tests.trainer_plugin.ops.test_log_probs import GPU
from tests.trainer_plugin.parity import Case, Clip, Draft, stepped
from trainer_plugin.distributed.sequence_plan import Layout
from trainer_plugin.model import RunOptions
from trainer_plugin.ops.activation_offload import MIN_BYTES, HostMemory, repeated_once

DRAFTS = (Draft((3, Clip(2), 9)), Draft((16,), seed=1))


def test_gradients_are_the_same_with_checkpointing_and_offloading(ranks):
    """Compare with a run without recomputation, caching or offloading.

    An error that all other runs have in common would not show between two of them.
    """
    plain = RunOptions(vision_patches=24, checkpointed_layers=0, save_attention_output=False)
    cases = [plain, RunOptions(vision_patches=24), RunOptions(vision_patches=24, offload=True)]
    expected, *found = (stepped(ranks[1], Case("qwen3_vl", DRAFTS, Layout(), options=case)) for case in cases)
    assert [max(run.differences(expected, floor=0).values()) for run in found] == [0, 0]


def test_tensors_on_the_cpu_are_not_moved():
    host = HostMemory(torch.device("cpu"))
    tensor = torch.zeros(MIN_BYTES)
    assert host.hold(tensor) is tensor
    assert host.fetch(tensor) is tensor


@pytest.mark.parametrize(
    ("tensor", "kept"),
    [
        (torch.arange(6.0).view(2, 1, 3).expand(2, 4, 3), 6),
        (torch.arange(6.0).expand(4, 6), 6),
        (torch.tensor(7.0).expand(3, 2), 1),
        (torch.arange(6.0).view(3, 2).T, 6),
        (torch.arange(12.0).view(3, 4)[:, ::2], 6),
        (torch.empty(0).expand(4, 0), 0),
        (torch.tensor(7.0), 1),
    ],
)
def test_repeated_values_are_stored_once(tensor, kept):
    once = repeated_once(tensor)
    assert once.numel() == kept
    assert torch.equal(once.expand(tensor.size()), tensor)


class TestOnGpu:
    pytestmark = GPU
    device = torch.device("cuda", 0)

    def test_a_held_tensor_leaves_the_device_and_returns(self):
        host = HostMemory(self.device)
        before = torch.cuda.memory_allocated()
        first = torch.randn(1 << 24, device=self.device)
        expected = first.cpu()
        held = host.hold(first)
        del first
        torch.cuda.synchronize()
        assert torch.cuda.memory_allocated() < before + (1 << 20)
        assert torch.equal(host.fetch(held).cpu(), expected)
        small = torch.zeros(3, device=self.device)
        assert host.hold(small) is small

    def test_a_view_takes_no_more_host_memory_than_its_storage(self):
        host = HostMemory(self.device)
        whole = torch.randn(1 << 10, 1, 1 << 10, device=self.device)
        views = {"expanded": whole.expand(-1, 16, -1), "turned": whole[:, 0].T, "half": whole[:, :, ::2]}
        for name, view in views.items():
            held = host.hold(view)
            assert held.tensor.nbytes == whole.nbytes // (2 if name == "half" else 1)
            assert torch.equal(host.fetch(held), view)
        few = torch.randn(1, 1 << 10, device=self.device).expand(1 << 12, -1)
        assert host.hold(few) is few
