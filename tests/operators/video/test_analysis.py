import numpy as np
import pytest

from operators.video.analysis import analyse
from operators.video.packets import UnreadableVideo
from operators.video.probe import probe
from schemas.config import Detector
from tests.support.videos import counting_video, make, shots_video


@pytest.mark.parametrize("detector, threshold", [(Detector.ADAPTIVE, 3.0), (Detector.CONTENT, 27.0)])
def test_shots_begin_at_exact_frame_times(tmp_path, detector, threshold):
    video = probe(shots_video(tmp_path / "v.mp4", [1.5, 2.0, 1.0]))
    assert analyse(video, detector, threshold).shot_starts_us == (0, 1_500_000, 3_500_000)


def test_shots_of_a_variable_rate_begin_where_they_are_shown(tmp_path):
    steady = shots_video(tmp_path / "steady.mp4", [2.0, 2.0])
    chosen = ("-vf", "select='lt(n,45)+not(mod(n,3))'", "-fps_mode", "passthrough", "-enc_time_base", "1/90000")
    video = probe(make(tmp_path / "v.mp4", "-i", str(steady), *chosen))
    assert video.variable_frame_rate
    assert analyse(video, Detector.ADAPTIVE, 3.0).shot_starts_us == (0, 2_000_000)


def test_every_frame_is_measured_once(tmp_path):
    video = probe(counting_video(tmp_path / "v.ts", beep_at=0))
    analysis = analyse(video, Detector.ADAPTIVE, 3.0)
    np.testing.assert_array_equal(analysis.times_us, video.index.frame_times_us)
    assert len(analysis.motion) == len(analysis.sharpness) == len(analysis.brightness) == 120
    assert analysis.unreadable_us == 0


def test_the_measures_mean_what_they_say(tmp_path):
    def still(name, graph):
        made = make(
            tmp_path / name, "-f", "lavfi", "-i", graph, "-t", "1", "-pix_fmt", "yuv420p", "-preset", "ultrafast"
        )
        return analyse(probe(made), Detector.ADAPTIVE, 3.0).statistics(0, 1_000_000)

    white, black = still("white.mp4", "color=white:s=320x180"), still("black.mp4", "color=black:s=320x180")
    assert white.brightness == pytest.approx(1, abs=0.02)
    assert black.brightness == pytest.approx(0, abs=0.02)
    assert white.motion == black.motion == 0
    clear, blurred = still("clear.mp4", "testsrc2=s=320x180"), still("blurred.mp4", "testsrc2=s=320x180,gblur=4")
    assert clear.sharpness > 4 * blurred.sharpness
    assert clear.motion > 0.005
    blinking = still("blink.mp4", "color=white:s=320x180,geq=lum='235-219*mod(N,2)':cb=128:cr=128")
    assert blinking.motion == pytest.approx(1, abs=0.03)


def test_a_cut_at_the_start_of_a_span_is_not_motion(tmp_path):
    graph = "color=white:s=320x180:d=1[a];color=black:s=320x180:d=1[b];[a][b]concat"
    made = make(tmp_path / "v.mp4", "-filter_complex", graph, "-pix_fmt", "yuv420p", "-preset", "ultrafast")
    analysis = analyse(probe(made), Detector.CONTENT, 27.0)
    assert analysis.statistics(1_000_000, 2_000_000).motion == 0
    assert analysis.statistics(0, 2_000_000).motion > 0.01


def test_a_span_without_a_frame_of_its_own_is_measured_from_the_one_standing(tmp_path):
    video = probe(make(tmp_path / "v.mp4", "-f", "lavfi", "-i", "color=white:s=64x64:r=1:d=3", "-preset", "ultrafast"))
    statistics = analyse(video, Detector.ADAPTIVE, 3.0).statistics(1_200_000, 1_800_000)
    assert (statistics.frame_count, statistics.motion) == (0, 0.0)
    assert statistics.brightness == pytest.approx(1, abs=0.02)


def damaged(source, target, begin, end):
    """The same file with random bytes in a part of its content."""
    data = bytearray(source.read_bytes())
    first, last = data.index(b"mdat") + 8, len(data)
    begin, end = (int(first + share * (last - first)) for share in (begin, end))
    data[begin:end] = np.random.default_rng(0).bytes(end - begin)
    target.write_bytes(data)
    return target


def test_what_is_left_of_a_damaged_video_is_used(tmp_path):
    whole = counting_video(tmp_path / "whole.mp4", "-movflags", "+faststart", "-g", "10")
    video = probe(damaged(whole, tmp_path / "hole.mp4", 0.4, 0.6))
    analysis = analyse(video, Detector.ADAPTIVE, 3.0)
    assert 60 < len(analysis.times_us) < 120
    assert 300_000 < analysis.unreadable_us < 1_200_000


def test_a_video_that_is_mostly_damage_is_unreadable(tmp_path):
    whole = counting_video(tmp_path / "whole.mp4", "-movflags", "+faststart", "-g", "10")
    video = probe(damaged(whole, tmp_path / "ruin.mp4", 0.2, 1.0))
    with pytest.raises(UnreadableVideo, match=r"ruin\.mp4: .* s of 4\.0 s cannot be decoded") as raised:
        analyse(video, Detector.ADAPTIVE, 3.0)
    assert raised.value.reason == "damaged"
