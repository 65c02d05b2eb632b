"""Runs trials: a model answers each question several times, and its right answers are counted.

All trials of all questions are sent in one call, so that they run concurrently. Each trial has its options in another
order, and the right option has every letter equally often, so that a preference for a letter gives no advantage.

Open answers to derived questions are compared by program only. Other open answers are compared by program first, and
those with different words are sent to the judge together with the question.

A trial is answered when the model gave an answer that could be compared. Only answered trials count. The others are
neither right nor wrong.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import cast

from operators.execution.stage import Context
from operators.models.client import Answer, ModelClient, Refusal, Request, TimedFrame
from operators.models.prompts import Prompt
from operators.questions.answers import compare_open, same_answer, same_count, same_place, same_texts
from schemas.answer_format import LETTERS
from schemas.answers import Letter, ShortAnswer, Verdict
from schemas.config import Role
from schemas.provenance import Provenance
from schemas.tables import Check, Question, QuestionKind, Reject, Template, Trial


@dataclass(frozen=True)
class TrialSpec:
    """A question, its number of trials, and what the model sees with it: a storyboard, frames, or neither."""

    question: Question
    trials: int
    story: str = ""
    frames: tuple[TimedFrame, ...] = ()


@dataclass(frozen=True)
class TrialResult:
    """The outcome of all trials of one question."""

    question: Question
    check: Check
    answers: tuple[str, ...]
    """One answer per answered trial: the text of an option, or the free text."""
    right: tuple[bool, ...]
    """Whether each of these answers is right."""
    refusals: tuple[Refusal, ...]
    """One refusal per unanswered trial: the model's, or the judge's if it could not compare the model's answer."""
    provenance: tuple[Provenance, ...]
    """Provenance of all answers of the model, then of the judge, including those of trials without a verdict."""

    @property
    def correct(self) -> int:
        """Number of right answers."""
        return sum(self.right)

    @property
    def share(self) -> float:
        """Right answers divided by answered trials. There must be at least one answered trial."""
        return self.correct / len(self.right)

    def trial(self, passed: bool) -> Trial:
        """The row of this result, with the verdict of its check."""
        return Trial(
            question_id=self.question.question_id,
            video_id=self.question.video_id,
            check=self.check,
            n=len(self.answers),
            correct=self.correct,
            answers=self.answers,
            passed=passed,
            provenance=self.provenance,
        )

    def unanswered(self, context: Context) -> Reject | None:
        """A reject of the question when no trial was answered, because then nothing is known of it; else None."""
        if self.answers:
            return None
        first = self.refusals[0]
        counts = Counter(refusal.reason for refusal in self.refusals)
        return context.reject(
            self.question.question_id,
            "unanswered",
            f"question {self.question.question_id} ({self.question.question!r}): none of {len(self.refusals)} trials "
            f"of check {self.check} was answered ({', '.join(f'{n} {reason}' for reason, n in counts.items())}); the "
            f"first: {first.message.rstrip('.')}; ask again with `lvr replay`, or take another model",
            first.raw,
            first.request_sha256,
        )


def run_trials(
    context: Context,
    check: Check,
    candidate: ModelClient,
    prompts: Mapping[QuestionKind, Prompt],
    specs: Sequence[TrialSpec],
) -> list[TrialResult]:
    """Run all trials and return one result for each, in the same order.

    Args:
        context: its role `judge` and its prompt `judge` are used to compare open answers.
        check: the check that the trials belong to.
        candidate: the model that answers the questions.
        prompts: the candidate's prompt for each kind of question.
        specs: questions with at least one trial each.
    """
    trials = [(spec, options, seed) for spec in specs for options, seed in _orders(context, check, spec)]
    requests = [_request(prompts[spec.question.kind], spec, options, seed) for spec, options, seed in trials]
    replies = candidate.call(requests)
    answers = [_answer(reply, options) for reply, (_, options, _) in zip(replies, trials, strict=True)]
    asked = [(spec.question, answer) for (spec, _, _), answer in zip(trials, answers, strict=True)]
    verdicts, judged = _compare(context, asked)
    results, first = [], 0
    for spec in specs:
        own = slice(first, first + spec.trials)
        first += spec.trials
        answered = [
            (answer, right)
            for answer, right in zip(answers[own], verdicts[own], strict=True)
            if answer is not None and right is not None
        ]
        own_replies = (*replies[own], *judged[own])
        results.append(
            TrialResult(
                question=spec.question,
                check=check,
                answers=tuple(answer for answer, _ in answered),
                right=tuple(right for _, right in answered),
                refusals=tuple(reply for reply in own_replies if isinstance(reply, Refusal)),
                provenance=tuple(reply.provenance for reply in own_replies if isinstance(reply, Answer)),
            )
        )
    return results


def orders(options: Sequence[str], trials: int, rng: Random) -> list[tuple[str, ...]]:
    """One order of the options per trial.

    With n options, each option has each position once in the first n trials, and so in every further block of n.
    """
    found: list[tuple[str, ...]] = []
    for trial in range(trials):
        turn = trial % max(1, len(options))
        if turn == 0:
            shuffled = rng.sample(options, len(options))
        found.append((*shuffled[turn:], *shuffled[:turn]))
    return found


def _orders(context: Context, check: Check, spec: TrialSpec) -> list[tuple[tuple[str, ...], int]]:
    """Options in order, and the seed, of every trial of a question."""
    name = spec.question.question_id
    shown = orders(spec.question.options, spec.trials, Random(context.seed(check, name)))
    return [(options, context.seed(check, name, trial)) for trial, options in enumerate(shown)]


def _request(prompt: Prompt, spec: TrialSpec, options: Sequence[str], seed: int) -> Request:
    question = spec.question
    lettered = {"options": list(zip(LETTERS, options, strict=False))} if options else {}
    text = prompt.render(story=spec.story, question=question.question, **lettered)
    return Request(question.question_id, prompt, text, spec.frames, seed)


def _answer(reply: Answer | Refusal, options: Sequence[str]) -> str | None:
    if isinstance(reply, Refusal):
        return None
    if isinstance(reply.value, Letter):
        return options[LETTERS.index(reply.value.answer)]
    return cast(ShortAnswer, reply.value).answer


def _compare(
    context: Context, asked: Sequence[tuple[Question, str | None]]
) -> tuple[list[bool | None], list[Answer | Refusal | None]]:
    """Compare answers with their questions' right answers.

    Returns:
        Whether each answer is right (None without an answer or a verdict), and the judge's reply on each answer (None
        where the judge was not needed).
    """
    right = [None if answer is None else _by_program(question, answer) for question, answer in asked]
    judged: list[Answer | Refusal | None] = [None] * len(asked)
    open_cases = {
        index: _judge_request(context, question, answer)
        for index, (question, answer) in enumerate(asked)
        if answer is not None and right[index] is None
    }
    replies = context.models[Role.JUDGE].call(list(open_cases.values())) if open_cases else []
    for index, reply in zip(open_cases, replies, strict=True):
        judged[index] = reply
        if isinstance(reply, Answer):
            right[index] = cast(Verdict, reply.value).same
    return right, judged


def _by_program(question: Question, answer: str) -> bool | None:
    """Whether an answer is right, or None when the judge must compare it.

    The judge compares answers to model-written questions only. Derived answers have forms that a program can parse.
    """
    if question.kind is QuestionKind.CHOICE:
        return same_answer(answer, question.answer, question.kind)
    if question.derivation is None:
        return compare_open(answer, question.answer)
    match question.derivation.template:
        case Template.ORDER | Template.AFTER | Template.BEFORE:
            return same_texts(answer, question.answer)
        case Template.DURATION if len(question.derivation.subjects) > 1:
            return same_texts(answer, question.answer)
        case Template.REGION:
            return same_place(answer, question.answer)
        case Template.COUNT:
            return same_count(answer, question.answer)
        case Template.DURATION | Template.WHEN:
            return compare_open(answer, question.answer) is True


def _judge_request(context: Context, question: Question, answer: str) -> Request:
    prompt = context.prompts["judge"]
    text = prompt.render(question=question.question, right=question.answer, given=answer)
    return Request(question.question_id, prompt, text, seed=context.seed("judge", question.question_id))
