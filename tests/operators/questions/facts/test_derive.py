"""Every question from facts has one right answer, and its chain states only facts."""

import re
from collections import Counter
from random import Random

import pytest

from operators.questions.facts.derive import TEMPLATES, Derived, derive
from operators.questions.facts.explain import explain
from operators.questions.facts.index import FactIndex
from operators.questions.facts.rederive import rederive_answer
from schemas.facts import VideoFacts
from schemas.tables import QuestionKind
from tests.support.brute_force import right_answers
from tests.support.derived_rows import question_of
from tests.support.fact_world import SECOND, make_facts
from tests.support.properties import given, settings, st

DURATION_US = 180 * SECOND
CLOCK = re.compile(r"\b(\d+):(\d\d)\b")


def derived_of(facts: VideoFacts, seed: int = 0, per_template: int = 2) -> list[Derived]:
    return derive(facts, DURATION_US, tuple(QuestionKind), per_template, Random(seed))


worlds = st.builds(
    make_facts,
    st.integers(0, 10_000),
    minutes=st.sampled_from((0.5, 1.0, 3.0)),
    complete=st.booleans(),
    goals=st.integers(0, 5),
    tracks=st.booleans(),
)


@given(facts=worlds, seed=st.integers(0, 100))
@settings(max_examples=12, deadline=None)
def test_every_answer_is_right_and_no_other_option_is(facts: VideoFacts, seed: int) -> None:
    for derived in derived_of(facts, seed):
        right = right_answers(facts, derived.template, derived.subjects, derived.question)
        if derived.kind is QuestionKind.CHOICE:
            assert [each for each in derived.options if each in right] == [derived.answer], derived
            assert len(set(derived.options)) == 4
        else:
            assert right == {derived.answer}, derived
        assert rederive_answer(facts, question_of(derived)) == derived.answer, derived


@given(facts=worlds, seed=st.integers(0, 100))
@settings(max_examples=8, deadline=None)
def test_evidence_and_the_times_of_a_chain_lie_in_the_video(facts: VideoFacts, seed: int) -> None:
    for derived in derived_of(facts, seed):
        assert derived.evidence
        assert all(0 <= each.start_us < each.end_us <= DURATION_US for each in derived.evidence)
        chain = explain(facts, question_of(derived), Random(seed))
        for minutes, rest in CLOCK.findall(chain):
            shown = 60 * int(minutes) + int(rest)
            assert any(each.start_us // SECOND <= shown <= each.end_us // SECOND for each in derived.evidence), chain
        assert not CLOCK.search(derived.question)


def test_the_same_seed_gives_the_same_questions() -> None:
    facts = make_facts(3)
    assert derived_of(facts, seed=5) == derived_of(facts, seed=5)
    assert derived_of(facts, seed=5) != derived_of(facts, seed=6)


def test_every_template_gives_questions() -> None:
    found = Counter(each.template for seed in range(14) for each in derived_of(make_facts(seed, minutes=5)))
    assert set(found) == set(TEMPLATES)


@given(facts=worlds, seed=st.integers(0, 100))
@settings(max_examples=4, deadline=None)
def test_options_differ_only_by_names(facts: VideoFacts, seed: int) -> None:
    index = FactIndex(facts, DURATION_US)
    for derived in derived_of(facts, seed):
        if derived.options and not TEMPLATES[derived.template].has_mixed_shapes:
            assert len({index.shape(each) for each in derived.options}) == 1, derived


def test_a_chain_that_the_facts_no_longer_support_is_refused() -> None:
    facts = make_facts(3)
    derived = next(each for each in derived_of(facts) if each.template == "facts_wants")
    changed = facts.model_copy(update={"goals": tuple(g.model_copy(update={"aim": "sleep"}) for g in facts.goals)})
    with pytest.raises(ValueError, match="derive it again"):
        explain(changed, question_of(derived), Random(0))
