"""Runs that publish one after another or concurrently, and finding a published dataset without its name."""

import hashlib
import shutil

import pytest

from operators.release import publish as module
from operators.release.publish import AmbiguousDataset, latest_run, newest_release, only_name, publish
from operators.store.content_store import Store
from operators.store.run_folder import RunFolder, RunMissing
from schemas.base import digest
from schemas.run import Commit, LatestRelease, ReleaseFile, StageKey, StageRecord
from schemas.tables import Reject
from tests.support.synthetic_run import synthetic_run


def publish_as(store: Store, name: str) -> None:
    latest = LatestRelease(version=1, run_id=f"{name}-run")
    store.write(f"releases/{name}/latest.json", latest.model_dump_json().encode())


@pytest.fixture(params=["local", "s3"])
def store(request, tmp_path):
    return Store(str(tmp_path / "a [b]") if request.param == "local" else f"{request.getfixturevalue('s3_bucket')}/lvr")


def test_the_only_dataset_needs_no_name_and_of_several_one_must_be_named(store):
    with pytest.raises(RunMissing, match="no release there"):
        only_name(store)
    publish_as(store, "films")
    store.write("releases/unfinished/v0001.claim", b"0")
    assert only_name(store) == "films"
    publish_as(store, "cartoons")
    with pytest.raises(AmbiguousDataset, match="holds the datasets cartoons, films; name one of them"):
        only_name(store)


@pytest.fixture
def assembled_run(tmp_path):
    return synthetic_run(tmp_path, videos=4)


def shard_run(assembled_run, run_id, tar=b"a tar"):
    """Copy the assembled run under another id, with a shard stage that wrote this one tar."""
    store = assembled_run.store
    run = assembled_run.run.model_copy(update={"run_id": run_id})
    folder = RunFolder.create(store, run, list(assembled_run.partitions()))
    for record in assembled_run.records():
        folder.write_record(record)
    name = {"sha256": store.put_bytes(tar, ".tar"), "bytes": len(tar)}
    file = ReleaseFile(path="data/sft/00000.tar", split="sft", videos=1, samples=2, **name)
    key = StageKey(stage="shard", version=1, unit="all", seed=0, section=run_id, prompts=(), models=(), inputs=())
    commit = Commit(
        key_sha256=digest(key),
        key=key,
        rows_sha256=store.put_rows([file], ReleaseFile),
        rejects_sha256=store.put_rows([], Reject),
        rows=1,
        rejects=0,
    )
    folder.write_record(StageRecord(stage="shard", partition=None, commits={"all": commit}))
    store.write(f"{folder.address}/report.html", run_id.encode())
    return folder


def act_after(monkeypatch, function, act):
    """Call `act` once, immediately after the next call of the module's `function`."""
    real = getattr(module, function)

    def call_then_act(*arguments):
        found = real(*arguments)
        monkeypatch.setattr(module, function, real)
        act()
        return found

    monkeypatch.setattr(module, function, call_then_act)


def test_equal_content_is_published_once(assembled_run):
    first, second = shard_run(assembled_run, "first"), shard_run(assembled_run, "second")
    made, found = publish(first), publish(second)
    assert (made.release.version, made.is_new) == (1, True)
    assert (found.release, found.is_new, publish(first).is_new) == (made.release, False, True)
    other = publish(shard_run(assembled_run, "third", tar=b"another tar"))
    assert (other.release.version, other.is_new) == (2, True)


def test_one_of_two_concurrent_publications_of_the_same_content_is_new(assembled_run, monkeypatch):
    published = {}
    first, second = shard_run(assembled_run, "first"), shard_run(assembled_run, "second")
    act_after(monkeypatch, "_claim_version", lambda: published.update(second=publish(second)))
    published["first"] = publish(first)
    assert {name: (each.release.run_id, each.is_new) for name, each in published.items()} == {
        "first": ("second", False),
        "second": ("second", True),
    }
    assert newest_release(assembled_run.store, "synthetic").run_id == "second"


def test_the_last_writer_points_to_the_newest_version(assembled_run, monkeypatch):
    first, second = shard_run(assembled_run, "first"), shard_run(assembled_run, "second", tar=b"another tar")

    def both():
        act_after(monkeypatch, "_latest", lambda: publish(second))

    act_after(monkeypatch, "_write", both)  # the second run publishes between the first run's read and write
    assert publish(first).release.version == 1
    assert newest_release(assembled_run.store, "synthetic").version == 2
    assert latest_run(assembled_run.store, "synthetic").run.run_id == "second"


@pytest.mark.parametrize(("tar", "version"), [(b"a tar", 1), (b"another tar", 2)])
def test_a_release_that_was_deleted_by_hand_is_published_again(assembled_run, tar, version):
    shutil.rmtree(publish(shard_run(assembled_run, "first")).url)
    assert newest_release(assembled_run.store, "synthetic") is None
    again = publish(shard_run(assembled_run, "second", tar))
    assert (again.release.version, again.is_new) == (version, True)
    assert newest_release(assembled_run.store, "synthetic") == again.release
    tar_file = assembled_run.store.read(f"releases/synthetic/v{version:04d}/data/sft/00000.tar")
    assert hashlib.sha256(tar_file).hexdigest() == again.release.files[0].sha256


def test_a_run_that_was_killed_while_publishing_comes_after_those_published_since(assembled_run, monkeypatch):
    killed = shard_run(assembled_run, "killed")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, "_write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        publish(killed)
    assert publish(shard_run(assembled_run, "other", tar=b"another tar")).release.version == 2
    assert publish(killed).release.version == 3
    assert newest_release(assembled_run.store, "synthetic").run_id == "killed"
