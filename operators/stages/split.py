"""Video -> Clip: plans clips of about ten seconds along the shots of a video, and writes each to a file.

Nothing is decoded to plan them, because shots are found in the measurements of stage `ingest`. Clips tile the video
even if a file fails: a clip that could not be written remains as a span of its source, and the failure becomes an
additional reject.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext

import numpy as np
from numpy.typing import NDArray

from operators.execution.progress import ProgressLogger
from operators.execution.stage import Context, Stage
from operators.store.content_store import SourceUnavailable
from operators.video.analysis.analysis import Analysis
from operators.video.analysis.analysis_file import read_analysis
from operators.video.clips.cut import CutError, Cutter, open_cutter
from operators.video.clips.planning import ClipSpan, plan_clips
from operators.video.decode.ffmpeg import ffmpeg_version, pyav_version
from operators.video.decode.packets import UnreadableVideo
from operators.video.decode.probe import VideoProbe, probe
from operators.video.decode.unpack import unpack
from schemas.config import Decode
from schemas.tables import Clip, Cut, Reject, Video


def run(context: Context, videos: Sequence[Video]) -> Iterator[Clip | Reject]:
    """Yield all clips of each video, in order of time, and rejects for unreadable videos and failed files."""
    for video in videos:
        try:
            yield from _cut_video(context, video)
        except (SourceUnavailable, UnreadableVideo) as error:
            yield context.reject(video.video_id, error.reason, f"{video.video_id}: {error}")


def _cut_video(context: Context, video: Video) -> Iterator[Clip | Reject]:
    settings = context.config.split
    every_frame = settings.decode is Decode.EVERY_FRAME
    analysis = read_analysis(context.files.fetch(video.analysis_uri, context.scratch))
    # With key frames only, nothing between them was decoded, so a shot may start without a descriptor of its own.
    shot_starts_us = analysis.shot_starts(settings.detector, settings.shot_threshold)
    visual_distance = analysis.shot_boundary_distance(shot_starts_us).tolist() if every_frame else None
    format_starts_us = [each.start_us for each in analysis.formats]
    spans = plan_clips(video.duration_us, shot_starts_us, settings, visual_distance, format_starts_us)
    if every_frame and not settings.write_clips:
        for index, span in enumerate(spans):
            yield _clip(video, index, span, analysis, analysis.times_us)
        return
    fetched = context.sources.fetch(video.video_id, video.uri, context.scratch)
    source = probe(unpack(fetched, context.scratch / "unpacked")).with_formats(analysis.formats)
    _assert_unchanged(video, source)
    times_us = analysis.times_us if every_frame else source.index.frame_times_us
    progress = ProgressLogger(f"{context.stage} {video.video_id}", video.duration_us)
    damaged_us = analysis.damaged_us if every_frame else None
    with open_cutter(source, times_us, damaged_us) if settings.write_clips else nullcontext() as cutter:
        for index, span in enumerate(spans):
            clip = _clip(video, index, span, analysis, times_us, seen=every_frame)
            yield from _write_clip(context, cutter, clip) if cutter else [clip]
            progress.update(span.end_us)


def _assert_unchanged(video: Video, source: VideoProbe) -> None:
    """Check that the source still matches what `ingest` recorded, including the chosen streams.

    Raises:
        SourceUnavailable: with reason `source_changed`, a property differs.
    """
    names = ("video_stream", "audio_stream", "codec", "width", "height", "frame_count", "duration_us")
    for name in names:
        if (then := getattr(video, name)) != (now := getattr(source, name)):
            raise SourceUnavailable(
                "source_changed",
                f"{source.path.name} has changed since it was ingested: its {name} is {now}, not {then}; run the build "
                f"again",
            )


def _clip(
    video: Video, index: int, span: ClipSpan, analysis: Analysis, times_us: NDArray[np.int64], seen: bool = True
) -> Clip:
    """A clip as a span of its source, without a file.

    Args:
        times_us: start times of all frames of the video, ascending.
        seen: all frames were decoded, so that motion and frozen stretches are known.
    """
    statistics = analysis.statistics(span.start_us, span.end_us)
    first, beyond = np.searchsorted(times_us, (span.start_us, span.end_us)).tolist()
    return Clip(
        clip_id=f"{video.video_id}_{span.start_us:012d}",
        video_id=video.video_id,
        index=index,
        start_us=span.start_us,
        end_us=span.end_us,
        boundary=span.boundary,
        shot_starts_us=span.shot_starts_us,
        cut=Cut.NONE,
        uri=None,
        frame_count=beyond - first,
        motion=statistics.motion if seen else None,
        sharpness=statistics.sharpness,
        brightness=statistics.brightness,
        black=statistics.black,
        frozen=statistics.frozen if seen else None,
    )


def _write_clip(context: Context, cutter: Cutter, clip: Clip) -> Iterator[Clip | Reject]:
    """Yield the clip with its file, or a reject with the reason and then the clip without a file."""
    folder = context.scratch / "clips"  # separate from the fetched source, whatever the source's name is
    folder.mkdir(exist_ok=True)
    target = folder / f"{clip.clip_id}.mp4"
    try:
        cut = cutter.cut(clip.start_us, clip.end_us, target)
        yield clip.model_copy(update={"cut": cut, "uri": context.files.put_file(target)})
    except CutError as error:
        yield context.reject(clip.clip_id, "cut_failed", f"clip {error}")
        yield clip
    finally:
        target.unlink(missing_ok=True)


STAGE = Stage(
    name="split",
    version=3,
    row=Clip,
    reads={"videos": "ingest"},
    run=run,
    section=lambda config: config.split,
    tools=(ffmpeg_version, pyav_version),
    isolated=True,
)
