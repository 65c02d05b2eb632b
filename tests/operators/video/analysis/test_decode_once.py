import numpy as np
import pytest

from operators.video.analysis.decode_once import decode_once
from operators.video.decode.frames import frame_times, frames_at
from operators.video.decode.packets import UnreadableVideo
from operators.video.decode.probe import probe
from schemas.config import Detector, SplitConfig
from tests.support.videos import Part, counting_video, recording, shots_video


@pytest.fixture
def decoded(tmp_path):
    """Run `watch` on a video. Returns its result and the times (microseconds) that it reported."""

    def run(path, **settings):
        progress = []
        outcome = decode_once(probe(path), SplitConfig(**settings), tmp_path / "proxy.mp4", progress.append, workers=1)
        return outcome, progress

    return run


@pytest.mark.parametrize("detector", ["adaptive", "content"])
def test_a_video_is_decoded_to_its_end_with_a_proxy(tmp_path, decoded, detector):
    outcome, progress = decoded(shots_video(tmp_path / "v.mp4", [1.5, 1.5]), detector=detector)
    assert outcome.analysis.shot_starts(Detector(detector), Detector(detector).default_threshold) == (0, 1_500_000)
    assert outcome.proxy.times_us.tolist() == frame_times(outcome.proxy.path).tolist() == progress
    assert progress == [0, 500_000, 1_000_000, 1_500_000, 2_000_000, 2_500_000]


def test_of_key_frames_alone_there_is_no_proxy(tmp_path, decoded):
    outcome, _ = decoded(shots_video(tmp_path / "v.mp4", [1.5, 1.5]), decode="key_frames")
    assert outcome.proxy is None
    assert outcome.analysis.shot_starts(Detector.ADAPTIVE, 3.0) == (0, 1_500_000)
    assert np.isnan(outcome.analysis.motion).all()


def test_the_network_sees_the_same_decode(tmp_path, decoded):
    pytest.importorskip("torch")
    outcome, progress = decoded(shots_video(tmp_path / "v.mp4", [1.0, 1.0]), detector="transnet")
    assert outcome.analysis.shot_starts(Detector.TRANSNET, 0.5) == (0, 1_000_000)
    assert len(outcome.analysis.times_us) == 60
    assert outcome.proxy.times_us.tolist() == progress


def test_what_is_mostly_damage_is_unreadable(tmp_path, decoded):
    path = counting_video(tmp_path / "v.mp4", "-movflags", "+faststart", "-g", "10")
    data = bytearray(path.read_bytes())
    begin = data.index(b"mdat") + 8 + (len(data) - data.index(b"mdat")) // 5
    data[begin:] = bytes(len(data) - begin)
    path.write_bytes(data)
    with pytest.raises(UnreadableVideo, match="cannot be decoded"):
        decoded(path)


@pytest.mark.parametrize("decode", ["every_frame", "key_frames"])
def test_a_recording_that_changes_is_of_the_format_that_lasts_longest(tmp_path, decoded, decode):
    wide = Part(width=320, height=64)
    outcome, _ = decoded(recording(tmp_path / "v.ts", Part(), wide, wide), decode=decode)
    formats = [(each.start_us, each.width, each.height) for each in outcome.video.formats]
    assert formats == [(0, 160, 64), (pytest.approx(2_000_000, abs=40), 320, 64)]
    assert outcome.analysis.formats == outcome.video.formats
    assert (outcome.video.width, outcome.video.height) == (320, 64)


def test_a_proxy_has_one_size_and_keeps_every_shape(tmp_path, decoded):
    wide = Part(width=320, height=64)
    outcome, progress = decoded(recording(tmp_path / "v.ts", Part(), wide, wide))
    assert (outcome.proxy.width, outcome.proxy.height) == (320, 64)
    assert frame_times(outcome.proxy.path).tolist() == outcome.proxy.times_us.tolist() == progress[len(progress) // 2 :]
    first, later = (frame.rgb for frame in frames_at(outcome.proxy.path, [1_500_000, 2_500_000]))
    assert first[:, :78].mean() < 2 > first[:, -78:].mean()
    assert first[:, 82:-82].mean() > 20
    assert later[:, -30:].mean() > 10 or later[:, :32].mean() > 10
