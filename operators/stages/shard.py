"""Sample -> ReleaseFile: writes WebDataset tars (one record per source video) and Parquet tables (one row per sample).

A tar record has `{video_id}.json` with all samples of a video, and `{video_id}.mp4`, which is the file prepared by
`package` or the source itself. A video is stored once, however many questions it has. Files are copied byte by byte,
and no video is opened. The tars of a split contain equal numbers of records (±1). Their bytes depend only on the
samples, the videos and the seed.
"""

from __future__ import annotations

import logging
import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

from operators.execution.stage import SOURCE, Context, Scope, Stage
from operators.release.tar import TarWriter
from operators.store.content_store import SourceUnavailable, sha256_of_file, space_problem
from schemas.arrow import rows_to_parquet
from schemas.base import digest
from schemas.run import ReleaseFile
from schemas.sample import Sample, WebDatasetRecord
from schemas.tables import PackagedVideo, Reject, Source, Split, Video
from schemas.uri import shown_uri

log = logging.getLogger(__name__)


def run(
    context: Context,
    samples: list[Sample],
    videos: list[Video],
    packaged: list[PackagedVideo],
    sources: list[Source],
) -> Iterator[ReleaseFile | Reject]:
    """Yield the files of a release: `data/{split}/{name}-{split}-000000.tar` and `parquet/{split}.parquet`.

    A video that could not be packaged is in none of them; stage `package` has rejected it. A video whose file is
    missing or has changed since is in none of them either, and yields a reject.
    """
    source_of = {source.source_id: source for source in sources}
    packaged_of = {each.video_id: each for each in packaged}
    videos = [video for video in videos if video.video_id in packaged_of]
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
            written, rejects = _write_tar(context, path, group, packaged_of, source_of, samples_of)
            missing |= {reject.key for reject in rejects}
            yield from rejects
            if written.videos:
                yield written
        rows = [sample for video in shuffled if video.video_id not in missing for sample in samples_of[video.video_id]]
        if rows:
            yield _write_parquet(context, f"parquet/{split}.parquet", rows, len(shuffled) - len(missing))


def equal_groups(videos: Sequence[Video], at_most: int) -> list[Sequence[Video]]:
    """Divide videos, in order, into as few groups as possible of at most `at_most` videos each.

    The sizes of the groups differ by at most one.
    """
    count = -(-len(videos) // at_most)
    bounds = [len(videos) * index // count for index in range(count + 1)]
    return [videos[first:last] for first, last in pairwise(bounds)]


def make_record(video: Video, packaged: PackagedVideo, source: Source, samples: Sequence[Sample]) -> WebDatasetRecord:
    """The `.json` member of a video's record. Frame rate and size are those of the video file in the same record."""
    return WebDatasetRecord(
        video_id=video.video_id,
        split=samples[0].split,
        video_category=source.category,
        title=source.title,
        licence=source.licence,
        origin=source.origin,
        duration_us=video.duration_us,
        fps=packaged.fps,
        width=packaged.width,
        height=packaged.height,
        sha256=video.sha256,
        samples=tuple(samples),
    )


def _write_tar(
    context: Context,
    path: str,
    videos: Sequence[Video],
    packaged_of: Mapping[str, PackagedVideo],
    source_of: Mapping[str, Source],
    samples_of: Mapping[str, list[Sample]],
) -> tuple[ReleaseFile, list[Reject]]:
    local = context.scratch / Path(path).name
    rejects = []
    records = questions = 0
    with TarWriter(local) as tar:
        for video in videos:
            packaged = packaged_of[video.video_id]
            record = make_record(video, packaged, source_of[video.video_id], samples_of[video.video_id])
            if packaged.sha256 is not None:
                try:
                    with _open_media(context, video, packaged) as media:
                        tar.add_file(f"{video.video_id}.mp4", media)
                except OSError as error:
                    if space_problem(error, str(local)):
                        raise
                    rejects.append(_unavailable(context, video, error))
                    continue
            tar.add_bytes(f"{video.video_id}.json", record.model_dump_json().encode())
            records += 1
            questions += len(record.samples)
    return _store_file(context, path, local, records, questions), rejects


def _unavailable(context: Context, video: Video, error: OSError) -> Reject:
    reason = error.reason if isinstance(error, SourceUnavailable) else "system_error"
    return context.reject(video.video_id, reason, f"video {video.video_id}: {error}", shown_uri(video.uri))


def _write_parquet(context: Context, path: str, samples: Sequence[Sample], videos: int) -> ReleaseFile:
    local = context.scratch / Path(path).name
    local.write_bytes(rows_to_parquet(samples, Sample))
    return _store_file(context, path, local, videos, len(samples))


def _store_file(context: Context, path: str, local: Path, videos: int, samples: int) -> ReleaseFile:
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
def _open_media(context: Context, video: Video, packaged: PackagedVideo) -> Iterator[Path]:
    """A local path of the published file, valid inside the context.

    Raises:
        SourceUnavailable: the file is missing, or its bytes differ from those that were packaged.
    """
    folder = context.scratch / "media"  # holds one file at a time: all together may exceed the free disk space
    folder.mkdir()
    try:
        if packaged.media_uri is not None:
            yield _fetch_stored(context, packaged, packaged.media_uri, folder)
            return
        yield context.sources.fetch_video(video, folder)
    finally:
        shutil.rmtree(folder)


def _fetch_stored(context: Context, packaged: PackagedVideo, address: str, folder: Path) -> Path:
    maker = "package" if packaged.packaging else "ingest"
    otherwise = f"or delete it and the folder commits/{maker} of the store: the next run makes it again"
    try:
        local = context.files.fetch(address, folder)
    except SourceUnavailable as gone:
        raise SourceUnavailable(gone.reason, f"{gone}, {otherwise}") from None
    if sha256_of_file(local) != packaged.sha256:
        message = f"{address} is damaged, its bytes do not match its name; restore it and run again, {otherwise}"
        raise SourceUnavailable("system_error", message)
    return local


STAGE = Stage(
    name="shard",
    version=3,
    row=ReleaseFile,
    reads={"samples": "assemble", "videos": "ingest", "packaged": "package", "sources": SOURCE},
    source_columns=("source_id", "title", "category", "licence", "origin"),
    run=run,
    section=lambda config: (config.shard.model_dump(mode="json"), config.name),
    scope=Scope.BUILD,
)
