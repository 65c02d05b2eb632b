"""What units cost, as a run's metrics have it."""

import threading
import time

import pytest

from operators.pipeline import stage
from operators.runner import Progress, UnitInput, run_unit
from operators.sources.listing import fingerprint
from operators.store import Store
from schemas.config import BuildConfig
from schemas.tables import Source, Video
from tests.support.videos import counting_video


def test_the_pace_is_that_of_what_was_computed():
    found = {"done": 900, "reused": 900, "total": 1000, "rejects": 0, "seconds": 1.0}
    assert str(Progress("ingest", 2, **found)) == "ingest lane 2: 900/1000 videos, 900 of them reused, 0 rejects"
    gone_on = {"done": 902, "reused": 900, "total": 1000, "rejects": 1, "seconds": 60.0}
    assert str(Progress("ingest", 2, **gone_on)) == (
        "ingest lane 2: 902/1000 videos, 900 of them reused, 2.0 a minute, 2940 s left, 1 rejects"
    )
    fresh = {"done": 1, "reused": 0, "total": 1, "rejects": 0, "seconds": 30.0}
    assert str(Progress("shard", None, **fresh)) == "shard: 1/1 units, 2.0 a minute, 0 s left, 0 rejects"


@pytest.fixture
def busy():
    """Another thread of this process is at work, as if on another unit."""
    done = threading.Event()
    thread = threading.Thread(target=lambda: [sum(range(10_000)) for _ in iter(done.is_set, True)])
    thread.start()
    yield
    done.set()
    thread.join()


def test_a_unit_without_input_rows_does_not_count_what_others_compute(tmp_path, busy):
    path = counting_video(tmp_path / "film.mp4", seconds=0.2)
    store = Store(str(tmp_path / "out"))
    nothing = store.put_rows([], Video)
    config = BuildConfig(source=str(tmp_path), out=store.url)
    source = Source(source_id="film", uri=str(path), fingerprint=fingerprint(str(path)))
    unit_input = UnitInput("film", {"ingest": (nothing,)}, (source,), empty=True)
    started = time.thread_time()
    outcome = run_unit(store, config, stage("split"), unit_input)
    assert (outcome.commit.rows, outcome.commit.rejects) == (0, 0)
    assert outcome.cpu_seconds <= time.thread_time() - started
