"""Log-probabilities of responses without gradients, for the policy before an update and for the reference.

The passes are those of the update: the same rows, plans and kernels. The ratio of a policy to itself is therefore
exactly 1, and the KL to a reference of equal weights exactly 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from trainer_plugin.distributed.collectives import gather_tokens
from trainer_plugin.distributed.sequence_plan import SequencePlan
from trainer_plugin.model import LongVideoModel, RankInput
from trainer_plugin.training.chunked_groups import ChunkedInput, chunked_log_probs


@torch.no_grad()
def score(
    model: LongVideoModel, row: RankInput | ChunkedInput, *, temperature: float = 1.0, entropy: bool = False
) -> list[tuple[Tensor, Tensor | None]]:
    """Log-probabilities and entropies of this rank's tokens, of the row or of each chunk. Every rank must call it.

    Returns:
        As `LongVideoModel.forward`: float32 [N], and [N] or None.
    """
    if isinstance(row, ChunkedInput):
        return list(chunked_log_probs(model, row, temperature=temperature, entropy=entropy))
    return [model(row.to(model.parallel.device), temperature, entropy)]


def whole_row(model: LongVideoModel, plan: SequencePlan, row: RankInput, values: Tensor) -> Tensor:
    """Values of all supervised tokens of a row from those of each rank's tokens, on all ranks that share it.

    Args:
        plan: the row's plan.
        row: this rank's input.
        values: [N] of this rank's tokens.

    Returns:
        [supervised tokens of the row], in their order.
    """
    index = row.plan.supervised_index.to(values.device)
    return gather_tokens(values, index, plan.supervised_count, model.parallel.sp_group)


@contextmanager
def adapters_off(model: LongVideoModel) -> Iterator[None]:
    """Run the model without its LoRA adapters: the reference of a policy that trains adapters.

    The adapters are multiplied by 0 and not disabled, because peft's way of disabling also freezes their parameters,
    which FSDP may have copied.

    Raises:
        ValueError: the model has no adapters, so that the reference would be the policy itself.
    """
    layers: list[Any] = [module for module in model.modules() if hasattr(module, "lora_A")]
    if not layers:
        raise ValueError("the model has no LoRA adapters; load a reference model of its own, or set beta to 0")
    for layer in layers:
        layer.scale_layer(0.0)
    try:
        yield
    finally:
        for layer in layers:
            layer.unscale_layer()
