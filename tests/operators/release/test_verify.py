"""A good release passes; each way to spoil one is found and named."""

import io
import json
import shutil
import tarfile

import pytest

from operators.release.verify import ReleaseInvalid, verify_release
from operators.store import sha256_of_file
from schemas.arrow import rows_from_parquet, rows_to_parquet
from schemas.run import Release
from schemas.sample import Sample
from tests.support.videos import two_pictures


@pytest.fixture
def copy(release, tmp_path):
    return shutil.copytree(release, tmp_path / "v0001")


def manifest_of(root):
    return Release.model_validate_json((root / "manifest.json").read_bytes())


def first(root, suffix):
    return next(file for file in manifest_of(root).files if file.path.endswith(suffix))


def agree(root, file):
    """Let the manifest name a file's new bytes, so that only what is inside can be wrong."""
    manifest = json.loads((root / "manifest.json").read_text())
    path = root / file.path
    for entry in manifest["files"]:
        if entry["path"] == file.path:
            entry.update(sha256=sha256_of_file(path), bytes=path.stat().st_size)
    (root / "manifest.json").write_text(json.dumps(manifest))


def rewrite(root, change):
    """Write the first tar again, its members (name, bytes) changed; returns its path in the release."""
    file = first(root, ".tar")
    with tarfile.open(root / file.path) as tar:
        members = [(member.name, tar.extractfile(member).read()) for member in tar]
    with tarfile.open(root / file.path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in change(members):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    agree(root, file)
    return file.path


def refuses(root, message):
    with pytest.raises(ReleaseInvalid, match=message):
        verify_release(str(root))


def files(root):
    return {path.relative_to(root): path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}


def test_a_good_release_gives_its_counts_by_reader_and_stays_as_it_is(release):
    manifest, before = manifest_of(release), files(release)
    videos, samples = sum(manifest.videos.values()), sum(manifest.samples.values())
    counts = verify_release(str(release))
    assert files(release) == before
    assert counts.pop("files") == len(manifest.files)
    assert counts.pop("parquet") == counts.pop("datasets") == counts.pop("datasets streaming") == samples
    assert set(counts) >= {"webdataset", "datasets webdataset", "datasets webdataset streaming"}
    assert set(counts.values()) == {videos}


def test_a_release_on_s3(release, s3_bucket):
    import fsspec

    fs, path = fsspec.core.url_to_fs(s3_bucket)
    fs.put(str(release) + "/", path + "/releases/synthetic/v0001/", recursive=True)
    counts = verify_release(f"{s3_bucket}/releases/synthetic/v0001")
    assert counts["webdataset"] == sum(manifest_of(release).videos.values())


def test_not_a_release(tmp_path):
    refuses(tmp_path, r"no manifest\.json")


def test_a_missing_file(copy):
    (copy / first(copy, ".parquet").path).unlink()
    refuses(copy, "named in manifest.json, but not there")


def test_one_changed_byte(copy):
    path = copy / first(copy, ".tar").path
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    refuses(copy, "its sha256 is")


def test_a_shortened_file(copy):
    path = copy / first(copy, ".tar").path
    path.write_bytes(path.read_bytes()[:-512])
    refuses(copy, r"bytes, manifest\.json says")


def test_a_tar_without_its_end(copy):
    file = first(copy, ".tar")
    data = (copy / file.path).read_bytes().rstrip(b"\0")
    (copy / file.path).write_bytes(data + b"\0" * (-len(data) % 512))
    agree(copy, file)
    refuses(copy, "two zero blocks")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda members: members[2:], "records with"),
        (lambda members: [*members, *members[:2]], "comes a second time"),
        (lambda members: [members[0], *members[2:]], r"has no \.json member"),
        (lambda members: members[1:], "records have different members"),
        (lambda members: [("a.b.c.json", members[1][1]), *members], "not a plain file named key.suffix"),
        (lambda members: [(members[0][0].upper(), members[0][1]), *members[1:]], "not a plain file named key.suffix"),
        (lambda members: [members[0], (members[1][0], b"{}"), *members[2:]], "does not fit its schema"),
        (lambda members: [members[0], (members[1][0], members[3][1]), *members[2:]], "mixes videos or splits"),
        (lambda members: [(members[0][0], b"no video"), *members[1:]], "does not decode at both ends"),
        (lambda members: [members[0], *members], "comes twice"),
    ],
)
def test_a_spoilt_tar(copy, change, message):
    path = rewrite(copy, change)
    refuses(copy, f"{path}: .*{message}")


def test_a_video_of_another_size_than_its_record_says(copy, tmp_path):
    other = two_pictures(tmp_path / "other.mp4").read_bytes()
    path = rewrite(copy, lambda members: [(members[0][0], other), *members[1:]])
    refuses(copy, f"{path}: .*shows 160x64, .*json says 64x64; it is not the picture that was asked about")


def test_a_member_with_a_time(copy):
    file = first(copy, ".tar")
    data = bytearray((copy / file.path).read_bytes())
    data[136:147] = b"00000000001"
    data[148:156] = b"        "
    data[148:154] = f"{sum(data[:512]):06o}".encode()
    data[154:156] = b"\0 "
    (copy / file.path).write_bytes(data)
    agree(copy, file)
    refuses(copy, "has a time or an owner")


def test_a_table_that_lacks_a_sample(copy):
    file = first(copy, ".parquet")
    rows = rows_from_parquet((copy / file.path).read_bytes(), Sample, file.path)
    (copy / file.path).write_bytes(rows_to_parquet(rows[1:], Sample))
    agree(copy, file)
    refuses(copy, f"{rows[0].question_id}")


def test_totals_that_do_not_add_up(copy):
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["samples"] = {split: count + 1 for split, count in manifest["samples"].items()}
    (copy / "manifest.json").write_text(json.dumps(manifest))
    refuses(copy, "manifest.json says samples")


def test_a_card_that_hides_a_split_from_datasets(copy):
    card = (copy / "README.md").read_text()
    (copy / "README.md").write_text(card.replace("path: parquet/rl.parquet", "path: parquet/sft.parquet"))
    refuses(copy, "datasets, split rl: finds")
