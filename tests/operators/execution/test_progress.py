import logging
import re
from dataclasses import replace

from operators.execution.progress import ProgressLogger, StageProgress


def test_progress_logger_logs_rate_and_time_left(caplog):
    progress = ProgressLogger("ingest film", 60_000_000, every_seconds=0.0)
    with caplog.at_level(logging.INFO, "operators"):
        progress.update(20_000_000)
        progress.update(60_000_000)
    first, last = caplog.messages
    assert re.fullmatch(r"ingest film: 20 of 60 s of video, [0-9.]+ s a second, \d+ s left", first)
    assert last.endswith(" 0 s left")


def test_progress_logger_logs_nothing_of_work_that_is_short_or_has_not_begun(caplog):
    with caplog.at_level(logging.INFO, "operators"):
        ProgressLogger("ingest film", 60_000_000).update(59_000_000)
        ProgressLogger("ingest film", 60_000_000, every_seconds=0.0).update(0)
    assert caplog.messages == []


def test_stage_progress_counts_reused_videos_in_no_rate():
    found = {"done": 900, "reused": 900, "total": 1000, "rejects": 0, "seconds": 1.0}
    assert (
        str(StageProgress("ingest", 2, **found)) == "ingest partition 2: 900/1000 videos, 900 of them reused, 0 rejects"
    )
    gone_on = {"done": 902, "reused": 900, "total": 1000, "rejects": 1, "seconds": 60.0}
    assert str(StageProgress("ingest", 2, **gone_on)) == (
        "ingest partition 2: 902/1000 videos, 900 of them reused, 2.0 a minute, 2940 s left, 1 rejects"
    )


def test_stage_progress_over_all_videos_has_no_count():
    begun = StageProgress("shard", None, done=0, reused=0, total=1, rejects=0, seconds=0.0)
    assert str(begun) == "shard over all videos: running, 0 rejects"
    assert str(replace(begun, done=1, rejects=2, seconds=30.4)) == "shard over all videos: done in 30 s, 2 rejects"
    assert str(replace(begun, done=1, reused=1)) == "shard over all videos: reused, 0 rejects"
