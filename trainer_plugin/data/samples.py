"""Training samples from a release's questions: the text, the video as tokens, and the supervised tokens.

A sample is planned without its video, because the release's records hold each video's duration and frame size. Its
length is known before it is built (`length`), so rows can be packed without building the samples of other ranks.

A sample that is too long shows smaller or fewer frames (`trainer_plugin.data.frame_selection`). A sample that still
does not fit raises `UnusableSample`, which names it; it is never truncated.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import astuple, dataclass, replace
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedTokenizerBase

from schemas.answer_format import Target, user_text
from schemas.frame_policy import FramePolicy
from schemas.sample import Sample
from schemas.tables import QuestionKind, Split
from trainer_plugin.data.chat import Chat, Turn
from trainer_plugin.data.features import FeatureFolder
from trainer_plugin.data.frame_selection import select_frames, shuffle_frames
from trainer_plugin.data.release import index_videos
from trainer_plugin.types import IGNORED, Example, UnusableSample, VideoClip, VideoInfo

if TYPE_CHECKING:
    from trainer_plugin.families.base import Family


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
        return user_text(problem, self.target, kind)

    def prompt(
        self,
        key: str,
        video: VideoInfo,
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

    def fit_clip(self, key: str, video: VideoInfo, max_tokens: int, text_tokens: int) -> tuple[VideoClip, list[int]]:
        """A clip that fits into `max_tokens` tokens next to `text_tokens` of text, and its token ids.

        Raises:
            Unusable: `too_long` if not even the smallest clip fits; `frame_size` if the family does not support frames
                of its video's size.
            BadInput: there are features of the video, but of other frames or another size.
        """
        try:
            found = select_frames(video, max_tokens - text_tokens, self.policy, self.family, self.tokenizer)
        except ValueError as error:  # the family has no size for such frames
            raise UnusableSample(key, "frame_size", str(error)) from error
        if found is None:
            message = f"it does not fit into {max_tokens} tokens with the fewest frames; raise row_tokens"
            raise UnusableSample(key, "too_long", message)
        clip, video_ids = found
        features = self.features.find(clip) if self.features else None
        return replace(clip, features=features), video_ids


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
        skip_hinted: bool = False,
    ) -> None:
        """Read the release's index (`trainer_plugin.data.release.index_videos`).

        Args:
            media: as in `index_videos`.
            features: folder of precomputed features. A video without features is encoded during training.
            skip_hinted: skip samples whose chain of thought was written by a model that was given the answer.

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
            (video, sample)
            for video in index_videos(url, split, media)
            for sample in video.record.samples
            if not (skip_hinted and sample.reasoning_hinted)
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
        return self.layout.prompt(key, video.info, sample.problem, sample.kind, max_tokens, variant)

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
        clip, video_ids = self.layout.fit_clip(key, video.info, max_tokens, turn.length)
        return _Draft(clip, turn, video_ids)
