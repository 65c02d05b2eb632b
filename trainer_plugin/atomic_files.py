"""Writes files and folders atomically, even if the process is killed or the machine crashes.

Lock files exclude a second writer.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from schemas.errors import BadInput

log = logging.getLogger(__name__)

_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT)

_NO_LOCK_ERRNOS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""Errors of file systems without locks, such as some mounts of Lustre and FUSE."""


class FullDisk(OSError):
    """A disk is too full for what is to be written."""

    def __init__(self, folder: Path, needed: int) -> None:
        """
        Args:
            needed: number of bytes to be written.
        """
        free = _free_bytes(folder)
        super().__init__(errno.ENOSPC, "No space left on device", str(folder))
        self.message = f"the disk of {folder} is full: {_format_bytes(needed)} are to be written"
        if free is None:
            return
        self.message += f", {_format_bytes(free)} are free"
        if free < needed:
            self.message += f"; make room for {_format_bytes(needed - free)} more"

    def __str__(self) -> str:
        return self.message


@contextmanager
def reserve_space(staging: Path, needed: int) -> Iterator[None]:
    """Check for free space, then run a block that writes `needed` bytes at the path `staging`.

    Raises:
        FullDisk: the disk is too full at the start or becomes full in the block, whatever error a library raises for
            it. The partial output is removed, because it would obstruct later writes.
    """
    free = _free_bytes(staging.parent)
    if free is not None and free < needed:
        raise FullDisk(staging.parent, needed)
    try:
        yield
    except BaseException as error:  # CheckpointException does not derive from Exception
        there = sum(path.stat().st_size for path in staging.rglob("*") if path.is_file())
        free = _free_bytes(staging.parent)
        if is_full(error) or (free is not None and free + there < needed):
            shutil.rmtree(staging, ignore_errors=True)
            raise FullDisk(staging.parent, needed) from error
        raise


def _free_bytes(folder: Path) -> int | None:
    """Free bytes on a folder's disk; None if the file system reports no size, as some network and FUSE mounts."""
    usage = shutil.disk_usage(folder)
    return usage.free if usage.total else None


def is_full(error: BaseException) -> bool:
    """Whether a write failed because a disk or a quota is full."""
    return isinstance(error, OSError) and error.errno in _FULL_ERRNOS


def atomic_write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically: write a temporary sibling, then rename it. The parent folder is created if needed.

    Only one process at a time may write to a path.

    Raises:
        FullDisk: the disk is full; an existing file is unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_name(f".{path.name}.writing")
    try:
        with staging.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        staging.replace(path)
    except OSError as error:
        staging.unlink(missing_ok=True)
        if is_full(error):
            raise FullDisk(path.parent, len(data)) from error
        raise


def atomic_replace_dir(staging: Path, folder: Path) -> None:
    """Replace `folder`, which may exist, by `staging`, a complete folder on the same disk.

    If the process is killed just before the last rename, the old folder remains as `backup_path(folder)`.
    """
    for path in staging.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    if folder.exists():
        shutil.rmtree(backup_path(folder), ignore_errors=True)
        folder.rename(backup_path(folder))
    staging.rename(folder)
    shutil.rmtree(backup_path(folder), ignore_errors=True)


def backup_path(folder: Path) -> Path:
    """Backup path of a folder while it is replaced."""
    return folder.with_name(f".{folder.name}.replaced")


def _format_bytes(count: int) -> str:
    """Human-readable size of `count` bytes."""
    for name, scale in (("GB", 1e9), ("MB", 1e6)):
        if count >= scale:
            return f"{count / scale:.1f} {name}"
    return f"{count / 1e3:.1f} KB"


@contextmanager
def locked(path: Path, folder: Path) -> Iterator[None]:
    """Hold a lock file that keeps other processes out of a folder.

    Only one process can hold it at a time, on NFS also across hosts. The kernel releases the lock when the process
    ends, in whatever way. A file that a killed process left has no effect, and the next process takes it over. On a
    file system without locks a warning is logged, and the block runs without a lock.

    Raises:
        BadInput: another process holds the lock; the message names it.
        OSError: the file cannot be written.
    """
    file = _open_locked(path, folder)
    try:
        file.truncate(0)
        with suppress(OSError):  # the lock holds even if a full disk rejects this
            file.write(f"process {os.getpid()} on host {socket.gethostname()} since {datetime.now(UTC):%Y-%m-%d %H:%M}")
            file.flush()
        yield
    finally:
        path.unlink(missing_ok=True)
        file.close()


def _open_locked(path: Path, folder: Path) -> IO[str]:
    """The lock file, opened and locked."""
    while True:
        file = path.open("a+")  # NFS requires write access for an exclusive lock
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read() or "another process"
            file.close()
            raise BadInput(
                f"{folder} is in use by {holder}; wait until that has ended, or end it there with kill, or choose "
                f"another folder"
            ) from None
        except OSError as error:
            if error.errno not in _NO_LOCK_ERRNOS:
                file.close()
                raise
            log.warning("%s: this disk has no locks (%s); start no second run in this folder", folder, error)
            return file
        with suppress(FileNotFoundError):  # the last holder may have removed it between open and flock
            if os.path.samestat(path.stat(), os.fstat(file.fileno())):
                return file
        file.close()
