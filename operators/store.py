"""Content-addressed tables and files on any fsspec path, and the commits that name them.

    objects/ab/abcd….parquet     bytes under their sha256: written beside, then renamed; never changed, never half there
    commits/{stage}/{key}.json   the manifest of a finished (stage, unit), written last; the first writer wins
    journal/{stage}/{unit}/      model answers of running units (operators.models.journal)

A killed writer leaves at most a file under `tmp/`, which a later run removes. Two writers of the same object write the
same bytes; two writers of the same commit agree on the first one, and both go on with what it names.
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
"""How the names of files under `tmp/` begin. `out` may be a folder in which others have a `tmp/` of their own."""
_DAY_SECONDS = 24 * 3600

_OWN_FOLDERS = frozenset({"objects", "commits", "journal", "runs", "releases"})

_WAYS_OUT = {
    errno.ENOSPC: "the disk is full; free some space and run again, finished work is kept",
    errno.EDQUOT: "the disk quota is used up; free some space and run again, finished work is kept",
    errno.EACCES: "no permission to write; choose another `out` or change its owner",
    errno.EROFS: "the file system is read-only; choose another `out`",
    errno.EPERM: "not permitted; is this a file system without hard links? choose another `out`",
}


class SourceGone(OSError):
    """A source video cannot be read any more: moved, deleted, no permission, changed. `reason` says which."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[type[SourceGone], tuple[str, str]]:
        return type(self), (self.reason, str(self))  # it may come from a child process


class Store:
    """Objects and commits under one address, local or remote."""

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
        """Store bytes under their hash; returns the sha256. `suffix` includes the dot."""
        sha256 = hashlib.sha256(data).hexdigest()
        self.write(object_path(sha256, suffix), data, replace=False)
        return sha256

    def put_file(self, path: Path) -> str:
        """Store a local file; returns its address relative to the store, `objects/ab/ab….mp4`."""
        address = object_path(sha256_of_file(path), path.suffix)
        if not self.exists(address):
            if self.is_local:
                self._publish_local(address, lambda partial: shutil.copyfile(path, partial))
            else:
                with self._writing():
                    self.fs.put_file(str(path), self._path(address))
        return address

    def fetch(self, address: str, folder: Path) -> Path:
        """A local path of a stored file; a remote store's is downloaded into the folder.

        Raises:
            SourceGone: it is not there any more.
            StoreError: a remote store does not answer.
        """
        path = self._path(address)
        local = Path(path) if self.is_local else folder / Path(address).name
        try:
            if not local.exists():
                with outages(self.url):
                    download(self.fs, path, local)
        except FileNotFoundError:
            message = f"{address} is gone from {shown_uri(self.url)}; restore it and run again"
            raise SourceGone("missing_file", message) from None
        return local

    # --- tables ------------------------------------------------------------------------------------------------------

    def put_rows(self, rows: Iterable[R], model: type[R]) -> str:
        """Store a table; returns the sha256 of its Parquet bytes."""
        return self.put_bytes(rows_to_parquet(rows, model), ".parquet")

    def get_rows(self, sha256: str, model: type[R]) -> list[R]:
        """The rows of a stored table.

        Raises:
            SchemaError: the bytes do not fit the model, or are not those that were stored.
        """
        address = object_path(sha256, ".parquet")
        data = self.read(address)
        if hashlib.sha256(data).hexdigest() != sha256:
            raise SchemaError(
                f"{self.url}/{address}: damaged, its bytes do not match its name; delete it and build again"
            )
        return rows_from_parquet(data, model, f"{self.url}/{address}")

    # --- commits -----------------------------------------------------------------------------------------------------

    def find_commit(self, stage: str, key_sha256: str) -> Commit | None:
        """The commit of a key, or None when it has not been made, or when a table that it names is gone."""
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
        """Publish a commit. If another worker has committed the key meanwhile, theirs is returned, and holds."""
        address = _commit_path(commit.key.stage, commit.key_sha256)
        self.write(address, commit.model_dump_json(indent=1).encode(), replace=False)
        return parse_json(self.read(address), Commit, f"{self.url}/{address}")

    def forget_commit(self, stage: str, key_sha256: str) -> None:
        """Take a commit back, so that its unit is computed again (replay). Objects stay."""
        self.remove(_commit_path(stage, key_sha256))

    def name_object(self, sha256: str, address: str) -> None:
        """Give an object a readable name beside its own: a hard link locally, a server-side copy elsewhere.

        The name's suffix is the object's. A name that is there is kept.

        Raises:
            StoreError: no space left, or no right to write.
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
        with outages(self.url):
            return self.fs.exists(self._path(address))

    def read(self, address: str) -> bytes:
        with outages(self.url):
            return self.fs.cat_file(self._path(address))

    def write(self, address: str, data: bytes, *, replace: bool = True) -> None:
        """Write a whole file at once. With `replace=False` an existing file is kept as it is.

        Raises:
            StoreError: no space left, or no right to write.
        """
        if not replace and self.exists(address):
            return
        if self.is_local:
            self._publish_local(address, lambda partial: partial.write_bytes(data), replace=replace)
        else:
            with self._writing(), contextlib.suppress(FileExistsError):
                self.fs.pipe_file(self._path(address), data, mode="overwrite" if replace else "create")

    def list(self, address: str, kind: str = "file") -> list[str]:
        """Addresses of the files (or with `directory`, of the folders) directly under a folder, sorted; an absent
        folder is empty."""
        folder = self._path(address)
        with outages(self.url):
            found = self.fs.ls(folder, detail=True, refresh=True) if self.fs.exists(folder) else []
        return sorted(f"{address}/{entry['name'].rsplit('/', 1)[1]}" for entry in found if entry["type"] == kind)

    def modified(self, address: str) -> datetime:
        """When a file was last written."""
        with outages(self.url):
            return self.fs.modified(self._path(address))

    def remove(self, address: str) -> None:
        with outages(self.url), contextlib.suppress(FileNotFoundError):
            self.fs.rm_file(self._path(address))

    def remove_unfinished(self) -> None:
        """Remove what killed writers have left: what nobody has written to for a day, as others may be writing now."""
        paths = [Path(self._path(address)) for address in self.list("tmp")] if self.is_local else []
        for path in paths:
            if not _PARTIAL.match(path.name):
                continue
            with contextlib.suppress(FileNotFoundError, PermissionError):  # another run was first, another user's file
                if time.time() - path.stat().st_mtime > _DAY_SECONDS:
                    path.unlink()

    def _path(self, address: str) -> str:
        return f"{self.root}/{address}"

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Around writing to a remote store, which makes no bucket."""
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
                    os.link(partial, final)  # unlike a rename, this fails when another writer was first
            _sync(final.parent)
        except OSError as error:
            raise StoreError(explain(error, self.url)) from error
        finally:
            partial.unlink(missing_ok=True)


def store_around(fs: AbstractFileSystem, path: str) -> str | None:
    """The root of the store in one of whose own folders a path lies, or which it is; None outside of all stores.

    A folder is a store if a build has been planned there, which writes into `objects/` and `runs/`.
    """
    parts = path.split("/")
    for depth in (depth for depth, part in enumerate(parts) if part in _OWN_FOLDERS):
        root = "/".join(parts[:depth])
        if fs.isdir(f"{root}/objects") and fs.isdir(f"{root}/runs"):
            return root or "/"
    return None


def download(fs: AbstractFileSystem, path: str, local: Path) -> None:
    """Write a remote file to a local path, where there is nothing before it is whole.

    Raises:
        OSError: fewer bytes came than there are, or as the file system has it.
    """
    partial = local.with_name(f"{local.name}.partial")
    fs.get_file(path, str(partial))
    size, read = fs.info(path).get("size"), partial.stat().st_size
    if size is not None and read != size:
        raise OSError(errno.EIO, f"{read} of {size} bytes came", path)
    partial.replace(local)


def object_path(sha256: str, suffix: str) -> str:
    """Address of an object: two hex digits of fan-out keep folders small."""
    return f"objects/{sha256[:2]}/{sha256}{suffix}"


def sha256_of_file(path: Path) -> str:
    """sha256 (hex) of a file's bytes, read in chunks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _commit_path(stage: str, key_sha256: str) -> str:
    return f"commits/{stage}/{key_sha256}.json"


def space_problem(error: OSError, place: str) -> StoreError | None:
    """An outage, if the error says that nothing can be written at `place`, whatever it is; else None."""
    return StoreError(explain(error, place)) if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS) else None


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def explain(error: OSError, url: str) -> str:
    """What is wrong with a store at `url` that cannot be written, and what to do."""
    return f"{shown_uri(url)}: {_WAYS_OUT.get(error.errno or 0, str(error))}"
