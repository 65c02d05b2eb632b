from pathlib import Path

import pytest

from schemas.config import Media
from schemas.errors import BadInput, SchemaError
from schemas.tables import Split, Video
from tests.support.rows import make_sample
from tests.trainer_plugin.support import film_row, release_of, write_release
from trainer_plugin.data.release import index_videos, open_release, read_samples, read_videos


def film_of(path: Path, content: bytes) -> Video:
    """Video row of a file with the given bytes; no test here decodes it."""
    path.write_bytes(content)
    return film_row(path)


@pytest.fixture
def release(tmp_path):
    """Address and samples of a release of five videos with two questions each, in two tars that hold the media."""
    films = [film_of(tmp_path / f"film{number}.mp4", bytes([number]) * 1000) for number in range(5)]
    samples = [make_sample(2 * number + turn, film) for number, film in enumerate(films) for turn in (0, 1)]
    return write_release(tmp_path / "release", films, samples, videos_per_tar=3), samples


def test_read_samples_returns_every_sample_unchanged(release):
    url, samples = release
    assert sorted(read_samples(url, Split.SFT), key=lambda sample: sample.question_id) == samples


def test_videos_come_with_their_own_samples_and_bytes(release):
    url, _ = release
    found = list(read_videos(url, Split.SFT))
    assert [sample for item in found for sample in item.record.samples] == read_samples(url, Split.SFT)
    for item in found:
        number = int(item.record.video_id.removeprefix("film"))
        assert item.video == bytes([number]) * 1000
        assert {sample.video_id for sample in item.record.samples} == {item.record.video_id}


def test_parts_cover_every_video_once(release):
    url, _ = release
    names_of_parts = [
        [item.record.video_id for item in read_videos(url, Split.SFT, part=part, parts=3)] for part in range(3)
    ]
    assert sorted(map(len, names_of_parts)) == [1, 2, 2]
    assert sorted(name for names in names_of_parts for name in names) == [f"film{number}" for number in range(5)]


def test_the_index_gives_the_byte_range_of_each_video(release):
    url, _ = release
    indexed = index_videos(url, Split.SFT)
    assert [video.record for video in indexed] == [video.record for video in read_videos(url, Split.SFT)]
    for video in indexed:
        with Path(video.source.url).open("rb") as tar:
            tar.seek(video.source.offset)
            number = int(video.source.key.removeprefix("film"))
            assert tar.read(video.source.size) == bytes([number]) * 1000
        assert video.source.sha256 == video.record.sha256


def test_the_index_of_a_release_on_s3(release, s3_bucket):
    import s3fs

    url, _ = release
    s3fs.S3FileSystem().put(url, f"{s3_bucket}/demo", recursive=True)
    local, remote = index_videos(url, Split.SFT), index_videos(f"{s3_bucket}/demo/", Split.SFT)
    assert [video.record for video in remote] == [video.record for video in local]
    assert [(video.source.offset, video.source.size) for video in remote] == [
        (video.source.offset, video.source.size) for video in local
    ]
    assert all(video.source.url.startswith(s3_bucket) for video in remote)
    assert read_samples(f"{s3_bucket}/demo/", Split.SFT) == read_samples(url, Split.SFT)
    assert len(list(read_videos(f"{s3_bucket}/demo/", Split.SFT))) == len(local)


def test_videos_of_a_release_without_media_are_read_from_the_media_folder(release, tmp_path):
    (tmp_path / "without").mkdir()
    film = film_of(tmp_path / "film.mp4", b"film")
    url = release_of(tmp_path / "without", [film], media=Media.NONE)
    [video] = index_videos(url, Split.SFT, media=str(tmp_path))
    assert Path(video.source.url).read_bytes() == b"film"
    assert video.source.sha256 == film.sha256
    with pytest.raises(BadInput, match=r"holds no videos; set media to their folder or URL"):
        index_videos(url, Split.SFT)
    with pytest.raises(BadInput, match="it holds its videos, but /other was given"):
        index_videos(release[0], Split.SFT, media="/other")


def test_a_missing_split_or_manifest_is_an_error_that_names_it(release, tmp_path):
    url, _ = release
    with pytest.raises(BadInput, match=r"no split .*eval.*it has \['sft'\]"):
        read_samples(url, Split.EVAL)
    with pytest.raises(BadInput, match=r"no manifest\.json; a release's address ends in"):
        open_release(str(tmp_path))
    (Path(url) / "manifest.json").write_text("{}")
    with pytest.raises(SchemaError, match="not a release manifest"):
        open_release(url)


def test_a_shortened_tar_is_an_error_not_a_short_epoch(release):
    url, _ = release
    tar = sorted(Path(url).glob("data/sft/*.tar"))[0]
    whole = tar.read_bytes()
    tar.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SchemaError, match=tar.name):
        list(read_videos(url, Split.SFT))
    with pytest.raises(SchemaError, match=tar.name):
        index_videos(url, Split.SFT)


@pytest.mark.parametrize("read", [lambda *arguments: list(read_videos(*arguments)), index_videos, read_samples])
def test_a_file_of_another_length_or_none_is_an_error_that_names_it(release, read):
    url, _ = release
    folder = "parquet" if read is read_samples else "data"
    file = sorted(Path(url).rglob(f"{folder}/**/*.*"))[0]
    file.write_bytes(file.read_bytes() + bytes(512))
    with pytest.raises(SchemaError, match=rf"{file.name}: \d+ bytes, the manifest states {file.stat().st_size - 512}"):
        read(url, Split.SFT)
    file.unlink()
    with pytest.raises(SchemaError, match=f"{file.name}: no such file, though the manifest names it"):
        read(url, Split.SFT)


def test_a_tar_of_as_many_bytes_but_other_records_is_an_error(release):
    url, _ = release
    tar = sorted(Path(url).glob("data/sft/*.tar"))[0]
    tar.write_bytes(bytes(tar.stat().st_size))
    for read in (index_videos, lambda *arguments: list(read_videos(*arguments))):
        with pytest.raises(SchemaError, match=f"{tar.name}: 0 records with 0 samples, the manifest states 3 with 6"):
            read(url, Split.SFT)
