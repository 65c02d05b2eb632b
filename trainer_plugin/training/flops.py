"""FLOPs of a training step and the peak rate of the device, for the model FLOPs utilization (MFU)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from trainer_plugin.distributed.sequence_plan import Costs, SequencePlan
from trainer_plugin.families.base import Family

PEAK_TFLOPS = {"H200": 989.0, "H100 PCIe": 756.0, "H100": 989.0, "B200": 2250.0, "A100": 312.0, "L40S": 362.0}
"""Dense bfloat16 TFLOP/s by a part of the device's name; the first match is used (NVIDIA's data sheets)."""


@dataclass(frozen=True)
class TowerCosts:
    """FLOPs of the matrix products of a vision tower in one step.

    A frozen tower runs forward only, at 2 FLOPs per weight; a trainable one takes three times that. The tower's
    attention, inside windows and frames, would add a few per cent and is not counted.
    """

    patch: float
    """FLOPs per patch, in the tower without its projector."""
    token: float
    """FLOPs per token, in the projector."""

    @classmethod
    def of(cls, model: nn.Module, family: Family) -> TowerCosts:
        """Costs of a model whose trainable parameters require gradients."""
        projectors = {id(module) for part in family.projectors(model) for module in part.modules()}
        flops = {True: 0.0, False: 0.0}
        for module in family.vision_tower(model).modules():
            if isinstance(module, nn.Linear | nn.Conv2d | nn.Conv3d):
                passes = 3 if module.weight.requires_grad else 1
                flops[id(module) in projectors] += 2.0 * passes * module.weight.numel()
        return cls(patch=flops[False], token=flops[True])


def training_flops(
    plans: Iterable[SequencePlan], costs: Costs, tower: TowerCosts | None = None, *, weights_trainable: bool = True
) -> float:
    """FLOPs of the model in the forward and backward passes over rows.

    The forward pass takes 2 FLOPs per weight and token, and 4 * heads * head_dim * layers per query-key pair; the
    backward pass takes twice that (PaLM, arXiv 2204.02311, appendix B). Pairs are counted causally and within segments,
    those of responses also with the prompt that they share, and the head at supervised tokens only.

    Args:
        tower: costs of the vision tower, counted for videos without features; None: not counted.
        weights_trainable: False if the decoder's weights are frozen (LoRA): the backward pass then computes no
            gradients of them.
    """
    passes = 3.0 if weights_trainable else 2.0
    total = 0.0
    for plan in plans:
        total += passes * (costs.linear * len(plan) + costs.head * plan.supervised_count)
        total += 3 * costs.attention * plan.attention_pairs
        if tower is not None:
            total += tower.patch * plan.encoded_patches + tower.token * plan.encoded_tokens
    return total


def peak_flops(device: torch.device, tflops: float | None = None) -> float | None:
    """Dense FLOP/s of one device, from `tflops` or else by the device's name; None if unknown."""
    if tflops is not None:
        return tflops * 1e12
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    return next((peak * 1e12 for part, peak in PEAK_TFLOPS.items() if part in name), None)
