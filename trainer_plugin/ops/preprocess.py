"""Resizing, normalisation and patch layout of frames, equal to Hugging Face's video processors but without torchvision.

Pure functions of tensors, on the device of the frames unless stated otherwise. Sizes, layouts and formulas are those of
transformers' `Qwen2VLVideoProcessor` (also used for Qwen2.5-VL), `Qwen3VLVideoProcessor` and `SmolVLMVideoProcessor`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Resample = Literal["bicubic", "lanczos"]
"""Resampling filter of a processor: bicubic for Qwen, Lanczos for SmolVLM."""


def resample_mode(resample: Resample) -> Resample:
    """The filter that torch uses for `resample`.

    torch before 2.12 has no Lanczos filter and uses bicubic instead, as the processors do.
    """
    return "bicubic" if torch.__version__ < "2.12" else resample


def resize(frames: Tensor, size: tuple[int, int], resample: Resample = "bicubic") -> Tensor:
    """Resize frames, antialiased and rounded as by torchvision's `resize` on the CPU.

    Args:
        frames: uint8, shape [n, height, width, 3], on the CPU.
        size: new height and width in pixels.
        resample: resampling filter; see `resample_mode`.

    Returns:
        uint8, shape [n, *size, 3].
    """
    if tuple(frames.shape[1:3]) == size:
        return frames
    mode = resample_mode(resample)
    resized = functional.interpolate(frames.permute(0, 3, 1, 2), size=size, mode=mode, antialias=True)
    return resized.permute(0, 2, 3, 1).contiguous()


def longest_side_size(height: int, width: int, side: int) -> tuple[int, int]:
    """Height and width of SmolVLM's frames before they are made square: longer side `side`, the other side even."""
    if width >= height:
        return _even(int(side / (width / height))), side
    return side, _even(int(side * (width / height)))


def qwen_patches(
    frames: Tensor, *, patch: int, temporal: int, merge: int, mean: Sequence[float], std: Sequence[float]
) -> Tensor:
    """The rows of `pixel_values_videos` for Qwen-VL.

    Args:
        frames: uint8, shape [n, height, width, 3]. n is a multiple of `temporal`, both sides of `patch * merge`.
        patch, temporal, merge: the tower's patch size, temporal patch size and spatial merge size.
        mean, std: normalisation per channel, for values from 0 to 1.

    Returns:
        float32, shape [n/temporal * height/patch * width/patch, 3 * temporal * patch**2]. Rows are ordered by temporal
        patch, then by block of `merge`x`merge` patches, which becomes one token.

    Raises:
        ValueError: the frames cannot be divided into whole patches.
    """
    count, height, width, _ = frames.shape
    if count % temporal or height % (patch * merge) or width % (patch * merge):
        raise ValueError(
            f"{count} frames of {width}x{height} pixels are not whole patches of {temporal} frames and "
            f"{patch * merge} pixels"
        )
    rows, columns = height // patch, width // patch
    blocks = normalized(frames, mean, std).view(
        count // temporal, temporal, 3, rows // merge, merge, patch, columns // merge, merge, patch
    )
    # New order: t, block row, block column, row and column in the block, channel, frame, y, x.
    ordered = blocks.permute(0, 3, 6, 4, 7, 2, 1, 5, 8)
    return ordered.reshape(count // temporal * rows * columns, 3 * temporal * patch**2)


def image_pixels(
    frames: Tensor, *, side: int, mean: Sequence[float], std: Sequence[float], resample: Resample = "lanczos"
) -> Tensor:
    """SmolVLM's `pixel_values`: square, normalised frames.

    Args:
        frames: uint8, shape [n, height, width, 3], on the CPU, in the size given by `longest_side_size` or already
            square.
        side: height and width of the result in pixels.
        mean, std: normalisation per channel, for values from 0 to 1.
        resample: filter of the resize to a square.

    Returns:
        float32, shape [n, 3, side, side].
    """
    return normalized(resize(frames, (side, side), resample), mean, std)


def normalized(frames: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Normalise uint8 [n, height, width, 3] to float32 [n, 3, height, width].

    Scaling to [0, 1] and normalising are one operation, as in transformers' processors.
    """
    scale = 1.0 / (1 / 255)
    means, stds = (torch.tensor(values, device=frames.device) * scale for values in (mean, std))
    pixels = frames.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
    return pixels.sub_(means.view(3, 1, 1)).div_(stds.view(3, 1, 1))


def _even(pixels: int) -> int:
    return max(1, pixels + pixels % 2)
