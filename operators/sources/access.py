"""Checks which addresses a build may open, and opens them.

A list of videos may name files below its own folder, bucket, repository or site, or below `media_root`. All other
addresses must be below one of the build's `allowed_roots`. So a list from elsewhere can neither read other files of the
machine nor send requests to other servers. Links inside these folders are followed: they are the user's own. Chains of
fsspec addresses (`zip://…::https://…`) are never opened.

Credentials of an address are not stored. If a list's own address has some, a stage that opens the video reads the list
again (`SourceFiles.addresses`).
"""

from __future__ import annotations

import errno
import hashlib
import os
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.parse import unquote

from fsspec.implementations.local import LocalFileSystem

from operators.sources import web
from operators.sources.manifest import LIST_SUFFIXES
from operators.store.content_store import SourceUnavailable, download, sha256_of_file, space_problem
from schemas.errors import BadInput, SourceError
from schemas.storage import StoreError, locate, outages
from schemas.tables import Source, Video
from schemas.uri import is_address, is_chain, redacted_uri, shown_uri, without_secrets

_SAME_SCHEME = {"local": "file", "s3a": "s3", "gcs": "gs"}

_WITH_USER = frozenset({"s3", "gs", "ftp", "ftps", "sftp", "ssh", "smb", "hdfs", "webhdfs"})
"""Schemes where `user@` before a host or bucket names the reading user. Elsewhere it names what is read, such as a
container (`abfs://container@account`) or a repository (`github://org:repo@branch`)."""

_ROOT = re.compile(
    r"hf://((datasets|spaces|models|kernels|buckets)/)?[^/]+(/[^/@]+)?"  # a repository, in any revision
    r"|s3a?://arn:[^/]*/[^/]*"  # an access point
    r"|(az|abfss?|wasbs?)://((:[^/]*)?@)?[^/@]*\.[^/@]*/+[^/]+"  # a container, after its account's host
    r"|[^:]+://([^/]+|/?)",  # a bucket, a container of an account, a site
    re.IGNORECASE,
)

_WITH_DEFAULT_HOST = frozenset({"hdfs", "dbfs", "memory"})
"""Schemes where an address without a host (`hdfs:///films`) names the configured server. Drivers of object stores take
the first segment of such a path for the bucket, so that it would grant all buckets."""


class _Place(NamedTuple):
    scheme: str
    site: str
    """Host and port, bucket, or container; empty for local files and for addresses that name none."""
    path: str
    """Path without a trailing slash."""


@dataclass(frozen=True)
class Access:
    """Addresses that may be opened: all below these folders, prefixes, buckets, sites or schemes (`https://`)."""

    roots: tuple[str, ...]

    @classmethod
    def of(cls, source: str, media_root: str = "", allowed_roots: Iterable[str] = ()) -> Access:
        """The access of a build with this source: its own folder, bucket, repository or site, and the allowed roots.

        Raises:
            SourceError: the source or media_root names no bucket or host.
        """
        for name, address in (("source", source), ("media_root", media_root)):
            if not _has_site(_place(address)):
                raise SourceError(
                    f"{name} {shown_uri(address)!r} names no bucket, or no valid host and port; write them after "
                    f"'://', as in s3://bucket/list.csv"
                )
        own = source
        if is_address(source) and _place(source).scheme != "file":
            own = _ROOT.match(source.strip())[0]  # type: ignore[index]  # every address matches
        elif source.lower().endswith(LIST_SUFFIXES) and not os.path.isdir(_place(source).path):  # noqa: PTH112
            own = posixpath.dirname(_place(source).path)
        # One more slash, as only an allowed root stands for a whole scheme.
        given = (f"{root.strip()}/" if _is_whole_scheme(root) else root for root in (own, media_root) if root)
        return cls((*given, *allowed_roots))

    @cached_property
    def private(self) -> frozenset[str]:
        """Sites (`host:port`) that may have addresses on a private network, because a root names them."""
        return frozenset(filter(None, map(web.site_of, self.roots)))

    def refusal(self, uri: str) -> str | None:
        """The reason why an address may not be opened, as text for a message; None if it may be opened."""
        if is_chain(uri):
            return "chains of addresses are not opened; fetch the file and give its own address"
        if not local_path(uri) and _climbs(uri):
            return "has a segment '..', which may lead out of what a build may open; give the address that it leads to"
        place = _place(uri)
        if any(_is_below(place, root) for root in self.roots):
            return None
        roots = ", ".join(map(shown_uri, self.roots))
        return f"lies outside of what this build may open ({roots}); add its folder, bucket or site to allowed_roots"


def _is_below(place: _Place, address: str) -> bool:
    """Whether a place is below the root at this address. `scheme://` alone is a root of everything in that scheme."""
    root = _place(address)
    if place.scheme != root.scheme:
        return False
    if _is_whole_scheme(address):
        return True
    below = (f"{root.path}/", f"{root.path}@") if root.scheme == "hf" else f"{root.path}/"  # `name@revision`
    is_same_site = place.site == root.site and _has_site(root)
    return is_same_site and (place.path == root.path or place.path.startswith(below))


def _is_whole_scheme(address: str) -> bool:
    return not local_path(address) and re.fullmatch(r"[^:/]+://", address.strip()) is not None


def _has_site(place: _Place) -> bool:
    return bool(place.site) or place.scheme == "file" or place.scheme in _WITH_DEFAULT_HOST


def _climbs(uri: str) -> bool:
    """Whether a remote address has a segment `..`.

    Some clients and servers resolve it, others take it for a name. Drivers that read addresses with Python's `urlsplit`
    drop tabs, line ends and what follows `?`.
    """
    path = re.sub(r"[\t\r\n]", "", uri.partition("://")[2])
    if web.site_of(uri.strip()):
        path = re.split("[?#]", path, maxsplit=1)[0]
    return ".." in re.split(r"[/\\?#]", unquote(path))


def _place(uri: str) -> _Place:
    if path := local_path(uri):
        return _Place("file", "", path.rstrip("/"))
    scheme, _, rest = uri.strip().partition("://")
    scheme = _SAME_SCHEME.get(scheme.lower(), scheme.lower())
    site, _, path = rest.partition("/")
    if scheme in ("http", "https"):
        site, path = web.site_of(uri.strip()), unquote(re.split("[?#]", path, maxsplit=1)[0])
    elif scheme in _WITH_USER:
        site = re.split("[?#]", site, maxsplit=1)[0].rpartition("@")[2]  # drivers take `evil` of `evil#@host`
    return _Place(scheme, site.lower(), posixpath.normpath(f"/{path}").rstrip("/"))


def local_path(uri: str) -> str:
    """Absolute path of a local file's address, without `..`. Links are not followed; empty for other addresses."""
    found = re.fullmatch(r"\s*(?:file|local)://(?P<path>.*)", uri, re.DOTALL | re.IGNORECASE)
    if found is None and is_address(uri):
        return ""
    return os.path.abspath(found["path"] if found else uri)  # noqa: PTH100 - `resolve` would follow links


def stored_uri(address: str, folder: str) -> str:
    """Reduce a video's address to what is stored: the address without credentials.

    Args:
        folder: folder of the source. Paths below it (except on a web server), local paths and keys of a bucket are
            plain names, in which no character has a special meaning. They are stored unchanged.
    """
    scheme, _, rest = address.partition("://")
    bucket = rest.partition("/")[0]
    has_user = "@" in bucket or (":" in bucket and not bucket.startswith("arn:"))
    is_key = scheme.lower() in ("s3", "s3a", "gs", "gcs") and not has_user
    is_name = address.startswith(f"{folder.rstrip('/')}/") and not web.site_of(address)
    return address if local_path(address) or is_key or is_name else redacted_uri(address)


def fingerprint(uri: str, private: Iterable[str] = ()) -> str:
    """A text that changes when a file does: its size, with its modification time or the server's ETag.

    The signature of an address is not part of it.

    Raises:
        FileNotFoundError, IsADirectoryError: there is no file at that address.
        OSError: the file cannot be read; messages of `operators.sources.web` name the address and what to do.
    """
    if web.site_of(uri):
        size, stamp = web.size_and_stamp(uri, frozenset(private))
        return f"{size}-{stamp}"
    fs, path = locate(uri)
    info = fs.info(path)
    if info["type"] != "file":
        raise IsADirectoryError(f"is a {info['type']}, not a file; list the videos in it one by one")
    if isinstance(fs, LocalFileSystem) and not os.access(path, os.R_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
    stamp = info.get("ETag") or info.get("etag") or info.get("mtime") or info.get("LastModified") or ""
    return f"{info['size']}-{stamp}"


@dataclass(frozen=True)
class SourceFiles:
    """Opens the source videos of a plan."""

    private: frozenset[str] = frozenset()
    """Sites on a private network that a redirect may lead to, see `Access.private`."""
    addresses: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Full addresses by source id, for sources whose stored address lacks credentials. Never stored, never shown."""
    roots: tuple[str, ...] = field(default=(), repr=False)
    """Folders, buckets and sites that hold the videos, see `Access.roots`."""

    def fingerprint(self, source: Source) -> str:
        """Fingerprint of the file as it is now.

        Raises:
            SourceUnavailable: `missing_file` if there is no such file; `system_error` if it may not be read, or if its
            folder,
                bucket or server is unavailable, refuses access or sends an incomplete answer.
            OSError: the local disk is full.
        """
        address = self.addresses.get(source.source_id, source.uri)
        with self._explain_errors(source.uri, address), outages(address):
            return fingerprint(address, self.private)

    def fetch(self, source_id: str, uri: str, folder: Path) -> Path:
        """Return a local path of a video. A remote video is downloaded into the folder.

        Raises:
            SourceUnavailable, OSError: see `fingerprint`.
        """
        address = self.addresses.get(source_id, uri)
        with self._explain_errors(uri, address):
            fs, path = (None, address) if web.site_of(address) else locate(address)
            if isinstance(fs, LocalFileSystem):
                if not Path(path).is_file():
                    raise FileNotFoundError("there is no such file")
                if not os.access(path, os.R_OK):
                    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
                return Path(path)
            local = folder / _local_name(source_id, uri)
            if local.exists():
                return local
            if fs is None:
                web.download(address, local, self.private)
            else:
                with outages(shown_uri(uri)):
                    download(fs, path, local)
            return local

    def fetch_video(self, video: Video, folder: Path) -> Path:
        """Return a local path of the file that `ingest` has read. A remote file is downloaded into the folder.

        Raises:
            SourceUnavailable: with reason `source_changed`, the file has other bytes now; for others see `fingerprint`.
            OSError: see `fingerprint`.
        """
        local = self.fetch(video.video_id, video.uri, folder)
        if sha256_of_file(local) != video.sha256:
            message = f"{shown_uri(video.uri)} has changed since it was ingested; run the build again"
            raise SourceUnavailable("source_changed", message)
        return local

    @contextmanager
    def _explain_errors(self, uri: str, address: str) -> Iterator[None]:
        shown = shown_uri(uri)
        try:
            yield
        except (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError) as error:
            cause = without_secrets(str(error), [address]).removeprefix(f"{shown}: ")
            if isinstance(error, PermissionError):
                fix = "correct the rights or the credentials"
            elif is_place_there(address, self.roots):
                raise SourceUnavailable("missing_file", f"{shown}: {cause}; restore it and run again") from None
            else:
                fix = "its folder, bucket or server is missing or empty: mount it or correct the address"
            raise SourceUnavailable("system_error", f"{shown}: {cause}; {fix}, the next run tries again") from None
        except (OSError, StoreError, BadInput) as error:  # S3 also answers Bad Request for expired credentials
            if isinstance(error, OSError) and space_problem(error, shown):
                raise
            cause = without_secrets(str(error), [address]).removeprefix(f"{shown}: ")
            raise SourceUnavailable("system_error", f"{shown}: {cause}; the next run tries again") from None


def is_place_there(address: str, roots: Iterable[str]) -> bool:
    """Whether the folder, bucket or server of a missing file is there, so that only the file is missing.

    An empty folder may be the mount point of a disk that is not mounted. A missing folder was removed if the next
    folder above it, in the same root, is there.
    """
    if web.site_of(address):
        return True  # it answered that there is no such file
    fs, path = locate(address)
    if not isinstance(fs, LocalFileSystem):
        place = _ROOT.match(address.strip())
        try:
            with outages(address):
                return place is not None and fs.exists(fs._strip_protocol(place[0]))
        except (OSError, StoreError, BadInput):
            return False
    own = {Path(os.path.realpath(found)) for root in roots if (found := local_path(root))}
    for folder in Path(os.path.realpath(path)).parents:
        try:
            with os.scandir(folder) as entries:
                return any(True for _ in entries)
        except (FileNotFoundError, NotADirectoryError):
            if not own & set(folder.parents):
                return False
        except OSError:
            return False
    return False


def _local_name(source_id: str, uri: str) -> str:
    """Hashed name for a download: file names may be equal in two sources, or too long for the local disk."""
    suffix = PurePosixPath(uri).suffix
    return hashlib.sha256(f"{source_id} {uri}".encode()).hexdigest()[:16] + (
        suffix if re.fullmatch(r"\.\w{1,8}", suffix) else ""
    )
