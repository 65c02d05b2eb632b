"""DAG parameters made from `BuildConfig`, for the trigger form and the REST API, and their conversion back to it.

Each field of a section is one parameter with the same name as in `lvr build --set`, such as `split.clip_seconds`.
Labels, help texts, limits and choices come from the JSON schema, so that the form always matches what a build accepts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from airflow.sdk import Param

from operators.settings import ConfigError, validate_config
from schemas.config import BuildConfig

UP_FRONT = ("source", "out", "name", "media_root", "allowed_roots", "partition_videos")
"""Parameters shown at the top of the form, in this order. All others are in sections that open with a click."""

_CONSTRAINTS = (
    "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minLength", "maxLength", "minItems", "pattern",
)  # fmt: skip

_CODE = re.compile("`([^`]+)`")
"""Inline code in a help text. It is shown in bold: the form's boxes around code cover the lines above and below."""

_SHORT = re.compile(r"\b(fps|sft)\b", re.IGNORECASE)


def build_params() -> dict[str, Param]:
    """One DAG parameter for each field of `BuildConfig`, by dotted name."""
    root = BuildConfig.model_json_schema()
    fields = dict(_leaves(root, root, ""))
    names = [*UP_FRONT, *(name for name in fields if name not in UP_FRONT)]
    return {name: _param(root, name, fields[name]) for name in names}


def config_from_params(params: Mapping[str, Any]) -> BuildConfig:
    """The configuration that a run's parameters describe, where None stands for a field's default.

    Raises:
        ConfigError: a parameter is unknown or has an invalid value. The message names the parameters.
    """
    known = build_params()
    if unknown := [name for name in params if name not in known]:
        is_section = any(name.startswith(f"{unknown[0]}.") for name in known)
        hint = f"; a section's fields are given one by one, as {unknown[0]}.<field>" if is_section else ""
        raise ConfigError(f"no such parameter: {', '.join(unknown)}{hint}; the trigger form lists all of them")
    values: dict[str, Any] = {}
    for name, value in params.items():
        if value is None:
            continue
        *sections, field = name.split(".")
        inner = values
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[field] = value
    return validate_config(values)


def _leaves(root: Mapping[str, Any], schema: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the dotted name and the schema of every field that holds a value, recursing into sections."""
    for name, found in schema["properties"].items():
        resolved = _resolve(root, found)
        if "properties" in resolved:
            yield from _leaves(root, resolved, f"{prefix}{name}.")
        else:
            yield prefix + name, resolved


def _resolve(root: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema with its `$ref` resolved. Keys next to the `$ref` override those of the target."""
    if "$ref" not in schema:
        return dict(schema)
    target = root["$defs"][schema["$ref"].rpartition("/")[2]]
    return {**target, **{key: value for key, value in schema.items() if key != "$ref"}}


def _param(root: Mapping[str, Any], name: str, schema: Mapping[str, Any]) -> Param:
    options = _constraints(schema)
    options["title"] = _title(name)
    if help_text := schema.get("description") or _resolve(root, schema.get("items", {})).get("description"):
        options["description_md"] = _CODE.sub(r"**\1**", help_text)
    if name not in UP_FRONT:
        options["section"] = _section(root, name)
    if "default" not in schema:
        return Param(type=schema["type"], **options)  # required: the form insists on a value
    return Param(**_value(root, schema), **options)


def _constraints(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {key: schema[key] for key in _CONSTRAINTS if key in schema}


def _value(root: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """Default, type and choices of a parameter, in a form that the trigger page has an input field for."""
    default = schema["default"]
    if "enum" in schema:
        return {"default": default, "type": "string", **_choices(schema["enum"])}
    kind, *_ = [each for each in schema.get("anyOf", [{}]) if each.get("type") != "null"]
    if "anyOf" in schema and kind["type"] != "boolean":  # empty: decided by the build
        return {"default": default, "type": ["null", kind["type"]], **_constraints(kind)}
    if "anyOf" in schema:  # yes, no, or decided by the build
        labels = {"null": "Automatic", "true": "Yes", "false": "No"}
        return {"default": default, "enum": [None, True, False], "values_display": labels}
    if schema["type"] == "array" and "enum" not in _resolve(root, schema["items"]):  # one per line
        return {"default": None, "type": ["null", "array"], "items": {"type": "string"}}
    if schema["type"] == "array":
        words = _resolve(root, schema["items"])["enum"]
        items = {"type": "string", "enum": words}
        return {
            "default": list(default), "type": "array", "items": items, "examples": words, "uniqueItems": True,
            "values_display": _choices(words)["values_display"],
        }  # fmt: skip
    if default == "":  # the form requires a value for a plain string, and could not be submitted with an empty one
        return {"default": None, "type": ["null", "string"]}
    return {"default": default, "type": schema["type"]}


def _choices(words: list[str]) -> dict[str, Any]:
    return {"enum": words, "values_display": {word: word.replace("_", " ").capitalize() for word in words}}


def _title(name: str) -> str:
    """Label of a parameter: `models.captioner.timeout_seconds` gives `Captioner: timeout seconds`.

    The section's own name is omitted, because the form shows it as the heading above.
    """
    words = [part.replace("_", " ") for part in name.split(".")]
    return _SHORT.sub(lambda found: found[0].upper(), ": ".join(words[1:] or words).capitalize())


def _section(root: Mapping[str, Any], name: str) -> str:
    section, dot, _ = name.partition(".")
    if not dot:
        return "Reproducibility"
    about = _resolve(root, root["properties"][section])["description"].rstrip(".")
    return f"{section.capitalize()}: {about[0].lower()}{about[1:]}"
