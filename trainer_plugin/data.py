"""Reads a published release, local or remote, in a fixed order.

Samples alone come from the Parquet tables; samples with their videos come from the tars, one video at a time: a
record's bytes are read once and serve all its questions. Nothing is skipped silently: a file that does not match the
manifest is an error that names it.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

import fsspec
from pydantic import ValidationError

from schemas.arrow import rows_from_parquet
from schemas.errors import BadInput, SchemaError
from schemas.run import Release, ReleaseFile
from schemas.sample import Sample, WebDatasetRecord
from schemas.tables import Split


@dataclass(frozen=True)
class VideoSamples:
    """One video with everything asked about it."""

    record: WebDatasetRecord
    video: bytes | None
    """The MP4 file; None in a release without media."""


def open_release(url: str) -> Release:
    """The manifest of a release, `{out}/releases/{name}/v0001`.

    Raises:
        BadInput: there is no manifest at that address.
        SchemaError: it is not one that this version can read.
    """
    address = f"{url.rstrip('/')}/manifest.json"
    try:
        with fsspec.open(address, "rb") as file:
            return Release.model_validate_json(file.read())
    except FileNotFoundError:
        raise BadInput(f"{address}: no such file; a release's address ends in /releases/<name>/v<version>") from None
    except ValidationError as error:
        raise SchemaError(f"{address}: not a release manifest: {error}") from error


def read_samples(url: str, split: Split) -> list[Sample]:
    """All samples of a split, in the order in which the tars hold them."""
    return [
        sample
        for file in _files(url, split, "parquet/")
        for sample in rows_from_parquet(_read(url, file), Sample, f"{url}/{file.path}")
    ]


def read_videos(url: str, split: Split, *, part: int = 0, parts: int = 1) -> Iterator[VideoSamples]:
    """The videos of a split with their samples, streamed from the tars.

    Args:
        part, parts: read only every `parts`-th video, beginning with number `part`: one share for each data-parallel
            rank and worker. Shares differ by at most one video.

    Raises:
        SchemaError: a tar ends early, holds another number of records than the manifest says, or a record does not fit.
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
            raise SchemaError(f"{url}/{file.path}: {records} records, the manifest says {file.videos}; copy it again")


def _files(url: str, split: Split, folder: str) -> list[ReleaseFile]:
    release = open_release(url)
    found = [file for file in release.files if file.split == split and file.path.startswith(folder)]
    if not found:
        raise BadInput(f"{url}: no split {split!r} under {folder}; it has {sorted(release.samples)}")
    return found


def _read(url: str, file: ReleaseFile) -> bytes:
    with fsspec.open(f"{url}/{file.path}", "rb") as opened:
        return opened.read()


def _records(url: str, file: ReleaseFile) -> Iterator[VideoSamples]:
    address = f"{url}/{file.path}"
    with fsspec.open(address, "rb") as stream:
        try:
            yield from _members(stream, address)
        except tarfile.TarError as error:
            raise SchemaError(f"{address}: damaged tar ({error}); copy it again") from error


def _members(stream: IO[bytes], address: str) -> Iterator[VideoSamples]:
    """Pairs up a tar's members: the video comes first, if there is one, then the record that closes the sample."""
    video: tuple[str, bytes] | None = None
    with tarfile.open(fileobj=stream, mode="r|") as tar:
        for member in tar:
            key, _, suffix = member.name.partition(".")
            content = tar.extractfile(member)
            assert content is not None, f"{address}: {member.name} is not a file"
            if suffix != "json":
                video = (key, content.read())
                continue
            try:
                record = WebDatasetRecord.model_validate_json(content.read())
            except ValidationError as error:
                raise SchemaError(f"{address}: member {member.name} is not a record: {error}") from error
            if record.video_id != key or (video is not None and video[0] != key):
                beside = video[0] if video else "no video"
                raise SchemaError(f"{address}: {member.name} is of {record.video_id}, beside {beside}; copy it again")
            yield VideoSamples(record, video[1] if video else None)
            video = None
