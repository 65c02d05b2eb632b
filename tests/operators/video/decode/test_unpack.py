import pytest

from operators.video.clips.cut import cut_clip
from operators.video.decode.frames import frames_at
from operators.video.decode.probe import probe
from operators.video.decode.unpack import unpack
from tests.support.packed import packed
from tests.support.videos import counting_video, number_on


@pytest.fixture
def film(tmp_path):
    options = ("-c:v", "mpeg4", "-bf", "1", "-g", "12", "-vtag", "XVID", "-q:v", "3", "-an")
    return counting_video(tmp_path / "plain.avi", *options, seconds=2)


def numbers(path):
    times_us = probe(path).index.frame_times_us.tolist()
    return [number_on(frame.rgb) for frame in frames_at(path, times_us)], times_us


def test_packed_b_frames_come_in_their_order_at_their_times(tmp_path, film):
    path = unpack(packed(tmp_path / "v.avi", film), tmp_path / "unpacked")
    shown, times_us = numbers(path)
    assert (path, shown) == (tmp_path / "unpacked" / "v.avi", list(range(60)))
    assert times_us == [round(number * 1e6 / 30) for number in range(60)]
    video = probe(path)
    cut_clip(video, video.index.frame_times_us, 500_000, 1_500_000, tmp_path / "clip.mp4")
    assert numbers(tmp_path / "clip.mp4")[0] == list(range(15, 45))


def test_other_files_stay_as_they_are(tmp_path, film):
    for path in (film, counting_video(tmp_path / "v.mp4", seconds=1)):
        assert unpack(path, tmp_path / "unpacked") == path
    assert not (tmp_path / "unpacked").exists()
