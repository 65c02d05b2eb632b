"""A plan has as many questions as the duration needs, in the configured mix, spread over the video."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.questions.plan import FAR, Slot, apportion, open_slots, plan_slots, reach_of
from schemas.base import Span
from schemas.config import QuestionConfig
from schemas.tables import QuestionCategory, QuestionKind, Reach
from tests.support.rows import make_question

MINUTE = 60_000_000


def plan_of(duration_us: int, config: QuestionConfig, video_id: str = "film", seed: int = 0) -> list[Slot]:
    return plan_slots(video_id, duration_us, config, seed)


@pytest.mark.parametrize(("minutes", "questions"), [(1, 6), (12, 6), (30, 15), (60, 30), (180, 40)])
def test_the_number_grows_with_the_duration_between_its_limits(minutes, questions):
    assert len(plan_of(minutes * MINUTE, QuestionConfig())) == questions


def test_a_plan_of_an_hour_has_the_mix_of_longvideo_reason():
    plan = plan_of(60 * MINUTE, QuestionConfig())
    assert Counter(slot.category for slot in plan) == {
        QuestionCategory.TEMPORAL: 11,
        QuestionCategory.GOAL: 11,
        QuestionCategory.PLOT: 7,
        QuestionCategory.SPATIAL: 1,
    }
    assert sum(slot.kind is QuestionKind.CHOICE for slot in plan) == round(30 * 52 / 124)
    assert sum(slot.reach is Reach.FAR for slot in plan) == 9


@given(
    minutes=st.integers(2, 300),
    choice=st.floats(0, 1),
    far=st.floats(0, 1),
    categories=st.lists(st.sampled_from(list(QuestionCategory)), min_size=1, unique=True),
)
def test_shares_hold_to_one_question(minutes, choice, far, categories):
    config = QuestionConfig(choice_share=choice, far_share=far, categories=tuple(categories))
    plan = plan_of(minutes * MINUTE, config)
    assert abs(sum(slot.kind is QuestionKind.CHOICE for slot in plan) - choice * len(plan)) <= 1
    assert far * len(plan) <= sum(slot.reach is Reach.FAR for slot in plan) + 1e-9
    assert {slot.category for slot in plan} <= set(categories)
    assert all(0 <= time < minutes * MINUTE for slot in plan for time in slot.around_us)
    for slot in plan:
        assert len(slot.around_us) == (2 if slot.reach is Reach.FAR else 1)
        if slot.reach is Reach.FAR:
            assert slot.around_us[1] - slot.around_us[0] >= FAR * minutes * MINUTE


def test_slots_of_a_category_are_spread_over_the_video():
    plan = plan_of(60 * MINUTE, QuestionConfig(far_share=0.0))
    times = [slot.around_us[0] for slot in plan if slot.category is QuestionCategory.GOAL]
    assert times == sorted(times)
    assert times[0] < 6 * MINUTE and times[-1] > 54 * MINUTE


def test_over_many_videos_every_category_has_all_kinds_and_reaches():
    slots = [slot for number in range(300) for slot in plan_of(10 * MINUTE, QuestionConfig(), f"film{number}")]
    temporal = [slot for slot in slots if slot.category is QuestionCategory.TEMPORAL]
    for share, value in ((2 / 6, Reach.FAR), (3 / 6, QuestionKind.CHOICE)):
        found = sum(value in slot.cell for slot in temporal) / len(temporal)
        assert found == pytest.approx(share, abs=0.08)
    assert plan_of(10 * MINUTE, QuestionConfig()) == plan_of(10 * MINUTE, QuestionConfig())
    assert plan_of(60 * MINUTE, QuestionConfig()) != plan_of(60 * MINUTE, QuestionConfig(), seed=1)


def test_a_kept_question_fills_a_slot_of_its_own_cell():
    config = QuestionConfig(min_questions=4, categories=("plot",), kinds=("choice",), far_share=0.5)
    plan = plan_of(2 * MINUTE, config)
    assert Counter(slot.reach for slot in plan) == {Reach.FAR: 2, Reach.NEAR: 2}
    near = make_question(1)
    far = make_question(2).model_copy(update={"reach": Reach.FAR})
    assert open_slots(plan, []) == plan
    assert Counter(slot.reach for slot in open_slots(plan, [near, far])) == {Reach.FAR: 1, Reach.NEAR: 1}
    assert [slot.reach for slot in open_slots(plan, [near] * 4)] == [Reach.FAR] * 2


@given(total=st.integers(0, 200), weights=st.lists(st.floats(0, 10), min_size=1, max_size=6).filter(any))
def test_apportioned_numbers_add_up_and_are_within_one_of_their_share(total, weights):
    found = apportion(total, dict(enumerate(weights)))
    assert sum(found.values()) == total
    assert all(abs(found[i] - total * weight / sum(weights)) < 1 for i, weight in enumerate(weights))


def test_without_a_positive_weight_nothing_can_be_apportioned():
    with pytest.raises(ValueError, match="no positive one"):
        apportion(3, {"plot": 0.0})


def test_reach_is_measured_between_the_first_and_the_last_part():
    def reach(*seconds):
        return reach_of([Span(start_us=s * 1_000_000, end_us=(s + 10) * 1_000_000) for s in seconds], 300_000_000)

    assert reach(0) is Reach.NEAR
    assert reach(0, 100) is Reach.NEAR
    assert reach(0, 110) is Reach.FAR
    assert reach(280, 5) is Reach.FAR
