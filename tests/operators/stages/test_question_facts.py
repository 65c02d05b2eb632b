"""Questions that are derived from the facts about a video, and their chains of thought."""

import pytest

from operators.questions.facts.derive import TEMPLATES
from operators.sources.facts import put_facts
from operators.stages import reason
from operators.stages.question import STAGE
from operators.store.content_store import Store
from schemas.config import Writer
from schemas.facts import VideoFacts
from schemas.tables import QuestionCategory, QuestionKind, Reach
from tests.support.fact_world import make_facts
from tests.support.films import SECOND, captions_of, film
from tests.support.rows import make_source, make_video

CAPTIONS = captions_of(film(seconds=180))
FACTS = make_facts(3)


@pytest.fixture
def derive(stages):
    """Runs the stage on a video with these facts. `.source` is the row of its list."""

    def run(facts: VideoFacts | None = FACTS, duration_us: int = 180 * SECOND, stage=STAGE, tables=(), **question):
        uri = None if facts is None else put_facts(facts, Store(str(stages.folder)))
        source = make_source("film", facts_uri=uri)
        video = make_video("film").model_copy(update={"duration_us": duration_us})
        inputs = tables or ([video], CAPTIONS, [])
        settings = {"writers": [Writer.ANNOTATIONS], **question}
        return stages.run(stage, *inputs, [source], question=settings, verify={"blind_trials": 0})

    return run


def test_questions_of_all_kinds_and_categories_follow_from_facts(derive, stages):
    questions = derive()
    kept = [each for each in questions if each.passed]
    assert {each.category for each in kept} == set(QuestionCategory)
    assert {each.kind for each in kept} == set(QuestionKind)
    assert {each.reach for each in kept} == set(Reach)
    assert {(each.writer, each.provenance.model) for each in questions} == {("annotations", "program")}
    assert {each.derivation.template for each in questions} <= set(TEMPLATES)
    assert all([trial.check for trial in each.checks] == ["rules", "grounded", "duplicate"] for each in kept)
    assert len({each.question_id for each in questions}) == len(questions)
    assert {reject.key for reject in stages.rejects} == {each.question_id for each in questions if not each.passed}


def test_only_the_requested_categories_and_numbers_are_derived(derive):
    questions = derive(categories=["goal"], kinds=["open"], per_template=1)
    assert {(each.category, each.kind) for each in questions} == {("goal", "open")}
    templates = [each.derivation.template for each in questions]
    assert len(set(templates)) == len(templates)


def test_a_limit_holds_for_each_category_and_kind(derive):
    everything = {each.question for each in derive()}
    questions = derive(max_per_category=1)
    groups = [(each.category, each.kind) for each in questions]
    assert len(set(groups)) == len(groups) == len(QuestionCategory) * len(QuestionKind)
    assert {each.question for each in questions} < everything


def test_a_source_without_facts_has_no_such_questions(derive, server):
    assert derive(None) == []
    assert not server.requests


def test_facts_after_the_end_of_the_video_are_one_reject(derive, stages):
    assert derive(duration_us=100 * SECOND) == []
    [reject] = stages.rejects
    assert (reject.key, reject.reason) == ("film", "facts_outside_video")
    assert "after the video's end at 100000000 us; correct the time" in reject.message


def test_an_answer_that_the_facts_do_not_give_a_second_time_is_a_reject(derive, stages, monkeypatch):
    monkeypatch.setattr("operators.questions.gates.grounding.rederive_from_facts", lambda facts, question: "a bird")
    assert not any(each.passed for each in derive(kinds=["open"], per_template=1))
    assert {reject.reason for reject in stages.rejects} == {"proof_failed"}
    assert "the facts give 'a bird' for facts_" in stages.rejects[0].message


def test_the_chain_of_such_a_question_is_written_from_its_facts(derive, server):
    questions = [each for each in derive() if each.passed]
    reasonings = derive(stage=reason.STAGE, tables=(CAPTIONS, questions, []))
    assert [each.question_id for each in reasonings] == [each.question_id for each in questions]
    assert all(r.evidence == q.evidence for q, r in zip(questions, reasonings, strict=True))
    assert {each.provenance.model for each in reasonings} == {"program"}
    assert not server.requests
