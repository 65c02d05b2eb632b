"""Caption, Outline, Question -> Reasoning: writes the chain of thought from what a video shows to the answer.

Questions that were derived by program, from on-screen texts or from facts, are explained by program. The chains of the
others are written by the reasoner and checked by the judge (`operators.questions.chains`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random

from operators.execution.stage import SOURCE, Context, Stage
from operators.questions.chains import PROMPTS, ChainWriter
from operators.questions.explain import explain
from operators.questions.facts.explain import explain as explain_from_facts
from operators.questions.spatial import explain_spatial, is_spatial
from operators.questions.timeline import Timeline, read_timeline
from operators.sources.facts import load_facts
from schemas.base import Row
from schemas.config import Role, Writer
from schemas.provenance import Provenance
from schemas.tables import Caption, Outline, Question, Reasoning, Source


def run(
    context: Context,
    captions: Sequence[Caption],
    questions: Sequence[Question],
    outlines: Sequence[Outline],
    sources: Sequence[Source],
) -> Iterator[Row]:
    """Yield one reasoning or one reject for each question that passed its checks."""
    passed = [question for question in questions if question.passed]
    derived = _explain_derived(
        context,
        captions,
        [each for each in passed if each.derivation is not None and each.writer != Writer.ANNOTATIONS],
    )
    derived += _explain_from_facts(context, [each for each in passed if each.writer == Writer.ANNOTATIONS], sources)
    yield from derived
    written = [each for each in passed if each.derivation is None]
    if written:
        writer = ChainWriter(context, captions, outlines[0] if outlines else None)
        yield from writer.run(written, {each.question_id: each.reasoning for each in derived})


def _explain_derived(context: Context, captions: Sequence[Caption], questions: Sequence[Question]) -> list[Reasoning]:
    if not questions:
        return []
    timeline = read_timeline(captions)
    return [
        _reasoning(
            question, _explain(question, captions, timeline, Random(context.seed("explain", question.question_id)))
        )
        for question in questions
    ]


def _explain(question: Question, captions: Sequence[Caption], timeline: Timeline, rng: Random) -> str:
    if is_spatial(question.derivation):
        return explain_spatial(question, captions, rng)
    return explain(question, timeline, rng)


def _explain_from_facts(context: Context, questions: Sequence[Question], sources: Sequence[Source]) -> list[Reasoning]:
    facts_of = {
        source.source_id: load_facts(context.files, source.facts_uri, context.scratch)
        for source in sources
        if questions and source.facts_uri is not None
    }
    return [
        _reasoning(
            question,
            explain_from_facts(
                facts_of[question.video_id], question, Random(context.seed("explain", question.question_id))
            ),
        )
        for question in questions
    ]


def _reasoning(question: Question, text: str) -> Reasoning:
    return Reasoning(
        question_id=question.question_id,
        video_id=question.video_id,
        reasoning=text,
        evidence=question.evidence,
        provenance=Provenance(model="program"),
    )


STAGE = Stage(
    name="reason",
    version=2,
    row=Reasoning,
    reads={"captions": "caption", "questions": "question", "outlines": "outline", "sources": SOURCE},
    source_columns=("source_id", "facts_uri"),
    run=run,
    section=lambda config: [config.reason, config.verify.agreement_trials],
    prompts=PROMPTS,
    roles=(Role.REASONER, Role.JUDGE),
    uses_models=lambda config: Writer.MODEL in config.question.writers,
)
