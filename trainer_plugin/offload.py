"""Holds what the backward pass will need in the host's memory: at 256k tokens, inputs of 28 layers are 52 GB.

Copies to the host run beside the computation; copies back wait for nothing else than their own. Values never change.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

MIN_BYTES = 1 << 20
"""Smaller tensors stay: copying them costs more than they hold."""


@dataclass(frozen=True)
class OnHost:
    """A tensor's copy in pinned memory, there once `copied` has happened."""

    tensor: Tensor
    """`repeated_once` of it."""
    size: torch.Size
    device: torch.device
    copied: torch.cuda.Event


class HostMemory:
    """Where one device's tensors go. Inside `saving()`, autograd puts what it saves here."""

    def __init__(self, device: torch.device) -> None:
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def saving(self) -> saved_tensors_hooks:
        """A context: tensors that autograd saves in it are held here, other than parameters and small ones."""
        return saved_tensors_hooks(self._pack, self.fetch)

    def hold(self, tensor: Tensor) -> Tensor | OnHost:
        """Begin to copy a tensor out; it is freed on the device when that is done and nobody else has it."""
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
        """The tensor, on its device again."""
        if isinstance(held, Tensor):
            return held
        torch.cuda.current_stream(held.device).wait_event(held.copied)
        return held.tensor.to(held.device, non_blocking=True).expand(held.size)

    def _pack(self, tensor: Tensor) -> Tensor | OnHost:
        # Leaves are parameters, also FSDP's gathered ones: their memory is not freed by forgetting this reference.
        return tensor if tensor.is_leaf and tensor.requires_grad else self.hold(tensor)


def repeated_once(tensor: Tensor) -> Tensor:
    """A view with what an expanded tensor repeats there once; expanded to the tensor's size it is the same again."""
    return tensor[tuple(slice(1 if stride == 0 else None) for stride in tensor.stride())]
