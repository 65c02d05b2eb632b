"""What differs between model families: how a video becomes tokens, positions, features. `family_of` finds one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import PretrainedConfig

from trainer_plugin.families.base import Family
from trainer_plugin.families.qwen_vl import Qwen3VL, Qwen25VL
from trainer_plugin.families.smolvlm import SmolVLM

FAMILIES: dict[str, type[Family]] = {"qwen2_5_vl": Qwen25VL, "qwen3_vl": Qwen3VL, "smolvlm": SmolVLM}
"""By `config.model_type`. Add your own here: see `docs/trainer.md`."""


def family_of(config: PretrainedConfig, processor: Mapping[str, Any] | None = None) -> Family:
    """The family of a model, from its configuration.

    Args:
        processor: settings of its video processor, which say how large frames become, as in the model's folder
            (`trainer_plugin.weights.read_family`); None: the published ones.

    Raises:
        ValueError: no family supports it; the message says what one would have to provide.
    """
    if config.model_type not in FAMILIES:
        missing = ", ".join(sorted(Family.__abstractmethods__))
        raise ValueError(
            f"model_type {config.model_type!r} is not supported (supported: {', '.join(sorted(FAMILIES))}). To add it, "
            f"derive from trainer_plugin.families.base.Family, provide {missing}, and enter it into FAMILIES"
        )
    return FAMILIES[config.model_type](config, processor or {})
