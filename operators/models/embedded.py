"""The embedded default: SmolLM2-135M-Instruct on the CPU, from a PyPI wheel, behind the same protocol as every server.

The engine (`operators.models.engine`) is a child process on a free loopback port: a crash of its native code cannot
take the build along, and it ends by itself when its parent does, however that happens. JSON schemas are enforced by
grammar, so its answers have the right form, but little sense: it proves a pipeline, it does not make a dataset.

One slot, by measurement: on a CPU, requests decoded together make no more tokens per second than one after the other,
while each slot would compute the beginning that questions on one video share for itself. With one slot it is computed
once, and the beginnings of other videos are kept in memory beside it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from importlib.util import find_spec
from pathlib import Path
from typing import IO

from operators.models.endpoints import Endpoint, ModelUnavailable
from operators.models.engine import CONTEXT, MODEL_NAME, weights

EMBEDDED_MODEL = MODEL_NAME
EMBEDDED_CONCURRENCY = 2
"""Requests to have under way: one that is decoded and one that waits, so that no wait counts as a timeout."""
EMBEDDED_MAX_TOKENS = 320
"""The longest answer that is asked for: what this model writes beyond is repetition, for as long as it may."""
_START_SECONDS = 120.0


class EmbeddedServer:
    """The engine's process. A context manager, too: entered, it gives the endpoint where the model answers."""

    def __init__(self, slots: int = 1, slot_context: int = CONTEXT) -> None:
        self._arguments = [f"--parallel={slots}", f"--context={slot_context}"]
        self._process: subprocess.Popen[bytes] | None = None
        self._endpoint: Endpoint | None = None

    def __enter__(self) -> Endpoint:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int | None:
        """Of the engine's process; None when it does not run (any more)."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def start(self) -> Endpoint:
        """Where the model answers; a server that does not run, or has crashed, is started first.

        Raises ModelUnavailable, which says what to install or what the engine had to say.
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
                raise ModelUnavailable(f"the embedded model server did not start: {_tail(errors)}")
        self._endpoint = Endpoint(base_url=f"{address}/v1", model=EMBEDDED_MODEL)
        return self._endpoint

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()  # it keeps nothing that a gentle end would save
            process.wait()


def _first_line(process: subprocess.Popen[bytes]) -> str:
    """What the engine prints when its model is loaded; empty when it ended or took too long."""
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
    """PYTHONPATH with which the child finds this very package, wherever it was imported from."""
    root = str(Path(__file__).parents[2])
    inherited = os.environ.get("PYTHONPATH", "")
    return os.pathsep.join(part for part in (root, inherited) if part)


def _tail(errors: IO[bytes]) -> str:
    errors.seek(0)
    return errors.read()[-2000:].decode(errors="replace").strip() or "it said nothing"
