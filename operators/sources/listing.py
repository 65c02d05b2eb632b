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
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem
from pydantic import ValidationError

from operators.sources.rejects import assert_storable, plan_reject
from operators.sources.shot2story import is_shot2story, shot2story_entries
from schemas.errors import Outage, SourceError
from schemas.manifest import ManifestRow
from schemas.tables import Reject, Source

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


def read_sources(source: str, media_root: str = "") -> Listing:
    """List the videos of a source.

    Args:
        source: a folder (searched with its subfolders, also linked ones), a `.csv`, `.json` or `.jsonl` manifest
            (`ManifestRow`), or one of Shot2Story's annotation files with its `*_meta.csv` beside it. A local path or an
            fsspec URL.
        media_root: where relative addresses of a manifest start, and where Shot2Story's full videos lie; by default
            the manifest's own folder.

    Raises:
        SourceError: it does not exist, holds no video, or is not a readable list.
        Outage: the place where a video lies gives no answer.
    """
    try:
        fs, path = fsspec.core.url_to_fs(source)
        exists, is_folder = fs.exists(path), fs.isdir(path)
    except (PermissionError, ValueError, ImportError) as error:  # rights; an address that is none; its driver
        raise SourceError(
            f"source {source!r} cannot be read: {error}; give a folder of videos or a manifest"
        ) from error
    if not exists:
        raise SourceError(f"source {source!r} does not exist; give a folder of videos or a manifest")
    if is_folder:
        entries: Iterator[ManifestRow | Reject] = _folder_entries(fs, path)
        media_root = source
    else:
        media_root = media_root or source.rpartition("/")[0] or "."
        entries = _file_entries(fs, path, source, media_root)
    listing = _resolve(entries, media_root)
    if not listing.sources and not listing.rejects:
        raise SourceError(
            f"source {source!r} holds no video; looked for files ending in {' '.join(sorted(VIDEO_SUFFIXES))}"
        )
    return listing


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


def _file_entries(fs: Any, path: str, source: str, media_root: str) -> Iterator[ManifestRow | Reject]:
    suffix = PurePosixPath(path).suffix.lower()
    if suffix not in (".csv", ".json", ".jsonl"):
        raise SourceError(f"source {source!r}: not a folder, and not a .csv, .json or .jsonl manifest")
    try:
        text = fs.cat_file(path).decode("utf-8-sig")
        if suffix == ".csv":
            rows: Any = list(csv.DictReader(io.StringIO(text), strict=True))
        else:
            rows = [json.loads(line) for line in text.splitlines() if line] if suffix == ".jsonl" else json.loads(text)
    except (PermissionError, ValueError, csv.Error) as error:  # ValueError: not UTF-8, not JSON, an endless number
        raise SourceError(f"manifest {source!r} cannot be read: {error}") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise SourceError(f"manifest {source!r}: expected a list of objects, one per video")
    if is_shot2story(rows):
        return shot2story_entries(fs, path, rows, media_root)
    return _manifest_entries(rows, source)


def _manifest_entries(rows: list[dict[str, Any]], source: str) -> Iterator[ManifestRow | Reject]:
    for number, row in enumerate(rows, start=1):
        given = {name: value for name, value in row.items() if value not in ("", None)}
        key = str(given.get("source_id") or given.get("uri") or f"row {number}")
        where = f"manifest {source!r}, row {number}"
        if None in row:  # where csv puts what is left over
            message = f"{where}: has more fields than the header; quote texts that hold a comma"
            yield plan_reject(key, "manifest_row", message, row)
            continue
        try:
            assert_storable(row)
            yield ManifestRow.model_validate(given)
        except UnicodeEncodeError as error:
            yield plan_reject(key, "manifest_row", f"{where}: not Unicode text ({error}); correct it", row)
        except ValidationError as error:
            first = error.errors()[0]
            if unknown := [str(found["loc"][0]) for found in error.errors() if found["type"] == "extra_forbidden"]:
                known = ", ".join(ManifestRow.model_fields)  # a misspelt column is wrong in every line
                raise SourceError(f"manifest {source!r}: unknown column {unknown[0]!r}; known are {known}") from error
            field = ".".join(map(str, first["loc"]))
            message = f"{where}, field {field}: {first['msg']}, got {first['input']!r}"
            yield plan_reject(key, "manifest_row", message, row)


def _resolve(entries: Iterator[ManifestRow | Reject], media_root: str) -> Listing:
    listed = list(entries)
    ids = _ids_of([entry.uri for entry in listed if isinstance(entry, ManifestRow) and not entry.source_id])
    with ThreadPoolExecutor(max_workers=_LOOKS_AT_ONCE) as pool:
        looked = list(pool.map(lambda entry: _looked_at(entry, media_root, ids), listed))
    sources: dict[str, Source] = {}
    rejects: list[Reject] = []
    for found in looked:
        if isinstance(found, Reject):
            rejects.append(found)
        elif found.source_id in sources:
            message = (
                f"{found.uri}: its id {found.source_id!r} is already that of {sources[found.source_id].uri}; the first "
                f"one is used. Give one of them another source_id"
            )
            rejects.append(plan_reject(found.source_id, "duplicate_id", message))
        else:
            sources[found.source_id] = found
    return Listing(tuple(sources[name] for name in sorted(sources)), tuple(rejects))


def _looked_at(entry: ManifestRow | Reject, media_root: str, ids: Mapping[str, str]) -> Source | Reject:
    """An entry whose file has been found, or why it cannot be used."""
    if isinstance(entry, Reject):
        return entry
    uri = entry.uri if "://" in entry.uri or entry.uri.startswith("/") else f"{media_root.rstrip('/')}/{entry.uri}"
    identifier = entry.source_id or ids[entry.uri]
    found = _checked_fingerprint(uri, identifier)
    if isinstance(found, Reject):
        return found
    fields = entry.model_dump(exclude={"uri", "source_id"})
    return Source(source_id=identifier, uri=_absolute(uri), fingerprint=found, **fields)


def _ids_of(relative_paths: Sequence[str]) -> dict[str, str]:
    """Stable ids by path inside the source: a YouTube id as it is, where it is no other path's, else as `source_id_of`.

    `a/segment_001.mp4` and `b/segment_001.mp4` look like one YouTube id.
    """
    stems = {path: PurePosixPath(path).stem for path in relative_paths}
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


def fingerprint(uri: str) -> str:
    """What changes when a file does: its size, and its modification time or the object store's ETag.

    Raises:
        FileNotFoundError, IsADirectoryError: there is no file.
    """
    fs, path = fsspec.core.url_to_fs(uri)
    info = fs.info(path)
    if info["type"] != "file":
        raise IsADirectoryError(f"{uri}: is a {info['type']}, not a file; name the videos in it one by one")
    stamp = info.get("ETag") or info.get("etag") or info.get("mtime") or info.get("LastModified") or ""
    return f"{info['size']}-{stamp}"


def _checked_fingerprint(uri: str, identifier: str) -> str | Reject:
    """The fingerprint, or why the file cannot be used."""
    try:
        return fingerprint(uri)
    except FileNotFoundError:
        return plan_reject(identifier, "missing_file", f"{uri}: no such file; restore it or drop its row")
    except (ConnectionError, TimeoutError) as error:
        raise Outage(f"{uri}: its place gives no answer ({error}); try again later") from error
    except (OSError, ValueError, ImportError) as error:  # rights; an address that is none; its driver is not installed
        message = f"{uri!r} cannot be read: {error}; correct the address or its rights, or drop its row"
        return plan_reject(identifier, "unreadable_uri", message)


def _absolute(uri: str) -> str:
    fs, path = fsspec.core.url_to_fs(uri)
    return path if fs.protocol in ("file", ("file", "local")) else uri
