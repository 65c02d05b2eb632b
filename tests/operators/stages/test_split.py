from itertools import pairwise

import pytest

from operators.stage import Context
from operators.stages import ingest
from operators.stages.split import STAGE, run
from operators.store import Store
from operators.video.probe import probe
from schemas.config import BuildConfig, SplitConfig
from schemas.tables import Boundary, Clip, Cut, Reject, Source
from tests.support.videos import counting_video, make, shots_video

SHORT = {"min_seconds": 1.0, "clip_seconds": 1.5, "max_seconds": 2.0}


@pytest.fixture
def produced(tmp_path):
    """Rows of a video's split, and the store that its clips went to."""

    def split(path, **settings):
        scratch = tmp_path / "scratch"
        scratch.mkdir(exist_ok=True)
        store = Store(str(tmp_path / "out"))
        config = BuildConfig(source=str(tmp_path), out=str(tmp_path / "out"), split=SplitConfig(**settings))
        context = Context("split", "unit", config, {}, {}, store, scratch)
        videos = list(ingest.run(context, [Source(source_id="film", uri=str(path), fingerprint="1")]))
        rows = list(run(context, videos))
        assert not list(scratch.rglob("*.mp4"))
        return rows, lambda uri: store.fetch(uri, scratch)

    return split


def assert_tiles(clips, duration_us):
    assert [clip.index for clip in clips] == list(range(len(clips)))
    assert (clips[0].start_us, clips[-1].end_us) == (0, duration_us)
    assert all(before.end_us == after.start_us for before, after in pairwise(clips))
    assert [clip.clip_id for clip in clips] == [f"film_{clip.start_us:012d}" for clip in clips]


def test_clips_follow_the_shots_and_are_written(tmp_path, produced):
    path = shots_video(tmp_path / "film.mp4", [1.2, 1.6, 0.8, 1.4])
    clips, fetch = produced(path, **SHORT)
    assert all(isinstance(clip, STAGE.row) for clip in clips)
    assert_tiles(clips, 5_000_000)
    assert [(clip.end_us, clip.boundary) for clip in clips] == [
        (1_200_000, Boundary.SHOT),
        (2_800_000, Boundary.SHOT),
        (3_900_000, Boundary.FIXED),
        (5_000_000, Boundary.END),
    ]
    assert sorted({shot for clip in clips for shot in clip.shot_starts_us}) == [0, 1_200_000, 2_800_000, 3_600_000]
    assert sum(clip.frame_count for clip in clips) == probe(path).frame_count
    for clip in clips:
        assert clip.cut is Cut.ENCODE
        assert probe(fetch(clip.uri)).frame_count == clip.frame_count
    assert produced(path, **SHORT)[0] == clips


def test_clips_can_stay_spans_of_their_source(tmp_path, produced):
    clips, _ = produced(counting_video(tmp_path / "film.mp4"), write_clips=False, **SHORT)
    assert_tiles(clips, 4_000_000)
    assert {(clip.cut, clip.uri) for clip in clips} == {(Cut.NONE, None)}


def test_a_clip_that_cannot_be_written_stays_as_a_span(tmp_path, produced):
    """One frame in three seconds: two of three clips of a second have no frame of their own."""
    path = make(tmp_path / "film.mp4", "-f", "lavfi", "-i", "testsrc2=s=320x180:r=1/3:d=9")
    rows, _ = produced(path, mode="fixed", clip_seconds=1, min_seconds=0.5)
    clips = [row for row in rows if isinstance(row, Clip)]
    assert_tiles(clips, 9_000_000)
    assert [clip.frame_count for clip in clips] == [1, 0, 0] * 3
    assert [clip.cut for clip in clips] == [Cut.ENCODE, Cut.NONE, Cut.NONE] * 3
    rejects = {row.key: row for row in rows if isinstance(row, Reject)}
    assert set(rejects) == {clip.clip_id for clip in clips if clip.cut is Cut.NONE}
    assert {reject.reason for reject in rejects.values()} == {"cut_failed"}
    assert "clip film_000001000000: no frame starts in" in rejects["film_000001000000"].message


def test_what_damage_leaves_is_split_and_the_loss_is_told(tmp_path, produced):
    path = counting_video(tmp_path / "film.mp4", "-movflags", "+faststart", "-g", "10")
    data = bytearray(path.read_bytes())
    begin = data.index(b"mdat") + 8
    size = len(data) - begin
    data[begin + size // 3 : begin + size // 2] = bytes(size // 2 - size // 3)
    path.write_bytes(data)
    rows, _ = produced(path, **SHORT)
    clips = [row for row in rows if isinstance(row, Clip)]
    assert_tiles(clips, 4_000_000)
    rejects = {row.key: row.reason for row in rows if isinstance(row, Reject)}
    assert rejects["film"] == "partly_damaged"
