"""On-screen text: real OCR on drawn frames, and the tracking of readings over time."""

import subprocess
import sys

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.vision.ocr import Reading, TextReader, overlap, same_text, track, within
from schemas.base import Box, Span

SECOND = 1_000_000
PLACE = Box(x0=0.1, y0=0.4, x1=0.6, y1=0.5)
ELSEWHERE = Box(x0=0.1, y0=0.8, x1=0.6, y1=0.9)


def picture(*texts: tuple[str, int, int]) -> np.ndarray:
    rgb = np.full((360, 640, 3), (40, 60, 90), np.uint8)
    cv2.circle(rgb, (560, 80), 40, (220, 30, 30), -1)
    for text, x, y in texts:
        cv2.putText(rgb, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 1.0, (255, 255, 255), 2)
    return rgb


def cells(readings_per_second: list[list[Reading]]):
    return [(Span(start_us=i * SECOND, end_us=(i + 1) * SECOND), each) for i, each in enumerate(readings_per_second)]


def reading(text: str, box: Box = PLACE, score: float = 0.95) -> Reading:
    return Reading(text, box, score)


@pytest.fixture(scope="module")
def reader() -> TextReader:
    return TextReader()


def test_the_reader_is_not_imported_before_it_is_needed():
    program = "import sys, operators.stages.caption; sys.exit('rapidocr' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def test_reads_the_words_and_where_they_stand(reader):
    (found,) = reader.read(picture(("CHAPTER 2: THE MARKET", 60, 200)))
    assert found.text == "CHAPTER 2: THE MARKET"
    assert found.score > 0.9
    drawn = Box(x0=60 / 640, y0=176 / 360, x1=450 / 640, y1=203 / 360)
    assert overlap(found.box, drawn) > 0.6


def test_finds_nothing_where_nothing_is_written(reader):
    assert reader.read(picture()) == ()


@pytest.mark.parametrize("shapes", ["N", "OOO"])
def test_a_single_letter_or_a_row_of_one_shape_is_no_text(reader, shapes):
    assert reader.read(picture((shapes, 300, 200))) == ()


def test_the_same_picture_with_noise_is_not_read_again_but_one_new_word_is_seen(reader):
    still = picture(("LAUNDRY", 60, 60))
    noise = np.random.default_rng(0).normal(0, 2, still.shape)
    again = np.clip(still + noise, 0, 255).astype(np.uint8)
    first = reader.read(still)
    assert reader.read(again) is first
    assert [each.text for each in reader.read(picture(("LAUNDRY", 60, 60), ("NO", 500, 320)))] == ["LAUNDRY", "NO"]


def test_an_occurrence_lasts_over_the_cells_of_the_frames_it_was_read_in():
    (text,) = track(cells([[], [reading("HELLO")], [reading("HELLO", score=0.99)], []]))
    assert (text.start_us, text.end_us) == (1 * SECOND, 3 * SECOND)
    assert text.score == pytest.approx(0.97)


def test_a_pause_ends_an_occurrence():
    texts = track(cells([[reading("HELLO")], [], [reading("HELLO")]]))
    assert [(each.start_us, each.end_us) for each in texts] == [(0, SECOND), (2 * SECOND, 3 * SECOND)]


def test_one_text_in_two_places_is_two_occurrences():
    both = [reading("HELLO"), reading("HELLO", ELSEWHERE)]
    texts = track(cells([both, both]))
    assert [each.box for each in texts] == [PLACE, ELSEWHERE]


def test_noisy_readings_are_one_text_spelled_as_the_surest_one():
    noisy = [[reading("THE LIGHTHOUSF LAMP", score=0.85)], [reading("The lighthouse lamp", score=0.99)]]
    assert [each.text for each in track(cells(noisy))] == ["The lighthouse lamp"]


def test_spaces_that_one_frame_lost_are_put_back_in_all_occurrences():
    texts = track(cells([[reading("FERRY1", score=1.0)], [reading("FERRY 1", score=0.93)], [], [reading("FERRY1")]]))
    assert [each.text for each in texts] == ["FERRY 1", "FERRY 1"]


def test_a_doubtful_reading_counts_only_when_it_is_repeated():
    doubtful = reading("EXIT", score=0.82)
    assert track(cells([[doubtful]])) == []
    assert len(track(cells([[doubtful], [doubtful]]))) == 1


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Chapter 2: The Market", "CHAPTER 2 THE MARKET", True),
        ("CHAPTER 2: THE MARKET", "CHAPTER 2: THE MARKEI", True),
        ("CHAPTER 2: THE MARKET", "CHAPTER 3: THE MARKET", False),
        ("SHOP A", "SHOP B", False),
        ("12:30", "12:31", False),
        ("THE RED CAR", "THE BLUE CAR", False),
    ],
)
def test_which_readings_may_be_the_same_text(one, other, same):
    assert same_text(one, other) is same
    assert same_text(other, one) is same


@given(
    shown=st.lists(st.sets(st.sampled_from(["ALPHA", "BRAVO", "CHARLIE"])), max_size=20),
    cut=st.integers(1, 19),
)
def test_occurrences_cover_exactly_the_cells_of_their_readings_and_clips_divide_them_without_loss(shown, cut):
    texts = track(cells([[reading(text) for text in sorted(each)] for each in shown]))
    covered = {
        (text.text, second) for text in texts for second in range(text.start_us // SECOND, text.end_us // SECOND)
    }
    assert covered == {(text, second) for second, each in enumerate(shown) for text in each}
    left, right = within(texts, 0, cut * SECOND), within(texts, cut * SECOND, 20 * SECOND)
    assert sum(t.end_us - t.start_us for t in left + right) == sum(t.end_us - t.start_us for t in texts)
    for text in [text for text in texts if text.start_us < cut * SECOND < text.end_us]:
        assert any(t.text == text.text and t.end_us == cut * SECOND for t in left)
        assert any(t.text == text.text and t.start_us == cut * SECOND for t in right)
