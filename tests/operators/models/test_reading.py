from __future__ import annotations

import enum
import json
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from operators.models.reading import answer_text, read_answer, read_entry, repeats_itself
from operators.models.requests import Answer, Request
from schemas.answers import ClipDescription
from schemas.journal import JournalEntry


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
        assert read_answer(answer_text(raw), Scene, limits_text=True) == scene


@pytest.mark.parametrize("form", ["%s", "```json\n%s\n```", "<think>hm</think>%s", "<think>hm</think>```\n%s\n```"])
def test_a_text_may_speak_of_thinking(form):
    raw = form % '{"text": "a sign: </think>"}'
    assert read_answer(answer_text(raw), Scene, limits_text=True).text == "a sign: </think>"


@pytest.mark.parametrize("raw", ["", "I cannot.", "[]", '{"text": 1', '{"text": null}', "{}", '{"text": "a"} and more'])
def test_text_that_is_no_answer_is_refused(raw):
    with pytest.raises(ValueError):
        read_answer(answer_text(raw), Scene, limits_text=True)


@given(st.integers(min_value=0, max_value=100))
def test_a_cut_answer_is_closed_where_it_ended_or_is_none(kept):
    whole = json.dumps({"text": "a long road", "things": [{"name": "dog", "place": "in", "size": 1.5}]})
    try:
        scene = read_answer(whole[:kept], Scene, cut=True)
    except ValueError:
        return
    assert "a long road".startswith(scene.text)
    with pytest.raises(ValueError):
        read_answer(whole[: min(kept, len(whole) - 1)], Scene)


def test_lists_that_are_too_long_are_cut():
    described = {"text": "a street", "objects": [{"label": f"{i}"} for i in range(20)], "on_screen_text": [{}] * 99}
    value = read_answer(json.dumps(described), ClipDescription)
    assert [each.label for each in value.objects] == [f"{i}" for i in range(8)]
    assert len(value.on_screen_text) == 32


SIGHT = '{"text": "a dog", "colour": "red"}'


@pytest.fixture
def read(prompt):
    """Read an entry with these fields, as an answer to the prompt of the other tests."""

    def read(raw: str, *, limits_text: bool = False, **fields: object):
        values = {"finish_reason": "stop", "tokens_in": 9, "tokens_out": 5, **fields}
        entry = JournalEntry(request_sha256="0" * 64, origin_sha256="0" * 64, key="k", model="m", raw=raw, **values)
        return read_entry(Request("k", prompt, "What?"), entry, prompt.sampling, limits_text)

    return read


@pytest.mark.parametrize(
    ("raw", "thoughts"),
    [
        (SIGHT, None),
        (f"<think>first {{</think>{SIGHT}", None),
        (SIGHT, "first {"),
        (SIGHT, "a </think> in thoughts </think>"),
        (f"```json\n{SIGHT}\n```", "thoughts"),
    ],
)
def test_thoughts_are_no_part_of_the_answer(read, raw, thoughts):
    found = read(raw, thoughts=thoughts)
    assert isinstance(found, Answer)
    assert found.value.text == "a dog"
    assert found.provenance.raw == (raw if thoughts is None else f"<think>{thoughts}</think>{raw}")


def test_a_text_that_came_without_its_thoughts_is_never_divided(read):
    found = read(f"so </think>{SIGHT}", thoughts="thoughts")
    assert found.reason == "schema"
    assert read(f"so </think>{SIGHT}").value.text == "a dog"


@pytest.mark.parametrize(
    ("raw", "thoughts", "finish_reason", "reason"),
    [
        (" ", None, "stop", "empty"),
        ("", "thoughts", "stop", "empty"),
        ("", "thoughts", "length", "truncated"),
        ("<think>on and on", None, "length", "truncated"),
        ('{"colour": "bl', None, "length", "truncated"),
        ('{"colour": "bl', None, "stop", "schema"),
        (SIGHT, None, "content_filter", "blocked"),
    ],
)
def test_the_reason_of_a_refusal(read, raw, thoughts, finish_reason, reason):
    assert read(raw, thoughts=thoughts, finish_reason=finish_reason).reason == reason


@pytest.mark.parametrize("loop", ["x", "The man opens the door and goes in. ", '{"label": "man", "box": [0.1, 0.2]}, '])
def test_a_loop_is_found_and_other_text_is_not(loop):
    boxes = [{"label": f"man {i}", "time": f"00:{i:02d}", "box": [i / 97, i / 89, i / 83, i / 79]} for i in range(60)]
    prose = " ".join(f"At {i} the {['man', 'dog', 'car'][i % 3]} passes shop {i * 37 % 101}." for i in range(200))
    assert repeats_itself(json.dumps(boxes) + loop * (4000 // len(loop) + 1))
    assert not repeats_itself(loop * (1900 // len(loop)))
    assert not repeats_itself(json.dumps(boxes))
    assert not repeats_itself(prose)


def test_the_server_names_its_model(read):
    assert read(SIGHT, served_model="alias").provenance.served_model == "alias"
