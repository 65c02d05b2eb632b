"""Reads a folder, a CSV or JSON manifest, or the annotations of a known data set into `Source` rows.

Only the list itself and files of facts are opened; a video's own bytes are first read by the ingest stage. A line that
cannot be used, or whose facts cannot, becomes a reject. A list that cannot be read at all raises a `SourceError`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any, TypeVar

from fsspec.implementations.local import LocalFileSystem
from pydantic import ValidationError

from operators.sources import web
from operators.sources.access import Access, SourceFiles, fingerprint, is_place_there, local_path, stored_uri
from operators.sources.activitynet import activitynet_entries, read_activitynet
from operators.sources.facts import put_facts, read_facts_file
from operators.sources.folder import FACTS_SUFFIX, VIDEO_SUFFIXES, Search, search_folder
from operators.sources.ids import SourceIds, media_folder, path_in
from operators.sources.manifest import LIST_SUFFIXES, manifest_entries, read_list
from operators.sources.rejects import plan_reject
from operators.sources.shot2story import is_shot2story, shot2story_entries
from operators.store.content_store import Store, store_containing
from schemas.base import parse_json
from schemas.config import BuildConfig
from schemas.errors import BadInput, Outage, SchemaError, SourceError
from schemas.manifest import FactsFile, ManifestRow
from schemas.run import GivenIds
from schemas.storage import READ_ERRORS, StoreError, locate, outages
from schemas.tables import Reject, Source
from schemas.uri import is_address, is_chain, shown_uri, without_secrets

F = TypeVar("F")

_CONCURRENT_CHECKS = 16
"""Number of files that are checked concurrently. On an object store, a check is mostly waiting."""


@dataclass(frozen=True)
class Listing:
    """The usable sources, in the order of their ids, and rejects for the lines that cannot be used."""

    sources: tuple[Source, ...]
    rejects: tuple[Reject, ...]
    skipped: Mapping[str, int] = field(default_factory=dict)
    """Number of files and folders that are not videos, by kind, such as `.txt files`."""


@dataclass(frozen=True)
class _Entry:
    """One video of a source."""

    row: ManifestRow
    address: str = field(repr=False)
    """Full address, possibly with credentials: an absolute path or a URL."""
    uri: str
    """The address as it is stored."""
    facts: str = field(default="", repr=False)
    """Full address of its file of facts; empty if it has none."""
    is_found: bool = False
    """Whether the file was found in the source's folder, and not named in a list."""


@dataclass(frozen=True)
class _Entries:
    """Entries of a source, before any video is checked."""

    entries: Sequence[_Entry | Reject]
    folder: str
    """Folder that the paths of its videos start from."""
    skipped: Mapping[str, int] = field(default_factory=dict)


def read_sources(
    source: str,
    media_root: str = "",
    allowed_roots: Sequence[str] = (),
    given: GivenIds | None = None,
    store: Store | None = None,
) -> Listing:
    """List the videos of a source.

    Args:
        source: a folder (searched with its subfolders, also linked ones, and for files of facts next to its videos), a
            `.csv`, `.json` or `.jsonl` manifest (`ManifestRow`), a Shot2Story annotation file with its `*_meta.csv`
            next to it, or ActivityNet Captions' JSON. A local path or an fsspec URL.
        media_root: folder that a manifest's relative addresses start from, or folder of Shot2Story's full videos.
            Default: the manifest's own folder.
        allowed_roots: further addresses that a list may name, see `operators.sources.access`.
        given: ids that earlier versions assigned in the store, see `operators.sources.ids`.
        store: where facts are stored. By default they are only read.

    Raises:
        SourceError: the source does not exist, holds no video, is not a readable list, or may not be read completely.
        Outage: the source gives no answer, or a part of its folder cannot be read at the moment.
    """
    shown = shown_uri(source)
    access = Access.of(source, media_root, allowed_roots)
    found = _entries(source, media_root, access)
    listing = _resolve(found, access, SourceIds(given or GivenIds(), source), store)
    if not listing.sources and not listing.rejects:
        if source.lower().endswith(LIST_SUFFIXES):
            raise SourceError(f"source {shown!r} holds no row; give a list of videos")
        skipped = ", ".join(f"{count} {kind}" for kind, count in listing.skipped.items()) or "nothing"
        raise SourceError(
            f"source {shown!r} holds no video: no file ends in {' '.join(sorted(VIDEO_SUFFIXES))}, and "
            f"skipped {skipped}"
        )
    return listing


def source_files(config: BuildConfig, sources: Sequence[Source]) -> SourceFiles:
    """Prepare access to these sources for a stage. Redacted addresses are read from the build's list again.

    Raises:
        SourceError: the list is needed, and can no longer be read.
    """
    access = Access.of(config.source, config.media_root, config.allowed_roots)
    if not any(source.redacted for source in sources):
        return SourceFiles(access.private, roots=access.roots)
    try:
        stamp = fingerprint(config.source, access.private)
    except OSError as error:
        cause = without_secrets(str(error), [config.source])
        raise SourceError(
            f"source {shown_uri(config.source)!r} cannot be read ({cause}): the addresses of its videos hold "
            f"credentials, which are not stored, and are read from it again; restore it"
        ) from error
    listed = _listed_addresses(config.source, config.media_root, config.allowed_roots, stamp)
    found = {
        source.source_id: listed.get((source.source_id, source.uri)) or listed.get((None, source.uri))
        for source in sources
        if source.redacted
    }
    addresses = {name: address for name, address in found.items() if address}
    return SourceFiles(access.private, addresses, access.roots)


@lru_cache(maxsize=1)
def _listed_addresses(
    source: str, media_root: str, allowed_roots: tuple[str, ...], stamp: str
) -> dict[tuple[str | None, str], str]:
    """Full address of each video in a list, by its id in the list (or None) and its address without credentials.

    The result is cached for the list's fingerprint, `stamp`.
    """
    found = _entries(source, media_root, Access.of(source, media_root, allowed_roots))
    rows = [entry for entry in found.entries if isinstance(entry, _Entry)]
    return {(entry.row.source_id, entry.uri): entry.address for entry in reversed(rows)}  # the first of equal keys wins


def _entries(source: str, media_root: str, access: Access) -> _Entries:
    shown = shown_uri(source)
    try:
        if is_chain(source):
            raise ValueError("chains of addresses are not opened")
        fs, path = (None, source) if web.site_of(source) else locate(local_path(source) or source)
        with outages(shown):
            is_folder = fs is not None and fs.info(path)["type"] == "directory"
    except FileNotFoundError:
        raise SourceError(f"source {shown!r} does not exist; give a folder of videos or a manifest") from None
    except BadInput:
        raise
    except (PermissionError, ValueError, ImportError) as error:  # permissions; an invalid address; its driver
        cause = without_secrets(str(error), [source])
        raise SourceError(f"source {shown!r} cannot be read: {cause}; give a folder of videos or a manifest") from error
    except OSError as error:
        raise _outage(shown, error) from error
    if is_folder:
        folder = local_path(source) or source.rstrip("/")
        search = search_folder(fs, path, shown)
        return _Entries([*search.rejects, *_folder_entries(search, folder)], folder, search.skipped)
    if not path.lower().endswith(LIST_SUFFIXES):
        raise SourceError(f"source {shown!r}: not a folder, and not a .csv, .json or .jsonl manifest")
    try:
        with outages(shown):
            data = web.read(source, access.private) if fs is None else fs.cat_file(path)
    except (PermissionError, FileNotFoundError) as error:
        raise SourceError(f"manifest {shown!r} cannot be read: {without_secrets(str(error), [source])}") from error
    except OSError as error:
        raise _outage(shown, error) from error
    folder = media_folder(source, media_root)
    return _Entries(list(_list_entries(data, fs, path, shown, folder)), folder)


def _folder_entries(search: Search, folder: str) -> Iterator[_Entry | Reject]:
    facts_of = {name.removesuffix(FACTS_SUFFIX): f"{folder.rstrip('/')}/{name}" for name in search.facts}
    stems = set()
    for name in search.names:
        address = f"{folder.rstrip('/')}/{name}"
        stem = name.removesuffix(PurePosixPath(name).suffix)
        stems.add(stem)
        try:
            yield _Entry(ManifestRow(uri=name), address, address, facts_of.get(stem, ""), is_found=True)
        except ValidationError:
            yield plan_reject(name, "unreadable_uri", f"{address}: its name is not UTF-8; rename the file")
    for stem, address in facts_of.items():
        if stem not in stems:
            message = f"{address}: its video, such as {stem}.mp4, is not next to it; restore it, or remove the facts"
            yield plan_reject(f"{stem}{FACTS_SUFFIX}", "facts_without_video", message)


def _list_entries(data: bytes, fs: Any | None, path: str, shown: str, folder: str) -> Iterator[_Entry | Reject]:
    videos = read_activitynet(data)
    rows = read_list(data, shown) if videos is None else []
    if videos is not None:
        entries = activitynet_entries(videos, shown, folder)
    elif not is_shot2story(rows):
        entries = manifest_entries(rows, shown)
    elif fs is not None:
        entries = shot2story_entries(fs, path, rows, folder)
    else:
        raise SourceError(f"source {shown!r}: copy Shot2Story's annotations and its *_meta.csv to a folder")
    for entry in entries:
        if isinstance(entry, Reject):
            yield entry
        else:
            address = _address(entry.uri, folder)
            facts = _address(entry.facts, folder) if isinstance(entry.facts, str) else ""
            yield _Entry(entry, address, stored_uri(address, folder), facts)


def _address(uri: str, folder: str) -> str:
    """Full address of a list's entry: an absolute path or a URL."""
    if is_address(uri):
        return local_path(uri) or uri.strip()
    whole = uri if uri.startswith("/") else f"{folder.rstrip('/')}/{uri}"
    return local_path(whole) or whole


def _resolve(found: _Entries, access: Access, ids: SourceIds, store: Store | None) -> Listing:
    with ThreadPoolExecutor(max_workers=_CONCURRENT_CHECKS) as pool:
        resolved = list(pool.map(lambda entry: _source(entry, found.folder, access, ids, store), found.entries))
    sources: dict[str, Source] = {}
    rejects: list[Reject] = []
    for each in resolved:
        if isinstance(each, Reject):
            rejects.append(each)
        elif each.source_id in sources:
            message = (
                f"{shown_uri(each.uri)}: its id {each.source_id!r} is already that of "
                f"{shown_uri(sources[each.source_id].uri)}; the first "
                f"one is used. Give one of them another source_id"
            )
            rejects.append(plan_reject(each.source_id, "duplicate_id", message))
        else:
            sources[each.source_id] = each
    return Listing(tuple(sources[name] for name in sorted(sources)), tuple(rejects), found.skipped)


def _source(
    entry: _Entry | Reject, folder: str, access: Access, ids: SourceIds, store: Store | None
) -> Source | Reject:
    """Turn an entry into a source if its files exist, else into a reject that says why it cannot be used."""
    if isinstance(entry, Reject):
        return entry
    identifier = entry.row.source_id or ids.id_of(path_in(folder, entry.uri))
    found = _open(entry.address, entry, identifier, access, fingerprint)
    if isinstance(found, Reject):
        return found
    known = _read_facts(entry, identifier, access)
    if isinstance(known, Reject):
        return known
    fields = entry.row.model_dump(exclude={"uri", "source_id", "annotations", "facts"})
    return Source(
        source_id=identifier,
        uri=entry.uri,
        fingerprint=found,
        annotations=(*entry.row.annotations, *known.annotations),
        facts_uri=None if known.facts is None else put_facts(known.facts, store),
        redacted=entry.uri != entry.address,
        **fields,
    )


def _read_facts(entry: _Entry, identifier: str, access: Access) -> FactsFile | Reject:
    """What an entry's file of facts holds, or the entry's own facts."""
    if not entry.facts:
        return FactsFile(facts=None if isinstance(entry.row.facts, str) else entry.row.facts)
    found = _open(entry.facts, entry, identifier, access, read_facts_file)
    if isinstance(found, Reject):
        return found
    try:
        return parse_json(found, FactsFile, shown_uri(entry.facts))
    except SchemaError as error:
        return plan_reject(identifier, "facts", f"{error}; correct the file")


def _open(
    uri: str, entry: _Entry, identifier: str, access: Access, read: Callable[[str, Iterable[str]], F]
) -> F | Reject:
    """What `read` gives for a file of an entry, or a reject if the file cannot be used."""
    shown = shown_uri(uri)
    if not entry.is_found and (refusal := access.refusal(uri)):
        return plan_reject(identifier, "not_allowed", f"{shown} {refusal}, or drop its row")
    try:
        if store := _store_of(uri):
            message = f"{shown} is a part of what a build has made in {store}; name the videos that were built from"
            return plan_reject(identifier, "build_output", message)
        with outages(uri):
            return read(uri, access.private)
    except FileNotFoundError:
        if is_place_there(uri, access.roots):
            return plan_reject(
                identifier, "missing_file", f"{shown}: no such file; restore it, or take it out of the source"
            )
        message = f"{shown}: no such file, and its folder or bucket is missing or empty; mount it, or take the file out"
        return plan_reject(identifier, "unreachable", f"{message} of the source")
    except StoreError as error:
        if entry.is_found:  # the source itself no longer answers
            raise
        return plan_reject(identifier, "unreachable", f"{error}, or take it out of the source")
    except (OSError, ValueError, ImportError) as error:  # permissions; an invalid address; its driver is not installed
        if entry.is_found and getattr(error, "errno", None) in READ_ERRORS:
            raise _outage(shown, error) from error
        cause = without_secrets(str(error), [uri]).removeprefix(f"{shown}: ")
        message = f"{shown!r} cannot be read: {cause}; correct the address or its rights, or take it out of the source"
        return plan_reject(identifier, "unreadable_uri", message)


def _outage(shown: str, error: BaseException) -> Outage:
    return Outage(
        f"{shown!r} cannot be read ({getattr(error, 'strerror', None) or error}), and a build without it would replace "
        f"one with it; run it again when its disk or mount answers"
    )


def _store_of(uri: str) -> str | None:
    """The store that the file at an address belongs to, also through a link; None if there is none."""
    if web.site_of(uri):
        return None
    fs, path = locate(uri)
    return store_containing(fs, os.path.realpath(path) if isinstance(fs, LocalFileSystem) else path)
