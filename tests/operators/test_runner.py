"""What units cost, as a run's metrics have it."""

import threading
import time

import pytest

from operators.pipeline import stage
from operators.runner import UnitInput, run_unit
from operators.sources.listing import fingerprint
from operators.store import Store
from schemas.config import BuildConfig
from schemas.tables import Source, Video
from tests.support.videos import counting_video


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
