"""The embedded default model: SmolLM2-135M-Instruct on the CPU, from a PyPI wheel, served with the OpenAI protocol.

The engine (`operators.models.engine`) is a child process on a free loopback port. A crash of its native code cannot
crash the build, and it exits by itself when its parent exits for any reason. A grammar enforces JSON schemas, so its
answers have the right form but make little sense: it serves to test a pipeline, not to make a dataset.

The server has one slot. Measured on a CPU, requests decoded concurrently yield no more tokens per second than requests
decoded one after another, and each slot would compute its own copy of the prefix that the questions on one video share.
With one slot the prefix is computed once, and the prefixes of other videos stay in the prompt cache.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from importlib.util import find_spec
from pathlib import Path

from operators.models.endpoints import Endpoint, ModelUnavailable
from operators.models.engine import CONTEXT_TOKENS, MODEL_NAME, weights

EMBEDDED_MODEL = MODEL_NAME
EMBEDDED_CONCURRENCY = 2
"""Concurrent requests: one is decoded and one waits, so that time in the queue does not lead to a timeout."""
EMBEDDED_MAX_TOKENS = 320
"""Maximum length of an answer in tokens. Beyond it this model only repeats itself, up to any limit."""
EMBEDDED_CONTEXT_TOKENS = 6144
"""Tokens of a request and its answer. The engine has 8,192 of them, but a model of 135M parameters gains little from
more, and is slow: 48 answers about a film of five minutes took 50 s of CPU with 600 tokens of captions and 125 s with
2,000."""
_START_SECONDS = 120.0


class EmbeddedServer:
    """The engine's process. As a context manager, it starts the engine and returns its endpoint."""

    def __init__(self, slots: int = 1, slot_context: int = CONTEXT_TOKENS) -> None:
        self._arguments = [f"--parallel={slots}", f"--context={slot_context}"]
        self._process: subprocess.Popen[bytes] | None = None
        self._endpoint: Endpoint | None = None

    def __enter__(self) -> Endpoint:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int | None:
        """Process id of the engine; None when it is not running."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def start(self) -> Endpoint:
        """The endpoint of the model. Starts the server if it is not running or has crashed.

        Raises:
            ModelUnavailable: the server is not installed or did not start. The message says what to install, or holds
                the end of the engine's error output.
        """
        if self.pid is not None and self._endpoint is not None:
            return self._endpoint
        self.stop()
        _assert_installed()
        with tempfile.TemporaryFile() as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "operators.models.engine", f"--parent={os.getpid()}", *self._arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, "PYTHONPATH": _import_path()},
            )
            address = _first_line(self._process)
            if not address:
                self.stop()
                errors.seek(0)
                tail = errors.read()[-2000:].decode(errors="replace").strip() or "no error output"
                raise ModelUnavailable(f"the embedded model server did not start: {tail}")
        self._endpoint = Endpoint(base_url=f"{address}/v1", model=EMBEDDED_MODEL)
        return self._endpoint

    def stop(self) -> None:
        """Kill the engine, if there is one."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()  # it has no state that a graceful shutdown would save
            process.wait()


def _first_line(process: subprocess.Popen[bytes]) -> str:
    """The line that the engine prints when its model is loaded; empty when it exited or took too long."""
    assert process.stdout is not None
    overdue = threading.Timer(_START_SECONDS, process.kill)
    overdue.start()
    with process.stdout as lines:
        line = lines.readline()
    overdue.cancel()
    return line.decode().strip()


def _assert_installed() -> None:
    if find_spec("xllamacpp") is None:
        raise ModelUnavailable(
            "the embedded model server is not installed: pip install xllamacpp; or set LVR_MODEL_URL"
        )
    try:
        weights()
    except FileNotFoundError as error:
        raise ModelUnavailable(f"{error}; or set LVR_MODEL_URL") from error


def _import_path() -> str:
    """PYTHONPATH with which the child imports this same copy of the package, wherever it is installed."""
    root = str(Path(__file__).parents[2])
    inherited = os.environ.get("PYTHONPATH", "")
    return os.pathsep.join(part for part in (root, inherited) if part)
