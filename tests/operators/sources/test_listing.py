import json

import pytest

from operators.sources.listing import read_sources, source_id_of
from schemas.errors import SourceError


def touch(path, content=b"x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_a_folder_gives_its_videos_with_subfolders_and_nothing_else(tmp_path):
    touch(tmp_path / "a" / "clip.mp4")
    touch(tmp_path / "b" / "clip.WEBM")
    touch(tmp_path / "dQw4w9WgXcQ.mkv")
    touch(tmp_path / "notes.txt")
    touch(tmp_path / ".hidden.mp4")
    listing = read_sources(str(tmp_path))
    assert len(listing.sources) == 3
    assert {source.uri for source in listing.sources} == {
        str(tmp_path / "a/clip.mp4"), str(tmp_path / "b/clip.WEBM"), str(tmp_path / "dQw4w9WgXcQ.mkv"),
    }  # fmt: skip
    assert "dQw4w9WgXcQ" in {source.source_id for source in listing.sources}
    assert [source.source_id for source in listing.sources] == sorted(source.source_id for source in listing.sources)


def test_equal_names_in_different_folders_get_different_ids():
    assert source_id_of("a/clip.mp4") != source_id_of("b/clip.mp4")
    assert source_id_of("ä ö/кино.mp4") == source_id_of("ä ö/кино.mp4")


def test_a_relative_folder_gives_absolute_addresses(tmp_path, monkeypatch):
    touch(tmp_path / "films" / "one.mp4")
    monkeypatch.chdir(tmp_path)
    for name in ("films", "films/", "./films"):
        assert [source.uri for source in read_sources(name).sources] == [str(tmp_path / "films/one.mp4")]


def test_an_empty_folder_says_what_was_looked_for(tmp_path):
    touch(tmp_path / "notes.txt")
    with pytest.raises(SourceError, match=r"holds no video; looked for .*\.mp4"):
        read_sources(str(tmp_path))


def test_a_missing_source_is_named(tmp_path):
    with pytest.raises(SourceError, match="nowhere"):
        read_sources(str(tmp_path / "nowhere"))


def test_a_csv_manifest_with_one_bad_row_keeps_the_others(tmp_path):
    touch(tmp_path / "one.mp4")
    touch(tmp_path / "two.mp4")
    (tmp_path / "list.csv").write_text(
        "uri,source_id,category,split_hint\n"
        "one.mp4,one,sports,eval\n"
        "two.mp4,two,cooking,\n"
        "three.mp4,three,music,\n"
        "two.mp4,one,,\n"
    )
    listing = read_sources(str(tmp_path / "list.csv"))
    assert [(source.source_id, source.category, source.split_hint) for source in listing.sources] == [
        ("one", "sports", "eval")
    ]
    reasons = {reject.key: (reject.reason, reject.message) for reject in listing.rejects}
    assert reasons["two"][0] == "manifest_row" and "row 2, field category" in reasons["two"][1]
    assert reasons["three"][0] == "missing_file"
    assert reasons["one"][0] == "duplicate_id" and "one.mp4" in reasons["one"][1]


def test_a_misspelt_column_stops_at_once(tmp_path):
    (tmp_path / "list.csv").write_text("path\nx.mp4\n")
    with pytest.raises(SourceError, match="unknown column 'path'; known are uri"):
        read_sources(str(tmp_path / "list.csv"))


@pytest.mark.parametrize("text", ["{", '"a"', "[1]", '{"uri": "a.mp4"}'])
def test_an_unreadable_manifest_is_named(tmp_path, text):
    (tmp_path / "list.json").write_text(text)
    with pytest.raises(SourceError, match=r"list\.json"):
        read_sources(str(tmp_path / "list.json"))


def test_the_fingerprint_changes_with_the_file(tmp_path):
    film = touch(tmp_path / "film.mp4", b"one")
    before = read_sources(str(tmp_path)).sources[0].fingerprint
    film.write_bytes(b"another")
    assert read_sources(str(tmp_path)).sources[0].fingerprint != before


@pytest.fixture
def shot2story(tmp_path):
    touch(tmp_path / "media" / "AAAAAAAAAAA.webm")
    (tmp_path / "134k_meta.csv").write_text(
        "youtube_id,clip_id,category,duration\n"
        "AAAAAAAAAAA,AAAAAAAAAAA.3,Travel & Events,\"['00:01:00.000', '00:01:16.000']\"\n"
        "AAAAAAAAAAA,AAAAAAAAAAA.1,Travel & Events,\"['00:00:10.500', '00:00:20.500']\"\n"
        "BBBBBBBBBBB,BBBBBBBBBBB.0,Howto & Style,\"['00:00:00.000', '00:00:16.000']\"\n"
    )

    def entry(clip, shots, **more):
        names = [f"{clip}_{first}_{last}.mp4" for first, last in shots]
        empty = [""] * len(shots)
        return {"video": f"{clip}.mp4", "image_id": f"{clip}.mp4", "nvid": f"{clip}.mp4", "id": 0, "video_names": names,
                "captions": empty, "audio_captions": empty, "ASR": empty, "whole_ASR": ""} | more  # fmt: skip

    rows = [
        entry(
            "AAAAAAAAAAA.3", [(0, 200), (201, 400)], captions=["a dog", "a cat"], ASR=["", "meow"], whole_caption="pets"
        ),
        entry("AAAAAAAAAAA.1", [(0, 250)], captions=["a bird"], audio_captions=["it sings"]),
        entry("CCCCCCCCCCC.0", [(0, 10)]),
        entry("BBBBBBBBBBB.0", [(0, 10)], video_names=["odd.mp4"]),
    ]
    path = tmp_path / "43k_human_train.json"
    path.write_text(json.dumps(rows))
    return path


def test_shot2story_texts_stand_at_their_absolute_times(shot2story):
    listing = read_sources(str(shot2story), media_root=str(shot2story.parent / "media"))
    [source] = listing.sources
    assert (source.source_id, source.category) == ("AAAAAAAAAAA", "travel_events")
    assert source.uri.endswith("media/AAAAAAAAAAA.webm")
    assert [(text.kind, text.text, text.start_us, text.end_us) for text in source.annotations] == [
        ("caption", "a bird", 10_500_000, 20_500_000),
        ("narration", "it sings", 10_500_000, 20_500_000),
        ("caption", "a dog", 60_000_000, 68_000_000),
        ("summary", "pets", 60_000_000, 76_000_000),
        ("caption", "a cat", 68_040_000, 76_000_000),
        ("speech", "meow", 68_040_000, 76_000_000),
    ]
    assert {reject.key: reject.reason for reject in listing.rejects} == {
        "CCCCCCCCCCC.0": "annotation", "BBBBBBBBBBB.0": "annotation",
    }  # fmt: skip


def test_shot2story_meta_alone_lists_the_full_videos(shot2story):
    listing = read_sources(str(shot2story.parent / "134k_meta.csv"), media_root=str(shot2story.parent / "media"))
    assert [source.source_id for source in listing.sources] == ["AAAAAAAAAAA"]
    assert {reject.key: reject.reason for reject in listing.rejects} == {"BBBBBBBBBBB": "missing_file"}


def test_shot2story_without_its_meta_table_says_so(shot2story):
    (shot2story.parent / "134k_meta.csv").unlink()
    with pytest.raises(SourceError, match="meta"):
        read_sources(str(shot2story))
