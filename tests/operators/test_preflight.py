"""What preflight asks of model servers, and what it asks of this machine when there are none."""

import pytest

from operators import preflight as module
from operators.models.embedded import EMBEDDED_MODEL
from operators.preflight import PreflightFailed, preflight
from schemas.config import BuildConfig
from tests.support.openai_server import OpenAIServer


@pytest.fixture
def config(tmp_path):
    return BuildConfig(source=str(tmp_path), out=str(tmp_path / "out"))


def test_an_endpoint_is_checked_though_its_model_is_called_like_the_embedded_one(config, monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda package: None if package == "xllamacpp" else object())
    with OpenAIServer(models=(EMBEDDED_MODEL,)) as server:
        environ = server.environ() | {"LVR_MODEL_NAME": EMBEDDED_MODEL}
        notes = preflight(config, environ)  # and no engine is needed here
    assert f"judge: {EMBEDDED_MODEL} at {server.url}" in notes
    with pytest.raises(PreflightFailed, match=rf"judge .*{EMBEDDED_MODEL}.*cannot be reached"):
        preflight(config, environ)  # the server is gone


def test_without_endpoints_the_engine_must_be_installed(config, monkeypatch):
    assert f"judge: {EMBEDDED_MODEL}, no server" in preflight(config, {})
    monkeypatch.setattr(module, "find_spec", lambda package: None if package == "xllamacpp" else object())
    with pytest.raises(PreflightFailed, match="package xllamacpp is missing"):
        preflight(config, {})
