import json
import tarfile
from pathlib import Path

import av
import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.stage import Context
from operators.stages import ingest
from operators.stages.shard import STAGE, equal_groups
from operators.store import Store, object_path, sha256_of_file
from operators.video.frames import frames_at
from operators.video.packets import UnreadableVideo
from operators.video.probe import probe
from schemas.arrow import rows_from_parquet
from schemas.config import BuildConfig, Media, ShardConfig
from schemas.sample import Sample
from schemas.tables import Packaging, Reject, Source, Split
from tests.support.rows import make_sample, make_source, make_video
from tests.support.videos import broadcast, counting_video, number_on, two_pictures


def make_film(path: Path, content: bytes | None = None):
    """A video row whose file holds these bytes (an MP4 as far as anyone looks), or is what is there."""
    if content is not None:
        path.write_bytes(content)
    return make_video(path.stem).model_copy(update={"uri": str(path), "sha256": sha256_of_file(path)})


def shard(tmp_path, samples, videos, **settings):
    """The stage's rows, and its store."""
    config = BuildConfig(source="a", out="b", name="demo", shard=ShardConfig(**settings))
    store = Store(str(tmp_path / "out"))
    scratch = tmp_path / "scratch"
    scratch.mkdir(exist_ok=True)
    context = Context(STAGE.name, "all", config, {}, {}, store, scratch)
    sources = [make_source(video.video_id, title=f"The {video.video_id}", licence="CC0") for video in videos]
    return list(STAGE.run(context, samples, videos, sources)), store


def members(store, file):
    with tarfile.open(store.fetch(object_path(file.sha256, ".tar"), Path())) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}


@pytest.fixture
def films(tmp_path):
    return [make_film(tmp_path / f"film{number}.mp4", bytes([number]) * 1000) for number in range(5)]


def test_a_record_is_a_video_with_everything_asked_about_it(tmp_path, films):
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
    [tar, _], store = shard(tmp_path, [make_sample(1, films[0])], films, media=Media.NONE)
    assert list(members(store, tar)) == ["film0.json"]


def test_proxies_are_published_small_and_on_the_sources_times(tmp_path):
    """Read with the trainer's reader: at each time it shows what the source shows then, to half a second."""
    pytest.importorskip("torch")
    from trainer_plugin.examples import VideoSource
    from trainer_plugin.frames import read_frames

    path = counting_video(tmp_path / "film.mp4", "-vf", "scale=1280:512:flags=neighbor", seconds=6)
    config = BuildConfig(source=str(tmp_path), out=str(tmp_path / "out"))
    context = Context("ingest", "film", config, {}, {}, Store(str(tmp_path / "out")), tmp_path)
    (film,) = ingest.run(context, [Source(source_id="film", uri=str(path), fingerprint="1")])
    [tar, _], store = shard(tmp_path, [make_sample(1, film)], [film], media=Media.PROXY)
    content = members(store, tar)
    record = json.loads(content["film.json"])
    assert (record["width"], record["height"], record["fps"], record["duration_us"]) == (640, 256, 2.0, 6_000_000)
    (tmp_path / "published.mp4").write_bytes(content["film.mp4"])
    published = VideoSource("film", str(tmp_path / "published.mp4"))
    measured = probe(tmp_path / "published.mp4")
    assert (measured.width, measured.height, measured.duration_us) == (640, 256, 6_000_000)
    assert measured.index.frame_times_us.tolist() == [500_000 * number for number in range(12)]
    times_us = [0, 499_999, 500_000, 3_100_000, 5_999_999]
    shown = [number_on(frame) for frame in read_frames(published, times_us, (64, 160))]
    assert shown == [0, 0, 15, 90, 165]


def test_another_container_becomes_mp4_with_its_streams_untouched(tmp_path):
    film = ingested(tmp_path, counting_video(tmp_path / "film.mkv", seconds=1))
    [tar, _], store = shard(tmp_path, [make_sample(1, film)], [film])
    (tmp_path / "out.mp4").write_bytes(members(store, tar)["film.mp4"])
    assert (probe(tmp_path / "out.mp4").frame_count, probe(tmp_path / "out.mp4").codec) == (30, "h264")


def ingested(tmp_path, path):
    """The video row of a file."""
    config = BuildConfig(source=str(tmp_path), out=str(tmp_path / "out"))
    context = Context("ingest", "film", config, {}, {}, Store(str(tmp_path / "out")), tmp_path)
    [film] = ingest.run(context, [Source(source_id="film", uri=str(path), fingerprint="1")])
    return film


def published(tmp_path, path):
    """The MP4 that is published of a file."""
    film = ingested(tmp_path, path)
    [tar, _], store = shard(tmp_path, [make_sample(1, film)], [film])
    target = tmp_path / "published.mp4"
    target.write_bytes(members(store, tar)["film.mp4"])
    return target


@pytest.mark.parametrize(
    "path, languages",
    [("film.ts", ["fin", "eng"]), ("film.mp4", ["und"])],
    ids=["of two programmes", "of two pictures"],
)
def test_the_picture_that_was_watched_is_published_with_all_its_sound(tmp_path, path, languages):
    make = broadcast if path.endswith(".ts") else two_pictures
    options = () if path.endswith(".ts") else ("-disposition:v:0", "default", "-disposition:v:1", "0")
    media = probe(published(tmp_path, make(tmp_path / path, *options)))
    times_us = media.index.frame_times_us.tolist()
    assert [number_on(frame.rgb) for frame in frames_at(media.path, times_us)] == list(range(60))
    assert (media.width, media.height, media.other_pictures) == (160, 64, 0)
    assert [track.language for track in media.audio_tracks] == languages


@pytest.mark.parametrize("inside", ["ts", "mkv", "webm"])
def test_what_is_named_mp4_and_is_none_becomes_one(tmp_path, inside):
    codec = ("-c:v", "libvpx", "-c:a", "libvorbis") if inside == "webm" else ()
    path = counting_video(tmp_path / f"film.{inside}", *codec, seconds=1, beep_at=0).rename(tmp_path / "film.mp4")
    media = published(tmp_path, path)
    with av.open(str(media)) as container:
        assert container.format.name.startswith("mov")
    times_us = probe(media).index.frame_times_us.tolist()
    assert [number_on(frame.rgb) for frame in frames_at(media, times_us)] == list(range(30))


def test_an_mp4_under_another_name_is_published_byte_for_byte(tmp_path):
    path = counting_video(tmp_path / "film.mp4", seconds=1).rename(tmp_path / "film.mkv")
    assert published(tmp_path, path).read_bytes() == path.read_bytes()


def test_an_mp4_of_one_picture_is_published_byte_for_byte(tmp_path):
    path = counting_video(tmp_path / "film.mp4", seconds=1, beep_at=0)
    assert published(tmp_path, path).read_bytes() == path.read_bytes()


def test_a_video_that_has_changed_or_gone_is_a_reject_and_leaves_no_trace(tmp_path, films):
    Path(films[0].uri).write_bytes(b"other")
    Path(films[1].uri).unlink()
    rows, _ = shard(tmp_path, [make_sample(number, film) for number, film in enumerate(films)], films)
    rejects = {row.key: row for row in rows if isinstance(row, Reject)}
    assert rejects.keys() == {"film0", "film1"}
    assert "has changed since it was ingested" in rejects["film0"].message
    assert all(reject.is_temporary for reject in rejects.values())
    assert {(row.videos, row.samples) for row in rows if not isinstance(row, Reject)} == {(3, 3)}


def test_an_unreadable_container_is_a_reject(tmp_path):
    film = make_film(tmp_path / "film.webm", b"not a video").model_copy(update={"packaging": Packaging.COPY})
    with pytest.raises(UnreadableVideo):
        probe(Path(film.uri))
    [reject], _ = shard(tmp_path, [make_sample(1, film)], [film])
    assert (reject.key, reject.reason) == ("film", "media_unavailable")


@given(st.integers(1, 500), st.integers(1, 60))
def test_groups_are_few_equal_and_in_order(count, at_most):
    groups = equal_groups(range(count), at_most)
    assert [item for group in groups for item in group] == list(range(count))
    sizes = {len(group) for group in groups}
    assert max(sizes) <= at_most and max(sizes) - min(sizes) <= 1
    assert len(groups) == -(-count // at_most)
