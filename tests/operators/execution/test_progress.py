import logging
import re

from operators.execution.progress import ProgressLogger


def test_rate_and_time_left_are_said_now_and_then(caplog):
    pace = ProgressLogger("ingest film", 60_000_000, every_seconds=0.0)
    with caplog.at_level(logging.INFO, "operators"):
        pace.update(20_000_000)
        pace.update(60_000_000)
    first, last = caplog.messages
    assert re.fullmatch(r"ingest film: 20 of 60 s of video, [0-9.]+ s a second, \d+ s left", first)
    assert last.endswith(" 0 s left")


def test_nothing_is_said_of_work_that_is_done_soon_or_has_not_begun(caplog):
    with caplog.at_level(logging.INFO, "operators"):
        ProgressLogger("ingest film", 60_000_000).update(59_000_000)
        ProgressLogger("ingest film", 60_000_000, every_seconds=0.0).update(0)
    assert caplog.messages == []
