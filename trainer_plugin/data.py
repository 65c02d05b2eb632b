"""Reads a published release, local or remote, in a fixed order.

Samples alone come from the Parquet tables; samples with their videos come from the tars, either one after another, a
video's bytes read once for all its questions, or as an index that says where in the tars each video lies. Nothing is
skipped silently: a file that is not what the manifest says is an error that names it (`schemas.release`).
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from schemas.errors import BadInput
from schemas.release import TarRecord, address_in, open_release, read_table, read_tar
from schemas.run import ReleaseFile
from schemas.sample import Sample, WebDatasetRecord
from schemas.tables import Split
from schemas.uri import shown_uri
from trainer_plugin.examples import VideoSource

__all__ = ["IndexedVideo", "VideoSamples", "index_videos", "open_release", "read_samples", "read_videos"]

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


def read_samples(url: str, split: Split) -> list[Sample]:
    """All samples of a split, in the order in which the tars hold them.

    Raises:
        BadInput: there is no such split.
        SchemaError: a file is gone, of another length than the manifest says, or a row does not fit.
    """
    return [sample for file in _files(url, split, "parquet/") for sample in read_table(url, file)]


def read_videos(url: str, split: Split, *, part: int = 0, parts: int = 1) -> Iterator[VideoSamples]:
    """The videos of a split with their samples, streamed from the tars.

    Args:
        part, parts: read only every `parts`-th video, beginning with number `part`: one share for each data-parallel
            rank and worker. Shares differ by at most one video.

    Raises:
        SchemaError: a tar is gone, of another length or with another number of records than the manifest says, or a
            record does not fit.
    """
    first = 0
    for file in _files(url, split, "data/"):

        def is_wanted(number: int, first: int = first) -> bool:
            return (first + number) % parts == part

        for number, found in enumerate(read_tar(url, file, is_wanted=is_wanted)):
            if is_wanted(number):
                yield VideoSamples(found.record, found.content)
        first += file.videos


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
        raise BadInput(f"{shown_uri(url)}: no split {split!r} under {folder}; it has {sorted(release.samples)}")
    return found


def _index(url: str, file: ReleaseFile, media: str | None) -> list[IndexedVideo]:
    address = address_in(url, file.path)
    found = read_tar(url, file, block_size=_HEADER_BYTES)
    return [IndexedVideo(each.record, _source(each, media, address)) for each in found]


def _source(found: TarRecord, media: str | None, address: str) -> VideoSource:
    if found.media is not None and media is not None:
        raise BadInput(
            f"{shown_uri(address)}: it holds its videos, but {shown_uri(media)} was given for them; leave that out"
        )
    video_id = found.record.video_id
    if found.media is not None:
        return VideoSource(video_id, address, found.media.offset_data, found.media.size)
    if media is None:
        raise BadInput(f"{shown_uri(address)}: this release holds no videos; say where they are (media)")
    return VideoSource(video_id, address_in(media, found.record.samples[0].videos))
