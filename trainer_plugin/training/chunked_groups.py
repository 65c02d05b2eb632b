"""Groups of responses that are larger than a row: the prompt once, the responses chunk by chunk.

The prompt runs forward once and keeps the keys and values of every layer. Each chunk of responses runs forward and
backward against them, and adds into their gradients. Then the prompt runs backward once, from the keys and values
instead of from a loss. The result is that of all responses in one row (schedule of arXiv 2606.01143), in the memory of
the prompt and one chunk, whatever the number of responses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from trainer_plugin.distributed.sequence_plan import Costs, Layout, SequencePlan
from trainer_plugin.families.base import Family
from trainer_plugin.model import LongVideoModel, RankInput
from trainer_plugin.ops.sequence_parallel_attention import KeysValues
from trainer_plugin.types import PromptGroup

LossFunction = Callable[[RankInput, Tensor, Tensor | None], Tensor]
"""Returns a row's part of the step's loss on this rank, a scalar, from the row's input, log-probabilities [N] and
entropies [N] (None unless requested)."""


@dataclass(frozen=True)
class ChunkedInput:
    """One rank's inputs of the rows that `plan_chunks` plans."""

    prompt: RankInput
    chunks: tuple[RankInput, ...]
    """Responses. All ranks have equally many."""


def plan_chunks(
    group: PromptGroup, chunk_tokens: int, family: Family, layout: Layout, costs: Costs
) -> tuple[SequencePlan, tuple[SequencePlan, ...]]:
    """Plan the row of a group's prompt and the rows of its responses, in order.

    Args:
        group: the prompt and its responses.
        chunk_tokens: maximum number of tokens of a chunk. A response of R tokens takes R + 1 of them.

    Raises:
        ValueError: a response does not fit a chunk; or as `SequencePlan`.
    """
    chunks: list[list[Tensor]] = []
    room = 0
    for number, ids in enumerate(group.responses):
        length = len(ids) + 1
        if length > chunk_tokens:
            raise ValueError(
                f"group {group.key}: response {number} takes {length} tokens, and a chunk has {chunk_tokens}; raise "
                f"chunk_tokens, or sample shorter responses"
            )
        if not chunks or length > room:
            chunks.append([])
            room = chunk_tokens
        chunks[-1].append(ids)
        room -= length
    prompt = SequencePlan([group.prefix], family, layout, costs)
    parts = [replace(group, responses=tuple(chunk)) for chunk in chunks]
    return prompt, tuple(SequencePlan([part], family, layout, costs, prompt) for part in parts)


def add_chunked_gradients(
    model: LongVideoModel,
    group: ChunkedInput,
    loss: LossFunction,
    *,
    temperature: float = 1.0,
    entropy: bool = False,
) -> list[Tensor]:
    """Run a group's prompt and chunks forward and backward. Every rank must call it.

    Args:
        loss: a chunk's part of the loss.
        temperature, entropy: as in `LongVideoModel.forward`.

    Returns:
        Each chunk's part of the loss on this rank, detached scalars.
    """
    device = model.parallel.device
    keys = model.prompt_keys(group.prompt.to(device))
    graph = [tensor for layer in keys.layers for tensor in layer]
    sums = [torch.zeros_like(tensor, dtype=torch.promote_types(tensor.dtype, torch.float32)) for tensor in graph]
    losses = []
    for chunk in group.chunks:
        # New leaves for each chunk, so that their gradients are summed in float32.
        leaves = [tensor.detach().requires_grad_(tensor.requires_grad) for tensor in graph]
        row = chunk.to(device)
        part = loss(row, *model(row, temperature, entropy, prompt=_layers(leaves)))
        part.backward()
        losses.append(part.detach())
        for total, leaf in zip(sums, leaves, strict=True):
            if leaf.grad is not None:
                total += leaf.grad
    # FSDP gathers a layer's parameters when the gradient of its output arrives. The last layer's output is in no loss,
    # so it gets a gradient of zeros.
    ends = [keys.hidden, *graph]
    gradients = [torch.zeros_like(keys.hidden), *[total.to(end.dtype) for total, end in zip(sums, graph, strict=True)]]
    pairs = [(end, gradient) for end, gradient in zip(ends, gradients, strict=True) if end.requires_grad]
    if pairs:
        torch.autograd.backward([end for end, _ in pairs], [gradient for _, gradient in pairs])
    return losses


@torch.no_grad()
def chunked_log_probs(
    model: LongVideoModel, group: ChunkedInput, *, temperature: float = 1.0, entropy: bool = False
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Log-probabilities and entropies of each chunk's local tokens, as `LongVideoModel.forward` returns them.

    Without gradients, and otherwise in the passes of `add_chunked_gradients`. Every rank must exhaust it.
    """
    device = model.parallel.device
    keys = model.prompt_keys(group.prompt.to(device))
    for chunk in group.chunks:
        yield model(chunk.to(device), temperature, entropy, prompt=keys.layers)


def _layers(tensors: Sequence[Tensor]) -> list[KeysValues]:
    return list(zip(tensors[::2], tensors[1::2], strict=True))
