"""Clip -> Caption: describes what is seen in each clip of a video.

With a captioner, the caption is its description of evenly spaced frames. Without one, measurements are put into
sentences: on-screen text with its times, dominant colours, faces, light, movement and cuts. In both cases all times are
on the video's timeline, and speech from the video's annotations is added.

Frames are read from the video's proxy, unless the configuration requires more or larger ones. All frames are decoded
before the first caption is yielded, so that either all clips of a video are captioned or none.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

from operators.execution.progress import ProgressLogger
from operators.execution.stage import SOURCE, Context, Stage
from operators.models.client import Answer, Refusal, Request
from operators.models.session import MEASURED
from operators.store.content_store import SourceUnavailable
from operators.video.analysis.proxy import SIDE
from operators.video.decode.packets import UnreadableVideo
from operators.video.timecode import format_time
from operators.vision.colours import dominant_colours
from operators.vision.faces import FaceDetector
from operators.vision.frame_selection import ClipFrame, sample_clip_frames
from operators.vision.ocr import Reading, TextReader, track, within
from operators.vision.request_frames import encode_frames, fetch_frame_source
from operators.vision.sentences import describe
from schemas.answers import ClipDescription, SeenObject, SeenText
from schemas.base import Box, Row, Span
from schemas.config import Role
from schemas.provenance import Provenance
from schemas.tables import Annotation, Caption, CaptionStatus, Clip, DetectedObject, ScreenText, Source, Video

MEASURED_SIDE = SIDE
"""Longest side in pixels of the frames that are measured. On-screen text must stay legible."""
MEASURED_MULTIPLE = 2
"""Sides of measured frames are multiples of this. 2 matches the proxy, whose frames are measured without rescaling."""
FACES_PER_CLIP = 2
"""Number of frames of a clip that are searched for faces."""
UNSCORED = 1.0
"""Score of objects and texts from a captioner, which gives no scores."""
SHOWN_STEP_US = 10_000
"""Resolution of the times in the captioner's prompt: hundredths of a second, rounded down."""
BOX_SLACK = 0.02
"""Tolerance for a box's edges outside the picture, as a fraction of its side. Such edges are moved to the border."""
HINTS = frozenset({"caption", "narration", "speech"})
"""Kinds of annotations in the captioner's prompt. A summary of the whole video would leak into every clip."""


def run(context: Context, videos: Sequence[Video], clips: Sequence[Clip], sources: Sequence[Source]) -> Iterator[Row]:
    """Yield a caption for every clip, or a reject where the captioner refuses.

    A video that cannot be read yields a single reject.
    """
    notes_of = {source.source_id: source.annotations for source in sources}
    caption = _describe_clips if Role.CAPTIONER in context.models else _measure_clips
    for video in videos:
        try:
            yield from caption(context, video, clips, notes_of[video.video_id])
        except (SourceUnavailable, UnreadableVideo) as error:
            yield context.reject(video.video_id, error.reason, f"video {video.video_id}: {error}")


@dataclass(frozen=True)
class Measures:
    """The measurements of one clip, before texts are tracked from clip to clip."""

    clip: Clip
    times_us: tuple[int, ...]
    colours: tuple[str, ...]
    faces: tuple[tuple[DetectedObject, ...], ...]
    """Detected faces of each frame that was searched."""
    readings: tuple[tuple[Span, tuple[Reading, ...]], ...]
    """Cell and text lines of each frame."""


def _measure_clips(
    context: Context, video: Video, clips: Sequence[Clip], notes: Sequence[Annotation]
) -> Iterator[Caption]:
    measures = list(_measures(context, video, clips))
    texts = track(reading for each in measures for reading in each.readings)
    for each in measures:
        visible = within(texts, each.clip.start_us, each.clip.end_us)
        yield _caption(
            video,
            each.clip,
            notes,
            text=describe(each.clip, each.colours, max(map(len, each.faces)), visible),
            objects=tuple(face for faces in each.faces for face in faces),
            screen_texts=visible,
            colours=each.colours,
            times_us=each.times_us,
            provenance=Provenance(model="measured"),
        )


def _measures(context: Context, video: Video, clips: Sequence[Clip]) -> Iterator[Measures]:
    reader, detector = TextReader(), FaceDetector()
    fps = context.config.caption.text_fps
    path = fetch_frame_source(context, video, fps, MEASURED_SIDE)
    counts = [max(1, round((clip.end_us - clip.start_us) * fps / 1_000_000)) for clip in clips]
    progress = ProgressLogger(f"{context.stage} {video.video_id}", video.duration_us)
    for clip, samples in zip(
        clips, sample_clip_frames(path, clips, counts, MEASURED_SIDE, MEASURED_MULTIPLE), strict=True
    ):
        searched = sorted({len(samples) * (2 * i + 1) // (2 * FACES_PER_CLIP) for i in range(FACES_PER_CLIP)})
        yield Measures(
            clip=clip,
            times_us=tuple(each.time_us for each in samples),
            colours=dominant_colours(each.rgb for each in samples),
            faces=tuple(detector.detect(samples[i].rgb, samples[i].time_us) for i in searched),
            readings=tuple((each.cell, reader.read(each.rgb)) for each in samples),
        )
        progress.update(clip.end_us)


@dataclass(frozen=True)
class ClipRequest:
    """The request to the captioner for one clip, and the data that is needed to interpret its answer."""

    clip: Clip
    request: Request
    cells: tuple[Span, ...]
    """Cells of the request's frames."""
    width: int
    height: int
    """Height and width of the request's frames in pixels."""
    colours: tuple[str, ...]


def _describe_clips(
    context: Context, video: Video, clips: Sequence[Clip], notes: Sequence[Annotation]
) -> Iterator[Row]:
    settings = context.config.caption
    counts = [settings.frames_per_clip] * len(clips)
    path = fetch_frame_source(
        context, video, settings.frames_per_clip / context.config.split.clip_seconds, settings.frame_side
    )
    sampled = sample_clip_frames(path, clips, counts, settings.frame_side)
    requests = [_make_request(context, clip, samples, notes) for clip, samples in zip(clips, sampled, strict=True)]
    answers = context.models[Role.CAPTIONER].call([each.request for each in requests])
    for clip_request, answer in zip(requests, answers, strict=True):
        if isinstance(answer, Refusal):
            yield context.refuse(f"clip {clip_request.clip.clip_id}", answer)
        else:
            yield _read_caption(video, clip_request, answer, notes)


def _make_request(
    context: Context, clip: Clip, samples: Sequence[ClipFrame], notes: Sequence[Annotation]
) -> ClipRequest:
    prompt = context.prompts["caption"]
    hints = [
        {"kind": note.kind, "start": format_time(note.start_us), "end": format_time(note.end_us), "text": note.text}
        for note in _within(clip, notes, HINTS)
    ]
    text = prompt.render(
        frames=len(samples), start=format_time(clip.start_us), end=format_time(clip.end_us), hints=hints
    )
    frames = encode_frames(samples)
    height, width = samples[0].rgb.shape[:2]
    return ClipRequest(
        clip=clip,
        request=Request(clip.clip_id, prompt, text, frames, seed=context.seed("caption", clip.clip_id)),
        cells=tuple(each.cell for each in samples),
        width=width,
        height=height,
        colours=dominant_colours(each.rgb for each in samples),
    )


def _read_caption(video: Video, clip_request: ClipRequest, answer: Answer, notes: Sequence[Annotation]) -> Caption:
    """The captioner's answer as a caption.

    Objects and texts with times outside the clip or boxes outside the picture are dropped. The provenance keeps the raw
    answer.
    """
    description = cast(ClipDescription, answer.value)
    return _caption(
        video,
        clip_request.clip,
        notes,
        text=description.text,
        objects=tuple(thing for seen in description.objects if (thing := _object(clip_request, seen))),
        screen_texts=tuple(words for seen in description.on_screen_text if (words := _screen_text(clip_request, seen))),
        colours=clip_request.colours,
        times_us=tuple(frame.time_us for frame in clip_request.request.frames),
        status=CaptionStatus.TRUNCATED if answer.truncated else CaptionStatus.OK,
        provenance=answer.provenance,
    )


def _object(clip_request: ClipRequest, seen: SeenObject) -> DetectedObject | None:
    index, box = _frame_index(clip_request, seen.time), _box(clip_request, seen.box)
    if index is None or box is None or not seen.label.strip():
        return None
    time_us = clip_request.request.frames[index].time_us
    return DetectedObject(label=seen.label.strip(), box=box, time_us=time_us, score=UNSCORED)


def _screen_text(clip_request: ClipRequest, seen: SeenText) -> ScreenText | None:
    first, last, box = (
        _frame_index(clip_request, seen.first),
        _frame_index(clip_request, seen.last),
        _box(clip_request, seen.box),
    )
    if first is None or last is None or last < first or box is None or not seen.text.strip():
        return None
    start_us, end_us = clip_request.cells[first].start_us, clip_request.cells[last].end_us
    return ScreenText(start_us=start_us, end_us=end_us, text=seen.text.strip(), box=box, score=UNSCORED)


def _frame_index(clip_request: ClipRequest, words: str) -> int | None:
    """Index of the frame nearest to a time such as `01:12.40`; None when it is not a time inside the clip."""
    # The digits are bounded because an endless number from the model would become infinite.
    match = re.fullmatch(r"\[?((?:\d{1,6}:){0,2}\d{1,6}(?:\.\d{1,20})?)\]?", words.strip())
    if match is None:
        return None
    parts = reversed(match[1].split(":"))
    time_us = round(sum(float(part) * 60**power for power, part in enumerate(parts)) * 1_000_000)
    if not clip_request.clip.start_us - SHOWN_STEP_US < time_us < clip_request.clip.end_us:
        return None
    frames = clip_request.request.frames
    return min(range(len(frames)), key=lambda i: abs(frames[i].time_us - time_us))


def _box(clip_request: ClipRequest, corners: Sequence[float]) -> Box | None:
    """A box from corners in fractions or, if any exceeds 2, in pixels; None when it lies outside the picture."""
    if len(corners) != 4:
        return None
    in_pixels = max(corners) > 2
    x0, y0, x1, y1 = corners
    scale_x, scale_y = (clip_request.width, clip_request.height) if in_pixels else (1, 1)
    edges = (x0 / scale_x, y0 / scale_y, x1 / scale_x, y1 / scale_y)
    if not all(-BOX_SLACK <= edge <= 1 + BOX_SLACK for edge in edges) or x1 <= x0 or y1 <= y0:
        return None
    left, top, right, bottom = (min(max(edge, 0.0), 1.0) for edge in edges)
    return Box(x0=left, y0=top, x1=right, y1=bottom)


def _within(clip: Clip, notes: Sequence[Annotation], kinds: Collection[str]) -> list[Annotation]:
    """Annotations of the given kinds that overlap the clip."""
    return [
        note for note in notes if note.kind in kinds and note.start_us < clip.end_us and note.end_us > clip.start_us
    ]


def _caption(
    video: Video,
    clip: Clip,
    notes: Sequence[Annotation],
    *,
    text: str,
    objects: tuple[DetectedObject, ...],
    screen_texts: tuple[ScreenText, ...],
    colours: tuple[str, ...],
    times_us: tuple[int, ...],
    provenance: Provenance,
    status: CaptionStatus = CaptionStatus.OK,
) -> Caption:
    return Caption(
        clip_id=clip.clip_id,
        video_id=video.video_id,
        start_us=clip.start_us,
        end_us=clip.end_us,
        text=text,
        objects=objects,
        screen_texts=screen_texts,
        colours=colours,
        speech=" ".join(note.text for note in _within(clip, notes, {"speech"})),
        frame_times_us=times_us,
        status=status,
        provenance=provenance,
    )


STAGE = Stage(
    name="caption",
    version=1,
    row=Caption,
    reads={"videos": "ingest", "clips": "split", "sources": SOURCE},
    source_columns=("source_id", "annotations"),
    run=run,
    section=lambda config: [config.caption, config.split.clip_seconds],
    prompts=("caption",),
    roles=(Role.CAPTIONER,),
    uses_models=lambda config: config.models.captioner.model != MEASURED,
    isolated=True,
)
