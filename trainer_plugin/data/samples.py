"""Training samples from a release's questions: the frames to show, the text, and the supervised tokens.

A sample is planned without its video, because the release's records hold each video's duration and frame size. Its
length is known before it is built (`length`), so rows can be packed without building the samples of other ranks.

A sample that is too long is made smaller in this order: first the size of its frames, down to the family's smallest;
then their number, still evenly spread over the whole video. A sample that still does not fit raises `UnusableSample`,
which names it; it is never truncated.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from dataclasses import astuple, dataclass, replace
from enum import StrEnum
from functools import cached_property
from random import Random
from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field, model_validator
from transformers import PreTrainedTokenizerBase

from schemas.answer_format import Target, instruction
from schemas.base import Model
from schemas.sample import Sample
from schemas.tables import QuestionKind, Split
from trainer_plugin.data.chat import Chat, Turn
from trainer_plugin.data.features import FeatureFolder
from trainer_plugin.data.release import index_videos
from trainer_plugin.types import IGNORED, Example, UnusableSample, VideoClip, VideoFacts

if TYPE_CHECKING:
    from trainer_plugin.families.base import Family

SECOND_US = 1_000_000


class FramePolicy(Model):
    """Which frames of a video are used: evenly spread, each in the middle of an equal share of the duration."""

    fps: float | None = Field(default=2.0, gt=0)
    """Frames per second, or None for a fixed number."""
    frames: int | None = Field(default=None, ge=1)
    """The fixed number of frames, or None."""
    max_frames: int = Field(default=768, ge=1)
    max_video_tokens: int | None = Field(default=None, ge=1)
    """Maximum number of tokens of one video, instead of the budget of the model's own processor (12,288 for Qwen3-VL as
    published). It may be lower, or higher if serving uses the same budget. Qwen2.5-VL's processor has a budget for each
    frame, which this can only lower. A video never gets more tokens than its row has room for. None: the processor's
    budget."""

    @model_validator(mode="after")
    def _is_one_of_both(self) -> FramePolicy:
        if (self.fps is None) == (self.frames is None):
            raise ValueError(
                f"give either fps or frames and leave the other null, got fps={self.fps} and frames={self.frames}"
            )
        return self

    def count(self, duration_us: int, video_fps: float) -> int:
        """Number of frames to use, never more than the video has."""
        available = max(1, round(duration_us / SECOND_US * video_fps))
        chosen = self.frames if self.frames is not None else round(duration_us / SECOND_US * (self.fps or 0))
        return max(1, min(chosen, self.max_frames, available))


class PromptVariant(StrEnum):
    """What a prompt shows of its video. All but `video` are baselines of an evaluation."""

    VIDEO = "video"
    """The frames at their times."""
    TEXT = "text"
    """No video: the question alone."""
    SHUFFLED = "shuffled"
    """The same frames, but each at the time of another: in a random order that depends on the question's id alone."""


@dataclass(frozen=True)
class Prompt:
    """A question about a video as tokens, ready for a request (`trainer_plugin.rl.rollout.RolloutRequest`)."""

    example: Example
    """The prompt as the trainer lays it out: expanded ids, positions and clips. No token is supervised."""
    unexpanded_ids: tuple[int, ...]
    """The same prompt with one placeholder for each video."""


class QuestionLayout:
    """Lays out questions about videos as tokens."""

    def __init__(
        self,
        family: Family,
        tokenizer: PreTrainedTokenizerBase,
        policy: FramePolicy,
        target: Target,
        features: FeatureFolder | None = None,
    ) -> None:
        """
        Args:
            features: folder of precomputed features; None: videos are encoded when they are used.

        Raises:
            BadInput: as `Chat`.
        """
        self.family = family
        self.tokenizer = tokenizer
        self.policy = policy
        self.target = target
        self.features = features
        self.chat = Chat(tokenizer, family.video_token_id, thinks=target is Target.REASONING)

    def question(self, problem: str, kind: QuestionKind) -> str:
        """The text of the user's turn: the problem, and the instruction how to answer."""
        return f"{problem}\n\n{instruction(self.target, kind)}"

    def prompt(
        self,
        key: str,
        video: VideoFacts,
        problem: str,
        kind: QuestionKind,
        max_tokens: int,
        variant: PromptVariant = PromptVariant.VIDEO,
    ) -> Prompt:
        """The prompt of a question, of at most `max_tokens` tokens, without an answer.

        Args:
            key: name of the question, for messages and for the order of shuffled frames.
            problem: the question. For multiple choice it is followed by one line per option, `A. ...`.

        Raises:
            Unusable: as `fit_clip`, or as `Chat.prompt`.
            BadInput: as `fit_clip`.
        """
        before, after = self.chat.prompt(key, self.question(problem, kind))
        clips: tuple[VideoClip, ...] = ()
        video_ids: list[int] = []
        if variant is not PromptVariant.TEXT:
            clip, video_ids = self.fit_clip(key, video, max_tokens, len(before) + len(after))
            clips = (clip,)
        input_ids = torch.tensor([*before, *video_ids, *after])
        positions = self.family.positions(input_ids, [(clip.grid, clip.frame_times_us) for clip in clips])
        shown = tuple(shuffle_frames(clip, key) if variant is PromptVariant.SHUFFLED else clip for clip in clips)
        example = Example(key, input_ids, torch.full_like(input_ids, IGNORED), positions, shown)
        return Prompt(example, (*before, *(self.family.placeholder_ids() if clips else ()), *after))

    def fit_clip(self, key: str, video: VideoFacts, max_tokens: int, text_tokens: int) -> tuple[VideoClip, list[int]]:
        """A clip that fits into `max_tokens` tokens next to `text_tokens` of text, and its token ids.

        Raises:
            Unusable: `too_long` if not even the smallest clip fits; `frame_size` if the family does not support frames
                of its video's size.
            BadInput: there are features of the video, but of other frames or another size.
        """
        try:
            found = self._fit(video, max_tokens - text_tokens)
        except ValueError as error:  # the family has no size for such frames
            raise UnusableSample(key, "frame_size", str(error)) from error
        if found is None:
            message = f"it does not fit into {max_tokens} tokens with the fewest frames; raise row_tokens"
            raise UnusableSample(key, "too_long", message)
        clip, video_ids = found
        features = self.features.find(clip) if self.features else None
        return replace(clip, features=features), video_ids

    def _fit(self, video: VideoFacts, room: int) -> tuple[VideoClip, list[int]] | None:
        allowed = min(self.policy.max_video_tokens or room, room)
        while (clip := self._clip(video, allowed)) is not None:
            video_ids = self.family.video_ids(self.tokenizer, clip.grid, clip.frame_times_us, video.duration_us)
            if len(video_ids) <= room:
                return clip, video_ids
            # Markers and timestamps between the features take tokens too, so the features get a proportional share.
            allowed = self._tokens(clip) * room // len(video_ids)
        return None

    def _clip(self, video: VideoFacts, allowed: int) -> VideoClip | None:
        """A clip of as many frames as the policy wants and `allowed` features can show.

        Returns None if not even the fewest frames fit.
        """
        patch = self.family.temporal_patch
        count = self.policy.count(video.duration_us, video.fps)
        clip = self._resize_clip(video, count, allowed)
        if clip is not None:
            return clip
        fewer = range(1, -(-count // patch))  # temporal patches
        fitting = bisect_right(fewer, False, key=lambda few: self._resize_clip(video, few * patch, allowed) is None)
        return self._resize_clip(video, fitting * patch, allowed) if fitting else None

    def _resize_clip(self, video: VideoFacts, count: int, allowed: int) -> VideoClip | None:
        """A clip of `count` frames, in the family's size for them or smaller.

        Returns None if the family's smallest size needs more than `allowed` features.
        """
        times = frame_times(video.duration_us, count)
        times += times[-1:] * (-count % self.family.temporal_patch)
        # First the size from the processor or the policy, then one that fits into `allowed`, in whole temporal patches.
        for limit, frames in ((self.policy.max_video_tokens, count), (max(allowed, 1), len(times))):
            size = self.family.frame_size(video.height, video.width, frames, limit)
            clip = VideoClip(video.source, times, size, self.family.grid(*size, len(times)))
            if self._tokens(clip) <= allowed:
                return clip
        return None

    def _tokens(self, clip: VideoClip) -> int:
        return clip.grid.t * self.family.tokens_per_temporal_patch(clip.grid)


@dataclass(frozen=True)
class _Draft:
    """A sample with its chosen frames, and its question and answer as tokens."""

    clip: VideoClip
    turn: Turn
    video_ids: list[int]


class ReleaseDataset:
    """The samples of a split, addressed by index."""

    def __init__(
        self,
        url: str,
        split: Split,
        family: Family,
        tokenizer: PreTrainedTokenizerBase,
        *,
        policy: FramePolicy,
        target: Target,
        media: str | None = None,
        features: FeatureFolder | None = None,
    ) -> None:
        """Read the release's index (`trainer_plugin.data.release.index_videos`).

        Args:
            media: as in `index_videos`.
            features: folder of precomputed features. A video without features is encoded during training.

        Raises:
            BadInput: as `index_videos` and `Chat`.
            SchemaError: as `index_videos`.
        """
        self.family = family
        self.split = split
        self.policy = policy
        self.target = target
        self.features = features
        self.tokenizer = tokenizer
        self.layout = QuestionLayout(family, tokenizer, policy, target, features)
        self._samples = [
            (video, sample) for video in index_videos(url, split, media) for sample in video.record.samples
        ]

    def __len__(self) -> int:
        return len(self._samples)

    @cached_property
    def facts(self) -> dict[str, Any]:
        """Everything that determines the samples, as JSON values.

        Keys are the names of recipe fields where there is one.
        """
        contents = hashlib.sha256()
        for video, sample in self._samples:
            record = video.record
            shown = (record.sha256, record.duration_us, record.fps, record.width, record.height)
            fields = (sample.question_id, sample.kind, sample.problem, sample.reasoning, sample.answer)
            contents.update(json.dumps([*shown, *fields]).encode())
        chat = json.dumps(astuple(self.layout.chat.example()))
        return {
            "videos.split": str(self.split),
            "videos.target": str(self.target),
            "videos.frames": self.policy.model_dump(mode="json"),
            "model's processor": json.loads(json.dumps(vars(self.family))),  # its budgets determine the frames' size
            "number of samples": len(self),
            "hash of the release's samples": contents.hexdigest()[:16],
            "hash of a chat in tokens": hashlib.sha256(chat.encode()).hexdigest()[:16],
        }

    def sample(self, number: int) -> Sample:
        """The sample's row of the release."""
        return self._samples[number][1]

    def key(self, number: int) -> str:
        """The question's id, which identifies the sample whatever else the release holds."""
        return self._samples[number][1].question_id

    def clip(self, number: int, max_tokens: int) -> VideoClip:
        """The clip that the sample shows if it may have at most `max_tokens` tokens. Raises as `length`."""
        return self._draft(number, max_tokens).clip

    def length(self, number: int, max_tokens: int) -> int:
        """Number of tokens of the sample if it may have at most `max_tokens`.

        Raises:
            UnusableSample: `too_long` if it does not fit; `frame_size` if the family does not support frames of its
                video's size; or as `Chat.turn`.
            BadInput: there are features of its video, but of other frames or another size.
        """
        draft = self._draft(number, max_tokens)
        return draft.turn.length + len(draft.video_ids)

    def prompt(self, number: int, max_tokens: int, variant: PromptVariant = PromptVariant.VIDEO) -> Prompt:
        """The sample's prompt without its answer, of at most `max_tokens` tokens.

        It begins as the sample does if both have room for the same frames.

        Raises:
            Unusable, BadInput: as `QuestionLayout.prompt`.
        """
        video, sample = self._samples[number]
        key = sample.question_id
        return self.layout.prompt(key, video.facts, sample.problem, sample.kind, max_tokens, variant)

    def example(self, number: int, max_tokens: int) -> Example:
        """The sample, of exactly `length(number, max_tokens)` tokens. Raises as `length`."""
        draft = self._draft(number, max_tokens)
        turn, clip = draft.turn, draft.clip
        prompt = torch.tensor(turn.before_ids + draft.video_ids + turn.after_ids)
        answer = torch.tensor(turn.answer_ids)
        input_ids = torch.cat([prompt, answer])
        labels = torch.cat([torch.full_like(prompt, IGNORED), answer])
        positions = self.family.positions(input_ids, [(clip.grid, clip.frame_times_us)])
        return Example(self.key(number), input_ids, labels, positions, (clip,))

    def _draft(self, number: int, max_tokens: int) -> _Draft:
        video, sample = self._samples[number]
        key = sample.question_id
        with_reasoning = self.target is Target.REASONING
        answer = (sample.answer, sample.reasoning) if with_reasoning else (sample.final_answer, None)
        turn = self.layout.chat.turn(key, self.layout.question(sample.problem, sample.kind), *answer)
        clip, video_ids = self.layout.fit_clip(key, video.facts, max_tokens, turn.length)
        return _Draft(clip, turn, video_ids)


def frame_times(duration_us: int, count: int) -> tuple[int, ...]:
    """The midpoints of `count` equal shares of a video, in microseconds."""
    return tuple((2 * number + 1) * duration_us // (2 * count) for number in range(count))


def shuffle_frames(clip: VideoClip, seed: str) -> VideoClip:
    """The clip with its frames in a random order that depends on `seed` alone. It has no precomputed features."""
    times = list(dict.fromkeys(clip.frame_times_us))
    Random(seed).shuffle(times)
    times += times[-1:] * (len(clip.frame_times_us) - len(times))
    return replace(clip, frame_times_us=tuple(times), features=None)
