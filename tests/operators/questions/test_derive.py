"""Every derived question is unambiguous, and true of the film itself, not only of its measurements."""

import re
from itertools import pairwise
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from operators.questions.answers import same_answer
from operators.questions.derive import Derived, derive
from operators.questions.gates.wording import find_meta_talk
from operators.questions.phrases import REGIONS, in_order
from operators.questions.rederive import rederive_answer
from operators.questions.timeline import read_timeline, region_of, sample_times_of
from schemas.tables import Derivation, QuestionKind, Template
from tests.support.films import BOXES, SECOND, ImaginaryFilm, captions_of, film, films, shown

KINDS = tuple(QuestionKind)
PRECISION = 2.0
"""Tolerance in seconds of a measured time or duration: half a sampling interval at each end, and rounding."""


def derived_of(imaginary: ImaginaryFilm, seed: int = 0, per_template: int = 3, kinds=KINDS) -> list[Derived]:
    return derive(read_timeline(captions_of(imaginary)), kinds, per_template, Random(seed))


def seconds(text: str) -> float:
    if ":" in text:
        minutes, rest = text.split(":")
        return 60 * int(minutes) + int(rest)
    return float(re.findall(r"\d+", text)[0])


def holds(question: Derived, imaginary: ImaginaryFilm) -> bool:
    """Whether the answer is right for the film as it is, not as it was measured."""
    starts = {}
    for each in reversed(imaginary.shown):
        starts[each.text] = each.start_us
    first = question.subjects[0]
    own = [each for each in imaginary.shown if each.text == first]
    match question.template:
        case Template.ORDER:
            return question.answer == in_order(sorted(question.subjects, key=starts.__getitem__))
        case Template.AFTER:
            later = [each for each in imaginary.shown if each.start_us > starts[first]]
            return question.answer == min(later, key=lambda each: each.start_us).text
        case Template.BEFORE:
            earlier = [each for each in imaginary.shown if each.start_us < starts[first]]
            return question.answer == max(earlier, key=lambda each: each.start_us).text
        case Template.COUNT if len(question.subjects) == 1:
            return question.answer == str(len(own))
        case Template.COUNT:
            low, high = (starts[subject] for subject in question.subjects)
            return question.answer == str(len({t.text for t in imaginary.shown if low < t.start_us < high}))
        case Template.DURATION if len(question.subjects) == 1:
            return abs(seconds(question.answer) - (own[0].end_us - own[0].start_us) / SECOND) <= PRECISION
        case Template.DURATION:
            lengths = {each.text: each.end_us - each.start_us for each in imaginary.shown}
            return question.answer == max(question.subjects, key=lengths.__getitem__)
        case Template.WHEN:
            return abs(seconds(question.answer) - starts[first] / SECOND) <= PRECISION
        case Template.REGION:
            return question.answer == REGIONS[region_of(own[0].box)]


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(imaginary=films(), seed=st.integers(0, 1000))
def test_derived_questions_are_true_provable_and_unambiguous(imaginary, seed):
    captions = captions_of(imaginary)
    sample_times = sample_times_of(captions)
    at_start, at_end = (
        {t.text for t in imaginary.shown if t.start_us <= time_us < t.end_us}
        for time_us in (sample_times[0], sample_times[-1])
    )
    for question in derived_of(imaginary, seed):
        unseen = {Template.DURATION: at_start | at_end, Template.WHEN: at_start}.get(question.template, set())
        assert unseen.isdisjoint(question.subjects), question
        assert holds(question, imaginary), question
        again = rederive_answer(Derivation(template=question.template, subjects=question.subjects), captions)
        assert again is not None
        assert same_answer(again, question.answer, QuestionKind.OPEN), (again, question)
        if question.kind is QuestionKind.CHOICE:
            agreeing = [
                option for option in question.options if same_answer(option, question.answer, QuestionKind.OPEN)
            ]
            assert len(question.options) == 4
            assert agreeing == [question.answer]
        else:
            assert question.options == ()


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(imaginary=films())
def test_evidence_covers_what_the_question_is_about_and_wording_is_that_of_a_viewer(imaginary):
    timeline = read_timeline(captions_of(imaginary))
    for question in derived_of(imaginary):
        spans = {each.text: each.span for each in timeline.occurrences if each.span in question.evidence}
        assert set(question.subjects) <= set(spans)
        assert list(question.evidence) == sorted(set(question.evidence), key=lambda span: (span.start_us, span.end_us))
        assert find_meta_talk(question.question) is None
        assert all(subject in question.question or subject in question.options for subject in question.subjects)


STORY = film(
    shown("CHAPTER 1: THE HARBOUR", 2, 6, BOXES[4]),
    shown("NORA NEEDS A LAMP", 9, 14),
    shown("FERRY 1", 17, 29, BOXES[2]),
    shown("CHAPTER 2: THE MARKET", 33, 36, BOXES[4]),
    shown("FRESH APPLES", 41, 45, BOXES[6]),
    shown("OPEN DAILY", 50, 53, BOXES[0]),
    shown("OPEN DAILY", 60, 64, BOXES[0]),
    shown("HER SHOE IS LOOSE", 70, 75),
    seconds=90,
)


def test_a_story_gives_every_template_in_both_kinds_and_no_fact_twice():
    questions = derived_of(STORY, per_template=2)
    found = {(question.template, question.kind) for question in questions}
    assert {template for template, _ in found} == set(Template)
    assert {template for template, kind in found if kind is QuestionKind.OPEN} >= set(Template) - {Template.COUNT}
    facts = [(question.template, question.subjects) for question in questions]
    assert len(facts) == len(set(facts))
    for template, kind in found:
        assert 1 <= sum((question.template, question.kind) == (template, kind) for question in questions) <= 2


def test_recurring_texts_are_only_counted():
    questions = derived_of(STORY, per_template=9)
    about = [question for question in questions if "OPEN DAILY" in question.subjects]
    assert {(question.template, question.answer) for question in about} == {(Template.COUNT, "2")}
    assert not [q for q in questions if q.template in (Template.AFTER, Template.BEFORE) and q.answer == "OPEN DAILY"]


def test_the_same_seed_gives_the_same_questions_and_another_seed_others():
    assert derived_of(STORY, seed=1) == derived_of(STORY, seed=1)
    assert derived_of(STORY, seed=1) != derived_of(STORY, seed=2)


def test_only_questions_of_the_requested_kinds_are_made():
    assert {question.kind for question in derived_of(STORY, kinds=[QuestionKind.OPEN])} == {QuestionKind.OPEN}


def of_template(imaginary: ImaginaryFilm, template: Template) -> list[Derived]:
    return [question for question in derived_of(imaginary, per_template=9) if question.template is template]


@pytest.mark.parametrize(
    "unfit",
    [
        shown("NORA NEEDS A LAMP", 20, 25, score=0.85),
        shown("7 I 42", 20, 25),
        shown('SHE SAYS "NO"', 20, 25),
        shown("THE LAST FERRYS", 20, 25, BOXES[1]),
    ],
    ids=["read with doubt", "no word", "quotes", "near twin of another text"],
)
def test_a_text_that_is_unfit_is_neither_subject_nor_answer_and_hides_what_it_stands_between(unfit):
    imaginary = film(shown("THE LAST FERRY", 5, 9), unfit, shown("FRESH APPLES", 40, 44))
    questions = derived_of(imaginary, per_template=9)
    assert all(unfit.text not in (*question.subjects, question.answer) for question in questions)
    assert not of_template(imaginary, Template.AFTER)


def test_overlapping_texts_have_no_order():
    assert not of_template(film(shown("THE LAST FERRY", 5, 15), shown("EXIT", 10, 20, BOXES[0])), Template.AFTER)
    assert of_template(film(shown("THE LAST FERRY", 5, 9), shown("EXIT", 10, 20, BOXES[0])), Template.AFTER)


def test_texts_that_appear_simultaneously_have_no_order():
    simultaneous = film(
        shown("THE LAST FERRY", 5, 9), shown("EXIT", 15.1, 20, BOXES[0]), shown("OPEN DAILY", 15.3, 20, BOXES[3])
    )
    assert not of_template(simultaneous, Template.AFTER)


def test_durations_closer_than_three_seconds_are_not_compared():
    names = ("THE LAST FERRY", "EXIT", "OPEN DAILY")
    others = [shown(name, 10 * index + 20, 10 * index + 24) for index, name in enumerate(names)]
    close = film(shown("LIGHTHOUSE", 3, 9.5), *others)
    clear = film(shown("LIGHTHOUSE", 3, 12.5), *others)
    assert not [question for question in of_template(close, Template.DURATION) if len(question.subjects) == 4]
    (question,) = [question for question in of_template(clear, Template.DURATION) if len(question.subjects) == 4]
    assert question.answer == "LIGHTHOUSE"


def test_a_stretch_without_captions_is_in_no_question():
    """The clip from 20 s to 30 s has no caption, so a text may have appeared there unseen."""
    imaginary = film(shown("THE LAST FERRY", 12, 16), shown("EXIT", 33, 37), shown("EXIT", 45, 49))
    missing = [caption for caption in captions_of(imaginary) if caption.start_us != 20 * SECOND]
    questions = derive(read_timeline(missing), KINDS, 9, Random(0))
    assert not {Template.AFTER, Template.BEFORE, Template.COUNT} & {question.template for question in questions}
    assert of_template(imaginary, Template.COUNT)


def test_a_film_without_texts_gives_no_questions():
    assert derived_of(film()) == []


def test_the_options_of_a_when_question_are_well_apart():
    for question in of_template(STORY, Template.WHEN):
        times = sorted(map(seconds, question.options))
        assert all(later - earlier >= 9 for earlier, later in pairwise(times))


def test_a_start_or_an_end_that_no_sample_time_shows_is_in_no_question():
    """The first text may have appeared at any earlier time, and the last one may have stayed."""
    edges = film(
        shown("LIGHTHOUSE", 0, 20), shown("EXIT", 25, 29), shown("OPEN DAILY", 33, 37), shown("FERRY 1", 41, 60)
    )
    durations, moments = of_template(edges, Template.DURATION), of_template(edges, Template.WHEN)
    assert {question.subjects for question in durations} == {("EXIT",), ("OPEN DAILY",)}
    assert {question.subjects for question in moments} == {("EXIT",), ("OPEN DAILY",), ("FERRY 1",)}
    assert {question.answer for question in of_template(edges, Template.BEFORE)} >= {
        "LIGHTHOUSE"
    }  # it was first, whenever it appeared


def test_two_texts_of_the_first_sample_time_have_no_order():
    both = film(shown("LIGHTHOUSE", 0, 9), shown("EXIT", 0.2, 5, BOXES[0]), shown("FERRY 1", 20, 24))
    templates = {question.template for question in derived_of(both, per_template=9)}
    assert not {Template.ORDER, Template.AFTER, Template.BEFORE} & templates
