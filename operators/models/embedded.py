"""The embedded default: SmolLM2-135M-Instruct on the CPU, from a PyPI wheel, behind the same protocol as every server.

`EmbeddedServer` starts `python -m operators.models.embedded` as a child process on a free loopback port: a crash of the
native engine cannot take the build along, and the child ends by itself when its parent does, however that happens.
It answers JSON-schema requests by grammar, keeps the prompts of its slots (questions that share a beginning are cheap),
and has a context of 8,192 tokens per slot, which is what the model was trained for. Its answers have the right form and
little sense: it proves a pipeline, it does not make a dataset.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import threading
import time
from importlib.util import find_spec
from pathlib import Path

from operators.models.endpoints import Endpoint, ModelUnavailable

EMBEDDED_MODEL = "SmolLM2-135M-Instruct-Q4_1"
SLOTS = 4
"""Requests decoded together; more of them wait in the server's queue."""
SLOT_CONTEXT = 8192
"""Tokens per slot, prompt and answer together."""
_WEIGHTS = "SmolLM2-135M-Instruct.Q4_1.gguf"
_START_SECONDS = 120.0
_POLL_SECONDS = 0.5


class EmbeddedServer:
    """A context manager around the child process; `endpoint` is where it answers."""

    def __init__(self, slots: int = SLOTS, slot_context: int = SLOT_CONTEXT) -> None:
        self._slots = slots
        self._slot_context = slot_context
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: list[bytes] = []

    def __enter__(self) -> Endpoint:
        """Start, and return when the model is loaded. Raises ModelUnavailable with the way out."""
        weights()
        command = [sys.executable, "-m", "operators.models.embedded", f"--parent={os.getpid()}"]
        command += [f"--parallel={self._slots}", f"--context={self._slot_context}"]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        return Endpoint(base_url=f"{self._address()}/v1", model=EMBEDDED_MODEL)
