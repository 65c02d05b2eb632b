"""Reads a published release, local or remote, in a fixed order.

Samples without their videos come from the Parquet tables. Samples with their videos come from the tars, in one of two
ways: streamed one after another, with a video's bytes read once for all its questions, or as an index of where each
video lies in the tars. Nothing is skipped silently: a file that does not match the manifest raises an error that names
it (`schemas.release`).
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
from trainer_plugin.types import VideoInfo, VideoSource

__all__ = ["IndexedVideo", "VideoSamples", "index_videos", "open_release", "read_samples", "read_videos"]

_INDEXERS = 16
"""Number of tars whose headers are read concurrently. On remote storage, reading them is mostly waiting."""

_HEADER_BYTES = 64 << 10
"""Read-ahead in bytes while only headers and records are read: a header, a record and the next header often fit."""


@dataclass(frozen=True)
class VideoSamples:
    """One video with all of its questions."""

    record: WebDatasetRecord
    video: bytes | None
    """Bytes of the video file; None in a release without media."""


@dataclass(frozen=True)
class IndexedVideo:
    """One video with all of its questions, and the location of its bytes."""

    record: WebDatasetRecord
    source: VideoSource

    @property
    def info(self) -> VideoInfo:
        """What its record states that a layout as tokens needs."""
        record = self.record
        return VideoInfo(self.source, record.duration_us, record.fps, record.width, record.height)


def read_samples(url: str, split: Split) -> list[Sample]:
    """All samples of a split, in the order of the tars.

    Raises:
        BadInput: there is no release at `url`, or it has no such split.
        SchemaError: a file is missing or differs from the manifest in length or rows, or a row does not match the
            schema.
    """
    return [sample for file in _files(url, split, "parquet/") for sample in read_table(url, file)]


def read_videos(url: str, split: Split, *, part: int = 0, parts: int = 1) -> Iterator[VideoSamples]:
    """Stream the videos of a split with their samples from the tars.

    Args:
        part, parts: read only every `parts`-th video, starting with number `part`: one share for each data-parallel
            rank and worker. Shares differ by at most one video.

    Raises:
        BadInput: there is no release at `url`, or it has no such split.
        SchemaError: a tar is missing or differs from the manifest in length or records, or a record does not match the
            schema.
    """
    first = 0
    for file in _files(url, split, "data/"):

        def is_wanted(number: int, first: int = first) -> bool:
            return (first + number) % parts == part

        for number, video in enumerate(read_tar(url, file, is_wanted=is_wanted)):
            if is_wanted(number):
                yield VideoSamples(video.record, video.content)
        first += file.videos


def index_videos(url: str, split: Split, media: str | None = None) -> list[IndexedVideo]:
    """The videos of a split with their samples, in the order of the tars, without the videos' bytes.

    Only the headers and records of the tars are read.

    Args:
        media: folder or URL of the videos, for a release that was published without media. The files are named as in
            `Sample.videos`.

    Raises:
        BadInput: the release has no media and `media` is None; it has media and `media` is given; or as `read_videos`.
        SchemaError: as `read_videos`.
    """
    files = _files(url, split, "data/")
    with ThreadPoolExecutor(min(_INDEXERS, len(files))) as pool:
        return [video for tar in pool.map(lambda file: _index_tar(url, file, media), files) for video in tar]


def _files(url: str, split: Split, folder: str) -> list[ReleaseFile]:
    release = open_release(url)
    matching = [file for file in release.files if file.split == split and file.path.startswith(folder)]
    if not matching:
        raise BadInput(f"{shown_uri(url)}: no split '{split}' under {folder}; it has {sorted(release.samples)}")
    return matching


def _index_tar(url: str, file: ReleaseFile, media: str | None) -> list[IndexedVideo]:
    address = address_in(url, file.path)
    records = read_tar(url, file, block_size=_HEADER_BYTES)
    return [IndexedVideo(each.record, _source(each, media, address)) for each in records]


def _source(tar_record: TarRecord, media: str | None, address: str) -> VideoSource:
    if tar_record.media is not None and media is not None:
        raise BadInput(
            f"{shown_uri(address)}: it holds its videos, but {shown_uri(media)} was given as media; remove it"
        )
    video_id, sha256 = tar_record.record.video_id, tar_record.record.sha256
    if tar_record.media is not None:
        return VideoSource(video_id, address, tar_record.media.offset_data, tar_record.media.size, sha256)
    if media is None:
        raise BadInput(f"{shown_uri(address)}: this release holds no videos; set media to their folder or URL")
    return VideoSource(video_id, address_in(media, tar_record.record.samples[0].videos), sha256=sha256)
