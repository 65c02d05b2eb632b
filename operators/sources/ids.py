"""Ids of videos. An id follows from the video's own path, whatever other files there are.

In earlier versions an id also depended on the other files. A store with runs of those versions keeps the ids that they
assigned, in `ids.json`. So nothing in it has to be computed again, and every video stays in its split.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath
from typing import TypeVar

from pydantic import BaseModel

from operators.sources.access import local_path, stored_uri
from operators.sources.manifest import LIST_SUFFIXES
from operators.store.content_store import Store
from schemas.base import VideoId, parse_json
from schemas.errors import SchemaError
from schemas.run import GivenIds
from schemas.uri import redacted_uri

GIVEN_IDS = "ids.json"
_CONCURRENT_READS = 16

P = TypeVar("P", bound=BaseModel)


class _Request(BaseModel):
    source: str
    media_root: str = ""


class _Plan(BaseModel):
    """The fields that are needed of `run.json`, whatever version wrote it."""

    requested: _Request


class _Video(BaseModel):
    source_id: VideoId
    uri: str


class _Partition(BaseModel):
    """The fields that are needed of a partition's file, whatever version wrote it."""

    sources: list[_Video]


def source_id_of(path: str) -> str:
    """Id of a video: a readable part of its name, and 64 bits of the sha256 of its path inside the source.

    Among 5 million files of one name in different folders, two share an id with a probability of (5e6)^2 / 2 / 2^64 =
    7e-7. The content cannot be part of the id: its hash is known only after all bytes were read.
    """
    slug = re.sub(r"[^A-Za-z0-9_-]+", "-", PurePosixPath(path).stem).strip("-")[:48] or "video"
    return f"{slug}-{hashlib.sha256(path.encode()).hexdigest()[:16]}"


def media_folder(source: str, media_root: str) -> str:
    """Folder that a source's video paths start from: the source itself, or a list's `media_root` or own folder."""
    folder = source if not source.lower().endswith(LIST_SUFFIXES) else media_root or posixpath.dirname(source) or "."
    return local_path(folder) or folder.rstrip("/")


def path_in(folder: str, uri: str) -> str:
    """Path of a video below the folder, or its whole address if it is elsewhere."""
    return uri.removeprefix(f"{folder.rstrip('/')}/")


class SourceIds:
    """Ids of the videos of one source, including those that the store has assigned before."""

    def __init__(self, given: GivenIds, source: str) -> None:
        self._given = given.ids[source] if source in given.ids else _ids_of_moved(given)

    def id_of(self, path: str) -> str:
        """Id of the video with this path in the source."""
        return self._given.get(path) or source_id_of(path)


def _ids_of_moved(given: GivenIds) -> dict[str, str]:
    """Ids for a source that is new to the store: its folder may have been moved, or be named in another way.

    A path keeps its id if it had the same one in all other sources. An id that several paths had is not used.
    """
    pairs = {pair for ids in given.ids.values() for pair in ids.items()}
    paths, ids = Counter(path for path, _ in pairs), Counter(source_id for _, source_id in pairs)
    return {path: source_id for path, source_id in pairs if paths[path] == 1 and ids[source_id] == 1}


def read_given_ids(store: Store) -> GivenIds:
    """Read the ids that earlier versions assigned in this store: from `ids.json`, or else from the runs.

    Raises:
        SchemaError: a file of a run is damaged, or does not belong to a build.
    """
    try:
        return parse_json(store.read(GIVEN_IDS), GivenIds, f"{store.url}/{GIVEN_IDS}")
    except FileNotFoundError:
        return _from_runs(store)


def keep_given_ids(store: Store, given: GivenIds) -> None:
    """Write `ids.json` if it does not exist. Another process that plans at the same time writes the same content."""
    store.write(GIVEN_IDS, given.model_dump_json(indent=1).encode(), replace=False)


def _from_runs(store: Store) -> GivenIds:
    """Collect the ids from the runs. If two runs differ, the later one counts, as its rows are the reusable ones."""
    given: dict[str, dict[str, str]] = {}
    for run in _runs(store):
        config = _read(store, f"{run}/run.json", _Plan).requested
        folder = media_folder(config.source, config.media_root)
        ids = given.setdefault(redacted_uri(config.source), {})
        with ThreadPoolExecutor(max_workers=_CONCURRENT_READS) as pool:
            files = store.list(f"{run}/partitions") or store.list(f"{run}/lanes")  # the name in earlier versions
            partitions = pool.map(lambda file: _read(store, file, _Partition).sources, files)
            for video in (video for partition in partitions for video in partition):
                path = path_in(folder, stored_uri(local_path(video.uri) or video.uri, folder))
                ids.pop(path, None)  # the order of the dict shows which was assigned last
                ids[path] = video.source_id
    return GivenIds(ids={source: _last_owners(ids) for source, ids in given.items()})


def _last_owners(ids: dict[str, str]) -> dict[str, str]:
    """Keep each id for its last owner: after a video was removed, another may have been given its id."""
    owners = {source_id: path for path, source_id in ids.items()}
    return {path: source_id for source_id, path in owners.items()}


def _runs(store: Store) -> list[str]:
    """Addresses of the planned runs, in the order in which they were planned."""
    plans = {f"{run}/run.json": run for run in store.list("runs", kind="directory")}
    planned = [plan for plan in plans if store.exists(plan)]
    return [plans[plan] for plan in sorted(planned, key=lambda plan: (store.modified_time(plan), plan))]


def _read(store: Store, address: str, model: type[P]) -> P:
    try:
        return parse_json(store.read(address), model, f"{store.url}/{address}")
    except SchemaError as error:
        raise SchemaError(f"{error}; it is damaged or no build's: move its run out of the store") from error
