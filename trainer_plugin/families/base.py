"""The interface between the trainer and a model family.

The first half needs no model and runs in data workers: it lays a video out as tokens. The second half runs the parts of
an unmodified Hugging Face model on what one rank owns: some temporal patches of some videos, some tokens of a row.

A temporal patch is the smallest piece of video that the vision tower encodes by itself: two frames for Qwen-VL, one
frame for SmolVLM. No temporal patch may attend to another inside the tower; that is what makes spreading frames exact.
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

from trainer_plugin.examples import Grid
from trainer_plugin.patches import Resample

_RESAMPLES: dict[int, Resample] = {1: "lanczos", 3: "bicubic"}
"""By the numbers that processors give Pillow's filters."""

Model: TypeAlias = Any
"""An unmodified Hugging Face model, or a part of one: what these are called differs from family to family."""


@dataclass(frozen=True)
class Features:
    """What a vision tower gives for some temporal patches, in their order."""

    levels: tuple[Tensor, ...]
    """Each [tokens, hidden]: the embeddings that replace placeholders, then one for each deepstack level."""

    def packed(self) -> Tensor:
        """One tensor [tokens, hidden * levels], to be sent."""
        return self.levels[0] if len(self.levels) == 1 else torch.cat(self.levels, dim=-1)

    @staticmethod
    def unpacked(packed: Tensor, levels: int) -> Features:
        """The reverse of `packed`."""
        return Features(tuple(packed.chunk(levels, dim=-1)))


class Family(ABC):
    """One model family. Holds numbers from its configuration only, so that it can be sent to data workers."""

    temporal_patch: int
    """Frames in a temporal patch."""
    rope_rows: int
    """Rows of the position tensor: 1, or 3 for mRoPE (time, height, width)."""
    levels: int
    """1 + deepstack levels of the vision tower."""
    vocab_size: int
    """Rows of the decoder's embedding."""
    video_token_id: int
    """The token whose embedding is replaced by a feature."""
    resample: Resample = "bicubic"
    """How the model's processor resizes frames. This, `mean` and `std` are set on a family only where the model's own
    processor is not as published, since checkpoints hold what is set."""
    square: tuple[int, int] | None = None
    """To what the processor resizes frames once more, without their sides' ratio; None: not."""
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    """Of red, green and blue, from 0 to 1: subtracted."""
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    """What they are divided by then."""

    @abstractmethod
    def __init__(self, config: PretrainedConfig, processor: Mapping[str, Any]) -> None:
        """
        Args:
            processor: the video processor's settings, as transformers saves them; what it lacks is as published.
                Give them to `set_pixels`.

        Raises:
            ValueError: the processor asks for what is not done here.
        """

    def set_pixels(self, processor: Mapping[str, Any]) -> None:
        """Take over `resample`, `mean` and `std` from the video processor's settings.

        Raises:
            ValueError: the processor asks for what is not done here.
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
            asked = processor.get(key)
            if asked is None:
                continue
            values = tuple(map(float, asked)) if isinstance(asked, Sequence) else (float(asked),) * 3
            if len(values) != 3 or (name == "std" and min(values) <= 0):
                raise ValueError(f"its video processor has {key} {asked}; give one number for each of three colours")
            if values != getattr(self, name):
                setattr(self, name, values)

    # --- in data workers: from a video to tokens

    @abstractmethod
    def frame_size(self, height: int, width: int, frames: int, max_tokens: int | None = None) -> tuple[int, int]:
        """Height and width in pixels to which the frames of a video are resized.

        Args:
            height, width: of the video as it is displayed.
            frames: how many are chosen, before the last is repeated up to whole temporal patches.
            max_tokens: tokens that the whole video may have; None: what the model's own processor would give it.
        """

    @abstractmethod
    def grid(self, height: int, width: int, frames: int) -> Grid:
        """The grid of a video of this many resized frames (whole temporal patches)."""

    @abstractmethod
    def tokens_per_temporal_patch(self, grid: Grid) -> int:
        """Placeholder tokens for each temporal patch."""

    @abstractmethod
    def video_ids(
        self, tokenizer: PreTrainedTokenizerBase, grid: Grid, frame_times_us: Sequence[int], duration_us: int
    ) -> list[int]:
        """The token ids that stand for a video inside a user's turn, markers included.

        Args:
            frame_times_us: of the chosen frames, `grid.t * temporal_patch` of them.
            duration_us: of the whole video.
        """

    @abstractmethod
    def positions(self, input_ids: Tensor, videos: Sequence[tuple[Grid, Sequence[int]]]) -> Tensor:
        """Rotary positions of one sample, shape [rope_rows, S].

        Args:
            input_ids: [S], with all placeholders.
            videos: grid and frame times (us) of each video, in the order of their placeholders.
        """

    @abstractmethod
    def patches(self, frames: Tensor) -> Tensor:
        """What the tower eats: from uint8 frames [n, height, width, 3] to float32 [temporal patches, ...]."""

    # --- on the accelerator: the parts of the model

    @abstractmethod
    def encode(self, model: Model, patches: Tensor, grids: Sequence[Grid]) -> Features:
        """Run the vision tower on temporal patches.

        Args:
            patches: [sum of grids' t, ...] as `patches` makes them, in the compute type.
            grids: consecutive pieces of videos; a piece of t' temporal patches has the grid (t', h, w).
        """

    @abstractmethod
    def run_language_model(
        self, model: Model, embeds: Tensor, positions: Tensor, visual: Tensor, features: Features, **kwargs: Any
    ) -> Tensor:
        """The last hidden states [S, hidden] of the local tokens.

        Args:
            embeds: [S, hidden], features already in place of placeholders.
            positions: [rope_rows, S].
            visual: bool [S], where the placeholders are.
            features: of the local placeholders, in their order (for deepstack).
            kwargs: reach the attention function.
        """

    @abstractmethod
    def language_model(self, model: Model) -> Model:
        """The decoder, with `layers` and `embed_tokens`."""

    @abstractmethod
    def vision_tower(self, model: Model) -> nn.Module:
        """Everything that only the vision path uses."""

    @abstractmethod
    def projectors(self, model: Model) -> Iterable[nn.Module]:
        """The parts of the tower that map its features into the decoder: learned or frozen apart from the rest."""

    @abstractmethod
    def vision_layers(self, model: Model) -> Iterable[nn.Module]:
        """The tower's transformer blocks: what is checkpointed and sharded one by one."""

    def blank_frames(self) -> tuple[Grid, Tensor]:
        """The smallest frames that the tower takes, for a rank that has none to encode but must keep step."""
        height, width = self.frame_size(1, 1, self.temporal_patch)
        frames = torch.zeros(self.temporal_patch, height, width, 3, dtype=torch.uint8)
        return self.grid(height, width, self.temporal_patch), frames
