"""Local scratch folders for work in progress, which are removed however the work ends.

They are in the system's temporary folder, next to those of other processes, which may run in another container or on
another host. A lock (`flock`), which the kernel releases when its holder ends, shows whether an owner is alive. A
process id would not, because it means nothing outside the holder's pid namespace. The next process that needs a scratch
folder removes those left by killed processes. On a file system without locks, it removes no folder that has a lock
file.
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
    """Context manager that creates an empty folder called `name`, and removes it at the end of the block.

    Raises:
        Outage: the temporary folder is full or not writable.
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
    """Create a folder and take its lock. Returns the folder and the lock's file descriptor.

    Before the lock is held, another process may consider the folder abandoned and remove it. Then another one is
    created.
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
    """Remove a scratch folder if its owner has ended. One without a lock file is removed after a day."""
    try:
        lock = os.open(folder / _LOCK, os.O_RDWR)
    except FileNotFoundError:  # its owner is about to create the lock, or was killed before it could
        if _age_seconds(folder) > _DAY_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)
        return
    except OSError:  # the folder belongs to another user
        return
    try:
        if _lock(lock):
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)


def _lock(descriptor: int) -> bool | None:
    """Take the lock without waiting. Returns False if another holder has it, None if the file system has no locks.

    Unlike a POSIX record lock, an `flock` also excludes other descriptors of the same process, and other hosts on NFS.
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
    except OSError:  # removed in the meantime
        return 0.0
