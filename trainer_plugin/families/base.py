"""The interface between the trainer and a model family.

The first half needs no model and runs in data workers: it lays out a video as tokens. The second half runs the parts of
an unmodified Hugging Face model on one rank's share of a row: some temporal patches of some videos, and some tokens.

A temporal patch is the smallest piece of video that the vision tower encodes independently: two frames for Qwen-VL, one
frame for SmolVLM. No temporal patch may attend to another inside the tower. Because of this, distributing frames over
ranks is exact.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from trainer_plugin.ops.preprocess import Resample
from trainer_plugin.types import Grid

_RESAMPLES: dict[int, Resample] = {1: "lanczos", 3: "bicubic"}
"""Resampling modes by the numbers of Pillow's filters, as processors store them."""

Model: TypeAlias = Any
"""An unmodified Hugging Face model, or a part of one. Any, because attribute names differ between families."""


@dataclass(frozen=True)
class Features:
    """The vision tower's output for some temporal patches, in their order."""

    levels: tuple[Tensor, ...]
    """Tensors [tokens, hidden]: the embeddings that replace the placeholders, then one tensor per deepstack level."""

    def packed(self) -> Tensor:
        """All levels in one tensor [tokens, hidden * levels], for sending to other ranks."""
        return self.levels[0] if len(self.levels) == 1 else torch.cat(self.levels, dim=-1)

    @staticmethod
    def unpacked(packed: Tensor, levels: int) -> Features:
        """The inverse of `packed`: split [tokens, hidden * levels] into levels."""
        return Features(tuple(packed.chunk(levels, dim=-1)))


class Family(ABC):
    """One model family. It holds only numbers from the configuration, so that it can be pickled for data workers."""

    temporal_patch: int
    """Frames in a temporal patch."""
    rope_rows: int
    """Rows of the position tensor: 1, or 3 for mRoPE (time, height, width)."""
    levels: int
    """1 plus the number of the vision tower's deepstack levels."""
    vocab_size: int
    """Number of rows of the decoder's embedding matrix."""
    video_token_id: int
    """The token whose embedding is replaced by a feature."""
    resample: Resample = "bicubic"
    """How the model's processor resizes frames. This attribute, `mean` and `std` are set on an instance only where the
    model's own processor differs from the published one, because checkpoints record the instance's attributes."""
    square: tuple[int, int] | None = None
    """Height and width of the processor's second resize, which ignores the aspect ratio. None: no second resize."""
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    """Mean of red, green and blue, for values from 0 to 1. It is subtracted first."""
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    """Standard deviation of red, green and blue, by which the result is divided."""

    @abstractmethod
    def __init__(self, config: PretrainedConfig, processor: Mapping[str, Any]) -> None:
        """
        Args:
            config: the model's configuration.
            processor: the video processor's settings, as transformers saves them. A missing setting has its published
                value. Implementations pass them to `set_pixels`.

        Raises:
            ValueError: the processor has a setting that is not supported.
        """

    def set_pixels(self, processor: Mapping[str, Any]) -> None:
        """Set `resample`, `mean` and `std` from the video processor's settings.

        Raises:
            ValueError: the processor has a setting that is not supported.
        """
        for name in ("do_resize", "do_rescale", "do_normalize"):
            if processor.get(name) not in (None, True):
                raise ValueError(
                    f"its video processor has {name}: {processor[name]!r}, but frames are always resized, rescaled and "
                    f"normalized here; set it to true, for serving too"
                )
        factor = processor.get("rescale_factor")
        if factor is not None and not math.isclose(factor, 1 / 255):
            raise ValueError(f"its video processor has rescale_factor {factor}, but only 1/255 is supported")
        number = processor.get("resample")
        resample = type(self).resample if number is None else _RESAMPLES.get(number)
        if resample is None:
            known = " or ".join(f"{number} ({name})" for number, name in _RESAMPLES.items())
            raise ValueError(f"its video processor has resample {number}, but only {known} is supported")
        if resample != self.resample:
            self.resample = resample
        for name, key in (("mean", "image_mean"), ("std", "image_std")):
            given = processor.get(key)
            if given is None:
                continue
            values = tuple(map(float, given)) if isinstance(given, Sequence) else (float(given),) * 3
            if len(values) != 3 or (name == "std" and min(values) <= 0):
                raise ValueError(f"its video processor has {key} {given}; give one number for each of three colours")
            if values != getattr(self, name):
                setattr(self, name, values)

    # --- in data workers: from a video to tokens

    @abstractmethod
    def frame_size(self, height: int, width: int, frames: int, max_tokens: int | None = None) -> tuple[int, int]:
        """Height and width in pixels to which the frames of a video are resized.

        Args:
            height, width: size in pixels of the video as it is displayed.
            frames: number of chosen frames, before the last is repeated to fill the last temporal patch.
            max_tokens: limit on the tokens of the whole video. None uses the limits of the model's own processor.
        """

    @abstractmethod
    def grid(self, height: int, width: int, frames: int) -> Grid:
        """The grid of a video.

        Args:
            height, width: size in pixels of the resized frames.
            frames: number of frames, a multiple of `temporal_patch`.
        """

    @abstractmethod
    def tokens_per_temporal_patch(self, grid: Grid) -> int:
        """Number of placeholder tokens for each temporal patch."""

    @abstractmethod
    def video_ids(
        self, tokenizer: PreTrainedTokenizerBase, grid: Grid, frame_times_us: Sequence[int], duration_us: int
    ) -> list[int]:
        """The token ids that stand for a video inside a user's turn, including markers.

        Args:
            tokenizer: the model's tokenizer.
            grid: the video's grid.
            frame_times_us: times of the chosen frames in microseconds, `grid.t * temporal_patch` of them.
            duration_us: duration of the whole video in microseconds.
        """

    def placeholder_ids(self) -> list[int]:
        """The token ids that stand for a video of any length in a prompt before vLLM expands it.

        vLLM, with transformers from 5.10 on, replaces the video token alone and keeps what surrounds it. So these are
        `video_ids` with the video token in place of all that vLLM inserts.
        """
        return [self.video_token_id]

    def vllm_times(self, videos: Sequence[Sequence[int]]) -> dict[str, Any]:
        """The fields that vLLM needs in addition to the features and grids of a prompt's videos, for their times.

        Args:
            videos: frame times in microseconds of each video.

        Raises:
            NotImplementedError: vLLM takes no features of this family's videos.
        """
        raise NotImplementedError(f"vLLM takes no features of videos of {type(self).__name__}")

    @abstractmethod
    def positions(self, input_ids: Tensor, videos: Sequence[tuple[Grid, Sequence[int]]]) -> Tensor:
        """Rotary positions of one sample, shape [rope_rows, S].

        Args:
            input_ids: int64 [S], including all placeholders.
            videos: grid and frame times (microseconds) of each video, in the order of their placeholders.
        """

    @abstractmethod
    def patches(self, frames: Tensor) -> Tensor:
        """The tower's input: convert uint8 frames [n, height, width, 3] to float32 [temporal patches, ...]."""

    # --- on the accelerator: the parts of the model

    @abstractmethod
    def encode(self, model: Model, patches: Tensor, grids: Sequence[Grid]) -> Features:
        """Run the vision tower on temporal patches.

        Args:
            model: the whole model.
            patches: [sum of grids' t, ...] as returned by `patches`, in the compute dtype.
            grids: grids of consecutive pieces of videos. A piece of t' temporal patches has the grid (t', h, w).
        """

    @abstractmethod
    def run_language_model(
        self, model: Model, embeds: Tensor, positions: Tensor, visual: Tensor, features: Features, **kwargs: Any
    ) -> Tensor:
        """Run the decoder on the local tokens and return their last hidden states [S, hidden].

        Args:
            model: the whole model.
            embeds: [S, hidden], in which features have already replaced the placeholders.
            positions: [rope_rows, S].
            visual: bool [S], True at the placeholders.
            features: features of the local placeholders, in their order (for deepstack).
            kwargs: passed through to the attention function.
        """

    @abstractmethod
    def language_model(self, model: Model) -> Model:
        """The decoder, with `layers` and `embed_tokens`."""

    @abstractmethod
    def vision_tower(self, model: Model) -> nn.Module:
        """All modules that only the vision path uses, including the projectors."""

    @abstractmethod
    def projectors(self, model: Model) -> Iterable[nn.Module]:
        """The modules of the tower that map its features to the decoder's width. They are trained or frozen separately
        from the rest of the tower."""

    @abstractmethod
    def vision_layers(self, model: Model) -> Iterable[nn.Module]:
        """The tower's transformer blocks, which are checkpointed and sharded one by one."""

    def blank_frames(self) -> tuple[Grid, Tensor]:
        """Grid and black frames of the smallest input that the tower accepts.

        A rank without frames encodes them, so that it makes the same collective calls as the other ranks.
        """
        height, width = self.frame_size(1, 1, self.temporal_patch)
        frames = torch.zeros(self.temporal_patch, height, width, 3, dtype=torch.uint8)
        return self.grid(height, width, self.temporal_patch), frames
