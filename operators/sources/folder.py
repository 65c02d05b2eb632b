"""Searches a folder for videos, and counts what it skips, so that nothing is dropped silently.

A subfolder that cannot be read is an error: a build of the rest would replace a larger one. Hidden folders, folders of
operating systems and storage servers, and the output of builds are not searched.
"""

from __future__ import annotations

import errno
import os
import re
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from fsspec.asyn import AsyncFileSystem
from fsspec.implementations.local import LocalFileSystem

from operators.sources.rejects import plan_reject
from operators.store.content_store import store_containing
from schemas.errors import BadInput, Outage, SourceError
from schemas.storage import locate, outages
from schemas.tables import Reject
from schemas.uri import shown_uri, without_secrets

VIDEO_SUFFIXES = frozenset(
    {
        ".3g2", ".3gp", ".asf", ".avi", ".divx", ".dv", ".f4v", ".flv", ".gif", ".ivf", ".m2t", ".m2ts", ".m4v", ".mj2",
        ".mk3d", ".mkv", ".mov", ".mp4", ".mpe", ".mpeg", ".mpg", ".mts", ".mxf", ".nut", ".ogm", ".ogv", ".qt", ".rm",
        ".rmvb", ".ts", ".vob", ".webm", ".wmv", ".wtv",
    }
)  # fmt: skip
"""Usual suffixes of the containers that a build opens (`operators.video.decode.ffmpeg.CONTAINERS`)."""

FACTS_SUFFIX = ".facts.json"
"""A file of this suffix holds the facts about the video next to it: `NAME.facts.json` those about `NAME.mp4`."""

_MEDIA_SUFFIXES = (".mp4", ".webm", ".mkv")
"""Suffixes in order of preference, for two videos with the same name."""

_SYSTEM_FOLDERS = frozenset(
    {
        "lost+found", "$recycle.bin", "recycler", "system volume information", "__macosx",
        "@eadir", "@recycle", "@recently-snapshot", "#recycle", "#snapshot", "~snapshot",
    }
)  # fmt: skip
"""Names in lower case: folders of Linux, Windows and macOS, trash and snapshots of Synology, QNAP and NetApp."""

_UNFINISHED_STEM = re.compile(
    r"\.(f\d{2,4}|f(hls|dash|https?|rtmp)[^.]*)(-[^.]*)?$"  # yt-dlp: a single format, video without audio
    r"|\.(temp|tmp|part|partial|crdownload)$"  # yt-dlp, browsers
    r"|^[0-9a-f]{32}-[0-9a-f]{64}$",  # a store's temporary file
    re.IGNORECASE,
)
_UNFINISHED_SUFFIX = re.compile(
    r"\.(part(-frag\d+)?|frag\d*|ytdl|crdownload|download|opdownload|partial|filepart|aria2|!ut|!qb)$", re.IGNORECASE
)

_HIDDEN = "hidden files and folders"
_OUTPUT = "folders of a build's output"
_UNFINISHED = "unfinished downloads"
_OTHERS = "other files"
_COUNTED_KINDS = 20


@dataclass
class Search:
    """Result of a search below a folder. Names are paths relative to it."""

    names: list[str] = field(default_factory=list)
    """Files that are videos by their name, sorted."""
    facts: list[str] = field(default_factory=list)
    """Files of facts about videos by their name, sorted."""
    rejects: list[Reject] = field(default_factory=list)
    """Rejects of files that are unfinished downloads by their name."""
    skipped: Counter[str] = field(default_factory=Counter)
    """Number of skipped files and folders by kind, such as `.txt files`."""


def search_folder(fs: Any, root: str, source: str) -> Search:
    """Find the videos below a folder and its linked folders. Each folder is searched once.

    Args:
        root: the folder's path in `fs`.
        source: the folder's address, for error messages.

    Raises:
        SourceError: a folder below it may not be read, or it is itself in the output of a build.
        Outage: a folder below it cannot be read at the moment.
    """
    is_local = isinstance(fs, LocalFileSystem)
    if store := store_containing(fs, os.path.realpath(root) if is_local else root):
        raise SourceError(
            f"source {source!r} lies in the output of a build, {store!r}, whose clips are not source videos; "
            f"give the folder of the videos that were built from"
        )
    search = Search()
    found = sorted((_list_local if is_local else _list_remote)(fs, root, source, search.skipped))
    there = set(found)
    for name in found:
        file_name = PurePosixPath(name.rpartition("/")[2].strip())
        if file_name.suffix.lower() in VIDEO_SUFFIXES:
            if _UNFINISHED_STEM.search(file_name.stem) or f"{name}.aria2" in there:
                path = f"{root}/{name}"
                message = (
                    f"{path!r} is named as an unfinished download; finish it, or rename the file if it is complete"
                )
                search.rejects.append(plan_reject(name, "unfinished_download", message))
            else:
                search.names.append(name)
        elif name.endswith(FACTS_SUFFIX):
            search.facts.append(name)
        elif is_local and not file_name.suffix and _leads_nowhere(Path(root, name)):
            search.names.append(name)
        else:
            search.skipped[_kind(file_name)] += 1
    for kind, count in search.skipped.most_common()[_COUNTED_KINDS:]:
        del search.skipped[kind]
        search.skipped[_OTHERS] += count
    return search


def media_names(media_root: str) -> dict[str, str]:
    """File names of the videos in a folder, by their name without its suffix.

    Raises:
        SourceError: the folder cannot be listed.
    """
    try:
        fs, folder = locate(media_root)
        names = sorted(PurePosixPath(found["name"]) for found in fs.ls(folder, detail=True))
    except (FileNotFoundError, NotADirectoryError, PermissionError, ValueError, ImportError) as error:
        shown, cause = shown_uri(media_root), without_secrets(str(error), [media_root])
        raise SourceError(
            f"media_root {shown!r} cannot be listed: {cause}; set media_root to the folder of the full videos"
        ) from error
    return {
        name.stem: name.name for suffix in reversed(_MEDIA_SUFFIXES) for name in names if name.suffix.lower() == suffix
    }


def _list_local(fs: Any, root: str, source: str, skipped: Counter[str]) -> Iterator[str]:
    folders = deque([root])
    seen: set[str] = set()
    while folders:  # links come last, so that files reached in two ways keep the direct path
        folder = folders.popleft()
        if (real := os.path.realpath(folder)) in seen:
            continue
        seen.add(real)
        if store_containing(fs, real):
            skipped[_OUTPUT] += 1
            continue
        for entry in _entries(folder, source):
            if _is_hidden(entry.name):
                skipped[_HIDDEN] += 1
            elif not _is_folder(entry, source):
                yield entry.path[len(root.rstrip("/")) + 1 :]
            elif entry.is_symlink():
                folders.append(entry.path)
            else:
                folders.appendleft(entry.path)


def _entries(folder: str, source: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise _unreadable(folder, source, error) from error


def _is_folder(entry: os.DirEntry[str], source: str) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:  # of a link's target
        if error.errno == errno.ELOOP:
            return False
        raise _unreadable(entry.path, source, error) from error


def _leads_nowhere(path: Path) -> bool:
    """Whether a path is a broken link, which may have been a folder of videos on a disk that is not mounted."""
    return path.is_symlink() and not path.exists()


def _list_remote(fs: Any, root: str, source: str, skipped: Counter[str]) -> Iterator[str]:
    is_output = cache(lambda folder: store_containing(fs, folder) is not None)
    skipped_kinds: dict[str, str] = {}
    for path in _remote_paths(fs, root, source):
        if not path.startswith(f"{root}/") or path.endswith("/"):  # another site's page; an object that marks a folder
            continue
        name = path[len(root) + 1 :]
        parts = name.split("/")
        hidden = next((depth for depth, part in enumerate(parts, start=1) if _is_hidden(part)), 0)
        if hidden:
            skipped_kinds["/".join(parts[:hidden])] = _HIDDEN
        elif is_output(folder := path.rpartition("/")[0]):
            skipped_kinds[folder] = _OUTPUT
        else:
            yield name
    skipped.update(skipped_kinds.values())


def _remote_paths(fs: Any, root: str, source: str) -> list[str]:
    folders, paths = [root], []
    try:
        with outages(source):
            if getattr(type(fs), "_find", AsyncFileSystem._find) is not AsyncFileSystem._find:
                return fs.find(root)  # an object store, where folders are only parts of names
            for folder in folders:  # not the recursive listing, which takes an unreadable folder for an empty one
                for found in fs.ls(folder, detail=True):
                    if found["type"] == "directory" and found["name"].startswith(f"{folder}/"):
                        folders.append(found["name"].rstrip("/"))
                    else:
                        paths.append(found["name"])
    except BadInput:
        raise
    except OSError as error:
        raise _unreadable(str(error.filename or root), source, error) from error
    return paths


def _is_hidden(name: str) -> bool:
    return (name.startswith(".") and name not in (".", "..")) or name.casefold() in _SYSTEM_FOLDERS


def _unreadable(folder: str, source: str, error: OSError) -> SourceError | Outage:
    problem = f"source {source!r}: {folder!r} cannot be read ({error.strerror or error})"
    if isinstance(error, PermissionError):
        return SourceError(f"{problem}; give the build the right to read it, or move it out of the source")
    return Outage(f"{problem}, and a build without its videos would replace one with them; run it again")


def _kind(file_name: PurePosixPath) -> str:
    if _UNFINISHED_SUFFIX.search(file_name.name):
        return _UNFINISHED
    suffix = file_name.suffix.lower()
    if not suffix:
        return "files without a suffix"
    return f"{suffix} files" if re.fullmatch(r"\.\w{1,12}", suffix) else _OTHERS
