"""Caption -> Question: generates questions about a video.

The writer `program` derives questions from the measured on-screen texts; their answers are true by construction. The
writer `model` requests questions from the reasoner, which reads the captions of the whole video. Stage `verify` decides
which questions are kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from random import Random
from typing import cast

from operators.execution.stage import Context, Stage
from operators.models.client import Answer, Refusal, Request
from operators.questions.derive import CATEGORY, derive
from operators.questions.evidence import read_evidence
from operators.questions.storyboard import storyboard, tokens_for
from operators.questions.timeline import read_timeline
from operators.video.timecode import format_time
from schemas.answers import WrittenChoice, WrittenOpen
from schemas.base import Row, digest
from schemas.config import Role, Writer
from schemas.provenance import Provenance
from schemas.tables import Caption, Derivation, Question, QuestionCategory, QuestionKind, Reject, Video

PROMPTS = {QuestionKind.CHOICE: "question_choice", QuestionKind.OPEN: "question_open"}


@dataclass(frozen=True)
class Target:
    """A question to request from the reasoner."""

    category: QuestionCategory
    kind: QuestionKind
    index: int
    """Index among the questions of the same category and kind."""


def run(context: Context, videos: Sequence[Video], captions: Sequence[Caption]) -> Iterator[Row]:
    """Yield the questions of each video, and a reject for each answer of the reasoner that is not a valid question.

    Without captions there are no questions.
    """
    writers = context.config.question.writers
    for video in videos:
        if captions and Writer.PROGRAM in writers:
            yield from _derive_questions(context, video, captions)
        if captions and Writer.MODEL in writers:
            yield from _request_questions(context, video, captions)


def question_id(video_id: str, category: QuestionCategory, kind: QuestionKind, writer: Writer, index: int) -> str:
    """The id of a question: `q` and 24 hex digits that depend on the arguments only."""
    return f"q{digest([video_id, category, kind, writer, index])[:24]}"


def _derive_questions(context: Context, video: Video, captions: Sequence[Caption]) -> Iterator[Question]:
    measured = [caption for caption in captions if caption.text_sample_times_us]
    if not measured:
        return
    settings = context.config.question
    rng = Random(context.seed("derive", video.video_id))
    count: Counter[tuple[QuestionCategory, QuestionKind]] = Counter()
    for derived in derive(read_timeline(measured), settings.kinds, settings.per_template, rng):
        category = CATEGORY[derived.template]
        if category in settings.categories:
            yield Question(
                question_id=question_id(
                    video.video_id, category, derived.kind, Writer.PROGRAM, count[category, derived.kind]
                ),
                video_id=video.video_id,
                category=category,
                kind=derived.kind,
                writer=Writer.PROGRAM,
                question=derived.question,
                options=derived.options,
                answer=derived.answer,
                evidence=derived.evidence,
                derivation=Derivation(template=derived.template, subjects=derived.subjects),
                provenance=Provenance(model="program"),
            )
            count[category, derived.kind] += 1


def _request_questions(context: Context, video: Video, captions: Sequence[Caption]) -> Iterator[Row]:
    settings = context.config.question
    reasoner = context.models[Role.REASONER]
    story = storyboard(captions, tokens_for(reasoner))
    every = product(settings.categories, settings.kinds, range(settings.per_category))
    targets = [Target(category, kind, index) for category, kind, index in every]
    requests = [_request(context, video, story, target) for target in targets]
    for target, answer in zip(targets, reasoner.call(requests), strict=True):
        yield _question(context, video, target, answer)


def _request(context: Context, video: Video, story: str, target: Target) -> Request:
    count = context.config.question.per_category
    prompt = context.prompts[PROMPTS[target.kind]]
    text = prompt.render(
        story=story,
        duration=format_time(video.duration_us),
        category=target.category.value,
        number=target.index + 1,
        count=count,
        around=format_time(video.duration_us * (2 * target.index + 1) // (2 * count)),
    )
    key = question_id(video.video_id, target.category, target.kind, Writer.MODEL, target.index)
    return Request(key, prompt, text, seed=context.seed("question", key))


def _question(context: Context, video: Video, target: Target, answer: Answer | Refusal) -> Row:
    key = answer.request.key
    if isinstance(answer, Refusal):
        return context.refuse(f"question {key}", answer)
    evidence = read_evidence(context, f"question {key}", answer, video.duration_us)
    if isinstance(evidence, Reject):
        return evidence
    written = cast(WrittenChoice | WrittenOpen, answer.value)
    options = [written.answer, *written.wrong_answers] if isinstance(written, WrittenChoice) else []
    Random(context.seed("options", key)).shuffle(options)
    return Question(
        question_id=key,
        video_id=video.video_id,
        category=target.category,
        kind=target.kind,
        writer=Writer.MODEL,
        question=written.question,
        options=tuple(options),
        answer=written.answer,
        evidence=evidence,
        derivation=None,
        provenance=answer.provenance,
    )


STAGE = Stage(
    name="question",
    version=1,
    row=Question,
    reads={"videos": "ingest", "captions": "caption"},
    run=run,
    section=lambda config: config.question,
    prompts=tuple(PROMPTS.values()),
    roles=(Role.REASONER,),
    uses_models=lambda config: Writer.MODEL in config.question.writers,
)
