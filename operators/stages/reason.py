"""Question -> Reasoning: writes the chain of thought that leads from what a video shows to the answer.

Derived questions are explained by program. The others are explained by the reasoner, which receives the captions of the
whole video and, once more, those of the evidence.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random
from typing import cast

from operators.execution.stage import Context, Stage
from operators.models.client import Answer, Refusal, Request
from operators.questions.evidence import read_evidence
from operators.questions.explain import explain
from operators.questions.gates.grounding import tell_evidence
from operators.questions.gates.outcome import Problem, reject_question
from operators.questions.gates.wording import find_meta_talk
from operators.questions.story import ContextTooSmall, story_room, tell
from operators.questions.timeline import read_timeline
from operators.video.timecode import format_time
from schemas.answers import ChainOfThought
from schemas.base import Row
from schemas.config import Role, Writer
from schemas.provenance import Provenance
from schemas.tables import Caption, Outline, Question, Reasoning, Reject

PROMPT = "reason"


def run(
    context: Context, captions: Sequence[Caption], questions: Sequence[Question], outlines: Sequence[Outline]
) -> Iterator[Row]:
    """Yield one reasoning or one reject for each question that passed its checks."""
    passed = [question for question in questions if question.passed]
    yield from _explain_derived(context, captions, [each for each in passed if each.derivation is not None])
    written = [each for each in passed if each.derivation is None]
    yield from _request_reasonings(context, captions, written, outlines[0] if outlines else None)


def _explain_derived(
    context: Context, captions: Sequence[Caption], questions: Sequence[Question]
) -> Iterator[Reasoning]:
    if not questions:
        return
    timeline = read_timeline(captions)
    for question in questions:
        rng = Random(context.seed("explain", question.question_id))
        yield Reasoning(
            question_id=question.question_id,
            video_id=question.video_id,
            reasoning=explain(question, timeline, rng),
            evidence=question.evidence,
            provenance=Provenance(model="program"),
        )


def _request_reasonings(
    context: Context, captions: Sequence[Caption], questions: Sequence[Question], outline: Outline | None
) -> Iterator[Row]:
    if not questions:
        return
    reasoner = context.models[Role.REASONER]
    end_us = max(caption.end_us for caption in captions)
    requests: dict[str, Request] = {}
    for question in questions:
        prompt = context.prompts[PROMPT]
        variables = {
            "duration": format_time(end_us),
            "evidence": tell_evidence(captions, question.evidence),
            "question": question.question,
            "options": question.options,
            "answer": question.answer,
        }
        room = story_room(reasoner, prompt, **variables)
        try:
            story = tell(reasoner, captions, outline, room, question.evidence)
        except ContextTooSmall as error:
            yield reject_question(context, question, Problem("context_too_small", str(error)))
            continue
        text = prompt.render(story=story.text, **variables)
        seed = context.seed("reason", question.question_id)
        requests[question.question_id] = Request(question.question_id, prompt, text, seed=seed)
    told = [question for question in questions if question.question_id in requests]
    for question, answer in zip(told, reasoner.call(list(requests.values())), strict=True):
        yield _row(context, question, answer, end_us)


def _row(context: Context, question: Question, answer: Answer | Refusal, end_us: int) -> Row:
    key = question.question_id
    if isinstance(answer, Refusal):
        return context.refuse(f"reasoning of question {key}", answer)
    evidence = read_evidence(context, f"reasoning of question {key}", answer, end_us)
    if isinstance(evidence, Reject):
        return evidence
    reasoning = cast(ChainOfThought, answer.value).reasoning
    if found := find_meta_talk(reasoning):
        problem = Problem("meta_talk", f"its reasoning speaks of {found!r}; it must speak of the video", reasoning)
        return reject_question(context, question, problem)
    return Reasoning(
        question_id=key,
        video_id=question.video_id,
        reasoning=reasoning,
        evidence=evidence,
        provenance=answer.provenance,
    )


STAGE = Stage(
    name="reason",
    version=2,
    row=Reasoning,
    reads={"captions": "caption", "questions": "question", "outlines": "outline"},
    run=run,
    section=lambda config: None,
    prompts=(PROMPT,),
    roles=(Role.REASONER,),
    uses_models=lambda config: Writer.MODEL in config.question.writers,
)
