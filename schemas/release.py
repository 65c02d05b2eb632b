"""Opens published releases, local or remote, without trusting their manifests.

A release may come from anybody. A few bytes of it can expand to terabytes, or name a file on the reader's own disk.
Therefore names, lengths, row counts and tar headers are checked before any content is read:

- A file that the manifest names is below the release's folder and has the manifest's length.
- A table has as many rows as the manifest states.
- A tar holds the records that the manifest states, in plain members only: no extended headers, links or sparse files.

The hash of a table is compared, because a table is read whole. Those of tars are not: that would read every video.
"""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from fsspec.implementations.local import LocalFileSystem

from schemas.arrow import rows_from_parquet
from schemas.base import parse_json
from schemas.errors import BadInput, SchemaError
from schemas.run import Release, ReleaseFile
from schemas.sample import Sample, WebDatasetRecord
from schemas.storage import locate, outages
from schemas.uri import shown_uri

_MANIFEST_BYTES = 64 << 20
"""Maximum size of a manifest. The manifest of a hundred thousand tars has half of this."""

_RECORD_BYTES = 16 << 20
"""Maximum size of a record. The record of a thousand questions has a few megabytes."""

_MEMBER = re.compile(r"[A-Za-z0-9_-]+\.[a-z0-9]+")


@dataclass(frozen=True)
class TarRecord:
    """One record of a tar, with the headers of its members in their order; the `.json` is last.

    Each header has the position of the member's content in the tar, `offset_data`.
    """

    record: WebDatasetRecord
    members: tuple[tarfile.TarInfo, ...]
    content: bytes | None
    """Content of the media member, if it was requested."""

    @property
    def media(self) -> tarfile.TarInfo | None:
        """Header of the video; None in a release without media."""
        return self.members[0] if len(self.members) > 1 else None


def address_in(url: str, path: str) -> str:
    """Address of a release's file. A doubled slash would be another object on S3."""
    return f"{url.rstrip('/')}/{path}"


def open_release(url: str) -> Release:
    """Read the manifest of a release, `{out}/releases/{name}/v0001`.

    Raises:
        BadInput: there is no manifest at that address.
        SchemaError: this version cannot read the manifest, or it names files that are not the release's own.
    """
    address = address_in(url, "manifest.json")
    try:
        data = read_small_file(url, "manifest.json", _MANIFEST_BYTES)
    except FileNotFoundError:
        raise BadInput(
            f"{shown_uri(url)}: no manifest.json; a release's address ends in /releases/<name>/v<number>"
        ) from None
    return parse_json(data, Release, f"{shown_uri(address)}: not a release manifest")


def read_small_file(url: str, path: str, most_bytes: int) -> bytes:
    """Read a file of a release whose length is not in the manifest.

    Raises:
        FileNotFoundError: there is no such file.
        SchemaError: the file has more than `most_bytes` bytes, or is not a plain file below the release's folder.
    """
    with _open(url, path) as file:
        length = file.tell()
        file.seek(0)
        with outages(address_in(url, path)):
            data = file.read(most_bytes + 1) if length <= most_bytes else b""
    if length > most_bytes:
        raise SchemaError(
            f"{address_in(url, path)}: more than {most_bytes} bytes, which is no release's; do not use it"
        )
    return data


@contextmanager
def open_file(url: str, file: ReleaseFile, **options: Any) -> Iterator[IO[bytes]]:
    """Open a file of a release and check that it has the manifest's length.

    Args:
        options: options of fsspec's `open`.

    Raises:
        SchemaError: the file is missing, has another length, or is not a plain file below the release's folder.
    """
    address = address_in(url, file.path)
    try:
        opened = _open(url, file.path, **options)
    except FileNotFoundError:
        raise SchemaError(f"{shown_uri(address)}: no such file, though the manifest names it; copy it again") from None
    with opened:
        if (found := opened.tell()) != file.bytes:
            raise SchemaError(f"{shown_uri(address)}: {found} bytes, the manifest states {file.bytes}; copy it again")
        opened.seek(0)
        yield opened


def read_table(url: str, file: ReleaseFile) -> list[Sample]:
    """Read the samples of a Parquet table.

    The bytes are compared with the manifest first: on some damaged tables Arrow ends the whole process.

    Raises:
        SchemaError: the file's bytes are not those of the manifest, or it does not fit its schema, or does not hold as
            many samples as the manifest states.
    """
    address = address_in(url, file.path)
    with open_file(url, file) as opened, outages(address):
        data = opened.read()
    if (found := hashlib.sha256(data).hexdigest()) != file.sha256:
        raise SchemaError(
            f"{address}: its sha256 is {found}, the manifest states {file.sha256}; copy it again, or do not use it"
        )
    return rows_from_parquet(data, Sample, address, expected_rows=file.samples)


def read_tar(
    url: str,
    file: ReleaseFile,
    *,
    is_wanted: Callable[[int], bool] = lambda number: False,
    **options: Any,
) -> Iterator[TarRecord]:
    """Read the records of a tar, one by one.

    Args:
        is_wanted: whether to read a record's media into memory, given the record's number in the tar, from 0.
        options: options of fsspec's `open`.

    Raises:
        SchemaError: the tar differs from the manifest, or holds anything but plain records.
    """
    address = address_in(url, file.path)
    media: tarfile.TarInfo | None = None
    content: bytes | None = None
    found: set[str] = set()
    samples = 0
    with open_file(url, file, **options) as tar:
        for member in _members(tar, file.bytes, address):
            key, _, suffix = member.name.partition(".")
            if media is not None and suffix != "json":
                raise SchemaError(
                    f"{shown_uri(address)}: {media.name} is followed by {member.name}, not its .json; do not use it"
                )
            if suffix != "json":
                media = member
                content = _read(tar, member.offset_data, member.size, address) if is_wanted(len(found)) else None
                continue
            if key in found:
                raise SchemaError(f"{shown_uri(address)}: {key} comes a second time; do not use it")
            record = _record(tar, member, media, file, address)
            found.add(key)
            samples += len(record.samples)
            if len(found) > file.videos or samples > file.samples:
                break
            yield TarRecord(record, (member,) if media is None else (media, member), content)
            media = content = None
    if media is not None or (len(found), samples) != (file.videos, file.samples):
        raise SchemaError(
            f"{shown_uri(address)}: {len(found)} records with {samples} samples, the manifest states "
            f"{file.videos} with {file.samples}; copy it again"
        )


def _open(url: str, path: str, **options: Any) -> IO[bytes]:
    """Open a file below the release's folder, positioned at its end.

    On a local disk, links are followed only within that folder (and in Hugging Face's cache, which is made of links).
    Anything else than a regular file is refused: a pipe would never end.
    """
    address = address_in(url, path)
    with outages(address):
        fs, found = locate(address)
    if isinstance(fs, LocalFileSystem):
        root = Path(found).parents[path.count("/")].resolve()
        real = Path(found).resolve()
        # In the Hub's cache, a release's files are links into `blobs`, next to `snapshots`.
        blobs = (folder.parent / "blobs" for folder in root.parents if folder.name == "snapshots")
        if not any(map(real.is_relative_to, (root, *blobs))):
            raise SchemaError(
                f"{found}: a link to {real}, outside of the release; copy the release with what its links lead to "
                f"(cp -RL)"
            )
        if real.exists() and not real.is_file():
            raise SchemaError(f"{found}: not a file; copy the release again")
    with outages(address):
        opened: IO[bytes] = fs.open(found, "rb", **options)
        opened.seek(0, io.SEEK_END)  # some file systems request the file only now
        return opened


def _members(tar: IO[bytes], size: int, address: str) -> Iterator[tarfile.TarInfo]:
    """Read the members of a tar of `size` bytes, from their headers alone.

    Headers must be plain, so that none changes the meaning of the next. `tarfile` would follow links, fill holes, and
    read extended headers into memory.
    """
    offset = 0
    while any(block := _read(tar, offset, tarfile.BLOCKSIZE, address)):
        try:
            member = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise SchemaError(f"{shown_uri(address)}: damaged tar ({error} at byte {offset}); copy it again") from error
        if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or not _MEMBER.fullmatch(member.name):
            raise SchemaError(
                f"{shown_uri(address)}: member {member.name!r} of type {member.type!r} is not a plain file named "
                f"key.suffix; do not use it"
            )
        member.offset_data = offset + tarfile.BLOCKSIZE
        offset = member.offset_data - member.size // -tarfile.BLOCKSIZE * tarfile.BLOCKSIZE
        if not 0 <= member.size <= size - member.offset_data:
            raise SchemaError(
                f"{shown_uri(address)}: member {member.name} of {member.size} bytes ends behind the tar; copy it again"
            )
        yield member
    if any(_read(tar, offset + tarfile.BLOCKSIZE, tarfile.BLOCKSIZE, address)):
        raise SchemaError(f"{shown_uri(address)}: does not end in two zero blocks; it is cut short, copy it again")


def _read(tar: IO[bytes], offset: int, size: int, address: str) -> bytes:
    with outages(address):
        tar.seek(offset)
        data = tar.read(size)
    if len(data) != size:
        raise SchemaError(f"{shown_uri(address)}: does not end in two zero blocks; it is cut short, copy it again")
    return data


def _record(
    tar: IO[bytes], member: tarfile.TarInfo, media: tarfile.TarInfo | None, file: ReleaseFile, address: str
) -> WebDatasetRecord:
    if member.size > _RECORD_BYTES:
        raise SchemaError(
            f"{shown_uri(address)}: {member.name} has {member.size} bytes, a record {_RECORD_BYTES} at most; "
            f"do not use it"
        )
    data = _read(tar, member.offset_data, member.size, address)
    record = parse_json(data, WebDatasetRecord, f"{shown_uri(address)}: {member.name}")
    places = {(key.name.partition(".")[0], file.split) for key in (media, member) if key is not None}
    places |= {(sample.video_id, sample.split.value) for sample in record.samples}
    if places != {(record.video_id, record.split.value)}:
        raise SchemaError(
            f"{shown_uri(address)}: {member.name} mixes videos or splits: {sorted(places)}, manifest.json says split "
            f"{file.split!r}; copy both again"
        )
    return record
