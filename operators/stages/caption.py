"""Clip -> Caption: describes what is seen and heard in each clip of a video.

With a captioner, the caption is its description of frames that are chosen by shot, or of the clip's file. Without one,
measurements are put into sentences: on-screen text with its times, dominant colours, faces, light, movement and cuts.
With `caption.source=annotations`, dense captions of the source list take the place of either
(`operators.vision.dense_captions`); a clip that none of them covers has a measured caption. In all cases times are on
the video's timeline, and speech is added, from annotations or a transcription endpoint. On-screen text is also read by
program where a captioner is used, and stored apart from what the captioner reports.

A captioner's answer that is no description of its clip (`operators.vision.caption_quality`) is requested again with
other sampling and another seed, at most `MAX_ATTEMPTS` times in all, and then rejected. Other clips of the video are
not affected.

Frames are read from the video's proxy, unless the configuration requires more or larger ones. Where frames for the
captioner and for text are read from the same file, it is decoded once. A request is sent as soon as the frames of its
clip are decoded. Rows are yielded when all clips of a video are finished, so that either all of them are captioned or
none.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import assert_never, cast

import numpy as np
from numpy.typing import NDArray

from operators.execution.progress import ProgressLogger
from operators.execution.stage import SOURCE, Context, Stage
from operators.models.client import Answer, Refusal, Request
from operators.models.session import MEASURED
from operators.speech.sharing import share_speech
from operators.speech.transcription import SpeechRefused, speech_endpoint, transcribe
from operators.store.content_store import SourceUnavailable
from operators.video.analysis.proxy import SIDE
from operators.video.decode.packets import UnreadableVideo
from operators.video.timecode import format_time
from operators.vision.boxes import box_convention
from operators.vision.caption_quality import CaptionFault, find_copy, find_fault, picture_difference, thumbnails
from operators.vision.colours import dominant_colours
from operators.vision.dense_captions import compose_caption
from operators.vision.description import ShownPictures, read_description
from operators.vision.faces import FaceDetector
from operators.vision.frame_selection import (
    ClipFrame,
    FrameSampling,
    sample_clip_frames,
    spread,
    spread_over_shots,
)
from operators.vision.ocr import Reading, TextReader, track, within
from operators.vision.request_frames import encode_frames, fetch_frame_source, fetch_source, proxy_suffices
from operators.vision.sentences import describe
from schemas.answers import ClipDescription
from schemas.base import Row, Span
from schemas.config import BuildConfig, CaptionInput, CaptionSource, Role, Speech
from schemas.provenance import Provenance
from schemas.tables import Annotation, Caption, CaptionStatus, Clip, DetectedObject, Source, Video

MEASURED_SIDE = SIDE
"""Longest side in pixels of the frames that are measured. On-screen text must stay legible."""
MEASURED_MULTIPLE = 2
"""Sides of measured frames are multiples of this. 2 matches the proxy, whose frames are measured without rescaling."""
FACES_PER_CLIP = 2
"""Number of frames of a clip that are searched for faces."""
HINTS = frozenset({"caption", "narration"})
"""Kinds of annotations in the captioner's prompt, in addition to speech. A summary of the whole video would leak into
every clip."""
RETRY_SAMPLING = ({"temperature": 0.7, "top_p": 0.95}, {"temperature": 1.0, "top_p": 0.95})
"""What differs in each further request for a clip. Greedy decoding would give the same answer again."""
CLIP_CELL_US = 500_000
"""Resolution of the times in the captioner's answer if it got the clip's file: Qwen-VL samples two frames a second."""
LOOP_PENALTY = 0.5
"""Presence penalty of the request after an answer that repeats itself. It takes off the same for every token that the
answer has already, so that JSON stays possible."""
MAX_ATTEMPTS = 1 + len(RETRY_SAMPLING)
"""Maximum number of requests for a clip."""
ANNOTATED = "annotations"
"""Name in the provenance of captions that dense captions gave, in place of a model's."""


def run(context: Context, videos: Sequence[Video], clips: Sequence[Clip], sources: Sequence[Source]) -> Iterator[Row]:
    """Yield a caption for every clip, or a reject where the captioner refuses.

    A video that cannot be read yields a single reject.
    """
    notes_of = {source.source_id: source.annotations for source in sources}
    is_annotated = context.config.caption.source is CaptionSource.ANNOTATIONS
    caption = _describe_clips if Role.CAPTIONER in context.models and not is_annotated else _measure_clips
    for video in videos:
        notes = notes_of[video.video_id]
        try:
            try:
                speech = _find_speech(context, video, notes)
            except SpeechRefused as refused:
                yield context.reject(video.video_id, refused.reason, f"video {video.video_id}: {refused}")
                speech = []
            yield from caption(context, video, clips, _share_notes(context.config, clips, notes, speech))
        except (SourceUnavailable, UnreadableVideo) as error:
            yield context.reject(video.video_id, error.reason, f"video {video.video_id}: {error}")


@dataclass(frozen=True)
class ClipNotes:
    """What is known of a clip from others."""

    hints: tuple[Annotation, ...]
    """For the captioner's prompt, in order of time."""
    speech: str
    """What is spoken in the clip, each passage with its speaker's name if that is known."""
    dense: str
    """The caption that the dense captions of the clip give; empty without any, or if they are not used."""


def _find_speech(context: Context, video: Video, notes: Sequence[Annotation]) -> list[Annotation]:
    """What is spoken in a video, from the source that is configured.

    Raises:
        SpeechRefused: the transcription endpoint does not accept the video's sound.
    """
    settings = context.config.caption
    match settings.speech:
        case Speech.NONE:
            return []
        case Speech.ANNOTATIONS:
            return [note for note in notes if note.kind == "speech"]
        case Speech.ENDPOINT if video.audio_stream is None:
            return []
        case Speech.ENDPOINT:
            endpoint = speech_endpoint(model=settings.speech_model)
            return transcribe(video, fetch_source(context, video), endpoint, journal=context.journal)
        case _:
            assert_never(settings.speech)


def _share_notes(
    config: BuildConfig, clips: Sequence[Clip], notes: Sequence[Annotation], speech: Sequence[Annotation]
) -> dict[str, ClipNotes]:
    """The notes of each clip, by its id. Speech is divided among the clips; other notes are whole in each."""
    captions = [note for note in notes if note.kind == "caption"]
    dense = captions if config.caption.source is CaptionSource.ANNOTATIONS else []
    found = {}
    for clip, spoken in zip(clips, share_speech(speech, clips), strict=True):
        others = [note for note in notes if note.kind in HINTS and _overlaps(note, clip)]
        named = [_name_speaker(note) for note in spoken]
        hints = sorted([*others, *named], key=lambda note: note.start_us)
        text = " ".join(note.text for note in named)
        found[clip.clip_id] = ClipNotes(tuple(hints), text, compose_caption(clip, dense))
    return found


def _name_speaker(note: Annotation) -> Annotation:
    return note.model_copy(update={"text": f"{note.speaker}: {note.text}"}) if note.speaker else note


def _overlaps(note: Annotation, clip: Clip) -> bool:
    return note.start_us < clip.end_us and note.end_us > clip.start_us


@dataclass(frozen=True)
class Measures:
    """The measurements of one clip, before texts are tracked from clip to clip."""

    clip: Clip
    times_us: tuple[int, ...]
    colours: tuple[str, ...]
    faces: tuple[tuple[DetectedObject, ...], ...]
    """Detected faces of each frame that was searched."""
    readings: tuple[tuple[Span, tuple[Reading, ...]], ...]
    """Cell and text lines of each frame; empty if no text is read."""


def _measure_clips(
    context: Context, video: Video, clips: Sequence[Clip], notes: Mapping[str, ClipNotes]
) -> Iterator[Caption]:
    measures = list(_measures(context, video, clips, notes))
    texts = track(reading for each in measures for reading in each.readings)
    for each in measures:
        clip, visible = each.clip, within(texts, each.clip.start_us, each.clip.end_us)
        dense = notes[clip.clip_id].dense
        yield Caption(
            clip_id=clip.clip_id,
            video_id=video.video_id,
            start_us=clip.start_us,
            end_us=clip.end_us,
            text=dense or describe(clip, each.colours, max(map(len, each.faces)), visible),
            objects=tuple(face for faces in each.faces for face in faces),
            screen_texts=visible,
            text_sample_times_us=each.times_us if each.readings else (),
            colours=each.colours,
            speech=notes[clip.clip_id].speech,
            frame_times_us=each.times_us,
            status=CaptionStatus.OK,
            provenance=Provenance(model=ANNOTATED if dense else MEASURED),
        )


def _measures(
    context: Context, video: Video, clips: Sequence[Clip], notes: Mapping[str, ClipNotes]
) -> Iterator[Measures]:
    read_clips = {clip.clip_id for clip in clips if context.config.caption.ocr or not notes[clip.clip_id].dense}
    reader, detector = TextReader() if read_clips else None, FaceDetector()
    sampling = _text_sampling(context, clips)
    path = fetch_frame_source(context, video, context.config.caption.text_fps, MEASURED_SIDE)
    progress = ProgressLogger(f"{context.stage} {video.video_id}", video.duration_us)
    for clip, (samples,) in zip(clips, sample_clip_frames(path, clips, [sampling]), strict=True):
        searched = sorted({len(samples) * (2 * i + 1) // (2 * FACES_PER_CLIP) for i in range(FACES_PER_CLIP)})
        yield Measures(
            clip=clip,
            times_us=tuple(each.time_us for each in samples),
            colours=dominant_colours(each.rgb for each in samples),
            faces=tuple(detector.detect(samples[i].rgb, samples[i].time_us) for i in searched),
            readings=tuple((each.cell, reader.read(each.rgb)) for each in samples)
            if reader and clip.clip_id in read_clips
            else (),
        )
        progress.update(clip.end_us)


def _text_sampling(context: Context, clips: Sequence[Clip]) -> FrameSampling:
    """Frames that are searched for text, about `text_fps` per second."""
    fps = context.config.caption.text_fps
    counts = [max(1, round((clip.end_us - clip.start_us) * fps / 1_000_000)) for clip in clips]
    cells = [spread(clip.start_us, clip.end_us, count) for clip, count in zip(clips, counts, strict=True)]
    return FrameSampling(cells, MEASURED_SIDE, MEASURED_MULTIPLE)


@dataclass(frozen=True)
class ClipRequest:
    """The request to the captioner for one clip, and the data that is needed to interpret its answer."""

    clip: Clip
    request: Request
    shown: ShownPictures
    colours: tuple[str, ...]
    speech: str
    thumbnails: NDArray[np.float32]


@dataclass(frozen=True)
class Attempted:
    """The outcome of the requests for one clip so far."""

    row: Row
    """The caption without measured texts, or a reject."""
    faults: tuple[CaptionFault, ...]
    """Faults of the answers before the last one; of all answers if the row is a reject for its fault."""


def _describe_clips(
    context: Context, video: Video, clips: Sequence[Clip], notes: Mapping[str, ClipNotes]
) -> Iterator[Row]:
    reader = TextReader() if context.config.caption.ocr else None
    readings: list[tuple[Span, tuple[Reading, ...]]] = []
    searched_us: dict[str, tuple[int, ...]] = {}
    progress = ProgressLogger(f"{context.stage} {video.video_id}", video.duration_us)
    concurrency = context.config.models.captioner.concurrency
    settled: list[Future[Attempted]] = []
    waiting: deque[tuple[ClipRequest, Future[Attempted]]] = deque()
    earlier: tuple[str, NDArray[np.float32]] | None = None

    with ThreadPoolExecutor(concurrency, thread_name_prefix="captioner") as pool:

        def settle_next() -> None:
            """Compare the next clip's caption with the one before it, and request a copy of that again."""
            nonlocal earlier
            clip_request, future = waiting.popleft()
            attempted = future.result()
            text = attempted.row.text if isinstance(attempted.row, Caption) else None
            if text is not None and earlier is not None:
                difference = picture_difference(clip_request.thumbnails, earlier[1])
                if copy := find_copy(text, earlier[0], difference):
                    faults = (*attempted.faults, copy)
                    future = pool.submit(_request_caption, context, clip_request, faults, (earlier[0], difference))
            earlier = None if text is None else (text, clip_request.thumbnails)
            settled.append(future)

        try:
            for clip, (samples, text_samples) in zip(clips, _read_frames(context, video, clips), strict=True):
                clip_request = _make_request(context, clip, samples, notes[clip.clip_id])
                waiting.append((clip_request, pool.submit(_request_caption, context, clip_request)))
                if reader:
                    readings += [(each.cell, reader.read(each.rgb)) for each in text_samples]
                    searched_us[clip.clip_id] = tuple(each.time_us for each in text_samples)
                while len(waiting) > concurrency:  # only requests in flight hold frames
                    settle_next()
                progress.update(clip.end_us)
            while waiting:
                settle_next()
            rows = [each.result().row for each in settled]
        finally:
            pool.shutdown(cancel_futures=True)
    texts = track(readings)
    for row in rows:
        if isinstance(row, Caption):
            row = row.model_copy(
                update={
                    "screen_texts": within(texts, row.start_us, row.end_us),
                    "text_sample_times_us": searched_us.get(row.clip_id, ()),
                }
            )
        yield row


def _read_frames(
    context: Context, video: Video, clips: Sequence[Clip]
) -> Iterator[tuple[list[ClipFrame], list[ClipFrame]]]:
    """Yield for each clip the frames that the captioner sees, and those that are searched for text."""
    settings = context.config.caption
    cells = [spread_over_shots(clip, settings.frames_per_clip) for clip in clips]
    seen = FrameSampling(cells, settings.frame_side)
    fps = settings.frames_per_clip / context.config.split.clip_seconds
    path = fetch_frame_source(context, video, fps, settings.frame_side)
    if not settings.ocr:
        yield from ((samples, []) for (samples,) in sample_clip_frames(path, clips, [seen]))
        return
    searched = _text_sampling(context, clips)
    if proxy_suffices(video, fps, settings.frame_side) == proxy_suffices(video, settings.text_fps, MEASURED_SIDE):
        yield from ((samples, texts) for samples, texts in sample_clip_frames(path, clips, [seen, searched]))
        return
    text_path = fetch_frame_source(context, video, settings.text_fps, MEASURED_SIDE)
    text_samples = sample_clip_frames(text_path, clips, [searched])
    for (samples,), (texts,) in zip(sample_clip_frames(path, clips, [seen]), text_samples, strict=True):
        yield samples, texts


def _make_request(context: Context, clip: Clip, samples: Sequence[ClipFrame], notes: ClipNotes) -> ClipRequest:
    prompt, settings = context.prompts["caption"], context.config.caption
    file = _read_clip(context, clip.uri) if settings.input is CaptionInput.CLIP and clip.uri is not None else None
    frames = encode_frames(samples) if file is None else ()
    clock_us = 0 if file is None else clip.start_us
    hints = [
        {
            "kind": note.kind,
            "start": format_time(max(0, note.start_us - clock_us)),
            "end": format_time(note.end_us - clock_us),
            "text": note.text,
        }
        for note in notes.hints
    ]
    height, width = samples[0].rgb.shape[:2]
    model = context.config.models.captioner.model
    convention = box_convention(model, settings.boxes, is_size_known=file is None)
    text = prompt.render(
        frames=len(frames),
        start=format_time(clip.start_us),
        end=format_time(clip.end_us),
        hints=hints,
        boxes=convention.value,
        width=width,
        height=height,
    )
    cells = [each.cell for each in samples]
    if file is not None:
        cells = spread(clip.start_us, clip.end_us, max(1, round((clip.end_us - clip.start_us) / CLIP_CELL_US)))
    shown = ShownPictures(
        start_us=clip.start_us,
        end_us=clip.end_us,
        cells=tuple(cells),
        times_us=tuple(frame.time_us for frame in frames)
        or tuple((cell.start_us + cell.end_us) // 2 for cell in cells),
        width=width,
        height=height,
        convention=convention,
        clock_us=clock_us,
    )
    return ClipRequest(
        clip=clip,
        request=Request(clip.clip_id, prompt, text, frames, context.seed("caption", clip.clip_id), file),
        shown=shown,
        colours=dominant_colours(each.rgb for each in samples),
        speech=notes.speech,
        thumbnails=thumbnails([each.rgb for each in samples]),
    )


def _read_clip(context: Context, uri: str) -> bytes:
    """The bytes of a clip's file. A copy of a remote one is removed, as an hour has hundreds."""
    folder = context.scratch / "clips"
    folder.mkdir(exist_ok=True)
    path = context.files.fetch(uri, folder)
    data = path.read_bytes()
    if path.is_relative_to(folder):
        path.unlink()
    return data


def _request_caption(
    context: Context,
    clip_request: ClipRequest,
    faults: tuple[CaptionFault, ...] = (),
    neighbour: tuple[str, float] | None = None,
) -> Attempted:
    """Request a caption until it has no fault, or `MAX_ATTEMPTS` are used up.

    Args:
        faults: faults of the earlier attempts, if there were any.
        neighbour: the caption before it, which it must not repeat, and the difference of the two clips' pictures.
    """
    clip = clip_request.clip
    raw, request_sha256 = "", ""
    while len(faults) < MAX_ATTEMPTS:
        (answer,) = context.models[Role.CAPTIONER].call([_vary_request(context, clip_request, faults)])
        if isinstance(answer, Refusal):
            return Attempted(context.refuse(f"clip {clip.clip_id}", answer), faults)
        text = cast(ClipDescription, answer.value).text
        fault = find_fault(text, is_truncated=answer.truncated, black=clip.black)
        if fault is None and neighbour is not None:
            fault = find_copy(text, *neighbour)
        if fault is None:
            return Attempted(_read_caption(clip_request, answer, faults), faults)
        faults = (*faults, fault)
        raw, request_sha256 = answer.provenance.raw, answer.provenance.request_sha256
    before = ", ".join(fault.reason for fault in faults[:-1])
    message = f"clip {clip.clip_id}: {faults[-1].message}; the answers before it: {before}"
    return Attempted(context.reject(clip.clip_id, faults[-1].reason, message, raw, request_sha256), faults)


def _vary_request(context: Context, clip_request: ClipRequest, faults: Sequence[CaptionFault]) -> Request:
    """The request for a clip, with other sampling and another seed after each answer with a fault."""
    attempt = len(faults)
    if attempt == 0:
        return clip_request.request
    prompt = clip_request.request.prompt
    sampling = prompt.sampling.model_copy(update=RETRY_SAMPLING[attempt - 1])
    if faults[-1].reason == "bad_caption_repetition":
        sampling = sampling.model_copy(update={"presence_penalty": LOOP_PENALTY})
    seed = context.seed("caption", clip_request.clip.clip_id, attempt)
    return replace(clip_request.request, prompt=replace(prompt, sampling=sampling), seed=seed)


def _read_caption(clip_request: ClipRequest, answer: Answer, faults: tuple[CaptionFault, ...]) -> Caption:
    """The captioner's answer as a caption. The provenance keeps the raw answer with everything that was dropped."""
    description = cast(ClipDescription, answer.value)
    clip, shown = clip_request.clip, clip_request.shown
    read = read_description(description, shown)
    return Caption(
        clip_id=clip.clip_id,
        video_id=clip.video_id,
        start_us=clip.start_us,
        end_us=clip.end_us,
        text=description.text,
        objects=read.objects,
        screen_texts=(),
        seen_texts=read.texts,
        colours=clip_request.colours,
        speech=clip_request.speech,
        frame_times_us=tuple(frame.time_us for frame in clip_request.request.frames),
        box_convention=shown.convention,
        dropped_boxes=read.dropped_objects,
        dropped_texts=read.dropped_texts,
        repaired=tuple(fault.reason for fault in faults),
        status=CaptionStatus.TRUNCATED if answer.truncated else CaptionStatus.OK,
        provenance=answer.provenance,
    )


STAGE = Stage(
    name="caption",
    version=2,
    row=Caption,
    reads={"videos": "ingest", "clips": "split", "sources": SOURCE},
    source_columns=("source_id", "annotations"),
    run=run,
    section=lambda config: [config.caption, config.split.clip_seconds],
    prompts=("caption",),
    roles=(Role.CAPTIONER,),
    uses_models=lambda config: (
        config.models.captioner.model != MEASURED and config.caption.source is CaptionSource.MODEL
    ),
    isolated=True,
)
