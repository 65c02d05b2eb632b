"""Tests of the test server: if its generated answers were invalid, tests that use it would test nothing."""

from __future__ import annotations

import subprocess
import sys

import httpx
import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

import schemas.answers
from operators.models.answer_schema import strict_schema
from operators.models.endpoints import Endpoint, check
from tests.support import openai_server
from tests.support.openai_server import REFUSAL, OpenAIServer, fill_schema, refuse

ANSWERS = [
    value
    for value in vars(schemas.answers).values()
    if isinstance(value, type) and issubclass(value, BaseModel) and value.__module__ == schemas.answers.__name__
]


@pytest.mark.parametrize("model", ANSWERS, ids=lambda model: model.__name__)
@settings(max_examples=20, deadline=None)
@given(seed=st.text())
def test_made_up_answers_are_valid_and_deterministic(model, seed):
    schema = strict_schema(model)
    made_up = fill_schema(schema, seed)
    jsonschema.validate(made_up, schema)
    model.model_validate(made_up)
    assert fill_schema(schema, seed) == made_up


def test_the_server_prints_its_address_when_it_runs_as_a_process():
    process = subprocess.Popen(
        [sys.executable, openai_server.__file__, "--model", "a", "--model", "b"], stdout=subprocess.PIPE, text=True
    )
    try:
        check(Endpoint(process.stdout.readline().strip(), "b"))
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


SIGHT = {"type": "object", "properties": {"text": {"type": "string"}, "colour": {"enum": ["red", "green"]}}}


def test_a_refusal_is_valid_json_with_an_apology_as_every_text():
    body = {"response_format": {"json_schema": {"schema": SIGHT}}}
    assert refuse(body)["text"] == REFUSAL
    jsonschema.validate(refuse(body), SIGHT)
    assert refuse({}) == REFUSAL


def chat(url: str, **more: object) -> dict[str, object]:
    """The first choice of an answer to a request."""
    body = {"model": "fake-model", "messages": [{"role": "user", "content": "Why?"}], "max_tokens": 100, **more}
    answer = httpx.post(f"{url}/chat/completions", json=body).json()
    return answer["choices"][0] | {"tokens": answer["usage"]["completion_tokens"]}


@pytest.mark.parametrize(
    ("thinking", "finish_reason", "tokens", "characters"),
    [(60, "stop", 80, 80), (90, "length", 100, 40), (500, "length", 100, 0)],
)
def test_thinking_takes_tokens_of_the_answer(thinking, finish_reason, tokens, characters):
    with OpenAIServer(script=lambda body: "x" * 80) as server:
        server.thinking = lambda body: thinking
        found = chat(server.url)
    assert (found["finish_reason"], found["tokens"], len(found["message"]["content"])) == (
        finish_reason,
        tokens,
        characters,
    )


def test_a_killed_server_resets_connections_and_restarts_on_its_port():
    with OpenAIServer() as server, httpx.Client(base_url=server.url) as client:
        assert client.get("models").status_code == 200
        server.kill()
        with pytest.raises(httpx.TransportError):
            client.get("models")
        server.restart()
        assert client.get("models").status_code == 200
