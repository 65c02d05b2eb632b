"""Wording of measured captions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.video.timecode import format_time
from operators.vision.sentences import describe, region
from schemas.base import Box
from schemas.tables import Boundary, Clip, Cut, ScreenText

SECOND = 1_000_000


def clip(**changes: object) -> Clip:
    values = {
        "clip_id": "v_000070000000",
        "video_id": "v",
        "index": 7,
        "start_us": 70 * SECOND,
        "end_us": 80 * SECOND,
        "boundary": Boundary.SHOT,
        "shot_starts_us": (70 * SECOND,),
        "cut": Cut.NONE,
        "uri": None,
        "frame_count": 250,
        "motion": 0.002,
        "sharpness": 500.0,
        "brightness": 0.5,
        "black": 0.0,
        "frozen": 0.0,
    }
    return Clip.model_validate({**values, **changes})


def text(words: str, start: int, end: int, x: float = 0.5, y: float = 0.5) -> ScreenText:
    box = Box(x0=x - 0.1, y0=y - 0.05, x1=x + 0.1, y1=y + 0.05)
    return ScreenText(start_us=start * SECOND, end_us=end * SECOND, text=words, box=box, score=0.9)


def test_every_measurement_is_described():
    busy = clip(shot_starts_us=(70 * SECOND, 74 * SECOND), motion=0.02, brightness=0.7)
    assert describe(busy, ("blue", "beige"), 2, [text("CHAPTER 2: THE MARKET", 71, 75)]) == (
        "From 01:10 to 01:20: a bright scene, mostly blue and beige, with lively movement; two shots, the picture cuts "
        "at 01:14. Two faces are visible. The text 'CHAPTER 2: THE MARKET' appears at the centre from 01:11 to 01:15."
    )


def test_a_measurement_without_a_result_is_not_mentioned():
    assert describe(clip(), ("grey",), 0, []) == (
        "From 01:10 to 01:20: a scene, mostly grey, with little movement; one shot."
    )


@pytest.mark.parametrize(
    ("changes", "phrase"),
    [
        ({"brightness": 0.1}, "a dark scene"),
        ({"brightness": 0.3}, "a dim scene"),
        ({"motion": 0.0}, ", still;"),
        ({"motion": 0.01}, ", with movement;"),
        ({"motion": None}, "mostly red;"),
        ({"sharpness": 2.0}, ", blurred or plain,"),
        ({"shot_starts_us": ()}, "; one shot."),
        ({"shot_starts_us": tuple(range(70 * SECOND, 80 * SECOND, SECOND))}, "; ten shots in quick succession."),
    ],
)
def test_each_measure_has_its_words(changes, phrase):
    assert phrase in describe(clip(**changes), ("red",), 0, [])


def test_the_longest_of_many_texts_are_quoted_and_the_others_counted():
    texts = [text(f"SIGN {i}", 70, 71 + i) for i in range(6)]
    sentences = describe(clip(), ("red",), 0, texts)
    assert "SIGN 5" in sentences
    assert "SIGN 2" in sentences
    assert "SIGN 1" not in sentences
    assert sentences.endswith("Two more texts can be read.")


def test_a_busy_line_stays_short():
    texts = [text("THE PARCEL RESTS ON A CAR", 70, 75), text("FRESH APPLES", 72, 80)]
    cuts = (70 * SECOND, 73 * SECOND, 76 * SECOND)
    line = describe(clip(shot_starts_us=cuts, brightness=0.1), ("red", "green", "blue"), 3, texts)
    assert len(line.split()) < 70


@pytest.mark.parametrize(
    ("x", "y", "name"),
    [
        (0.1, 0.1, "top left"),
        (0.5, 0.1, "top centre"),
        (0.9, 0.1, "top right"),
        (0.1, 0.5, "centre left"),
        (0.5, 0.5, "centre"),
        (0.9, 0.5, "centre right"),
        (0.1, 0.9, "bottom left"),
        (0.5, 0.9, "bottom centre"),
        (0.9, 0.9, "bottom right"),
    ],
)
def test_a_box_lies_in_the_ninth_that_holds_its_middle(x, y, name):
    assert region(Box(x0=x - 0.05, y0=y - 0.05, x1=x + 0.05, y1=y + 0.05)) == name


def test_a_box_in_the_last_corner_still_has_a_region():
    assert region(Box(x0=1, y0=1, x1=1, y1=1)) == "bottom right"


@given(st.integers(0, 100 * 3600))
def test_a_clock_reads_back_to_the_second(seconds):
    parts = [int(part) for part in format_time(seconds * SECOND + 999_999).split(":")]
    assert sum(part * 60**power for power, part in enumerate(reversed(parts))) == seconds
