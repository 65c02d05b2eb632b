"""Content-addressed tables and files on any fsspec path, and the commits that name them.

    objects/ab/abcd….parquet     bytes named by their sha256; complete as soon as they are visible, and never changed
    commits/{stage}/{key}.json   the manifest of a finished (stage, work item), written last; the first writer wins
    journal/{stage}/{unit}/      model answers of running work items (operators.models.journal)

Local files are written to a temporary file under `tmp/` and then linked or renamed. A killed writer leaves at most such
a file, which a later run removes. Two writers of the same object write the same bytes. Two writers of the same commit
both continue with the tables of the first one.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from schemas.arrow import rows_from_parquet, rows_to_parquet
from schemas.base import Row, parse_json
from schemas.errors import BadInput, SchemaError
from schemas.run import Commit
from schemas.storage import StoreError, locate, outages
from schemas.uri import holds_secret, shown_uri

R = TypeVar("R", bound=Row)

_PARTIAL = re.compile(r"[0-9a-f]{32}-")
"""Prefix of the store's own files under `tmp/`. `out` may be a folder with a `tmp/` that belongs to others."""
_DAY_SECONDS = 24 * 3600

_OWN_FOLDERS = frozenset({"objects", "commits", "journal", "runs", "releases"})

_FIXES = {
    errno.ENOSPC: "the disk is full; free some space and run again, finished work is kept",
    errno.EDQUOT: "the disk quota is used up; free some space and run again, finished work is kept",
    errno.EACCES: "no permission to write; choose another `out` or change its owner",
    errno.EROFS: "the file system is read-only; choose another `out`",
    errno.EPERM: "not permitted; is this a file system without hard links? choose another `out`",
}


class SourceUnavailable(OSError):
    """A source video or stored file can no longer be read: it was moved, deleted or changed, or may not be opened.

    `reason` is the reason of a reject. `missing_file` and `source_changed` are about a source video alone.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[type[SourceUnavailable], tuple[str, str]]:
        return type(self), (self.reason, str(self))  # for pickling: it may come from a child process


class Store:
    """Objects and commits under one address, local or remote.

    Args:
        url: address of the store, a local folder or an fsspec URL.

    Raises:
        BadInput: the address contains a user, a password or a signature.
    """

    def __init__(self, url: str) -> None:
        if holds_secret(url):
            raise BadInput(
                f"{shown_uri(url)}: the address of a store, which runs name, has no user, password or "
                f"signature; give its credentials as environment variables (AWS_ACCESS_KEY_ID and the like)"
            )
        self.url = url.rstrip("/")
        with outages(self.url):
            self.fs, self.root = locate(self.url, use_listings_cache=False)
        self.is_local = isinstance(self.fs, LocalFileSystem)

    # --- bytes -------------------------------------------------------------------------------------------------------

    def put_bytes(self, data: bytes, suffix: str) -> str:
        """Store bytes under their hash, and return the sha256 (hex). `suffix` includes the dot."""
        sha256 = hashlib.sha256(data).hexdigest()
        self.write(object_path(sha256, suffix), data, replace=False)
        return sha256

    def put_file(self, path: Path) -> str:
        """Store a local file, and return its address relative to the store, such as `objects/ab/ab….mp4`."""
        address = object_path(sha256_of_file(path), path.suffix)
        if not self.exists(address):
            if self.is_local:
                self._publish_local(address, lambda partial: shutil.copyfile(path, partial))
            else:
                with self._writing():
                    self.fs.put_file(str(path), self._path(address))
        return address

    def fetch(self, address: str, folder: Path) -> Path:
        """Return a local path of a stored file. A file in a remote store is downloaded into the folder.

        Raises:
            SourceUnavailable: `system_error`, as the file no longer exists. It is the store's, and not the source's.
            StoreError: a remote store does not respond.
        """
        path = self._path(address)
        local = Path(path) if self.is_local else folder / Path(address).name
        try:
            if not local.exists():
                with outages(self.url):
                    download(self.fs, path, local)
        except FileNotFoundError:
            message = f"{address} is gone from {shown_uri(self.url)}; restore it and run again"
            raise SourceUnavailable("system_error", message) from None
        return local

    # --- tables ------------------------------------------------------------------------------------------------------

    def put_rows(self, rows: Iterable[R], model: type[R]) -> str:
        """Store a table, and return the sha256 (hex) of its Parquet bytes."""
        return self.put_bytes(rows_to_parquet(rows, model), ".parquet")

    def get_rows(self, sha256: str, model: type[R]) -> list[R]:
        """The rows of a stored table.

        Raises:
            SchemaError: the bytes do not match the model, or do not match their hash.
            FileNotFoundError: the table does not exist.
        """
        address = object_path(sha256, ".parquet")
        data = self.read(address)
        if hashlib.sha256(data).hexdigest() != sha256:
            raise SchemaError(
                f"{self.url}/{address}: damaged, its bytes do not match its name; delete it and build again"
            )
        try:
            return rows_from_parquet(data, model, f"{self.url}/{address}")
        except SchemaError as error:
            raise SchemaError(f"{error}; another version wrote this table: run its stage again") from error

    # --- commits -----------------------------------------------------------------------------------------------------

    def find_commit(self, stage: str, key_sha256: str) -> Commit | None:
        """The commit of a key, or None if there is none.

        A commit that names a missing table is removed, and the result is None.
        """
        address = _commit_path(stage, key_sha256)
        try:
            commit = parse_json(self.read(address), Commit, f"{self.url}/{address}")
        except FileNotFoundError:
            return None
        tables = (commit.rows_sha256, commit.rejects_sha256)
        if all(self.exists(object_path(sha256, ".parquet")) for sha256 in tables):
            return commit
        self.remove(address)
        return None

    def commit(self, commit: Commit) -> Commit:
        """Store a commit, and return the commit that is valid for the key.

        If another worker has committed the key in the meantime, that commit is kept and returned.
        """
        address = _commit_path(commit.key.stage, commit.key_sha256)
        self.write(address, commit.model_dump_json(indent=1).encode(), replace=False)
        return parse_json(self.read(address), Commit, f"{self.url}/{address}")

    def forget_commit(self, stage: str, key_sha256: str) -> None:
        """Remove a commit, so that its work item is computed again (replay). The objects are kept."""
        self.remove(_commit_path(stage, key_sha256))

    def name_object(self, sha256: str, address: str) -> None:
        """Give an object an additional, readable name: a hard link locally, a server-side copy elsewhere.

        The name must have the object's suffix. In a local store, an existing file of that name is kept.

        Raises:
            StoreError: no space is left, or writing is not permitted.
        """
        source, target = self._path(object_path(sha256, Path(address).suffix)), self._path(address)
        if not self.is_local:
            with outages(self.url):
                self.fs.cp_file(source, target)
            return
        try:
            Path(target).parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):  # another worker publishes the same content
                os.link(source, target)
        except OSError as error:
            raise StoreError(explain(error, self.url)) from error

    # --- plain files -------------------------------------------------------------------------------------------------

    def exists(self, address: str) -> bool:
        """Whether there is a file or folder at an address.

        Raises:
            StoreError: a remote store does not respond.
        """
        with outages(self.url):
            return self.fs.exists(self._path(address))

    def read(self, address: str) -> bytes:
        """The bytes of a file.

        Raises:
            FileNotFoundError: the file does not exist.
            StoreError: a remote store does not respond.
        """
        with outages(self.url):
            return self.fs.cat_file(self._path(address))

    def write(self, address: str, data: bytes, *, replace: bool = True) -> None:
        """Write a whole file atomically. With `replace=False` an existing file is kept unchanged.

        Raises:
            StoreError: no space is left, or writing is not permitted.
            BadInput: the bucket or container of a remote store does not exist.
        """
        if not replace and self.exists(address):
            return
        if self.is_local:
            self._publish_local(address, lambda partial: partial.write_bytes(data), replace=replace)
        else:
            with self._writing(), contextlib.suppress(FileExistsError):
                self.fs.pipe_file(self._path(address), data, mode="overwrite" if replace else "create")

    def list(self, address: str, kind: str = "file") -> list[str]:
        """Sorted addresses of the files directly under a folder, or of its folders with `kind="directory"`.

        A missing folder counts as empty.
        """
        folder = self._path(address)
        with outages(self.url):
            found = self.fs.ls(folder, detail=True, refresh=True) if self.fs.exists(folder) else []
        return sorted(f"{address}/{entry['name'].rsplit('/', 1)[1]}" for entry in found if entry["type"] == kind)

    def modified_time(self, address: str) -> datetime:
        """The time at which a file was last written."""
        with outages(self.url):
            return self.fs.modified(self._path(address))

    def remove(self, address: str) -> None:
        """Remove a file. A missing file is not an error."""
        with outages(self.url), contextlib.suppress(FileNotFoundError):
            self.fs.rm_file(self._path(address))

    def remove_unfinished(self) -> None:
        """Remove temporary files of killed writers from a local store.

        Only files that have not been written to for a day are removed, since other writers may be active.
        """
        paths = [Path(self._path(address)) for address in self.list("tmp")] if self.is_local else []
        for path in paths:
            if not _PARTIAL.match(path.name):
                continue
            with contextlib.suppress(FileNotFoundError, PermissionError):  # removed by another run, or another user's
                if time.time() - path.stat().st_mtime > _DAY_SECONDS:
                    path.unlink()

    def _path(self, address: str) -> str:
        return f"{self.root}/{address}"

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Context for writing to a remote store, which does not create buckets.

        Raises:
            BadInput: the bucket or container does not exist.
            StoreError: the store does not respond.
        """
        try:
            with outages(self.url):
                yield
        except FileNotFoundError as error:
            place = shown_uri(self.url)
            raise BadInput(f"{place}: no such bucket or container; create it, or choose another `out`") from error

    def _publish_local(self, address: str, write: Callable[[Path], object], *, replace: bool = False) -> None:
        final = Path(self._path(address))
        partial = Path(self._path("tmp")) / f"{uuid.uuid4().hex}-{final.name}"
        try:
            partial.parent.mkdir(parents=True, exist_ok=True)
            final.parent.mkdir(parents=True, exist_ok=True)
            write(partial)
            _sync(partial)
            if replace:
                partial.replace(final)
            else:
                with contextlib.suppress(FileExistsError):
                    os.link(partial, final)  # unlike a rename, this fails if another writer was first
            _sync(final.parent)
        except OSError as error:
            raise StoreError(explain(error, self.url)) from error
        finally:
            partial.unlink(missing_ok=True)


def store_containing(fs: AbstractFileSystem, path: str) -> str | None:
    """The root of the store to which a path belongs, or None outside of all stores.

    A path belongs to a store if it is one of the store's own folders, such as `objects/`, or lies in one. A folder is a
    store if a build has been planned there, because planning writes into `objects/` and `runs/`.
    """
    parts = path.split("/")
    for depth in (depth for depth, part in enumerate(parts) if part in _OWN_FOLDERS):
        root = "/".join(parts[:depth])
        if fs.isdir(f"{root}/objects") and fs.isdir(f"{root}/runs"):
            return root or "/"
    return None


def download(fs: AbstractFileSystem, path: str, local: Path) -> None:
    """Download a remote file to a local path, which does not exist until the download is complete.

    Raises:
        OSError: the number of bytes received is not the file's size (EIO), or the file system raised it.
    """
    partial = local.with_name(f"{local.name}.partial")
    fs.get_file(path, str(partial))
    size, read = fs.info(path).get("size"), partial.stat().st_size
    if size is not None and read != size:
        raise OSError(errno.EIO, f"{read} of {size} bytes came", path)
    partial.replace(local)


def object_path(sha256: str, suffix: str) -> str:
    """Address of an object. The first two hex digits are a folder, which keeps folders small."""
    return f"objects/{sha256[:2]}/{sha256}{suffix}"


def sha256_of_file(path: Path) -> str:
    """sha256 (hex) of a file's bytes, read in chunks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _commit_path(stage: str, key_sha256: str) -> str:
    return f"commits/{stage}/{key_sha256}.json"


def space_problem(error: OSError, place: str) -> StoreError | None:
    """An outage if the error means that nothing can be written at `place`, else None.

    Such errors are a full disk, a used-up quota and a read-only file system.
    """
    return StoreError(explain(error, place)) if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS) else None


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def explain(error: OSError, url: str) -> str:
    """Message for an error of writing to a store at `url`: what is wrong and what to do."""
    return f"{shown_uri(url)}: {_FIXES.get(error.errno or 0, str(error))}"
