import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.video.decode.packets import NO_TIME, decode, open_video, read_packets
from schemas.video.clock import StreamClock
from tests.support.failing_reads import failing_reads
from tests.support.videos import counting_video, make, noisy_video
from tests.support.zoo import OPEN_GOP

ROOT = Path(__file__).resolve().parents[4]

TIME_BASES = st.sampled_from([Fraction(1, 90000), Fraction(1, 1000), Fraction(1, 15360), Fraction(1001, 30000)])


@given(TIME_BASES, st.integers(-(10**9), 10**9), st.integers(0, 10**9))
def test_a_timestamp_survives_the_way_to_microseconds_and_back(time_base, first_pts, ticks):
    timeline = StreamClock(time_base, first_pts)
    time_us = timeline.microseconds(first_pts + ticks)
    assert abs(time_us - ticks * time_base * 1_000_000) <= Fraction(1, 2)
    assert timeline.pts(time_us) == first_pts + ticks


@given(TIME_BASES, st.integers(-(10**6), 10**6), st.integers(0, 10**11))
def test_pts_is_the_first_timestamp_at_or_after_a_time(time_base, first_pts, time_us):
    timeline = StreamClock(time_base, first_pts)
    pts = timeline.pts(time_us)
    assert timeline.microseconds(pts) >= time_us > timeline.microseconds(pts - 1)


@given(TIME_BASES, st.integers(-(10**9), 10**9), st.lists(st.integers(0, 10**9), min_size=1))
def test_many_timestamps_are_converted_as_one_is(time_base, first_pts, ticks):
    timeline = StreamClock(time_base, first_pts)
    pts = [first_pts + each for each in ticks]
    assert timeline.microseconds(np.array(pts)).tolist() == [timeline.microseconds(each) for each in pts]


def indexed(path):
    with open_video(path) as (container, stream):
        return read_packets(container, stream, path)


def test_every_packet_is_kept_as_numbers(tmp_path):
    index = indexed(counting_video(tmp_path / "v.mp4", beep_at=0))
    packets, (sound,) = index.packets, index.audio.values()
    assert len(packets.pts) == 120 and packets.key.sum() == 5 and not packets.discarded.any()
    assert np.all(np.diff(packets.dts) > 0) and not np.all(np.diff(packets.pts) > 0)
    assert NO_TIME not in packets.pts and np.all(packets.size > 0)
    np.testing.assert_array_equal(packets.pts[index.frame_packets], np.sort(packets.pts))
    np.testing.assert_array_equal(index.frame_times_us[packets.key[index.frame_packets]], index.key_frame_times_us)
    assert sound.end_us - sound.start_us == pytest.approx(4_000_000, abs=50_000)


@pytest.mark.parametrize("name", ["v.mp4", "v.mkv", "v.ts"])
def test_open_and_closed_groups_of_pictures_are_distinguished(tmp_path, name):
    closed = indexed(counting_video(tmp_path / f"closed_{name}"))
    assert not closed.open_gops.any()
    opened = indexed(counting_video(tmp_path / f"open_{name}", *OPEN_GOP))
    assert opened.open_gops.tolist() == [False] + [True] * 7
    assert len(opened.key_frame_times_us) == 8


def test_frames_that_an_edit_list_removes_are_marked(tmp_path):
    whole = counting_video(tmp_path / "whole.mp4")
    index = indexed(make(tmp_path / "v.mp4", "-ss", "1.3", "-i", str(whole), "-c", "copy"))
    assert index.packets.discarded.sum() == len(index.packets.pts) - len(index.frame_times_us) == 14
    assert index.key_frame_times_us[0] == pytest.approx(-466_667, abs=100)


def test_a_stretch_without_frames_is_a_gap_and_a_slow_rate_is_none(tmp_path):
    lacking = ("-vf", "select='not(between(n,40,99))'", "-fps_mode", "passthrough")
    index = indexed(counting_video(tmp_path / "v.ts", *lacking))
    np.testing.assert_allclose(index.gaps_us, [[39e6 / 30, 100e6 / 30]], atol=100)
    slides = indexed(counting_video(tmp_path / "slides.mp4", "-vf", "setpts=100*PTS", "-fps_mode", "passthrough"))
    assert slides.duration_us > 390_000_000 and len(slides.gaps_us) == 0


def test_pictures_that_are_never_shown_are_not_counted(tmp_path):
    """VP8 stores its alternate reference frames in separate packets."""
    source = counting_video(tmp_path / "source.mp4", seconds=2)
    vp8 = ("-c:v", "libvpx", "-b:v", "100k", "-auto-alt-ref", "1", "-lag-in-frames", "25")
    for number in ("1", "2"):
        two_passes = ("-pass", number, "-passlogfile", str(tmp_path / "passes"))
        hidden = make(tmp_path / "v.webm", "-i", str(source), *vp8, *two_passes)
    index = indexed(hidden)
    assert len(index.packets.pts) > len(index.frame_times_us) == 60


def test_a_few_frames_whose_time_is_over_are_skipped(tmp_path):
    first = counting_video(tmp_path / "first.ts", seconds=2)
    second = counting_video(tmp_path / "second.ts", "-output_ts_offset", "1.5", seconds=2)
    (tmp_path / "v.ts").write_bytes(first.read_bytes() + second.read_bytes())
    index = indexed(tmp_path / "v.ts")
    assert len(index.packets.pts) == 120 and 90 < len(index.frame_times_us) < 110
    np.testing.assert_allclose(np.diff(index.frame_times_us), 1e6 / 30, atol=100)
    assert np.all(np.diff(index.key_frame_times_us) > 0)


def test_the_index_promises_what_decoding_shows(tmp_path):
    """This also holds with an edit list: the second file is a stream copy that starts in the middle of a GOP."""
    whole = counting_video(tmp_path / "whole.mp4")
    copied = make(tmp_path / "copied.mp4", "-ss", "1.3", "-i", str(whole), "-c", "copy")
    counts = []
    for path in (whole, copied):
        with open_video(path) as (container, stream):
            index = read_packets(container, stream, path)
        with open_video(path) as (container, stream):
            shown = [time_us for time_us, _ in decode(container, stream, index.timeline)]
        assert shown == index.frame_times_us.tolist()
        counts.append(len(shown))
    assert counts == [120, 81]


def test_frames_that_become_enormous_on_the_way_are_not_decoded(tmp_path, monkeypatch):
    small, large = (("-f", "lavfi", "-i", f"testsrc2=s={side}x{side}:d=1") for side in (64, 640))
    parts = make(tmp_path / "small.ts", *small), make(tmp_path / "large.ts", *large, "-output_ts_offset", "1")
    (tmp_path / "v.ts").write_bytes(b"".join(part.read_bytes() for part in parts))
    monkeypatch.setattr("operators.video.decode.packets.LARGEST_FRAME_PIXELS", 100 * 100)
    index = indexed(tmp_path / "v.ts")
    with open_video(tmp_path / "v.ts") as (container, stream):
        shown = [(frame.width, frame.height) for _, frame in decode(container, stream, index.timeline)]
    assert len(index.frame_times_us) > 40
    assert set(shown) == {(64, 64)}
    assert len(shown) >= 24  # the error may lose the frame that a decoder thread is working on


PROBE = """
import sys
from pathlib import Path
from operators.video.decode.probe import probe
for path in map(Path, sys.argv[1:]):
    try:
        print(path.name, probe(path).duration_us)
    except OSError as error:
        print(path.name, error.strerror)
"""


@pytest.mark.parametrize("offset", [0, 100_000])
def test_a_failed_read_is_not_taken_for_the_end_of_a_video(tmp_path, offset):
    """Most demuxers take it for the end, in different ways: the file is no video, is truncated, or is just shorter."""
    environ = failing_reads(tmp_path, "film", offset)
    if environ is None:
        pytest.skip("no C compiler")
    first = noisy_video(tmp_path / "film.mp4", "-movflags", "+faststart")
    others = [make(tmp_path / f"film.{name}", "-i", str(first), "-c", "copy") for name in ("ts", "mkv", "avi", "flv")]
    films = [first, *others, make(tmp_path / "film.mpg", "-i", str(first), "-b:v", "2M")]
    command = [sys.executable, "-c", PROBE, *map(str, films)]
    printed = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=True).stdout
    assert printed.splitlines() == [f"{film.name} Input/output error" for film in films]
