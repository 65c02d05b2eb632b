from __future__ import annotations

import hashlib
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from operators.models.journal import Journal
from schemas.errors import Outage
from schemas.journal import JournalEntry
from schemas.storage import StoreError


def sha(text: object) -> str:
    return hashlib.sha256(str(text).encode()).hexdigest()


def entry(name: object, raw: str = "answer", origin: object = None) -> JournalEntry:
    return JournalEntry(
        request_sha256=sha(name),
        origin_sha256=sha(name if origin is None else origin),
        key=str(name),
        model="m",
        raw=raw,
        finish_reason="stop",
        tokens_in=1,
        tokens_out=2,
    )


@pytest.fixture(params=["local", "s3"])
def url(request, tmp_path):
    """URL of a journal folder. All kinds of file system must behave the same."""
    if request.param == "local":
        return str(tmp_path / "journal" / "caption" / "film [1]")
    return request.getfixturevalue("s3_bucket") + "/journal/caption/film"


def test_an_answer_outlives_its_writer(url):
    with Journal(url) as journal:
        assert journal.get(sha("a")) is None
        journal.append(entry("a", raw="überall\n\u2028{}"))
        assert journal.get(sha("a")) == entry("a", raw="überall\n\u2028{}")
    again = Journal(url)
    assert again.get(sha("a")) == entry("a", raw="überall\n\u2028{}")
    assert again.get(sha("b")) is None


def test_the_latest_answer_counts(url):
    for raw in ("first", "second"):
        with Journal(url) as journal:
            journal.append(entry("a", raw))
    assert Journal(url).get(sha("a")).raw == "second"


def test_a_journal_can_be_appended_to_after_it_was_closed(url):
    journal = Journal(url)
    for name in "ab":
        journal.append(entry(name))
        journal.close()
    assert {name for name in "abc" if Journal(url).get(sha(name))} == {"a", "b"}


def test_forgotten_answers_are_no_longer_in_the_journal(url):
    with Journal(url) as journal:
        for found in (entry("bad"), entry("repetition", origin="bad"), entry("good")):
            journal.append(found)
    with Journal(url) as journal:
        # A reject may name either of the two answers; both are deleted.
        assert journal.forget([sha("repetition"), sha("never requested")]) == 2
        assert journal.get(sha("bad")) is None
        assert journal.forget([sha("bad")]) == 0
    with Journal(url) as journal:
        assert [bool(journal.get(sha(name))) for name in ("bad", "repetition", "good")] == [False, False, True]
        journal.append(entry("bad", "better"))
    assert Journal(url).get(sha("bad")).raw == "better"


def test_all_answers_about_a_question_can_be_forgotten(url):
    with Journal(url) as journal:
        for found in (entry("q1"), entry("again", origin="q1"), entry("q2")):
            journal.append(found)
        assert journal.forget([], keys=["q1", "q9"]) == 2
        assert [bool(journal.get(sha(name))) for name in ("q1", "again", "q2")] == [False, False, True]


def test_a_journal_takes_two_concurrent_writers_with_many_threads(url):
    journals = [Journal(url), Journal(url)]
    names = range(24)

    def write(journal: Journal, first: int) -> None:
        for name in names[first::4]:
            journal.append(entry(name))

    threads = [threading.Thread(target=write, args=(journals[i % 2], i)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    reader = Journal(url)
    assert all(reader.get(sha(name)) == entry(name) for name in names)


def test_a_listing_is_not_kept_where_other_threads_would_find_it(s3_bucket):
    """A cached listing would hide later files from other threads, which share the file system object."""
    with Journal(f"{s3_bucket}/journal") as journal:
        journal.append(entry("a"))
    with Journal(f"{s3_bucket}/journal") as journal:
        assert journal.get(sha("a")) == entry("a")
        assert not journal._files._filesystem.dircache


WRITER = textwrap.dedent("""
    import hashlib, sys
    from operators.models.journal import Journal
    from schemas.journal import JournalEntry
    journal = Journal(sys.argv[1])
    for i in range(100_000):
        sha = hashlib.sha256(f"{sys.argv[2]} {i}".encode()).hexdigest()
        journal.append(JournalEntry(request_sha256=sha, origin_sha256=sha, key="k", model="m",
            raw="x" * (i % 7 * 5000), finish_reason="stop", tokens_in=0, tokens_out=0))
        print(i, flush=True)
""")


def test_kill_9_loses_nothing_that_was_confirmed(tmp_path, caplog):
    folder = tmp_path / "journal"
    confirmed = {}
    for attempt, seconds in enumerate((0.01, 0.05, 0.12)):
        writers = {
            f"{attempt}{letter}": subprocess.Popen(
                [sys.executable, "-c", WRITER, str(folder), f"{attempt}{letter}"], stdout=subprocess.PIPE, text=True
            )
            for letter in "ab"
        }
        for writer in writers.values():
            writer.stdout.readline()
        time.sleep(seconds)
        for name, writer in writers.items():
            writer.send_signal(signal.SIGKILL)
            lines = writer.stdout.read().split("\n")
            writer.stdout.close()
            writer.wait()
            confirmed[name] = max([0, *map(int, lines[:-1])])
    journal = Journal(str(folder))
    for name, last in confirmed.items():
        assert all(journal.get(sha(f"{name} {i}")) for i in range(last + 1))
        assert not journal.get(sha(f"{name} {last + 2}"))
    assert not caplog.records


@pytest.mark.parametrize("kept", [1, 10, -2, -1])
def test_a_torn_last_line_is_skipped(tmp_path, caplog, kept):
    with Journal(str(tmp_path)) as journal:
        journal.append(entry("a"))
        size = next(tmp_path.iterdir()).stat().st_size
        journal.append(entry("b"))
    segment = next(tmp_path.iterdir())
    whole = segment.stat().st_size
    os.truncate(segment, size + kept if kept > 0 else whole + kept)
    again = Journal(str(tmp_path))
    assert again.get(sha("a"))
    # Only the newline is missing: the answer is complete.
    assert bool(again.get(sha("b"))) == (kept == -1)
    assert not caplog.records
    again.append(entry("b"))
    assert Journal(str(tmp_path)).get(sha("b"))


def test_damage_elsewhere_is_logged(tmp_path, caplog):
    with Journal(str(tmp_path)) as journal:
        for name in "abc":
            journal.append(entry(name))
    segment = next(tmp_path.iterdir())
    first, second, third = segment.read_bytes().splitlines(keepends=True)
    segment.write_bytes(first + b"\0" * 50 + second[50:] + third)
    with caplog.at_level(logging.WARNING):
        again = Journal(str(tmp_path))
        assert [bool(again.get(sha(name))) for name in "abc"] == [True, False, True]
    assert "line 2 is damaged" in caplog.text


def test_a_failed_write_is_raised_and_spoils_nothing(tmp_path):
    import resource

    with Journal(str(tmp_path)) as journal:
        journal.append(entry("a"))
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (next(tmp_path.iterdir()).stat().st_size + 20, limits[1]))
        try:
            with pytest.raises(StoreError, match="File too large"):
                journal.append(entry("b", "x" * 1000))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, ignored)
        assert journal.get(sha("b")) is None
        journal.append(entry("c"))
    again = Journal(str(tmp_path))
    assert [bool(again.get(sha(name))) for name in "abc"] == [True, False, True]


def test_a_full_disk_is_an_outage_that_keeps_what_was_there(small_disk):
    url = str(small_disk / "journal")
    with Journal(url) as journal:
        journal.append(entry("first"))
        with pytest.raises(StoreError, match=f"{url}: the disk is full; free some space and run again"):
            for number in range(100):
                journal.append(entry(number, "x" * 30_000))
        assert number > 10
    again = Journal(url)
    assert again.get(sha("first")) and again.get(sha(number - 1)) and not again.get(sha(number))


def test_a_store_that_does_not_answer_is_an_outage(s3_bucket, monkeypatch):
    import s3fs

    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(Outage, match=r"^s3://.*/journal: .*are address and endpoint \(AWS_ENDPOINT_URL\) right"):
        Journal(f"{s3_bucket}/journal").get(sha("a"))


def test_an_answer_is_on_the_disk_when_append_returns(tmp_path):
    journal = Journal(str(tmp_path))
    journal.append(entry("a"))
    assert Journal(Path(tmp_path).as_uri()).get(sha("a"))
