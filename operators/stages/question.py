"""Caption, Outline -> Question: plans, writes and checks the questions about a video.

The writer `program` derives questions from the measured on-screen texts, and the writer `annotations` from the facts
about the video, if its source has some; their answers are true by construction. The writer `model` requests the
questions of a plan from the reasoner. It reads the captions of the video, or words a fact about places that a program
derived from boxes. All questions go through gates (`operators.questions.gates`). Slots of the plan that no kept
question fills are requested again, for at most `question.rounds` rounds. Every question is a row, kept or not, and each
that is not kept has one reject.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from random import Random

from operators.execution.stage import SOURCE, Context, Stage
from operators.questions.derive import CATEGORY, derive
from operators.questions.derive import Derived as DerivedFromText
from operators.questions.facts.derive import Derived as DerivedFromFacts
from operators.questions.facts.derive import derive as derive_from_facts
from operators.questions.gates.run import PROGRAM_GATES, WORDED_GATES, model_gates, run_gates
from operators.questions.gates.run import PROMPTS as GATE_PROMPTS
from operators.questions.outcome import Material
from operators.questions.plan import open_slots, plan_slots, reach_of
from operators.questions.spatial import PROMPT as WORDING_PROMPT
from operators.questions.spatial import derive_spatial_facts
from operators.questions.timeline import read_timeline
from operators.questions.writing import PROMPTS, Notebook, question_id, write_questions
from operators.sources.facts import load_facts
from schemas.base import Row
from schemas.config import Role, Writer
from schemas.facts import VideoFacts, find_outside
from schemas.provenance import Provenance
from schemas.tables import (
    Caption,
    Derivation,
    Outline,
    Question,
    QuestionCategory,
    QuestionKind,
    Reach,
    Reject,
    Source,
    Video,
)


def run(
    context: Context,
    videos: Sequence[Video],
    captions: Sequence[Caption],
    outlines: Sequence[Outline],
    sources: Sequence[Source],
) -> Iterator[Row]:
    """Yield all questions of each video with their checks, and a reject for each that is not kept or was not written.

    Without captions there are no questions.
    """
    outline_of = {outline.video_id: outline for outline in outlines}
    facts_of = {source.source_id: source.facts_uri for source in sources}
    writers = context.config.question.writers
    for video in videos:
        if not captions:
            continue
        material = Material(context, video, captions, outline_of.get(video.video_id))
        if Writer.PROGRAM in writers:
            rows = run_gates(material, _derive_questions(context, video, captions), PROGRAM_GATES)
            material = replace(material, kept=_kept(rows))
            yield from rows
        facts_uri = facts_of[video.video_id]
        if Writer.ANNOTATIONS in writers and facts_uri is not None:
            facts = load_facts(context.files, facts_uri, context.scratch)
            if outside := find_outside(facts, video.duration_us):
                message = f"facts about {video.video_id}: {outside}; no question is derived from them"
                yield context.reject(video.video_id, "facts_outside_video", message)
            else:
                questions = _derive_from_facts(context, video, facts)
                rows = run_gates(replace(material, facts=facts), questions, PROGRAM_GATES)
                material = replace(material, kept=[*material.kept, *_kept(rows)])
                yield from rows
        if Writer.MODEL in writers:
            yield from _write_rounds(material)


def _kept(rows: Sequence[Row]) -> list[Question]:
    return [row for row in rows if isinstance(row, Question) and row.passed]


def _write_rounds(material: Material) -> Iterator[Row]:
    """Write and check questions until the plan is filled, or for the configured number of rounds."""
    context = material.context
    settings = context.config.question
    plan = plan_slots(material.video.video_id, material.video.duration_us, settings, context.config.seed)
    gates = model_gates(context.config.verify)
    notebook = Notebook(facts=derive_spatial_facts(material.captions))
    kept: list[Question] = []
    for number in range(settings.rounds):
        slots = open_slots(plan, kept)
        if not slots:
            return
        written = write_questions(material, slots, notebook, number)
        yield from (row for row in written if isinstance(row, Reject))
        questions = [row for row in written if isinstance(row, Question)]
        worded = [each for each in questions if each.derivation is not None]
        for own, own_gates in ((worded, WORDED_GATES), ([each for each in questions if each not in worded], gates)):
            checked = run_gates(replace(material, kept=[*material.kept, *kept]), own, own_gates)
            kept += [row for row in checked if isinstance(row, Question) and row.passed]
            yield from checked
        if any(isinstance(row, Reject) and row.reason == "context_too_small" for row in written):
            return  # the next round would not fit either


def _derive_questions(context: Context, video: Video, captions: Sequence[Caption]) -> list[Question]:
    measured = [caption for caption in captions if caption.text_sample_times_us]
    if not measured:
        return []
    settings = context.config.question
    rng = Random(context.seed("derive", video.video_id))
    found = derive(read_timeline(measured), settings.kinds, settings.per_template, rng)
    categorized = [(CATEGORY[each.template], each) for each in found]
    return _questions(context, video, Writer.PROGRAM, categorized, rng)


def _derive_from_facts(context: Context, video: Video, facts: VideoFacts) -> list[Question]:
    settings = context.config.question
    rng = Random(context.seed("derive_from_facts", video.video_id))
    found = derive_from_facts(facts, video.duration_us, settings.kinds, settings.per_template, rng)
    return _questions(context, video, Writer.ANNOTATIONS, [(each.category, each) for each in found], rng)


def _questions(
    context: Context,
    video: Video,
    writer: Writer,
    found: Sequence[tuple[QuestionCategory, DerivedFromText | DerivedFromFacts]],
    rng: Random,
) -> list[Question]:
    """Derived questions as rows, those of the configured categories, and no more of each than are allowed."""
    settings = context.config.question
    count: Counter[tuple[QuestionCategory, QuestionKind]] = Counter()
    questions: list[Question] = []
    most = settings.max_per_category
    for category, derived in rng.sample(found, len(found)) if most else found:
        index = count[category, derived.kind]
        if category not in settings.categories or (most and index == most):
            continue
        count[category, derived.kind] += 1
        questions.append(
            Question(
                question_id=question_id(video.video_id, category, derived.kind, writer, index),
                video_id=video.video_id,
                category=category,
                kind=derived.kind,
                writer=writer,
                question=derived.question,
                options=derived.options,
                answer=derived.answer,
                evidence=derived.evidence,
                derivation=Derivation(template=derived.template, subjects=derived.subjects),
                provenance=Provenance(model="program"),
                reach=reach_of(derived.evidence, video.duration_us) if writer is Writer.ANNOTATIONS else Reach.NEAR,
                passed=False,
            )
        )
    return questions


STAGE = Stage(
    name="question",
    version=4,
    row=Question,
    reads={"videos": "ingest", "captions": "caption", "outlines": "outline", "sources": SOURCE},
    source_columns=("source_id", "facts_uri"),
    run=run,
    section=lambda config: [config.question, config.verify],
    prompts=(*PROMPTS.values(), WORDING_PROMPT, *GATE_PROMPTS),
    roles=(Role.REASONER, Role.JUDGE, Role.VIEWER),
)
