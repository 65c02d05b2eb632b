"""Fixtures of the stage tests: a server that answers as its script says, and a runner of single stages."""

import pytest

from operators.models.session import ModelPool
from tests.support.openai_server import OpenAIServer
from tests.support.stages import StageRunner


@pytest.fixture
def server():
    """Give it a `script`; without one it answers anything that fits the schema."""
    with OpenAIServer() as server:
        yield server


@pytest.fixture(scope="module")
def pool():
    with ModelPool(retries=0) as pool:
        yield pool


@pytest.fixture
def stages(tmp_path, server, pool):
    return StageRunner(tmp_path, server, pool)
