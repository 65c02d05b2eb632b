"""The frames check: the viewer, a VLM that did not write the captions, answers from frames of the evidence.

It finds what the captioner invented, which no check against the captions can find.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from operators.models.client import TimedFrame
from operators.process.isolate import ChildFailed
from operators.questions.gates.grounding import PROMPTS, agreement_test
from operators.questions.outcome import Material, Outcome, Problem, with_trial
from operators.questions.trials import TrialSpec, run_trials
from operators.store.content_store import SourceUnavailable
from operators.video.decode.packets import UnreadableVideo
from operators.vision.request_frames import decode_frames, fetch_frame_source
from schemas.base import Span
from schemas.config import Role
from schemas.tables import Check, Question


def check_frames(material: Material, questions: Sequence[Question]) -> list[Outcome]:
    """Reject questions that the viewer does not answer as written from frames of their evidence.

    Without a viewer all questions pass, and have no trial of this check.
    """
    context = material.context
    viewer = context.models.get(Role.VIEWER)
    if viewer is None or not questions:
        return [Outcome(question) for question in questions]
    settings = context.config.verify
    times = {each.question_id: choose_times(each.evidence, settings.frames) for each in questions}
    try:
        frames = _decode(material, list(times.values()))
    except (SourceUnavailable, UnreadableVideo, ChildFailed) as error:
        problem = Problem(error.reason, f"no frames for the viewer from video {material.video.video_id}: {error}")
        return [Outcome(question, problem) for question in questions]
    rule = agreement_test(settings)
    specs = [TrialSpec(each, story="", frames=_select(frames, times[each.question_id])) for each in questions]
    prompts = {kind: context.prompts[prompt] for kind, prompt in PROMPTS.items()}
    outcomes = []
    for result in run_trials(context, Check.FRAMES, viewer, prompts, specs, rule):
        found = result.find_problem(rule)
        if found is None and not rule.decide(result.correct, result.wrong):
            found = Problem(
                "not_visible",
                f"the viewer answers as {result.question.answer!r} from frames of its evidence in {result.correct} of "
                f"{len(result.answers)} answers ({result.unknown} times it could not be told); the captions may state "
                f"what the video does not show",
            )
        outcomes.append(Outcome(with_trial(result.question, result.trial(passed=found is None)), found))
    return outcomes


def choose_times(evidence: Sequence[Span], count: int) -> tuple[int, ...]:
    """Times in microseconds of at most `count` frames, evenly spaced over the evidence, at least one in each part."""
    total = sum(span.end_us - span.start_us for span in evidence)
    times: set[int] = set()
    for span in evidence:
        length = span.end_us - span.start_us
        own = max(1, count * length // total)
        times |= {span.start_us + length * (2 * index + 1) // (2 * own) for index in range(own)}
    return tuple(sorted(times))


def _decode(material: Material, times_us: Sequence[Sequence[int]]) -> dict[int, TimedFrame]:
    """The frames of all questions, by the time that was requested.

    Raises:
        SourceUnavailable: the source is missing or has changed.
        UnreadableVideo: the video cannot be read.
        ChildFailed: the child process crashed or exceeded a limit.
    """
    context, side = material.context, material.context.config.verify.frame_side
    shortest_us = min((later - earlier for own in times_us for earlier, later in pairwise(own)), default=1_000_000)
    path = fetch_frame_source(context, material.video, 1_000_000 / shortest_us, side)
    every = sorted({time for own in times_us for time in own})
    return dict(zip(every, decode_frames(path, every, side), strict=True))


def _select(frames: dict[int, TimedFrame], times_us: Sequence[int]) -> tuple[TimedFrame, ...]:
    """The frames at these times, each frame once."""
    chosen = {frames[time].time_us: frames[time] for time in times_us}
    return tuple(chosen[time] for time in sorted(chosen))
