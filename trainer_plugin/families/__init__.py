"""Model families, and how each turns a video into tokens, positions and features. `family_of` selects one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import PretrainedConfig

from trainer_plugin.families.base import Family
from trainer_plugin.families.qwen_vl import Qwen3VL, Qwen25VL
from trainer_plugin.families.smolvlm import SmolVLM

FAMILIES: dict[str, type[Family]] = {"qwen2_5_vl": Qwen25VL, "qwen3_vl": Qwen3VL, "smolvlm": SmolVLM}
"""Supported families by `config.model_type`. To add your own, see `docs/extending.md`."""


def family_of(config: PretrainedConfig, processor: Mapping[str, Any] | None = None) -> Family:
    """Select the family of a model from its configuration.

    Args:
        config: the model's configuration. `model_type` selects the family.
        processor: settings of the model's video processor, which decide the size of frames
            (`trainer_plugin.training.weights.read_family` reads them from the model's folder). None uses the published
            ones.

    Raises:
        ValueError: no family supports the model, or the family does not support the processor's settings. In the first
            case the message lists the methods that a new family must provide.
    """
    if config.model_type not in FAMILIES:
        missing = ", ".join(sorted(Family.__abstractmethods__))
        raise ValueError(
            f"model_type {config.model_type!r} is not supported (supported: {', '.join(sorted(FAMILIES))}). To add it, "
            f"derive from trainer_plugin.families.base.Family, provide {missing}, and enter it into FAMILIES"
        )
    return FAMILIES[config.model_type](config, processor or {})
