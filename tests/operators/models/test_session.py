from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import CancelledError
from dataclasses import replace

import pytest

from operators.models.client import Answer, Request
from operators.models.embedded import EMBEDDED_MAX_TOKENS, EMBEDDED_MODEL
from operators.models.endpoints import EndpointError
from operators.models.journal import Journal
from operators.models.session import MEASURED, ModelPool, open_models, process_pool, resolve
from schemas.config import ModelConfig, ModelsConfig, Role
from tests.support.openai_server import OpenAIServer

ALL = {"LVR_MODEL_URL": "http://m:1/v1", "LVR_MODEL_NAME": "big"}


def test_without_endpoints_captions_are_measured_and_texts_embedded():
    resolved = resolve(ModelsConfig(), {})
    assert {role: resolved.of(role).model for role in Role} == {
        Role.CAPTIONER: MEASURED,
        Role.REASONER: EMBEDDED_MODEL,
        Role.JUDGE: EMBEDDED_MODEL,
        Role.TARGET: EMBEDDED_MODEL,
        Role.VIEWER: "",
    }
    assert {resolved.of(role).vision for role in Role} == {False}


def test_endpoints_name_models_and_whether_they_have_vision():
    resolved = resolve(ModelsConfig(), {**ALL, "LVR_JUDGE_URL": "http://j:1/v1", "LVR_JUDGE_MODEL": "small"})
    assert [(resolved.of(role).model, resolved.of(role).vision) for role in Role] == [
        ("big", True),
        ("big", False),
        ("small", False),
        ("big", True),
        ("", False),
    ]


def test_the_configuration_has_the_last_word():
    config = ModelsConfig(
        captioner=ModelConfig(model=MEASURED),
        reasoner=ModelConfig(model="other", vision=True, concurrency=3),
        judge=ModelConfig(model=EMBEDDED_MODEL),
        target=ModelConfig(vision=False),
    )
    resolved = resolve(config, ALL)
    assert [(resolved.of(role).model, resolved.of(role).vision) for role in Role] == [
        (MEASURED, False),
        ("other", True),
        (EMBEDDED_MODEL, False),
        ("big", False),
        ("", False),
    ]
    assert resolved.reasoner.concurrency == 3


@pytest.mark.parametrize("environ", [{}, ALL])
def test_resolving_again_changes_nothing(environ):
    resolved = resolve(ModelsConfig(), environ)
    assert resolve(resolved, environ) == resolved


@pytest.mark.parametrize(
    ("config", "environ", "complaint"),
    [
        ({"judge": {"model": "big"}}, {}, "judge: model 'big' has no endpoint; set LVR_JUDGE_URL"),
        ({"judge": {"model": MEASURED}}, {}, "judge: only captions can be 'measured'"),
        ({}, {"LVR_MODEL_URL": "http://m:1/v1"}, "captioner: its endpoint names no model; set LVR_CAPTIONER_MODEL"),
        ({}, {"LVR_MODEL_URL": "http://m:1/v1"}, "target: its endpoint names no model; set LVR_TARGET_MODEL"),
        ({}, {"LVR_VIEWER_URL": "http://m:1/v1"}, "viewer: its endpoint names no model; set LVR_VIEWER_MODEL"),
        ({"viewer": {"model": "big"}}, ALL, "viewer: model 'big' has no endpoint.* LVR_MODEL_URL with LVR_MODEL_VIS"),
        ({"viewer": {"model": EMBEDDED_MODEL}}, {}, "viewer: SmolLM2.* has no vision"),
    ],
)
def test_a_role_that_cannot_be_resolved_is_refused_with_the_cause(config, environ, complaint):
    with pytest.raises(EndpointError, match=complaint):
        resolve(ModelsConfig(**config), environ)


def test_a_role_without_a_model_is_absent_and_nothing_starts(tmp_path, pool):
    journal = Journal(str(tmp_path))
    with open_models(resolve(ModelsConfig(), {}), list(Role), journal, {}, pool) as models:
        assert set(models) == {Role.REASONER, Role.JUDGE, Role.TARGET}
        assert models[Role.JUDGE].model == EMBEDDED_MODEL
        assert not models[Role.JUDGE].vision
    assert pool._embedded.pid is None


def test_the_embedded_model_never_gets_a_request_for_a_long_answer(tmp_path, pool, prompt):
    long = replace(prompt, sampling=prompt.sampling.model_copy(update={"max_tokens": 4096}))
    with open_models(resolve(ModelsConfig(), {}), [Role.JUDGE], Journal(str(tmp_path)), {}, pool) as models:
        (reply,) = models[Role.JUDGE].call([Request("q", long, "Write a very long story about the sea.")])
    assert isinstance(reply, Answer)
    assert reply.provenance.sampling.max_tokens == EMBEDDED_MAX_TOKENS >= reply.provenance.tokens_out


def test_a_served_embedded_model_is_called_at_its_endpoint_with_the_same_limit(tmp_path, pool, prompt):
    long = replace(prompt, sampling=prompt.sampling.model_copy(update={"max_tokens": 4096}))
    with OpenAIServer(models=(EMBEDDED_MODEL,)) as server:
        environ = server.environ() | {"LVR_MODEL_NAME": EMBEDDED_MODEL}
        config = resolve(ModelsConfig(), environ)
        assert (config.judge.model, config.target.vision) == (EMBEDDED_MODEL, False)
        with open_models(config, [Role.JUDGE], Journal(str(tmp_path)), environ, pool) as models:
            (reply,) = models[Role.JUDGE].call([Request("q", long, "Who are you?")])
        [request] = server.requests
    assert isinstance(reply, Answer)
    assert (request.body["model"], request.body["max_tokens"]) == (EMBEDDED_MODEL, EMBEDDED_MAX_TOKENS)
    assert pool._embedded.pid is None


def test_planned_with_an_endpoint_and_run_without(tmp_path, pool):
    config = resolve(ModelsConfig(), ALL)
    with (
        pytest.raises(EndpointError, match="planned with model 'big', but LVR_JUDGE_URL and LVR_MODEL_URL are not set"),
        open_models(config, [Role.JUDGE], Journal(str(tmp_path)), {}, pool),
    ):
        pass


def test_work_items_in_threads_share_the_pool_of_the_process(tmp_path, server, prompt):
    config = resolve(ModelsConfig(), server.environ())
    answers: dict[int, object] = {}

    def call_judge(name: int) -> None:
        with open_models(config, [Role.JUDGE], Journal(str(tmp_path / str(name))), server.environ()) as models:
            (answers[name],) = models[Role.JUDGE].call([Request("q", prompt, f"item {name}")])

    threads = [threading.Thread(target=call_judge, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {name: answer.request.text for name, answer in answers.items()} == {i: f"item {i}" for i in range(8)}
    assert process_pool() is process_pool()
    assert [thread.name for thread in threading.enumerate()].count("model-pool") == 1


def _call_in_a_child(url, folder, prompt, environ):
    config = resolve(ModelsConfig(), environ)
    with open_models(config, [Role.JUDGE], Journal(folder), environ) as models:
        (answer,) = models[Role.JUDGE].call([Request("q", prompt, "from the child")])
    os._exit(0 if isinstance(answer, Answer) else 1)


def test_a_forked_child_has_a_pool_of_its_own(tmp_path, server, prompt):
    parents = process_pool()
    arguments = (server.url, str(tmp_path / "child"), prompt, server.environ())
    child = multiprocessing.get_context("fork").Process(target=_call_in_a_child, args=arguments)
    child.start()
    child.join(30)
    assert child.exitcode == 0
    assert process_pool() is parents
    client = parents.client(Role.JUDGE, ModelConfig(model="fake-model"), Journal(str(tmp_path)), server.environ())
    assert isinstance(client.call([Request("q", prompt, "from the parent")])[0], Answer)


def test_closing_ends_the_thread_even_with_requests_under_way(tmp_path, prompt):
    with OpenAIServer(delay_seconds=1.0) as server, Journal(str(tmp_path)) as journal:
        pool = ModelPool()
        client = pool.client(Role.JUDGE, ModelConfig(model="fake-model"), journal, server.environ())
        raised: list[CancelledError] = []

        def call() -> None:
            try:
                client.call([Request("q", prompt, "slow")])
            except CancelledError as error:
                raised.append(error)

        caller = threading.Thread(target=call)
        caller.start()
        while not server.requests:
            time.sleep(0.01)
        pool.close()
        caller.join(5)
        pool.close()
        assert len(raised) == 1
        assert not pool._thread.is_alive()


def test_closing_starts_no_thread(tmp_path, prompt, server, monkeypatch):
    """A process that is shutting down cannot start threads: Python 3.12 and later refuse."""
    pool = ModelPool()
    with Journal(str(tmp_path)) as journal:
        client = pool.client(Role.JUDGE, ModelConfig(model="fake-model"), journal, server.environ())
        client.call([Request("q", prompt, "Anything?")])

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    pool.close()
    assert not pool._thread.is_alive()
    assert not any(thread.is_alive() for thread in pool._executor._threads)


def test_interrupting_the_caller_takes_its_requests_back(tmp_path, prompt):
    """Ctrl-C while a server is slow: the process ends immediately, without output from the requests in flight."""
    code = textwrap.dedent(f"""
        import signal
        import sys
        from pathlib import Path
        from pydantic import BaseModel
        from operators.models.client import Request
        from operators.models.journal import Journal
        from operators.models.prompts import load_prompt
        from operators.models.session import open_models, resolve
        from schemas.config import ModelsConfig, Role
        signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a shell's background
        class Sight(BaseModel):
            text: str
        prompt = load_prompt("scene", Path({str(tmp_path / "prompts")!r}), {{"Sight": Sight}})
        with open_models(resolve(ModelsConfig()), [Role.JUDGE], Journal({str(tmp_path / "journal")!r})) as models:
            try:
                models[Role.JUDGE].call([Request("q", prompt, "slow")])
            except KeyboardInterrupt:
                print("interrupted", flush=True)
    """)
    with OpenAIServer(delay_seconds=20.0) as server:
        environ = {**os.environ, **server.environ()}
        child = subprocess.Popen(
            [sys.executable, "-c", code], env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        while not server.requests and child.poll() is None:
            time.sleep(0.02)
        child.send_signal(signal.SIGINT)
        out, errors = child.communicate(timeout=15)
    assert (out, errors, child.returncode) == ("interrupted\n", "", 0)
