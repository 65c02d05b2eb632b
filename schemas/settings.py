"""Builds a model from a YAML file and from `key=value` settings, with error messages that say what to correct."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from schemas.base import message_of, shown_value
from schemas.errors import BadInput
from schemas.uri import shown_uri

M = TypeVar("M", bound=BaseModel)


MAX_YAML_CHARACTERS = 100_000
"""Maximum length of a YAML text, in characters."""
MAX_YAML_DEPTH = 20
"""Maximum nesting depth of a YAML text."""
MAX_ALIASES = 20
"""Maximum number of aliases in a YAML text: 20 expand to at most a few thousand values."""

_PROBLEMS_SHOWN = 30
_MAX_NAME_CHARACTERS = 80


class ConfigError(BadInput):
    """A configuration does not fit its model. The message names every field, its value and what to do."""


def read_fields(file: Path) -> dict[str, Any]:
    """Read the fields and values of a YAML file.

    Raises:
        ConfigError: the file cannot be read, is not YAML, or holds no fields and values.
    """
    try:
        values = read_yaml(file.read_text(encoding="utf-8")) or {}
    except (OSError, ValueError) as error:
        raise ConfigError(f"config file {file}: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"config file {file}: expected fields and values, got {type(values).__name__}")
    return values


def read_yaml(text: str) -> Any:
    """Parse a YAML text. Its size is checked before anything in it is expanded.

    Raises:
        ValueError: the text is not YAML, is too long, is nested too deep, or has too many aliases. An alias may stand
            for a whole list of other aliases, so that a few lines expand to gigabytes.
    """
    if len(text) > MAX_YAML_CHARACTERS:
        raise ValueError(
            f"{len(text):,} characters are more than the {MAX_YAML_CHARACTERS:,} that a configuration may have"
        )
    aliases = depth = 0
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            aliases += isinstance(event, yaml.AliasEvent)
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if aliases > MAX_ALIASES:
                raise ValueError(f"more than {MAX_ALIASES} aliases (*name); write the values out")
            if depth > MAX_YAML_DEPTH:
                raise ValueError(f"nested more than {MAX_YAML_DEPTH} deep; a configuration is not")
    except yaml.YAMLError as error:
        raise ValueError(f"not YAML: {_yaml_problem(error)}") from None
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"not YAML: {_yaml_problem(error)}") from None
    except (ValueError, OverflowError, TypeError) as error:  # an impossible date, a number with too many digits
        raise ValueError(f"not YAML: {error}") from None


def _yaml_problem(error: yaml.YAMLError) -> str:
    """The problem and its position. PyYAML's own message also quotes the line, which may hold a password."""
    mark = getattr(error, "problem_mark", None)
    where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    return f"{getattr(error, 'problem', None) or 'a character that YAML does not allow'}{where}"


def set_field(values: dict[str, Any], setting: str) -> None:
    """Set a field in nested `values` from a text `section.field=value`, whose value is YAML.

    Raises:
        ConfigError: the text is not such a setting, its value is not YAML, or its section holds a single value.
    """
    path, equals, text = setting.partition("=")
    if not equals or not path:
        raise ConfigError(f"setting {shown_value(setting)}: expected section.field=value")
    *sections, field = path.split(".")
    if len(sections) > MAX_YAML_DEPTH:
        raise ConfigError(f"setting {shown_value(setting)}: no section is nested so deep")
    for section in sections:
        inner = values.setdefault(section, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"setting {path}: {section} is a single value, not a section")
        values = inner
    try:
        values[field] = read_yaml(text)
    except ValueError as error:
        raise ConfigError(f"setting {path}: the value is {error}") from None


def validate(values: Mapping[str, Any], model: type[M], synonyms: Mapping[str, str] | None = None) -> M:
    """Validate values as a model.

    Args:
        synonyms: names that other programs use for some fields, and the dotted names of these fields here.

    Raises:
        ConfigError: unknown fields, values that do not fit, or values that contradict each other. The message lists the
            first 30 and the number of the others.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        found = error.errors()
        problems = [_explain(dict(each), model, synonyms or {}) for each in found[:_PROBLEMS_SHOWN]]
        if len(found) > _PROBLEMS_SHOWN:
            problems.append(f"and {len(found) - _PROBLEMS_SHOWN} more")
        raise ConfigError(
            "the configuration does not fit:\n" + "\n".join(f"  - {text}" for text in problems)
        ) from error


def _explain(found: dict[str, Any], model: type[BaseModel], synonyms: Mapping[str, str]) -> str:
    path = [str(part) for part in found["loc"]]
    name = shown_uri(".".join(path)) or "configuration"
    if found["type"] == "extra_forbidden":
        return f"{name}: no such field; {_hint(path, model, synonyms)}"
    if found["type"] == "missing":
        return f"{name}: is required"
    if found["type"] == "tuple_type" and isinstance(found["input"], str | int | float):
        return f"{name}: is a list, also with one value; write {path[-1]}=[VALUE]"
    return f"{name}: {message_of(found)}"


def _hint(path: Sequence[str], model: type[BaseModel], synonyms: Mapping[str, str]) -> str:
    """Suggest a replacement for a field that does not exist, or list the known fields.

    Tried in this order: a synonym from another program, a field of the same name elsewhere, a similar name in the same
    section, a similar name elsewhere.
    """
    known, name = _fields_at(path[:-1], model), path[-1][:_MAX_NAME_CHARACTERS]
    everywhere = {dotted.rpartition(".")[2]: dotted for dotted in reversed(_dotted_names(model))}
    meant = synonyms.get(name.replace("-", "_").lower()) or everywhere.get(name)
    if meant is None and (near := difflib.get_close_matches(name, known, n=1)):
        meant = near[0]
    if meant is None and (near := difflib.get_close_matches(name, everywhere, n=1, cutoff=0.8)):
        meant = everywhere[near[0]]
    return f"known are {', '.join(known)}" if meant is None else f"did you mean {meant!r}?"


def _dotted_names(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Dotted names of all fields, including those of sections, outer fields first."""
    names = [prefix + name for name in model.model_fields]
    for name in model.model_fields:
        inner = _section(model, name)
        names += _dotted_names(inner, f"{prefix}{name}.") if inner else []
    return names


def _section(model: type[BaseModel], field: str) -> type[BaseModel] | None:
    """The model of a field that is a section; None for other fields."""
    if field not in model.model_fields:  # an index into a list
        return None
    annotation = model.model_fields[field].annotation
    kinds = [kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type)]
    return next((kind for kind in kinds if issubclass(kind, BaseModel)), None)


def _fields_at(path: Sequence[str], model: type[BaseModel]) -> list[str]:
    for part in path:
        model = _section(model, part) or model
    return list(model.model_fields)
