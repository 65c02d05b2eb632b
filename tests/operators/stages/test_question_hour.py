"""A simulated hour: what is kept is true of the whole video, whatever part of it the writer was shown."""

import pytest

from operators.questions.scenes import plan_scenes
from operators.questions.story import summarize_by_program
from operators.stages.question import STAGE
from schemas.tables import Outline, Scene, VideoCategory
from tests.support.event_world import EventWorld, FakeModels
from tests.support.rows import make_source, make_video


def outline_of(world: EventWorld) -> Outline:
    scenes = [
        Scene(start_us=each[0].start_us, end_us=each[-1].end_us, title="", summary=summarize_by_program(each))
        for each in plan_scenes(world.captions())
    ]
    return Outline(
        video_id=world.video_id, category=VideoCategory.UNKNOWN, summary="", scenes=tuple(scenes), entities=(),
        provenance=(),
    )  # fmt: skip


@pytest.fixture
def run_hour(stages, server):
    def run(world: EventWorld, reasoner_tokens: int, judge_tokens: int, **question):
        server.script = FakeModels(world)
        video = make_video(world.video_id).model_copy(update={"duration_us": world.duration_us})
        return stages.run(
            STAGE, [video], world.captions(), [outline_of(world)], [make_source(world.video_id)],
            question={"writers": ["model"], **question},
            models={"reasoner": {"context_tokens": reasoner_tokens}, "judge": {"context_tokens": judge_tokens}},
        )  # fmt: skip

    return run


@pytest.mark.parametrize("planned", [10, pytest.param(30, marks=pytest.mark.slow)])
def test_kept_questions_are_true_although_the_writer_reads_a_part_of_the_hour(run_hour, planned):
    world = EventWorld(360, seed=1, words=70)
    questions = run_hour(world, 32_000, 32_000, max_questions=planned)
    kept = [each for each in questions if each.passed]
    false = [each for each in questions if not world.is_true(each)]
    assert len(kept) >= planned // 2
    assert len(false) >= planned // 3, "the writer errs often, because it takes a part for the whole"
    assert sum(map(world.is_true, kept)) >= 0.95 * len(kept)


@pytest.mark.parametrize("planned", [10, pytest.param(30, marks=pytest.mark.slow)])
def test_most_of_the_plan_is_filled_when_the_hour_fits(run_hour, stages, planned):
    world = EventWorld(360, seed=2)
    questions = run_hour(world, 65_536, 65_536, max_questions=planned)
    kept = [each for each in questions if each.passed]
    assert len(kept) >= 0.8 * planned
    assert all(map(world.is_true, kept))
    failed = {each.question_id for each in questions if not each.passed}
    assert {reject.key for reject in stages.rejects} == failed
