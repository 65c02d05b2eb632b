"""Which frames of a video a model is shown, and how large: in training, in evaluation, and for a question's difficulty.

Frames are evenly spread over the whole video. The trainer makes frames smaller, and then fewer, where a row has no room
for them (`trainer_plugin.data.frame_selection`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from pydantic import Field, model_validator

from schemas.base import Model

SECOND_US = 1_000_000

_LARGEST_ASPECT = 200


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


def frame_times(duration_us: int, count: int) -> tuple[int, ...]:
    """The midpoints of `count` equal shares of a video, in microseconds."""
    return tuple((2 * number + 1) * duration_us // (2 * count) for number in range(count))


@dataclass(frozen=True)
class PixelLimits:
    """How large the video processor of a Qwen-VL model makes frames."""

    least: int
    """Smallest number of pixels."""
    most: int
    """Largest number of pixels."""
    factor: int
    """Side in pixels of the square that one token shows. Frame sides are multiples of it."""
    per_frame: bool
    """Whether the limits are those of each frame (Qwen2.5-VL), or of all frames of a video in total (Qwen3-VL)."""
    temporal_patch: int = 2
    """Number of frames that are encoded as one."""

    def frame_size(self, height: int, width: int, frames: int, max_tokens: int | None = None) -> tuple[int, int]:
        """Height and width in pixels to which the frames of a video are resized.

        Args:
            height, width: size in pixels of the video as it is displayed.
            frames: number of chosen frames, before the last is repeated to fill the last temporal patch.
            max_tokens: limit on the tokens of the whole video. It replaces a limit on all frames, and can only lower
                one on each frame, to an equal share for each temporal patch.

        Raises:
            ValueError: one side is more than 200 times the other.
        """
        area = self.factor**2
        if not self.per_frame:
            most = self.most if max_tokens is None else max_tokens * self.temporal_patch * area
            return whole_video_size(
                height,
                width,
                max(frames, self.temporal_patch),
                self.temporal_patch,
                factor=self.factor,
                min_pixels=min(self.least, most),
                max_pixels=most,
            )
        if max_tokens is None:
            return per_frame_size(height, width, factor=self.factor, min_pixels=self.least, max_pixels=self.most)
        most = min(self.most, max(1, max_tokens // -(-frames // self.temporal_patch)) * area)
        least = min(self.least, most)
        rows, columns = per_frame_size(height, width, factor=self.factor, min_pixels=least, max_pixels=most)
        if rows * columns <= most:
            return rows, columns
        # Enlarged sides are rounded up, so the frame exceeds its share.
        return per_frame_size(height, width, factor=self.factor, min_pixels=area, max_pixels=most)


QWEN3_VL = PixelLimits(least=4_096, most=25_165_824, factor=32, per_frame=False)
"""As published: at most 12,288 tokens of 32 x 32 pixels in two frames."""
QWEN2_5_VL = PixelLimits(least=128 * 28**2, most=768 * 28**2, factor=28, per_frame=True)
"""The defaults of transformers and qwen-vl-utils."""


def pixel_limits(model: str) -> PixelLimits:
    """The published limits of a model's family, by the model's name: Qwen2.5-VL's, and Qwen3-VL's for all others."""
    return QWEN2_5_VL if "qwen2.5-vl" in model.lower() else QWEN3_VL


def per_frame_size(height: int, width: int, *, factor: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """Height and width of frames for Qwen2-VL and Qwen2.5-VL, which limit the pixels of each frame.

    Args:
        height, width: original size in pixels.
        factor: divisor of both resulting sides, in pixels.
        min_pixels, max_pixels: limits on the pixels of one frame.

    Raises:
        ValueError: one side is more than 200 times the other.
    """
    return _size_within(height, width, 1, 1, factor, min_pixels, max_pixels)


def whole_video_size(
    height: int, width: int, frames: int, temporal: int, *, factor: int, min_pixels: int, max_pixels: int
) -> tuple[int, int]:
    """Height and width of frames for Qwen3-VL, which limits the total pixels of all frames.

    Args:
        height, width: original size in pixels.
        frames: number of frames, at least `temporal`, before the last is repeated to fill the last temporal patch.
        temporal: number of frames in a temporal patch.
        factor: divisor of both resulting sides, in pixels.
        min_pixels, max_pixels: limits on the total pixels of all frames.

    Raises:
        ValueError: one side is more than 200 times the other.
    """
    if min(height, width) < factor:
        grow = max(factor / height, factor / width)
        height, width = int(height * grow), int(width * grow)
    return _size_within(height, width, frames, temporal, factor, min_pixels, max_pixels)


def _size_within(
    height: int, width: int, frames: int, temporal: int, factor: int, min_pixels: int, max_pixels: int
) -> tuple[int, int]:
    if max(height, width) > _LARGEST_ASPECT * min(height, width):
        raise ValueError(f"frames of {width}x{height} pixels: one side is more than {_LARGEST_ASPECT} times the other")
    rows, columns = round(height / factor) * factor, round(width / factor) * factor
    volume = round(frames / temporal) * temporal * rows * columns
    if volume > max_pixels:
        shrink = math.sqrt(frames * height * width / max_pixels)
        rows, columns = (max(factor, math.floor(side / shrink / factor) * factor) for side in (height, width))
    elif volume < min_pixels:
        grow = math.sqrt(min_pixels / (frames * height * width))
        rows, columns = (math.ceil(side * grow / factor) * factor for side in (height, width))
    return rows, columns
