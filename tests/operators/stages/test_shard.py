import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.execution.stage import Context
from operators.stages.shard import STAGE, equal_groups
from operators.store.content_store import Store, object_path, sha256_of_file
from schemas.arrow import rows_from_parquet
from schemas.config import BuildConfig, ShardConfig
from schemas.sample import Sample
from schemas.tables import Packaging, Reject, Split
from tests.support.rows import make_packaged, make_sample, make_source, make_video

ROOT = Path(__file__).resolve().parents[3]


def make_film(path: Path, content: bytes | None = None):
    """A video row for a file with this content, or for the existing file. Nothing decodes it: any bytes will do."""
    if content is not None:
        path.write_bytes(content)
    return make_video(path.stem).model_copy(update={"uri": str(path), "sha256": sha256_of_file(path)})


def shard(tmp_path, samples, videos, packaged=None, **settings):
    """Rows of the stage, and its store. Videos are published unchanged unless `packaged` is given."""
    config = BuildConfig(source="a", out="b", name="demo", shard=ShardConfig(**settings))
    store = Store(str(tmp_path / "out"))
    scratch = tmp_path / "scratch"
    scratch.mkdir(exist_ok=True)
    context = Context(STAGE.name, "all", config, {}, {}, store, scratch)
    sources = [make_source(video.video_id, title=f"The {video.video_id}", licence="CC0") for video in videos]
    packaged = [make_packaged(video) for video in videos] if packaged is None else packaged
    return list(STAGE.run(context, samples, videos, packaged, sources)), store


def members(store, file):
    with tarfile.open(store.fetch(object_path(file.sha256, ".tar"), Path())) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}


@pytest.fixture
def films(tmp_path):
    return [make_film(tmp_path / f"film{number}.mp4", bytes([number]) * 1000) for number in range(5)]


def test_a_record_is_a_video_with_all_its_questions(tmp_path, films):
    samples = [make_sample(1, films[0]), make_sample(2, films[0])]
    [tar, table], store = shard(tmp_path, samples, films)
    assert (tar.path, tar.split, tar.videos, tar.samples) == ("data/sft/demo-sft-000000.tar", "sft", 1, 2)
    assert (table.path, table.videos, table.samples) == ("parquet/sft.parquet", 1, 2)
    content = members(store, tar)
    assert list(content) == ["film0.mp4", "film0.json"]
    assert content["film0.mp4"] == bytes([0]) * 1000
    record = json.loads(content["film0.json"])
    assert (record["title"], record["licence"]) == ("The film0", "CC0")
    assert [sample["question_id"] for sample in record["samples"]] == ["q0001", "q0002"]
    assert rows_from_parquet(store.read(object_path(table.sha256, ".parquet")), Sample, "t") == samples


def test_splits_get_folders_of_their_own_and_tars_equal_numbers(tmp_path, films):
    samples = [make_sample(number, film) for number, film in enumerate(films[:4])]
    samples.append(make_sample(9, films[4], Split.EVAL))
    files, _ = shard(tmp_path, samples, films, videos_per_tar=3)
    assert sorted((file.path, file.videos) for file in files if file.path.startswith("data")) == [
        ("data/eval/demo-eval-000000.tar", 1), ("data/sft/demo-sft-000000.tar", 2), ("data/sft/demo-sft-000001.tar", 2),
    ]  # fmt: skip


def test_the_same_samples_give_the_same_bytes(tmp_path, films):
    samples = [make_sample(number, film) for number, film in enumerate(films)]
    (tmp_path / "again").mkdir()
    assert shard(tmp_path, samples, films)[0] == shard(tmp_path / "again", samples, films[::-1])[0]


def test_without_media_a_record_is_its_text(tmp_path, films):
    nothing = {"packaging": None, "media_uri": None, "sha256": None, "size_bytes": None}
    [tar, _], store = shard(tmp_path, [make_sample(1, films[0])], films, [make_packaged(films[0], **nothing)])
    assert list(members(store, tar)) == ["film0.json"]


def test_a_packaged_video_is_published_with_its_size_and_rate(tmp_path, films):
    (tmp_path / "little.mp4").write_bytes(b"in little")
    address = Store(str(tmp_path / "out")).put_file(tmp_path / "little.mp4")
    little = {"packaging": None, "media_uri": address, "sha256": Path(address).stem, "size_bytes": None}
    packaged = [make_packaged(films[0], **little, width=64, height=36, fps=2.0)]
    [tar, _], store = shard(tmp_path, [make_sample(1, films[0])], films[:1], packaged)
    content = members(store, tar)
    record = json.loads(content["film0.json"])
    assert (content["film0.mp4"], record["width"], record["height"], record["fps"]) == (b"in little", 64, 36, 2.0)


def test_a_video_that_was_not_packaged_is_skipped_and_not_rejected_again(tmp_path, films):
    samples = [make_sample(number, film) for number, film in enumerate(films)]
    packaged = [make_packaged(film) for film in films[1:]]
    rows, store = shard(tmp_path, samples, films, packaged)
    assert [(row.videos, row.samples) for row in rows] == [(4, 4), (4, 4)]
    assert "film0.json" not in members(store, rows[0])
    assert samples[0] not in rows_from_parquet(store.read(object_path(rows[1].sha256, ".parquet")), Sample, "t")


def test_a_stored_file_that_is_damaged_or_missing_is_a_reject_that_names_the_fix(tmp_path, films):
    store = Store(str(tmp_path / "out"))
    packaged = []
    for film in films:
        address = store.put_file(Path(film.uri))
        packaged.append(make_packaged(film, packaging=Packaging.COPY, media_uri=address))
    (tmp_path / "out" / packaged[0].media_uri).write_bytes(b"other")
    (tmp_path / "out" / packaged[1].media_uri).unlink()
    rows, _ = shard(tmp_path, [make_sample(number, film) for number, film in enumerate(films)], films, packaged)
    rejects = {row.key: row for row in rows if isinstance(row, Reject)}
    assert {key: reject.reason for key, reject in rejects.items()} == {"film0": "system_error", "film1": "system_error"}
    assert "is damaged, its bytes do not match its name" in rejects["film0"].message
    assert f"{packaged[1].media_uri} is gone from {store.url}" in rejects["film1"].message
    fix = "or delete it and the folder commits/package of the store: the next run makes it again"
    assert all(reject.message.endswith(f"restore it and run again, {fix}") for reject in rejects.values())


def test_no_decoder_is_opened(tmp_path):
    """A file that crashes decoders must not crash a stage that only copies it."""
    code = "import sys, operators.stages.shard; print([n for n in sys.modules if n == 'av' or 'operators.video' in n])"
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ended.stdout == "[]\n"


def test_a_video_that_has_changed_or_gone_is_a_reject_and_leaves_no_trace(tmp_path, films):
    Path(films[0].uri).write_bytes(b"other")
    Path(films[1].uri).unlink()
    rows, _ = shard(tmp_path, [make_sample(number, film) for number, film in enumerate(films)], films)
    rejects = {row.key: row for row in rows if isinstance(row, Reject)}
    assert rejects.keys() == {"film0", "film1"}
    assert "has changed since it was ingested" in rejects["film0"].message
    assert all(reject.is_temporary for reject in rejects.values())
    assert {(row.videos, row.samples) for row in rows if not isinstance(row, Reject)} == {(3, 3)}


@given(st.integers(1, 500), st.integers(1, 60))
def test_groups_are_few_equal_and_in_order(count, at_most):
    groups = equal_groups(range(count), at_most)
    assert [item for group in groups for item in group] == list(range(count))
    sizes = {len(group) for group in groups}
    assert max(sizes) <= at_most and max(sizes) - min(sizes) <= 1
    assert len(groups) == -(-count // at_most)
