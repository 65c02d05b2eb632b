import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.shot_agreement import Score, agreement


def test_a_boundary_in_or_near_a_transition_is_its_own():
    cut, fade = (1_000, 1_000), (5_000, 6_000)
    assert agreement([1_040, 5_500], [cut, fade], 50).found == (True, True)
    assert agreement([1_051, 6_051], [cut, fade], 50).found == (False, False)
    assert agreement([949, 4_949], [cut, fade], 50).right == (False, False)


def test_one_boundary_counts_for_one_transition_and_one_transition_for_one_boundary():
    twice = agreement([5_100, 5_900], [(5_000, 6_000)], 50)
    assert (twice.found, twice.right) == ((True,), (True, False))
    shared = agreement([1_050], [(1_000, 1_000), (1_100, 1_100)], 60)
    assert (shared.found, shared.right) == ((True, False), (True,))


@given(st.lists(st.integers(0, 1000), unique=True).map(sorted), st.integers(0, 5))
def test_boundaries_agree_with_themselves(boundaries, tolerance):
    matched = agreement(boundaries, [(time, time) for time in boundaries], tolerance)
    assert all(matched.found) and all(matched.right)


def test_scores_add_up_and_nothing_to_find_is_no_fault():
    score = Score(found=3, missed=1, false=2) + Score(found=1)
    assert (score.precision, score.recall) == (4 / 6, 4 / 5)
    assert score.f1 == pytest.approx(2 * score.precision * score.recall / (score.precision + score.recall))
    assert (Score().precision, Score().recall, Score().f1) == (1.0, 1.0, 1.0)
    assert Score(false=1).f1 == Score(missed=1).f1 == 0.0
