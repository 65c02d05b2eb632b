import pytest

from operators.video.timecode import format_span, format_time
from schemas.base import Span


@pytest.mark.parametrize(
    ("time_us", "words"),
    [
        (0, "00:00"),
        (59_999_999, "00:59"),
        (61_000_000, "01:01"),
        (3_600_000_000, "1:00:00"),
        (36_061_000_000, "10:01:01"),
    ],
)
def test_times_read_as_people_write_them(time_us, words):
    assert format_time(time_us) == words


def test_spans_have_both_ends():
    assert format_span(Span(start_us=5_000_000, end_us=65_400_000)) == "00:05–01:05"
