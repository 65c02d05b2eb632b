"""Reads a release back through every common loader, and compares what they find with its manifest.

The bytes come first, as they may be untrusted. Checked are names, lengths and headers (`schemas.release`), the
sha256 of every file, every record against its schema, and both ends of every video by decoding them. Tars and tables
are read in a child process with limits. Then all readers (`operators.release.readers`) must find the same keys.
"""

from __future__ import annotations

import glob
import reprlib
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tarfile import TarInfo
from typing import Any

import av
from fsspec.implementations.local import LocalFileSystem

from operators.process.isolate import ChildFailed, run_isolated
from operators.release.readers import Reader, loading_metadata, open_readers
from operators.store.content_store import sha256_of_file
from operators.video.clips.packaging import SIZE_TOLERANCE
from operators.video.decode.packets import stream_aspect
from operators.video.decode.probe import displayed_size
from schemas.errors import SchemaError
from schemas.release import open_file, open_release, read_small_file, read_table, read_tar
from schemas.run import Release, ReleaseFile, content_digest
from schemas.sample import WebDatasetRecord
from schemas.settings import read_yaml
from schemas.storage import locate, outages
from schemas.tables import Split
from schemas.video.container import LARGEST_FRAME_PIXELS, moving_pictures

_SECONDS_PER_VIDEO = 60.0
"""Time limit for decoding a video's first frame, and from a key frame to one near its end.

Reading its index takes a second."""

_SECONDS_PER_TABLE = 600.0
"""Time limit for reading a table. A hundred thousand samples are read in less than a minute."""

_CARD_BYTES = 1 << 20
"""Maximum size of README.md."""

_OTHER_CARDS = (".huggingface.yaml", "dataset_infos.json")
"""Files that `datasets` takes in place of the front matter of README.md, or in addition to it."""

_SUFFIXES = frozenset({frozenset({"json"}), frozenset({"json", "mp4"})})

_CONFINEMENT = {"format_whitelist": "mov", "protocol_whitelist": "file,subfile"}
"""Limits for opening a video: no playlists, stream descriptions or scripts, which lead to other files and addresses."""


class ReleaseInvalid(SchemaError):
    """A release differs from its manifest, or a loader sees it differently. The message says what differs."""


@dataclass
class _Keys:
    """Keys by split, as the release's own tars state them."""

    videos: dict[str, set[str]] = field(default_factory=dict)
    """Video ids of the tars' records."""
    questions: dict[str, set[str]] = field(default_factory=dict)
    """Question ids of the tars' records. The tables must hold the same."""


def validate_release(url: str) -> dict[str, int]:
    """Verify `{out}/releases/{name}/v0001`, and return the number of records (or rows) that each reader found.

    A remote release is downloaded first, into a temporary folder that must have room for it.

    Raises:
        BadInput: the first problem found, most often as a SchemaError.
    """
    release = open_release(url)
    _check_surplus(url, release)
    for file in release.files:
        with open_file(url, file):
            pass  # it exists and has the manifest's length: nothing that would fill the disk is downloaded
    with _local(url, release) as root:
        return _verify(root, release)


def _verify(root: Path, release: Release) -> dict[str, int]:
    if (content := content_digest(release.files)) != release.content_sha256:
        raise ReleaseInvalid(
            f"manifest.json: content_sha256 says {release.content_sha256}, its files give {content}; copy it again"
        )
    for file in release.files:
        if (found := sha256_of_file(root / file.path)) != file.sha256:
            raise ReleaseInvalid(f"{file.path}: its sha256 is {found}, manifest.json says {file.sha256}")
    keys = _Keys()
    tars = [file for file in release.files if file.path.endswith(".tar")]
    suffixes = {_read_tar_confined(root, file, keys) for file in tars}
    if len(suffixes) > 1:
        raise ReleaseInvalid(f"records have different members: {sorted(map(sorted, suffixes))}")
    rows, columns = _check_tables(root, release, keys)
    counts = {"files": len(release.files), "parquet": rows}
    _check_splits(release, keys)
    metadata = loading_metadata(
        [split.value for split in Split if release.samples.get(split)],
        with_media=frozenset({"json"}) not in suffixes,
        columns=columns,
    )
    _check_card(root, metadata)
    with open_readers(root, release, metadata) as readers:
        return counts | {reader.name: _compare(reader, keys) for reader in readers}


def _check_surplus(url: str, release: Release) -> None:
    """Refuse files that loaders find in the folder and read, although the manifest does not name them."""
    fs, root = locate(url)
    below = glob.escape(root)
    with outages(url):
        found = {path[len(root) + 1 :] for path in fs.glob(f"{below}/data/*/*.tar")}
        found |= {name for name in _OTHER_CARDS if fs.exists(f"{root}/{name}")}
    if surplus := sorted(found - {file.path for file in release.files}):
        raise ReleaseInvalid(f"{surplus[0]}: loaders read it, but manifest.json does not name it; remove it")


@contextmanager
def _local(url: str, release: Release) -> Iterator[Path]:
    """A local folder with the manifest's files and the card. A remote release is downloaded into it."""
    fs, root = locate(url)
    if isinstance(fs, LocalFileSystem):
        yield Path(root)
        return
    with tempfile.TemporaryDirectory(prefix="lvr-verify-") as folder:
        with outages(url):
            names = [file.path for file in release.files] + ["README.md"] * fs.exists(f"{root}/README.md")
            fs.get([f"{root}/{name}" for name in names], [f"{folder}/{name}" for name in names])
        yield Path(folder)


def _read_tar_confined(root: Path, file: ReleaseFile, keys: _Keys) -> frozenset[str]:
    """Read a tar in a child process and add its contents to `keys`. Returns the suffixes of its records' members."""
    seconds = (file.videos + 1) * _SECONDS_PER_VIDEO
    try:
        videos, questions, suffixes = run_isolated(_read_tar, root, file, timeout_seconds=seconds)
    except ChildFailed as error:
        raise ReleaseInvalid(f"{file.path}: {error}") from error
    for known in keys.videos.values():
        if twice := sorted(known.intersection(videos)):
            raise ReleaseInvalid(f"{file.path}: {twice[0]} comes a second time; keys are unique over all splits")
    keys.videos.setdefault(file.split, set()).update(videos)
    keys.questions.setdefault(file.split, set()).update(questions)
    return suffixes


def _read_tar(root: Path, file: ReleaseFile) -> tuple[list[str], list[str], frozenset[str]]:
    """Ids of a tar's videos and questions, and the suffixes of its members, if both ends of each video decode."""
    videos: list[str] = []
    questions: list[str] = []
    suffixes: set[frozenset[str]] = set()
    for found in read_tar(str(root), file):
        for member in found.members:
            if (member.mtime, member.uid, member.gid, member.uname, member.gname) != (0, 0, 0, "", ""):
                raise ReleaseInvalid(
                    f"{file.path}: member {member.name} has a time or an owner, so a rebuild's bytes would differ"
                )
        if found.media is not None:
            _check_media(root, file, found.record, found.media)
        videos.append(found.record.video_id)
        questions += [sample.question_id for sample in found.record.samples]
        suffixes.add(frozenset(member.name.partition(".")[2] for member in found.members))
    if len(suffixes) != 1 or not suffixes <= _SUFFIXES:
        raise ReleaseInvalid(f"{file.path}: records have different members: {sorted(map(sorted, suffixes))}")
    return videos, questions, suffixes.pop()


def _check_media(root: Path, file: ReleaseFile, record: WebDatasetRecord, media: TarInfo) -> None:
    """Check that the first frame of a video decodes, and one near the end that the record claims, both in its size.

    The size is not compared if it changes between the two frames, as it may in a recording. The file is opened as MP4
    whatever it contains, and nothing else is opened for it.
    """
    end = media.offset_data + media.size
    address = f"subfile,,start,{media.offset_data},end,{end},,:file:{root / file.path}"
    try:
        with av.open(address, "r", container_options=_CONFINEMENT) as container:
            stream = moving_pictures(container)[0]
            assert stream.time_base is not None  # unset only in streams that are being written
            stream.codec_context.options = {"max_pixels": str(LARGEST_FRAME_PIXELS)}
            sizes = {displayed_size(next(container.decode(stream)), stream_aspect(stream))}
            last_second_us = max(0, record.duration_us - 1_000_000)
            offset = int(last_second_us / (1_000_000 * stream.time_base)) + (stream.start_time or 0)
            container.seek(offset, stream=stream)
            sizes.add(displayed_size(next(container.decode(stream)), stream_aspect(stream)))
    except (av.FFmpegError, IndexError, StopIteration, OverflowError) as error:
        raise ReleaseInvalid(f"{file.path}: {media.name} does not decode at both ends as MP4: {error!r}") from error
    width, height = sizes.pop()
    if not sizes and max(abs(width - record.width), abs(height - record.height)) > SIZE_TOLERANCE:
        raise ReleaseInvalid(
            f"{file.path}: {media.name} shows {width}x{height}, {record.video_id}.json says "
            f"{record.width}x{record.height}; the questions are about another picture; build the release again"
        )


def _check_tables(root: Path, release: Release, keys: _Keys) -> tuple[int, set[str]]:
    """Number of rows of all Parquet tables, and their columns.

    The tables of a split must hold the same questions as its tars.
    """
    tables = [file for file in release.files if file.path.endswith(".parquet")]
    seconds = (len(tables) + 1) * _SECONDS_PER_TABLE
    try:
        found = run_isolated(_read_tables, root, tables, timeout_seconds=seconds)
    except ChildFailed as error:
        raise ReleaseInvalid(f"{', '.join(file.path for file in tables)}: {error}") from error
    for file, (questions, _) in zip(tables, found, strict=True):
        _same(file.path, questions, keys.questions.get(file.split, set()), "samples of its tars")
    columns: set[str] = set().union(*(columns for _, columns in found))
    return sum(len(questions) for questions, _ in found), columns


def _read_tables(root: Path, tables: list[ReleaseFile]) -> list[tuple[list[str], set[str]]]:
    """Question ids and columns of each table."""
    samples = [read_table(str(root), file) for file in tables]
    return [
        ([sample.question_id for sample in own], set().union(*(sample.model_fields_set for sample in own)))
        for own in samples
    ]


def _check_card(root: Path, metadata: Mapping[str, Any]) -> None:
    """Check that the front matter of README.md makes `datasets` load the release's files and no others.

    It could name any file or address.
    """
    try:
        text = read_small_file(str(root), "README.md", _CARD_BYTES).decode()
        head = text.removeprefix("---\n").partition("\n---\n")[0]
        stated = read_yaml(head)
        found = {name: stated.get(name) for name in metadata}
    except FileNotFoundError:
        raise ReleaseInvalid(
            "README.md: not there; without it `datasets` loads something else, copy it again"
        ) from None
    except (ValueError, AttributeError) as error:
        raise ReleaseInvalid(f"README.md: its head is not a card's YAML ({error}); copy it again") from error
    for name, wanted in metadata.items():
        if found[name] != wanted:
            raise ReleaseInvalid(
                f"README.md: {name} says {reprlib.repr(found[name])}, so `datasets` would load something other than "
                f"the files of manifest.json; copy it again"
            )


def _check_splits(release: Release, keys: _Keys) -> None:
    """Check that no question is in two splits, and that the totals are those of the manifest.

    Videos in two splits are found earlier, while the tars are read.
    """
    everything = Counter(question for questions in keys.questions.values() for question in questions)
    if twice := [question for question, times in everything.items() if times > 1]:
        raise ReleaseInvalid(f"question {twice[0]} is in more than one split")
    for name, stated, found in (("samples", release.samples, keys.questions), ("videos", release.videos, keys.videos)):
        counted = {split: len(members) for split, members in found.items()}
        if stated != counted:
            raise ReleaseInvalid(f"manifest.json states {name} {stated}, the tars hold {counted}")


def _compare(reader: Reader, keys: _Keys) -> int:
    """Read every split with a reader, which must find exactly the keys of the release. Returns their number."""
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
