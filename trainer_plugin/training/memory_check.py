"""A lower bound of the memory that a run needs, so that a run that cannot fit ends before it loads anything."""

from __future__ import annotations

import torch
from transformers import PretrainedConfig

from schemas.errors import BadInput
from trainer_plugin.distributed.mesh import RankContext
from trainer_plugin.recipe import RunSettings
from trainer_plugin.training.weights import empty_model, prepare

TRAINABLE_BYTES = 12
"""Bytes of a trainable weight and AdamW's two moments, in float32."""

GRADIENT_BYTES = 4
"""Bytes of a trainable weight's gradient, in float32."""


def needed_bytes(config: PretrainedConfig, recipe: RunSettings, ranks: int, rows_per_step: int | None) -> int:
    """A lower bound of the bytes that one device holds during a step.

    It counts parameters, gradients, optimizer state, the activations that layers keep for the backward pass, and the
    parameters of a reference model.

    Args:
        config: the model's configuration.
        recipe: the run's recipe.
        ranks: number of ranks over which parameters are sharded.
        rows_per_step: number of each data-parallel rank's rows in a step; None if it varies.
    """
    model = prepare(empty_model(config), recipe.trained)
    itemsize = getattr(torch, recipe.precision).itemsize
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in model.parameters()) - trainable
    state = (trainable * TRAINABLE_BYTES + frozen * itemsize) // ranks
    gradients = trainable * GRADIENT_BYTES // ranks
    if recipe.needs_reference:
        state += (trainable + frozen) * itemsize // ranks
    if recipe.memory.offload_parameters:
        state = gradients = 0
    text = config.get_text_config()
    # The head is gathered for a whole pass; the embeddings only at its start.
    head = model.get_output_embeddings().weight.numel() * itemsize
    tensors = text.num_hidden_layers * (2 if recipe.memory.save_attention_output else 1)
    # A layer without activation checkpointing also keeps at least its MLP's gate and input.
    checkpointed = recipe.memory.checkpointed_layers
    other_layers = 0 if checkpointed is None else max(0, text.num_hidden_layers - checkpointed)
    kept = tensors * text.hidden_size + other_layers * 2 * text.intermediate_size
    kept = 0 if recipe.memory.offload_activations else kept * recipe.row_tokens // recipe.parallel.sp
    activations = head + kept * itemsize
    if rows_per_step == 1:
        # With one row per step, gradients are allocated as the activations that they come from are freed.
        return state + max(activations, gradients)
    return state + activations + gradients


def check_memory(
    config: PretrainedConfig, recipe: RunSettings, parallel: RankContext, rows_per_step: int | None
) -> None:
    """Check that the recipe can fit the devices' memory. Only CUDA devices are checked.

    Args:
        rows_per_step: as in `needed_bytes`.

    Raises:
        BadInput: on every rank, if it cannot; the message states the sizes in GiB and the settings to change.
    """
    if parallel.device.type != "cuda":
        return
    available = torch.cuda.get_device_properties(parallel.device).total_memory
    needed = needed_bytes(config, recipe, parallel.world_size, rows_per_step)
    if needed > available:
        beta = ", or objective.beta=0, which needs no reference model" if recipe.needs_reference else ""
        raise BadInput(
            f"one device would hold at least {needed / 2**30:.0f} GiB and has {available / 2**30:.0f}: "
            f"{parallel.world_size} devices are too few for this recipe. Start more of them, raise parallel.sp, lower "
            f"row_tokens, train adapters (trained.lora), or set memory.offload_activations or offload_parameters{beta}"
        )
