"""From a video to clips: plans clips of about ten seconds along its shots, and writes each as a file.

Nothing is decoded to find them: shots are judged by what the decode of `ingest` has measured. Clips tile the video
whatever happens to single files: a clip that could not be written stays, as a span of its source, and the failure is a
reject beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext

import numpy as np
from numpy.typing import NDArray

from operators.pace import Pace
from operators.stage import Context, Stage
from operators.video.analysis import Analysis
from operators.video.analysis_file import read_analysis
from operators.video.clips import ClipSpan, plan_clips
from operators.video.cut import CutError, Cutter, open_cutter
from operators.video.ffmpeg import ffmpeg_version, pyav_version
from operators.video.packets import UnreadableVideo
from operators.video.probe import VideoProbe, probe
from operators.video.unpack import unpack
from schemas.config import Decode
from schemas.tables import Clip, Cut, Reject, Video


def run(context: Context, videos: Sequence[Video]) -> Iterator[Clip | Reject]:
    """All clips of each video, in order of time."""
    for video in videos:
        try:
            yield from _clips(context, video)
        except UnreadableVideo as error:
            yield context.reject(video.video_id, error.reason, f"{video.video_id}: {error}")


def _clips(context: Context, video: Video) -> Iterator[Clip | Reject]:
    settings = context.config.split
    every_frame = settings.decode is Decode.EVERY_FRAME
    analysis = read_analysis(context.files.fetch(video.analysis_uri, context.scratch))
    # Between key frames nothing was seen, so that a shot may begin without a look of its own.
    shot_starts_us = analysis.shot_starts(settings.detector, settings.shot_threshold)
    unlikeness = analysis.shot_unlikeness(shot_starts_us).tolist() if every_frame else None
    format_starts_us = [each.start_us for each in analysis.formats]
    spans = plan_clips(video.duration_us, shot_starts_us, settings, unlikeness, format_starts_us)
    if every_frame and not settings.write_clips:
        for index, span in enumerate(spans):
            yield _clip(video, index, span, analysis, analysis.times_us)
        return
    fetched = context.sources.fetch(video.video_id, video.uri, context.scratch)
    source = probe(unpack(fetched, context.scratch / "unpacked")).with_formats(analysis.formats)
    _refuse_changed(video, source)
    times_us = analysis.times_us if every_frame else source.index.frame_times_us
    pace = Pace(f"{context.stage} {video.video_id}", video.duration_us)
    damaged_us = analysis.damaged_us if every_frame else None
    with open_cutter(source, times_us, damaged_us) if settings.write_clips else nullcontext() as cutter:
        for index, span in enumerate(spans):
            clip = _clip(video, index, span, analysis, times_us, seen=every_frame)
            yield from _written(context, cutter, clip) if cutter else [clip]
            pace.reached(span.end_us)


def _refuse_changed(video: Video, source: VideoProbe) -> None:
    """The source must still be what was watched, to the choice of its picture."""
    names = ("video_stream", "audio_stream", "codec", "width", "height", "frame_count", "duration_us")
    for name in names:
        if (then := getattr(video, name)) != (now := getattr(source, name)):
            raise UnreadableVideo(
                "source_changed",
                f"{source.path.name} has changed since it was ingested: its {name} is {now}, not {then}; run the build "
                f"again",
            )


def _clip(
    video: Video, index: int, span: ClipSpan, analysis: Analysis, times_us: NDArray[np.int64], seen: bool = True
) -> Clip:
    """A clip as a span of its source.

    Args:
        times_us: of all frames of the video.
        seen: all of them were decoded.
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


def _written(context: Context, cutter: Cutter, clip: Clip) -> Iterator[Clip | Reject]:
    """The clip with its file; or as it was, after a reject that says why it has none."""
    folder = context.scratch / "clips"  # apart from a fetched source, whatever its name is
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
    reads=("ingest",),
    run=run,
    section=lambda config: config.split,
    tools=(ffmpeg_version, pyav_version),
    isolated=True,
)
