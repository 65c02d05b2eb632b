"""Reads a release back through every loader that people use, and compares what they see with its manifest.

First the bytes: sha256 and length of every file, the structure of every tar, every record against its schema, both ends
of every video decoded. Then the readers (`operators.release.readers`): all must find the same keys.
"""

from __future__ import annotations

import itertools
import os
import re
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import av
from fsspec.implementations.local import LocalFileSystem
from pydantic import ValidationError

from operators.release.readers import Reader, open_readers
from operators.store import locate, sha256_of_file
from operators.video.probe import displayed_size
from operators.video.streams import moving_pictures
from schemas.arrow import rows_from_parquet
from schemas.errors import BadInput, SchemaError
from schemas.run import Release, ReleaseFile
from schemas.sample import Sample, WebDatasetRecord

_MEMBER = re.compile(r"[A-Za-z0-9_-]+\.[a-z0-9]+")

_SIZE_TOLERANCE = 2
"""Pixels that a picture may lose where it is encoded again: 4:2:0 needs even sides."""

_BLOCK = 512
"""Bytes; a tar is a row of such blocks and ends in two that are zero."""


class ReleaseInvalid(BadInput):
    """A release is not what its manifest says, or a loader sees it differently; the message says what differs."""


@dataclass
class _Keys:
    """What a release holds, as its own tars and tables say: keys by split."""

    videos: dict[str, set[str]] = field(default_factory=dict)
    questions: dict[str, set[str]] = field(default_factory=dict)
    """Of the tars' records; the tables must hold the same."""


def verify_release(url: str) -> dict[str, int]:
    """Verify `{out}/releases/{name}/v0001`; returns how many records (or rows) each reader found.

    A remote release is downloaded first, into a temporary folder that must have room for it.

    Raises:
        ReleaseInvalid: the first thing that is wrong.
    """
    with _local(url) as root:
        release = _manifest(root)
        for file in release.files:
            _check_bytes(root, file)
        keys = _Keys()
        for file in release.files:
            if file.path.endswith(".tar"):
                _check_tar(root, file, keys)
        counts = {"files": len(release.files)}
        counts["parquet"] = _check_tables(root, release, keys)
        _check_splits(release, keys)
        with open_readers(root, sorted(keys.videos)) as readers:
            return counts | {reader.name: _compare(reader, keys) for reader in readers}


@contextmanager
def _local(url: str) -> Iterator[Path]:
    fs, path = locate(url)
    if isinstance(fs, LocalFileSystem):
        yield Path(path)
        return
    with tempfile.TemporaryDirectory(prefix="lvr-verify-") as folder:
        fs.get(path + "/", folder + "/", recursive=True)
        yield Path(folder)


def _manifest(root: Path) -> Release:
    try:
        return Release.model_validate_json((root / "manifest.json").read_bytes())
    except FileNotFoundError:
        raise ReleaseInvalid(
            f"{root}: no manifest.json; a release's address ends in /releases/<name>/v<number>"
        ) from None
    except ValidationError as error:
        raise ReleaseInvalid(f"{root}/manifest.json: not a release's manifest: {error}") from error


def _check_bytes(root: Path, file: ReleaseFile) -> None:
    path = root / file.path
    if not path.is_file():
        raise ReleaseInvalid(f"{file.path}: named in manifest.json, but not there")
    if path.stat().st_size != file.bytes:
        raise ReleaseInvalid(f"{file.path}: {path.stat().st_size} bytes, manifest.json says {file.bytes}")
    if (found := sha256_of_file(path)) != file.sha256:
        raise ReleaseInvalid(f"{file.path}: its sha256 is {found}, manifest.json says {file.sha256}")


def _check_tar(root: Path, file: ReleaseFile, keys: _Keys) -> None:
    """Structure and records of one tar; adds what it holds to `keys`."""
    _check_end(root, file)
    records = 0
    questions: list[str] = []
    suffixes: set[frozenset[str]] = set()
    for record, members in _records(root, file):
        if any(record.video_id in known for known in keys.videos.values()):
            raise ReleaseInvalid(f"{file.path}: {record.video_id} comes a second time; keys are unique over all splits")
        keys.videos.setdefault(file.split, set()).add(record.video_id)
        suffixes.add(members)
        questions += [sample.question_id for sample in record.samples]
        records += 1
    if len(suffixes) > 1:
        raise ReleaseInvalid(f"{file.path}: records have different members: {sorted(map(sorted, suffixes))}")
    if (records, len(questions)) != (file.videos, file.samples):
        raise ReleaseInvalid(
            f"{file.path}: {records} records with {len(questions)} samples, manifest.json says {file.videos} with "
            f"{file.samples}"
        )
    keys.questions.setdefault(file.split, set()).update(questions)


def _check_end(root: Path, file: ReleaseFile) -> None:
    with (root / file.path).open("rb") as tar:
        tar.seek(-2 * _BLOCK, os.SEEK_END)
        if any(tar.read()):
            raise ReleaseInvalid(f"{file.path}: does not end in two zero blocks; it is cut short")


def _records(root: Path, file: ReleaseFile) -> Iterator[tuple[WebDatasetRecord, frozenset[str]]]:
    """Every record with its members' suffixes. Members belong together by neighbourhood, as the readers group them."""
    with tarfile.open(root / file.path) as tar:
        for key, members in itertools.groupby(tar, key=lambda member: member.name.partition(".")[0]):
            contents: dict[str, IO[bytes]] = {}
            for member in members:
                suffix, content = _member(file, tar, member)
                if suffix in contents:
                    raise ReleaseInvalid(f"{file.path}: member {member.name} comes twice")
                contents[suffix] = content
            record = _record(file, key, contents)
            if "mp4" in contents:
                _check_media(file, record, contents["mp4"])
            yield record, frozenset(contents)


def _member(file: ReleaseFile, tar: tarfile.TarFile, member: tarfile.TarInfo) -> tuple[str, IO[bytes]]:
    """Suffix and content of a member whose name and header are as every reader wants them."""
    content = tar.extractfile(member)
    if content is None or not _MEMBER.fullmatch(member.name):
        raise ReleaseInvalid(f"{file.path}: member {member.name!r} is not a plain file named key.suffix")
    if (member.mtime, member.uid, member.gid, member.uname, member.gname) != (0, 0, 0, "", ""):
        raise ReleaseInvalid(
            f"{file.path}: member {member.name} has a time or an owner, so a rebuild's bytes would differ"
        )
    return member.name.partition(".")[2], content


def _record(file: ReleaseFile, key: str, contents: dict[str, IO[bytes]]) -> WebDatasetRecord:
    if "json" not in contents:
        raise ReleaseInvalid(f"{file.path}: record {key} has no .json member, only {sorted(contents)}")
    try:
        record = WebDatasetRecord.model_validate_json(contents["json"].read())
    except ValidationError as error:
        raise ReleaseInvalid(f"{file.path}: {key}.json does not fit its schema: {error}") from error
    places = {(key, file.split), *((sample.video_id, sample.split.value) for sample in record.samples)}
    if places != {(record.video_id, record.split.value)}:
        raise ReleaseInvalid(f"{file.path}: record {key} mixes videos or splits: {sorted(places)}")
    return record


def _check_media(file: ReleaseFile, record: WebDatasetRecord, content: IO[bytes]) -> None:
    """The first frame decodes, in the size that the record claims, and one near the end that it claims."""
    try:
        with av.open(content, "r") as container:
            stream = moving_pictures(container)[0]
            assert stream.time_base is not None  # only unset in streams that are being written
            width, height = displayed_size(next(container.decode(stream)), stream)
            last_second_us = max(0, record.duration_us - 1_000_000)
            offset = int(last_second_us / (1_000_000 * stream.time_base)) + (stream.start_time or 0)
            container.seek(offset, stream=stream)
            next(container.decode(stream))
    except (av.FFmpegError, IndexError, StopIteration) as error:
        raise ReleaseInvalid(f"{file.path}: {record.video_id}.mp4 does not decode at both ends: {error!r}") from error
    if max(abs(width - record.width), abs(height - record.height)) > _SIZE_TOLERANCE:
        raise ReleaseInvalid(
            f"{file.path}: {record.video_id}.mp4 shows {width}x{height}, {record.video_id}.json says "
            f"{record.width}x{record.height}; it is not the picture that was asked about; build the release again"
        )


def _check_tables(root: Path, release: Release, keys: _Keys) -> int:
    """Rows of all Parquet tables; every split's must hold what its tars hold."""
    total = 0
    for file in release.files:
        if not file.path.endswith(".parquet"):
            continue
        try:
            rows = rows_from_parquet((root / file.path).read_bytes(), Sample, file.path)
        except SchemaError as error:
            raise ReleaseInvalid(str(error)) from error
        _same(
            file.path, [row.question_id for row in rows], keys.questions.get(file.split, set()), "samples of its tars"
        )
        total += len(rows)
    return total


def _check_splits(release: Release, keys: _Keys) -> None:
    """No question in two splits (videos are compared while tars are read), and totals as the manifest says."""
    everything = Counter(question for questions in keys.questions.values() for question in questions)
    if twice := [question for question, times in everything.items() if times > 1]:
        raise ReleaseInvalid(f"question {twice[0]} is in more than one split")
    for name, said, found in (("samples", release.samples, keys.questions), ("videos", release.videos, keys.videos)):
        counted = {split: len(members) for split, members in found.items()}
        if said != counted:
            raise ReleaseInvalid(f"manifest.json says {name} {said}, the tars hold {counted}")


def _compare(reader: Reader, keys: _Keys) -> int:
    """Let a reader read every split; it must find just the keys that are there."""
    total = 0
    for split, expected in (keys.questions if reader.of_questions else keys.videos).items():
        found = reader.read(split)
        _same(f"{reader.name}, split {split}", found, expected, "keys of the release")
        total += len(found)
    return total


def _same(name: str, found: list[str], expected: set[str], what: str) -> None:
    missing, surplus = sorted(expected - set(found)), sorted(set(found) - expected)
    if missing or surplus or len(found) != len(expected):
        raise ReleaseInvalid(
            f"{name}: finds {len(found)}, not the {len(expected)} {what}; missing {missing[:3]}, surplus {surplus[:3]}"
        )
