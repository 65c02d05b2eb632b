from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from operators.video.clips import plan_clips
from schemas.config import ClipMode, SplitConfig
from schemas.tables import Boundary

SECOND = 1_000_000


@st.composite
def splits(draw):
    """Any legal configuration of shots, bounds to the tenth of a second."""
    shortest = draw(st.integers(5, 300))
    longest = draw(st.integers(3 * shortest // 2 + 1, 5 * shortest).filter(lambda tenths: tenths >= 10))
    wish = draw(st.integers(max(10, shortest), min(1200, longest)))
    return SplitConfig(min_seconds=shortest / 10, clip_seconds=wish / 10, max_seconds=longest / 10)


durations = st.integers(1, 400 * SECOND)
shots = st.lists(st.integers(0, 420 * SECOND), max_size=60).map(lambda times: sorted({0, *times}))


def assert_tiles(clips, duration):
    assert clips[0].start_us == 0
    assert clips[-1].end_us == duration
    assert all(before.end_us == after.start_us for before, after in pairwise(clips))
    assert all(clip.end_us > clip.start_us for clip in clips)
    assert [clip.boundary is Boundary.END for clip in clips] == [False] * (len(clips) - 1) + [True]


def divisible(length, config):
    """Is there a number of clips that such a length can be divided into?"""
    shortest, longest = round(config.min_seconds * SECOND), round(config.max_seconds * SECOND)
    return -(-length // longest) * shortest <= length if length else True


@given(durations, shots, splits())
def test_clips_tile_the_video_within_the_bounds(duration, shot_starts, config):
    clips = plan_clips(duration, shot_starts, config)
    assert_tiles(clips, duration)
    if divisible(duration, config):
        lengths = [clip.end_us - clip.start_us for clip in clips]
        assert config.min_seconds * SECOND <= min(lengths)
        assert max(lengths) <= config.max_seconds * SECOND
    else:
        assert len(clips) == 1


@given(durations, shots, splits())
def test_a_clip_ends_on_a_shot_whenever_one_lies_where_it_may_end(duration, shot_starts, config):
    assume(divisible(duration, config))
    for clip in plan_clips(duration, shot_starts, config):
        reachable = [
            shot
            for shot in shot_starts
            if config.min_seconds * SECOND <= shot - clip.start_us <= config.max_seconds * SECOND
            and shot < duration
            and divisible(duration - shot, config)
        ]
        if clip.boundary is Boundary.SHOT:
            assert clip.end_us in shot_starts
        elif clip.boundary is Boundary.FIXED:
            assert not reachable
        wish = config.clip_seconds * SECOND
        off = abs(clip.end_us - clip.start_us - wish)
        assert all(off <= abs(shot - clip.start_us - wish) for shot in reachable)


@given(durations, shots, st.integers(10, 1200))
def test_fixed_clips_are_equal_but_for_the_last(duration, shot_starts, tenths):
    seconds = tenths / 10
    config = SplitConfig(mode=ClipMode.FIXED, clip_seconds=seconds, min_seconds=seconds / 2, max_seconds=2 * seconds)
    clips = plan_clips(duration, shot_starts, config)
    assert_tiles(clips, duration)
    assert all(clip.end_us - clip.start_us == tenths * SECOND // 10 for clip in clips[:-1])
    assert all(clip.boundary is Boundary.FIXED for clip in clips[:-1])
    last = clips[-1].end_us - clips[-1].start_us
    assert last < 1.5 * seconds * SECOND
    assert len(clips) == 1 or last >= 0.5 * seconds * SECOND


def ends(duration, shot_starts, **settings):
    spans = plan_clips(duration * SECOND, [shot * SECOND for shot in shot_starts], SplitConfig(**settings))
    return [(span.end_us / SECOND, span.boundary.value) for span in spans]


def test_examples():
    assert ends(30, [0, 9, 11, 21]) == [(9, "shot"), (21, "shot"), (30, "end")]
    assert ends(29, [0, 3, 5]) == [
        (pytest.approx(29 / 3, abs=1e-5), "fixed"),
        (pytest.approx(58 / 3, abs=1e-5), "fixed"),
        (29, "end"),
    ]
    assert ends(40, [0, 20]) == [(10, "fixed"), (20, "shot"), (30, "fixed"), (40, "end")]
    assert ends(5, [0, 2]) == [(5, "end")]
    assert ends(14, [0, 7]) == [(14, "end")]
    assert ends(24, [0], mode="fixed") == [(10, "fixed"), (24, "end")]
    assert ends(25, [0], mode="fixed") == [(10, "fixed"), (20, "fixed"), (25, "end")]
