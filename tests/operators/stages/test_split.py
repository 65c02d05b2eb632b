from itertools import pairwise

import numpy as np
import pytest

from operators.execution.stage import Context
from operators.stages import ingest
from operators.stages.split import STAGE, run
from operators.store.content_store import Store
from operators.video.decode.probe import probe
from schemas.config import BuildConfig, SplitConfig
from schemas.tables import Boundary, Clip, Cut, Reject, Source, Video
from tests.support.videos import counting_video, make, shots_video, two_pictures

SHORT = {"min_seconds": 1.0, "clip_seconds": 1.5, "max_seconds": 2.0}


@pytest.fixture
def run_split(tmp_path):
    """Function that runs `split` on a file. It returns the rows, and a function that fetches a stored clip."""

    def split(path, between=lambda video: video, **settings):
        scratch = tmp_path / "scratch"
        scratch.mkdir(exist_ok=True)
        store = Store(str(tmp_path / "out"))
        config = BuildConfig(source=str(tmp_path), out=str(tmp_path / "out"), split=SplitConfig(**settings))
        context = Context("split", "unit", config, {}, {}, store, scratch)
        ingested = ingest.run(context, [Source(source_id="film", uri=str(path), fingerprint="1")])
        rows = list(run(context, [between(row) for row in ingested if isinstance(row, Video)]))
        assert not list((scratch / "clips").glob("*"))
        return rows, lambda uri: store.fetch(uri, scratch)

    return split


def assert_tiles(clips, duration_us):
    assert [clip.index for clip in clips] == list(range(len(clips)))
    assert (clips[0].start_us, clips[-1].end_us) == (0, duration_us)
    assert all(before.end_us == after.start_us for before, after in pairwise(clips))
    assert [clip.clip_id for clip in clips] == [f"film_{clip.start_us:012d}" for clip in clips]


def test_a_source_that_is_no_longer_what_was_watched_is_a_reject(tmp_path, run_split):
    path = counting_video(tmp_path / "film.mp4", seconds=2)
    two_pictures(tmp_path / "other.mp4")

    def replace(video):
        (tmp_path / "other.mp4").replace(path)
        return video

    [reject], _ = run_split(path, between=replace, **SHORT)
    assert (reject.key, reject.reason) == ("film", "source_changed")
    assert "its audio_stream is 2, not None" in reject.message


def test_clips_follow_the_shots_and_are_written(tmp_path, run_split):
    path = shots_video(tmp_path / "film.mp4", [1.2, 1.6, 0.8, 1.4])
    clips, fetch = run_split(path, **SHORT)
    assert all(isinstance(clip, STAGE.row) for clip in clips)
    assert_tiles(clips, 5_000_000)
    assert [(clip.end_us, clip.boundary) for clip in clips] == [
        (1_200_000, Boundary.SHOT),
        (2_400_000, Boundary.FIXED),
        (3_600_000, Boundary.SHOT),
        (5_000_000, Boundary.END),
    ]
    assert sorted({shot for clip in clips for shot in clip.shot_starts_us}) == [0, 1_200_000, 2_800_000, 3_600_000]
    assert sum(clip.frame_count for clip in clips) == probe(path).frame_count
    for clip in clips:
        assert probe(fetch(clip.uri)).frame_count == clip.frame_count
    assert run_split(path, **SHORT)[0] == clips


@pytest.mark.parametrize("threshold, starts", [(27.0, {0, 1_200_000, 2_800_000, 3_600_000}), (250.0, {0})])
def test_the_configured_detector_and_threshold_judge_where_shots_begin(tmp_path, run_split, threshold, starts):
    path = shots_video(tmp_path / "film.mp4", [1.2, 1.6, 0.8, 1.4])
    clips, _ = run_split(path, write_clips=False, detector="content", threshold=threshold, **SHORT)
    assert {shot for clip in clips for shot in clip.shot_starts_us} == starts


def test_a_row_records_how_its_clip_was_cut(tmp_path, run_split):
    """Key frames are at every full second."""
    keys = ("-g", "30", "-x264-params", "scenecut=0:bframes=0")
    clips, _ = run_split(counting_video(tmp_path / "film.mp4", *keys, seconds=7.5), mode="fixed", clip_seconds=2.5)
    assert [(clip.start_us, clip.cut) for clip in clips] == [
        (0, Cut.COPY),
        (2_500_000, Cut.SMART),
        (5_000_000, Cut.COPY),
    ]
    other = make(tmp_path / "film.avi", "-i", str(tmp_path / "film.mp4"), "-c:v", "mpeg4", "-q:v", "3")
    assert {clip.cut for clip in run_split(other, mode="fixed", clip_seconds=2.5)[0]} == {Cut.ENCODE}


@pytest.mark.parametrize("order, end_us", [("dark bright blue", 2_750_000), ("blue bright dark", 2_000_000)])
def test_a_short_shot_joins_the_more_similar_neighbour(tmp_path, run_split, order, end_us):
    """Length alone would allow either neighbour: a shot of 0.75 s is between two shots of 2 s."""
    scenes = {"dark": ("0x5a5a5a", 40), "bright": ("0xa5a5a5", 40), "blue": ("blue", 220)}
    seconds = dict(zip(order.split(), (2, 0.75, 2), strict=True))
    graph = "".join(
        f"color={scenes[name][0]}:s=320x180:r=20:d={length},drawbox=x={scenes[name][1]}:y=60:w=60:h=60:c=white:t=fill[{name}];"
        for name, length in seconds.items()
    )
    shots = "".join(f"[{name}]" for name in seconds)
    path = make(tmp_path / "film.mp4", "-filter_complex", f"{graph}{shots}concat=n=3", "-pix_fmt", "yuv420p")
    clips, _ = run_split(path, min_seconds=1.5, clip_seconds=2, max_seconds=3)
    assert [clip.end_us for clip in clips] == [end_us, 4_750_000]


def test_clips_can_stay_spans_of_their_source(tmp_path, run_split):
    clips, _ = run_split(counting_video(tmp_path / "film.mp4"), write_clips=False, **SHORT)
    assert_tiles(clips, 4_000_000)
    assert {(clip.cut, clip.uri) for clip in clips} == {(Cut.NONE, None)}


@pytest.mark.parametrize("write_clips", [True, False])
def test_key_frames_alone_give_clips_too_but_know_nothing_of_motion(tmp_path, run_split, write_clips):
    path = shots_video(tmp_path / "film.mp4", [1.2, 1.6, 0.8, 1.4])
    expected, _ = run_split(path, write_clips=False, **SHORT)
    clips, _ = run_split(path, decode="key_frames", write_clips=write_clips, **SHORT)
    spans = [(clip.start_us, clip.end_us, clip.boundary, clip.shot_starts_us, clip.frame_count) for clip in clips]
    assert spans == [(e.start_us, e.end_us, e.boundary, e.shot_starts_us, e.frame_count) for e in expected]
    assert {(clip.motion, clip.frozen) for clip in clips} == {(None, None)}
    np.testing.assert_allclose([c.brightness for c in clips], [e.brightness for e in expected], atol=0.1)
    assert all((clip.uri is not None) == write_clips for clip in clips)


def test_a_clip_that_cannot_be_written_stays_as_a_span(tmp_path, run_split):
    """The film has one frame in three seconds, so two of three clips of one second contain no frame."""
    path = make(tmp_path / "film.mp4", "-f", "lavfi", "-i", "testsrc2=s=320x180:r=1/3:d=9")
    rows, _ = run_split(path, mode="fixed", clip_seconds=1, min_seconds=0.5)
    clips = [row for row in rows if isinstance(row, Clip)]
    assert_tiles(clips, 9_000_000)
    assert [clip.frame_count for clip in clips] == [1, 0, 0] * 3
    assert [clip.cut is Cut.NONE for clip in clips] == [False, True, True] * 3
    rejects = {row.key: row for row in rows if isinstance(row, Reject)}
    assert set(rejects) == {clip.clip_id for clip in clips if clip.cut is Cut.NONE}
    assert {reject.reason for reject in rejects.values()} == {"cut_failed"}
    assert "clip film_000001000000: no frame starts in" in rejects["film_000001000000"].message


def test_the_undamaged_part_of_a_video_is_split(tmp_path, run_split):
    path = counting_video(tmp_path / "film.mp4", "-movflags", "+faststart", "-g", "10")
    data = bytearray(path.read_bytes())
    begin = data.index(b"mdat") + 8
    size = len(data) - begin
    data[begin + size // 3 : begin + size // 2] = bytes(size // 2 - size // 3)
    path.write_bytes(data)
    rows, _ = run_split(path, **SHORT)
    clips = [row for row in rows if isinstance(row, Clip)]
    assert_tiles(clips, 4_000_000)
    assert clips[0].uri is not None
