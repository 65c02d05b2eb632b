"""Question, Reasoning -> Trial: checks which questions are kept.

Three checks run in this order, each on the questions that passed the one before. `rules` checks the form. `blind`
rejects questions that can be answered without the video. `grounded` derives the answers of derived questions again from
the captions, and has the judge answer the others from their evidence. Every outcome is a row, whether passed or not,
and every rejected question has exactly one reject with the reason.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence

from operators.execution.stage import Context, Stage
from operators.questions.answers import same_answer
from operators.questions.rederive import rederive_answer
from operators.questions.rules import form_problem
from operators.questions.storyboard import storyboard, tokens_for, within
from operators.questions.trials import TrialResult, TrialSpec, run_trials
from schemas.base import Row, Span
from schemas.config import Role
from schemas.tables import Caption, Check, Question, QuestionKind, Reasoning, Reject, Trial

PROMPTS = {QuestionKind.CHOICE: "verify_choice", QuestionKind.OPEN: "verify_open"}

Passed = list[Question]


def run(
    context: Context, captions: Sequence[Caption], questions: Sequence[Question], reasonings: Sequence[Reasoning]
) -> Iterator[Row]:
    """Yield the trials of a video's questions, and the rejects."""
    passed = yield from _check_rules(context, captions, questions, reasonings)
    if context.config.verify.blind_trials:
        passed = yield from _check_blind(context, passed)
    yield from _rederive(context, captions, [question for question in passed if question.derivation is not None])
    yield from _check_grounded(context, captions, [question for question in passed if question.derivation is None])


def _check_rules(
    context: Context, captions: Sequence[Caption], questions: Sequence[Question], reasonings: Sequence[Reasoning]
) -> Generator[Row, None, Passed]:
    covered = (
        Span(start_us=min(each.start_us for each in captions), end_us=max(each.end_us for each in captions))
        if captions
        else None
    )
    reasoned = {reasoning.question_id: reasoning for reasoning in reasonings}
    passed: Passed = []
    for question in questions:
        problem = form_problem(question, reasoned.get(question.question_id), covered, passed)
        yield _trial(question, Check.RULES, answer="", passed=problem is None)
        if problem is None:
            passed.append(question)
        else:
            yield context.reject(question.question_id, problem.reason, problem.message, question.provenance.raw)
    return passed


def _check_blind(context: Context, questions: Sequence[Question]) -> Generator[Row, None, Passed]:
    settings = context.config.verify
    passed: Passed = []
    for result in _run_with_judge(
        context, Check.BLIND, [TrialSpec(question, settings.blind_trials) for question in questions]
    ):
        problem = result.unanswered(context)
        if problem is None and result.share >= settings.blind_limit:
            message = (
                f"right without the video in {result.correct} of {len(result.answers)} answers (limit "
                f"{settings.blind_limit:g}); ask for what only the video shows"
            )
            problem = _reject(context, result.question, "answerable_blind", message)
        yield from _report(result, problem)
        if problem is None:
            passed.append(result.question)
    return passed


def _rederive(context: Context, captions: Sequence[Caption], questions: Sequence[Question]) -> Iterator[Row]:
    for question in questions:
        assert question.derivation is not None
        again = rederive_answer(question.derivation, captions)
        agrees = again is not None and same_answer(again, question.answer, QuestionKind.OPEN)
        yield _trial(question, Check.GROUNDED, answer=again or "", passed=agrees)
        if not agrees:
            found = "nothing" if again is None else repr(again)
            message = (
                f"the captions give {found} for {question.derivation.template} of {question.derivation.subjects}, not "
                f"{question.answer!r}; derive it again from these captions"
            )
            yield _reject(context, question, "proof_failed", message)


def _check_grounded(context: Context, captions: Sequence[Caption], questions: Sequence[Question]) -> Iterator[Row]:
    settings = context.config.verify
    tokens = tokens_for(context.models[Role.JUDGE])
    specs = [
        TrialSpec(question, settings.grounded_trials, story=storyboard(within(captions, question.evidence), tokens))
        for question in questions
    ]
    for result in _run_with_judge(context, Check.GROUNDED, specs):
        problem = result.unanswered(context)
        if problem is None and result.share < settings.grounded_limit:
            message = (
                f"answered as {result.question.answer!r} from its evidence in {result.correct} of "
                f"{len(result.answers)} answers (limit {settings.grounded_limit:g}); its evidence or its answer is "
                f"wrong"
            )
            problem = _reject(context, result.question, "not_grounded", message)
        yield from _report(result, problem)


def _run_with_judge(context: Context, check: Check, specs: Sequence[TrialSpec]) -> list[TrialResult]:
    prompts = {kind: context.prompts[prompt] for kind, prompt in PROMPTS.items()}
    return run_trials(context, check, context.models[Role.JUDGE], prompts, specs) if specs else []


def _report(result: TrialResult, problem: Reject | None) -> Iterator[Row]:
    yield result.trial(passed=problem is None)
    if problem is not None:
        yield problem


def _trial(question: Question, check: Check, answer: str, passed: bool) -> Trial:
    """The trial of a check that needs no model."""
    return Trial(
        question_id=question.question_id,
        video_id=question.video_id,
        check=check,
        n=1,
        correct=int(passed),
        answers=(answer,) if answer else (),
        passed=passed,
        provenance=(),
    )


def _reject(context: Context, question: Question, reason: str, message: str) -> Reject:
    named = f"question {question.question_id} ({question.question!r}): {message}"
    return context.reject(question.question_id, reason, named, question.provenance.raw)


STAGE = Stage(
    name="verify",
    version=1,
    row=Trial,
    reads={"captions": "caption", "questions": "question", "reasonings": "reason"},
    run=run,
    section=lambda config: config.verify,
    prompts=(*PROMPTS.values(), "judge"),
    roles=(Role.JUDGE,),
)
