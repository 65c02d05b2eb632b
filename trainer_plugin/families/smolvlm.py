"""SmolVLM: a SigLIP tower, a pixel-shuffle projector (similar to NVILA's downsampling MLP), and 1-D positions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from trainer_plugin.families.base import Family, Features, Model
from trainer_plugin.ops.preprocess import image_pixels, longest_side_size
from trainer_plugin.types import Grid

SECOND_US = 1_000_000


class SmolVLM(Family):
    """SmolVLM: each frame is one image with a fixed number of tokens.

    Frames are resized twice: first to `longest`, keeping the aspect ratio, then to a square. transformers'
    `SmolVLMVideoProcessor` does the same, even where the first resize enlarges frames that the second one shrinks. A
    single resize would give other pixels. Both happen in the process that decodes, so that only squares are sent and
    stored.
    """

    temporal_patch = 1
    rope_rows = 1
    levels = 1
    resample = "lanczos"

    def __init__(self, config: PretrainedConfig, processor: Mapping[str, Any]) -> None:
        self.set_pixels(processor)
        sampling = processor.get("video_sampling") or {}
        self.side = (processor.get("max_image_size") or {}).get("longest_edge", config.vision_config.image_size)
        # As in transformers' `SmolVLMVideoProcessor`, `size` overrides video_size, and 4,096 is the maximum.
        size = processor.get("size") or sampling.get("video_size") or {}
        self.longest = min(size.get("longest_edge", self.side), 4_096)
        """Longer side of a frame in pixels after the first resize."""
        self.patch = config.vision_config.patch_size
        self.scale = config.scale_factor
        self.vocab_size = config.get_text_config().vocab_size
        self.video_token_id = config.image_token_id

    @property
    def square(self) -> tuple[int, int]:  # type: ignore[override]
        """Height and width of the second resize, in pixels."""
        return self.side, self.side

    def frame_size(self, height: int, width: int, frames: int, max_tokens: int | None = None) -> tuple[int, int]:
        return longest_side_size(height, width, self.longest)

    def grid(self, height: int, width: int, frames: int) -> Grid:
        return Grid(frames, self.side // self.patch, self.side // self.patch)

    def tokens_per_temporal_patch(self, grid: Grid) -> int:
        return grid.h * grid.w // self.scale**2

    def video_ids(
        self, tokenizer: PreTrainedTokenizerBase, grid: Grid, frame_times_us: Sequence[int], duration_us: int
    ) -> list[int]:
        """The token ids of a video's text and placeholders, in the format of transformers' `SmolVLMProcessor`."""
        from num2words import num2words  # the other families do not need this package

        duration = timedelta(seconds=duration_us // SECOND_US)
        intro = (
            f"You are provided the following series of {num2words(grid.t)} frames from a {duration} [H:MM:SS] video.\n"
        )
        ids = tokenizer.encode(intro, add_special_tokens=False)
        for time_us in frame_times_us:
            at = time_us // SECOND_US
            around = f"\nFrame from {at // 60:02d}:{at % 60:02d}:<fake_token_around_image><global-img>"
            ids += tokenizer.encode(around, add_special_tokens=False)
            ids += [self.video_token_id] * self.tokens_per_temporal_patch(grid)
            ids += tokenizer.encode("<fake_token_around_image>", add_special_tokens=False)
        return ids + tokenizer.encode("\n\n", add_special_tokens=False)

    def positions(self, input_ids: Tensor, videos: Sequence[tuple[Grid, Sequence[int]]]) -> Tensor:
        return torch.arange(len(input_ids))[None]

    def patches(self, frames: Tensor) -> Tensor:
        """The tower's input: float32 [frames, 3, side, side]."""
        # On the CPU, because torch has no antialiased uint8 kernels for other devices.
        pixels = image_pixels(frames.cpu(), side=self.side, mean=self.mean, std=self.std, resample=self.resample)
        return pixels.to(frames.device)

    def encode(self, model: Model, patches: Tensor, grids: Sequence[Grid]) -> Features:
        # Not get_image_features: it treats a frame of zeros as padding and drops it.
        hidden = model.model.vision_model(pixel_values=patches).last_hidden_state
        return Features((model.model.connector(hidden).flatten(0, 1),))

    def run_language_model(
        self, model: Model, embeds: Tensor, positions: Tensor, visual: Tensor, features: Features, **kwargs: Any
    ) -> Tensor:
        output = self.language_model(model)(
            inputs_embeds=embeds[None], position_ids=positions, use_cache=False, **kwargs
        )
        return output.last_hidden_state[0]

    def language_model(self, model: Model) -> Model:
        return model.model.text_model

    def vision_tower(self, model: Model) -> nn.Module:
        return nn.ModuleList([model.model.vision_model, model.model.connector])

    def projectors(self, model: Model) -> Iterable[nn.Module]:
        return [model.model.connector]

    def vision_layers(self, model: Model) -> Iterable[nn.Module]:
        return model.model.vision_model.encoder.layers
