"""Runs trials: a model answers each question several times, and its right answers are counted.

A stopping rule decides after each round of trials how many more a question needs (`StoppingRule`): a fixed number for
the difficulty, a sequential test for the checks. All trials of a round are sent in one call, so that they run
concurrently. In a check each trial has its options in another order, and the right option has every letter equally
often, so that a preference for a letter gives no advantage. For the difficulty all trials have the sample's own order,
as in training.

Open answers about on-screen texts are compared by program only. Other open answers are compared by program first, and
those with different words are sent to the judge together with the question.

A trial is answered when the model gave an answer that could be compared. Only answered trials count; the others are
neither right nor wrong, and are replaced while `MAX_REFUSALS` permits. `unknown` and `several` are answers, and wrong.
A free text without an answer, or whose choice is uncertain, is a wrong answer, as for the trainer's rewards.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Protocol, cast

from operators.execution.stage import Context
from operators.models.client import Answer, ModelClient, Refusal, Request, TimedFrame
from operators.models.prompts import Prompt
from operators.questions.answers import compare_open, folded, same_answer, same_count, same_place, same_texts
from operators.questions.outcome import Problem
from operators.questions.story import story_room
from schemas.answer_format import (
    LETTERS,
    LONGEST_ANSWER,
    Target,
    choice_letter,
    parse_response,
    problem_text,
    user_text,
)
from schemas.answers import ChosenOption, FoundAnswer, FreeText, Letter, ShortAnswer, Verdict
from schemas.config import Role
from schemas.provenance import Provenance
from schemas.tables import Check, Question, QuestionKind, Template, Trial

UNKNOWN = "unknown"
"""The answer that the material does not tell the answer."""
SEVERAL = "several"
"""The answer that more than one option is right."""
MAX_REFUSALS = 3
"""Unanswered trials of a question beyond which no more are sent, unless there are at least as many answered ones."""


class StoppingRule(Protocol):
    """Decides how many more trials a question needs."""

    def more_trials(self, right: int, wrong: int) -> int:
        """Number of trials to run next; 0 to stop."""


@dataclass(frozen=True)
class FixedTrials:
    """The same number of answered trials for every question."""

    count: int

    def more_trials(self, right: int, wrong: int) -> int:
        return max(0, self.count - right - wrong)


@dataclass(frozen=True)
class TrialSpec:
    """A question, and what the model sees with it: a story, frames, or neither.

    `part` distinguishes several specs of one question in one check.
    """

    question: Question
    story: str | None = None
    """The prompt's variable `story`, empty with frames; None for a prompt without it."""
    frames: tuple[TimedFrame, ...] = ()
    part: int = 0
    chain: str | None = None
    """The prompt's variable `chain`, a chain of thought; None for a prompt without it."""
    as_trained: tuple[str, ...] | None = None
    """For a prompt with the variable `turn`, the user's turn of the trainer: the options in the order of the sample.
    None for prompts of checks."""


@dataclass(frozen=True)
class TrialResult:
    """The outcome of all trials of one question."""

    question: Question
    check: Check
    answers: tuple[str, ...]
    """One answer per answered trial: the text of an option, `unknown`, `several`, or the free answer. Empty if a free
    text has none, or its choice is uncertain."""
    right: tuple[bool, ...]
    """Whether each of these answers is right."""
    refusals: tuple[Refusal, ...]
    """One refusal per unanswered trial: the model's, or the judge's if it could not compare the model's answer."""
    provenance: tuple[Provenance, ...]
    """Provenance of all answers of the model, then of the judge, including those of trials without a verdict. Without
    their raw texts, which the journal has under `request_sha256`."""

    @property
    def correct(self) -> int:
        """Number of right answers."""
        return sum(self.right)

    @property
    def wrong(self) -> int:
        """Number of wrong answers."""
        return len(self.right) - self.correct

    @property
    def unknown(self) -> int:
        """Number of answers that the material does not tell the answer."""
        return sum(folded(answer).strip(".") == UNKNOWN for answer in self.answers)

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

    def find_problem(self, rule: StoppingRule) -> Problem | None:
        """The problem that too few trials were answered for a decision; None if there were enough."""
        if self.answers and (not self.refusals or rule.more_trials(self.correct, self.wrong) == 0):
            return None
        first = self.refusals[0]
        counts = Counter(refusal.reason for refusal in self.refusals)
        return Problem(
            "unanswered",
            f"only {len(self.answers)} trials of check {self.check} were answered, too few for a decision; "
            f"{len(self.refusals)} were not ({', '.join(f'{n} {reason}' for reason, n in counts.items())}); the first: "
            f"{first.message.rstrip('.')}; send them again with `lvr replay`, or take another model",
            first.raw,
            first.request_sha256,
        )


@dataclass
class _Run:
    """The trials of one spec so far."""

    spec: TrialSpec
    sent: int = 0
    answers: list[str] = field(default_factory=list)
    right: list[bool] = field(default_factory=list)
    replies: list[Answer | Refusal] = field(default_factory=list)

    def more_trials(self, rule: StoppingRule) -> int:
        correct = sum(self.right)
        refused = self.sent - len(self.right)
        if refused > max(MAX_REFUSALS, len(self.right)):
            return 0
        return rule.more_trials(correct, len(self.right) - correct)

    def result(self, check: Check) -> TrialResult:
        given = [reply.provenance for reply in self.replies if isinstance(reply, Answer)]
        return TrialResult(
            question=self.spec.question,
            check=check,
            answers=tuple(self.answers),
            right=tuple(self.right),
            refusals=tuple(reply for reply in self.replies if isinstance(reply, Refusal)),
            provenance=tuple(each.model_copy(update={"raw": ""}) for each in given),
        )


def run_trials(
    context: Context,
    check: Check,
    candidate: ModelClient,
    prompts: Mapping[QuestionKind, Prompt],
    specs: Sequence[TrialSpec],
    rule: StoppingRule,
) -> list[TrialResult]:
    """Run trials until the rule is satisfied for every spec. Returns one result for each, in the same order.

    Args:
        context: its role `judge` and its prompt `judge` are used to compare open answers.
        check: the check that the trials belong to.
        candidate: the model that answers the questions.
        prompts: the candidate's prompt for each kind of question.
        specs: the questions.
        rule: decides how many trials each question gets.
    """
    runs = [_Run(spec) for spec in specs]
    while wave := [(run, more) for run in runs if (more := run.more_trials(rule))]:
        trials = [(run, index) for run, more in wave for index in range(run.sent, run.sent + more)]
        shown = [_order_options(context, check, run.spec, index) for run, index in trials]
        requests = [
            _request(prompts[run.spec.question.kind], run.spec, options, _seed(context, check, run.spec, index))
            for (run, index), options in zip(trials, shown, strict=True)
        ]
        replies = candidate.call(requests)
        answers = [_answer(reply, options) for reply, options in zip(replies, shown, strict=True)]
        verdicts, judged = _compare(
            context, [(run.spec.question, answer) for (run, _), answer in zip(trials, answers, strict=True)]
        )
        for (run, _), reply, answer, right, verdict in zip(trials, replies, answers, verdicts, judged, strict=True):
            run.sent += 1
            run.replies += [each for each in (reply, verdict) if each is not None]
            if answer is not None and right is not None:
                run.answers.append(answer)
                run.right.append(right)
    return [run.result(check) for run in runs]


def user_turn(question: Question, options: Sequence[str]) -> str:
    """The user's turn of the trainer for a question with its options in this order."""
    return user_text(problem_text(question.question, options), Target.REASONING, question.kind)


def sample_options(context: Context, question: Question) -> tuple[str, ...]:
    """The options of a question in the order of its sample, which depends only on the build's seed and the question."""
    options = list(question.options)
    Random(context.seed("options", question.question_id)).shuffle(options)
    return tuple(options)


def letter_options(options: Sequence[str]) -> list[tuple[str, str]]:
    """Options with their letters, as prompts take them."""
    return list(zip(LETTERS, options, strict=False))


def shared_room(client: ModelClient, prompts: Mapping[QuestionKind, Prompt], questions: Sequence[Question]) -> int:
    """Tokens that a story may take which all of the questions (at least one) share, each in its kind's prompt.

    Raises:
        ModelUnavailable: the server cannot be used.
    """
    found = []
    for kind, prompt in prompts.items():
        own = [question for question in questions if question.kind is kind]
        if own:
            longest = max(own, key=lambda each: len(each.question) + sum(map(len, each.options)))
            options = {"options": letter_options(longest.options)} if longest.options else {}
            found.append(story_room(client, prompt, question=longest.question, **options))
    return min(found)


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


def _order_options(context: Context, check: Check, spec: TrialSpec, index: int) -> tuple[str, ...]:
    """The options of a question in the order of its trial number `index`."""
    if spec.as_trained is not None:
        return spec.as_trained
    rng = Random(context.seed(check, spec.question.question_id))
    return orders(spec.question.options, index + 1, rng)[index]


def _seed(context: Context, check: Check, spec: TrialSpec, index: int) -> int:
    name = spec.question.question_id
    return context.seed(check, name, index, *((spec.part,) if spec.part else ()))


def _request(prompt: Prompt, spec: TrialSpec, options: Sequence[str], seed: int) -> Request:
    question = spec.question
    variables = {"story": spec.story, "chain": spec.chain}
    shown: dict[str, object] = {name: value for name, value in variables.items() if value is not None}
    if spec.as_trained is not None:
        shown["turn"] = user_turn(question, options)
    else:
        shown["question"] = question.question
        shown |= {"options": letter_options(options)} if options else {}
    text = prompt.render(**shown)
    return Request(question.question_id, prompt, text, spec.frames, seed)


def _answer(reply: Answer | Refusal, options: Sequence[str]) -> str | None:
    if isinstance(reply, Refusal):
        return None
    if isinstance(reply.value, FreeText):
        answer = parse_response(reply.value.text).answer or ""
        if not options:
            return answer
        letter = choice_letter(answer, options)
        return options[LETTERS.index(letter)] if letter else ""
    if isinstance(reply.value, (Letter, ChosenOption)):
        chosen = reply.value.answer
        return options[LETTERS.index(chosen)] if chosen in LETTERS else chosen
    return cast(ShortAnswer | FoundAnswer, reply.value).answer


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
        index: judge_request(context, question, answer)
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

    Answers about on-screen texts have forms that a program can parse, so that no judge is needed.
    """
    if question.kind is QuestionKind.CHOICE:
        return same_answer(answer, question.answer, question.kind)
    if folded(answer).strip(".") == UNKNOWN or len(answer) > LONGEST_ANSWER:
        return False
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
    return compare_open(answer, question.answer)


def judge_request(context: Context, question: Question, answer: str) -> Request:
    """The request to the judge whether an answer means the same as the question's."""
    prompt = context.prompts["judge"]
    text = prompt.render(question=question.question, right=question.answer, given=answer)
    return Request(question.question_id, prompt, text, seed=context.seed("judge", context.stage, question.question_id))
