"""Source -> Video: opens the file, decodes it once, and computes a hash of its bytes and one of its appearance.

The results of this decode are stored with the row: an analysis, from which `split` makes clips, and a proxy, from which
captions are made. When later stages run again with other settings, they do not decode the source again. With
`split.decode=key_frames` there is no proxy, and captions are made from the source.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from operators.execution.progress import ProgressLogger
from operators.execution.stage import SOURCE, Context, Stage
from operators.store.content_store import sha256_of_file
from operators.video.analysis.analysis_file import write_analysis
from operators.video.analysis.decode_once import DecodedVideo, decode_once
from operators.video.clips.packaging import packaging
from operators.video.decode.ffmpeg import pyav_version
from operators.video.decode.packets import UnreadableVideo
from operators.video.decode.probe import probe
from operators.video.decode.unpack import unpack
from schemas.base import Span
from schemas.config import BuildConfig, Detector
from schemas.tables import Reject, Source, Video
from schemas.video.clock import SECOND_US

log = logging.getLogger(__name__)


def run(context: Context, sources: list[Source]) -> Iterator[Video | Reject]:
    """Yield a video for each readable source, and a reject with the reason for each other source.

    A source of which less than half cannot be read has both a video and a reject.
    """
    for source in sources:
        try:
            fetched = context.sources.fetch(source.source_id, source.uri, context.scratch)
            measured = probe(unpack(fetched, context.scratch / "unpacked"))
            if measured.other_pictures:
                log.info(
                    "%s: of %d video streams, stream %d (%dx%d) is used and published",
                    *(source.source_id, measured.other_pictures + 1, measured.video_stream),
                    *(measured.width, measured.height),
                )
            folder = context.scratch / "made"  # separate from the fetched source, whatever the source's name is
            folder.mkdir(exist_ok=True)
            progress = ProgressLogger(f"{context.stage} {source.source_id}", measured.duration_us)
            split = context.config.split
            decoded = decode_once(measured, split, folder / "proxy.mp4", progress.update, context.cores)
            yield from _reject_unreadable_part(context, source, decoded)
            yield _video(context, source, fetched, decoded, folder)
        except UnreadableVideo as error:
            yield context.reject(source.source_id, error.reason, f"{source.source_id}: {error}")


def _reject_unreadable_part(context: Context, source: Source, decoded: DecodedVideo) -> Iterator[Reject]:
    """Yield a reject in addition to the video when a part of it is missing or unreadable.

    Raises:
        UnreadableVideo: with reason `damaged`, half of the video or more is lost.
    """
    measured = decoded.video
    promised_us = measured.duration_us + measured.index.missing_us
    lost_us = measured.index.missing_us + decoded.analysis.unreadable_us
    loss = f"{lost_us / SECOND_US:.1f} s of {promised_us / SECOND_US:.1f} s cannot be read"
    if 2 * lost_us >= promised_us:
        raise UnreadableVideo("damaged", f"{measured.path.name}: {loss}; fetch it again")
    if lost_us:
        message = f"{source.source_id}: {loss}; the rest is used, fetch the file again to have it whole"
        yield context.reject(source.source_id, "partly_damaged", message)


def _video(context: Context, source: Source, fetched: Path, decoded: DecodedVideo, folder: Path) -> Video:
    measured, analysis = decoded.video, decoded.analysis
    index = measured.index
    columns = folder / "analysis.npz"
    write_analysis(analysis, columns)
    aspect = measured.sample_aspect
    return Video(
        video_id=source.source_id,
        uri=source.uri,
        sha256=sha256_of_file(fetched),
        perceptual_hash=analysis.perceptual_hash(),
        size_bytes=fetched.stat().st_size,
        duration_us=measured.duration_us,
        start_us=measured.start_us,
        missing_us=index.missing_us,
        unreadable_us=analysis.unreadable_us,
        gaps=tuple(Span(start_us=start_us, end_us=end_us) for start_us, end_us in index.gaps_us.tolist()),
        video_stream=measured.video_stream,
        other_pictures=measured.other_pictures,
        audio_stream=measured.audio_stream,
        edited=measured.edited,
        key_frame_count=len(index.key_frame_times_us),
        longest_gop_us=measured.longest_gop_us,
        open_gops=bool(index.open_gops.any()),
        width=measured.width,
        height=measured.height,
        sample_aspect=f"{aspect.numerator}:{aspect.denominator}",
        fps=measured.fps,
        variable_frame_rate=measured.variable_frame_rate,
        frame_count=measured.frame_count,
        rotation=measured.rotation,
        mirrored=measured.mirrored,
        interlaced=measured.interlaced,
        codec=measured.codec,
        pixel_format=measured.pixel_format,
        bit_depth=measured.bit_depth,
        primaries=measured.primaries,
        transfer=measured.transfer,
        formats=measured.formats if len(measured.formats) > 1 else (),
        audio_codec=measured.audio_codec,
        audio_tracks=measured.audio_tracks,
        packaging=packaging(measured),
        analysis_uri=context.files.put_file(columns),
        proxy_uri=context.files.put_file(decoded.proxy.path) if decoded.proxy else None,
    )


def _section(config: BuildConfig) -> list[str | bool]:
    """The settings that determine how the video is decoded. Settings of shots and clips do not affect this stage."""
    return [config.split.decode, config.split.detector is Detector.TRANSNET]


STAGE = Stage(
    name="ingest",
    version=5,
    row=Video,
    reads={"sources": SOURCE},
    source_columns=("source_id", "uri", "fingerprint"),
    run=run,
    section=_section,
    tools=(pyav_version,),
    isolated=True,
)
