"""Ids of videos: each follows from the video's own path, whatever other files there are.

In earlier versions an id also depended on the other files. A store that holds runs of those keeps the ids that they
gave, in `ids.json`, so that nothing of it has to be computed again and every video stays in its split.
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
from operators.store import Store
from schemas.base import VideoId, parse_json
from schemas.errors import SchemaError
from schemas.run import GivenIds
from schemas.uri import redacted_uri

GIVEN_IDS = "ids.json"
_READS_AT_ONCE = 16

P = TypeVar("P", bound=BaseModel)


class _Request(BaseModel):
    source: str
    media_root: str = ""


class _Plan(BaseModel):
    """What is needed of `run.json`, whatever version wrote it."""

    requested: _Request


class _Video(BaseModel):
    source_id: VideoId
    uri: str


class _Lane(BaseModel):
    """What is needed of a lane, whatever version wrote it."""

    sources: list[_Video]


def source_id_of(path: str) -> str:
    """A video's id: a part of its name, for people, and 64 bits of the sha256 of its path inside the source.

    Of 5 million files with one name in different folders, two share an id with a probability of
    (5e6)^2 / 2 / 2^64 = 7e-7. The content cannot be part of the id: its hash is known only when all bytes were read.
    """
    slug = re.sub(r"[^A-Za-z0-9_-]+", "-", PurePosixPath(path).stem).strip("-")[:48] or "video"
    return f"{slug}-{hashlib.sha256(path.encode()).hexdigest()[:16]}"


def media_folder(source: str, media_root: str) -> str:
    """Where the paths of a source's videos start: the folder itself, or for a list `media_root` or the list's own."""
    folder = source if not source.lower().endswith(LIST_SUFFIXES) else media_root or posixpath.dirname(source) or "."
    return local_path(folder) or folder.rstrip("/")


def path_in(folder: str, uri: str) -> str:
    """What an address says of the video alone: the path below the folder, or all of another place."""
    return uri.removeprefix(f"{folder.rstrip('/')}/")


class SourceIds:
    """The ids of the videos of one source, as far as a store has given some before."""

    def __init__(self, given: GivenIds, source: str) -> None:
        self._given = given.ids[source] if source in given.ids else _ids_of_moved(given)

    def id_of(self, path: str) -> str:
        """The id of the video with this path in the source."""
        return self._given.get(path) or source_id_of(path)


def _ids_of_moved(given: GivenIds) -> dict[str, str]:
    """The ids for a source that the store has not seen: its folder may have been moved, or be named in another way.

    A path has the id that it had in all other sources, and an id that several paths had is nobody's.
    """
    pairs = {pair for ids in given.ids.values() for pair in ids.items()}
    paths, ids = Counter(path for path, _ in pairs), Counter(source_id for _, source_id in pairs)
    return {path: source_id for path, source_id in pairs if paths[path] == 1 and ids[source_id] == 1}


def read_given_ids(store: Store) -> GivenIds:
    """The ids that earlier versions have given in this store: from `ids.json`, or else from the runs.

    Raises:
        SchemaError: a file of a run is damaged, or no build's.
    """
    try:
        return parse_json(store.read(GIVEN_IDS), GivenIds, f"{store.url}/{GIVEN_IDS}")
    except FileNotFoundError:
        return _from_runs(store)


def keep_given_ids(store: Store, given: GivenIds) -> None:
    """Write `ids.json` if it is not there. Whoever plans at the same time would write the same."""
    store.write(GIVEN_IDS, given.model_dump_json(indent=1).encode(), replace=False)


def _from_runs(store: Store) -> GivenIds:
    """What the runs say, and of two of them the later one, whose rows are those that can be used again."""
    given: dict[str, dict[str, str]] = {}
    for run in _runs(store):
        config = _read(store, f"{run}/run.json", _Plan).requested
        folder = media_folder(config.source, config.media_root)
        ids = given.setdefault(redacted_uri(config.source), {})
        with ThreadPoolExecutor(max_workers=_READS_AT_ONCE) as pool:
            lanes = pool.map(lambda lane: _read(store, lane, _Lane).sources, store.list(f"{run}/lanes"))
            for video in (video for lane in lanes for video in lane):
                path = path_in(folder, stored_uri(local_path(video.uri) or video.uri, folder))
                ids.pop(path, None)  # the order says what was given last
                ids[path] = video.source_id
    return GivenIds(ids={source: _last_owners(ids) for source, ids in given.items()})


def _last_owners(ids: dict[str, str]) -> dict[str, str]:
    """Each id once: after a video had gone, another may have been given its id."""
    owners = {source_id: path for path, source_id in ids.items()}
    return {path: source_id for source_id, path in owners.items()}


def _runs(store: Store) -> list[str]:
    """Addresses of the runs that have been planned, in the order in which they were."""
    plans = {f"{run}/run.json": run for run in store.list("runs", kind="directory")}
    planned = [plan for plan in plans if store.exists(plan)]
    return [plans[plan] for plan in sorted(planned, key=lambda plan: (store.modified(plan), plan))]


def _read(store: Store, address: str, model: type[P]) -> P:
    try:
        return parse_json(store.read(address), model, f"{store.url}/{address}")
    except SchemaError as error:
        raise SchemaError(f"{error}; it is damaged or no build's: move its run out of the store") from error
