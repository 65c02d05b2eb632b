"""Question, Trial -> Trial: measures how often the target model answers each verified question correctly, as trained.

The target gets the user's turn of the trainer (`schemas.answer_format.user_text`) and the frames that the trainer would
show (`schemas.frame_policy`), and its answers are parsed and graded as by the trainer's rewards. A target without
vision gets the captions in place of frames. Stage `assemble` decides what a pass rate means for the splits. A question
without a pass rate, because the target answered no trial or the video's frames could not be read, is rejected.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from operators.execution.stage import Context, Stage
from operators.models.client import TimedFrame
from operators.process.isolate import ChildFailed
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

    A question with too few answered trials has both a trial and a reject.
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
    for result in run_trials(context, Check.DIFFICULTY, target, prompts, specs, rule):
        problem = result.find_problem(rule)
        yield result.trial(passed=problem is None)
        if problem is not None:
            yield reject_question(context, result.question, problem)


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
    roles=(Role.TARGET, Role.JUDGE),
)
