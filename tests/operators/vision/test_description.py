"""A captioner's objects and texts as rows: exact times, boxes as fractions, and counts of what was dropped."""

import pytest

from operators.vision.description import MAX_LABEL, MAX_TEXT, ShownPictures, read_description
from operators.vision.frame_selection import spread
from schemas.answers import ClipDescription
from schemas.tables import BoxConvention

BOX = [0.25, 0.1, 0.75, 0.2]
SHOWN = ShownPictures(
    start_us=60_000_000,
    end_us=70_000_000,
    cells=tuple(spread(60_000_000, 70_000_000, 5)),
    times_us=(61_000_000, 63_000_000, 65_000_000, 67_000_000, 69_000_000),
    width=448,
    height=252,
    convention=BoxConvention.FRACTIONS,
)


def describe(objects=(), texts=()):
    return read_description(
        ClipDescription.model_validate({"text": "A room.", "objects": objects, "on_screen_text": texts}), SHOWN
    )


@pytest.mark.parametrize("time", ["01:03.00", "[01:03.00]", "00:01:02.5", "63", "0:01:03.999"])
def test_an_object_has_the_time_of_the_nearest_frame(time):
    read = describe([{"label": " cat ", "time": time, "box": BOX}])
    assert [(thing.label, thing.time_us) for thing in read.objects] == [("cat", 63_000_000)]
    assert read.dropped_objects == 0


@pytest.mark.parametrize(
    "changed",
    [
        {"time": "01:12.00"},
        {"time": "soon"},
        {"time": "3" * 400},
        {"time": f"{'3' * 400}:00:06.80"},
        {"box": [0.1, 0.1, float("inf"), 0.2]},
        {"box": [100, 100, 200, 200]},
        {"box": []},
        {"label": " "},
        {"label": "cat " * MAX_LABEL},
    ],
)
def test_an_object_that_is_not_in_the_clip_is_dropped_and_counted(changed):
    good = {"label": "cat", "time": "01:03.00", "box": BOX}
    read = describe([good, good | changed])
    assert (len(read.objects), read.dropped_objects) == (1, 1)


def test_a_text_lasts_from_its_first_cell_to_its_last():
    read = describe(texts=[{"text": "EXIT", "first": "01:03.00", "last": "01:07.00", "box": BOX}])
    assert [(text.text, text.start_us, text.end_us) for text in read.texts] == [("EXIT", 62_000_000, 68_000_000)]


@pytest.mark.parametrize(
    "changed", [{"first": "01:09.00"}, {"last": "3" * 400}, {"text": ""}, {"text": "A" * (MAX_TEXT + 1)}, {"box": [9]}]
)
def test_a_text_that_is_not_in_the_clip_is_dropped_and_counted(changed):
    good = {"text": "EXIT", "first": "01:03.00", "last": "01:07.00", "box": BOX}
    read = describe(texts=[good | changed, good])
    assert (len(read.texts), read.dropped_texts) == (1, 1)
