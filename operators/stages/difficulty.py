"""Question, Trial -> Trial: measures how often the target model answers each verified question correctly.

The target receives evenly spaced frames of the whole video, or its captions if the model has no vision. Stage
`assemble` decides what a pass rate means for the splits. A question without a pass rate, because the target answered no
trial or the video's frames could not be read, is rejected.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from operators.execution.stage import Context, Stage
from operators.models.client import TimedFrame
from operators.process.isolate import ChildFailed
from operators.questions.outcome import Problem, reject_question
from operators.questions.story import ContextTooSmall, tell
from operators.questions.trials import FixedTrials, TrialSpec, run_trials, shared_room
from operators.store.content_store import SourceUnavailable
from operators.video.decode.packets import UnreadableVideo
from operators.vision.request_frames import decode_frames, fetch_frame_source
from schemas.base import Row
from schemas.config import Role
from schemas.tables import Caption, Check, Outline, Question, QuestionKind, Reasoning, Trial, Video

PROMPTS = {QuestionKind.CHOICE: "difficulty_choice", QuestionKind.OPEN: "difficulty_open"}


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
        frames = _fetch_frames(context, video) if target.vision else ()
    except (SourceUnavailable, UnreadableVideo, ChildFailed) as error:
        for question in questions:
            message = f"question {question.question_id}: no frames for the target from video {video.video_id}: {error}"
            yield context.reject(question.question_id, error.reason, message)
        return
    prompts = {kind: context.prompts[prompt] for kind, prompt in PROMPTS.items()}
    try:
        room = 0 if target.vision else shared_room(target, prompts, questions)
        story = "" if target.vision else tell(target, captions, outline, room).text
    except ContextTooSmall as error:
        for question in questions:
            yield reject_question(context, question, Problem("context_too_small", str(error)))
        return
    specs = [TrialSpec(question, story, frames) for question in questions]
    rule = FixedTrials(context.config.difficulty.trials)
    for result in run_trials(context, Check.DIFFICULTY, target, prompts, specs, rule):
        problem = result.find_problem(rule)
        yield result.trial(passed=problem is None)
        if problem is not None:
            yield reject_question(context, result.question, problem)


def _fetch_frames(context: Context, video: Video) -> tuple[TimedFrame, ...]:
    """Frames from the middles of equal parts of the whole video.

    Raises:
        SourceUnavailable: the source is missing or has changed.
        UnreadableVideo: the video cannot be read.
        ChildFailed: the decoder crashed or exceeded a limit.
    """
    settings = context.config.difficulty
    count = min(settings.frames, video.frame_count)
    path = fetch_frame_source(context, video, count * 1_000_000 / video.duration_us, settings.frame_side)
    times = [video.duration_us * (2 * index + 1) // (2 * count) for index in range(count)]
    return decode_frames(path, times, settings.frame_side)


STAGE = Stage(
    name="difficulty",
    version=2,
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
    prompts=(*PROMPTS.values(), "judge"),
    roles=(Role.TARGET, Role.JUDGE),
)
