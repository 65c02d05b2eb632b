from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from operators.video.packets import Timeline, decode, open_video, read_packets
from tests.support.videos import counting_video, make

TIME_BASES = st.sampled_from([Fraction(1, 90000), Fraction(1, 1000), Fraction(1, 15360), Fraction(1001, 30000)])


@given(TIME_BASES, st.integers(-(10**9), 10**9), st.integers(0, 10**9))
def test_a_timestamp_survives_the_way_to_microseconds_and_back(time_base, first_pts, ticks):
    timeline = Timeline(time_base, first_pts)
    time_us = timeline.microseconds(first_pts + ticks)
    assert abs(time_us - ticks * time_base * 1_000_000) <= Fraction(1, 2)
    assert timeline.pts(time_us) == first_pts + ticks


@given(TIME_BASES, st.integers(-(10**6), 10**6), st.integers(0, 10**11))
def test_pts_is_the_first_timestamp_at_or_after_a_time(time_base, first_pts, time_us):
    timeline = Timeline(time_base, first_pts)
    pts = timeline.pts(time_us)
    assert timeline.microseconds(pts) >= time_us > timeline.microseconds(pts - 1)


def test_the_index_promises_what_decoding_shows(tmp_path):
    """Also behind an edit list: the second file starts in the middle of a group of pictures, copied."""
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
