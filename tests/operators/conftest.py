"""What tests of the pipeline share: a release, the command `lvr`, a model server, a runner of single stages."""

import signal
import sys

import pytest

from operators.cli import main
from operators.models.session import ModelPool
from tests.support.openai_server import OpenAIServer
from tests.support.stages import StageRunner
from tests.support.synthetic_run import published_release


@pytest.fixture(scope="session")
def release(tmp_path_factory):
    """Folder of a release with real tars and videos. Tests that change files must work on a copy."""
    return published_release(tmp_path_factory.mktemp("out"))


@pytest.fixture
def lvr(monkeypatch, capsys):
    """Runs `lvr` in this process. Returns exit status, standard output, and standard error with single spaces."""
    handlers = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["lvr", *map(str, arguments)])
        status = 0
        try:
            main()
        except SystemExit as ended:
            status = ended.code
        captured = capsys.readouterr()
        return status, captured.out, " ".join(captured.err.split())

    yield run
    for signum, handler in handlers.items():
        signal.signal(signum, handler)


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
