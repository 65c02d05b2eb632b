"""Translation of Airflow Connections to the environment variables that `operators.models.endpoints` reads."""

import json

import pytest

from operators.models.endpoints import Endpoint, endpoint_for
from operators.settings import ConfigError
from operators.speech.transcription import speech_endpoint
from schemas.config import Role
from tests.support import airflow_home

assert airflow_home.HOME  # before Airflow

from operators.airflow.connections import command_environment, model_environment  # noqa: E402


def connect(monkeypatch, role: str, **fields) -> None:
    monkeypatch.setenv(f"AIRFLOW_CONN_LVR_{role.upper()}", json.dumps({"conn_type": "generic"} | fields))


@pytest.mark.parametrize(
    ("fields", "url"),
    [
        ({"host": "vllm", "port": 8000}, "http://vllm:8000/v1"),
        ({"host": "vllm", "port": 8000, "schema": "https"}, "https://vllm:8000/v1"),
        ({"host": "https://api.example.org/openai/v1/"}, "https://api.example.org/openai/v1"),
        ({"host": "http://[::1]:9000"}, "http://[::1]:9000/v1"),
        ({"host": "proxy/serve/v1", "port": 81}, "http://proxy:81/serve/v1"),
    ],
)
def test_addresses(monkeypatch, fields, url):
    connect(monkeypatch, "judge", **fields, password="key-of-judge", extra={"model": "m"})
    assert endpoint_for(Role.JUDGE, model_environment()) == Endpoint(url, "m", "key-of-judge", vision=False)


def test_each_role_has_its_own_and_an_empty_one_has_none(monkeypatch):
    connect(monkeypatch, "captioner", host="a", extra={"model": "vlm"})
    connect(monkeypatch, "target", host="b", extra={"model": "blind", "vision": False})
    monkeypatch.setenv("AIRFLOW_CONN_LVR_REASONER", "")
    found = model_environment()
    assert endpoint_for(Role.CAPTIONER, found) == Endpoint("http://a/v1", "vlm", vision=True)
    assert endpoint_for(Role.TARGET, found) == Endpoint("http://b/v1", "blind", vision=False)
    assert endpoint_for(Role.REASONER, found) is endpoint_for(Role.JUDGE, found) is None


def test_the_transcription_endpoint_has_a_connection(monkeypatch):
    monkeypatch.setenv("LVR_SPEECH_API_KEY", "own-key")
    assert "LVR_SPEECH_URL" not in model_environment()
    connect(monkeypatch, "speech", host="whisper", port=8000, extra={"model": "large-v3"})
    found = command_environment()
    assert speech_endpoint(found) == Endpoint("http://whisper:8000/v1", "large-v3", "")
    assert not [name for name in found if name == "LVR_SPEECH_VISION"]


@pytest.mark.parametrize(
    ("fields", "problem"),
    [({"extra": {"model": "m"}}, "has no host"), ({"host": "a", "extra": {"vision": "yes"}}, "vision 'yes'")],
)
def test_errors_name_the_connection(monkeypatch, fields, problem):
    connect(monkeypatch, "judge", **fields)
    with pytest.raises(ConfigError, match=f"connection lvr_judge: .*{problem}"):
        model_environment()


@pytest.mark.parametrize(
    "host", ["user:PASSWORD@[::1", "https://user:PASS/WORD@host", "http://user:PASSWORD@host:x/v1"]
)
def test_a_host_that_is_no_address_is_reported_without_its_password(monkeypatch, host):
    connect(monkeypatch, "judge", host=host, port=8000)
    with pytest.raises(ConfigError, match=r"connection lvr_judge: its host .* is no address") as refused:
        model_environment()
    assert refused.value.__suppress_context__
    assert not any(word in str(refused.value) for word in ("PASS", "WORD"))


def test_a_workers_own_key_is_not_sent_to_a_connections_server(monkeypatch):
    for name, value in {"URL": "http://own/v1", "API_KEY": "own-key", "MODEL": "own", "VISION": "1"}.items():
        monkeypatch.setenv(f"LVR_REASONER_{name}", value)
    connect(monkeypatch, "reasoner", host="a")
    assert endpoint_for(Role.REASONER, command_environment()) == Endpoint("http://a/v1", "", "", vision=False)


def test_the_command_gets_no_airflow_secret(monkeypatch):
    monkeypatch.setenv("AIRFLOW__CORE__FERNET_KEY", "secret")
    monkeypatch.setenv("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_SECRET", "secret")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://s3")
    connect(monkeypatch, "judge", host="a", password="key-of-judge")
    environment = command_environment()
    assert environment["AWS_ENDPOINT_URL"] == "http://s3"
    assert environment["LVR_JUDGE_API_KEY"] == "key-of-judge"
    assert not [name for name in environment if name.startswith(("AIRFLOW__", "AIRFLOW_CONN_"))]
