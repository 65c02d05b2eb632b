"""The reasoner writes the questions of a plan's slots.

Within a category, slots are requested in waves of `WAVE`, far apart from each other in the video, and each wave is
shown what the category has already. Categories do not see each other's questions. So an edit of one category's prompt
changes no request of another. For a spatial slot the reasoner words a fact that a program derived from boxes
(`operators.questions.spatial`), as long as there are facts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import cast

from operators.models.client import Answer, Refusal, Request
from operators.models.prompts import Prompt
from operators.questions.evidence import read_evidence
from operators.questions.outcome import Material
from operators.questions.plan import Slot, reach_of
from operators.questions.spatial import PROMPT as WORDING_PROMPT
from operators.questions.spatial import SpatialFact, choose_options, take_fact
from operators.questions.story import ContextTooSmall, Story, story_room, tell
from operators.video.timecode import format_time
from schemas.answers import WordedQuestion, WrittenChoice, WrittenOpen
from schemas.base import Span, digest
from schemas.config import Role, Writer
from schemas.tables import Derivation, Entity, Question, QuestionCategory, QuestionKind, Reject

PROMPTS = {category: f"question_{category.value}" for category in QuestionCategory}
WAVE = 4
"""Questions of a category that are requested concurrently."""
MAX_ENTITIES = 30
"""People, things and places of a video that the writer is told of."""
FOCUS_SECONDS = 30.0
"""Length in seconds of the span around a slot's time whose captions the writer reads first."""


def question_id(video_id: str, category: QuestionCategory, kind: QuestionKind, writer: Writer, index: int) -> str:
    """The id of a question: `q` and 24 hex digits that depend on the arguments only."""
    return f"q{digest([video_id, category, kind, writer, index])[:24]}"


@dataclass
class Notebook:
    """What has been requested for a video so far, by category."""

    questions: dict[QuestionCategory, list[str]] = field(default_factory=lambda: defaultdict(list))
    """Texts of the questions that were written, kept or not."""
    counts: dict[tuple[QuestionCategory, QuestionKind], int] = field(default_factory=lambda: defaultdict(int))
    """Number of requests, which gives the next question its index."""
    facts: list[SpatialFact] = field(default_factory=list)
    """Facts about places that no question was requested for yet. Spatial slots use them up first."""


def write_questions(
    material: Material, slots: Sequence[Slot], notebook: Notebook, number: int
) -> list[Question | Reject]:
    """Request a question for each slot. Returns questions without checks, and a reject for each invalid answer.

    If not even one scene fits into the reasoner's context, the last row is a reject of the video, and no more is
    requested. What was written before is returned.

    Args:
        material: the video, its captions and outline.
        slots: slots of the plan that are open.
        notebook: what was requested before; it is updated.
        number: the round, from 0.
    """
    by_category: dict[QuestionCategory, list[Slot]] = defaultdict(list)
    for slot in slots:
        by_category[slot.category].append(slot)
    waves = {category: _plan_waves(own) for category, own in by_category.items()}
    rows: list[Question | Reject] = []
    for index in range(max(map(len, waves.values()), default=0)):
        wave = [slot for own in waves.values() if index < len(own) for slot in own[index]]
        try:
            facts = [_take_fact(material, slot, notebook) for slot in wave]
            requests = [
                _request_wording(material, slot, fact, notebook) if fact else _request(material, slot, notebook)
                for slot, fact in zip(wave, facts, strict=True)
            ]
        except ContextTooSmall as error:
            name = material.video.video_id
            return [*rows, material.context.reject(name, "context_too_small", f"video {name}: {error}")]
        replies = material.context.models[Role.REASONER].call(requests)
        for slot, fact, reply in zip(wave, facts, replies, strict=True):
            row = _read_wording(material, slot, fact, reply, number) if fact else _read(material, slot, reply, number)
            if isinstance(row, Question):
                notebook.questions[slot.category].append(row.question)
            rows.append(row)
    return rows


def _plan_waves(slots: Sequence[Slot]) -> list[list[Slot]]:
    """Waves of at most `WAVE` slots, each spread over all of the slots."""
    count = -(-len(slots) // WAVE)
    return [list(slots[index::count]) for index in range(count)]


def _request(material: Material, slot: Slot, notebook: Notebook) -> Request:
    context = material.context
    prompt = context.prompts[PROMPTS[slot.category]].of_kind(slot.kind)
    variables: dict[str, object] = {
        "duration": format_time(material.video.duration_us),
        "entities": [_describe(entity) for entity in _main_entities(material)],
        "reach": slot.reach.value,
        "around": [format_time(time_us) for time_us in slot.around_us],
        "asked": list(notebook.questions[slot.category]),
    }
    story = _tell(material, prompt, slot, variables)
    text = prompt.render(story=story.text, complete=story.complete, **variables)
    key = _next_id(material, slot, notebook)
    return Request(key, prompt, text, seed=context.seed("question", key))


def _next_id(material: Material, slot: Slot, notebook: Notebook) -> str:
    """The id of the next question of a slot's category and kind."""
    index = notebook.counts[slot.category, slot.kind]
    notebook.counts[slot.category, slot.kind] += 1
    return question_id(material.video.video_id, slot.category, slot.kind, Writer.MODEL, index)


def _take_fact(material: Material, slot: Slot, notebook: Notebook) -> SpatialFact | None:
    """A fact for a spatial slot, if there is one left."""
    if slot.category is not QuestionCategory.SPATIAL:
        return None
    return take_fact(notebook.facts, slot, material.video.duration_us)


def _request_wording(material: Material, slot: Slot, fact: SpatialFact, notebook: Notebook) -> Request:
    context = material.context
    prompt = context.prompts[WORDING_PROMPT]
    text = prompt.render(fact=fact.statement, labels=list(fact.labels), answer=fact.answer, kind=slot.kind.value)
    key = _next_id(material, slot, notebook)
    return Request(key, prompt, text, seed=context.seed("question", key))


def _tell(material: Material, prompt: Prompt, slot: Slot, variables: Mapping[str, object]) -> Story:
    reasoner = material.context.models[Role.REASONER]
    room = story_room(reasoner, prompt, complete=False, **variables)
    half_us = round(FOCUS_SECONDS * 500_000)
    focus = [
        Span(start_us=max(0, time_us - half_us), end_us=min(time_us + half_us, material.video.duration_us))
        for time_us in slot.around_us
    ]
    return tell(reasoner, material.captions, material.outline, room, focus)


def _main_entities(material: Material) -> Sequence[Entity]:
    """The entities that are seen in most parts, in the outline's order."""
    entities = material.outline.entities if material.outline else ()
    most = sorted(entities, key=lambda entity: -len(entity.spans))[:MAX_ENTITIES]
    return [entity for entity in entities if entity in most]


def _describe(entity: Entity) -> dict[str, str]:
    spans = ", ".join(f"{format_time(span.start_us)} - {format_time(span.end_us)}" for span in entity.spans)
    return {"name": entity.name, "description": entity.description, "where": spans}


def _read(material: Material, slot: Slot, reply: Answer | Refusal, number: int) -> Question | Reject:
    context, key = material.context, reply.request.key
    if isinstance(reply, Refusal):
        return context.refuse(f"question {key}", reply)
    evidence = read_evidence(context, f"question {key}", reply, material.video.duration_us)
    if isinstance(evidence, Reject):
        return evidence
    written = cast(WrittenChoice | WrittenOpen, reply.value)
    wrong = [each.answer for each in written.wrong_answers] if isinstance(written, WrittenChoice) else []
    options = [written.answer, *wrong] if wrong else []
    Random(context.seed("options", key)).shuffle(options)
    return Question(
        question_id=key,
        video_id=material.video.video_id,
        category=slot.category,
        kind=slot.kind,
        writer=Writer.MODEL,
        question=written.question,
        options=tuple(options),
        answer=written.answer,
        evidence=evidence,
        derivation=None,
        provenance=reply.provenance,
        reach=reach_of(evidence, material.video.duration_us),
        round=number,
        passed=False,
    )


def _read_wording(
    material: Material, slot: Slot, fact: SpatialFact, reply: Answer | Refusal, number: int
) -> Question | Reject:
    """The question about a fact: the reasoner's words, and the program's answer, options and evidence."""
    context, key = material.context, reply.request.key
    if isinstance(reply, Refusal):
        return context.refuse(f"question {key}", reply)
    return Question(
        question_id=key,
        video_id=material.video.video_id,
        category=slot.category,
        kind=slot.kind,
        writer=Writer.MODEL,
        question=cast(WordedQuestion, reply.value).question,
        options=choose_options(fact, slot.kind, Random(context.seed("options", key))),
        answer=fact.answer,
        evidence=fact.evidence,
        derivation=Derivation(template=fact.template, subjects=fact.subjects),
        provenance=reply.provenance,
        reach=reach_of(fact.evidence, material.video.duration_us),
        round=number,
        passed=False,
    )
