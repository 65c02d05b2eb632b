"""Untrusted releases: small files that expand to huge content are refused before they are read."""

import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from schemas.errors import BadInput, SchemaError
from schemas.release import open_file, open_release, read_table, read_tar
from schemas.run import Release, ReleaseFile
from schemas.sample import WebDatasetRecord
from schemas.tables import Split, VideoCategory
from tests.support.rows import make_sample, make_video

TAR = "data/sft/demo.tar"


def header(name: str, size: int, **fields: object) -> bytes:
    member = tarfile.TarInfo(name)
    member.size = size
    for field, value in fields.items():
        setattr(member, field, value)
    return member.tobuf(tarfile.GNU_FORMAT)


def member(name: str, content: bytes) -> bytes:
    return header(name, len(content)) + content + bytes(-len(content) % 512)


def record(name: str, split: Split = Split.SFT, **fields: object) -> bytes:
    video = make_video(name)
    made = WebDatasetRecord(
        video_id=name, split=split, video_category=VideoCategory.FILM, title="", licence="", origin="",
        duration_us=video.duration_us, fps=25.0, width=640, height=360, sha256="0" * 64,
        samples=(make_sample(1, video, split), make_sample(2, video, split)),
    )  # fmt: skip
    return made.model_copy(update=fields).model_dump_json().encode()


def pair(name: str) -> bytes:
    return member(f"{name}.mp4", b"film") + member(f"{name}.json", record(name))


END = bytes(1024)


@pytest.fixture
def read(tmp_path) -> Callable[..., list]:
    """Read a tar of these bytes. Its manifest entry states this many videos with two samples each."""

    def read(content: bytes, videos: int = 1, **options: object) -> list:
        file = ReleaseFile(
            path=TAR, sha256="0" * 64, bytes=len(content), split="sft", videos=videos, samples=2 * videos
        )
        (tmp_path / TAR).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / TAR).write_bytes(content)
        return list(read_tar(str(tmp_path), file, **options))

    return read


def test_records_come_with_their_headers_and_the_media_that_are_wanted(read):
    found = read(pair("a") + pair("b") + END, 2, is_wanted=lambda number: number == 1)
    assert [each.record.video_id for each in found] == ["a", "b"]
    assert [each.content for each in found] == [None, b"film"]
    assert [(each.media.name, each.media.offset_data, each.media.size) for each in found][:1] == [("a.mp4", 512, 4)]
    [without] = read(member("a.json", record("a")) + END)
    assert (without.media, without.content) == (None, None)


def sparse_header() -> bytes:
    """A header of 512 bytes for a sparse file of 64 GiB that is one hole."""
    block = bytearray(header("a.mp4", 0, type=tarfile.GNUTYPE_SPARSE))
    block[483:495] = b"\x80" + (64 << 30).to_bytes(11, "big")
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def pax_header(**headers: str) -> bytes:
    """A pax header, which overrides fields of the next header."""
    made = tarfile.TarInfo("a.mp4")
    made.pax_headers = headers
    return made.tobuf(tarfile.PAX_FORMAT)


NO_PLAIN_MEMBERS = {
    "a sparse file": sparse_header(),
    "a sparse file in pax format": pax_header(**{"GNU.sparse.size": str(64 << 30), "GNU.sparse.map": "0,0"}),
    "another size in pax format": pax_header(size=str(64 << 30)),
    "a name in pax format": pax_header(path="../../etc/hostname"),
    "a long name": header("././@LongLink", 64 << 30, type=tarfile.GNUTYPE_LONGNAME),
    "a link": header("a.mp4", 0, type=tarfile.SYMTYPE, linkname="/etc/hostname"),
    "a hard link": header("a.mp4", 0, type=tarfile.LNKTYPE, linkname="/etc/hostname"),
    "a device": header("a.mp4", 0, type=tarfile.CHRTYPE, devmajor=1, devminor=5),
    "a pipe": header("a.mp4", 0, type=tarfile.FIFOTYPE),
    "a folder": header("a.mp4", 0, type=tarfile.DIRTYPE),
    "a path that leads out": header("../a.mp4", 0),
    "an absolute path": header("/a.mp4", 0),
    "a name with more than one dot": header("a.b.mp4", 0),
    "a name in capitals": header("a.MP4", 0),
}


@pytest.mark.parametrize("name", NO_PLAIN_MEMBERS)
def test_a_member_that_is_no_plain_file_is_refused_from_its_header(read, name):
    with pytest.raises(SchemaError, match=r"demo\.tar: member .* is not a plain file named key\.suffix; do not use it"):
        read(NO_PLAIN_MEMBERS[name] + pair("a") + END)


OTHER_RECORDS = {
    "fewer": (pair("a") + END, 2, "1 records with 2 samples, the manifest states 2 with 4; copy it again"),
    "more": (pair("a") + pair("b") + b"not even a tar", 1, "2 records with 4 samples, the manifest states 1 with 2"),
    "twice": (pair("a") + pair("a") + END, 2, "a comes a second time"),
    "two media": (member("a.mp4", b"") + pair("a") + END, 1, r"a\.mp4 is followed by a\.mp4, not its \.json"),
    "media alone": (pair("a") + member("b.mp4", b"") + END, 1, "the manifest states 1 with 2"),
    "a neighbour's": (member("b.mp4", b"") + member("a.json", record("a")) + END, 1, r"a\.json mixes videos or splits"),
    "another name": (member("b.json", record("a")) + END, 1, r"b\.json mixes videos or splits"),
    "another split": (member("a.json", record("a", Split.EVAL)) + END, 1, r"a\.json mixes videos or splits"),
    "another schema": (member("a.json", b"{}") + END, 1, r"a\.json, field video_id: Field required"),
    "no number": (member("a.json", record("a", fps=float("nan"))) + END, 1, r"a\.json, field fps"),
    "a rate of nothing": (member("a.json", record("a", fps=0.0)) + END, 1, r"a\.json, field fps"),
    "too long a video": (member("a.json", record("a", duration_us=2**63)) + END, 1, r"a\.json, field duration_us"),
    "nested JSON": (member("a.json", b"[" * 100_000) + END, 1, r"a\.json, field \(file\): .*recursion limit"),
    "endless JSON": (header("a.json", 17 << 20) + bytes(17 << 20) + END, 1, r"a\.json has 17825792 bytes, a record 16"),
    "a member behind the end": (header("a.mp4", 64 << 30) + END, 1, r"a\.mp4 of 68719476736 bytes ends behind the tar"),
    "a size below nothing": (header("a.mp4", -5) + END, 1, r"a\.mp4 of -5 bytes ends behind the tar"),
    "no end": (pair("a"), 1, "does not end in two zero blocks"),
    "half an end": (pair("a") + bytes(512) + b"x" * 512, 1, "does not end in two zero blocks"),
    "no tar": (b"no tar" * 999, 1, r"damaged tar \(invalid header at byte 0\); copy it again"),
}


@pytest.mark.parametrize("name", OTHER_RECORDS)
def test_a_record_that_is_not_as_in_the_manifest_is_refused(read, name):
    content, videos, message = OTHER_RECORDS[name]
    with pytest.raises(SchemaError, match=rf"demo\.tar: .*{message}"):
        read(content, videos)


@pytest.mark.parametrize(
    "path",
    [
        "../../etc/hostname", "/etc/hostname", "data/../../x.tar", "file:///etc/hostname", "http://127.0.0.1/a.tar", "",
        "s3://bucket/a.tar", "simplecache::a.tar", "data/.hidden/a.tar", "data//a.tar", "data/*.tar", "~/a.tar", "a\\b",
        "data/a.tar/", "a\nb", "a\0b", "a" * 501,
    ],
)  # fmt: skip
def test_a_manifest_names_only_what_lies_below_the_release(path):
    with pytest.raises(ValidationError):
        ReleaseFile(path=path, sha256="0" * 64, bytes=1)


@pytest.fixture
def release(tmp_path) -> Path:
    """A release with one tar. Only its length matches the manifest."""
    folder = tmp_path / "v0001"
    file = ReleaseFile(path=TAR, sha256="0" * 64, bytes=6, split="sft", videos=1, samples=2)
    made = Release(
        name="demo", version=1, run_id="run", content_sha256="0" * 64, samples={"sft": 2}, videos={"sft": 1},
        files=(file,),
    )  # fmt: skip
    (folder / TAR).parent.mkdir(parents=True)
    (folder / TAR).write_bytes(b"no tar")
    (folder / "manifest.json").write_text(made.model_dump_json())
    return folder


def change(release: Path, before: str, after: str) -> None:
    manifest = release / "manifest.json"
    assert before in manifest.read_text()
    manifest.write_text(manifest.read_text().replace(before, after))


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (TAR, "../../etc/hostname", r"field files\.0\.path: must be a path below the release's folder.* '../../etc"),
        ('"bytes":6', '"bytes":-6', r"field files\.0\.bytes"),
        ('"files":[', '"files":' + "[" * 5000, "recursion limit"),
        ('"name":"demo"', '"name":"' + "x" * (64 << 20) + '"', "more than 67108864 bytes, which is no release's"),
    ],
)  # fmt: skip
def test_a_manifest_that_leads_out_or_has_no_end_is_refused(release, before, after, message):
    change(release, before, after)
    with pytest.raises(SchemaError, match=rf"manifest\.json: .*{message}"):
        open_release(str(release))


def test_a_file_named_twice_is_refused(release):
    made = open_release(str(release))
    doubled = made.model_copy(update={"files": made.files * 2})
    (release / "manifest.json").write_text(doubled.model_dump_json())
    with pytest.raises(SchemaError, match="a path is named twice"):
        open_release(str(release))


def test_a_file_of_another_length_is_not_read(release):
    file = open_release(str(release)).files[0]
    (release / TAR).write_bytes(b"longer")
    with open_file(str(release), file) as opened:
        assert opened.read() == b"longer"
    (release / TAR).write_bytes(b"shorter or longer")
    for read in (lambda: list(read_tar(str(release), file)), lambda: read_table(str(release), file)):
        with pytest.raises(SchemaError, match=r"demo\.tar: 17 bytes, the manifest states 6; copy it again"):
            read()


def test_a_table_of_other_bytes_is_not_parsed(tmp_path):
    """Its footer may be one on which Arrow ends the process."""
    (tmp_path / "parquet").mkdir()
    (tmp_path / "parquet/sft.parquet").write_bytes(b"PAR1 damaged PAR1")
    file = ReleaseFile(path="parquet/sft.parquet", sha256="0" * 64, bytes=17, split="sft", videos=1, samples=1)
    with pytest.raises(
        SchemaError, match=r"parquet/sft\.parquet: its sha256 is \w{64}, the manifest states 0{64}; copy"
    ):
        read_table(str(tmp_path), file)


def test_links_are_followed_inside_the_release_only(release, tmp_path):
    file = open_release(str(release)).files[0]
    (release / TAR).rename(release / "real.tar")
    (release / TAR).symlink_to(release / "real.tar")
    with open_file(str(release), file) as opened:
        assert opened.read() == b"no tar"
    (release / "real.tar").rename(tmp_path / "real.tar")
    (release / "real.tar").symlink_to(tmp_path / "real.tar")
    with (
        pytest.raises(SchemaError, match=r"demo\.tar: a link to .*/real\.tar, outside of the release"),
        open_file(str(release), file),
    ):
        pass
    (release / "data").rename(tmp_path / "data")
    (release / "data").symlink_to(tmp_path / "data")
    with pytest.raises(SchemaError, match="outside of the release"), open_file(str(release), file):
        pass


@pytest.mark.parametrize("below", ["", "releases/demo/v0001"])
def test_the_cache_of_the_hub_holds_releases_of_links(release, tmp_path, below):
    cached = tmp_path / "datasets--org--demo"
    (cached / "blobs").mkdir(parents=True)
    for number, path in enumerate(each for each in release.rglob("*") if each.is_file()):
        link = cached / "snapshots" / "0123abcd" / below / path.relative_to(release)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path.rename(cached / "blobs" / str(number)))
    address = str(cached / "snapshots" / "0123abcd" / below)
    with open_file(address, open_release(address).files[0]) as opened:
        assert opened.read() == b"no tar"


def test_a_release_behind_a_link_is_a_release(release, tmp_path):
    (tmp_path / "latest").symlink_to(release)
    assert open_release(str(tmp_path / "latest")).name == "demo"


def test_a_pipe_or_folder_is_not_opened(release):
    file = open_release(str(release)).files[0]
    (release / TAR).unlink()
    os.mkfifo(release / TAR)
    with pytest.raises(SchemaError, match=r"demo\.tar: not a file"), open_file(str(release), file):
        pass
    (release / "manifest.json").unlink()
    (release / "manifest.json").mkdir()
    with pytest.raises(SchemaError, match=r"manifest\.json: not a file"):
        open_release(str(release))


def test_a_folder_without_a_release_is_refused_with_the_form_of_an_address(tmp_path):
    with pytest.raises(BadInput, match=r"no manifest\.json; a release's address ends in /releases/<name>/v<number>"):
        open_release(str(tmp_path))
