"""The limits of every occurrence hold in the film itself.

Readings of one text become one occurrence, readings of other texts do not.
"""

import pytest
from hypothesis import HealthCheck, given, settings

from operators.demo.films.script import Region
from operators.questions.timeline import PAUSE_US, read_timeline, region_of, text_key
from schemas.base import Box
from tests.support.films import BOXES, SECOND, captions_of, film, films, shown


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(imaginary=films())
def test_the_true_span_of_a_text_lies_inside_the_limits(imaginary):
    for occurrence in read_timeline(captions_of(imaginary)).occurrences:
        if occurrence.continuous:
            (real,) = [
                each
                for each in imaginary.shown
                if each.text == occurrence.text
                and each.start_us < occurrence.end_us
                and each.end_us > occurrence.start_us
            ]
            assert occurrence.earliest_start_us <= real.start_us <= occurrence.latest_start_us
            assert occurrence.earliest_end_us <= real.end_us <= occurrence.latest_end_us
            assert occurrence.shortest_us <= real.end_us - real.start_us <= occurrence.longest_us
            assert occurrence.longest_us - occurrence.shortest_us <= 3 * SECOND
            assert occurrence.region is region_of(real.box)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(imaginary=films())
def test_every_text_is_there_in_order_and_showings_of_one_are_apart(imaginary):
    occurrences = read_timeline(captions_of(imaginary)).occurrences
    assert {each.text for each in occurrences} == {each.text for each in imaginary.shown}
    assert [each.start_us for each in occurrences] == sorted(each.start_us for each in occurrences)
    for index, one in enumerate(occurrences):
        for other in occurrences[index + 1 :]:
            assert one.key != other.key or other.start_us - one.end_us > PAUSE_US


def test_a_text_over_several_clips_is_one_occurrence():
    (only,) = read_timeline(captions_of(film(shown("THE LAST FERRY", 4.2, 33.7)))).occurrences
    assert (only.text, only.start_us, only.end_us) == ("THE LAST FERRY", 4 * SECOND, 34 * SECOND)
    assert only.continuous


def test_order_of_captions_does_not_matter():
    captions = captions_of(film(shown("THE LAST FERRY", 4, 24), shown("EXIT", 30, 40)))
    assert read_timeline(captions[::-1]) == read_timeline(captions)


def test_a_short_break_joins_and_is_marked_a_long_one_parts():
    broken = read_timeline(captions_of(film(shown("EXIT", 5, 9), shown("EXIT", 11.6, 15))))
    parted = read_timeline(captions_of(film(shown("EXIT", 5, 9), shown("EXIT", 14.6, 18))))
    assert [each.continuous for each in broken.occurrences] == [False]
    assert [each.continuous for each in parted.occurrences] == [True, True]


def test_the_best_reading_names_the_text():
    captions = captions_of(film(shown("THE LAST FERRY", 4, 9, score=0.99)))
    misread = (
        captions[0]
        .screen_texts[0]
        .model_copy(update={"text": "THE LAST  F ERRY.", "score": 0.81, "start_us": 9 * SECOND, "end_us": 10 * SECOND})
    )
    captions[0] = captions[0].model_copy(update={"screen_texts": (*captions[0].screen_texts, misread)})
    (only,) = read_timeline(captions).occurrences
    assert (only.text, only.end_us, round(only.score, 3)) == ("THE LAST FERRY", 10 * SECOND, 0.9)


def test_a_text_that_moves_to_another_region_has_none():
    moved = film(shown("EXIT", 4, 9, BOXES[0]), shown("EXIT", 9, 14, BOXES[8]))
    (only,) = read_timeline(captions_of(moved)).occurrences
    assert only.region is None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("NORA NEEDS A KEY", "Nora needs akey"),
        ("HARB0UR 10", "HARBOUR 10"),
        ("WHERE IS MAX?", "where is  max"),
        ("ﬁn", "FIN"),
    ],
)
def test_readings_of_one_text_share_their_key(one, other):
    assert text_key(one) == text_key(other)


@pytest.mark.parametrize(("one", "other"), [("FERRY 1", "FERRY 2"), ("LAP 10", "LAP 1O"), ("OPEN", "OPENS")])
def test_other_texts_have_other_keys(one, other):
    assert text_key(one) != text_key(other)


def test_regions_are_ninths_without_their_borders():
    assert [region_of(box) for box in BOXES] == list(Region)
    assert region_of(Box(x0=0.1, y0=0.8, x1=0.6, y1=0.9)) is None
    assert region_of(Box(x0=0.9, y0=0.9, x1=1.0, y1=1.0)) is Region.BOTTOM_RIGHT


def test_has_samples_is_false_where_a_caption_is_missing():
    timeline = read_timeline([each for each in captions_of(film()) if each.start_us != 20 * SECOND])
    assert timeline.has_samples(0, 20 * SECOND)
    assert not timeline.has_samples(15 * SECOND, 35 * SECOND)
    assert timeline.has_samples(31 * SECOND, 60 * SECOND)
