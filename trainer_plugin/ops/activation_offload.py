"""Offloading of activations that the backward pass needs to host memory.

At 256k tokens the inputs of 28 layers are 52 GB. Copies to the host overlap with the computation. A copy back waits
only for the copy of the same tensor to the host. Values never change.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

MIN_BYTES = 1 << 20
"""Minimum size of an offloaded tensor in bytes. Smaller ones stay on the device, because copying costs more than it
frees."""


@dataclass(frozen=True)
class OnHost:
    """A tensor's copy in pinned host memory, complete once the event `copied` has occurred."""

    tensor: Tensor
    """The copy, without expanded dimensions (`repeated_once`)."""
    size: torch.Size
    """Shape of the original tensor."""
    device: torch.device
    """Device of the original tensor."""
    copied: torch.cuda.Event


class HostMemory:
    """Offloads tensors of one device to host memory. Inside `saving()`, autograd's saved tensors are offloaded."""

    def __init__(self, device: torch.device) -> None:
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def saving(self) -> saved_tensors_hooks:
        """A context manager that offloads the tensors that autograd saves, except parameters and small ones."""
        return saved_tensors_hooks(self._pack, self.fetch)

    def hold(self, tensor: Tensor) -> Tensor | OnHost:
        """Start copying a tensor to the host.

        Its device memory is freed when the copy is complete and no other reference exists. A tensor that is small or
        not on a GPU is returned unchanged.
        """
        once = repeated_once(tensor)
        if self.stream is None or not tensor.is_cuda or once.nbytes < MIN_BYTES:
            return tensor
        host = torch.empty_like(once, device="cpu", pin_memory=True)
        self.stream.wait_stream(torch.cuda.current_stream(tensor.device))
        with torch.cuda.stream(self.stream):
            host.copy_(once, non_blocking=True)
        tensor.record_stream(self.stream)
        return OnHost(host, tensor.size(), tensor.device, self.stream.record_event())

    def fetch(self, held: Tensor | OnHost) -> Tensor:
        """Return the tensor on its original device, copying it back if it was offloaded."""
        if isinstance(held, Tensor):
            return held
        torch.cuda.current_stream(held.device).wait_event(held.copied)
        return held.tensor.to(held.device, non_blocking=True).expand(held.size)

    def _pack(self, tensor: Tensor) -> Tensor | OnHost:
        # Leaves are parameters, including FSDP's gathered ones. Dropping this reference would not free their memory.
        return tensor if tensor.is_leaf and tensor.requires_grad else self.hold(tensor)


def repeated_once(tensor: Tensor) -> Tensor:
    """A view of an expanded tensor in which repeated dimensions have size 1.

    Expanding the view to the tensor's size gives the same tensor.
    """
    return tensor[tuple(slice(1 if stride == 0 else None) for stride in tensor.stride())]
