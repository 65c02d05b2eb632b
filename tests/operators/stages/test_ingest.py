import hashlib

import pytest

from operators.stage import Context
from operators.stages.ingest import STAGE, run
from operators.store import Store
from schemas.config import BuildConfig
from schemas.tables import Reject, Source, Split, Video, VideoCategory
from tests.support.videos import counting_video, make, shots_video


@pytest.fixture
def context(tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    config = BuildConfig(source=str(tmp_path), out=str(tmp_path / "out"))
    return Context("ingest", "unit", config, {}, {}, Store(str(tmp_path / "out")), scratch)


def source(path, **fields):
    return Source(source_id=path.stem, uri=str(path), fingerprint="1", **fields)


def bits_apart(one: Video, other: Video) -> int:
    return (int(one.perceptual_hash, 16) ^ int(other.perceptual_hash, 16)).bit_count()


def test_a_source_becomes_a_video_with_all_that_was_known_of_it(tmp_path, context):
    path = counting_video(tmp_path / "film.mp4", beep_at=0)
    known = {
        "title": "A film",
        "category": VideoCategory.FILM,
        "licence": "CC0",
        "origin": "here",
        "split_hint": Split.RL,
    }
    (video,) = run(context, [source(path, **known)])
    assert isinstance(video, STAGE.row)
    assert video.video_id == "film"
    assert video.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (video.size_bytes, video.duration_us, video.frame_count) == (path.stat().st_size, 4_000_000, 120)
    assert {name: getattr(video, name) for name in known} == known
    assert list(run(context, [source(path, **known)])) == [video]


def test_the_perceptual_hash_tells_an_encoding_from_another_video(tmp_path, context):
    original = shots_video(tmp_path / "original.mp4", [1, 1, 1])
    smaller = make(tmp_path / "smaller.webm", "-i", str(original), "-s", "160x90", "-c:v", "libvpx", "-b:v", "200k")
    other = make(tmp_path / "other.mp4", "-f", "lavfi", "-i", "life=s=320x180:mold=10:seed=1:r=30", "-t", "3")
    first, second, third = run(context, [source(path) for path in (original, smaller, other)])
    assert len(first.perceptual_hash) == 128
    assert first.sha256 != second.sha256
    near_duplicate = context.config.assemble.near_duplicate_bits
    assert bits_apart(first, second) <= near_duplicate
    assert bits_apart(first, third) > 3 * near_duplicate


def test_each_unreadable_file_is_a_reject_beside_the_others(tmp_path, context):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("no video at all")
    good = counting_video(tmp_path / "good.mp4", seconds=1)
    paths = [tmp_path / "empty.mp4", good, tmp_path / "text.mp4"]
    produced = list(run(context, [source(path) for path in paths]))
    rejects = {row.key: row.reason for row in produced if isinstance(row, Reject)}
    assert rejects == {"empty": "empty_file", "text": "not_a_video"}
    assert [row.video_id for row in produced if isinstance(row, Video)] == ["good"]


def test_a_remote_source_is_fetched(tmp_path, context, s3_bucket):
    import fsspec

    path = counting_video(tmp_path / "film.mp4", seconds=1)
    filesystem, root = fsspec.core.url_to_fs(s3_bucket)
    filesystem.put_file(str(path), f"{root}/film.mp4")
    remote = Source(source_id="film", uri=f"{s3_bucket}/film.mp4", fingerprint="1")
    (video,) = run(context, [remote])
    assert (video.uri, video.sha256) == (remote.uri, hashlib.sha256(path.read_bytes()).hexdigest())
