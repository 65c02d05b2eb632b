"""Writes files and folders that are there whole or not at all, also when the process is killed or the machine stops.
Locks keep a second writer out."""

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

_FULL = (errno.ENOSPC, errno.EDQUOT)

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""What a disk answers that has no locks: some of Lustre's and FUSE's mounts."""


class FullDisk(OSError):
    """There is no room for what is to be written."""

    def __init__(self, folder: Path, needed: int) -> None:
        """`needed`: bytes of what is to be written."""
        free = _free_bytes(folder)
        super().__init__(errno.ENOSPC, "No space left on device", str(folder))
        self.message = f"the disk of {folder} is full: {_size(needed)} are to be written"
        if free is None:
            return
        self.message += f", {_size(free)} are free"
        if free < needed:
            self.message += f"; make room for {_size(needed - free)} more"

    def __str__(self) -> str:
        return self.message


@contextmanager
def room_for(beside: Path, needed: int) -> Iterator[None]:
    """While a block writes so many bytes at a path.

    Raises:
        FullDisk: there is no room, at the beginning or on the way, whatever a library makes of that. Nothing of what
            was written stays: it would be in the way of whatever comes next.
    """
    free = _free_bytes(beside.parent)
    if free is not None and free < needed:
        raise FullDisk(beside.parent, needed)
    try:
        yield
    except BaseException as error:  # CheckpointException is no Exception
        there = sum(path.stat().st_size for path in beside.rglob("*") if path.is_file())
        free = _free_bytes(beside.parent)
        if is_full(error) or (free is not None and free + there < needed):
            shutil.rmtree(beside, ignore_errors=True)
            raise FullDisk(beside.parent, needed) from error
        raise


def _free_bytes(folder: Path) -> int | None:
    """Room on a folder's disk; None where that does not say how large it is, as some network and FUSE mounts."""
    usage = shutil.disk_usage(folder)
    return usage.free if usage.total else None


def is_full(error: BaseException) -> bool:
    """Whether a write failed for want of room."""
    return isinstance(error, OSError) and error.errno in _FULL


def write_whole(path: Path, data: bytes) -> None:
    """Write beside, then rename; the folder is made if it is not there. One writer at a time for each path.

    Raises:
        FullDisk: there is no room; what was there stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.writing")
    try:
        with beside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        if is_full(error):
            raise FullDisk(path.parent, len(data)) from error
        raise


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


def _size(count: int) -> str:
    """Bytes for people."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count / 1e3:.1f} KB"


@contextmanager
def locked(path: Path, folder: Path) -> Iterator[None]:
    """Hold a lock file, which keeps others out of a folder: only one process has it at a time, on NFS also of several
    hosts.

    The kernel gives the lock back when its process ends, in whatever way. A file that is left by one that was killed
    says nothing, and the next process takes it over. On a disk without locks it is a warning that there are none.

    Raises:
        BadInput: another process has it; the message names that.
        OSError: the file cannot be written.
    """
    file = _lock(path, folder)
    try:
        file.truncate(0)
        with suppress(OSError):  # on a full disk it is a lock all the same
            file.write(f"process {os.getpid()} on host {socket.gethostname()} since {datetime.now(UTC):%Y-%m-%d %H:%M}")
            file.flush()
        yield
    finally:
        path.unlink(missing_ok=True)
        file.close()


def _lock(path: Path, folder: Path) -> IO[str]:
    """The file, opened and locked."""
    while True:
        file = path.open("a+")  # NFS wants it writable
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
            if error.errno not in _NO_LOCKS:
                file.close()
                raise
            log.warning("%s: this disk has no locks (%s); start no second run in this folder", folder, error)
            return file
        with suppress(FileNotFoundError):  # the last holder may have removed it between open and flock
            if os.path.samestat(path.stat(), os.fstat(file.fileno())):
                return file
        file.close()
