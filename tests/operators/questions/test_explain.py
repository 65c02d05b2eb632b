"""Reasoning by program names what is seen and when, ends with the answer, and refers only to the video."""

from random import Random

import pytest
from hypothesis import HealthCheck, given, settings

from operators.questions.derive import CATEGORY, derive
from operators.questions.explain import explain
from operators.questions.gates.wording import find_meta_talk
from operators.questions.timeline import read_timeline
from operators.video.timecode import format_time
from schemas.provenance import Provenance
from schemas.tables import Derivation, Question, QuestionKind, Template
from tests.support.films import BOXES, captions_of, film, films, shown


def questions_of(timeline):
    return [
        Question(
            question_id=f"q{number}",
            video_id="film",
            category=CATEGORY[each.template],
            kind=each.kind,
            writer="program",
            question=each.question,
            options=each.options,
            answer=each.answer,
            evidence=each.evidence,
            derivation=Derivation(template=each.template, subjects=each.subjects),
            provenance=Provenance(model="program"),
        )
        for number, each in enumerate(derive(timeline, tuple(QuestionKind), 3, Random(0)))
    ]


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(imaginary=films())
def test_every_derived_question_is_explained_by_its_evidence(imaginary):
    timeline = read_timeline(captions_of(imaginary))
    for question in questions_of(timeline):
        reasoning = explain(question, timeline, Random(0))
        assert question.answer in reasoning
        assert all(subject in reasoning for subject in question.derivation.subjects)
        assert all(format_time(span.start_us) in reasoning for span in question.evidence)
        assert find_meta_talk(reasoning) is None


TIMELINE = read_timeline(
    captions_of(film(shown("THE LAST FERRY", 3, 7), shown("FRESH APPLES", 12, 22, BOXES[6]), shown("EXIT", 30, 34)))
)


def explain_first(template, kind=None):
    question = next(each for each in questions_of(TIMELINE) if each.derivation.template is template)
    return question, explain(question, TIMELINE, Random(0))


def test_the_steps_come_in_the_order_of_the_video():
    _, reasoning = explain_first(Template.ORDER)
    steps = reasoning.partition("first of them")[2]
    assert steps.index("FRESH APPLES") < steps.index("EXIT")


def test_wordings_vary_with_the_seed():
    question, _ = explain_first(Template.WHEN)
    assert len({explain(question, TIMELINE, Random(seed)) for seed in range(20)}) > 1


def test_a_question_that_a_model_wrote_is_not_explained_by_program():
    question, _ = explain_first(Template.WHEN)
    with pytest.raises(ValueError, match="ask the reasoner"):
        explain(question.model_copy(update={"derivation": None}), TIMELINE, Random(0))


def test_evidence_that_is_not_on_the_timeline_is_an_error():
    question, _ = explain_first(Template.WHEN)
    with pytest.raises(ValueError, match="derive it again"):
        explain(question, read_timeline(captions_of(film(shown("LIGHTHOUSE", 40, 44)))), Random(0))


def test_an_end_or_a_start_that_no_sample_time_shows_is_not_mentioned():
    edges = film(shown("LIGHTHOUSE", 0, 20), shown("OPEN DAILY", 33, 37), shown("EXIT", 41, 60, BOXES[6]))
    timeline = read_timeline(captions_of(edges))
    for question in questions_of(timeline):
        reasoning = explain(question, timeline, Random(0))
        assert "01:00" not in reasoning
        assert "up at 00:00" not in reasoning
    whole = " ".join(explain(question, timeline, Random(0)) for question in questions_of(timeline))
    assert "still there in the last picture" in whole
    assert "is already there at 00:00" in whole
