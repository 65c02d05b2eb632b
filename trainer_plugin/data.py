"""Reads a published release, local or remote, in a fixed order.

Samples alone come from the Parquet tables; samples with their videos come from the tars, either one after another, a
video's bytes read once for all its questions, or as an index that says where in the tars each video lies. Nothing is
skipped silently: a file is an error that names it when its length in bytes or, for tars, its number of records is not
the manifest's. Hashes are not compared: that would read every video.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import fsspec
from pydantic import ValidationError

from schemas.arrow import rows_from_parquet
from schemas.errors import BadInput, SchemaError
from schemas.run import Release, ReleaseFile
from schemas.sample import Sample, WebDatasetRecord
from schemas.tables import Split
from trainer_plugin.examples import VideoSource

_INDEXERS = 16
"""Tars whose headers are read at a time: on remote storage that is waiting, not work."""

_HEADER_BYTES = 64 << 10
"""Read-ahead while only headers and records are read: a header, a record and the next header are often within it."""


@dataclass(frozen=True)
class VideoSamples:
    """One video with everything asked about it."""

    record: WebDatasetRecord
    video: bytes | None
    """The MP4 file; None in a release without media."""


@dataclass(frozen=True)
class IndexedVideo:
    """One video with everything asked about it, and where its bytes are."""

    record: WebDatasetRecord
    source: VideoSource


def open_release(url: str) -> Release:
    """The manifest of a release, `{out}/releases/{name}/v0001`.

    Raises:
        BadInput: there is no manifest at that address.
        SchemaError: it is not one that this version can read.
    """
    address = _address(url, "manifest.json")
    try:
        with fsspec.open(address, "rb") as file:
            return Release.model_validate_json(file.read())
    except FileNotFoundError:
        raise BadInput(f"{address}: no such file; a release's address ends in /releases/<name>/v<version>") from None
    except ValidationError as error:
        raise SchemaError(f"{address}: not a release manifest: {error}") from error


def read_samples(url: str, split: Split) -> list[Sample]:
    """All samples of a split, in the order in which the tars hold them.

    Raises:
        BadInput: there is no such split.
        SchemaError: a file is gone, of another length than the manifest says, or a row does not fit.
    """
    return [
        sample
        for file in _files(url, split, "parquet/")
        for sample in rows_from_parquet(_read(url, file), Sample, _address(url, file.path))
    ]


def read_videos(url: str, split: Split, *, part: int = 0, parts: int = 1) -> Iterator[VideoSamples]:
    """The videos of a split with their samples, streamed from the tars.

    Args:
        part, parts: read only every `parts`-th video, beginning with number `part`: one share for each data-parallel
            rank and worker. Shares differ by at most one video.

    Raises:
        SchemaError: a tar is gone, of another length or with another number of records than the manifest says, or a
            record does not fit.
    """
    number = 0
    for file in _files(url, split, "data/"):
        records = 0
        for found in _records(url, file):
            if number % parts == part:
                yield found
            number += 1
            records += 1
        if records != file.videos:
            address = _address(url, file.path)
            raise SchemaError(f"{address}: {records} records, the manifest says {file.videos}; copy it again")


def index_videos(url: str, split: Split, media: str | None = None) -> list[IndexedVideo]:
    """The videos of a split with their samples, in the order of the tars; of the videos only the tar headers are read.

    Args:
        media: folder or URL with the videos of a release that was published without media, named as `Sample.videos`.

    Raises:
        BadInput: the release has no media, and none was given; or it has, and some was given.
        SchemaError: as in `read_videos`.
    """
    files = _files(url, split, "data/")
    with ThreadPoolExecutor(min(_INDEXERS, len(files))) as pool:
        return [found for tar in pool.map(lambda file: _index(url, file, media), files) for found in tar]


def _files(url: str, split: Split, folder: str) -> list[ReleaseFile]:
    release = open_release(url)
    found = [file for file in release.files if file.split == split and file.path.startswith(folder)]
    if not found:
        raise BadInput(f"{url}: no split {split!r} under {folder}; it has {sorted(release.samples)}")
    return found


def _read(url: str, file: ReleaseFile) -> bytes:
    with _opened(url, file) as opened:
        return opened.read()


@contextmanager
def _opened(url: str, file: ReleaseFile, **options: Any) -> Iterator[IO[bytes]]:
    """A file of the release.

    Args:
        options: of fsspec's `open`.

    Raises:
        SchemaError: it is gone, or of another length than the manifest says.
    """
    address = _address(url, file.path)
    filesystem, path = fsspec.core.url_to_fs(address)
    try:
        opened = filesystem.open(path, "rb", **options)
    except FileNotFoundError:
        raise SchemaError(f"{address}: no such file, though the manifest names it; copy it again") from None
    with opened:
        if (found := opened.seek(0, io.SEEK_END)) != file.bytes:
            raise SchemaError(f"{address}: {found} bytes, the manifest says {file.bytes}; copy it again")
        opened.seek(0)
        yield opened


def _address(url: str, path: str) -> str:
    """Two slashes would be another object on S3."""
    return f"{url.rstrip('/')}/{path}"


def _records(url: str, file: ReleaseFile) -> Iterator[VideoSamples]:
    address = _address(url, file.path)
    with _opened(url, file) as stream:
        try:
            yield from _members(stream, address)
        except tarfile.TarError as error:
            raise SchemaError(f"{address}: damaged tar ({error}); copy it again") from error


def _index(url: str, file: ReleaseFile, media: str | None) -> list[IndexedVideo]:
    address = _address(url, file.path)
    found: list[IndexedVideo] = []
    video: VideoSource | None = None
    try:
        with _opened(url, file, block_size=_HEADER_BYTES) as opened, tarfile.open(fileobj=opened) as tar:
            for member in tar:
                key, _, suffix = member.name.partition(".")
                if suffix != "json":
                    video = VideoSource(key, address, member.offset_data, member.size)
                    continue
                record = _record(_content(tar, member, address), key, video.key if video else None, member, address)
                found.append(IndexedVideo(record, _source(record, video, media, address)))
                video = None
    except tarfile.TarError as error:
        raise SchemaError(f"{address}: damaged tar ({error}); copy it again") from error
    if len(found) != file.videos:
        raise SchemaError(f"{address}: {len(found)} records, the manifest says {file.videos}; copy it again")
    return found


def _source(record: WebDatasetRecord, inside: VideoSource | None, media: str | None, address: str) -> VideoSource:
    if inside is not None and media is not None:
        raise BadInput(f"{address}: it holds its videos, but {media} was given for them; leave that out")
    if inside is not None:
        return inside
    if media is None:
        raise BadInput(f"{address}: this release holds no videos; say where they are (media)")
    return VideoSource(record.video_id, f"{media.rstrip('/')}/{record.samples[0].videos}")


def _members(stream: IO[bytes], address: str) -> Iterator[VideoSamples]:
    """Pairs up a tar's members: the video comes first, if there is one, then the record that closes the sample."""
    video: tuple[str, bytes] | None = None
    with tarfile.open(fileobj=stream, mode="r|") as tar:
        for member in tar:
            key, _, suffix = member.name.partition(".")
            content = _content(tar, member, address)
            if suffix != "json":
                video = (key, content)
                continue
            record = _record(content, key, video[0] if video else None, member, address)
            yield VideoSamples(record, video[1] if video else None)
            video = None


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo, address: str) -> bytes:
    opened = tar.extractfile(member)
    assert opened is not None, f"{address}: {member.name} is not a file"
    return opened.read()


def _record(content: bytes, key: str, beside: str | None, member: tarfile.TarInfo, address: str) -> WebDatasetRecord:
    try:
        record = WebDatasetRecord.model_validate_json(content)
    except ValidationError as error:
        raise SchemaError(f"{address}: member {member.name} is not a record: {error}") from error
    if record.video_id != key or beside not in (key, None):
        raise SchemaError(
            f"{address}: {member.name} is of {record.video_id}, beside {beside or 'no video'}; copy it again"
        )
    return record
