"""Local folders for work in progress, removed however the work ends.

Each process has its own place in the system's temporary folder, named by its pid; what a killed one has left there is
removed by the next process that needs scratch.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

_PREFIX = "lvr-scratch-"


@contextmanager
def scratch_folder(name: str) -> Iterator[Path]:
    """An empty folder that is gone afterwards."""
    own = Path(tempfile.gettempdir()) / f"{_PREFIX}{os.getpid()}"
    _sweep(own)
    own.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=own))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sweep(own: Path) -> None:
    for left in own.parent.glob(f"{_PREFIX}*"):
        pid = left.name.removeprefix(_PREFIX)
        if left != own and pid.isdigit() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(left, ignore_errors=True)
