"""Video -> PackagedVideo: prepares the file that a release's tar contains: the source, an MP4 made of it, or its proxy.

Each video is packaged separately and once. A decoder that crashes or hangs affects only that video, and new questions
about a video do not encode it again. A video without questions is not packaged. `shard` only copies the files into
tars.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from operators.execution.stage import Context, Stage
from operators.video.analysis.analysis_file import read_analysis
from operators.video.analysis.proxy import FPS, proxy_size
from operators.video.clips.packaging import MediaError, write_media
from operators.video.decode.ffmpeg import FfmpegError, ffmpeg_version, pyav_version
from operators.video.decode.packets import UnreadableVideo
from operators.video.decode.probe import probe
from operators.video.decode.unpack import unpack
from schemas.config import BuildConfig, Media
from schemas.tables import PackagedVideo, Packaging, Reject, Video
from schemas.uri import shown_uri

LONGEST_SECONDS = 6 * 24 * 3600.0
"""Longest time limit. The silence limit of the Airflow task is above it (`operators.airflow.tasks`)."""

_BYTES_PER_SECOND = 1e6

_SECONDS_PER_MEGAPIXEL = 4.0
"""Four times the slowest measured: noisy 10-bit HDR at 640x360 takes 1.03 CPU seconds a megapixel with x265 in one
thread, noisy ProRes in 1080p takes 0.07 with x264 (2026-11-30, two busy cores, `encode_picture`)."""


def run(context: Context, videos: Sequence[Video]) -> Iterator[PackagedVideo | Reject]:
    """Yield the file that is published of each video, or a reject where it cannot be made.

    Raises:
        SourceUnavailable: a source is missing or has changed since `ingest`.
    """
    for video in videos:
        try:
            yield _package(context, video)
        except (FfmpegError, MediaError, UnreadableVideo) as error:
            message = f"video {video.video_id}: {error}"
            yield context.reject(video.video_id, "media_unavailable", message, shown_uri(video.uri))


def _package(context: Context, video: Video) -> PackagedVideo:
    media = context.config.shard.media
    if _needs_mp4(context.config, video):
        made = _write_mp4(context, video)
        address = context.files.put_file(made)
        return _row(video, video.packaging, address, Path(address).stem, made.stat().st_size)
    if media is Media.ORIGINAL:
        return _row(video, Packaging.KEEP, None, video.sha256, video.size_bytes)
    if media is Media.NONE:
        return _row(video, None, None, None, None)
    assert video.proxy_uri is not None  # BuildConfig ensures it
    width, height = proxy_size(video.width, video.height)
    scaled = {"width": width, "height": height, "fps": min(video.fps, FPS)}
    return _row(video, None, video.proxy_uri, Path(video.proxy_uri).stem, None).model_copy(update=scaled)


def _needs_mp4(config: BuildConfig, video: Video) -> bool:
    """Whether an MP4 must be made. Otherwise the row only names a file that exists, and no video is opened."""
    return config.shard.media is Media.ORIGINAL and video.packaging is not Packaging.KEEP


def time_limit(video: Video) -> float:
    """Time limit for packaging a video, in seconds: much more than it takes, so that only a hang reaches it.

    The source is fetched, read and written at `_BYTES_PER_SECOND` or faster, and each megapixel of a frame is decoded,
    encoded and read back within `_SECONDS_PER_MEGAPIXEL`.
    """
    megapixels = video.frame_count * video.width * video.height / 1e6
    seconds = 3600 + video.size_bytes / _BYTES_PER_SECOND + megapixels * _SECONDS_PER_MEGAPIXEL
    return min(seconds, LONGEST_SECONDS)


def _row(
    video: Video, packaging: Packaging | None, media_uri: str | None, sha256: str | None, size_bytes: int | None
) -> PackagedVideo:
    return PackagedVideo(
        video_id=video.video_id,
        packaging=packaging,
        media_uri=media_uri,
        sha256=sha256,
        size_bytes=size_bytes,
        width=video.width,
        height=video.height,
        fps=video.fps,
    )


def _write_mp4(context: Context, video: Video) -> Path:
    """Write the source as an MP4 and return its path. All records must have the same suffixes.

    Raises:
        SourceUnavailable: the source is missing or has changed since `ingest`.
        UnreadableVideo: the source cannot be read.
        MediaError: the MP4 cannot be made.
        FfmpegError: ffmpeg failed.
    """
    source = probe(unpack(context.sources.fetch_video(video, context.scratch), context.scratch / "unpacked"))
    if video.formats:
        source = source.with_formats(video.formats)
    times_us = source.index.frame_times_us
    if video.proxy_uri is not None:  # every frame was decoded
        times_us = read_analysis(context.files.fetch(video.analysis_uri, context.scratch)).times_us
    target = context.scratch / "made" / "media.mp4"  # separate from the fetched source, whatever the source's name is
    target.parent.mkdir()
    write_media(source, video.packaging, times_us, target)
    return target


STAGE = Stage(
    name="package",
    version=1,
    row=PackagedVideo,
    reads={"videos": "ingest"},
    run=run,
    requires_rows_of="difficulty",
    section=lambda config: config.shard.media,
    tools=(ffmpeg_version, pyav_version),
    isolated=True,
    opens_video=_needs_mp4,
    timeout_seconds=time_limit,
)
