import errno
import hashlib
import json
import multiprocessing
import os
import signal
import time
import uuid
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from operators.store.content_store import SourceUnavailable, Store, object_path, store_containing
from schemas.errors import BadInput, SchemaError
from schemas.run import Commit, StageKey
from schemas.storage import AccessDenied, StoreError, locate, outages
from schemas.tables import DetectedObject, Reject

REJECT = Reject(stage="ingest", unit="v", key="v", reason="empty_file", message="v.mp4 is empty; copy it again")


def make_commit(rows: str = "0" * 64) -> Commit:
    key = StageKey(stage="ingest", version=1, unit="v", seed=0, section="{}", prompts=(), models=(), inputs=())
    return Commit(key_sha256="a" * 64, key=key, rows_sha256=rows, rejects_sha256="1" * 64, rows=0, rejects=0)


@pytest.fixture(params=["local", "s3"])
def store(request, tmp_path):
    if request.param == "local":
        return Store(str(tmp_path / "out"))
    return Store(request.getfixturevalue("s3_bucket") + "/out")


def test_bytes_are_found_under_their_hash_and_stored_once(store):
    sha256 = store.put_bytes(b"frames", ".bin")
    assert sha256 == hashlib.sha256(b"frames").hexdigest()
    assert store.read(object_path(sha256, ".bin")) == b"frames"
    assert store.put_bytes(b"frames", ".bin") == sha256
    assert store.list(f"objects/{sha256[:2]}") == [object_path(sha256, ".bin")]


def test_files_come_back_as_local_paths(store, tmp_path):
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(b"\0" * 3_000_000)
    uri = store.put_file(clip)
    assert uri.startswith("objects/") and uri.endswith(".mp4")
    folder = tmp_path / "scratch"
    folder.mkdir()
    assert store.fetch(uri, folder).read_bytes() == clip.read_bytes()


def test_a_missing_stored_file_is_distinguished_from_an_outage(store, tmp_path):
    with pytest.raises(SourceUnavailable, match="restore it") as gone:
        store.fetch(object_path("0" * 64, ".mp4"), tmp_path)
    assert gone.value.reason == "system_error"


def test_a_store_without_credentials_is_named_with_what_to_set(monkeypatch, s3_server):
    import s3fs

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_EC2_METADATA_DISABLED", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, "true")
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(AccessDenied, match=r"s3://bucket/out: no credentials \(.*\); set AWS_ACCESS_KEY_ID and"):
        Store("s3://bucket/out").write("a", b"b")
    s3fs.S3FileSystem.clear_instance_cache()


def test_rows_make_the_round_trip(store):
    sha256 = store.put_rows([REJECT], Reject)
    assert store.get_rows(sha256, Reject) == [REJECT]
    assert store.put_rows([REJECT], Reject) == sha256


def test_a_table_read_as_another_is_refused(store):
    sha256 = store.put_rows([REJECT], Reject)
    with pytest.raises(
        SchemaError, match=r"column label .* is missing.*; another version wrote this table: run its stage again$"
    ):
        store.get_rows(sha256, DetectedObject)


def test_a_damaged_table_is_noticed(store):
    address = object_path(store.put_rows([REJECT], Reject), ".parquet")
    store.write(address, store.read(address)[:-1] + b"?")
    with pytest.raises(SchemaError, match="damaged"):
        store.get_rows(Path(address).stem, Reject)


def test_the_first_commit_of_a_key_holds(store):
    assert store.find_commit("ingest", "a" * 64) is None
    first = make_commit(store.put_rows([], Reject)).model_copy(update={"rejects_sha256": store.put_rows([], Reject)})
    assert store.commit(first) == first
    assert store.commit(make_commit("3" * 64)) == first
    assert store.find_commit("ingest", "a" * 64) == first
    store.forget_commit("ingest", "a" * 64)
    assert store.find_commit("ingest", "a" * 64) is None


def test_a_commit_whose_table_is_gone_no_longer_counts(store):
    commit = make_commit(store.put_rows([], Reject))
    store.commit(commit.model_copy(update={"rejects_sha256": store.put_rows([REJECT], Reject)}))
    assert store.find_commit("ingest", "a" * 64) is not None
    store.remove(object_path(commit.rows_sha256, ".parquet"))
    assert store.find_commit("ingest", "a" * 64) is None


def test_an_absent_folder_is_empty(store):
    assert store.list("runs/none/records") == []


def commit_many(url, start, rows, answers):
    store = Store(url)
    start.wait()
    answers.put(store.commit(make_commit(rows)).rows_sha256)


def test_workers_that_commit_concurrently_agree(tmp_path):
    spawn = multiprocessing.get_context("spawn")
    start, answers = spawn.Barrier(4), spawn.Queue()
    workers = [
        spawn.Process(target=commit_many, args=(str(tmp_path), start, str(number) * 64, answers)) for number in range(4)
    ]
    for worker in workers:
        worker.start()
    agreed = {answers.get(timeout=60) for _ in workers}
    for worker in workers:
        worker.join()
    assert len(agreed) == 1
    [stored] = tmp_path.glob("commits/ingest/*.json")
    assert json.loads(stored.read_text())["rows_sha256"] in agreed


def write_forever(url):
    store = Store(url)
    for number in range(10**6):
        store.put_bytes(bytes([number % 251]) * 2_000_000 + str(number).encode(), ".bin")


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(delay=st.floats(0.0, 0.15))
def test_a_killed_writer_leaves_no_half_object(tmp_path, delay):
    spawn = multiprocessing.get_context("spawn")
    url = str(tmp_path / f"out{time.monotonic_ns()}")
    writer = spawn.Process(target=write_forever, args=(url,))
    writer.start()
    objects = Path(url) / "objects"
    deadline = time.monotonic() + 60
    while not any(objects.rglob("*.bin")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(delay)
    os.kill(writer.pid, signal.SIGKILL)
    writer.join()
    for path in objects.rglob("*.bin"):
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.stem


def test_unfinished_files_of_killed_writers_are_removed_after_a_day(tmp_path):
    store, folder = Store(str(tmp_path)), tmp_path / "tmp"
    store.remove_unfinished()
    folder.mkdir()
    abandoned, in_progress = (f"{uuid.uuid4().hex}-{name}.tar" for name in ("abandoned", "in-progress"))
    for name, hours in ((abandoned, 25), (in_progress, 23), ("somebody's.tar", 25)):
        (folder / name).write_bytes(b"half")
        os.utime(folder / name, (time.time() - 3600 * hours,) * 2)
    store.remove_unfinished()
    assert {path.name for path in folder.iterdir()} == {in_progress, "somebody's.tar"}


def test_a_partial_file_has_a_name_by_which_it_is_removed(tmp_path):
    store = Store(str(tmp_path))

    def write_twice(partial):
        partial.touch()
        os.utime(partial, (0, 0))
        store.remove_unfinished()
        assert not partial.exists()
        partial.touch()

    store._publish_local("objects/ab/name.tar", write_twice)


def test_a_writer_that_checked_too_early_does_not_overwrite_the_first(store, monkeypatch):
    """Another worker may commit between the check and the write, so the storage itself must refuse the second write."""
    monkeypatch.setattr(Store, "exists", lambda self, address: False)
    for text in (b"first", b"second"):
        store.write("commits/split/key.json", text, replace=False)
    assert store.read("commits/split/key.json") == b"first"


def test_objects_get_readable_names(store):
    sha256 = store.put_bytes(b"a tar", ".tar")
    for _ in range(2):  # publishing again after being killed half-way
        store.name_object(sha256, "releases/films/v0001/data/eval/films-eval-000000.tar")
    assert store.read("releases/films/v0001/data/eval/films-eval-000000.tar") == b"a tar"


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, "the disk is full; free some space and run again"),
        (errno.EPERM, "a file system without hard links"),
    ],
)
def test_an_error_of_the_disk_is_reported_with_the_fix(tmp_path, monkeypatch, number, message):
    def refuse(*_):
        raise OSError(number, "refused")

    store = Store(str(tmp_path / "out"))
    sha256 = store.put_bytes(b"x", ".bin")
    monkeypatch.setattr(os, "link", refuse)
    for write in (lambda: store.put_bytes(b"y", ".bin"), lambda: store.name_object(sha256, "releases/x.bin")):
        with pytest.raises(StoreError, match=message):
            write()
    assert list((tmp_path / "out" / "tmp").iterdir()) == []


def test_a_disk_that_is_really_full_loses_nothing_that_was_there(small_disk):
    store = Store(str(small_disk / "out"))
    kept = store.put_bytes(b"kept", ".bin")
    with pytest.raises(StoreError, match=f"{store.url}: the disk is full; free some space and run again"):
        store.put_bytes(b"x" * 2_000_000, ".bin")
    assert store.read(object_path(kept, ".bin")) == b"kept"
    assert list((small_disk / "out" / "tmp").iterdir()) == []


@pytest.mark.parametrize(
    ("address", "path"),
    [
        ("/data/a::b", "/data/a::b"),
        ("/data/http://x", "/data/http://x"),
        ("file:///data/a%20b/", "/data/a%20b"),
        ("/data/ x ", "/data/ x "),
        ("s3://bucket/a::b/c#?", "bucket/a::b/c#?"),
        ("/", "/"),
    ],
)
def test_only_the_scheme_of_an_address_has_a_meaning(address, path):
    assert locate(address)[1] == path


def test_a_store_may_have_any_name(tmp_path):
    store = Store(str(tmp_path / "o::ut #1?[x]"))
    sha256 = store.put_bytes(b"frames", ".bin")
    assert (tmp_path / "o::ut #1?[x]" / object_path(sha256, ".bin")).read_bytes() == b"frames"
    assert store.list(f"objects/{sha256[:2]}") == [object_path(sha256, ".bin")]


def test_the_store_around_a_path_is_found_by_its_folders(tmp_path):
    store = Store(str(tmp_path / "out"))
    fs, root = locate(store.url)
    address = store.put_bytes(b"frames", ".mp4")
    assert store_containing(fs, f"{root}/objects") is None  # no run has been planned there
    store.write("runs/one/run.json", b"{}")
    assert store_containing(fs, f"{root}/{object_path(address, '.mp4')}") == root
    assert store_containing(fs, f"{root}/releases") == root
    assert store_containing(fs, root) is None
    assert store_containing(fs, f"{root}/films/a.mp4") is None


@pytest.mark.parametrize("url", ["s3://key:PASSWORD@bucket/out", "s3://bucket/out?sig=SECRET"])
def test_a_store_has_no_credentials_in_its_address(url):
    with pytest.raises(BadInput, match=r"^s3://bucket/out: .*environment variables") as refused:
        Store(url)
    assert not any(word in str(refused.value) for word in ("PASSWORD", "SECRET"))


def test_messages_of_a_backend_lose_the_secrets_of_their_addresses():
    with pytest.raises(StoreError, match=r"https://host/a\); are address") as failed, outages("s3://bucket"):
        raise RuntimeError("403 for https://user:PASSWORD@host/a?X-Amz-Signature=SECRET")
    assert not any(word in str(failed.value) for word in ("PASSWORD", "SECRET"))
