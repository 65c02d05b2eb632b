"""Reasoning by program names what is seen and when, ends with the answer, and refers only to the video."""

import re
from dataclasses import replace
from itertools import pairwise
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


CLOCK = r"(\d+):(\d\d)"
FROM_TO = re.compile(rf"from {CLOCK} to {CLOCK}, for about (\d+) seconds?\b")
UP_AND_GONE = re.compile(rf"comes up at {CLOCK} and is gone at {CLOCK}\. So it stays about (\d+) seconds\.$")


def seconds_of(minutes, seconds):
    return 60 * int(minutes) + int(seconds)


def read_times(text):
    """All times that the text shows, in seconds, in the order of the text."""
    return [seconds_of(*match) for match in re.findall(CLOCK, text)]


def contradiction(question, reasoning):
    """What in a chain by program does not agree with its own times, counts or order; None if all does."""
    own = re.sub(r'"[^"]*"', '""', reasoning)
    for pattern in (FROM_TO, UP_AND_GONE):
        for *times, stated in pattern.findall(own):
            if seconds_of(*times[2:]) - seconds_of(*times[:2]) != int(stated):
                return f"the times {times} are not {stated} seconds apart"
    times = read_times(own)
    match question.derivation.template, len(question.derivation.subjects):
        case Template.ORDER, _:
            quotes = re.findall(r'"([^"]*)"', reasoning.partition(" is the first of them")[2])
            first = re.findall(r'"([^"]*)" is the first of them', reasoning)
            in_steps, concluded = [*first, *quotes[:2]], quotes[2:]
            if in_steps != concluded or any(later <= earlier for earlier, later in pairwise(times)):
                return f"the steps are {in_steps} at {times}, the conclusion is {concluded}"
        case (Template.AFTER, _) if not times[0] < times[-1]:
            return f"the next one comes at {times[-1]}, not after {times[0]}"
        case (Template.BEFORE, _) if not times[1] < times[0]:
            return f"the one before comes at {times[1]}, not before {times[0]}"
        case Template.COUNT, 1:
            if len(times) != int(question.answer) or any(later <= earlier for earlier, later in pairwise(times)):
                return f"{question.answer} times are stated to be {times}"
        case Template.COUNT, 2:
            first, last, *between = times
            if len(between) != int(question.answer) or not all(first < each < last for each in between):
                return f"{question.answer} texts between {first} and {last} are stated to be at {between}"
        case Template.DURATION, 1:
            if not UP_AND_GONE.search(own) or f"about {times[1] - times[0]} second" not in question.answer:
                return f"{times} are stated to be {question.answer}"
        case Template.DURATION, _:
            shown = {
                text: int(stated or 0)
                for text, stated in re.findall(
                    r'"([^"]*)" is on screen [^."]*?(?:for about (\d+) seconds?)?\.(?= )', reasoning
                )
            }
            longest = [text for text, stated in shown.items() if stated == max(shown.values())]
            if len(shown) != 4 or longest != [question.answer]:
                return f"the longest of {shown} is stated to be {question.answer}"
        case Template.WHEN, _:
            if (
                f"{times[0] // 60:02d}:{times[0] % 60:02d}" != question.answer
                or times != sorted(times[:-1]) + times[:1]
            ):
                return f"it is first seen at {question.answer}, among {times}"
    return None


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(imaginary=films())
def test_no_explanation_contradicts_itself(imaginary):
    timeline = read_timeline(captions_of(imaginary))
    for question in questions_of(timeline):
        reasoning = explain(question, timeline, Random(0))
        assert contradiction(question, reasoning) is None, reasoning


def test_a_stated_duration_is_the_difference_of_the_times_that_are_shown():
    """From 126.9 s to 132.0 s are 5.1 s, but a reader of 02:06 and 02:12 counts 6."""
    occurrence = replace(TIMELINE.occurrences[0], start_us=126_900_000, end_us=132_000_000)
    assert (format_time(occurrence.start_us), format_time(occurrence.end_us)) == ("02:06", "02:12")
    assert occurrence.shown_seconds == 6


TIMELINE = read_timeline(
    captions_of(film(shown("THE LAST FERRY", 3, 7), shown("FRESH APPLES", 12, 22, BOXES[6]), shown("EXIT", 30, 34)))
)


def explain_first(template, kind=None):
    question = next(each for each in questions_of(TIMELINE) if each.derivation.template == template)
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
