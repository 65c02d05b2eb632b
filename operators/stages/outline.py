"""Caption -> Outline: the scenes of a video, the people and things in it, and its category.

A program divides the video into scenes. The reasoner summarises each from its captions, links the people, animals,
things and places that the scenes mention, and names the kind of video, if the source's list does not. Without the
writer `model`, and where the reasoner fails, scenes are summarised by program: no failure of a model loses a video.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import cast

from operators.execution.stage import SOURCE, Context, Stage
from operators.models.client import Answer, Refusal, Request
from operators.questions import entities
from operators.questions.entities import link_entities, read_mention
from operators.questions.gates.wording import find_refusal
from operators.questions.scenes import plan_scenes
from operators.questions.story import (
    caption_line,
    fits,
    parts,
    room_left,
    story_room,
    summarize_by_program,
    write_summaries,
)
from operators.video.timecode import format_time
from schemas.answers import SceneSummary, VideoDescription
from schemas.base import Row
from schemas.config import Role, Writer
from schemas.provenance import Provenance, list_steps
from schemas.tables import Caption, Entity, Outline, Reject, Scene, Source, VideoCategory

SCENE_PROMPT = "scene_summary"
CATEGORY_PROMPT = "categorise"
MAX_TITLE = 300
"""Characters of a video's title that the model reads."""


def run(context: Context, captions: Sequence[Caption], sources: Sequence[Source]) -> Iterator[Row]:
    """Yield the outline of each video that has captions, and a reject for each part of it that a model did not make."""
    for source in sources:
        own = [caption for caption in captions if caption.video_id == source.source_id]
        if not own:
            continue
        scenes = plan_scenes(sorted(own, key=lambda caption: caption.start_us))
        if Writer.MODEL in context.config.question.writers:
            yield from _outline_with_model(context, source, scenes)
        else:
            summaries = [summarize_by_program(scene) for scene in scenes]
            yield _make_outline(source.source_id, source.category, "", scenes, [("", each) for each in summaries])


@dataclass
class _Piece:
    """Captions of a scene that fit into one request; all of them, as a rule. Title and summary are the model's."""

    scene: int
    captions: Sequence[Caption]
    title: str = ""
    summary: str = ""
    mentions: list[Entity] = field(default_factory=list)

    @property
    def start_us(self) -> int:
        return self.captions[0].start_us

    @property
    def end_us(self) -> int:
        return self.captions[-1].end_us


def _outline_with_model(context: Context, source: Source, scenes: Sequence[Sequence[Caption]]) -> Iterator[Row]:
    video_id = source.source_id
    pieces = _divide(context, scenes)
    provenance: list[Provenance] = []
    rejects: dict[str, Reject] = {}
    for found in _summarize(context, video_id, pieces):
        if isinstance(found, Reject):
            rejects.setdefault(found.key, found)  # one for each scene
        else:
            provenance.append(found)
    yield from rejects.values()
    texts = [_join([piece for piece in pieces if piece.scene == index]) for index in range(len(scenes))]
    links = link_entities(context, video_id, [piece.mentions for piece in pieces])
    yield from links.rejects
    provenance += links.provenance
    category, summary = source.category, " ".join(f"{title.rstrip('.')}." for title, _ in texts if title)
    if category is VideoCategory.UNKNOWN:
        answer = _describe_video(context, source, _make_outline(video_id, category, summary, scenes, texts).scenes)
        if isinstance(answer, Reject):
            yield answer
        else:
            described = cast(VideoDescription, answer.value)
            category, summary = described.category, " ".join(described.summary.split())
            provenance.append(answer.provenance)
    yield _make_outline(video_id, category, summary, scenes, texts, links.entities, provenance)


def _make_outline(
    video_id: str,
    category: VideoCategory,
    summary: str,
    scenes: Sequence[Sequence[Caption]],
    texts: Sequence[tuple[str, str]],
    found: Sequence[Entity] = (),
    provenance: Sequence[Provenance] = (),
) -> Outline:
    """The outline of a video from its scenes, and the title and summary of each."""
    return Outline(
        video_id=video_id,
        category=category,
        summary=summary,
        scenes=tuple(
            Scene(start_us=scene[0].start_us, end_us=scene[-1].end_us, title=title, summary=text)
            for scene, (title, text) in zip(scenes, texts, strict=True)
        ),
        entities=tuple(found),
        provenance=tuple(provenance),
        captioned_by=list_steps("caption", (caption.provenance for scene in scenes for caption in scene)),
    )


def _divide(context: Context, scenes: Sequence[Sequence[Caption]]) -> list[_Piece]:
    """All scenes as pieces that each fit into a request."""
    reasoner, room = context.models[Role.REASONER], _scene_room(context)
    return [_Piece(index, captions) for index, scene in enumerate(scenes) for captions in parts(reasoner, scene, room)]


def _scene_room(context: Context) -> int:
    prompt = context.prompts[SCENE_PROMPT]
    return story_room(context.models[Role.REASONER], prompt, start="0:00:00", end="0:00:00")


def _summarize(context: Context, video_id: str, pieces: Sequence[_Piece]) -> Iterator[Reject | Provenance]:
    """Summarise the pieces concurrently. Yields the provenance of each summary, or the reject of its piece."""
    reasoner, prompt, room = context.models[Role.REASONER], context.prompts[SCENE_PROMPT], _scene_room(context)
    requests: list[tuple[_Piece, Request]] = []
    for piece in pieces:
        story = "\n".join(map(caption_line, piece.captions))
        key = f"{video_id}_scene_{piece.scene:03d}"
        if len(piece.captions) == 1 and not fits(reasoner, story, room):
            yield context.reject(
                key,
                "context_too_small",
                f"{_name(video_id, piece)}: the context of {reasoner.model!r}, {reasoner.context_tokens} tokens, "
                f"leaves {room} for it, and one caption has more. Serve the model with a larger context",
            )
            continue
        text = prompt.render(story=story, start=format_time(piece.start_us), end=format_time(piece.end_us))
        requests.append((piece, Request(key, prompt, text, seed=context.seed("scene", video_id, piece.start_us))))
    for (piece, _), reply in zip(requests, reasoner.call([request for _, request in requests]), strict=True):
        yield _read_summary(context, _name(video_id, piece), piece, reply)


def _read_summary(context: Context, subject: str, piece: _Piece, reply: Answer | Refusal) -> Reject | Provenance:
    """Fill a piece from the model's answer. Of a summary that was cut off, the whole sentences are kept."""
    if isinstance(reply, Refusal):
        return context.refuse(subject, reply)
    written = cast(SceneSummary, reply.value)
    summary, seen = " ".join(written.summary.split()), written.entities
    if reply.truncated:
        summary = summary if seen else _keep_sentences(summary)
        seen = seen[:-1]
    key, raw, sha256 = reply.request.key, reply.provenance.raw, reply.provenance.request_sha256
    if not summary:
        message = f"{subject}: no sentence of it was complete; raise max_tokens of prompt {SCENE_PROMPT}"
        return context.reject(key, "truncated", message, raw, sha256)
    if found := find_refusal(summary):
        message = f"{subject}: it is a refusal ({found!r}); request it again with `lvr replay`"
        return context.reject(key, "refused_text", message, raw, sha256)
    piece.title, piece.summary = " ".join(written.title.split()), summary
    piece.mentions = [read_mention(each, piece.captions) for each in seen if each.name]
    return reply.provenance


def _keep_sentences(text: str) -> str:
    """A text up to its last mark at the end of a sentence; empty if it has none."""
    ends = [found.end() for found in re.finditer(r"[.!?](?=\s|$)|[。！？]", text)]
    return text[: ends[-1]] if ends else ""


def _name(video_id: str, piece: _Piece) -> str:
    times = f"{format_time(piece.start_us)} - {format_time(piece.end_us)}"
    return f"summary of scene {piece.scene + 1} of video {video_id}, {times}, which a program made instead"


def _join(pieces: Sequence[_Piece]) -> tuple[str, str]:
    """Title and summary of a scene from its pieces. What the model did not summarise, a program does."""
    if not any(piece.summary for piece in pieces):
        return "", summarize_by_program([caption for piece in pieces for caption in piece.captions])
    title = next(piece.title for piece in pieces if piece.summary)
    return title, " ".join(piece.summary or summarize_by_program(piece.captions) for piece in pieces)


def _describe_video(context: Context, source: Source, scenes: Sequence[Scene]) -> Answer | Reject:
    """What a video is about and its category, from its title and its scenes."""
    reasoner, prompt = context.models[Role.REASONER], context.prompts[CATEGORY_PROMPT]
    title = " ".join(source.title.split())[:MAX_TITLE]
    room = room_left(reasoner, prompt, prompt.render(title=title, scenes=""))
    text = prompt.render(title=title, scenes="\n".join(write_summaries(reasoner, scenes, room)))
    seed = context.seed("category", source.source_id)
    [reply] = reasoner.call([Request(source.source_id, prompt, text, seed=seed)])
    if isinstance(reply, Refusal):
        return context.refuse(f"category of video {source.source_id}, which stays unknown", reply)
    return reply


STAGE = Stage(
    name="outline",
    version=2,
    row=Outline,
    reads={"captions": "caption", "sources": SOURCE},
    source_columns=("source_id", "title", "category"),
    run=run,
    section=lambda config: None,
    prompts=(SCENE_PROMPT, entities.PROMPT, CATEGORY_PROMPT),
    roles=(Role.REASONER,),
    uses_models=lambda config: Writer.MODEL in config.question.writers,
)
