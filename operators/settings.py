"""A `BuildConfig` from a YAML file, from `key=value` settings and from JSON, with errors a person can act on."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from schemas.config import BuildConfig
from schemas.errors import BadInput


class ConfigError(BadInput):
    """A configuration that does not fit `BuildConfig`; the message names every field, its value and the way out."""


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
    values: dict[str, Any] = copy.deepcopy(dict(base or {}))
    if file is not None:
        try:
            values = yaml.safe_load(file.read_text()) or {}
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ConfigError(f"config file {file}: {error}") from error
        if not isinstance(values, dict):
            raise ConfigError(f"config file {file}: expected fields and values, got {type(values).__name__}")
    for setting in settings:
        _set(values, setting)
    values |= {name: value for name, value in fields.items() if value is not None}
    return validate_config(values)


def validate_config(values: Mapping[str, Any]) -> BuildConfig:
    """The values as a configuration; raises ConfigError naming every problem."""
    try:
        return BuildConfig.model_validate(values)
    except ValidationError as error:
        problems = [_explain(dict(found)) for found in error.errors()]
        raise ConfigError(
            "the configuration does not fit:\n" + "\n".join(f"  - {text}" for text in problems)
        ) from error


def _set(values: dict[str, Any], setting: str) -> None:
    path, equals, text = setting.partition("=")
    if not equals or not path:
        raise ConfigError(f"setting {setting!r}: expected section.field=value")
    *sections, field = path.split(".")
    for section in sections:
        inner = values.setdefault(section, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"setting {setting!r}: {section} is a single value, not a section")
        values = inner
    try:
        values[field] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"setting {setting!r}: the value is not YAML: {error}") from error


def _explain(found: dict[str, Any]) -> str:
    path = [str(part) for part in found["loc"]]
    name = ".".join(path) or "configuration"
    if found["type"] == "extra_forbidden":
        known = _fields_at(path[:-1])
        near = difflib.get_close_matches(path[-1], known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
        return f"{name}: no such field; {hint}"
    if found["type"] == "missing":
        return f"{name}: is required"
    return f"{name}: {found['msg'].removeprefix('Value error, ')}, got {found['input']!r}"


def _fields_at(path: Sequence[str]) -> list[str]:
    model: type[BaseModel] = BuildConfig
    for part in path:
        annotation = model.model_fields[part].annotation
        assert isinstance(annotation, type) and issubclass(annotation, BaseModel)
        model = annotation
    return list(model.model_fields)
