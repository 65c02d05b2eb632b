"""The JSON schema of an answer: what a decoder is held to, and what is checked when the answer is read.

A decoder that enforces `maxLength` closes a text mid-word at that length, and nobody sees that it was cut
(llama.cpp, xgrammar; there its masks also take 300 times longer, mlc-ai/xgrammar#852). So `maxLength` is not sent, and
a text as long as its limit is an error when it is read. Lists are limited on the wire: `maxItems` ends them cleanly.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel

from schemas.answers import FreeText

MAX_LIMITED_CHARACTERS = 120
"""Longest text that a decoder is held to. llama.cpp unrolls `maxLength` into its grammar: 12,000 take it minutes."""


@functools.cache
def strict_schema(output: type[BaseModel]) -> dict[str, Any]:
    """A model's JSON schema as `strict` decoding requires it: all properties required, no others, no defaults."""
    schema = copy.deepcopy(output.model_json_schema())
    _visit(schema, _make_strict)
    return schema


@functools.cache
def wire_schema(output: type[BaseModel], limits_text: bool) -> dict[str, Any] | None:
    """The schema that is sent to a server; None for free text.

    Args:
        limits_text: keep `maxLength`, of at most `MAX_LIMITED_CHARACTERS`, for a model that never ends a text by
            itself.
    """
    if issubclass(output, FreeText):
        return None
    schema = copy.deepcopy(strict_schema(output))
    _visit(schema, _shorten if limits_text else lambda node: node.pop("maxLength", None) if _is_text(node) else None)
    return schema


def _is_text(node: dict[str, Any]) -> bool:
    return node.get("type") == "string"


def _shorten(node: dict[str, Any]) -> None:
    if _is_text(node) and "maxLength" in node:
        node["maxLength"] = min(node["maxLength"], MAX_LIMITED_CHARACTERS)


def _visit(node: Any, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change every object of a schema in place."""
    if isinstance(node, dict):
        change(node)
    for item in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        _visit(item, change)


def _make_strict(node: dict[str, Any]) -> None:
    if node.get("type") == "object":
        properties = node.get("properties", {})
        node["required"] = list(properties)
        node["additionalProperties"] = False
        for definition in properties.values():
            definition.pop("default", None)


def assert_not_cut(value: Any, output: type[BaseModel]) -> None:
    """Check that no text of an answer is as long as its limit or longer.

    Args:
        value: the parsed JSON.

    Raises:
        ValueError: a text was cut at its limit, or is too long. The message names it.
    """
    schema = strict_schema(output)
    _assert_not_cut(value, schema, schema.get("$defs", {}), "")


def _assert_not_cut(value: Any, schema: dict[str, Any], definitions: dict[str, Any], place: str) -> None:
    if "$ref" in schema:
        schema = definitions[schema["$ref"].rpartition("/")[2]]
    if isinstance(value, str) and len(value) >= schema.get("maxLength", len(value) + 1):
        raise ValueError(f"{place}: it has {len(value)} characters and must have fewer than {schema['maxLength']}")
    if isinstance(value, dict):
        for name, part in schema.get("properties", {}).items():
            if name in value:
                _assert_not_cut(value[name], part, definitions, f"{place}.{name}".lstrip("."))
    if isinstance(value, list) and isinstance(schema.get("items"), dict):
        for index, item in enumerate(value):
            _assert_not_cut(item, schema["items"], definitions, f"{place}.{index}")
