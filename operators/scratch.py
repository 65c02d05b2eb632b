"""Local folders for work in progress, removed however the work ends.

Each lies in the system's temporary folder beside those of other processes, which may be of another container or host:
who is alive is told by a lock (`flock`) that the kernel releases when its holder ends, never by a process id, which
means nothing outside the holder's own pid namespace. What a killed process has left there is removed by the next one
that needs scratch. On a file system without locks nothing of others is removed.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from schemas.errors import Outage

_PREFIX = "lvr-scratch-"
_LOCK = "lock"
_DAY_SECONDS = 24 * 3600


@contextmanager
def scratch_folder(name: str) -> Iterator[Path]:
    """An empty folder that is removed afterwards.

    Raises:
        Outage: the temporary folder is full or may not be written.
    """
    place = Path(tempfile.gettempdir())
    for other in place.glob(f"{_PREFIX}*"):
        _remove_if_left(other)
    try:
        own, lock = _create_locked(place)
    except OSError as error:
        raise Outage(f"temporary folder {place}: {error}; free some space or set TMPDIR to another folder") from error
    try:
        folder = own / name
        folder.mkdir()
        yield folder
    finally:
        shutil.rmtree(own, ignore_errors=True)
        os.close(lock)


def _create_locked(place: Path) -> tuple[Path, int]:
    """A new folder and the descriptor of its lock.

    Another process may take a folder whose lock is not held yet for left behind, and remove it: then the next is made.
    """
    while True:
        own = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
        try:
            lock = os.open(own / _LOCK, os.O_RDWR | os.O_CREAT)
        except FileNotFoundError:
            continue
        if _lock(lock) is not False and (own / _LOCK).exists():
            return own, lock
        os.close(lock)


def _remove_if_left(folder: Path) -> None:
    """Remove a scratch folder whose owner has ended."""
    try:
        lock = os.open(folder / _LOCK, os.O_RDWR)
    except FileNotFoundError:  # its owner is about to create it, or was killed before
        if _age_seconds(folder) > _DAY_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)
        return
    except OSError:  # another user's
        return
    try:
        if _lock(lock):
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)


def _lock(descriptor: int) -> bool | None:
    """Take the lock without waiting: False if it is held by another, None if the file system has no locks.

    An `flock`, unlike a POSIX record lock, also keeps out others of the same process, and on NFS other hosts.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _age_seconds(folder: Path) -> float:
    try:
        return time.time() - folder.stat().st_mtime
    except OSError:  # removed meanwhile
        return 0.0
