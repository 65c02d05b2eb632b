"""Reads the facts about a video from where the user keeps them, and from the store, where a plan puts them.

Boxes of tracks make the facts of an hour large, so that plans hold their address and not the facts themselves.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from operators.sources import web
from operators.store.content_store import Store, object_path
from schemas.base import parse_json
from schemas.facts import VideoFacts
from schemas.storage import locate

MAX_BYTES = 1 << 28
"""Size of a file of facts from which it is not read: it must be another file."""


class StoredFiles(Protocol):
    """What has stored the facts: a store, or a stage's files."""

    def fetch(self, address: str, folder: Path) -> Path:
        """Return a local path of a stored file."""


def read_facts_file(uri: str, private: Iterable[str] = ()) -> bytes:
    """The bytes of a file of facts.

    Args:
        private: sites on a private network that may be read, see `operators.sources.web`.

    Raises:
        FileNotFoundError: there is no file at that address.
        ValueError: the file is too large.
        OSError: the file cannot be read.
    """
    if web.site_of(uri):
        return web.read(uri, frozenset(private))
    fs, path = locate(uri)
    if (size := fs.info(path)["size"]) > MAX_BYTES:
        raise ValueError(f"it has {size} bytes, and facts at most {MAX_BYTES}; name a file of facts")
    return fs.cat_file(path)


def put_facts(facts: VideoFacts, store: Store | None) -> str:
    """The address of facts in a store. They are written if a store is given."""
    data = facts.model_dump_json(exclude_defaults=True).encode()
    sha256 = store.put_bytes(data, ".json") if store else hashlib.sha256(data).hexdigest()
    return object_path(sha256, ".json")


def load_facts(files: StoredFiles, address: str, folder: Path) -> VideoFacts:
    """The facts at an address of the store.

    Args:
        folder: folder for a copy, if the store is remote.

    Raises:
        SourceUnavailable, StoreError: see `operators.store.content_store.Store.fetch`.
        SchemaError: another version wrote them.
    """
    return parse_json(files.fetch(address, folder).read_bytes(), VideoFacts, address)
