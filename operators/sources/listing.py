"""Reads what the user points at - a folder, a CSV or JSON manifest, Shot2Story's annotations - into `Source` rows.

Nothing is opened but the list itself; a video's own bytes are first read by the ingest stage. A line that cannot be
used becomes a reject; a list that cannot be read at all is a `SourceError`.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from fsspec.implementations.local import LocalFileSystem
from pydantic import ValidationError

from operators.sources import web
from operators.sources.access import Access, SourceFiles, filesystem_of, fingerprint, local_path
from operators.sources.rejects import assert_storable, plan_reject
from operators.sources.shot2story import is_shot2story, shot2story_entries
from schemas.base import message_of
from schemas.config import BuildConfig
from schemas.errors import Outage, SourceError
from schemas.manifest import ManifestRow
from schemas.tables import Reject, Source
from schemas.uri import is_address, is_chain, redacted_uri, shown_uri, without_secrets

VIDEO_SUFFIXES = frozenset(
    ".3gp .avi .flv .gif .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .ogv .ts .vob .webm .wmv".split()  # noqa: SIM905
)

_LOOKS_AT_ONCE = 16
"""Files looked for at the same time: on an object store, looking is waiting."""

_YOUTUBE_ID = re.compile(r"[A-Za-z0-9_-]{11}")


@dataclass(frozen=True)
class Listing:
    """The usable sources, in the order of their ids, and the lines that are not."""

    sources: tuple[Source, ...]
    rejects: tuple[Reject, ...]


def read_sources(source: str, media_root: str = "", allowed_roots: Sequence[str] = ()) -> Listing:
    """List the videos of a source.

    Args:
        source: a folder (searched with its subfolders, also linked ones), a `.csv`, `.json` or `.jsonl` manifest
            (`ManifestRow`), or one of Shot2Story's annotation files with its `*_meta.csv` beside it. A local path or an
            fsspec URL.
        media_root: where relative addresses of a manifest start, and where Shot2Story's full videos lie; by default
            the manifest's own folder.
        allowed_roots: what else a list may name, see `operators.sources.access`.

    Raises:
        SourceError: it does not exist, holds no video, or is not a readable list.
        Outage: the place where a video lies gives no answer.
    """
    access = Access.of(source, media_root, allowed_roots)
    entries, media_root = _entries(source, media_root, access)
    listing = _resolve(entries, media_root, access)
    if not listing.sources and not listing.rejects:
        raise SourceError(
            f"source {source!r} holds no video; looked for files ending in {' '.join(sorted(VIDEO_SUFFIXES))}"
        )
    return listing


def source_files(config: BuildConfig, sources: Sequence[Source]) -> SourceFiles:
    """How a stage opens these sources: where addresses are redacted, by those that the build's list gives now.

    Raises:
        SourceError: the list is needed, and cannot be read any more.
    """
    private = Access.of(config.source, config.media_root, config.allowed_roots).private
    redacted = [source.source_id for source in sources if source.redacted]
    if not redacted:
        return SourceFiles(private)
    try:
        stamp = fingerprint(config.source, private)
    except OSError as error:
        raise SourceError(
            f"source {config.source!r} cannot be read ({error}): the addresses of its videos hold credentials, which "
            f"are not stored, and are read from it again; restore it"
        ) from error
    listed = _listed_addresses(config.source, config.media_root, config.allowed_roots, stamp)
    return SourceFiles(private, {name: listed[name] for name in redacted if name in listed})


@cache
def _listed_addresses(source: str, media_root: str, allowed_roots: tuple[str, ...], stamp: str) -> dict[str, str]:
    """The whole address of each video that a list names, by its id, as of the list's fingerprint."""
    entries, media_root = _entries(source, media_root, Access.of(source, media_root, allowed_roots))
    rows = [entry for entry in entries if isinstance(entry, ManifestRow)]
    ids = _ids_of(rows)
    return {_id_of(row, ids): _address(row, media_root) for row in reversed(rows)}  # of equal ids the first one counts


def _entries(source: str, media_root: str, access: Access) -> tuple[list[ManifestRow | Reject], str]:
    """What a source lists, and where relative addresses start."""
    shown = shown_uri(source)
    try:
        if is_chain(source):
            raise ValueError("chains of addresses are not opened")
        fs, path = (None, source) if web.site_of(source) else filesystem_of(source)
        exists, is_folder = (True, False) if fs is None else (fs.exists(path), fs.isdir(path))
    except (PermissionError, ValueError, ImportError) as error:  # rights; an address that is none; its driver
        told = without_secrets(str(error), [source])
        raise SourceError(f"source {shown!r} cannot be read: {told}; give a folder of videos or a manifest") from error
    if not exists:
        raise SourceError(f"source {shown!r} does not exist; give a folder of videos or a manifest")
    if is_folder:
        return list(_folder_entries(fs, path)), source
    media_root = media_root or source.rpartition("/")[0] or "."
    try:
        data = web.read(source, access.private) if fs is None else fs.cat_file(path)
    except (PermissionError, FileNotFoundError) as error:
        raise SourceError(f"manifest {shown!r} cannot be read: {without_secrets(str(error), [source])}") from error
    return list(_file_entries(data, fs, path, source, media_root)), media_root


def _folder_entries(fs: Any, path: str) -> Iterator[ManifestRow | Reject]:
    for found in _files_in(fs, path):
        if PurePosixPath(found).suffix.lower() in VIDEO_SUFFIXES and not PurePosixPath(found).name.startswith("."):
            name = found[len(path.rstrip("/")) + 1 :]
            try:
                yield ManifestRow(uri=name)
            except ValidationError:
                yield plan_reject(name, "unreadable_uri", f"{found}: its name is not UTF-8; rename the file")


def _files_in(fs: Any, path: str) -> list[str]:
    """All files below a folder, sorted; on a local disk also below linked folders, each folder once."""
    if not isinstance(fs, LocalFileSystem):
        return sorted(fs.find(path))
    files: list[str] = []
    seen: set[str] = set()
    starts = deque([path])
    while starts:  # links come last, so that what they lead to keeps the path that it has by itself
        for folder, folders, names in os.walk(starts.popleft()):
            if (real := os.path.realpath(folder)) in seen:
                folders.clear()
                continue
            seen.add(real)
            files += [f"{folder}/{name}" for name in names]
            starts += [below for name in sorted(folders) if Path(below := f"{folder}/{name}").is_symlink()]
    return sorted(files)


def _file_entries(
    data: bytes, fs: Any | None, path: str, source: str, media_root: str
) -> Iterator[ManifestRow | Reject]:
    suffix = PurePosixPath(path).suffix.lower()
    if suffix not in (".csv", ".json", ".jsonl"):
        raise SourceError(f"source {source!r}: not a folder, and not a .csv, .json or .jsonl manifest")
    try:
        text = data.decode("utf-8-sig")
        if suffix == ".csv":
            rows: Any = list(csv.DictReader(io.StringIO(text), strict=True))
        else:
            rows = [json.loads(line) for line in text.splitlines() if line] if suffix == ".jsonl" else json.loads(text)
    except (ValueError, csv.Error, RecursionError) as error:  # not UTF-8, not JSON, an endless number, endless depth
        raise SourceError(f"manifest {source!r} cannot be read: {error}") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise SourceError(f"manifest {source!r}: expected a list of objects, one per video")
    if is_shot2story(rows):
        if fs is None:
            raise SourceError(f"source {source!r}: copy Shot2Story's annotations and its *_meta.csv to a folder")
        return shot2story_entries(fs, path, rows, media_root)
    return _manifest_entries(rows, source)


def _manifest_entries(rows: list[dict[str, Any]], source: str) -> Iterator[ManifestRow | Reject]:
    for number, row in enumerate(rows, start=1):
        given = {name: value for name, value in row.items() if value not in ("", None)}
        key = next(
            (name for name in (given.get("source_id"), given.get("uri")) if isinstance(name, str)), f"row {number}"
        )
        where = f"manifest {source!r}, row {number}"
        if None in row:  # where csv puts what is left over
            message = f"{where}: has more fields than the header; quote texts that hold a comma"
            yield plan_reject(key, "manifest_row", message, row)
            continue
        try:
            assert_storable(row)
            yield ManifestRow.model_validate(given)
        except RecursionError:
            yield plan_reject(key, "manifest_row", f"{where}: values nested too deep; correct it")
        except UnicodeEncodeError as error:
            yield plan_reject(key, "manifest_row", f"{where}: not Unicode text ({error}); correct it", row)
        except ValidationError as error:
            first = error.errors()[0]
            if unknown := [str(found["loc"][0]) for found in error.errors() if found["type"] == "extra_forbidden"]:
                known = ", ".join(ManifestRow.model_fields)  # a misspelt column is wrong in every line
                raise SourceError(f"manifest {source!r}: unknown column {unknown[0]!r}; known are {known}") from error
            field = ".".join(map(str, first["loc"]))
            message = f"{where}, field {field}: {message_of(dict(first))}"
            yield plan_reject(key, "manifest_row", message, row)


def _resolve(listed: Sequence[ManifestRow | Reject], media_root: str, access: Access) -> Listing:
    ids = _ids_of([entry for entry in listed if isinstance(entry, ManifestRow)])
    with ThreadPoolExecutor(max_workers=_LOOKS_AT_ONCE) as pool:
        looked = list(pool.map(lambda entry: _looked_at(entry, media_root, access, ids), listed))
    sources: dict[str, Source] = {}
    rejects: list[Reject] = []
    for found in looked:
        if isinstance(found, Reject):
            rejects.append(found)
        elif found.source_id in sources:
            message = (
                f"{shown_uri(found.uri)}: its id {found.source_id!r} is already that of "
                f"{shown_uri(sources[found.source_id].uri)}; the first "
                f"one is used. Give one of them another source_id"
            )
            rejects.append(plan_reject(found.source_id, "duplicate_id", message))
        else:
            sources[found.source_id] = found
    return Listing(tuple(sources[name] for name in sorted(sources)), tuple(rejects))


def _looked_at(entry: ManifestRow | Reject, media_root: str, access: Access, ids: Mapping[str, str]) -> Source | Reject:
    """An entry whose file has been found, or why it cannot be used."""
    if isinstance(entry, Reject):
        return entry
    address, identifier = _address(entry, media_root), _id_of(entry, ids)
    found = _checked_fingerprint(address, identifier, access)
    if isinstance(found, Reject):
        return found
    is_name = local_path(address) or not (is_address(entry.uri) or web.site_of(address))  # then `?` and `@` are in it
    uri = address if is_name else redacted_uri(address)
    fields = entry.model_dump(exclude={"uri", "source_id"})
    return Source(source_id=identifier, uri=uri, fingerprint=found, redacted=uri != address, **fields)


def _address(entry: ManifestRow, media_root: str) -> str:
    """The whole address of an entry: an absolute path or a URL."""
    is_whole = is_address(entry.uri) or entry.uri.startswith("/")
    uri = entry.uri if is_whole else f"{media_root.rstrip('/')}/{entry.uri}"
    return local_path(uri) or uri.strip()


def _id_of(entry: ManifestRow, ids: Mapping[str, str]) -> str:
    return entry.source_id or ids[_path_in_list(entry)]


def _path_in_list(entry: ManifestRow) -> str:
    """What an id is made of: the address without its signature, which may change."""
    return redacted_uri(entry.uri)


def _ids_of(entries: Sequence[ManifestRow]) -> dict[str, str]:
    """Stable ids by path inside the source: a YouTube id as it is, where it is no other path's, else as `source_id_of`.

    `a/segment_001.mp4` and `b/segment_001.mp4` look like one YouTube id.
    """
    paths = [_path_in_list(entry) for entry in entries if not entry.source_id]
    stems = {path: PurePosixPath(path).stem for path in paths}
    used = Counter(stems.values())
    return {
        path: stem if _YOUTUBE_ID.fullmatch(stem) and used[stem] == 1 else source_id_of(path)
        for path, stem in stems.items()
    }


def source_id_of(relative_path: str) -> str:
    """A stable id from a path inside the source: the stem and a hash of the whole path.

    The hash keeps `a/clip.mp4` and `b/clip.mp4` apart; the content is identified by the video's sha256, which cannot
    be known before every byte was read.
    """
    stem = PurePosixPath(relative_path).stem
    slug = re.sub(r"[^A-Za-z0-9_-]+", "-", stem).strip("-")[:48] or "video"
    return f"{slug}-{hashlib.sha256(relative_path.encode()).hexdigest()[:8]}"


def _checked_fingerprint(uri: str, identifier: str, access: Access) -> str | Reject:
    """The fingerprint, or why the file cannot be used."""
    shown = shown_uri(uri)
    if refusal := access.refusal(uri):
        return plan_reject(identifier, "not_allowed", f"{shown} {refusal}, or drop its row")
    try:
        return fingerprint(uri, access.private)
    except FileNotFoundError:
        return plan_reject(identifier, "missing_file", f"{shown}: no such file; restore it or drop its row")
    except (ConnectionError, TimeoutError) as error:
        told = without_secrets(str(error), [uri])
        raise Outage(f"{shown}: its place gives no answer ({told}); try again later") from error
    except (OSError, ValueError, ImportError) as error:  # rights; an address that is none; its driver is not installed
        told = without_secrets(str(error), [uri])
        message = f"{shown!r} cannot be read: {told}; correct the address or its rights, or drop its row"
        return plan_reject(identifier, "unreadable_uri", message)
