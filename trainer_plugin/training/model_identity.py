"""Identity of a model and of a vision tower, by which checkpoints, features and exports are matched with it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor
from torch.nn import Parameter
from transformers import (
    PretrainedConfig,
)

from trainer_plugin.model import LongVideoModel, reshard
from trainer_plugin.ops.preprocess import resample_mode

LORA = "lora"
"""Name in `model_values` of the rank and alpha of adapters."""

FROZEN_BITS = "frozen_bits"
"""Name in `model_values` of the sum of the bits of frozen parameters."""

_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def config_values(config: PretrainedConfig) -> dict[str, Any]:
    """A model's configuration as JSON values."""
    values: dict[str, Any] = json.loads(config.to_json_string(use_diff=False))
    return values


def model_values(model: LongVideoModel) -> dict[str, Any]:
    """Identity of the model that trainable tensors belong to, as JSON values. Every rank must call it.

    It consists of the configuration, the rank and alpha of adapters, and the sum of the bits of all frozen parameters
    as integers. This sum does not depend on the number of ranks.
    """
    frozen = sum_bits(model, lambda parameter: not parameter.requires_grad)
    adapters = getattr(model.model, "peft_config", {})
    lora = {name: {"rank": config.r, "alpha": config.lora_alpha} for name, config in adapters.items()}
    return {**config_values(model.model.config), LORA: lora, FROZEN_BITS: frozen}


def sum_bits(model: LongVideoModel, is_counted: Callable[[Parameter], bool] = lambda parameter: True) -> int:
    """Sum of the bits of a model's parameters as integers, modulo 2**64. Every rank must call it.

    It does not depend on the number of ranks.

    Args:
        is_counted: whether a parameter is part of the sum.
    """
    reshard(model)
    total = torch.zeros((), dtype=torch.int64)
    for parameter in filter(is_counted, model.parameters()):
        values = parameter.detach()
        shard = values.to_local() if isinstance(values, DTensor) else values
        total += shard.contiguous().view(_BITS[shard.dtype.itemsize]).sum(dtype=torch.int64).cpu()
    dist.all_reduce(total)
    return int(total)


def comparable(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten a configuration's nested values to dotted names, without values that do not change the model.

    Private values, the dtype and the version of transformers are omitted.
    """
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if name.startswith("_") or name in ("transformers_version", "dtype", "torch_dtype"):
            continue
        if isinstance(value, Mapping):
            flat |= comparable(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def tower_identity(model: LongVideoModel) -> str:
    """Identity of a frozen tower and its image processing, by which precomputed features are matched to it.

    It is the first 16 hexadecimal digits of a SHA-256 over the model type, the tower's configuration, its weights and
    their dtype, and the resampling filter, which for SmolVLM depends on the version of torch. Mean and standard
    deviation are included if they are not the published ones. Every rank must call it and gets the same result.
    """
    reshard(model)  # gathered parameters have the compute dtype
    tower = model.family.vision_tower(model.model)
    values = comparable(config_values(model.model.config)["vision_config"])
    resized = resample_mode(model.family.resample)
    own = {name: value for name, value in vars(model.family).items() if name in ("mean", "std")}
    parts = [model.model.config.model_type, values, resized, *([own] if own else [])]
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode())
    for name, parameter in sorted(tower.named_parameters()):
        tensor = parameter.detach().to(model.parallel.device)
        tensor = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if model.parallel.rank == 0:
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.cpu().contiguous().view(torch.uint8).numpy().data)
    identity = [digest.hexdigest()[:16]]
    dist.broadcast_object_list(identity, src=0)
    return identity[0]
