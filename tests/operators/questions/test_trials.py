"""Options change places evenly, and answers are assigned to the question that they belong to."""

from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.execution.stage import Context
from operators.models.journal import Journal
from operators.models.prompts import load_prompt
from operators.models.session import ModelPool, open_models, resolve
from operators.questions.trials import MAX_REFUSALS, FixedTrials, TrialResult, TrialSpec, orders, run_trials
from operators.store.content_store import Store
from schemas.config import BuildConfig, Role
from schemas.tables import Check, Derivation, QuestionKind, Template
from tests.support.openai_server import OpenAIServer, last_text
from tests.support.rows import make_question
from tests.support.stages import PROMPTS

OPTIONS = ("a boat", "a car", "a bird", "a train")
CHOICE, OPEN = QuestionKind.CHOICE, QuestionKind.OPEN


@settings(deadline=None)
@given(trials=st.integers(0, 40), seed=st.integers(0, 100))
def test_in_four_trials_each_option_has_each_letter_once(trials, seed):
    found = orders(OPTIONS, trials, Random(seed))
    assert len(found) == trials
    assert all(sorted(order) == sorted(OPTIONS) for order in found)
    for first in range(0, trials - trials % 4, 4):
        for option in OPTIONS:
            assert {order.index(option) for order in found[first : first + 4]} == {0, 1, 2, 3}


def test_orders_change_from_four_to_four_and_with_the_seed():
    assert len(set(orders(OPTIONS, 40, Random(0)))) > 8
    assert orders(OPTIONS, 4, Random(1)) != orders(OPTIONS, 4, Random(2))
    assert orders((), 3, Random(0)) == [(), (), ()]


def script(body):
    """Server script: correct answers to choice question 1 and open question 4.

    Other choice questions always get the letter B, other open questions a wrong answer. Every verdict is "different".
    """
    text = last_text(body)
    if body["response_format"]["json_schema"]["name"] == "ShortAnswer":
        return {"answer": "a boat" if "4th" in text else "no idea at all"}
    if body["response_format"]["json_schema"]["name"] == "Verdict":
        return {"same": False}
    right = next(line[0] for line in text.splitlines() if line[1:] == ". a boat")
    return {"answer": right if "1th" in text else "B"}


@pytest.fixture
def run_specs(tmp_path):
    """Runs trials with a judge whose answers and verdicts come from a script."""

    def run(specs: list[TrialSpec], answers, trials: int = 4, rule=None) -> list[TrialResult]:
        rule = rule or FixedTrials(trials)
        config = BuildConfig(source="in", out="out")
        prompts = {name: load_prompt(name, PROMPTS) for name in ("answer_blind_choice", "answer_blind_open", "judge")}
        kinds = {CHOICE: prompts["answer_blind_choice"], OPEN: prompts["answer_blind_open"]}
        with OpenAIServer(script=answers) as server, ModelPool(retries=0) as pool:
            environ = server.environ()
            models = resolve(config.models, environ)
            with open_models(models, [Role.JUDGE], Journal(str(tmp_path / "journal")), environ, pool) as clients:
                context = Context("question", "v", config, prompts, clients, Store(str(tmp_path)), tmp_path)
                return run_trials(context, Check.BLIND, clients[Role.JUDGE], kinds, specs, rule)

    return run


def test_results_come_in_the_order_of_the_questions_with_their_own_answers(run_specs):
    questions = [make_question(1), make_question(2), make_question(3, kind=OPEN), make_question(4, kind=OPEN)]
    results = run_specs([TrialSpec(question) for question in questions], script, trials=8)
    assert [result.question for result in results] == questions
    assert [result.correct for result in results] == [8, 2, 0, 8]
    assert [len(result.answers) for result in results] == [8] * 4
    assert Counter(results[1].answers) == dict.fromkeys(OPTIONS, 2)
    assert Counter(each.prompt_id for each in results[2].provenance) == {"answer_blind_open": 8, "judge": 8}
    assert {each.raw for each in results[2].provenance} == {""}  # the journal has them
    assert results[3].share == 1.0
    assert [result.find_problem(FixedTrials(8)) for result in results] == [None] * 4


def test_only_answered_trials_count_and_others_take_their_place(run_specs):
    def silent_on_a(body):
        return "no JSON" if any("\nA. a boat\n" in each["content"] for each in body["messages"]) else {"answer": "B"}

    [result] = run_specs([TrialSpec(make_question(1))], silent_on_a)
    assert len(result.answers) == 4
    assert {refusal.reason for refusal in result.refusals} == {"schema"}
    assert result.trial(passed=True).n == 4
    assert result.find_problem(FixedTrials(4)) is None


def test_a_model_that_never_answers_is_not_called_for_ever(run_specs):
    [result] = run_specs([TrialSpec(make_question(1))], lambda body: "no JSON", trials=1)
    assert result.answers == ()
    assert len(result.refusals) == MAX_REFUSALS + 1


def test_unknown_and_several_are_wrong_answers(run_specs):
    words = iter(["unknown", "Unknown."])
    results = run_specs([TrialSpec(make_question(1, kind=OPEN))], lambda body: {"answer": next(words)}, trials=2)
    assert (results[0].right, results[0].unknown) == ((False, False), 2)


def test_each_round_sends_no_more_than_the_rule_names(run_specs):
    """A sequential rule that is satisfied by two equal answers."""

    class TwoEqual:
        def more_trials(self, right, wrong):
            return 0 if max(right, wrong) >= 2 else 2 - max(right, wrong)

    questions = [make_question(1), make_question(2)]
    results = run_specs([TrialSpec(question) for question in questions], script, rule=TwoEqual())
    assert len(results[0].answers) == 2
    assert all(max(result.correct, result.wrong) == 2 for result in results)


def test_an_answer_that_the_judge_does_not_compare_is_neither_right_nor_wrong(run_specs):
    def no_verdict(body):
        schema_name = body["response_format"]["json_schema"]["name"]
        return "no verdict" if schema_name == "Verdict" else {"answer": "a small vessel"}

    [result] = run_specs([TrialSpec(make_question(1, kind=OPEN))], no_verdict)
    assert (result.answers, result.right) == ((), ())
    assert {(refusal.reason, refusal.raw) for refusal in result.refusals} == {("schema", "no verdict")}
    assert {each.prompt_id for each in result.provenance} == {"answer_blind_open"}  # what it answered is recorded
    problem = result.find_problem(FixedTrials(4))
    assert (problem.reason, problem.raw) == ("unanswered", "no verdict")
    assert problem.request_sha256 == result.refusals[0].request_sha256
    assert (
        "only 0 trials of check blind were answered, too few for a decision; 4 were not (4 schema)" in problem.message
    )


@pytest.mark.parametrize(
    ("template", "right", "good", "nonsense"),
    [
        (Template.WHEN, "00:21", "0:22", "2023-01-14 04:33:16.132"),
        (Template.REGION, "top centre", "top center", "The text"),
        (Template.DURATION, "about 5 seconds", "6 s", "7.4678813145861568112, 12, 2018"),
        (Template.COUNT, "3", "three times", "00:03"),
        (Template.AFTER, "FERRY 1", "ferry 1", "after FERRY 1 or FERRY 2"),
        (Template.ORDER, '"EXIT", then "OPEN"', "Exit, Open", "OPEN, EXIT"),
    ],
)
def test_the_judge_is_never_called_about_a_derived_answer(run_specs, template, right, good, nonsense):
    derivation = Derivation(template=template, subjects=("EXIT",))
    update = {"derivation": derivation, "answer": right}
    specs = [TrialSpec(make_question(number, kind=OPEN).model_copy(update=update)) for number in (1, 2)]
    results = run_specs(specs, lambda body: {"answer": good if "1th" in last_text(body) else nonsense}, trials=1)
    assert [result.answers for result in results] == [(good,), (nonsense,)]
    assert [result.right for result in results] == [(True,), (False,)]
    assert [each.prompt_id for result in results for each in result.provenance] == ["answer_blind_open"] * 2
