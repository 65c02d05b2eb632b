import errno
import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from fsspec.implementations.local import LocalFileSystem

from operators.build import plan_build
from operators.sources.access import SourceFiles
from operators.sources.ids import source_id_of
from operators.sources.listing import read_sources, source_files
from operators.store.content_store import Store
from operators.store.run_folder import RunFolder
from schemas.config import BuildConfig
from schemas.errors import BadInput, Outage, SourceError
from schemas.tables import Reject, Source
from tests.support.web_server import BODY, serving


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
    assert listing.skipped == {".txt files": 1, "hidden files and folders": 1}
    assert [source.source_id for source in listing.sources] == sorted(source.source_id for source in listing.sources)


def test_linked_folders_are_searched_and_each_folder_once(tmp_path):
    touch(tmp_path / "elsewhere" / "deep" / "far.mp4")
    touch(tmp_path / "films" / "z" / "near.mp4")
    (tmp_path / "films" / "a").symlink_to("z")
    (tmp_path / "films" / "loop").symlink_to("..")
    (tmp_path / "films" / "other").symlink_to(tmp_path / "elsewhere")
    listing = read_sources(str(tmp_path / "films"))
    assert {source.uri.removeprefix(f"{tmp_path}/films/") for source in listing.sources} == {
        "z/near.mp4", "loop/elsewhere/deep/far.mp4",
    }  # fmt: skip
    assert listing.rejects == ()


def test_a_relative_folder_gives_absolute_addresses(tmp_path, monkeypatch):
    touch(tmp_path / "films" / "one.mp4")
    monkeypatch.chdir(tmp_path)
    for name in ("films", "films/", "./films"):
        assert [source.uri for source in read_sources(name).sources] == [str(tmp_path / "films/one.mp4")]


def test_an_empty_folder_is_refused_with_the_suffixes_of_videos(tmp_path):
    touch(tmp_path / "notes.txt")
    with pytest.raises(SourceError, match=r"holds no video: no file ends in .*\.mp4.*, and skipped 1 \.txt files"):
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
    assert reasons["two"][0] == "manifest_row" and "line 3, field category" in reasons["two"][1]
    assert reasons["three"][0] == "missing_file"
    assert reasons["one"][0] == "duplicate_id" and "one.mp4" in reasons["one"][1]


def test_a_misspelt_column_is_refused_with_the_known_ones(tmp_path):
    (tmp_path / "list.csv").write_text("path\nx.mp4\n")
    with pytest.raises(SourceError, match="unknown column 'path'; known are uri"):
        read_sources(str(tmp_path / "list.csv"))


def test_a_list_without_rows_is_named(tmp_path):
    (tmp_path / "list.csv").write_text("uri\n")
    with pytest.raises(SourceError, match="holds no row"):
        read_sources(str(tmp_path / "list.csv"))


@pytest.mark.parametrize("text", ["{", '"a"', "[1", '{"uri": "a.mp4"}', ""])
def test_an_unreadable_manifest_is_named(tmp_path, text):
    (tmp_path / "list.json").write_text(text)
    with pytest.raises(SourceError, match=r"list\.json"):
        read_sources(str(tmp_path / "list.json"))


def reasons(listing):
    return {reject.key: reject.reason for reject in listing.rejects}


def test_a_file_name_that_is_not_utf8_is_one_reject(tmp_path):
    touch(tmp_path / "good.mp4")
    touch(tmp_path / os.fsdecode(b"caf\xe9.mp4"))
    listing = read_sources(str(tmp_path))
    assert [source.uri for source in listing.sources] == [str(tmp_path / "good.mp4")]
    [reject] = listing.rejects
    assert (reject.key, reject.reason) == (r"caf\udce9.mp4", "unreadable_uri")
    assert "rename the file" in reject.message
    assert reject.model_dump_json()


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("foo://x.mp4", "Protocol not known: foo"),
        ("oci://bucket/x.mp4", "ocifs"),
        ("a\0b.mp4", "embedded null"),
        ("folder", "is a directory, not a file"),
        ("pipe", "is a other, not a file"),
        ("x" * 300 + ".mp4", "File name too long"),
        ("loop.mp4", "symbolic links"),
        ("good.mp4/x.mp4", "Not a directory"),
    ],
)
def test_an_address_that_cannot_be_read_is_one_reject(tmp_path, uri, message):
    touch(tmp_path / "good.mp4")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop.mp4").symlink_to("loop.mp4")
    (tmp_path / "list.json").write_text(json.dumps([{"uri": uri, "source_id": "bad"}, {"uri": "good.mp4"}]))
    listing = read_sources(str(tmp_path / "list.json"), allowed_roots=("foo://", "oci://"))
    assert len(listing.sources) == 1
    assert reasons(listing) == {"bad": "unreadable_uri"}
    assert message in listing.rejects[0].message


def test_a_row_with_half_a_surrogate_pair_is_one_reject(tmp_path):
    touch(tmp_path / "good.mp4")
    rows = [{"uri": "good.mp4", "title": "\ud83d"}, {"uri": "x\udcff.mp4"}, {"uri": "good.mp4", "source_id": "good"}]
    (tmp_path / "list.json").write_text(json.dumps(rows))
    listing = read_sources(str(tmp_path / "list.json"))
    assert [source.source_id for source in listing.sources] == ["good"]
    assert [reject.reason for reject in listing.rejects] == ["manifest_row", "manifest_row"]
    assert all(reject.model_dump_json() for reject in listing.rejects)


def test_a_line_with_more_fields_than_the_header_is_one_reject(tmp_path):
    touch(tmp_path / "one.mp4")
    (tmp_path / "list.csv").write_text("uri,title\none.mp4,Hello\ntwo.mp4,Hello, world\n")
    listing = read_sources(str(tmp_path / "list.csv"))
    assert [source.title for source in listing.sources] == ["Hello"]
    assert reasons(listing) == {"line 3": "manifest_row"}
    assert "line 3: has more fields than the header" in listing.rejects[0].message


@pytest.fixture
def forbidding_s3(monkeypatch):
    """An S3 server that answers every request with 403 Forbidden."""

    class Forbid(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(403)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_HEAD

        def log_message(self, *_):
            pass

    import s3fs

    server = ThreadingHTTPServer(("127.0.0.1", 0), Forbid)
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    s3fs.S3FileSystem.clear_instance_cache()
    yield "s3://secret"
    s3fs.S3FileSystem.clear_instance_cache()
    server.shutdown()
    server.server_close()


def test_a_file_without_permission_is_one_reject(tmp_path, forbidding_s3):
    touch(tmp_path / "good.mp4")
    (tmp_path / "list.csv").write_text(f"uri,source_id\n{forbidding_s3}/x.mp4,bad\ngood.mp4,good\n")
    listing = read_sources(str(tmp_path / "list.csv"), allowed_roots=(forbidding_s3,))
    assert [source.source_id for source in listing.sources] == ["good"]
    assert reasons(listing) == {"bad": "unreadable_uri"}


def test_a_list_without_permission_is_named(forbidding_s3):
    with pytest.raises(BadInput, match=r"s3://secret/list\.csv: access denied \(Forbidden\); correct the address, or"):
        read_sources(f"{forbidding_s3}/list.csv")


@pytest.mark.parametrize("source", ["foo://x", "oci://bucket"])
def test_a_source_that_is_no_address_is_named(source):
    with pytest.raises(SourceError, match="cannot be read"):
        read_sources(source)


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


def test_shot2story_without_its_meta_table_is_refused(shot2story):
    (shot2story.parent / "134k_meta.csv").unlink()
    with pytest.raises(SourceError, match="meta"):
        read_sources(str(shot2story))


def test_shot2story_without_its_videos_folder_is_refused_with_the_setting(shot2story):
    with pytest.raises(
        SourceError, match=r"media_root '.*/nowhere' cannot be listed: .*; set media_root to the folder"
    ):
        read_sources(str(shot2story), media_root=str(shot2story.parent / "nowhere"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"video_names": ["x_0_0.mp4"]}, "end at frame 0"),
        ({"video_names": []}, "end at frame 0"),
        ({"video_names": None}, "NoneType"),
        ({"video_names": [7]}, "int"),
        ({"video_names": ["x_0_" + "9" * 400 + ".mp4"]}, "should be named"),
        ({"captions": ["one", "too many"]}, "zip"),
        ({"captions": [["a list"]]}, "valid string"),
        ({"ASR": ["\ud83d"]}, "surrogates"),
    ],
)
def test_a_bad_shot2story_annotation_is_one_reject(shot2story, change, message):
    rows = json.loads(shot2story.read_text())[:2]
    rows[1] |= change
    shot2story.write_text(json.dumps(rows))
    listing = read_sources(str(shot2story), media_root=str(shot2story.parent / "media"))
    assert [len(source.annotations) for source in listing.sources] == [4]
    assert reasons(listing) == {"AAAAAAAAAAA.1": "annotation"}
    assert message in listing.rejects[0].message


def test_a_shot2story_annotation_without_shots_names_what_it_lacks(shot2story):
    rows = json.loads(shot2story.read_text())[:2]
    del rows[1]["video_names"]
    shot2story.write_text(json.dumps(rows))
    [reject] = read_sources(str(shot2story), media_root=str(shot2story.parent / "media")).rejects
    assert "has no 'video_names'" in reject.message


def test_a_bad_row_of_the_shot2story_meta_table_is_one_reject(shot2story):
    table = shot2story.parent / "134k_meta.csv"
    table.write_text(
        table.read_text() + "../evil,e.0,Music,\"['00:00:00.000', '00:00:16.000']\"\nDDDDDDDDDDD,d.0,Music,\n"
    )
    listing = read_sources(str(table), media_root=str(shot2story.parent / "media"))
    assert [source.source_id for source in listing.sources] == ["AAAAAAAAAAA"]
    assert reasons(listing) == {"../evil": "annotation", "d.0": "annotation", "BBBBBBBBBBB": "missing_file"}


def test_a_shot2story_meta_table_that_is_no_text_is_named(shot2story):
    (shot2story.parent / "134k_meta.csv").write_bytes(b"\xff\xfe")
    with pytest.raises(SourceError, match=r"134k_meta\.csv': it is UTF-16; save it as UTF-8"):
        read_sources(str(shot2story))


# --- what a list may name, and what is stored of it


def read_rows(tmp_path, rows, *allowed):
    (tmp_path / "list.json").write_text(json.dumps(rows))
    return read_sources(str(tmp_path / "list.json"), allowed_roots=allowed)


def test_credentials_of_an_address_are_in_no_row_and_in_no_reject(tmp_path):
    secret = "user:PASSWORD@{0}/{1}?X-Amz-Signature=SECRET"
    with serving() as server:
        rows = [
            {"uri": "http://" + secret.format(server.site, path), "source_id": path[:3]} for path in ("film.mp4", "404")
        ]
        rows += [
            {"uri": "http://" + secret.format("169.254.169.254", "film.mp4"), "source_id": "private"},
            {"uri": "http:/" + secret.format(server.site, "film.mp4"), "source_id": "malformed"},
            {"uri": "http://user:PASS/WORD@[::1/film.mp4?SECRET"},
            {"uri": "simplecache::http://" + secret.format(server.site, "film.mp4"), "source_id": "chain"},
            {"uri": secret.format("host", "film.mp4"), "source_id": "schemeless"},
            {"uri": "ftp://" + secret.format("host", "film.mp4"), "category": "SECRET=http://u:PASSWORD@h/x?SECRET"},
            {"uri": "http://" + secret.format(server.site, "403"), "source_id": "refused"},
        ]  # fmt: skip
        listing = read_rows(tmp_path, rows, server.url, "http://")
        [source] = listing.sources
    assert (source.uri, source.redacted) == (f"{server.url}/film.mp4", True)
    kept = source.model_dump_json() + "".join(reject.model_dump_json() for reject in listing.rejects)
    assert len(listing.rejects) == len(rows) - 1
    assert not any(word in kept.replace("SECRET=http", "") for word in ("PASSWORD", "SECRET", "PASS/", "WORD"))
    assert server.site in kept


def test_a_new_signature_makes_no_new_video(tmp_path):
    with serving() as server:
        rows = [[{"uri": f"{server.url}/film.mp4?X-Amz-Signature={number}"}] for number in (1, 2)]
        first, second = (read_rows(tmp_path, each, server.url).sources for each in rows)
        config = BuildConfig(source=str(tmp_path / "list.json"), out="out", allowed_roots=(server.url,))
        files = source_files(config, second)
        assert files.fetch(second[0].source_id, second[0].uri, tmp_path).read_bytes() == BODY
    assert first == second
    assert server.queries[-1] == "X-Amz-Signature=2"


def test_a_list_that_is_gone_is_named_when_its_addresses_are_needed(tmp_path):
    source = Source(source_id="film", uri="http://host/film.mp4", fingerprint="1", redacted=True)
    with pytest.raises(SourceError, match="the addresses of its videos hold credentials, which are not stored"):
        source_files(BuildConfig(source=str(tmp_path / "gone.csv"), out="out"), [source])


def test_a_list_names_no_files_of_others(tmp_path):
    touch(tmp_path / "secret.mp4")
    (tmp_path / "films").mkdir()
    rows = [{"uri": uri, "source_id": f"v{number}"} for number, uri in enumerate(
        ["../secret.mp4", "file:///etc/hostname", "/etc/hostname", "github://org:repo@main/a.mp4", "memory://a.mp4",
         "zip://a.mp4::/etc/a.zip", "http://169.254.169.254/latest/meta-data", "s3://other/a.mp4"]
    )]  # fmt: skip
    listing = read_rows(tmp_path / "films", rows)
    assert {reject.reason for reject in listing.rejects} == {"not_allowed"}
    assert len(listing.rejects) == len(rows)
    assert all("allowed_roots" in reject.message or "chains" in reject.message for reject in listing.rejects)
    assert [source.uri for source in read_rows(tmp_path / "films", rows[:1], str(tmp_path)).sources] == [
        str(tmp_path / "secret.mp4")
    ]


def test_content_from_a_server_is_in_no_reject(tmp_path):
    with serving() as server:
        rows = [{"uri": f"{server.url}/{path}"} for path in ("403", "noise", "to?http://127.0.0.1:1/x")]
        listing = read_rows(tmp_path, rows, server.url)
    assert [reject.reason for reject in listing.rejects] == ["unreadable_uri"] * 3
    assert not any(word in reject.message for reject in listing.rejects for word in ("SECRET", "noise that"))


def test_a_list_on_a_web_server_names_the_videos_next_to_it(tmp_path):
    with serving({"/films/list.csv": b"uri\nfilm.mp4\n/etc/passwd\n", "/films/film.mp4": BODY}) as server:
        listing = read_sources(f"{server.url}/films/list.csv")
    assert [source.uri for source in listing.sources] == [f"{server.url}/films/film.mp4"]
    assert [reject.reason for reject in listing.rejects] == ["not_allowed"]


@pytest.mark.parametrize("depth", [500, 5_000, 100_000])
def test_a_list_that_is_nested_too_deep_is_named_or_a_reject(tmp_path, depth):
    (tmp_path / "list.json").write_text('[{"uri": "a.mp4", "title": ' + "[" * depth + "]" * depth + "}]")
    try:
        message = read_sources(str(tmp_path / "list.json")).rejects[0].message
    except SourceError as error:
        message = str(error)
    assert "list.json" in message and len(message) < 500


def test_a_number_without_end_in_a_list_has_a_short_message(tmp_path):
    (tmp_path / "list.json").write_text('[{"uri": ' + "9" * 4_000 + "}]")
    [reject] = read_sources(str(tmp_path / "list.json")).rejects
    assert "got a number of" in reject.message and len(reject.message) < 500


ODD_NAMES = [
    "a::b.mp4", "a#b.mp4", "a?b=c.mp4", "100%.mp4", "%20.mp4", "[1] *.mp4", "back\\slash.mp4", "-i.mp4", " space .mp4",
    "two\nlines.mp4", "file:x.mp4", "C:\\x.mp4", "s3:x.mp4", "~x.mp4", "кино.mp4", "trailing.mp4 ", "{a,b}.mp4",
    "simplecache::x.mp4", "x.mp4::y.mp4", "$HOME.mp4", "a;b.mp4", "'q\".mp4",
]  # fmt: skip


def test_no_character_of_a_file_name_has_a_meaning(tmp_path):
    folder = tmp_path / "fil::ms#1?[x]"
    for name in ODD_NAMES:
        touch(folder / name, name.encode())
    listing = read_sources(str(folder))
    assert listing.rejects == () and dict(listing.skipped) == {}
    assert {source.uri for source in listing.sources} == {f"{folder}/{name}" for name in ODD_NAMES}
    fetched = {
        found.uri: SourceFiles().fetch(found.source_id, found.uri, tmp_path).read_bytes() for found in listing.sources
    }
    assert fetched == {f"{folder}/{name}": name.encode() for name in ODD_NAMES}


def test_no_character_of_a_name_in_a_list_has_a_meaning(tmp_path):
    for name in ODD_NAMES:
        touch(tmp_path / name)
    (tmp_path / "list.json").write_text(json.dumps([{"uri": name} for name in ODD_NAMES]))
    assert {source.uri for source in read_sources(str(tmp_path / "list.json")).sources} == {
        f"{tmp_path}/{name}" for name in ODD_NAMES
    }


ODD_KEYS = [
    *(name for name in ODD_NAMES if name.isprintable()), "/leading.mp4", "a//b.mp4", "a/../b.mp4", "../up.mp4",
    "./here.mp4", "http://x/y.mp4", "b c+d&e=f.mp4",
]  # fmt: skip
"""Keys of printable characters only: the test S3 server answers 404 for keys with a line break."""


def put_objects(s3_bucket, keys):
    """Write objects with boto3, which does not interpret keys as folders or URLs."""
    import boto3

    client = boto3.client("s3")
    for key in keys:
        client.put_object(Bucket=s3_bucket.removeprefix("s3://"), Key=key, Body=key.encode())


def test_no_character_of_a_key_on_s3_has_a_meaning(tmp_path, s3_bucket):
    put_objects(s3_bucket, [f"films/{key}" for key in ODD_KEYS])
    listing = read_sources(f"{s3_bucket}/films")
    assert listing.rejects == ()
    assert {source.uri for source in listing.sources} == {f"{s3_bucket}/films/{key}" for key in ODD_KEYS}
    fetched = {
        found.uri: SourceFiles().fetch(found.source_id, found.uri, tmp_path).read_bytes() for found in listing.sources
    }
    assert fetched == {f"{s3_bucket}/films/{key}": f"films/{key}".encode() for key in ODD_KEYS}
    planned = plan_build(BuildConfig(source=f"{s3_bucket}/films", out=f"{s3_bucket}/o::ut"), "one")
    assert RunFolder.open(planned.url).sources() == listing.sources


def test_a_whole_bucket_is_a_source(s3_bucket):
    put_objects(s3_bucket, ["/leading.mp4", "a::b.mp4", "a/b.mp4"])
    assert {source.uri.removeprefix(s3_bucket) for source in read_sources(s3_bucket).sources} == {
        "//leading.mp4", "/a::b.mp4", "/a/b.mp4",
    }  # fmt: skip


def test_objects_that_stand_for_folders_are_no_videos(s3_bucket):
    put_objects(s3_bucket, ["films/", "films/a.mp4/", "films/a.mp4/b.mp4"])
    assert [source.uri for source in read_sources(f"{s3_bucket}/films").sources] == [f"{s3_bucket}/films/a.mp4/b.mp4"]


def test_a_key_that_s3fs_takes_for_the_version_of_another_is_one_reject(s3_bucket):
    put_objects(s3_bucket, ["films/a?versionId=b.mp4", "films/a", "films/c.mp4"])
    listing = read_sources(f"{s3_bucket}/films")
    assert [source.uri for source in listing.sources] == [f"{s3_bucket}/films/c.mp4"]
    [reject] = listing.rejects
    assert reject.reason == "unreadable_uri"


def test_a_file_that_may_not_be_read_is_one_reject(tmp_path, unprivileged):
    touch(tmp_path / "good.mp4")
    touch(tmp_path / "secret.mp4").chmod(0)
    with unprivileged(tmp_path):
        listing = read_sources(str(tmp_path))
    assert [source.uri for source in listing.sources] == [str(tmp_path / "good.mp4")]
    [reject] = listing.rejects
    assert reject.reason == "unreadable_uri" and "Permission denied" in reject.message


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
def test_a_found_file_or_a_list_that_cannot_be_read_now_is_an_outage(tmp_path, monkeypatch, number):
    """A new version without the videos of a failing disk must not replace one that has them."""
    touch(tmp_path / "good.mp4")
    (tmp_path / "list.csv").write_text("uri\ngood.mp4\n")
    info = LocalFileSystem.info

    def fail(fs, path, **options):
        if str(path).endswith(failing):
            raise OSError(number, os.strerror(number), path)
        return info(fs, path, **options)

    monkeypatch.setattr(LocalFileSystem, "info", fail)
    for failing, source in (("good.mp4", tmp_path), ("list.csv", tmp_path / "list.csv")):
        with pytest.raises(Outage, match=f"{failing}' cannot be read .{os.strerror(number)}.*run it again"):
            read_sources(str(source))


def test_a_source_that_may_not_be_read_is_named(tmp_path, unprivileged):
    touch(tmp_path / "films" / "good.mp4")
    (tmp_path / "films").chmod(0)
    with unprivileged(tmp_path):
        with pytest.raises(SourceError, match=r"films' cannot be read \(Permission denied\); give the build the right"):
            read_sources(str(tmp_path / "films"))
        with pytest.raises(SourceError, match="cannot be read"):
            read_sources(str(tmp_path / "films" / "deeper"))


def test_an_entry_in_the_output_of_a_build_is_a_reject(tmp_path):
    store = Store(str(tmp_path / "out"))
    store.write("runs/one/run.json", b"{}")
    clip = touch(tmp_path / "clip.mp4")
    address = store.put_file(clip)
    (tmp_path / "list.json").write_text(json.dumps([{"uri": "clip.mp4"}, {"uri": f"out/{address}"}]))
    listing = read_sources(str(tmp_path / "list.json"))
    assert [source.uri for source in listing.sources] == [str(clip)]
    [reject] = listing.rejects
    assert reject.reason == "build_output" and f"a build has made in {tmp_path}/out" in reject.message


def test_a_folder_and_a_list_of_one_folder_give_a_video_the_same_id(tmp_path):
    touch(tmp_path / "a" / "one.mp4")
    (tmp_path / "list.csv").write_text("uri\na/one.mp4\n")
    (tmp_path / "absolute.csv").write_text(f"uri\n{tmp_path}/a/one.mp4\n")
    sources = [read_sources(str(tmp_path / name)).sources for name in (".", "list.csv", "absolute.csv")]
    assert {found.source_id for [found] in sources} == {source_id_of("a/one.mp4")}


def test_one_of_two_full_videos_of_shot2story_is_used_in_any_order(shot2story):
    media = shot2story.parent / "media"
    touch(media / "AAAAAAAAAAA.mp4")
    listing = read_sources(str(shot2story), media_root=str(media))
    assert [source.uri for source in listing.sources] == [str(media / "AAAAAAAAAAA.mp4")]


def test_a_folder_of_shot2story_may_have_any_name(shot2story, tmp_path):
    folder = tmp_path / "sho[t]::2*"
    folder.mkdir()
    for path in (shot2story, tmp_path / "134k_meta.csv", tmp_path / "media"):
        path.rename(folder / path.name)
    listing = read_sources(str(folder / shot2story.name), media_root=str(folder / "media"))
    assert [source.source_id for source in listing.sources] == ["AAAAAAAAAAA"]


def test_a_bad_line_of_the_shot2story_meta_table_is_one_reject(shot2story):
    table = shot2story.parent / "134k_meta.csv"
    table.write_text(table.read_text().replace("duration\n", 'duration\n"bad"line,x,y,z\n', 1))
    listing = read_sources(str(shot2story), media_root=str(shot2story.parent / "media"))
    assert [source.source_id for source in listing.sources] == ["AAAAAAAAAAA"]
    assert "line 2: not CSV" in {reject.key: reject.message for reject in listing.rejects}["line 2"]


def test_a_name_cannot_write_lines_of_its_own_into_a_log(tmp_path):
    listing = read_rows(tmp_path, [{"uri": "a.mp4\nrejected: none\x1b[2J"}, {"uri": "映画\u3000一.mp4"}])
    assert "映画\u3000一.mp4: no such file" in listing.rejects[1].message
    assert r"a.mp4\nrejected: none\x1b[2J: no such file" in listing.rejects[0].message
    [stored] = [Reject(stage="ingest", unit="a", key="a", reason="x", message="a\nb\x1b[2J", raw="a\nb")]
    assert (stored.message, stored.raw) == (r"a\nb\x1b[2J", "a\nb")
