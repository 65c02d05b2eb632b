"""Captions as timed lines: all within the budget, an even selection with a count beyond it."""

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from operators.questions.storyboard import CHARACTERS_PER_TOKEN, storyboard, within
from schemas.base import Span
from tests.support.films import SECOND, captions_of, film, shown


def test_a_line_per_caption_in_order_of_time():
    lines = storyboard(captions_of(film())[::-1], 1000).splitlines()
    assert lines == [
        f"00:{start:02d} - {'01:00' if start == 50 else f'00:{start + 10}'}: A scene with 0 texts."
        for start in range(0, 60, 10)
    ]


def test_texts_and_speech_are_added_where_the_caption_does_not_have_them():
    (caption,) = captions_of(film(shown("THE LAST FERRY", 2, 5), seconds=10))
    assert storyboard([caption], 100) == "00:00 - 00:10: A scene with 1 texts. On screen: THE LAST FERRY."
    spoken = caption.model_copy(
        update={"text": "From 00:00 to 00:10: 'The last ferry' is read.", "speech": "Hurry up!"}
    )
    assert storyboard([spoken], 100) == "00:00 - 00:10: 'The last ferry' is read. Heard: Hurry up!"


@settings(deadline=None)
@given(clips=st.integers(1, 60), tokens=st.integers(20, 800))
def test_lines_beyond_the_budget_are_skipped_evenly_and_counted(clips, tokens):
    captions = captions_of(film(seconds=10 * clips))
    lines = storyboard(captions, tokens).splitlines()
    shown_lines = [line for line in lines if not line.startswith("(")]
    skipped = sum(int(re.findall(r"\d+", line)[0]) for line in lines if line.startswith("("))
    assert len(shown_lines) + skipped == clips
    assert len(shown_lines) == 1 or sum(map(len, shown_lines)) <= tokens * CHARACTERS_PER_TOKEN
    assert lines[0].startswith("00:00")
    gaps = [int(re.findall(r"\d+", line)[0]) for line in lines[:-1] if line.startswith("(")]
    assert not gaps or max(gaps) - min(gaps) <= 1


def test_captions_of_the_evidence_are_those_that_it_touches():
    captions = captions_of(film())
    found = within(
        captions, [Span(start_us=19 * SECOND, end_us=20 * SECOND), Span(start_us=50 * SECOND, end_us=51 * SECOND)]
    )
    assert [each.start_us // SECOND for each in found] == [10, 50]
