"""A `BuildConfig` from a YAML file, from `key=value` settings and from JSON, with errors a person can act on."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from schemas.config import BuildConfig
from schemas.settings import ConfigError, read_fields, set_field, validated

__all__ = ["ConfigError", "load_config", "validate_config"]


def load_config(
    file: Path | None = None, settings: Sequence[str] = (), *, base: Mapping[str, Any] | None = None, **fields: Any
) -> BuildConfig:
    """The configuration of a build.

    Args:
        file: a YAML file of `BuildConfig` fields.
        settings: `section.field=value`, values in YAML; they win over the file.
        base: values to start from, instead of a file.
        fields: top-level fields that win over both; None means not given.

    Raises:
        ConfigError: an unreadable file, an unknown field, a value that does not fit, or values that contradict.
    """
    values: dict[str, Any] = copy.deepcopy(dict(base or {})) if file is None else read_fields(file)
    for setting in settings:
        set_field(values, setting)
    values |= {name: value for name, value in fields.items() if value is not None}
    return validate_config(values)


def validate_config(values: Mapping[str, Any]) -> BuildConfig:
    """The values as a configuration; raises ConfigError naming every problem."""
    return validated(values, BuildConfig)
