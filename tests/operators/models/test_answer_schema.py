from __future__ import annotations

import json
import re
from typing import Annotated

import jsonschema
import pytest
from pydantic import BaseModel, Field

import schemas.answers
from operators.models.answer_schema import MAX_LIMITED_CHARACTERS, assert_not_cut, strict_schema, wire_schema
from schemas.answers import FreeText, WrittenChoice


class Thing(BaseModel):
    name: Annotated[str, Field(max_length=10)]
    place: str = "in"
    size: float | None = None


class Scene(BaseModel):
    text: Annotated[str, Field(max_length=100)]
    things: Annotated[list[Thing], Field(max_length=3)] = []


def test_strict_schemas_require_everything_and_allow_nothing_else():
    schema = strict_schema(Scene)
    assert schema["required"] == ["text", "things"]
    assert schema["additionalProperties"] is False
    thing = schema["$defs"]["Thing"]
    assert thing["required"] == ["name", "place", "size"]
    assert "default" not in thing["properties"]["place"]


def _models():
    found = [value for value in vars(schemas.answers).values() if isinstance(value, type)]
    return [value for value in found if issubclass(value, BaseModel) and value.__module__ == schemas.answers.__name__]


@pytest.mark.parametrize("model", _models(), ids=lambda model: model.__name__)
def test_the_projects_answers_have_valid_strict_schemas(model):
    schema = strict_schema(model)
    jsonschema.Draft202012Validator.check_schema(schema)
    for part in [schema, *schema.get("$defs", {}).values()]:
        if part.get("type") == "object":
            assert part["required"] == list(part["properties"])


@pytest.mark.parametrize("model", _models(), ids=lambda model: model.__name__)
def test_no_longest_text_is_on_the_wire_except_for_a_model_that_never_ends_one(model):
    sent = wire_schema(model, limits_text=False)
    assert "maxLength" not in json.dumps(sent)
    limited = wire_schema(model, limits_text=True)
    longest = [int(length) for length in re.findall(r'"maxLength": (\d+)', json.dumps(limited))]
    assert len(longest) == (0 if model is FreeText else json.dumps(strict_schema(model)).count('"maxLength"'))
    assert all(length <= MAX_LIMITED_CHARACTERS for length in longest)


def test_the_longest_lists_are_on_the_wire():
    assert wire_schema(Scene, limits_text=False)["properties"]["things"]["maxItems"] == 3
    described = wire_schema(schemas.answers.ClipDescription, limits_text=False)["properties"]
    assert (described["objects"]["maxItems"], described["on_screen_text"]["maxItems"]) == (8, 32)
    assert "maxLength" in json.dumps(strict_schema(WrittenChoice))


@pytest.mark.parametrize("length", [100, 101, 5000])
def test_a_text_that_ends_at_its_limit_or_after_it_was_cut(length):
    assert_not_cut({"text": "x" * 99, "things": [{"name": "dog"}]}, Scene)
    with pytest.raises(ValueError, match=f"text: it has {length} characters and must have fewer than 100"):
        assert_not_cut({"text": "x" * length}, Scene)


def test_a_cut_text_inside_of_a_list_is_named():
    with pytest.raises(ValueError, match=r"things\.1\.name: it has 10 characters"):
        assert_not_cut({"text": "", "things": [{"name": "dog"}, {"name": "x" * 10}]}, Scene)
