"""Facts about videos: read from a manifest or from files next to the videos, and kept in the store."""

import json

import pytest

from operators.build import plan_build
from operators.sources.facts import load_facts, put_facts
from operators.sources.listing import read_sources
from operators.store.content_store import Store
from schemas.config import BuildConfig
from schemas.facts import VideoFacts
from tests.support.facts import facts_values

SPEECH = {"start_us": 0, "end_us": 5, "kind": "speech", "text": "Where is it?", "speaker": "Anna"}
CAPTION = {"start_us": 0, "end_us": 5, "kind": "caption", "text": "A woman searches."}


@pytest.fixture
def films(tmp_path):
    folder = tmp_path / "films"
    (folder / "old").mkdir(parents=True)
    for name in ("a.mp4", "old/b.mkv", "c.mp4"):
        (folder / name).write_bytes(b"x")
    return folder


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "out"))


def facts_of(source, store, tmp_path):
    return load_facts(store, source.facts_uri, tmp_path)


def write_facts(path, **fields):
    path.write_text(json.dumps({"facts": facts_values(), **fields}))


def test_facts_next_to_a_video_are_stored_with_its_texts(films, store, tmp_path):
    write_facts(films / "a.facts.json", annotations=[SPEECH, CAPTION])
    write_facts(films / "old" / "b.facts.json")
    listing = read_sources(str(films), store=store)
    assert listing.rejects == () and listing.skipped == {}
    found = {source.uri.rpartition("/")[2]: source for source in listing.sources}
    assert [text.model_dump(exclude_defaults=True) for text in found["a.mp4"].annotations] == [SPEECH, CAPTION]
    assert found["b.mkv"].annotations == () and found["b.mkv"].facts_uri == found["a.mp4"].facts_uri
    assert facts_of(found["b.mkv"], store, tmp_path) == VideoFacts.model_validate(facts_values())
    assert found["c.mp4"].facts_uri is None


def test_facts_without_their_video_are_named(films):
    write_facts(films / "old" / "gone.facts.json")
    [reject] = read_sources(str(films)).rejects
    assert (reject.key, reject.reason) == ("old/gone.facts.json", "facts_without_video")
    assert f"{films}/old/gone.facts.json: its video, such as old/gone.mp4, is not next to it" in reject.message


def manifest(folder, *rows, name="list.json"):
    path = folder / name
    path.write_text(json.dumps(rows))
    return str(path)


def test_a_manifest_holds_facts_or_names_their_file(films, store, tmp_path):
    write_facts(films / "old" / "any.json", annotations=[SPEECH])
    rows = (
        {"uri": "a.mp4", "facts": facts_values()},
        {"uri": "c.mp4", "facts": "old/any.json", "annotations": [CAPTION]},
        {"uri": "old/b.mkv"},
    )
    listing = read_sources(manifest(films, *rows), store=store)
    found = {source.uri.rpartition("/")[2]: source for source in listing.sources}
    assert found["a.mp4"].facts_uri == found["c.mp4"].facts_uri
    assert facts_of(found["a.mp4"], store, tmp_path) == VideoFacts.model_validate(facts_values())
    assert [text.kind for text in found["c.mp4"].annotations] == ["caption", "speech"]
    assert found["b.mkv"].facts_uri is None


def test_a_csv_manifest_names_files_of_facts(films):
    write_facts(films / "a.facts.json")
    (films / "list.csv").write_text("uri,facts\na.mp4,a.facts.json\nc.mp4,\n")
    assert [bool(source.facts_uri) for source in read_sources(str(films / "list.csv")).sources] == [True, False]


def wrong(**changes):
    return facts_values() | changes


BAD_ROWS = {
    "a contradiction": (
        {"facts": wrong(goals=[])}, "manifest_row", "field facts: event 'hand', field goal: 'help' is not in goals"
    ),
    "an unknown field": (
        {"facts": wrong(actors=[])}, "manifest_row", "line 1, field facts.actors: Extra inputs are not permitted"
    ),
    "no facts": ({"facts": 7}, "manifest_row", "field facts: Input should be a valid dictionary"),
    "half a surrogate pair": ({"facts": {"goals": "\ud83d"}}, "manifest_row", "not Unicode text"),
    "a file that is missing": ({"facts": "no.json"}, "missing_file", "films/no.json: no such file; restore it"),
    "a folder": ({"facts": "old"}, "unreadable_uri", "films/old' cannot be read"),
    "a file from elsewhere": ({"facts": "/etc/hosts"}, "not_allowed", "/etc/hosts lies outside of what this build may"),
    "no JSON": ({"facts": "a.mp4"}, "facts", "films/a.mp4, field (file): Invalid JSON"),
    "another JSON": ({"facts": "list.json"}, "facts", "films/list.json, field (file): Input should be an object"),
    "a contradictory file": (
        {"facts": "bad.json"}, "facts", "films/bad.json, field facts: event 'hand', field goal: 'help' is not in goals"
    ),
    "an unknown kind of text": (
        {"annotations": [CAPTION | {"kind": "noise"}]}, "manifest_row", "field annotations: kind 'noise' is unknown"
    ),
    "a caption that speaks": (
        {"annotations": [CAPTION | {"speaker": "Ben"}]}, "manifest_row", "a caption has no speaker, got 'Ben'; only"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_ROWS)
def test_a_row_whose_facts_cannot_be_used_is_one_reject(films, name):
    row, reason, message = BAD_ROWS[name]
    (films / "bad.json").write_text(json.dumps({"facts": wrong(goals=[])}))
    listing = read_sources(manifest(films, {"uri": "a.mp4", "source_id": "a"} | row, {"uri": "c.mp4"}))
    assert [source.uri for source in listing.sources] == [f"{films}/c.mp4"]
    [reject] = listing.rejects
    assert (reject.key, reject.reason) == ("a", reason)
    assert message in reject.message


def test_a_file_that_is_too_large_for_facts_is_not_read(films, monkeypatch):
    monkeypatch.setattr("operators.sources.facts.MAX_BYTES", 10)
    write_facts(films / "a.facts.json")
    [reject] = read_sources(str(films)).rejects
    assert "bytes, and facts at most 10; name a file of facts" in reject.message


def test_facts_next_to_a_video_that_contradict_each_other_are_a_reject_of_the_video(films):
    (films / "a.facts.json").write_text(json.dumps({"facts": wrong(entities=[])}))
    listing = read_sources(str(films))
    [reject] = listing.rejects
    assert reject.reason == "facts" and "field facts: event 'find', field actor: 'anna' is not in" in reject.message
    assert len(listing.sources) == 2


def test_a_plan_holds_the_address_of_facts_and_not_the_facts(films, tmp_path):
    write_facts(films / "a.facts.json")
    folder = plan_build(BuildConfig(source=str(films), out=str(tmp_path / "out")), "run")
    [partition] = folder.partitions()
    [address] = [source.facts_uri for source in partition.sources if source.facts_uri]
    assert address == put_facts(VideoFacts.model_validate(facts_values()), None)
    assert load_facts(folder.store, address, tmp_path) == VideoFacts.model_validate(facts_values())
    assert "brass key" not in partition.model_dump_json()


def test_facts_in_a_bucket_are_read_and_stored_there(s3_bucket, tmp_path):
    source = Store(f"{s3_bucket}/films")
    source.write("a.mp4", b"x")
    source.write("a.facts.json", json.dumps({"facts": facts_values()}).encode())
    store = Store(f"{s3_bucket}/out")
    [found] = read_sources(f"{s3_bucket}/films", store=store).sources
    assert load_facts(store, found.facts_uri, tmp_path) == VideoFacts.model_validate(facts_values())
