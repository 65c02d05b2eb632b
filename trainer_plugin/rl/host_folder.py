"""A folder in a host's memory that all of its ranks share.

Nothing of it outlives its owner, the first rank of the host: it is removed when the owner closes it or exits. If the
owner is killed, the kernel releases the owner's lock file, and the next run on the host removes the folder.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import tempfile
import weakref
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from secrets import token_hex

import torch.distributed as dist

from schemas.errors import BadInput
from trainer_plugin.atomic_files import locked
from trainer_plugin.distributed.mesh import run_on_all_ranks

log = logging.getLogger(__name__)

_MEMORY = Path("/dev/shm")  # noqa: S108 - Linux's file system in memory

_PREFIX = "lvr-videos-"


class HostFolder:
    """A folder that the ranks of one host share. Every rank must create it."""

    def __init__(self, room: int, parent: Path | None = None) -> None:
        """
        Args:
            room: number of bytes that the folder will hold.
            parent: where to create it; ranks with different parents do not share a folder. None: /dev/shm if it has
                room, else the directory of temporary files, whose files Linux also keeps in memory while it can.

        Raises:
            OSError: the folder cannot be created.
        """
        self._finalizer: weakref.finalize[..., HostFolder] | None = None
        mine: str | None = None
        everyone: list[str | None] = [None] * dist.get_world_size()
        while None in everyone:
            owner = everyone.index(None)
            created = [run_on_all_ranks(partial(self._create, room, parent, owner))]
            dist.broadcast_object_list(created, src=owner)
            path = Path(created[0])
            if mine is None and path.is_dir() and parent in (None, path.parent):
                mine = created[0]
            dist.all_gather_object(everyone, mine)
        assert mine is not None
        self.path = Path(mine)
        self.ranks = tuple(rank for rank, path in enumerate(everyone) if path == mine)
        """The ranks that share the folder."""

    @property
    def is_owner(self) -> bool:
        """Whether this rank created the folder and removes it."""
        return self._finalizer is not None

    def close(self) -> None:
        """Remove the folder, if this rank owns it. Not collective."""
        if self._finalizer is not None:
            self._finalizer()

    def _create(self, room: int, parent: Path | None, owner: int) -> str:
        if dist.get_rank() != owner:
            return ""
        for each in {parent} if parent else {_MEMORY, Path(tempfile.gettempdir())}:
            remove_leftovers(each)
        held = ExitStack()
        path = _lock_new_name(parent or _choose_parent(room), held)
        held.callback(shutil.rmtree, path, ignore_errors=True)  # before the lock is released
        path.mkdir(mode=0o700)
        self._finalizer = weakref.finalize(self, held.close)  # runs at exit, also after an exception
        return str(path)


def remove_leftovers(parent: Path) -> None:
    """Remove the folders whose owners are dead. Folders of other users are not touched."""
    for lock in parent.glob(f"{_PREFIX}*.lock"):
        try:
            with lock.open("r+") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
                lock.unlink(missing_ok=True)
                log.info("removed %s, which a killed run left", lock.with_suffix(""))
        except OSError:  # its owner lives, it is another user's, or another run has removed it
            continue


def _lock_new_name(parent: Path, held: ExitStack) -> Path:
    """A path for a new folder, with its lock held by `held`."""
    while True:
        path = parent / f"{_PREFIX}{token_hex(8)}"
        try:
            held.enter_context(locked(path.with_suffix(".lock"), path))
        except BadInput:  # another run is checking whether the new lock is a leftover
            continue
        return path


def _choose_parent(room: int) -> Path:
    if _MEMORY.is_dir() and os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free >= room:
        return _MEMORY
    parent = Path(tempfile.gettempdir())
    log.info("%s has no room for %.1f GiB of videos; holding them in %s", _MEMORY, room / 2**30, parent)
    return parent
