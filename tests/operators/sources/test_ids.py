import hashlib
import json
import os
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from operators.build import make_partitions, plan_build
from operators.sources.access import fingerprint
from operators.sources.ids import SourceIds, keep_given_ids, read_given_ids, source_id_of
from operators.sources.listing import read_sources
from operators.store.content_store import Store
from operators.store.run_folder import RunFolder
from schemas.base import VideoId
from schemas.config import BuildConfig
from schemas.errors import SchemaError
from schemas.run import GivenIds, Run
from schemas.tables import Source


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def ids_of(source, given=None):
    """Source ids by path relative to the source. The listing must have no rejects."""
    listing = read_sources(str(source), given=given)
    assert listing.rejects == ()
    return {found.uri.removeprefix(f"{source}/"): found.source_id for found in listing.sources}


# --- ids are derived from paths ---------------------------------------------------------------------------------------


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_an_id_is_legal_whatever_the_path_is(path):
    assert TypeAdapter(VideoId).validate_python(source_id_of(path))


def test_an_id_begins_with_the_name_and_covers_the_whole_path():
    assert re.fullmatch(r"clip-[0-9a-f]{16}", source_id_of("a/clip.mp4"))
    assert len({source_id_of(path) for path in ("a/clip.mp4", "b/clip.mp4", "a/clip.webm", "a/clip.mp4 ")}) == 4
    assert source_id_of("ä ö/кино.mp4").startswith("video-")


@pytest.mark.parametrize(
    ("old", "new"),
    [("a/segment_001.mp4", "b/segment_001.mp4"), ("dQw4w9WgXcQ.mp4", "dQw4w9WgXcQ.webm"), ("a.mp4", "a/a.mp4")],
)
def test_an_id_stays_when_a_file_of_the_same_name_comes(tmp_path, old, new):
    touch(tmp_path, old)
    before = ids_of(tmp_path)
    touch(tmp_path, new)
    after = ids_of(tmp_path)
    assert after[old] == before[old] != after[new]


NAMES = st.sampled_from(["segment_001", "dQw4w9WgXcQ", "clip", "a", "кино"])
PATHS = st.builds(
    lambda folders, name, suffix: "/".join([*folders, name + suffix]),
    st.lists(st.sampled_from(["a", "b", "segment_001"]), max_size=3),
    NAMES,
    st.sampled_from([".mp4", ".webm"]),
)


@given(st.sets(PATHS), st.sets(PATHS), st.sets(PATHS))
def test_ids_stay_whatever_paths_come_and_go(paths, come, go):
    ids = SourceIds(GivenIds(ids={"/films": earlier_ids(paths)}), "/films")
    before = {path: ids.id_of(path) for path in paths}
    after = {path: ids.id_of(path) for path in (paths | come) - go}
    assert {path: before[path] for path in before.keys() & after.keys()} == {
        path: after[path] for path in before.keys() & after.keys()
    }
    assert before == earlier_ids(paths)
    everything = paths | come
    assert len({ids.id_of(path) for path in everything}) == len(everything)


def test_a_thousand_files_keep_their_ids_when_half_of_them_go_and_others_come(tmp_path):
    paths = [f"{number % 40:02d}/segment_{number // 40:03d}.mp4" for number in range(1000)]
    touch(tmp_path, *paths[:700])
    before = ids_of(tmp_path)
    for path in paths[:350]:
        (tmp_path / path).unlink()
    touch(tmp_path, *paths[700:])
    during = ids_of(tmp_path)
    touch(tmp_path, *paths)
    after = ids_of(tmp_path)
    assert during.items() <= after.items() and before.items() <= after.items()
    assert len(set(after.values())) == 1000


# --- a store of an earlier version keeps its ids ----------------------------------------------------------------------


def earlier_ids(paths):
    """Ids that versions up to 62b2544 derived from paths.

    A file stem of 11 characters (`[A-Za-z0-9_-]`) was itself the id, unless two paths had that stem.
    """
    stems = {path: PurePosixPath(path).stem for path in paths}
    used = Counter(stems.values())

    def id_of(path, stem):
        if re.fullmatch(r"[A-Za-z0-9_-]{11}", stem) and used[stem] == 1:
            return stem
        slug = re.sub(r"[^A-Za-z0-9_-]+", "-", stem).strip("-")[:48] or "video"
        return f"{slug}-{hashlib.sha256(path.encode()).hexdigest()[:8]}"

    return {path: id_of(path, stem) for path, stem in stems.items()}


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "out"))


@pytest.fixture(params=["local", "s3"])
def any_store(request):
    if request.param == "local":
        return request.getfixturevalue("store")
    return Store(request.getfixturevalue("s3_bucket") + "/out")


def plan_earlier(store, run_id, source, *paths, name="films", **ids):
    """Plan a run as earlier versions did: with their ids and without `ids.json`."""
    folder = str(source).removesuffix("/list.csv")
    given = {ids.get(path, source_id): f"{folder}/{path}" for path, source_id in earlier_ids(paths).items()}
    sources = tuple(
        Source(source_id=source_id, uri=uri, fingerprint=fingerprint(uri) if Path(uri).exists() else "1-2")
        for source_id, uri in sorted(given.items())
    )
    config = BuildConfig(source=str(source), out=store.url, name=name, partition_videos=2)
    partitions = make_partitions(sources, 2)
    run = Run(
        run_id=run_id,
        requested=config,
        config=config,
        partitions=len(partitions),
        videos=len(sources),
        plan_rejects_sha256="0" * 64,
    )
    RunFolder.create(store, run, partitions)


def test_a_store_keeps_the_ids_that_earlier_versions_gave(any_store, tmp_path):
    films = tmp_path / "films"
    paths = ["a/segment_001.mp4", "dQw4w9WgXcQ.mp4", "long name.mp4", "b/c.mp4"]
    plan_earlier(any_store, "one", films, *paths)
    given = read_given_ids(any_store)
    assert given.ids == {str(films): earlier_ids(paths)}
    touch(films, *paths, "b/segment_001.mp4", "dQw4w9WgXcQ.webm")
    found = ids_of(films, given)
    assert {path: found[path] for path in paths} == earlier_ids(paths)
    assert found["b/segment_001.mp4"] == source_id_of("b/segment_001.mp4")
    assert found["dQw4w9WgXcQ.webm"] == source_id_of("dQw4w9WgXcQ.webm")


def test_an_id_is_kept_while_its_video_is_missing(store, tmp_path):
    plan_earlier(store, "one", tmp_path, "a/segment_001.mp4", "b.mp4")
    plan_earlier(store, "two", tmp_path, "b.mp4")
    assert read_given_ids(store).ids[str(tmp_path)] == earlier_ids(["a/segment_001.mp4", "b.mp4"])


def test_a_video_keeps_the_last_of_its_ids(store, tmp_path):
    one, other = "a/segment_001.mp4", "b/segment_001.mp4"
    plan_earlier(store, "one", tmp_path, one)
    plan_earlier(store, "another", tmp_path, one, other)
    assert read_given_ids(store).ids[str(tmp_path)] == earlier_ids([one, other])


def test_an_id_that_two_videos_have_had_is_the_last_ones(store, tmp_path):
    plan_earlier(store, "one", tmp_path, "b/segment_001.mp4")
    plan_earlier(store, "another", tmp_path, "a/segment_001.mp4")
    plan_earlier(store, "a-third", tmp_path, "b/segment_001.mp4")
    assert read_given_ids(store).ids[str(tmp_path)] == {"b/segment_001.mp4": "segment_001"}


def test_two_sources_in_one_store_are_not_mixed_up(store, tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    plan_earlier(store, "one", one, "a/segment_001.mp4")
    plan_earlier(store, "other", other, "a/segment_001.mp4", "b/segment_001.mp4", name="others")
    given = read_given_ids(store)
    for films in (one, other):
        touch(films, "a/segment_001.mp4", "b/segment_001.mp4")
    assert ids_of(one, given) == {
        "a/segment_001.mp4": "segment_001",
        "b/segment_001.mp4": source_id_of("b/segment_001.mp4"),
    }
    assert ids_of(other, given) == earlier_ids(["a/segment_001.mp4", "b/segment_001.mp4"])


def test_a_source_that_was_moved_keeps_its_ids(store, tmp_path):
    paths = ["a/segment_001.mp4", "b/other.mp4"]
    plan_earlier(store, "one", "/mnt/away", *paths)
    touch(tmp_path, *paths, "c/segment_001.mp4")
    found = ids_of(tmp_path, read_given_ids(store))
    assert found == earlier_ids(paths) | {"c/segment_001.mp4": source_id_of("c/segment_001.mp4")}


def test_a_moved_source_gets_no_id_that_several_videos_have_had(store, tmp_path):
    plan_earlier(store, "one", "/mnt/one", "a/segment_001.mp4", "b.mp4")
    plan_earlier(store, "other", "/mnt/other", "c/segment_001.mp4", "b.mp4")
    touch(tmp_path, "a/segment_001.mp4", "c/segment_001.mp4", "b.mp4")
    assert ids_of(tmp_path, read_given_ids(store)) == {
        "a/segment_001.mp4": source_id_of("a/segment_001.mp4"),
        "c/segment_001.mp4": source_id_of("c/segment_001.mp4"),
        "b.mp4": earlier_ids(["b.mp4"])["b.mp4"],
    }


def test_a_list_keeps_the_ids_of_its_videos_by_their_paths(store, tmp_path):
    plan_earlier(store, "one", tmp_path / "list.csv", "a/segment_001.mp4", "b.mp4", **{"b.mp4": "given"})
    touch(tmp_path, "a/segment_001.mp4", "b.mp4", "c/segment_001.mp4")
    (tmp_path / "list.csv").write_text("uri\na/segment_001.mp4\nb.mp4\nc/segment_001.mp4\n")
    assert ids_of_list(tmp_path, read_given_ids(store)) == {
        "a/segment_001.mp4": "segment_001", "b.mp4": "given", "c/segment_001.mp4": source_id_of("c/segment_001.mp4"),
    }  # fmt: skip
    (tmp_path / "list.csv").write_text("uri,source_id\na/segment_001.mp4,\nb.mp4,now\n")
    assert ids_of_list(tmp_path, read_given_ids(store))["b.mp4"] == "now"


def ids_of_list(folder, given):
    sources = read_sources(str(folder / "list.csv"), given=given).sources
    return {found.uri.removeprefix(f"{folder}/"): found.source_id for found in sources}


def test_no_credentials_of_earlier_addresses_are_copied(store):
    plan_earlier(store, "one", "https://host/list.csv", "a.mp4?X-Amz-Signature=SECRET", "b/segment_001.mp4")
    for address in ("runs/one/run.json", "runs/one/partitions/00000.json"):
        store.write(address, store.read(address).replace(b"https://host", b"https://user:PASSWORD@host"))
    given = read_given_ids(store)
    assert given.ids["https://host/list.csv"].keys() == {"https://host/a.mp4", "https://host/b/segment_001.mp4"}
    assert not any(word in given.model_dump_json() for word in ("PASSWORD", "SECRET"))


def test_a_relative_source_keeps_its_ids_in_its_folder(store, tmp_path, monkeypatch):
    plan_earlier(store, "one", tmp_path / "films", "a/segment_001.mp4")
    partition = "runs/one/run.json"
    store.write(partition, store.read(partition).replace(str(tmp_path / "films").encode(), b"films"))
    monkeypatch.chdir(tmp_path)
    assert read_given_ids(store).ids == {"films": {"a/segment_001.mp4": "segment_001"}}


def test_a_plan_that_was_not_finished_gives_no_ids(store):
    plan_earlier(store, "one", "/mnt/films", "a.mp4")
    store.remove("runs/one/run.json")
    assert read_given_ids(store) == GivenIds()


def test_a_damaged_file_of_a_run_is_named(store):
    plan_earlier(store, "one", "/mnt/films", "a.mp4")
    store.write("runs/one/partitions/00000.json", b"{")
    with pytest.raises(
        SchemaError, match=r"runs/one/partitions/00000\.json, .*damaged .*: move its run out of the store"
    ):
        read_given_ids(store)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"id": 7}', "field requested: Field required"),
        ('{"requested": {"source": 7}}', "field requested.source: .*got 7"),
        ("[]", r"field \(file\)"),
        ("[" * 100_000, r"field \(file\)"),
    ],
)
def test_a_run_of_another_program_is_named(store, text, problem):
    store.write("runs/other/run.json", text.encode())
    with pytest.raises(SchemaError, match=rf"runs/other/run\.json, {problem}.*; it is .* no build's: move its run out"):
        read_given_ids(store)


def test_the_ids_are_collected_once_and_stay(any_store):
    plan_earlier(any_store, "one", "/mnt/films", "a/segment_001.mp4")
    given = read_given_ids(any_store)
    with ThreadPoolExecutor(max_workers=4) as pool:  # several concurrent plans
        list(pool.map(lambda _: keep_given_ids(any_store, given), range(4)))
    plan_earlier(any_store, "two", "/mnt/films", "a/segment_001.mp4", "b/segment_001.mp4")
    assert read_given_ids(any_store) == given


def test_no_work_in_a_store_becomes_stale_when_the_ids_are_kept(store, tmp_path):
    """The keys of a video's work items depend on its source row, and its split depends on its id."""
    films, paths = tmp_path / "films", ["a/segment_001.mp4", "dQw4w9WgXcQ.mp4", "b/c d.mp4"]
    touch(films, *paths)
    plan_earlier(store, "one", films, *paths)
    before = RunFolder.open(f"{store.url}/runs/one").sources()
    touch(films, "b/segment_001.mp4", "dQw4w9WgXcQ.webm")
    config = BuildConfig(source=str(films), out=store.url, name="films")
    for run_id in ("two", "three"):
        after = plan_build(config, run_id).sources()
        assert [found for found in after if found.source_id in earlier_ids(paths).values()] == list(before)
        assert len(after) == 5


def test_a_new_store_keeps_nothing_and_reads_no_runs_again(tmp_path):
    films, store = tmp_path / "films", Store(str(tmp_path / "out"))
    touch(films, "a.mp4")
    plan_build(BuildConfig(source=str(films), out=store.url, name="films"), "one")
    assert json.loads(store.read("ids.json")) == {"ids": {}}
    os.truncate(tmp_path / "out/runs/one/run.json", 0)
    assert read_given_ids(store) == GivenIds()
