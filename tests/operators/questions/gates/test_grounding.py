"""The checks against captions: what a judge reads, and what follows from its answers."""

import pytest

from operators.execution.stage import Stage
from operators.questions.gates.grounding import check_evidence, check_parts, check_timeline, tell_evidence
from operators.questions.outcome import Material
from schemas.base import Span
from schemas.config import Role
from schemas.tables import Check, Question, QuestionKind, Reach
from tests.support.event_world import CLIP_US, EventWorld, FakeModels, Query, make_event_question
from tests.support.openai_server import last_text
from tests.support.rows import make_video

PROMPTS = ("answer_choice", "answer_open", "collect_notes", "judge")


@pytest.fixture
def world():
    return EventWorld(60, seed=5, words=70)


@pytest.fixture
def run(stages, server, world):
    """Runs one gate on one question; returns the question after it, and the reason of its problem or None."""

    def run_gate(gate, question: Question, **models):
        server.script = FakeModels(world)
        found = []

        def check(context, videos, captions):
            found.extend(gate(Material(context, videos[0], captions, None), [question]))
            yield from ()

        stage = Stage(
            name="question", version=1, row=Question, reads={"videos": "ingest", "captions": "caption"}, run=check,
            section=lambda config: None, prompts=PROMPTS, roles=(Role.JUDGE,),
        )  # fmt: skip
        video = make_video("film").model_copy(update={"duration_us": world.duration_us})
        stages.run(stage, [video], world.captions(), models=models)
        [outcome] = found
        return outcome.question, outcome.problem.reason if outcome.problem else None

    return run_gate


def who(world: EventWorld, *clips: int) -> Question:
    """Who is seen in the first of these clips, with all of them as evidence."""
    events = [world.events[clip] for clip in clips]
    query = Query("who", (events[0].thing,))
    return make_event_question(world, query, events, 1, QuestionKind.CHOICE, query.answer(events))


def test_evidence_that_answers_the_question_is_enough(run, world, server):
    question, reason = run(check_evidence, who(world, 7))
    assert reason is None
    [trial] = question.checks
    assert (trial.check, trial.n, trial.correct, trial.passed) == (Check.GROUNDED, 3, 3, True)
    assert all(world.events[7].text in last_text(seen.body) for seen in server.requests)
    assert not any(world.events[8].text in last_text(seen.body) for seen in server.requests)


def test_evidence_that_shows_something_else_is_not(run, world):
    elsewhere = who(world, 7).model_copy(update={"evidence": (world.events[30].span,)})
    question, reason = run(check_evidence, elsewhere)
    assert reason == "not_grounded"
    assert set(question.checks[0].answers) == {"unknown"}


@pytest.mark.parametrize("tokens", [32_768, 6_000])
def test_what_is_right_in_the_evidence_must_be_right_over_the_whole_video(run, world, tokens, server):
    """With the smaller context the judge takes notes on parts of the video."""
    person = next(
        each for each in (event.person for event in world.events) if sum(e.person == each for e in world.events) > 2
    )
    own = [event for event in world.events if event.person == person]
    query = Query("last", (person,))
    false = make_event_question(world, query, [own[-2]], 1, QuestionKind.OPEN)
    assert run(check_evidence, false)[1] is None
    assert run(check_timeline, false, judge={"context_tokens": tokens})[1] == "not_unique"
    true = make_event_question(world, query, [own[-1]], 2, QuestionKind.OPEN)
    assert run(check_timeline, true, judge={"context_tokens": tokens})[1] is None
    noted = any(seen.body["response_format"]["json_schema"]["name"] == "Notes" for seen in server.requests)
    assert noted == (tokens == 6_000)


def test_a_part_without_which_the_question_is_answered_is_removed(run, world):
    question, reason = run(check_parts, who(world, 7, 40))
    assert reason is None
    assert question.evidence == (world.events[7].span,)
    assert question.reach is Reach.NEAR
    assert [(trial.check, trial.passed) for trial in question.checks] == [
        (Check.PARTS, True),
        (Check.PARTS, False),
        (Check.GROUNDED, True),
    ]


def test_parts_that_are_all_needed_stay_and_make_the_question_far(run, world):
    events = [world.events[clip] for clip in (3, 20, 50)]
    query = Query("order", tuple(sorted(event.thing for event in events)))
    written = make_event_question(world, query, events, 1, QuestionKind.OPEN)
    question, _ = run(check_parts, written)
    assert question.evidence == written.evidence
    assert question.reach is Reach.FAR
    assert all(trial.passed for trial in question.checks)


def test_of_a_long_part_only_the_minute_stays_that_answers_the_question(run, world):
    wide = Span(start_us=2 * CLIP_US + 1, end_us=30 * CLIP_US)
    question, reason = run(check_parts, who(world, 7).model_copy(update={"evidence": (wide,)}))
    assert reason is None
    assert question.evidence == (Span(start_us=7 * CLIP_US, end_us=13 * CLIP_US),)
    assert question.checks[-1].check is Check.GROUNDED


def test_a_long_part_that_is_needed_from_end_to_end_stays_as_it_was_written(run, world):
    events = [world.events[clip] for clip in (3, 9, 15, 21)]
    query = Query("order", tuple(sorted(event.thing for event in events)))
    written = make_event_question(world, query, events, 1, QuestionKind.OPEN)
    whole = written.model_copy(update={"evidence": (Span(start_us=3 * CLIP_US, end_us=22 * CLIP_US),)})
    question, _ = run(check_parts, whole)
    assert question.evidence == whole.evidence
    assert len(question.checks) == 4


def test_evidence_is_written_with_its_gaps(world):
    spans = [world.events[clip].span for clip in (3, 4, 9)]
    lines = tell_evidence(world.captions(), spans).splitlines()
    assert [line[:5] for line in lines] == ["00:30", "00:40", "(othe", "01:30"]
    assert tell_evidence(world.captions(), [Span(start_us=3 * CLIP_US + 1, end_us=3 * CLIP_US + 2)]) == lines[0]
