"""The blind check: a question that a model answers without the video does not test whether it was watched."""

from __future__ import annotations

from collections.abc import Sequence

from operators.questions.gates.form import OPTIONS
from operators.questions.outcome import Material, Outcome, Problem, with_trial
from operators.questions.sequential_test import SequentialTest
from operators.questions.trials import TrialResult, TrialSpec, run_trials
from schemas.config import Role, VerifyConfig
from schemas.tables import Check, Question, QuestionKind

PROMPTS = {QuestionKind.CHOICE: "answer_blind_choice", QuestionKind.OPEN: "answer_blind_open"}
GUESSED = {QuestionKind.CHOICE: 1 / OPTIONS, QuestionKind.OPEN: 0.15}
"""Share of right answers by guessing. Open answers are rarely guessed, but the judge that compares them may err: with
5 %, a judge that errs in one of ten comparisons loses every sixth good open question."""


def check_blind(material: Material, questions: Sequence[Question]) -> list[Outcome]:
    """Reject questions that the judge answers without the video.

    The test decides between guessing and the share `verify.blind_share` of right answers.
    """
    context = material.context
    settings = context.config.verify
    if not settings.blind_trials:
        return [Outcome(question) for question in questions]
    prompts = {kind: context.prompts[prompt] for kind, prompt in PROMPTS.items()}
    outcomes: dict[str, Outcome] = {}
    for kind, prompt in prompts.items():
        rule = blind_test(settings, kind)
        specs = [TrialSpec(question) for question in questions if question.kind is kind]
        for result in run_trials(context, Check.BLIND, context.models[Role.JUDGE], {kind: prompt}, specs, rule):
            outcomes[result.question.question_id] = _outcome(result, rule)
    return [outcomes[question.question_id] for question in questions]


def blind_test(settings: VerifyConfig, kind: QuestionKind) -> SequentialTest:
    """The test of whether a question is answered without the video.

    At the defaults it errs on 1.6 % of the choice questions that are only guessed at, and on 5 % of those that are
    answered in 60 % of the trials, after 12 and 16 trials in the mean.
    """
    return SequentialTest(
        high=settings.blind_share,
        low=GUESSED[kind],
        miss_rate=0.06,
        false_alarm_rate=0.01,
        max_trials=settings.blind_trials,
    )


def _outcome(result: TrialResult, rule: SequentialTest) -> Outcome:
    problem = result.find_problem(rule)
    if problem is None and rule.decide(result.correct, result.wrong):
        problem = Problem(
            "answerable_blind",
            f"right without the video in {result.correct} of {len(result.answers)} answers (guessing: {rule.low:.0%}); "
            f"it must need what only the video shows",
        )
    return Outcome(with_trial(result.question, result.trial(passed=problem is None)), problem)
