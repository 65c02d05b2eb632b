from itertools import combinations, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.video.clips.planning import plan_clips
from schemas.config import ClipMode, SplitConfig
from schemas.tables import Boundary

SECOND = 1_000_000


@st.composite
def splits(draw):
    """Any valid split configuration, with lengths that are multiples of 0.1 s."""
    shortest = draw(st.integers(5, 300))
    longest = draw(st.integers(3 * shortest // 2 + 1, 5 * shortest).filter(lambda tenths: tenths >= 10))
    target = draw(st.integers(max(10, shortest), min(1200, longest)))
    return SplitConfig(min_seconds=shortest / 10, clip_seconds=target / 10, max_seconds=longest / 10)


@st.composite
def shots(draw, most=60, until=420):
    """Shot starts in microseconds, and the boundary distance (0 to 1) at each start but the first."""
    later = draw(st.lists(st.integers(1, until * SECOND), max_size=most, unique=True))
    unlike = draw(st.lists(st.floats(0, 1), min_size=len(later), max_size=len(later)))
    return [0, *sorted(later)], unlike


durations = st.integers(1, 400 * SECOND)


def assert_tiles(clips, duration):
    assert clips[0].start_us == 0
    assert clips[-1].end_us == duration
    assert all(before.end_us == after.start_us for before, after in pairwise(clips))
    assert all(clip.end_us > clip.start_us for clip in clips)
    assert [clip.boundary is Boundary.END for clip in clips] == [False] * (len(clips) - 1) + [True]


def one_clip(length, config):
    return config.min_seconds * SECOND <= length <= config.max_seconds * SECOND


def divisible(length, config):
    """Whether this length can be divided into clips within the bounds."""
    shortest, longest = round(config.min_seconds * SECOND), round(config.max_seconds * SECOND)
    return -(-length // longest) * shortest <= length if length else True


def usable_between(start, end, edges, config):
    """Boundaries that leave stretches on both sides that can be divided into clips."""
    return [
        edge
        for edge in edges
        if start < edge < end and divisible(edge - start, config) and divisible(end - edge, config)
    ]


@given(durations, shots(), splits())
def test_clips_tile_the_video_within_the_bounds(duration, shots, config):
    clips = plan_clips(duration, shots[0], config, shots[1])
    assert_tiles(clips, duration)
    if divisible(duration, config):
        assert all(one_clip(clip.end_us - clip.start_us, config) for clip in clips)
    else:
        assert len(clips) == 1


@given(st.integers(1, 60 * SECOND), shots(until=60), splits())
def test_no_clip_ends_inside_a_shot_if_none_has_to(duration, shots, config):
    edges = [edge for edge in shots[0] if edge < duration] + [duration]
    reachable = {0}
    for edge in edges[1:]:
        if any(one_clip(edge - start, config) for start in reachable):
            reachable.add(edge)
    kinds = {clip.boundary for clip in plan_clips(duration, shots[0], config, shots[1])}
    if duration in reachable:
        assert Boundary.FIXED not in kinds
    elif divisible(duration, config):
        assert Boundary.FIXED in kinds


@given(durations, shots(), splits())
def test_where_clips_end_inside_shots_no_boundary_was_skipped(duration, shots, config):
    clips = plan_clips(duration, shots[0], config, shots[1])
    if divisible(duration, config):
        ends = [0] + [clip.end_us for clip in clips if clip.boundary is not Boundary.FIXED]
        inside = [clip.end_us for clip in clips if clip.boundary is Boundary.FIXED]
        for start, end in pairwise(ends):
            if any(start < fixed < end for fixed in inside):
                assert not usable_between(start, end, shots[0], config)


def documented_cost(ends, visual_distance, config):
    """The documented cost of clips with these ends, as a pair to compare in order.

    First the number of clips that end inside a shot. Then the squared relative deviations from the target length, plus
    the visual similarity across each end at a shot start.
    """
    target, cost = config.clip_seconds * SECOND, 0.0
    for start, end in pairwise([0, *ends]):
        room = abs(target - (config.min_seconds if end - start < target else config.max_seconds) * SECOND)
        cost += ((end - start - target) / room) ** 2 if end - start != target else 0
    at_shots = [visual_distance[end] for end in ends[:-1] if end in visual_distance]
    return len(ends) - 1 - len(at_shots), cost + sum(1 - unlike for unlike in at_shots)


def evenly(start, end, config):
    """Clip ends of a stretch divided evenly, with lengths as near to the target as the bounds allow."""
    length = end - start
    fewest, most = -(-length // round(config.max_seconds * SECOND)), length // round(config.min_seconds * SECOND)
    count = 1 if one_clip(length, config) else min(most, max(fewest, round(length / (config.clip_seconds * SECOND))))
    return [start + length * piece // count for piece in range(1, count + 1)]


def all_plans(duration, shot_starts, config):
    """Yield the clip ends of every permitted plan."""
    inner = [edge for edge in shot_starts if 0 < edge < duration]
    for chosen in (chosen for count in range(len(inner) + 1) for chosen in combinations(inner, count)):
        stretches = list(pairwise([0, *chosen, duration]))
        if all(
            divisible(end - start, config)
            and (one_clip(end - start, config) or not usable_between(start, end, inner, config))
            for start, end in stretches
        ):
            yield [end for start, end in stretches for end in evenly(start, end, config)]


@settings(deadline=None, max_examples=300)
@given(
    st.integers(16, 60),
    st.lists(
        st.tuples(st.integers(1, 60), st.sampled_from((0.0, 0.3, 0.7, 1.0))), max_size=9, unique_by=lambda s: s[0]
    ),
    st.sampled_from(((4, 5, 6), (6, 7, 10), (8, 10, 12), (8, 8, 12), (3, 6, 9))),
)
def test_the_plan_is_the_best_of_all(duration, shots, lengths):
    """Times are whole seconds, so that many plans are possible."""
    duration *= SECOND
    config = SplitConfig(min_seconds=lengths[0], clip_seconds=lengths[1], max_seconds=lengths[2])
    visual_distance = {start * SECOND: unlike for start, unlike in sorted(shots)}
    starts = [0, *visual_distance]
    ends = [clip.end_us for clip in plan_clips(duration, starts, config, list(visual_distance.values()))]
    costs = [documented_cost(plan, visual_distance, config) for plan in all_plans(duration, starts, config)]
    assert documented_cost(ends, visual_distance, config) == pytest.approx(min(costs), abs=1e-4)


@given(durations, shots(), st.integers(10, 1200))
def test_fixed_clips_are_equal_but_for_the_last(duration, shots, tenths):
    seconds = tenths / 10
    config = SplitConfig(mode=ClipMode.FIXED, clip_seconds=seconds, min_seconds=seconds / 2, max_seconds=2 * seconds)
    clips = plan_clips(duration, shots[0], config, shots[1])
    assert_tiles(clips, duration)
    assert all(clip.end_us - clip.start_us == tenths * SECOND // 10 for clip in clips[:-1])
    assert all(clip.boundary is Boundary.FIXED for clip in clips[:-1])
    last = clips[-1].end_us - clips[-1].start_us
    assert last < 1.5 * seconds * SECOND
    assert len(clips) == 1 or last >= 0.5 * seconds * SECOND


def ends(duration, shot_starts, visual_distance=None, **config):
    starts_us = [round(shot * SECOND) for shot in shot_starts]
    spans = plan_clips(duration * SECOND, starts_us, SplitConfig(**config), visual_distance)
    return [(pytest.approx(span.end_us / SECOND, abs=1e-5), span.boundary.value) for span in spans]


def test_examples():
    assert ends(30, [0, 9, 11, 21]) == [(11, "shot"), (21, "shot"), (30, "end")]
    assert ends(29, [0, 3, 5]) == [(29 / 3, "fixed"), (58 / 3, "fixed"), (29, "end")]
    assert ends(40, [0, 20]) == [(10, "fixed"), (20, "shot"), (30, "fixed"), (40, "end")]
    assert ends(5, [0, 2]) == [(5, "end")]
    assert ends(14, [0, 7]) == [(14, "end")]
    assert ends(24, [0], mode="fixed") == [(10, "fixed"), (24, "end")]
    assert ends(25, [0], mode="fixed") == [(10, "fixed"), (20, "fixed"), (25, "end")]


def test_a_nearer_boundary_is_skipped_when_it_would_force_a_cut_inside_a_shot():
    assert ends(23, [0, 10, 11.5]) == [(11.5, "shot"), (23, "end")]


def test_a_short_shot_joins_the_neighbour_that_it_resembles():
    assert ends(20, [0, 9, 11], [0.9, 0.1]) == [(9, "shot"), (20, "end")]
    assert ends(20, [0, 9, 11], [0.1, 0.9]) == [(11, "shot"), (20, "end")]


def test_likeness_counts_for_each_shot_start():
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        ends(20, [0, 9, 11], [0.5])


@given(durations, shots(), splits(), st.lists(st.integers(1, 400 * SECOND), max_size=8, unique=True))
def test_clips_end_where_the_format_changes(duration, shots, config, changes):
    changes = sorted(change for change in changes if change < duration)
    clips = plan_clips(duration, shots[0], config, shots[1], [0, *changes])
    assert_tiles(clips, duration)
    ends = {clip.end_us: clip.boundary for clip in clips}
    assert {end for end, kind in ends.items() if kind is Boundary.FORMAT} <= set(changes)
    for before, change, after in zip([0, *changes], changes, [*changes[1:], duration], strict=False):
        if min(change - before, after - change) >= SECOND:
            assert ends[change] is Boundary.FORMAT


def test_what_lies_between_changes_of_format_is_planned_for_itself():
    spans = plan_clips(30 * SECOND, [0, 9 * SECOND], SplitConfig(), None, [0, 10 * SECOND, 10_500_000])
    assert [(span.end_us / SECOND, span.boundary) for span in spans] == [
        (10, Boundary.FORMAT),
        (20, Boundary.FIXED),
        (30, Boundary.END),
    ]
