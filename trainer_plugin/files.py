"""Writes files and folders that are there whole or not at all, also when the process is killed or the machine stops."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def write_whole(path: Path, data: bytes) -> None:
    """Write beside, then rename; the folder is made if it is not there. One writer at a time for each path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.writing")
    with beside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def put_whole(beside: Path, folder: Path) -> None:
    """Let a folder that was written beside, on the same disk, take its place; one that is there goes.

    Killed just before the last rename, it leaves that one as `aside(folder)`.
    """
    for path in beside.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    if folder.exists():
        shutil.rmtree(aside(folder), ignore_errors=True)
        folder.rename(aside(folder))
    beside.rename(folder)
    shutil.rmtree(aside(folder), ignore_errors=True)


def aside(folder: Path) -> Path:
    """Where a folder lies while another takes its place."""
    return folder.with_name(f".{folder.name}.replaced")
