"""From a video to clips: finds its shots, plans clips of about ten seconds along them, and writes each as a file.

Clips tile the video whatever happens to single files: a clip that could not be written stays, as a span of its source,
and the failure is a reject beside it.
"""

from __future__ import annotations

from collections.abc import Iterator

from operators.stage import Context, Stage
from operators.video.analysis import Analysis, analyse
from operators.video.clips import ClipSpan, plan_clips
from operators.video.cut import CutError, cut_clip
from operators.video.packets import SECOND_US, UnreadableVideo
from operators.video.probe import VideoProbe, probe
from schemas.tables import Clip, Cut, Reject, Video


def run(context: Context, videos: list[Video]) -> Iterator[Clip | Reject]:
    """All clips of each video, in order of time."""
    config = context.config.split
    for video in videos:
        try:
            source = probe(context.files.fetch(video.uri, context.scratch))
            analysis = analyse(source, config.detector, config.threshold)
        except UnreadableVideo as error:
            yield context.reject(video.video_id, error.reason, f"{video.video_id}: {error}")
            continue
        if analysis.unreadable_us:
            yield context.reject(
                video.video_id,
                "partly_damaged",
                f"{video.video_id}: {analysis.unreadable_us / SECOND_US:.1f} s of "
                f"{source.duration_us / SECOND_US:.1f} s cannot be decoded; its clips are made from the rest, "
                f"fetch the file again to have it whole",
            )
        for index, span in enumerate(plan_clips(source.duration_us, analysis.shot_starts_us, config)):
            yield from _clip(context, video, index, span, source, analysis)


def _clip(
    context: Context, video: Video, index: int, span: ClipSpan, source: VideoProbe, analysis: Analysis
) -> Iterator[Clip | Reject]:
    clip_id = f"{video.video_id}_{span.start_us:012d}"
    statistics = analysis.statistics(span.start_us, span.end_us)
    uri: str | None = None
    if context.config.split.write_clips:
        folder = context.scratch / "clips"  # apart from a fetched source, whatever its name is
        folder.mkdir(exist_ok=True)
        target = folder / f"{clip_id}.mp4"
        try:
            cut_clip(source, analysis.times_us, span.start_us, span.end_us, target)
            uri = context.files.put_file(target)
        except CutError as error:
            yield context.reject(clip_id, "cut_failed", f"clip {error}")
        finally:
            target.unlink(missing_ok=True)
    yield Clip(
        clip_id=clip_id,
        video_id=video.video_id,
        index=index,
        start_us=span.start_us,
        end_us=span.end_us,
        boundary=span.boundary,
        shot_starts_us=tuple(shot for shot in analysis.shot_starts_us if span.start_us <= shot < span.end_us),
        cut=Cut.NONE if uri is None else Cut.ENCODE,
        uri=uri,
        frame_count=statistics.frame_count,
        motion=statistics.motion,
        sharpness=statistics.sharpness,
        brightness=statistics.brightness,
    )


STAGE = Stage(
    name="split",
    version=1,
    row=Clip,
    reads=("ingest",),
    run=run,
    section=lambda config: config.split,
    isolated=True,
)
