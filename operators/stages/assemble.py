"""Questions, reasonings, trials -> Sample: assigns splits by source video, shuffles options, attaches pass rates.

The checks of the whole dataset are here, too: evaluation lists, duplicates across videos, and the longest option.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from operators.curation.balance import find_longest_surplus, length_factor
from operators.curation.contamination import ListedQuestions
from operators.curation.duplicates import find_duplicates
from operators.curation.evaluation_lists import ListedItem, list_digests, read_evaluation_lists, video_names
from operators.execution.stage import SOURCE, Context, Scope, Stage
from operators.questions.trials import sample_options
from operators.video.timecode import format_span
from schemas.answer_format import LETTERS, format_answer, problem_text
from schemas.base import digest
from schemas.config import AssembleConfig, BuildConfig
from schemas.provenance import StepProvenance, list_steps
from schemas.sample import Sample
from schemas.tables import (
    Check,
    Outline,
    Question,
    QuestionKind,
    Reasoning,
    Reject,
    Source,
    Split,
    Trial,
    Video,
    VideoCategory,
)

log = logging.getLogger(__name__)

_UNKNOWN = VideoCategory.UNKNOWN


def run(
    context: Context,
    videos: list[Video],
    questions: list[Question],
    reasonings: list[Reasoning],
    difficulties: list[Trial],
    outlines: list[Outline],
    sources: list[Source],
) -> Iterator[Sample | Reject]:
    """Yield one sample for each question that passed every check, in the order of video and question ids.

    A video without a category in the source list has that of its outline.
    A question whose pass rate its split does not take (`assemble.pass_rates`) becomes a reject.
    """
    config = context.config.assemble
    listed = read_evaluation_lists(config.decontamination)
    hints = {source.source_id: source.split_hint for source in sources} | dict.fromkeys(
        find_listed_videos(sources, listed), Split.EVAL
    )
    groups = near_duplicate_groups(videos, config.near_duplicate_bits)
    split_of = assign_splits(groups, hints, config, context.config.seed)
    passed = [trial for trial in difficulties if trial.passed]
    difficulty_of = {trial.question_id: trial for trial in passed if trial.check is Check.DIFFICULTY}
    solvable = {trial.question_id: trial for trial in passed if trial.check is Check.SOLVABLE}
    candidates = []
    for question in sorted(questions, key=lambda question: (question.video_id, question.question_id)):
        difficulty = difficulty_of.get(question.question_id)
        if difficulty is None:
            continue  # an earlier stage has rejected and counted it
        split, is_solvable = split_of[question.video_id], question.question_id in solvable
        if objection := _reject_by_pass_rate(context, question, difficulty, split, is_solvable):
            yield objection
        else:
            candidates.append(question)
    rejects = {reject.key: reject for reject in _check_dataset(context, candidates, groups, listed)}
    outline_of = {outline.video_id: outline for outline in outlines}
    category_of = {outline.video_id: outline.category for outline in outlines}
    category_of |= {source.source_id: source.category for source in sources if source.category is not _UNKNOWN}
    video_of = {video.video_id: video for video in videos}
    reasoning_of = {reasoning.question_id: reasoning for reasoning in reasonings}
    for question in candidates:
        yield rejects.get(question.question_id) or make_sample(
            context,
            video_of[question.video_id],
            category_of.get(question.video_id, _UNKNOWN),
            question,
            reasoning_of[question.question_id],
            difficulty_of[question.question_id],
            split_of[question.video_id],
            outline_of.get(question.video_id),
            solvable.get(question.question_id),
        )


def _check_dataset(
    context: Context, questions: Sequence[Question], groups: Sequence[Sequence[Video]], listed: Sequence[ListedItem]
) -> Iterator[Reject]:
    """Yield a reject for each question that the checks of the whole dataset drop. Each check gets what is left."""
    config = context.config.assemble
    contaminated = ListedQuestions(listed, config.contamination_overlap)
    left = []
    for question in questions:
        if match := contaminated.find(question.question):
            yield _reject(context, question, "contaminated", f"{match}; it must not be trained on")
        else:
            left.append(question)
    group_of = {video.video_id: number for number, group in enumerate(groups) for video in group}
    duplicates = find_duplicates(left, group_of, config.duplicate_similarity)
    for question in left:
        if duplicate := duplicates.get(question.question_id):
            yield _reject(context, question, "duplicate_across_videos", str(duplicate))
    if config.balance_length:
        for question in find_longest_surplus([each for each in left if each.question_id not in duplicates]):
            problem = (
                f"the right option is longer than the others by a factor of {length_factor(question):.2f}, and the "
                f"longest option would be right more often than by guessing"
            )
            yield _reject(context, question, "longest_option", problem)


def _reject(context: Context, question: Question, reason: str, problem: str) -> Reject:
    message = f"question {question.question_id} of video {question.video_id}: {problem}"
    return context.reject(question.question_id, reason, message, raw=question.question)


def find_listed_videos(sources: Sequence[Source], listed: Sequence[ListedItem]) -> list[str]:
    """The ids of the videos that evaluation lists name, by id, origin or file. They may only be in the split `eval`."""
    place_of = {name: item.place for item in reversed(listed) for name in item.videos}
    found = []
    for source in sources:
        names = frozenset.union(*map(video_names, (source.source_id, source.origin, source.uri)))
        if hit := min(names & place_of.keys(), default=None):
            log.info("video %s is only for eval: %s is in evaluation list %s", source.source_id, hit, place_of[hit])
            found.append(source.source_id)
    return found


def make_sample(
    context: Context,
    video: Video,
    category: VideoCategory,
    question: Question,
    reasoning: Reasoning,
    difficulty: Trial,
    split: Split,
    outline: Outline | None = None,
    solvable: Trial | None = None,
) -> Sample:
    """The sample of a verified question. The order of its options depends only on the build's seed and the question."""
    options = sample_options(context, question)
    choice = question.kind is QuestionKind.CHOICE
    answer = LETTERS[options.index(question.answer)] if choice else question.answer
    checks = [difficulty, *([solvable] if solvable else [])]
    trials = [*question.checks, *reasoning.checks, *checks]
    behind = [question.provenance, reasoning.provenance, *(given for trial in trials for given in trial.provenance)]
    if reasoning.refinement:
        behind.append(reasoning.refinement)
    return Sample(
        problem_id=int(digest(question.question_id)[:16], 16) >> 1,
        problem=problem_text(question.question, options),
        problem_type=question.category,
        reasoning=reasoning.reasoning,
        videos=f"{video.video_id}.mp4",
        answer=format_answer(answer),
        question_id=question.question_id,
        video_id=video.video_id,
        kind=question.kind,
        question=question.question,
        options=options,
        answer_text=question.answer,
        evidence=question.evidence,
        pass_rate=difficulty.correct / difficulty.n,
        trials=difficulty.n,
        split=split,
        video_category=category,
        duration_us=video.duration_us,
        writer=question.writer,
        question_model=question.provenance.model,
        reasoning_model=reasoning.provenance.model,
        target_model=difficulty.provenance[0].model if difficulty.provenance else "",
        provenance=digest([given.model_dump(mode="json") for given in behind]),
        reasoning_hinted=reasoning.hinted,
        steps=(
            *(outline.captioned_by if outline else ()),
            *list_steps("outline", outline.provenance if outline else ()),
            *list_steps("question", [question.provenance]),
            *_list_checks(question.checks),
            *list_steps("reason", [reasoning.provenance]),
            *list_steps("refine", [reasoning.refinement] if reasoning.refinement else ()),
            *_list_checks(reasoning.checks),
            *_list_checks(checks),
        ),
    )


def _list_checks(trials: Sequence[Trial]) -> tuple[StepProvenance, ...]:
    """The models and prompts of checks, in their order. Checks by program have none."""
    steps = (step for trial in trials for step in list_steps(trial.check.value, trial.provenance))
    return tuple(dict.fromkeys(steps))


def assign_splits(
    groups: Sequence[Sequence[Video]], hint_of: Mapping[str, Split | None], config: AssembleConfig, seed: int
) -> dict[str, Split]:
    """Assign a split to every video. Returns the splits by video id.

    Near-duplicates share a split, and a video keeps its split when unrelated videos are added or removed. Each group
    draws a number in [0, 1) from the seed and the id of its first video. Thresholds on this number yield the configured
    fractions in expectation. A split hint of any member decides for the whole group, with eval before sft before rl.

    Args:
        groups: groups of near-duplicates, of all videos of the build.
        hint_of: the split hint of each video by video id; None for a video without one.
        config: the configured fractions.
        seed: the build's seed.
    """
    splits: dict[str, Split] = {}
    for group in groups:
        hints = {hint_of[video.video_id] for video in group}
        draw = int(digest([seed, "split", group[0].video_id])[:13], 16) / 16**13
        if hinted := next((split for split in Split if split in hints), None):
            split = hinted
        elif draw < config.eval_fraction:
            split = Split.EVAL
        elif draw < config.eval_fraction + (1 - config.eval_fraction) * config.sft_fraction:
            split = Split.SFT
        else:
            split = Split.RL
        splits.update({video.video_id: split for video in group})
    return splits


def near_duplicate_groups(videos: Sequence[Video], max_bits: int) -> list[list[Video]]:
    """Group videos whose perceptual hashes differ in at most `max_bits` bits, directly or through other videos.

    The videos of a group are sorted by id. All pairs are compared, one row of XORs at a time: O(videos^2) time,
    O(videos) memory.
    """
    ordered = sorted(videos, key=lambda video: video.video_id)
    words = np.array([list(bytes.fromhex(video.perceptual_hash)) for video in ordered], dtype=np.uint8)
    group = np.arange(len(ordered))
    for index in range(len(ordered) - 1):
        bits = np.bitwise_count(words[index + 1 :] ^ words[index]).sum(axis=1)
        for near in np.flatnonzero(bits <= max_bits) + index + 1:
            merged = sorted((group[index], group[near]))
            group[group == merged[1]] = merged[0]
    return [[ordered[member] for member in np.flatnonzero(group == leader)] for leader in np.unique(group)]


def _reject_by_pass_rate(
    context: Context, question: Question, difficulty: Trial, split: Split, solvable: bool
) -> Reject | None:
    """The reject of a question whose pass rate its split does not take; None if it does.

    Args:
        solvable: whether the viewer answered rightly what the target never did. Reinforcement learning gains nothing
            from such a question.
    """
    key, rate = question.question_id, difficulty.correct / difficulty.n
    lowest, highest = context.config.assemble.pass_rates.of(split)
    found = (
        f"question {key}: the target was right {difficulty.correct} of {difficulty.n} times; the split {split} takes "
        f"pass rates from {lowest} to {highest}"
    )
    if rate == 0 < lowest and split is not Split.RL:
        if solvable:
            return None
        evidence = ", ".join(format_span(span) for span in question.evidence)
        fix = f"no viewer answered it rightly either; review whether {question.answer!r} is right at {evidence}"
        return context.reject(key, "needs_review", f"{found}; {fix}", raw=question.question)
    fix = f"change assemble.pass_rates.{split}_min or {split}_max to use it"
    if rate < lowest:
        return context.reject(key, "too_hard", f"{found}; {fix}", raw=question.question)
    if rate > highest:
        return context.reject(key, "too_easy", f"{found}; {fix}", raw=question.question)
    return None


def _section(config: BuildConfig) -> Any:
    """The stage's settings, with the content of the evaluation lists that they name."""
    lists = list_digests(config.assemble.decontamination)
    return {**config.assemble.model_dump(mode="json"), "lists": lists} if lists else config.assemble


STAGE = Stage(
    name="assemble",
    version=4,
    row=Sample,
    reads={
        "videos": "ingest",
        "questions": "question",
        "reasonings": "reason",
        "difficulties": "difficulty",
        "outlines": "outline",
        "sources": SOURCE,
    },
    source_columns=("source_id", "uri", "category", "origin", "split_hint"),
    run=run,
    section=_section,
    scope=Scope.BUILD,
)
