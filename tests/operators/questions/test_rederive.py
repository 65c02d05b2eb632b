"""The second derivation finds the truth independently, and gives no answer where the captions do not settle it."""

import pytest

from operators.questions.rederive import rederive_answer
from schemas.tables import Derivation, Template
from tests.support.films import BOXES, SECOND, captions_of, film, shown

FILM = film(
    shown("THE LAST FERRY", 3, 7, BOXES[4]),
    shown("FRESH APPLES", 12, 22, BOXES[6]),
    shown("EXIT", 30, 34),
    shown("OPEN DAILY", 40, 44, BOXES[0]),
    shown("EXIT", 50, 54),
)
CAPTIONS = captions_of(FILM)


def rederive(template, *subjects, captions=CAPTIONS):
    return rederive_answer(Derivation(template=template, subjects=subjects), captions)


@pytest.mark.parametrize(
    ("template", "subjects", "answer"),
    [
        (
            Template.ORDER,
            ("OPEN DAILY", "THE LAST FERRY", "FRESH APPLES"),
            '"THE LAST FERRY", then "FRESH APPLES", then "OPEN DAILY"',
        ),
        (Template.AFTER, ("THE LAST FERRY",), "FRESH APPLES"),
        (Template.BEFORE, ("OPEN DAILY",), "EXIT"),
        (Template.COUNT, ("EXIT",), "2"),
        (Template.COUNT, ("THE LAST FERRY", "OPEN DAILY"), "2"),
        (Template.DURATION, ("FRESH APPLES",), "about 10 seconds"),
        (Template.DURATION, ("THE LAST FERRY", "OPEN DAILY", "FRESH APPLES"), "FRESH APPLES"),
        (Template.WHEN, ("OPEN DAILY",), "00:40"),
        (Template.REGION, ("OPEN DAILY",), "top left"),
    ],
)
def test_the_answer_is_found_from_the_captions(template, subjects, answer):
    assert rederive(template, *subjects) == answer


def test_the_answer_follows_the_captions_when_they_change():
    """A comparison with a stored answer would still find apples in the film without them."""
    without = captions_of(film(*(each for each in FILM.shown if each.text != "FRESH APPLES")))
    assert rederive(Template.AFTER, "THE LAST FERRY", captions=without) == "EXIT"
    assert rederive(Template.COUNT, "THE LAST FERRY", "OPEN DAILY", captions=without) == "1"


@pytest.mark.parametrize(
    ("template", "subjects"),
    [
        (Template.WHEN, ("NEVER SHOWN",)),
        (Template.AFTER, ("NEVER SHOWN",)),
        (Template.BEFORE, ("THE LAST FERRY",)),
        (Template.WHEN, ()),
    ],
)
def test_a_question_that_the_captions_do_not_settle_has_no_answer(template, subjects):
    assert rederive(template, *subjects) is None


def test_two_simultaneous_texts_have_no_order():
    both = captions_of(film(shown("EXIT", 5, 9), shown("OPEN DAILY", 5, 9, BOXES[0]), shown("LIGHTHOUSE", 0, 2)))
    assert rederive(Template.ORDER, "EXIT", "OPEN DAILY", captions=both) is None
    assert rederive(Template.AFTER, "LIGHTHOUSE", captions=both) is None
    assert rederive(Template.DURATION, "EXIT", "OPEN DAILY", captions=both) is None


def test_captions_without_texts_settle_nothing():
    assert rederive(Template.COUNT, "EXIT", captions=captions_of(film(seconds=20 * SECOND / SECOND))) is None


def test_a_start_or_an_end_that_no_sample_time_shows_gives_no_answer():
    edges = captions_of(film(shown("LIGHTHOUSE", 0, 20), shown("OPEN DAILY", 33, 37), shown("EXIT", 41, 60)))
    for text in ("LIGHTHOUSE", "EXIT"):
        assert rederive(Template.DURATION, text, captions=edges) is None
        assert rederive(Template.DURATION, "OPEN DAILY", text, captions=edges) is None
    assert rederive(Template.WHEN, "LIGHTHOUSE", captions=edges) is None
    assert rederive(Template.WHEN, "EXIT", captions=edges) == "00:41"
    assert rederive(Template.AFTER, "LIGHTHOUSE", captions=edges) == "OPEN DAILY"
