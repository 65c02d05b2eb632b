"""Checks of a question against the captions: its evidence, the whole video, and its evidence without each of its parts.

A judge answers the question from a text. It may also answer that the text does not tell, or that several options are
right, so that a guess is not taken for knowledge. The writer of the question chose its evidence; the whole video is
what it did not choose. An answer that is right in the evidence and wrong over the whole video fails here: "the last
time that ...", "how often ...", "right after ..." about a part that has a successor elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, pairwise
from typing import cast

from operators.execution.stage import Context
from operators.models.client import Answer, Refusal, Request
from operators.questions.answers import same_answer
from operators.questions.facts.rederive import rederive_answer as rederive_from_facts
from operators.questions.gates.form import WIDE_SECONDS
from operators.questions.outcome import Material, Outcome, Problem, rule_trial, with_trial
from operators.questions.plan import reach_of
from operators.questions.rederive import rederive_answer
from operators.questions.rederive_boxes import rederive_from_boxes
from operators.questions.sequential_test import SequentialTest
from operators.questions.spatial import is_spatial
from operators.questions.story import caption_line, cover, parts, within
from operators.questions.trials import TrialResult, TrialSpec, letter_options, run_trials, shared_room
from schemas.answers import Notes
from schemas.base import Span
from schemas.config import Role, VerifyConfig, Writer
from schemas.facts import VideoFacts
from schemas.tables import Caption, Check, Question, QuestionKind

PROMPTS = {QuestionKind.CHOICE: "answer_choice", QuestionKind.OPEN: "answer_open"}
NOTES_PROMPT = "collect_notes"


def agreement_test(settings: VerifyConfig) -> SequentialTest:
    """The test of whether a model that sees the material answers as the question's writer did.

    Three equal answers decide. With a judge that errs in one of ten answers, it loses 0.8 % of the questions that the
    material answers, after 4.0 trials in the mean, and keeps 0.1 % of those that it does not.
    """
    return SequentialTest(
        high=0.85, low=0.35, miss_rate=0.015, false_alarm_rate=0.1, max_trials=settings.agreement_trials
    )


def check_derivation(material: Material, questions: Sequence[Question]) -> list[Outcome]:
    """Derive the answers of programmatic questions a second way. Other questions pass."""
    outcomes = []
    for question in questions:
        if question.derivation is None:
            outcomes.append(Outcome(question))
            continue
        if question.writer == Writer.ANNOTATIONS:
            source, again = "facts", rederive_from_facts(material.facts or VideoFacts(), question)
        elif is_spatial(question.derivation):
            source, again = "boxes", rederive_from_boxes(question.derivation, material.captions)
        else:
            source, again = "captions", rederive_answer(question.derivation, material.captions)
        agrees = again is not None and same_answer(again, question.answer, QuestionKind.OPEN)
        found = "nothing" if again is None else repr(again)
        problem = Problem(
            "proof_failed",
            f"the {source} give {found} for {question.derivation.template} of {question.derivation.subjects}, not "
            f"{question.answer!r}; derive it again from these {source}",
        )
        trial = rule_trial(question, Check.GROUNDED, agrees, again or "")
        outcomes.append(Outcome(with_trial(question, trial), None if agrees else problem))
    return outcomes


def check_evidence(material: Material, questions: Sequence[Question]) -> list[Outcome]:
    """Reject questions that the judge does not answer as written from the captions of their evidence."""
    rule = agreement_test(material.context.config.verify)
    specs = [TrialSpec(question, tell_evidence(material.captions, question.evidence)) for question in questions]
    outcomes = []
    for result in _run_with_judge(material.context, Check.GROUNDED, specs, rule):
        problem = _disagreement(
            result, rule, "not_grounded", "from its evidence", "its evidence or its answer is wrong"
        )
        outcomes.append(Outcome(with_trial(result.question, result.trial(problem is None)), problem))
    return outcomes


def check_timeline(material: Material, questions: Sequence[Question]) -> list[Outcome]:
    """Reject questions that the judge answers otherwise from the whole video, without being told the evidence.

    If the captions of the whole video do not fit into the judge's context, it first takes notes on each part.
    """
    context = material.context
    rule = agreement_test(context.config.verify)
    stories, problems = _tell_whole_video(material, questions)
    specs = [
        TrialSpec(question, stories[question.question_id]) for question in questions if question.question_id in stories
    ]
    outcomes = {question_id: Outcome(question, problem) for question_id, (question, problem) in problems.items()}
    for result in _run_with_judge(context, Check.TIMELINE, specs, rule):
        problem = _disagreement(
            result, rule, "not_unique", "from the whole video", "another part of the video gives another answer"
        )
        outcomes[result.question.question_id] = Outcome(
            with_trial(result.question, result.trial(problem is None)), problem
        )
    return [outcomes[question.question_id] for question in questions]


def check_parts(material: Material, questions: Sequence[Question]) -> list[Outcome]:
    """Remove parts of the evidence without which the question is still answered, and state its reach.

    A part is superfluous if the judge answers the question without it. If several are, the question is asked from what
    is left without all of them, and the evidence stays as it was written where that is not enough (the same thing is
    shown twice). A long part is divided for this. No question is rejected.
    """
    context = material.context
    rule = agreement_test(context.config.verify)
    written = {question.question_id: question.evidence for question in questions}
    checked = {
        question.question_id: question.model_copy(
            update={"evidence": _divide_long_parts(question.evidence, material.captions)}
        )
        for question in questions
    }
    specs = [
        TrialSpec(question, tell_evidence(material.captions, _without(question.evidence, index)), part=index + 1)
        for question in checked.values()
        for index in range(len(question.evidence))
        if len(question.evidence) > 1
    ]
    results = _run_with_judge(context, Check.PARTS, specs, rule)
    superfluous: dict[str, set[int]] = {}
    for spec, result in zip(specs, results, strict=True):
        needed = not (result.answers and rule.decide(result.correct, result.wrong))
        name = spec.question.question_id
        checked[name] = with_trial(checked[name], result.trial(passed=needed))
        if not needed:
            superfluous.setdefault(name, set()).add(spec.part - 1)
    trimmed = _trim(material, checked, superfluous, rule)
    checked = {
        name: question.model_copy(update={"evidence": written[name]}) for name, question in checked.items()
    } | trimmed
    return [
        Outcome(each.model_copy(update={"reach": reach_of(each.evidence, material.video.duration_us)}))
        for each in (checked[question.question_id] for question in questions)
    ]


def tell_evidence(captions: Sequence[Caption], evidence: Sequence[Span]) -> str:
    """The captions of the evidence, one line each, with a line where the video is left and entered again."""
    lines: list[str] = []
    end_us: int | None = None
    for caption in within(captions, evidence):
        if end_us is not None and caption.start_us > end_us:
            lines.append("(other parts of the video lie between)")
        lines.append(caption_line(caption))
        end_us = caption.end_us
    return "\n".join(lines)


def _trim(
    material: Material, checked: dict[str, Question], superfluous: dict[str, set[int]], rule: SequentialTest
) -> dict[str, Question]:
    """The questions whose evidence is enough without its superfluous parts, with what is left of it."""
    specs = []
    for name, superfluous_parts in superfluous.items():
        kept = tuple(span for i, span in enumerate(checked[name].evidence) if i not in superfluous_parts)
        if kept:
            trimmed = checked[name].model_copy(update={"evidence": cover(kept)})
            specs.append(
                TrialSpec(trimmed, tell_evidence(material.captions, kept), part=len(checked[name].evidence) + 1)
            )
    results = _run_with_judge(material.context, Check.GROUNDED, specs, rule)
    return {
        result.question.question_id: with_trial(result.question, result.trial(passed=True))
        for result in results
        if result.answers and rule.decide(result.correct, result.wrong)
    }


def _divide_long_parts(evidence: Sequence[Span], captions: Sequence[Caption]) -> tuple[Span, ...]:
    """The parts of the evidence. Those longer than `form.WIDE_SECONDS` are divided between captions into shorter ones.

    Each of these has the same number of captions, give or take one.
    """
    divided: list[Span] = []
    for span in evidence:
        own = within(captions, [span])
        count = min(len(own), -((span.start_us - span.end_us) // round(WIDE_SECONDS * 1_000_000)))
        firsts = [own[len(own) * index // count] for index in range(1, count)]
        limits = [span.start_us, *(caption.start_us for caption in firsts), span.end_us]
        divided += [Span(start_us=start, end_us=end) for start, end in pairwise(limits)]
    return tuple(divided)


def _without(evidence: Sequence[Span], index: int) -> tuple[Span, ...]:
    return (*evidence[:index], *evidence[index + 1 :])


def _tell_whole_video(
    material: Material, questions: Sequence[Question]
) -> tuple[dict[str, str], dict[str, tuple[Question, Problem]]]:
    """The text of the whole video for each question, or the problem that there is none."""
    context = material.context
    judge = context.models[Role.JUDGE]
    if not questions:
        return {}, {}
    room = shared_room(judge, {kind: context.prompts[name] for kind, name in PROMPTS.items()}, questions)
    pieces = [[caption_line(caption) for caption in part] for part in parts(judge, material.captions, room)]
    if len(pieces) == 1:
        return {question.question_id: "\n".join(pieces[0]) for question in questions}, {}
    requests = [
        _request_notes(context, question, "\n".join(piece), index)
        for question in questions
        for index, piece in enumerate(pieces)
    ]
    replies = judge.call(requests)
    stories: dict[str, str] = {}
    problems: dict[str, tuple[Question, Problem]] = {}
    for index, question in enumerate(questions):
        own = replies[index * len(pieces) : (index + 1) * len(pieces)]
        refused = next((each for each in own if isinstance(each, Refusal)), None)
        if refused is not None:
            problem = Problem(
                "unanswered", f"no notes on a part of the video: {refused.message}", refused.raw, refused.request_sha256
            )
            problems[question.question_id] = (question, problem)
            continue
        notes = chain.from_iterable(cast(Notes, cast(Answer, each).value).notes for each in own)
        stories[question.question_id] = "\n".join(f"{note.time}: {note.text}" for note in notes) or "(nothing)"
    return stories, problems


def _request_notes(context: Context, question: Question, story: str, index: int) -> Request:
    prompt = context.prompts[NOTES_PROMPT]
    options = {"options": letter_options(question.options)} if question.options else {}
    text = prompt.render(story=story, question=question.question, **options)
    return Request(question.question_id, prompt, text, seed=context.seed("notes", question.question_id, index))


def _run_with_judge(
    context: Context, check: Check, specs: Sequence[TrialSpec], rule: SequentialTest
) -> list[TrialResult]:
    prompts = {kind: context.prompts[prompt] for kind, prompt in PROMPTS.items()}
    return run_trials(context, check, context.models[Role.JUDGE], prompts, specs, rule)


def _disagreement(result: TrialResult, rule: SequentialTest, reason: str, source: str, cause: str) -> Problem | None:
    problem = result.find_problem(rule)
    if problem is not None or rule.decide(result.correct, result.wrong):
        return problem
    return Problem(
        reason,
        f"answered as {result.question.answer!r} {source} in {result.correct} of {len(result.answers)} answers "
        f"({result.unknown} times it could not be told); {cause}",
    )
