import numpy as np
import pytest

from operators.video import probe as probe_module
from operators.video.packets import UnreadableVideo
from operators.video.probe import probe
from tests.support.videos import counting_video, make


def test_a_constant_rate_is_measured(tmp_path):
    video = probe(counting_video(tmp_path / "v.mp4", beep_at=1))
    assert (video.duration_us, video.frame_count, video.fps) == (4_000_000, 120, 30.0)
    assert (video.width, video.height, video.rotation) == (160, 64, 0)
    assert (video.codec, video.pixel_format, video.audio_codec) == ("h264", "yuv420p", "aac")
    assert video.index.key_frame_times_us.tolist() == [0, 833_333, 1_666_667, 2_500_000, 3_333_333]
    assert not video.variable_frame_rate


@pytest.mark.parametrize("name", ["v.mkv", "v.ts", "v.mp4"])
def test_rounded_ticks_and_a_late_start_do_not_matter(tmp_path, name):
    video = probe(counting_video(tmp_path / name, "-output_ts_offset", "7.3", beep_at=0))
    assert video.index.timeline.first_pts > 0
    assert video.duration_us == pytest.approx(4_000_000, abs=1000)
    assert (video.frame_count, video.variable_frame_rate) == (120, False)
    assert video.index.frame_times_us[0] == 0


@pytest.mark.parametrize("name", ["v.mkv", "v.mp4"])
def test_a_variable_rate_keeps_its_times(tmp_path, name):
    chosen = "select='lt(n,30)+not(mod(n,3))'"
    video = probe(counting_video(tmp_path / name, "-vf", chosen, "-fps_mode", "passthrough"))
    assert video.variable_frame_rate
    expected = np.array([n for n in range(120) if n < 30 or n % 3 == 0]) * 1e6 / 30
    np.testing.assert_allclose(video.index.frame_times_us, expected, atol=500)


def test_one_missing_frame_is_a_variable_rate(tmp_path):
    lacking = ("-vf", "select='not(eq(n,50))'", "-fps_mode", "passthrough")
    assert probe(counting_video(tmp_path / "v.mp4", *lacking)).variable_frame_rate


@pytest.mark.parametrize(
    "counterclockwise, clockwise, size", [(90, 270, (64, 160)), (-90, 90, (64, 160)), (180, 180, (160, 64))]
)
def test_a_display_matrix_turns_the_size(tmp_path, counterclockwise, clockwise, size):
    upright = counting_video(tmp_path / "upright.mp4", seconds=0.5)
    turned = make(tmp_path / "v.mp4", "-display_rotation", str(counterclockwise), "-i", str(upright), "-c", "copy")
    video = probe(turned)
    assert (video.rotation, (video.width, video.height)) == (clockwise, size)


def test_pixels_that_are_not_square_count_as_displayed(tmp_path):
    video = probe(counting_video(tmp_path / "v.mp4", "-vf", "setsar=4/3", seconds=0.5))
    assert (video.width, video.height) == (213, 64)


def test_webm_and_hdr_are_told_apart(tmp_path):
    vp9 = ("-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8")
    webm = probe(counting_video(tmp_path / "v.webm", *vp9, seconds=0.5))
    assert (webm.codec, webm.transfer) == ("vp9", "unknown")
    hdr = ("-vf", "setparams=color_trc=smpte2084:color_primaries=bt2020:colorspace=bt2020nc", "-pix_fmt", "yuv420p10le")
    assert probe(counting_video(tmp_path / "v.mp4", *hdr, seconds=0.5)).transfer == "smpte2084"


def test_what_is_no_video_says_why(tmp_path):
    whole = counting_video(tmp_path / "whole.mp4", beep_at=0)
    data = whole.read_bytes()
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("This is not a video.\n" * 100)
    (tmp_path / "playlist.mp4").write_text("ffconcat version 1.0\nfile whole.mp4\n")
    (tmp_path / "headless.mp4").write_bytes(data[2000:])
    (tmp_path / "short.mp4").write_bytes(data[: len(data) // 2])
    make(tmp_path / "sound.mp4", "-i", str(whole), "-vn", "-c", "copy")
    make(tmp_path / "picture.mp4", "-i", str(whole), "-frames:v", "1", "-an")
    fast = make(tmp_path / "fast.mp4", "-i", str(whole), "-c", "copy", "-an", "-movflags", "+faststart").read_bytes()
    (tmp_path / "header.mp4").write_bytes(fast[: fast.index(b"mdat") + 8])
    expected = {
        "empty": "empty_file",
        "text": "not_a_video",
        "playlist": "not_a_video",
        "headless": "not_a_video",
        "short": "truncated",
        "header": "truncated",
        "sound": "no_video_stream",
        "picture": "one_frame",
    }
    for name, reason in expected.items():
        with pytest.raises(UnreadableVideo, match=rf"^{name}\.mp4: ") as raised:
            probe(tmp_path / f"{name}.mp4")
        assert raised.value.reason == reason


def test_a_file_cut_off_behind_its_header_is_as_long_as_what_is_left(tmp_path):
    fast = counting_video(tmp_path / "fast.mp4", "-movflags", "+faststart").read_bytes()
    (tmp_path / "half.mp4").write_bytes(fast[: (len(fast) + fast.index(b"mdat")) // 2])
    half = probe(tmp_path / "half.mp4")
    assert 1_000_000 < half.duration_us < 3_000_000
    assert half.frame_count == pytest.approx(half.duration_us * 30 / 1e6, abs=3)


def test_too_large_a_frame_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr(probe_module, "LARGEST_FRAME_PIXELS", 160 * 64 - 1)
    with pytest.raises(UnreadableVideo, match="160x64") as raised:
        probe(counting_video(tmp_path / "v.mp4", seconds=0.2))
    assert raised.value.reason == "too_large"
