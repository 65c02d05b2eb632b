"""Validation of releases: a good one passes, and each kind of damage is found and named."""

import io
import json
import random
import shutil
import socket
import tarfile

import pytest
import yaml

from operators.release.readers import loading_metadata
from operators.release.validate import _check_card, _read_tar, validate_release
from operators.store.content_store import sha256_of_file
from schemas.arrow import rows_from_parquet, rows_to_parquet
from schemas.base import digest
from schemas.errors import BadInput, SchemaError
from schemas.run import Release
from schemas.sample import Sample
from tests.support.videos import make, two_pictures


@pytest.fixture
def copy(release, tmp_path):
    return shutil.copytree(release, tmp_path / "v0001")


def manifest_of(root):
    return Release.model_validate_json((root / "manifest.json").read_bytes())


def first(root, suffix):
    return next(file for file in manifest_of(root).files if file.path.endswith(suffix))


def update_manifest(root, file):
    """Update the manifest to a file's new bytes, so that only the file's content can be wrong."""
    manifest = json.loads((root / "manifest.json").read_text())
    path = root / file.path
    for entry in manifest["files"]:
        if entry["path"] == file.path:
            entry.update(sha256=sha256_of_file(path), bytes=path.stat().st_size)
    manifest["content_sha256"] = digest([[entry["path"], entry["sha256"]] for entry in manifest["files"]])
    (root / "manifest.json").write_text(json.dumps(manifest))


def rewrite(root, change):
    """Rewrite the first tar with `change` applied to its members (name, bytes).

    Updates the manifest. Returns the tar's path in the release.
    """
    file = first(root, ".tar")
    with tarfile.open(root / file.path) as tar:
        members = [(member.name, tar.extractfile(member).read()) for member in tar]
    with tarfile.open(root / file.path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in change(members):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    update_manifest(root, file)
    return file.path


def assert_refused(root, message):
    with pytest.raises(BadInput, match=message):
        validate_release(str(root))


def files(root):
    return {path.relative_to(root): path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}


def test_a_good_release_gives_its_counts_by_reader_and_stays_as_it_is(release):
    manifest, before = manifest_of(release), files(release)
    videos, samples = sum(manifest.videos.values()), sum(manifest.samples.values())
    counts = validate_release(str(release))
    assert files(release) == before
    assert counts.pop("files") == len(manifest.files)
    assert counts.pop("parquet") == counts.pop("datasets") == counts.pop("datasets streaming") == samples
    assert set(counts) >= {"webdataset", "datasets webdataset", "datasets webdataset streaming"}
    assert set(counts.values()) == {videos}


def test_a_release_on_s3(release, s3_bucket):
    import fsspec

    fs, path = fsspec.core.url_to_fs(s3_bucket)
    fs.put(str(release) + "/", path + "/releases/synthetic/v0001/", recursive=True)
    counts = validate_release(f"{s3_bucket}/releases/synthetic/v0001")
    assert counts["webdataset"] == sum(manifest_of(release).videos.values())


def test_not_a_release(tmp_path):
    assert_refused(tmp_path, r"no manifest\.json")


def test_a_missing_file(copy):
    (copy / first(copy, ".parquet").path).unlink()
    assert_refused(copy, "no such file, though the manifest names it")


def test_a_tar_with_one_changed_byte_is_refused(copy):
    path = copy / first(copy, ".tar").path
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert_refused(copy, "its sha256 is")


def test_a_shortened_file(copy):
    path = copy / first(copy, ".tar").path
    path.write_bytes(path.read_bytes()[:-512])
    assert_refused(copy, r"bytes, the manifest states")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda members: members[1:], "records have different members"),
        (lambda members: [(members[0][0], b"no video"), *members[1:]], "does not decode at both ends"),
    ],
)
def test_a_spoilt_tar(copy, change, message):
    path = rewrite(copy, change)
    assert_refused(copy, f"{path}: .*{message}")


def test_a_video_of_another_size_than_in_its_record_is_refused(copy, tmp_path):
    other = two_pictures(tmp_path / "other.mp4").read_bytes()
    path = rewrite(copy, lambda members: [(members[0][0], other), *members[1:]])
    assert_refused(copy, f"{path}: .*shows 160x64, .*json says 64x64; the questions are about another picture")


def test_a_member_with_a_time(copy):
    file = first(copy, ".tar")
    data = bytearray((copy / file.path).read_bytes())
    data[136:147] = b"00000000001"
    data[148:156] = b"        "
    data[148:154] = f"{sum(data[:512]):06o}".encode()
    data[154:156] = b"\0 "
    (copy / file.path).write_bytes(data)
    update_manifest(copy, file)
    assert_refused(copy, "has a time or an owner")


def test_a_table_that_lacks_a_sample(copy):
    file = first(copy, ".parquet")
    rows = rows_from_parquet((copy / file.path).read_bytes(), Sample, file.path)
    (copy / file.path).write_bytes(rows_to_parquet([*rows[1:], rows[-1]], Sample))
    update_manifest(copy, file)
    assert_refused(copy, f"{rows[0].question_id}")


def test_totals_that_do_not_add_up(copy):
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["samples"] = {split: count + 1 for split, count in manifest["samples"].items()}
    (copy / "manifest.json").write_text(json.dumps(manifest))
    assert_refused(copy, "manifest.json states samples")


OTHER_CARDS = {
    "another file": ("path: parquet/rl.parquet", "path: parquet/sft.parquet"),
    "an address": ("path: parquet/rl.parquet", "path: http://127.0.0.1:9/rl.parquet"),
    "a file of the machine": ("path: parquet/rl.parquet", "path: /etc/hostname"),
    "a pattern that leads out": ("path: parquet/rl.parquet", "path: ../../**"),
    "videos opened from paths": ("dtype: string\n  - name: answer", "dtype: video\n  - name: answer"),
    "YAML that grows": (
        "pretty_name: synthetic",
        "a0: &a0 [1]\n" + "\n".join(f"a{n + 1}: &a{n + 1} [*a{n}, *a{n}]" for n in range(30)),
    ),
    "YAML without end": ("pretty_name: synthetic", "a: " + "[" * 20_000),
    "no YAML": ("---\n", "***\n"),
}


@pytest.mark.parametrize("name", OTHER_CARDS)
def test_a_card_that_has_datasets_load_anything_else(copy, name):
    before, after = OTHER_CARDS[name]
    text = (copy / "README.md").read_text()
    assert before in text
    (copy / "README.md").write_text(text.replace(before, after))
    with pytest.raises(SchemaError, match=r"README\.md: "):
        _check_card(copy, loading_metadata(["eval", "sft", "rl"], with_media=True))


def test_a_card_is_read_before_datasets_gets_the_folder(copy):
    card = (copy / "README.md").read_text()
    (copy / "README.md").write_text(card.replace("path: parquet/rl.parquet", "path: http://127.0.0.1:9/rl.parquet"))
    assert_refused(
        copy, r"README\.md: configs says .* so `datasets` would load something other than the files of manifest"
    )


@pytest.mark.parametrize("name", [".huggingface.yaml", "dataset_infos.json", "data/rl/more.tar"])
def test_a_file_that_loaders_read_but_the_manifest_does_not_name_is_refused(copy, name):
    (copy / name).write_text("{}")
    assert_refused(copy, f"{name}: loaders read it, but manifest.json does not name it; remove it")


def test_a_link_out_of_the_release_is_not_followed(copy):
    file = first(copy, ".parquet")
    elsewhere = (copy / file.path).rename(copy.parent / "elsewhere.parquet")
    (copy / file.path).symlink_to(elsewhere)
    assert_refused(copy, f"{file.path}: a link to {elsewhere}, outside of the release; copy the release with what")


NO_MP4 = {
    "a stream description": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {port} RTP/AVP 96\n"
    "a=rtpmap:96 H264/90000\n",
    "a playlist": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nhttp://127.0.0.1:{port}/a.ts\n#EXT-X-ENDLIST\n",
    "a script": "ffconcat version 1.0\nfile http://127.0.0.1:{port}/a.mp4\n",
}


@pytest.mark.parametrize("name", NO_MP4)
def test_a_file_named_mp4_is_opened_as_mp4_only_and_opens_no_connection(copy, name):
    """The file refers to a listening socket, which must receive no connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        text = NO_MP4[name].format(port=server.getsockname()[1]).encode()
        path = rewrite(copy, lambda members: [(members[0][0], text), *members[1:]])
        with pytest.raises(SchemaError, match=rf"{path}: .* does not decode at both ends as MP4"):
            _read_tar(copy, first(copy, ".tar"))
        with pytest.raises(TimeoutError):
            server.accept()


def test_another_container_named_mp4_is_no_mp4(copy, tmp_path):
    def as_matroska(members):
        (tmp_path / "a.mp4").write_bytes(members[0][1])
        make(tmp_path / "a.mkv", "-i", str(tmp_path / "a.mp4"), "-c", "copy")
        return [(members[0][0], (tmp_path / "a.mkv").read_bytes()), *members[1:]]

    path = rewrite(copy, as_matroska)
    with pytest.raises(SchemaError, match=rf"{path}: .* does not decode at both ends as MP4"):
        _read_tar(copy, first(copy, ".tar"))


def test_videos_are_decoded_in_a_child_whose_end_is_reported(copy, monkeypatch):
    """A time limit of 0 s ends the child here. The same watchdog limits memory (see `test_isolate`)."""
    monkeypatch.setattr("operators.release.validate._SECONDS_PER_VIDEO", 0.0)
    assert_refused(copy, r"data/\w+/.*\.tar: no result within 0 s")


# --- flipped bits -----------------------------------------------------------------------------------------------------
#
# manifest.json has the sha256 of every tar and table, but not of README.md and report.html. People may edit the card:
# only its front matter is compared, because `datasets` loads the release by it. The report is only for reading. In the
# manifest itself, `name`, `version` and `run_id` are labels that no other file in the folder repeats.


def flip(data: bytes, bit: int) -> bytes:
    flipped = bytearray(data)
    flipped[bit // 8] ^= 1 << bit % 8
    return bytes(flipped)


def test_no_changed_bit_of_a_tar_or_a_table_is_valid(copy):
    draw = random.Random(0)
    for file in manifest_of(copy).files:
        path = copy / file.path
        data = path.read_bytes()
        for bit in (0, len(data) * 8 - 1, *(draw.randrange(len(data) * 8) for _ in range(4))):
            path.write_bytes(flip(data, bit))
            assert_refused(copy, f"{file.path}: its sha256 is")
        path.write_bytes(data)


def test_no_changed_bit_of_the_manifest_is_valid_but_in_a_label(copy):
    path = copy / "manifest.json"
    data, manifest = path.read_bytes(), manifest_of(copy)
    labels = {name: getattr(manifest, name) for name in ("name", "version", "run_id")}
    draw = random.Random(0)
    for _ in range(60):
        path.write_bytes(flip(data, draw.randrange(len(data) * 8)))
        try:
            is_same = manifest_of(copy).model_copy(update=labels) == manifest
        except ValueError:
            is_same = False
        if not is_same:
            assert_refused(copy, "manifest")


def test_a_changed_count_in_the_manifest_is_not_valid(copy):
    path = copy / "manifest.json"
    text = path.read_text()
    changed = [text.replace(f'"{name}": ', f'"{name}": 1', 1) for name in ("bytes", "videos", "samples")]
    assert text not in changed
    for each in changed:
        path.write_text(each)
        assert_refused(copy, "manifest")


def test_a_changed_bit_of_the_card_is_not_valid_where_datasets_reads_it(release, tmp_path):
    data = (release / "README.md").read_bytes()
    head = data.index(b"\n---\n")
    metadata = loading_metadata(list(manifest_of(release).samples), with_media=True)
    _check_card(release, metadata)
    card = tmp_path / "README.md"
    draw = random.Random(0)
    for _ in range(60):
        card.write_bytes(flipped := flip(data, draw.randrange(head * 8)))
        try:
            stated = yaml.safe_load(flipped[4 : flipped.index(b"\n---\n")].decode())
            is_same = {name: stated.get(name) for name in metadata} == metadata
        except (ValueError, AttributeError, yaml.YAMLError):
            is_same = False
        if is_same:
            _check_card(tmp_path, metadata)
        else:
            with pytest.raises(SchemaError, match=r"^README\.md: "):
                _check_card(tmp_path, metadata)
