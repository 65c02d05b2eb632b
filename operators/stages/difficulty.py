"""Question, Trial -> Trial: measures how often the target model answers each verified question correctly, as trained.

The target gets the user's turn of the trainer (`schemas.answer_format.user_text`) and the frames that the trainer would
show (`schemas.frame_policy`), and its answers are parsed and graded as by the trainer's rewards. A target without
vision gets the captions in place of frames. What the target never answered rightly is requested from the viewer, if it
is another model. Stage `assemble` decides what a pass rate means for the splits. A question without a pass rate,
because the target answered no trial or the video's frames could not be read, is rejected.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from operators.execution.stage import Context, Stage
from operators.models.client import TimedFrame
from operators.process.isolate import ChildFailed
from operators.questions.gates.grounding import agreement_test
from operators.questions.outcome import Problem, reject_question
from operators.questions.story import ContextTooSmall, story_room, tell
from operators.questions.trials import FixedTrials, TrialSpec, run_trials, sample_options, user_turn
from operators.store.content_store import SourceUnavailable
from operators.video.decode.packets import UnreadableVideo
from operators.vision.request_frames import decode_frames, fetch_frame_source
from schemas.base import Row
from schemas.config import Role
from schemas.frame_policy import frame_times, pixel_limits
from schemas.tables import Caption, Check, Outline, Question, QuestionKind, Reasoning, Trial, Video

PROMPT = "difficulty"


def run(
    context: Context,
    videos: Sequence[Video],
    captions: Sequence[Caption],
    questions: Sequence[Question],
    reasonings: Sequence[Reasoning],
    outlines: Sequence[Outline],
) -> Iterator[Row]:
    """Yield a trial of check `difficulty` for each question with a chain of thought, and a reject for each failure.

    A question with too few answered trials has both a trial and a reject. One without a right answer of the target has
    a second trial, of check `solvable`, if there is a viewer.
    """
    reasoned = {reasoning.question_id for reasoning in reasonings}
    for video in videos:
        own = [each for each in questions if each.video_id == video.video_id and each.question_id in reasoned]
        if own:
            yield from _measure(context, video, captions, own, outlines[0] if outlines else None)


def _measure(
    context: Context,
    video: Video,
    captions: Sequence[Caption],
    questions: Sequence[Question],
    outline: Outline | None,
) -> Iterator[Row]:
    target = context.models[Role.TARGET]
    try:
        frames = _fetch_frames(context, video, target.model) if target.vision else ()
    except (SourceUnavailable, UnreadableVideo, ChildFailed) as error:
        for question in questions:
            message = f"question {question.question_id}: no frames for the target from video {video.video_id}: {error}"
            yield context.reject(question.question_id, error.reason, message)
        return
    prompt = context.prompts[PROMPT]
    options = {each.question_id: sample_options(context, each) for each in questions}
    try:
        longest = max((user_turn(each, options[each.question_id]) for each in questions), key=len)
        story = "" if target.vision else tell(target, captions, outline, story_room(target, prompt, turn=longest)).text
    except ContextTooSmall as error:
        for question in questions:
            yield reject_question(context, question, Problem("context_too_small", str(error)))
        return
    specs = [TrialSpec(each, story, frames, as_trained=options[each.question_id]) for each in questions]
    rule = FixedTrials(context.config.difficulty.trials)
    prompts = dict.fromkeys(QuestionKind, prompt)
    results = run_trials(context, Check.DIFFICULTY, target, prompts, specs, rule)
    problems = {result.question.question_id: result.find_problem(rule) for result in results}
    unsolved = [
        spec
        for spec, result in zip(specs, results, strict=True)
        if result.correct == 0 and problems[spec.question.question_id] is None
    ]
    confirmed: list[Trial] = []
    try:
        confirmed = _call_viewer(context, video, unsolved)
    except (SourceUnavailable, UnreadableVideo, ChildFailed) as error:
        failed = Problem(error.reason, f"no frames for the viewer from video {video.video_id}: {error}")
        problems |= {spec.question.question_id: failed for spec in unsolved}
    for result in results:
        problem = problems[result.question.question_id]
        yield result.trial(passed=problem is None)
        if problem is not None:
            yield reject_question(context, result.question, problem)
    yield from confirmed


def _call_viewer(context: Context, video: Video, unsolved: Sequence[TrialSpec]) -> list[Trial]:
    """Whether the viewer answers questions rightly, from frames of the whole video and in the format of the target.

    Empty without a viewer, or if the target is the same model.

    Raises:
        SourceUnavailable, UnreadableVideo, ChildFailed: as `_fetch_frames`.
    """
    viewer = context.models.get(Role.VIEWER)
    if viewer is None or viewer.model == context.models[Role.TARGET].model or not unsolved:
        return []
    frames = _fetch_frames(context, video, viewer.model)
    specs = [replace(spec, story="", frames=frames) for spec in unsolved]
    rule = replace(agreement_test(context.config.verify), max_trials=context.config.difficulty.trials)
    prompts = dict.fromkeys(QuestionKind, context.prompts[PROMPT])
    return [
        result.trial(passed=result.find_problem(rule) is None and rule.decide(result.correct, result.wrong) is True)
        for result in run_trials(context, Check.SOLVABLE, viewer, prompts, specs, rule)
    ]


def _fetch_frames(context: Context, video: Video, model: str) -> tuple[TimedFrame, ...]:
    """The frames of the whole video that the trainer would show to this model.

    Raises:
        SourceUnavailable: the source is missing or has changed.
        UnreadableVideo: the video cannot be read, or no model accepts frames of its shape.
        ChildFailed: the decoder crashed or exceeded a limit.
    """
    policy = context.config.difficulty.frame_policy
    count = policy.count(video.duration_us, video.fps)
    try:
        height, width = pixel_limits(model).frame_size(video.height, video.width, count, policy.max_video_tokens)
    except ValueError as error:
        raise UnreadableVideo("frame_shape", f"{error}; crop it, or remove it from the source") from error
    path = fetch_frame_source(context, video, count * 1_000_000 / video.duration_us, max(width, height))
    return decode_frames(path, frame_times(video.duration_us, count), (width, height))


STAGE = Stage(
    name="difficulty",
    version=3,
    row=Trial,
    reads={
        "videos": "ingest",
        "captions": "caption",
        "questions": "question",
        "reasonings": "reason",
        "outlines": "outline",
    },
    run=run,
    section=lambda config: config.difficulty,
    prompts=(PROMPT, "judge"),
    roles=(Role.TARGET, Role.JUDGE, Role.VIEWER),
)
