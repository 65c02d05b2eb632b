"""Caption, Outline -> Question: plans, writes and checks the questions about a video.

The writer `program` derives questions from the measured on-screen texts; their answers are true by construction. The
writer `model` requests the questions of a plan from the reasoner, which reads the captions of the video. All questions
go through gates (`operators.questions.gates`). Slots of the plan that no kept question fills are requested again, for
at most `question.rounds` rounds. Every question is a row, kept or not, and each that is not kept has one reject.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from random import Random

from operators.execution.stage import Context, Stage
from operators.questions.derive import CATEGORY, derive
from operators.questions.gates.run import PROGRAM_GATES, model_gates, run_gates
from operators.questions.gates.run import PROMPTS as GATE_PROMPTS
from operators.questions.outcome import Material
from operators.questions.plan import open_slots, plan_slots
from operators.questions.timeline import read_timeline
from operators.questions.writing import PROMPTS, Notebook, question_id, write_questions
from schemas.base import Row
from schemas.config import Role, Writer
from schemas.provenance import Provenance
from schemas.tables import Caption, Derivation, Outline, Question, QuestionCategory, QuestionKind, Reject, Video


def run(
    context: Context, videos: Sequence[Video], captions: Sequence[Caption], outlines: Sequence[Outline]
) -> Iterator[Row]:
    """Yield all questions of each video with their checks, and a reject for each that is not kept or was not written.

    Without captions there are no questions.
    """
    outline_of = {outline.video_id: outline for outline in outlines}
    writers = context.config.question.writers
    for video in videos:
        if not captions:
            continue
        material = Material(context, video, captions, outline_of.get(video.video_id))
        derived: list[Question] = []
        if Writer.PROGRAM in writers:
            rows = run_gates(material, _derive_questions(context, video, captions), PROGRAM_GATES)
            derived = [row for row in rows if isinstance(row, Question)]
            yield from rows
        if Writer.MODEL in writers:
            yield from _write_rounds(replace(material, kept=[each for each in derived if each.passed]))


def _write_rounds(material: Material) -> Iterator[Row]:
    """Write and check questions until the plan is filled, or for the configured number of rounds."""
    context = material.context
    settings = context.config.question
    plan = plan_slots(material.video.video_id, material.video.duration_us, settings, context.config.seed)
    gates = model_gates(context.config.verify)
    notebook = Notebook()
    kept: list[Question] = []
    for number in range(settings.rounds):
        slots = open_slots(plan, kept)
        if not slots:
            return
        written = write_questions(material, slots, notebook, number)
        yield from (row for row in written if isinstance(row, Reject))
        checked = run_gates(
            replace(material, kept=[*material.kept, *kept]),
            [row for row in written if isinstance(row, Question)],
            gates,
        )
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
    count: Counter[tuple[QuestionCategory, QuestionKind]] = Counter()
    questions: list[Question] = []
    for derived in derive(read_timeline(measured), settings.kinds, settings.per_template, rng):
        category = CATEGORY[derived.template]
        if category not in settings.categories:
            continue
        index = count[category, derived.kind]
        count[category, derived.kind] += 1
        questions.append(
            Question(
                question_id=question_id(video.video_id, category, derived.kind, Writer.PROGRAM, index),
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
                passed=False,
            )
        )
    return questions


STAGE = Stage(
    name="question",
    version=3,
    row=Question,
    reads={"videos": "ingest", "captions": "caption", "outlines": "outline"},
    run=run,
    section=lambda config: [config.question, config.verify],
    prompts=(*PROMPTS.values(), *GATE_PROMPTS),
    roles=(Role.REASONER, Role.JUDGE, Role.VIEWER),
)
