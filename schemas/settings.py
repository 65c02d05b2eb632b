"""A model from a YAML file and from `key=value` settings, with errors a person can act on."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from schemas.base import message_of
from schemas.errors import BadInput

M = TypeVar("M", bound=BaseModel)


class ConfigError(BadInput):
    """A configuration that does not fit its model; the message names every field, its value and the way out."""


def read_fields(file: Path) -> dict[str, Any]:
    """The fields and values of a YAML file.

    Raises:
        ConfigError: an unreadable file, or one that is something else.
    """
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"config file {file}: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"config file {file}: expected fields and values, got {type(values).__name__}")
    return values


def set_field(values: dict[str, Any], setting: str) -> None:
    """Enter `section.field=value`, the value in YAML, into nested fields.

    Raises:
        ConfigError: it is no such setting, or its section is a single value.
    """
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


def validated(values: Mapping[str, Any], model: type[M]) -> M:
    """The values as a model.

    Raises:
        ConfigError: an unknown field, a value that does not fit, or values that contradict: all of them.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problems = [_explain(dict(found), model) for found in error.errors()]
        raise ConfigError(
            "the configuration does not fit:\n" + "\n".join(f"  - {text}" for text in problems)
        ) from error


def _explain(found: dict[str, Any], model: type[BaseModel]) -> str:
    path = [str(part) for part in found["loc"]]
    name = ".".join(path) or "configuration"
    if found["type"] == "extra_forbidden":
        known = _fields_at(path[:-1], model)
        near = difflib.get_close_matches(path[-1], known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
        return f"{name}: no such field; {hint}"
    if found["type"] == "missing":
        return f"{name}: is required"
    return f"{name}: {message_of(found)}"


def _fields_at(path: Sequence[str], model: type[BaseModel]) -> list[str]:
    for part in path:
        annotation = model.model_fields[part].annotation
        sections = [kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type)]
        model = next(kind for kind in sections if issubclass(kind, BaseModel))
    return list(model.model_fields)
