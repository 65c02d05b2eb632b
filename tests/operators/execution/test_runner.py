"""Costs of work items in a run's metrics, and the handling of work items that meet machine faults."""

import errno
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from operators.build import plan_build
from operators.execution import runner
from operators.execution.identity import WorkItem, stage_key
from operators.execution.pipeline import stage
from operators.execution.runner import WorkResult, run_stage, run_work_item
from operators.models.session import resolve
from operators.sources.access import SourceFiles, fingerprint
from operators.store.content_store import Store, object_path
from schemas.config import BuildConfig, ModelsConfig
from schemas.errors import Outage
from schemas.storage import StoreError
from schemas.tables import Reject, Source, Video
from tests.support.failing_reads import failing_reads
from tests.support.synthetic_run import synthetic_run
from tests.support.videos import counting_video, make, noisy_video
from tests.support.web_server import serving

ROOT = Path(__file__).resolve().parents[3]


def test_the_work_of_a_killed_attempt_is_counted(tmp_path, monkeypatch):
    """Three attempts: one work item is computed and the task killed, the other computed, both found (cleared task)."""
    folder = synthetic_run(tmp_path, videos=2, until="ingest")
    commits = folder.record("ingest", 0).commits
    used = {"judge": {"requests": 5, "journal_hits": 1, "tokens_in": 900, "tokens_out": 100, "busy_seconds": 3.0}}
    finished = []

    def attempt(dies=False):
        def run_work_item(store, config, stage, item, cores):
            if item.unit in finished:
                return WorkResult(commits[item.unit], reused=True)
            if finished and dies:
                deadline = time.monotonic() + 30
                while not folder.attempts("split", 0) and time.monotonic() < deadline:
                    time.sleep(0.01)
                raise StoreError("the power is gone")
            finished.append(item.unit)
            phases = {"models": 3.0, "compute": 1.0, "write": 0.0}
            return WorkResult(commits[item.unit], False, 0.5, phases, used)

        monkeypatch.setattr(runner, "run_work_item", run_work_item)
        return run_stage(folder, "split", 0, workers=1)

    with pytest.raises(StoreError, match="power"):
        attempt(dies=True)
    assert (attempt().reused, attempt().reused) == (1, 2)
    assert [(each.units, each.reused) for each in folder.attempts("split", 0)] == [(1, 0), (2, 1), (2, 2)]
    [split] = [each for each in folder.metrics() if each.stage == "split"]
    assert (split.units, split.reused, split.tokens_in, split.tokens_out) == (2, 0, 1800, 200)
    assert (split.requests, split.journal_hits) == ({"judge": 10}, {"judge": 2})
    assert (split.cpu_seconds, split.phase_seconds["models"], split.server_busy_share) == (1.0, 6.0, 0.75)


@pytest.fixture
def busy():
    """Keeps another thread of this process busy, as if it computed another work item."""
    done = threading.Event()
    thread = threading.Thread(target=lambda: [sum(range(10_000)) for _ in iter(done.is_set, True)])
    thread.start()
    yield
    done.set()
    thread.join()


def test_a_work_item_without_input_rows_does_not_count_the_cpu_time_of_others(tmp_path, busy):
    path = counting_video(tmp_path / "film.mp4", seconds=0.2)
    store = Store(str(tmp_path / "out"))
    nothing = store.put_rows([], Video)
    config = BuildConfig(source=str(tmp_path), out=store.url)
    source = Source(source_id="film", uri=str(path), fingerprint=fingerprint(str(path)))
    item = WorkItem("film", {"ingest": (nothing,)}, (source,), empty=True)
    started = time.thread_time()
    outcome = run_work_item(store, config, stage("split"), item)
    assert (outcome.commit.rows, outcome.commit.rejects) == (0, 0)
    assert outcome.cpu_seconds <= time.thread_time() - started


def test_no_further_work_item_begins_after_a_failure(tmp_path, monkeypatch):
    for number in range(6):
        (tmp_path / f"film{number}.mp4").write_bytes(b"never read")
    folder = plan_build(BuildConfig(source=str(tmp_path), out=str(tmp_path / "out")), "run", {})
    begun, failed = [], threading.Event()

    def run_item(store, config, stage, item, cores):
        film = Path(item.sources[0].uri).stem
        begun.append(film)
        if film == "film0":
            failed.set()
            raise Outage("the model server does not answer")
        failed.wait()
        time.sleep(0.2)
        return WorkResult(SimpleNamespace(rows=0, rejects=0), reused=False)

    monkeypatch.setattr(runner, "run_work_item", run_item)
    with pytest.raises(Outage, match="the model server does not answer"):
        run_stage(folder, "ingest", 0, workers=2)
    assert set(begun) <= {"film0", "film1"}


def run_ingest(folder, environ):
    """Metrics of `ingest`, run in a process of its own, and what it printed on standard error."""
    command = [
        sys.executable,
        "-m",
        "operators.cli",
        "stage",
        folder.url,
        "ingest",
        "--partition",
        "0",
        "--workers",
        "1",
    ]
    ended = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout), ended.stderr


def test_a_read_that_breaks_off_leaves_nothing_behind_and_the_next_run_has_the_whole_video(tmp_path):
    """A transport stream does not record its length, so a truncated read would pass as a shorter film for good."""
    environ = failing_reads(tmp_path, "bad", 20_000)
    if environ is None:
        pytest.skip("no C compiler")
    source = tmp_path / "films"
    source.mkdir()
    good = noisy_video(source / "good.mp4")
    bad = make(source / "bad.ts", "-i", str(good), "-c", "copy")
    config = BuildConfig(source=str(source), out=str(tmp_path / "out"))
    metrics, log = run_ingest(plan_build(config, "broken", {}), environ)
    assert (metrics["rows"], metrics["rejects"]) == (1, {"system_error": 1})
    assert f"ingest of {bad}: [Errno 5] Input/output error: '{bad}'; check the file and its disk or mount" in log
    folder = plan_build(config, "sound", {})
    metrics, _ = run_ingest(folder, os.environ)
    assert (metrics["rows"], metrics["reused"], metrics["rejects"]) == (2, 1, {})
    tables = [commit.rows_sha256 for commit in folder.record("ingest", 0).commits.values()]
    assert [folder.store.get_rows(table, Video)[0].duration_us for table in tables] == [2_000_000, 2_000_000]


@pytest.fixture
def plan_films(tmp_path):
    """Function that plans a build of `count` films. The files exist, but are not videos and are never read."""

    def plan(count):
        for number in range(count):
            (tmp_path / f"film{number:02d}.mp4").write_bytes(b"never read")
        return plan_build(BuildConfig(source=str(tmp_path), out=str(tmp_path / "out")), "run", {})

    return plan


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENAMETOOLONG, "File name too long", "a" * 300),
        PermissionError(errno.EACCES, "Permission denied", "film.mp4"),
        OSError(errno.EIO, "Input/output error"),
        OSError(errno.ESTALE, "Stale file handle"),
        TimeoutError(errno.ETIMEDOUT, "Connection timed out"),
        ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
        IsADirectoryError(errno.EISDIR, "Is a directory", "film.mp4"),
        NotADirectoryError(errno.ENOTDIR, "Not a directory", "film.mp4"),
    ],
    ids=lambda error: errno.errorcode[error.errno],
)
def test_an_os_error_of_one_video_is_its_own(plan_films, monkeypatch, error):
    """The other videos are still processed, the log names the failed one, and nothing is committed for it."""
    folder = plan_films(2)

    def produce(stage, store, config, key, *_):
        if key.unit.startswith("film00"):
            raise error
        return [], {}

    monkeypatch.setattr(runner, "_produce", produce)
    monkeypatch.setattr(runner, "run_isolated", lambda function, *given, **limits: function(*given))
    metrics = run_stage(folder, "ingest", 0)
    assert (metrics.units, metrics.rejects) == (2, {"system_error": 1})
    commits = folder.record("ingest", 0).commits
    [reject] = folder.store.get_rows(commits[min(commits)].rejects_sha256, Reject)
    assert error.strerror in reject.message and "film00.mp4" in reject.message
    assert [folder.store.find_commit("ingest", commits[item].key_sha256) for item in sorted(commits)] == [
        None,
        commits[max(commits)],
    ]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_disk_that_takes_nothing_more_ends_the_stage(plan_films, monkeypatch, number):
    def produce(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(runner, "_produce", produce)
    monkeypatch.setattr(runner, "run_isolated", lambda function, *given, **limits: function(*given))
    with pytest.raises(StoreError, match=r"free some space|choose another"):
        run_stage(plan_films(2), "ingest", 0)


def test_a_machine_that_fails_video_after_video_ends_the_stage(plan_films, monkeypatch):
    """Example: a mount that is gone. The stage must fail instead of releasing a dataset without its videos."""
    begun = []

    def produce(stage, store, config, key, *_):
        begun.append(key.unit)
        raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")

    monkeypatch.setattr(runner, "_produce", produce)
    monkeypatch.setattr(runner, "run_isolated", lambda function, *given, **limits: function(*given))
    with pytest.raises(Outage, match=r"10 videos in a row met faults of the machine, the last: film.*not connected"):
        run_stage(plan_films(14), "ingest", 0, workers=1)
    assert len(begun) == 10


@pytest.fixture
def source_of_many(tmp_path, monkeypatch):
    """More films than may fail in a row, each in a folder of its own, and the run planned over them."""
    films = [tmp_path / f"films/{number:02d}/film{number:02d}.mp4" for number in range(14)]
    for film in films:
        film.parent.mkdir(parents=True)
        film.write_bytes(b"never read")
    monkeypatch.setattr(runner, "_produce", lambda *_: ([], {}))
    monkeypatch.setattr(runner, "run_isolated", lambda function, *given, **limits: function(*given))
    return films, plan_build(BuildConfig(source=str(tmp_path / "films"), out=str(tmp_path / "out")), "run", {})


def test_a_build_continues_however_many_videos_were_removed_after_planning(source_of_many):
    films, folder = source_of_many
    for film in films[:6]:
        film.unlink()
        film.with_suffix(".txt").touch()
    for film in films[6:12]:
        shutil.rmtree(film.parent)
    metrics = run_stage(folder, "ingest", 0, workers=1)
    assert (metrics.units, metrics.rejects) == (14, {"missing_file": 12})


def test_a_build_continues_however_many_videos_were_replaced_after_planning(source_of_many):
    films, folder = source_of_many
    for film in films[:12]:
        film.write_bytes(b"another video")
    metrics = run_stage(folder, "ingest", 0, workers=1)
    assert (metrics.units, metrics.rejects) == (14, {"source_changed": 12})


def test_rights_that_are_lost_in_the_middle_of_a_build_end_the_stage(source_of_many, tmp_path, unprivileged):
    """The folders exist and are not empty, but the files cannot be read: no release is made without them."""
    films, folder = source_of_many
    for film in films:
        film.chmod(0)
    for path in (tmp_path / "out").rglob("*"):
        path.chmod(0o777)
    (tmp_path / "out").chmod(0o777)
    with unprivileged(tmp_path), pytest.raises(Outage, match=r"10 videos in a row met faults.*correct the rights"):
        run_stage(folder, "ingest", 0, workers=1)


@pytest.mark.parametrize("mount_point", ["empty", "gone"])
def test_a_disk_that_is_not_mounted_any_more_ends_the_stage(source_of_many, mount_point, tmp_path):
    _, folder = source_of_many
    (tmp_path / "films").rename(tmp_path / "away")
    if mount_point == "empty":
        (tmp_path / "films").mkdir()
    with pytest.raises(Outage, match=r"10 videos in a row met faults of the machine, the last: film.*mount it"):
        run_stage(folder, "ingest", 0, workers=1)


def test_presigned_addresses_build_and_leave_no_secret_behind(tmp_path, caplog, capfd):
    """Each stage's child process reads the full URL from the list as it is then. The store never contains it."""
    film = counting_video(tmp_path / "film.mp4", seconds=1.0)
    with serving({"/film.mp4": film.read_bytes()}) as server:

        def sign(signature):
            rows = [
                f"http://user:PASSWORD@{server.site}/{name}?X-Amz-Signature={signature}" for name in ("film.mp4", "403")
            ]
            (tmp_path / "list.csv").write_text("\n".join(["uri", *rows]))

        sign("SECRET1")
        config = BuildConfig(source=f"{tmp_path}/list.csv", out=f"{tmp_path}/out", allowed_roots=(server.url,))
        folder = plan_build(config, "run", {})
        assert run_stage(folder, "ingest", 0, workers=1).rows == 1
        sign("SECRET2")
        assert run_stage(folder, "split", 0, workers=1).rows == 1
        assert {query.partition("=")[2] for query in server.queries} == {"SECRET1", "SECRET2"}
        again = plan_build(config, "again", {})
        assert run_stage(again, "ingest", 0, workers=1).reused == 1
    [source] = folder.sources()
    assert (source.uri, source.redacted) == (f"{server.url}/film.mp4", True)
    kept = b"".join(path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())
    printed = "".join(capfd.readouterr()) + caplog.text
    names = str([path.name for path in (tmp_path / "out").rglob("*")])
    for word in ("PASSWORD", "SECRET"):
        assert word.encode() not in kept and word not in printed + names


def test_a_store_that_cannot_be_read_ends_the_stage(tmp_path):
    """The video whose rows are stored there is not at fault. Here a folder is in the place of the table file."""
    folder = synthetic_run(tmp_path, videos=1, until="outline")
    [commit] = folder.record("caption", 0).commits.values()
    table = tmp_path / object_path(commit.rows_sha256, ".parquet")
    table.unlink()
    table.mkdir()
    with pytest.raises(StoreError, match="Is a directory"):
        run_stage(folder, "question", 0, workers=1)


def test_a_stage_gets_the_journal_of_its_work_item(tmp_path):
    """For answers that no model role gives, such as transcripts."""

    def run(context, videos):
        yield context.reject("film", "schema", context.journal.url)

    store = Store(str(tmp_path))
    key = stage_key(stage("split"), BuildConfig(source="a", out="b"), WorkItem("film", {"ingest": ("0" * 64,)}))
    config = BuildConfig(source="a", out="b", models=resolve(ModelsConfig(), {}))
    produced, _ = runner._produce(
        replace(stage("split"), run=run), store, config, key, {"videos": []}, tmp_path, 1, SourceFiles()
    )
    assert [reject.message for reject in produced] == [f"{store.url}/journal/split/film"]
