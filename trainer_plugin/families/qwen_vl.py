"""Qwen2.5-VL and Qwen3-VL: temporal patches of two frames, 2x2 merging, and mRoPE.

Qwen3-VL adds deepstack features and timestamps in text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from schemas.frame_policy import QWEN2_5_VL, QWEN3_VL, PixelLimits
from trainer_plugin.families.base import Family, Features, Model
from trainer_plugin.ops.preprocess import qwen_patches
from trainer_plugin.types import Grid

SECOND_US = 1_000_000


class _QwenVL(Family):
    """Base class with the code that Qwen2.5-VL and Qwen3-VL share."""

    rope_rows = 3
    least_pixels: int
    """The processor's `size.shortest_edge`, which is a number of pixels despite its name."""
    most_pixels: int
    """The processor's `size.longest_edge`, also a number of pixels."""

    def __init__(self, config: PretrainedConfig, processor: Mapping[str, Any]) -> None:
        if processor.get("cap_pixels_per_frame"):
            raise ValueError(
                "its video processor asks for cap_pixels_per_frame, which is not supported; set that to false in "
                "video_preprocessor_config.json, for serving too"
            )
        self.set_pixels(processor)
        size = processor.get("size") or {}
        self.least_pixels = size.get("shortest_edge", self.least_pixels)
        self.most_pixels = size.get("longest_edge", self.most_pixels)
        vision = config.vision_config
        self.patch = vision.patch_size
        self.merge = vision.spatial_merge_size
        self.temporal_patch = vision.temporal_patch_size
        self.levels = 1 + len(getattr(vision, "deepstack_visual_indexes", ()))
        self.vocab_size = config.get_text_config().vocab_size
        self.video_token_id = config.video_token_id
        self.vision_start_id = config.vision_start_token_id
        self.vision_end_id = config.vision_end_token_id

    @property
    def factor(self) -> int:
        """Side in pixels of one token's square. Frame sides are multiples of it."""
        return self.patch * self.merge

    def grid(self, height: int, width: int, frames: int) -> Grid:
        return Grid(frames // self.temporal_patch, height // self.patch, width // self.patch)

    def tokens_per_temporal_patch(self, grid: Grid) -> int:
        return (grid.h // self.merge) * (grid.w // self.merge)

    def patches(self, frames: Tensor) -> Tensor:
        """The tower's input: float32 [t, patches per temporal patch, 3 * temporal * patch**2]."""
        rows = qwen_patches(
            frames, patch=self.patch, temporal=self.temporal_patch, merge=self.merge, mean=self.mean, std=self.std
        )
        return rows.view(len(frames) // self.temporal_patch, -1, rows.shape[-1])

    def language_model(self, model: Model) -> Model:
        return model.model.language_model

    def vision_tower(self, model: Model) -> nn.Module:
        return model.model.visual

    def projectors(self, model: Model) -> Iterable[nn.Module]:
        tower = self.vision_tower(model)
        return [tower.merger, *getattr(tower, "deepstack_merger_list", ())]

    def vision_layers(self, model: Model) -> Iterable[nn.Module]:
        return model.model.visual.blocks

    def _positions(self, input_ids: Tensor, grids: Sequence[Grid], steps: Sequence[Tensor | None]) -> Tensor:
        """mRoPE positions [3, S] of text and videos.

        The text after a grid starts at the grid's largest position plus 1. Qwen's own code, with which the weights were
        trained, and vLLM do the same. (transformers since 5.3 starts after the larger spatial side and ignores the
        temporal extent.)

        Args:
            input_ids: [S].
            grids: the grids of the placeholders, in order. One run of placeholders may hold several grids.
            steps: temporal positions [t] of each grid; None for 0, 1, 2, ...

        Raises:
            ValueError: the number of placeholders does not fit the grids.
        """
        pieces: list[Tensor] = []
        start, read = 0, 0
        for visual, run in groupby((input_ids == self.video_token_id).tolist()):
            length = len(list(run))
            if not visual:
                pieces.append(torch.arange(start, start + length).expand(3, -1))
                start += length
                continue
            while length:
                if read == len(grids) or length < (tokens := self._tokens(grids[read])):
                    raise ValueError(f"{int((input_ids == self.video_token_id).sum())} video tokens do not fit {grids}")
                piece = start + self._grid_positions(grids[read], steps[read])
                pieces.append(piece)
                start, length, read = int(piece.max()) + 1, length - tokens, read + 1
        if read != len(grids):
            raise ValueError(f"there are no video tokens for {grids[read:]}")
        return torch.cat(pieces, dim=1) if pieces else torch.empty(3, 0, dtype=torch.int64)

    def _tokens(self, grid: Grid) -> int:
        return grid.t * self.tokens_per_temporal_patch(grid)

    def _grid_positions(self, grid: Grid, step: Tensor | None) -> Tensor:
        times = torch.arange(grid.t) if step is None else step
        sides = torch.arange(grid.h // self.merge), torch.arange(grid.w // self.merge)
        return torch.stack(torch.meshgrid(times, *sides, indexing="ij")).reshape(3, -1)


class Qwen25VL(_QwenVL):
    """Qwen2.5-VL: a video is one run of placeholders, and positions encode time.

    The temporal position advances by `tokens_per_second` for each second of video.
    """

    mean = (0.48145466, 0.4578275, 0.40821073)
    std = (0.26862954, 0.26130258, 0.27577711)
    least_pixels, most_pixels = QWEN2_5_VL.least, QWEN2_5_VL.most
    """Limits per frame for a model without its own processor."""

    def __init__(self, config: PretrainedConfig, processor: Mapping[str, Any]) -> None:
        super().__init__(config, processor)
        # Qwen2.5-VL was published with these names. They take precedence, as in transformers.
        self.least_pixels = processor.get("min_pixels") or self.least_pixels
        self.most_pixels = processor.get("max_pixels") or self.most_pixels
        self.tokens_per_second = config.vision_config.tokens_per_second

    def frame_size(self, height: int, width: int, frames: int, max_tokens: int | None = None) -> tuple[int, int]:
        """Height and width in pixels to which frames are resized; see `Family.frame_size`.

        The processor limits the pixels of each frame, whatever the number of frames. `max_tokens` can only lower this
        limit, to an equal share for each temporal patch.

        Raises:
            ValueError: one side is more than 200 times the other.
        """
        limits = PixelLimits(self.least_pixels, self.most_pixels, self.factor, True, self.temporal_patch)
        return limits.frame_size(height, width, frames, max_tokens)

    def video_ids(
        self, tokenizer: PreTrainedTokenizerBase, grid: Grid, frame_times_us: Sequence[int], duration_us: int
    ) -> list[int]:
        return [self.vision_start_id, *[self.video_token_id] * self._tokens(grid), self.vision_end_id]

    def placeholder_ids(self) -> list[int]:
        return [self.vision_start_id, self.video_token_id, self.vision_end_id]

    def positions(self, input_ids: Tensor, videos: Sequence[tuple[Grid, Sequence[int]]]) -> Tensor:
        """Rotary positions [3, S], bitwise equal to vLLM's for the same `seconds_per_temporal_patch`.

        vLLM 0.26 (`get_mrope_input_positions` in its `qwen2_5_vl.py`) receives `second_per_grid_ts` as a float32
        tensor, converts it to a Python float, and multiplies in float64:
        `t * (float64(float32(seconds)) * tokens_per_second)`, truncated. transformers multiplies in float32, which is
        off by one where rounding crosses a whole number.

        Raises:
            ValueError: the number of placeholders does not fit the grids.
        """
        steps = []
        for grid, times in videos:
            seconds = torch.tensor(self.seconds_per_temporal_patch(times), dtype=torch.float32).item()
            patches = torch.arange(grid.t, dtype=torch.float64)
            steps.append((patches * (seconds * self.tokens_per_second)).long())
        return self._positions(input_ids, [grid for grid, _ in videos], steps)

    def seconds_per_temporal_patch(self, frame_times_us: Sequence[int]) -> float:
        """The mean time in seconds from one temporal patch to the next; 1.0 if there is only one.

        Send it to vLLM as `second_per_grid_ts`, in a float32 tensor. transformers' processor (5.20,
        `Qwen2_5_VLProcessor._process_videos`) computes `temporal_patch_size / sampled_fps` in float64: the video's
        duration divided by its number of frames, times the temporal patch size. For evenly spaced frames the two are
        equal, up to the rounding of frame times to microseconds.
        """
        starts = frame_times_us[:: self.temporal_patch]
        if len(starts) < 2:
            return 1.0
        return (starts[-1] - starts[0]) / (len(starts) - 1) / SECOND_US

    def vllm_times(self, videos: Sequence[Sequence[int]]) -> dict[str, Any]:
        seconds = [self.seconds_per_temporal_patch(times) for times in videos]
        return {"second_per_grid_ts": torch.tensor(seconds, dtype=torch.float32)}  # rounded as in `positions`

    def encode(self, model: Model, patches: Tensor, grids: Sequence[Grid]) -> Features:
        output = model.model.visual(patches.flatten(0, 1), grid_thw=_grid_tensor(grids, patches))
        return Features((output.pooler_output,))

    def run_language_model(
        self, model: Model, embeds: Tensor, positions: Tensor, visual: Tensor, features: Features, **kwargs: Any
    ) -> Tensor:
        output = self.language_model(model)(
            inputs_embeds=embeds[None], position_ids=positions[:, None], use_cache=False, **kwargs
        )
        return output.last_hidden_state[0]


class Qwen3VL(_QwenVL):
    """Qwen3-VL: a timestamp in text precedes each temporal patch, and features also enter early layers (deepstack)."""

    least_pixels, most_pixels = QWEN3_VL.least, QWEN3_VL.most
    """Limits for all frames of a video in total."""

    def frame_size(self, height: int, width: int, frames: int, max_tokens: int | None = None) -> tuple[int, int]:
        """Height and width in pixels to which frames are resized; see `Family.frame_size`.

        The processor limits the pixels of the whole video. `max_tokens` replaces this limit and may be lower or higher.

        Raises:
            ValueError: one side is more than 200 times the other.
        """
        limits = PixelLimits(self.least_pixels, self.most_pixels, self.factor, False, self.temporal_patch)
        return limits.frame_size(height, width, frames, max_tokens)

    def video_ids(
        self, tokenizer: PreTrainedTokenizerBase, grid: Grid, frame_times_us: Sequence[int], duration_us: int
    ) -> list[int]:
        ids: list[int] = []
        tokens = [self.video_token_id] * self.tokens_per_temporal_patch(grid)
        for seconds in self._patch_seconds(frame_times_us):
            ids += tokenizer.encode(f"<{seconds:.1f} seconds>", add_special_tokens=False)
            ids += [self.vision_start_id, *tokens, self.vision_end_id]
        return ids

    def _patch_seconds(self, frame_times_us: Sequence[int]) -> list[float]:
        """The time that is written before each temporal patch.

        Each time is converted to a float before the mean, as in Qwen3VLProcessor: 0.1 and 0.2 give "0.2", not "0.1".
        """
        ends = frame_times_us[self.temporal_patch - 1 :: self.temporal_patch]
        pairs = zip(frame_times_us[:: self.temporal_patch], ends, strict=True)
        return [(first / SECOND_US + last / SECOND_US) / 2 for first, last in pairs]

    def vllm_times(self, videos: Sequence[Sequence[int]]) -> dict[str, Any]:
        return {"timestamps": [self._patch_seconds(times) for times in videos]}

    def positions(self, input_ids: Tensor, videos: Sequence[tuple[Grid, Sequence[int]]]) -> Tensor:
        grids = [Grid(1, grid.h, grid.w) for grid, _ in videos for _ in range(grid.t)]
        return self._positions(input_ids, grids, [None] * len(grids))

    def encode(self, model: Model, patches: Tensor, grids: Sequence[Grid]) -> Features:
        output = model.model.visual(patches.flatten(0, 1), grid_thw=_grid_tensor(grids, patches))
        return Features((output.pooler_output, *output.deepstack_features))

    def run_language_model(
        self, model: Model, embeds: Tensor, positions: Tensor, visual: Tensor, features: Features, **kwargs: Any
    ) -> Tensor:
        output = self.language_model(model)(
            inputs_embeds=embeds[None],
            position_ids=positions[:, None],
            visual_pos_masks=visual[None],
            deepstack_visual_embeds=list(features.levels[1:]),
            use_cache=False,
            **kwargs,
        )
        return output.last_hidden_state[0]


def _grid_tensor(grids: Sequence[Grid], like: Tensor) -> Tensor:
    return torch.tensor([[grid.t, grid.h, grid.w] for grid in grids], device=like.device)
