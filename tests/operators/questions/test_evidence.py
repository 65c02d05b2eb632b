"""Spans that a model names as evidence, in the form in which a story shows times."""

import pytest

from operators.questions.evidence import EvidenceError, read_spans
from tests.support.films import SECOND


def spans(*ranges, end=65.5):
    return [(span.start_us / SECOND, span.end_us / SECOND) for span in read_spans(ranges, round(end * SECOND))]


def test_read_spans_reads_times_as_a_story_shows_them():
    assert spans("00:10 - 00:20", "00:05", "00:10 - 00:20") == [(5, 6), (10, 20)]
    assert spans("01:00 - 01:06") == [(60, 65.5)]
    assert spans("1:00:00 - 1:00:10", end=4000) == [(3600, 3610)]


@pytest.mark.parametrize("wrong", ["00:20 - 00:10", "01:06 - 01:10", "01:00 - 01:10"])
def test_read_spans_refuses_a_part_that_the_video_does_not_have(wrong):
    with pytest.raises(EvidenceError, match="is no part of a video of 01:05"):
        spans(wrong)
