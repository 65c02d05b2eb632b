from __future__ import annotations

import base64
import enum
import json
from dataclasses import replace
from typing import Annotated

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

import schemas.answers
from operators.models.exchange import Exchange, TimedFrame, read_answer, strict_schema
from schemas.provenance import Sampling


class Place(enum.StrEnum):
    IN = "in"
    OUT = "out"


class Thing(BaseModel):
    name: str
    place: Place = Place.IN
    size: float | None = None


class Scene(BaseModel):
    text: Annotated[str, Field(max_length=100)]
    things: list[Thing] = []


FRAMES = (TimedFrame(0, b"one"), TimedFrame(12_400_000, b"two"))
EXCHANGE = Exchange("m", "sys", FRAMES, "what?", Scene, Sampling(), 7)


@pytest.mark.parametrize(
    ("time_us", "words"),
    [(0, "[00:00.00]"), (12_409_999, "[00:12.40]"), (59_999_999, "[00:59.99]"), (3_723_450_000, "[1:02:03.45]")],
)
def test_a_frame_has_its_timestamp_as_text(time_us, words):
    assert TimedFrame(time_us, b"").timestamp == words


def test_each_frame_follows_its_time_and_the_text_comes_last():
    system, user = EXCHANGE.messages()
    assert system == {"role": "system", "content": "sys"}
    texts = [part.get("text") for part in user["content"]]
    assert texts == ["[00:00.00]", None, "[00:12.40]", None, "what?"]
    head, data = user["content"][3]["image_url"]["url"].split(",")
    assert head == "data:image/jpeg;base64"
    assert base64.b64decode(data) == b"two"


def test_without_frames_the_message_is_plain_text():
    assert replace(EXCHANGE, frames=(), system="").messages() == [{"role": "user", "content": "what?"}]


@pytest.mark.parametrize(
    "change",
    [
        {"model": "n"},
        {"system": ""},
        {"text": "who?"},
        {"seed": 8},
        {"output": Thing},
        {"sampling": Sampling(temperature=0.1)},
        {"frames": FRAMES[:1]},
        {"frames": (FRAMES[0], TimedFrame(12_400_000, b"2"))},
        {"frames": (FRAMES[0], TimedFrame(12_400_001, b"two"))},
        {"repair": ("answer", "complaint")},
    ],
    ids=str,
)
def test_the_identity_covers_whatever_can_change_the_answer(change):
    assert replace(EXCHANGE).sha256 == EXCHANGE.sha256
    assert replace(EXCHANGE, **change).sha256 != EXCHANGE.sha256


def test_a_repetition_shows_the_answer_and_what_is_wrong():
    *before, assistant, user = EXCHANGE.with_repair("{oops", "no JSON").messages()
    assert before == EXCHANGE.messages()
    assert (assistant, user) == (
        {"role": "assistant", "content": "{oops"},
        {"role": "user", "content": "no JSON"},
    )
    assert EXCHANGE.with_repair("", "empty").messages()[-2]["content"]


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


@given(st.builds(Scene, things=st.lists(st.builds(Thing, size=st.floats(allow_nan=False, allow_infinity=False)))))
def test_answers_are_read_through_thoughts_and_fences(scene):
    text = scene.model_dump_json()
    for raw in (
        text,
        f"\n{text}\n",
        f"<think>{{not it}}</think>\n{text}",
        f"thoughts without a beginning</think>{text}",
        f"```json\n{text}\n```",
        f"<think></think>```\n{text}\n```",
    ):
        assert read_answer(raw, Scene, cut=False) == scene


@pytest.mark.parametrize("form", ["%s", "```json\n%s\n```", "<think>hm</think>%s", "<think>hm</think>```\n%s\n```"])
def test_a_text_may_speak_of_thinking(form):
    raw = form % '{"text": "a sign: </think>"}'
    assert read_answer(raw, Scene, cut=False).text == "a sign: </think>"


@pytest.mark.parametrize("raw", ["", "I cannot.", "[]", '{"text": 1', '{"text": null}', "{}", '{"text": "a"} and more'])
def test_text_that_is_no_answer_is_refused(raw):
    with pytest.raises(ValueError):
        read_answer(raw, Scene, cut=False)


@given(st.integers(min_value=0, max_value=100))
def test_a_cut_answer_is_closed_where_it_ended_or_is_none(kept):
    whole = json.dumps({"text": "a long walk", "things": [{"name": "dog", "place": "in", "size": 1.5}]})
    try:
        scene = read_answer(whole[:kept], Scene, cut=True)
    except ValueError:
        return
    assert "a long walk".startswith(scene.text)
    with pytest.raises(ValueError):
        read_answer(whole[: min(kept, len(whole) - 1)], Scene, cut=False)
