"""Fixtures of the stage tests: a server with scripted answers, and a runner of single stages."""

import pytest

from operators.models.session import ModelPool
from tests.support.openai_server import OpenAIServer
from tests.support.stages import StageRunner


@pytest.fixture
def server():
    """Model server. Without a `script` it answers every request with something that fits the schema."""
    with OpenAIServer() as server:
        yield server


@pytest.fixture(scope="module")
def pool():
    with ModelPool(retries=0) as pool:
        yield pool


@pytest.fixture
def stages(tmp_path, server, pool):
    return StageRunner(tmp_path, server, pool)
