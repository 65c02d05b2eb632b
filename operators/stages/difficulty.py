"""Question, Trial -> Trial: measures how often the target model answers each verified question correctly.

The target receives evenly spaced frames of the whole video, or its captions if the model has no vision. Stage
`assemble` decides what a pass rate means for the splits. A question without a pass rate, because the target answered no
trial or the video's frames could not be read, is rejected.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from operators.execution.stage import Context, Stage
from operators.models.client import TimedFrame
from operators.process.isolate import ChildFailed, run_isolated
from operators.questions.storyboard import storyboard, tokens_for
from operators.questions.trials import TrialSpec, run_trials
from operators.store.content_store import SourceUnavailable
from operators.video.decode.frames import frames_at
from operators.video.decode.packets import UnreadableVideo
from operators.vision.request_frames import encode_frames, fetch_frame_source
from schemas.base import Row
from schemas.config import Role
from schemas.tables import Caption, Check, Question, QuestionKind, Trial, Video

PROMPTS = {QuestionKind.CHOICE: "difficulty_choice", QuestionKind.OPEN: "difficulty_open"}
DECODE_SECONDS = 3600.0
"""Time limit for decoding the frames of one video, in seconds."""


def run(
    context: Context,
    videos: Sequence[Video],
    captions: Sequence[Caption],
    questions: Sequence[Question],
    trials: Sequence[Trial],
) -> Iterator[Row]:
    """Yield a trial of check `difficulty` for each question that passed every check, and a reject for each failure.

    A question whose trials were all unanswered has both a trial and a reject.
    """
    for video in videos:
        verified = _select_verified([each for each in questions if each.video_id == video.video_id], trials)
        if verified:
            yield from _measure(context, video, captions, verified)


def _select_verified(questions: Sequence[Question], trials: Sequence[Trial]) -> list[Question]:
    tried = {trial.question_id for trial in trials}
    failed = {trial.question_id for trial in trials if not trial.passed}
    return [question for question in questions if question.question_id in tried - failed]


def _measure(
    context: Context, video: Video, captions: Sequence[Caption], questions: Sequence[Question]
) -> Iterator[Row]:
    target = context.models[Role.TARGET]
    try:
        frames = _fetch_frames(context, video) if target.vision else ()
    except (SourceUnavailable, UnreadableVideo, ChildFailed) as error:
        for question in questions:
            message = f"question {question.question_id}: no frames for the target from video {video.video_id}: {error}"
            yield context.reject(question.question_id, error.reason, message)
        return
    story = "" if target.vision else storyboard(captions, tokens_for(target))
    specs = [TrialSpec(question, context.config.difficulty.trials, story, frames) for question in questions]
    prompts = {kind: context.prompts[prompt] for kind, prompt in PROMPTS.items()}
    for result in run_trials(context, Check.DIFFICULTY, target, prompts, specs):
        problem = result.unanswered(context)
        yield result.trial(passed=problem is None)
        if problem is not None:
            yield problem


def _fetch_frames(context: Context, video: Video) -> tuple[TimedFrame, ...]:
    """Frames from the middles of equal parts of the whole video.

    They are decoded in a child process, so that a crash or a hang of the decoder cannot stop the stage.

    Raises:
        SourceUnavailable: the source is missing or has changed.
        UnreadableVideo: the video cannot be read.
        ChildFailed: the child process crashed or exceeded a limit, such as `DECODE_SECONDS`.
    """
    settings = context.config.difficulty
    count = min(settings.frames, video.frame_count)
    path = fetch_frame_source(context, video, count * 1_000_000 / video.duration_us, settings.frame_side)
    times = [video.duration_us * (2 * index + 1) // (2 * count) for index in range(count)]
    return run_isolated(_decode_frames, path, times, settings.frame_side, timeout_seconds=DECODE_SECONDS)


def _decode_frames(path: Path, times_us: Sequence[int], side: int) -> tuple[TimedFrame, ...]:
    return encode_frames(frames_at(path, times_us, side))


STAGE = Stage(
    name="difficulty",
    version=1,
    row=Trial,
    reads={"videos": "ingest", "captions": "caption", "questions": "question", "trials": "verify"},
    run=run,
    section=lambda config: config.difficulty,
    prompts=(*PROMPTS.values(), "judge"),
    roles=(Role.TARGET, Role.JUDGE),
)
