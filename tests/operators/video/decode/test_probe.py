import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.video.decode.probe import probe, varies
from tests.support.videos import counting_video, make
from tests.support.zoo import FILM, NTSC


def test_a_constant_rate_is_measured(tmp_path):
    video = probe(counting_video(tmp_path / "v.mp4", beep_at=1))
    assert (video.duration_us, video.frame_count, video.fps) == (4_000_000, 120, 30.0)
    assert (video.width, video.height, video.rotation, video.sample_aspect) == (160, 64, 0, 1)
    assert (video.codec, video.pixel_format, video.bit_depth, video.interlaced) == ("h264", "yuv420p", 8, False)
    assert (video.transfer, video.primaries, video.audio_codec) == ("unknown", "unknown", "aac")
    assert video.index.key_frame_times_us.tolist() == [0, 833_333, 1_666_667, 2_500_000, 3_333_333]
    assert not video.variable_frame_rate


def test_sound_is_reported_track_by_track(tmp_path):
    tones = ("-f", "lavfi", "-i", "sine=d=2:r=48000", "-f", "lavfi", "-i", "sine=d=1:r=44100")
    codecs = (
        "-c:v",
        "copy",
        "-c:a:0",
        "aac",
        "-ac:a:0",
        "2",
        "-c:a:1",
        "libmp3lame",
        "-metadata:s:a:1",
        "language=fin",
    )
    maps = ("-map", "0", "-map", "1", "-map", "2")
    silent = counting_video(tmp_path / "silent.mp4", seconds=2)
    video = probe(make(tmp_path / "v.mkv", "-i", str(silent), *tones, *maps, *codecs))
    first, second = video.audio_tracks
    assert (first.stream, first.codec, first.sample_rate, first.channels) == (1, "aac", 48000, 2)
    assert (second.stream, second.codec, second.sample_rate, second.channels) == (2, "mp3", 44100, 1)
    assert second.language == "fin"
    assert (video.audio_stream, video.audio_codec) == (1, "aac")
    assert first.end_us == pytest.approx(2_000_000, abs=50_000)
    assert second.end_us == pytest.approx(1_000_000, abs=100_000)


def test_sound_that_begins_before_the_picture_does_so_on_the_timeline(tmp_path):
    whole = counting_video(tmp_path / "whole.mkv", seconds=2, beep_at=0)
    picture_late = ("-itsoffset", "0.5", "-i", str(whole), "-i", str(whole), "-map", "0:v", "-map", "1:a", "-c", "copy")
    video = probe(make(tmp_path / "v.mkv", *picture_late))
    assert video.audio_tracks[0].start_us == pytest.approx(-500_000, abs=30_000)


def test_one_missing_frame_is_a_variable_rate(tmp_path):
    lacking = ("-vf", "select='not(eq(n,50))'", "-fps_mode", "passthrough")
    assert probe(counting_video(tmp_path / "v.mp4", *lacking)).variable_frame_rate


@given(st.sampled_from([FILM, NTSC, 25, 50, 60, 120]), st.sampled_from([1000, 15360, 90000]), st.integers(3, 200))
def test_a_regular_rate_does_not_vary_whatever_its_ticks(fps, ticks_per_second, frames):
    ticks = np.round(np.arange(frames) * float(ticks_per_second / fps))
    times_us = np.round(ticks * 1e6 / ticks_per_second).astype(np.int64)
    assert not varies(times_us, 1 / ticks_per_second)
    assert varies(np.delete(times_us, frames // 2), 1 / ticks_per_second) == (frames > 3)
