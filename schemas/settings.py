"""A model from a YAML file and from `key=value` settings, with errors a person can act on."""

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


LONGEST_YAML = 100_000
DEEPEST_YAML = 20
MOST_ALIASES = 20
"""A text of 20 aliases expands to at most some thousand values."""

_PROBLEMS_SHOWN = 30
_LONGEST_NAME = 80


class ConfigError(BadInput):
    """A configuration that does not fit its model; the message names every field, its value and the way out."""


def read_fields(file: Path) -> dict[str, Any]:
    """The fields and values of a YAML file.

    Raises:
        ConfigError: an unreadable file, or one that is something else.
    """
    try:
        values = read_yaml(file.read_text(encoding="utf-8")) or {}
    except (OSError, ValueError) as error:
        raise ConfigError(f"config file {file}: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"config file {file}: expected fields and values, got {type(values).__name__}")
    return values


def read_yaml(text: str) -> Any:
    """The value of a YAML text, which is looked at before anything in it is expanded.

    Raises:
        ValueError: it is no YAML, too long, nested too deep, or has too many aliases: each may stand for a whole list
            of others, so that a few lines become gigabytes.
    """
    if len(text) > LONGEST_YAML:
        raise ValueError(f"{len(text):,} characters are more than the {LONGEST_YAML:,} that a configuration may have")
    aliases = depth = 0
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            aliases += isinstance(event, yaml.AliasEvent)
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if aliases > MOST_ALIASES:
                raise ValueError(f"more than {MOST_ALIASES} aliases (*name); write the values out")
            if depth > DEEPEST_YAML:
                raise ValueError(f"nested more than {DEEPEST_YAML} deep; a configuration is not")
    except yaml.YAMLError as error:
        raise ValueError(f"not YAML: {_yaml_problem(error)}") from None
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"not YAML: {_yaml_problem(error)}") from None
    except (ValueError, OverflowError, TypeError) as error:  # a date that is none, a number without end
        raise ValueError(f"not YAML: {error}") from None


def _yaml_problem(error: yaml.YAMLError) -> str:
    """What is wrong and where; PyYAML's own text quotes the line, in which a password may be."""
    mark = getattr(error, "problem_mark", None)
    where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    return f"{getattr(error, 'problem', None) or 'a character that YAML does not allow'}{where}"


def set_field(values: dict[str, Any], setting: str) -> None:
    """Enter `section.field=value`, the value in YAML, into nested fields.

    Raises:
        ConfigError: it is no such setting, or its section is a single value.
    """
    path, equals, text = setting.partition("=")
    if not equals or not path:
        raise ConfigError(f"setting {shown_value(setting)}: expected section.field=value")
    *sections, field = path.split(".")
    if len(sections) > DEEPEST_YAML:
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


def validated(values: Mapping[str, Any], model: type[M], synonyms: Mapping[str, str] | None = None) -> M:
    """The values as a model.

    Args:
        synonyms: other programs' names for some fields, and the dotted names here.

    Raises:
        ConfigError: an unknown field, a value that does not fit, or values that contradict: all of them.
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
    return f"{name}: {message_of(found)}"


def _hint(path: Sequence[str], model: type[BaseModel], synonyms: Mapping[str, str]) -> str:
    """What may have been meant by a field that does not exist: what other programs call so, a field of that name
    elsewhere, or one of a similar name beside it or elsewhere."""
    known, name = _fields_at(path[:-1], model), path[-1][:_LONGEST_NAME]
    everywhere = {dotted.rpartition(".")[2]: dotted for dotted in reversed(_dotted(model))}
    meant = synonyms.get(name.replace("-", "_").lower()) or everywhere.get(name)
    if meant is None and (near := difflib.get_close_matches(name, known, n=1)):
        meant = near[0]
    if meant is None and (near := difflib.get_close_matches(name, everywhere, n=1, cutoff=0.8)):
        meant = everywhere[near[0]]
    return f"known are {', '.join(known)}" if meant is None else f"did you mean {meant!r}?"


def _dotted(model: type[BaseModel], prefix: str = "") -> list[str]:
    """All fields, also of sections, outer ones first."""
    names = [prefix + name for name in model.model_fields]
    for name in model.model_fields:
        inner = _section(model, name)
        names += _dotted(inner, f"{prefix}{name}.") if inner else []
    return names


def _section(model: type[BaseModel], field: str) -> type[BaseModel] | None:
    """The model of a field that is a section."""
    if field not in model.model_fields:  # a number in a list
        return None
    annotation = model.model_fields[field].annotation
    kinds = [kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type)]
    return next((kind for kind in kinds if issubclass(kind, BaseModel)), None)


def _fields_at(path: Sequence[str], model: type[BaseModel]) -> list[str]:
    for part in path:
        model = _section(model, part) or model
    return list(model.model_fields)
