import hashlib
from dataclasses import replace

import av
import pytest

from operators.execution.stage import Context
from operators.stages.ingest import STAGE, run
from operators.store.content_store import Store
from operators.video.analysis.analysis_file import read_analysis
from operators.video.decode.frames import frame_times
from schemas.config import BuildConfig, Detector
from schemas.tables import Reject, Source, Split, Video, VideoCategory
from tests.support.videos import broadcast, counting_video, make, shots_video


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


def test_a_source_becomes_the_same_video_whatever_its_list_entry(tmp_path, context):
    path = counting_video(tmp_path / "film.mp4", beep_at=0)
    (video,) = run(context, [source(path)])
    assert isinstance(video, STAGE.row)
    assert video.video_id == "film"
    assert video.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (video.size_bytes, video.duration_us, video.frame_count) == (path.stat().st_size, 4_000_000, 120)
    described = source(path, title="A film", category=VideoCategory.FILM, licence="CC0", split_hint=Split.RL)
    assert list(run(context, [described])) == [video]


def test_a_choice_among_several_pictures_is_recorded_and_logged(tmp_path, context, caplog):
    path = broadcast(tmp_path / "film.ts")
    with caplog.at_level("INFO"):
        (video,) = run(context, [source(path)])
    assert (video.width, video.height, video.other_pictures) == (160, 64, 1)
    with av.open(str(path)) as container:
        assert container.streams[video.video_stream].id == 0x101
        assert container.streams[video.audio_stream].id == 0x103
    assert [track.language for track in video.audio_tracks] == ["fin", "eng"]
    [line] = [record.message for record in caplog.records if "used and published" in record.message]
    assert line == f"film: of 2 video streams, stream {video.video_stream} (160x64) is used and published"


def test_the_perceptual_hash_distinguishes_an_encoding_from_another_video(tmp_path, context):
    original = shots_video(tmp_path / "original.mp4", [1, 1, 1])
    smaller = make(tmp_path / "smaller.webm", "-i", str(original), "-s", "160x90", "-c:v", "libvpx", "-b:v", "200k")
    other = make(tmp_path / "other.mp4", "-f", "lavfi", "-i", "life=s=320x180:mold=10:seed=1:r=30", "-t", "3")
    first, second, third = run(context, [source(path) for path in (original, smaller, other)])
    assert len(first.perceptual_hash) == 128
    assert first.sha256 != second.sha256
    near_duplicate = context.config.assemble.near_duplicate_bits
    assert bits_apart(first, second) <= near_duplicate
    assert bits_apart(first, third) > 3 * near_duplicate


def test_each_unreadable_file_is_a_reject_and_the_others_are_ingested(tmp_path, context):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("no video at all")
    good = counting_video(tmp_path / "good.mp4", seconds=1)
    paths = [tmp_path / "empty.mp4", good, tmp_path / "text.mp4"]
    produced = list(run(context, [source(path) for path in paths]))
    rejects = {row.key: row.reason for row in produced if isinstance(row, Reject)}
    assert rejects == {"empty": "empty_file", "text": "not_a_video"}
    assert [row.video_id for row in produced if isinstance(row, Video)] == ["good"]


def test_the_row_describes_the_packets_and_the_picture(tmp_path, context):
    tracks = (
        "-f",
        "lavfi",
        "-i",
        "sine=d=3",
        "-f",
        "lavfi",
        "-i",
        "sine=f=880:d=3",
        "-map",
        "0",
        "-map",
        "1",
        "-map",
        "2",
    )
    picture = counting_video(tmp_path / "picture.mp4", "-g", "20", "-vf", "setsar=4/3", seconds=3)
    languages = ("-c:v", "copy", "-c:a", "aac", "-metadata:s:a:1", "language=ger", "-output_ts_offset", "2")
    (video,) = run(context, [source(make(tmp_path / "film.mkv", "-i", str(picture), *tracks, *languages))])
    assert (video.width, video.height, video.sample_aspect) == (213, 64, "4:3")
    assert (video.bit_depth, video.interlaced, video.edited, video.primaries) == (8, False, False, "unknown")
    assert (video.missing_us, video.unreadable_us, video.gaps) == (0, 0, ())
    assert video.start_us == pytest.approx(2_000_000, abs=100_000)
    assert (video.key_frame_count, video.longest_gop_us) == (5, pytest.approx(666_667, abs=1000))
    assert [(track.codec, track.language) for track in video.audio_tracks] == [("aac", ""), ("aac", "ger")]
    assert all(abs(track.start_us) < 100_000 for track in video.audio_tracks)


def test_one_decode_leaves_an_analysis_and_a_proxy(tmp_path, context):
    path = shots_video(tmp_path / "film.mp4", [1.5, 1.5])
    (video,) = run(context, [source(path)])
    fetched = context.files.fetch
    analysis = read_analysis(fetched(video.analysis_uri, tmp_path))
    assert analysis.shot_starts(Detector.ADAPTIVE, 3.0) == (0, 1_500_000)
    assert analysis.times_us.tolist() == frame_times(path).tolist()
    assert analysis.perceptual_hash() == video.perceptual_hash
    assert frame_times(fetched(video.proxy_uri, tmp_path)).tolist() == [
        0,
        500_000,
        1_000_000,
        1_500_000,
        2_000_000,
        2_500_000,
    ]


def test_key_frames_alone_give_no_proxy_but_the_same_identity(tmp_path, context):
    path = shots_video(tmp_path / "film.mp4", [1.5, 1.5])
    (whole,) = run(context, [source(path)])
    config = BuildConfig.model_validate({**context.config.model_dump(), "split": {"decode": "key_frames"}})
    (video,) = run(replace(context, config=config), [source(path)])
    assert video.proxy_uri is None
    assert video.perceptual_hash == whole.perceptual_hash


@pytest.mark.parametrize("kept, reason", [(0.8, "partly_damaged"), (0.55, "damaged")])
def test_most_of_a_damaged_file_is_used_and_the_loss_is_recorded(tmp_path, context, kept, reason):
    """A tenth of the data is overwritten and the end is cut off. The file is used if less than half is lost in all."""
    whole = counting_video(tmp_path / "whole.mp4", "-movflags", "+faststart", "-g", "10", seconds=8)
    data = bytearray(whole.read_bytes())
    begin = data.index(b"mdat") + 8
    size = len(data) - begin
    data[begin + size // 10 : begin + size // 5] = bytes(size // 5 - size // 10)
    path = tmp_path / "film.mp4"
    path.write_bytes(data[: begin + int(kept * size)])
    produced = list(run(context, [source(path)]))
    assert [(row.key, row.reason) for row in produced if isinstance(row, Reject)] == [("film", reason)]
    videos = [row for row in produced if isinstance(row, Video)]
    assert len(videos) == (reason == "partly_damaged")
    for video in videos:
        assert video.missing_us > 1_000_000
        assert video.unreadable_us > 300_000


def test_the_section_changes_with_the_analysis_and_not_with_shots_or_clips(context):
    def section(**split):
        config = BuildConfig.model_validate({"source": "a", "out": "b", "split": split})
        return STAGE.section(config)

    assert section() == section(clip_seconds=9, write_clips=False) == section(detector="content", threshold=40.0)
    assert len({str(section(**split)) for split in ({}, {"detector": "transnet"}, {"decode": "key_frames"})}) == 3


def test_a_remote_source_is_fetched(tmp_path, context, s3_bucket):
    import fsspec

    path = counting_video(tmp_path / "film.mp4", seconds=1)
    filesystem, root = fsspec.core.url_to_fs(s3_bucket)
    filesystem.put_file(str(path), f"{root}/film.mp4")
    remote = Source(source_id="film", uri=f"{s3_bucket}/film.mp4", fingerprint="1")
    (video,) = run(context, [remote])
    assert (video.uri, video.sha256) == (remote.uri, hashlib.sha256(path.read_bytes()).hexdigest())
