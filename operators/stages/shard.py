"""From samples to files: WebDataset tars (one record per source video) and Parquet tables (one row per sample).

A tar record is `{video_id}.json` with everything asked about a video, and `{video_id}.mp4`, the video itself or its
proxy, whose times are the source's: however many questions it has, a video is stored, read and decoded once. Tars of a
split hold equal numbers of records (+-1). Bytes follow from the samples, the videos and the seed alone.
"""

from __future__ import annotations

import logging
import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

from operators.release.tar import TarWriter
from operators.stage import Context, Scope, Stage
from operators.store import SourceGone, sha256_of_file, space_problem
from operators.video.analysis_file import read_analysis
from operators.video.ffmpeg import FfmpegError, ffmpeg_version, pyav_version
from operators.video.media import MediaError, write_media
from operators.video.packets import UnreadableVideo
from operators.video.probe import probe
from operators.video.proxy import FPS, proxy_size
from operators.video.unpack import unpack
from schemas.arrow import rows_to_parquet
from schemas.base import digest
from schemas.config import Media
from schemas.run import ReleaseFile
from schemas.sample import Sample, WebDatasetRecord
from schemas.tables import Packaging, Reject, Source, Split, Video
from schemas.uri import shown_uri

log = logging.getLogger(__name__)


def run(
    context: Context, samples: list[Sample], videos: list[Video], sources: list[Source]
) -> Iterator[ReleaseFile | Reject]:
    """The files of a release as objects: `data/{split}/{name}-{split}-000000.tar` and `parquet/{split}.parquet`."""
    source_of = {source.source_id: source for source in sources}
    samples_of: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        samples_of[sample.video_id].append(sample)
    for split in Split:
        chosen = [video for video in videos if any(sample.split is split for sample in samples_of[video.video_id])]
        if not chosen:
            continue
        shuffled = sorted(chosen, key=lambda video: digest([context.config.seed, "order", video.video_id]))
        groups = equal_groups(shuffled, context.config.shard.videos_per_tar)
        missing: set[str] = set()
        for index, group in enumerate(groups):
            path = f"data/{split}/{context.config.name}-{split}-{index:06d}.tar"
            written, rejects = _write_tar(context, path, group, source_of, samples_of)
            missing |= {reject.key for reject in rejects}
            yield from rejects
            if written.videos:
                yield written
        rows = [sample for video in shuffled if video.video_id not in missing for sample in samples_of[video.video_id]]
        if rows:
            yield _write_parquet(context, f"parquet/{split}.parquet", rows, len(shuffled) - len(missing))


def equal_groups(videos: Sequence[Video], at_most: int) -> list[Sequence[Video]]:
    """As few groups as hold at most `at_most` each, in order, their sizes differing by at most one."""
    count = -(-len(videos) // at_most)
    bounds = [len(videos) * index // count for index in range(count + 1)]
    return [videos[first:last] for first, last in pairwise(bounds)]


def make_record(
    video: Video, source: Source, samples: Sequence[Sample], media: Media = Media.ORIGINAL
) -> WebDatasetRecord:
    """The `.json` member of a video's record. Rate and size are those of the video that stands beside it."""
    width, height, fps = video.width, video.height, video.fps
    if media is Media.PROXY:
        width, height = proxy_size(width, height)
        fps = min(fps, FPS)
    return WebDatasetRecord(
        video_id=video.video_id,
        split=samples[0].split,
        video_category=source.category,
        title=source.title,
        licence=source.licence,
        origin=source.origin,
        duration_us=video.duration_us,
        fps=fps,
        width=width,
        height=height,
        sha256=video.sha256,
        samples=tuple(samples),
    )


def _write_tar(
    context: Context,
    path: str,
    videos: Sequence[Video],
    source_of: Mapping[str, Source],
    samples_of: Mapping[str, list[Sample]],
) -> tuple[ReleaseFile, list[Reject]]:
    local = context.scratch / Path(path).name
    rejects = []
    records = questions = 0
    with TarWriter(local) as tar:
        for video in videos:
            record = make_record(
                video, source_of[video.video_id], samples_of[video.video_id], context.config.shard.media
            )
            if context.config.shard.media is not Media.NONE:
                try:
                    with _media(context, video) as media:
                        tar.add_file(f"{video.video_id}.mp4", media)
                except (FfmpegError, MediaError, UnreadableVideo, OSError) as error:
                    if isinstance(error, OSError) and space_problem(error, str(local)):
                        raise
                    rejects.append(_unavailable(context, video, error))
                    continue
            tar.add_bytes(f"{video.video_id}.json", record.model_dump_json().encode())
            records += 1
            questions += len(record.samples)
    return _stored(context, path, local, records, questions), rejects


def _unavailable(context: Context, video: Video, error: Exception) -> Reject:
    reason = "system_error" if isinstance(error, OSError) else "media_unavailable"
    message = f"video {video.video_id}: {error}"
    reason = error.reason if isinstance(error, SourceGone) else reason
    return context.reject(video.video_id, reason, message, shown_uri(video.uri))


def _write_parquet(context: Context, path: str, samples: Sequence[Sample], videos: int) -> ReleaseFile:
    local = context.scratch / Path(path).name
    local.write_bytes(rows_to_parquet(samples, Sample))
    return _stored(context, path, local, videos, len(samples))


def _stored(context: Context, path: str, local: Path, videos: int, samples: int) -> ReleaseFile:
    address = context.files.put_file(local)
    file = ReleaseFile(
        path=path,
        sha256=Path(address).stem,
        bytes=local.stat().st_size,
        split=Path(path).stem if path.startswith("parquet/") else Path(path).parent.name,
        videos=videos,
        samples=samples,
    )
    local.unlink()
    log.info("%s: %d videos, %d samples", path, videos, samples)
    return file


@contextmanager
def _media(context: Context, video: Video) -> Iterator[Path]:
    """A local MP4: the proxy, or the source, packaged as `ingest` has decided."""
    folder = context.scratch / "media"  # a source at a time: they may be larger than what is free
    folder.mkdir()
    try:
        if context.config.shard.media is Media.PROXY:
            assert video.proxy_uri is not None  # BuildConfig sees to it
            yield context.files.fetch(video.proxy_uri, folder)
        else:
            yield _as_mp4(context, video, folder)
    finally:
        shutil.rmtree(folder)


def _as_mp4(context: Context, video: Video, folder: Path) -> Path:
    """The source in an MP4: every record must have the same suffixes."""
    local = context.sources.fetch(video.video_id, video.uri, folder)
    if sha256_of_file(local) != video.sha256:
        message = f"{shown_uri(video.uri)} has changed since it was ingested; run the build again"
        raise SourceGone("source_changed", message)
    if video.packaging is Packaging.KEEP:
        return local
    source = probe(unpack(local, folder / "unpacked"))
    if video.formats:
        source = source.with_formats(video.formats)
    times_us = source.index.frame_times_us
    if video.proxy_uri is not None:  # every frame was decoded
        times_us = read_analysis(context.files.fetch(video.analysis_uri, folder)).times_us
    target = folder / "made" / "media.mp4"  # apart from a fetched source, whatever its name is
    target.parent.mkdir()
    write_media(source, video.packaging, times_us, target)
    return target


STAGE = Stage(
    name="shard",
    version=2,
    row=ReleaseFile,
    reads=("assemble", "ingest", "source"),
    source_columns=("source_id", "title", "category", "licence", "origin"),
    run=run,
    section=lambda config: (config.shard.model_dump(mode="json"), config.name),
    tools=(ffmpeg_version, pyav_version),
    scope=Scope.BUILD,
)
