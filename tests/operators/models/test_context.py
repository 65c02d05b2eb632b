from __future__ import annotations

import logging

import pytest

from operators.models.client import ModelUnavailable
from operators.models.embedded import EMBEDDED_CONTEXT_TOKENS
from operators.models.journal import Journal
from operators.models.session import ModelPool, open_models, resolve
from operators.models.tokens import token_bound
from schemas.config import ModelConfig, ModelsConfig, Role
from tests.support.openai_server import OpenAIServer

STORY = "A man opens the door. Then he runs away."


@pytest.fixture
def client_of(pool, tmp_path):
    def make(server: OpenAIServer, **config):
        settings = ModelConfig(**{"model": "fake-model", "patience_seconds": 0.0, **config})
        return pool.client(Role.JUDGE, settings, Journal(str(tmp_path / "journal")), server.environ())

    return make


@pytest.mark.parametrize(
    ("context", "slot_tokens", "expected"),
    [
        ({"max_model_len": 65_536}, 0, 65_536),
        ({"meta": {"n_ctx_train": 131_072}}, 8_192, 8_192),
        ({"meta": {"n_ctx_train": 131_072}}, 0, 131_072),
        ({"max_model_len": None}, 0, 32_768),
        ({}, 0, 32_768),
    ],
    ids=["vllm", "llama.cpp", "llama.cpp without props", "null", "none"],
)
def test_the_context_is_the_one_that_the_server_states(client_of, caplog, context, slot_tokens, expected):
    with caplog.at_level(logging.WARNING), OpenAIServer(context=context) as server:
        server.slot_tokens = slot_tokens
        client = client_of(server)
        assert client.context_tokens == client.context_tokens == client_of(server).context_tokens == expected
    warned = [record.message for record in caplog.records]
    assert len(warned) == (expected == 32_768)
    assert all("set models.judge.context_tokens" in message for message in warned)


def test_a_configured_context_needs_no_server(client_of):
    with OpenAIServer(context={"max_model_len": 4096}) as server:
        client = client_of(server, context_tokens=1000)
    assert client.context_tokens == 1000


def test_a_list_of_models_that_is_not_served_states_no_context(client_of, caplog):
    """Some hosted interfaces and proxies have the address of the answers only."""
    with OpenAIServer() as server:
        server.context = {"id": "another-name"}  # overrides the name in the list
        assert client_of(server).context_tokens == 32_768


@pytest.mark.parametrize(
    ("protocol", "expected", "requests"), [("vllm", 9, 2), ("llama.cpp", 9, 4), (None, token_bound(STORY), 0)]
)
def test_tokens_are_counted_by_the_server_or_bounded(client_of, protocol, expected, requests):
    with OpenAIServer(tokenize=protocol) as server:
        client = client_of(server)
        assert [client.count_tokens(STORY), client.count_tokens(STORY)] == [expected, expected]
        assert len(server.log.tokenized) == requests


def test_a_tokenizer_that_fails_while_the_server_answers_is_replaced_by_the_bound(tmp_path):
    with OpenAIServer(tokenize="fails") as server, ModelPool(retries=0) as pool:
        config = ModelConfig(model="fake-model", patience_seconds=0.0)
        client = pool.client(Role.JUDGE, config, Journal(str(tmp_path / "journal")), server.environ())
        assert client.count_tokens(STORY) == token_bound(STORY)


@pytest.mark.parametrize("read", [lambda client: client.context_tokens, lambda client: client.count_tokens(STORY)])
def test_a_server_that_restarts_is_waited_for(client_of, read):
    class Restart(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            server.restart()

    handler = Restart(logging.WARNING)
    logging.getLogger("operators.models.health").addHandler(handler)
    with OpenAIServer(context={"max_model_len": 9}, tokenize="vllm") as server:
        client = client_of(server, patience_seconds=10.0)
        server.kill()
        assert read(client) == 9
    logging.getLogger("operators.models.health").removeHandler(handler)


@pytest.mark.parametrize("read", [lambda client: client.context_tokens, lambda client: client.count_tokens("x")])
def test_a_server_that_cannot_be_used_is_an_outage(client_of, read):
    with OpenAIServer() as server:
        client = client_of(server)
    with pytest.raises(ModelUnavailable, match=r"judge .*cannot be reached"):
        read(client)


def test_a_refused_key_is_an_outage(pool, tmp_path):
    with OpenAIServer(api_key="right-key") as server, Journal(str(tmp_path)) as journal:
        environ = server.environ() | {"LVR_MODEL_API_KEY": "wrong-key"}
        client = pool.client(Role.JUDGE, ModelConfig(model="fake-model"), journal, environ)
        with pytest.raises(ModelUnavailable, match="refused the key"):
            _ = client.context_tokens


def test_the_embedded_model_has_a_short_context_and_counts_tokens(tmp_path):
    with (
        ModelPool() as pool,
        open_models(resolve(ModelsConfig(), {}), [Role.JUDGE], Journal(str(tmp_path)), {}, pool) as models,
    ):
        client = models[Role.JUDGE]
        assert client.context_tokens == EMBEDDED_CONTEXT_TOKENS
        assert pool._embedded.pid is None  # no engine is started for that
        assert 8 < client.count_tokens(STORY) < token_bound(STORY)


def test_an_answer_has_the_room_that_its_prompt_gives(client_of, prompt):
    with OpenAIServer() as server:
        assert client_of(server).answer_tokens(prompt) == 50
