"""Preprocessed frames equal the output of Hugging Face's processors bit for bit.

The processors need torchvision, which neither the trainer nor its tests depend on. Samples of their output are stored
in `tests/data/hf_video_processors.json`. Where torchvision is installed, the processors are also run directly, and
`python -m tests.trainer_plugin.ops.test_preprocess` rewrites the file.
"""

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from schemas.frame_policy import per_frame_size, whole_video_size
from tests.support.properties import given, st
from trainer_plugin.ops.preprocess import (
    image_pixels,
    longest_side_size,
    normalized,
    qwen_patches,
    resize,
)

GOLDEN = Path(__file__).parents[2] / "data" / "hf_video_processors.json"
CLIP = {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)}
HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
SHAPES = [(6, 200, 300), (4, 90, 401), (8, 363, 641), (2, 20, 50)]
CASES = [(family, *shape) for family in ("qwen2_5", "qwen3", "smolvlm") for shape in SHAPES]


def film(count: int, height: int, width: int) -> torch.Tensor:
    """Frames that differ in every position, colour channel and time."""
    n, y, x, c = np.ogrid[:count, :height, :width, :3]
    waves = np.sin(x / 7 + n) * 60 + np.cos(y / 5 - c) * 50 + np.sin(x * y / 900 + 2 * c) * 17
    return torch.from_numpy((127.5 + waves).round().astype(np.uint8))


def ours(family: str, frames: torch.Tensor) -> torch.Tensor:
    """Input of a family's tower, with the defaults of its processor."""
    count, height, width, _ = frames.shape
    if family == "qwen2_5":
        size = per_frame_size(height, width, factor=28, min_pixels=128 * 28 * 28, max_pixels=768 * 28 * 28)
        return qwen_patches(resize(frames, size), patch=14, temporal=2, merge=2, **CLIP)
    if family == "qwen3":
        limits = {"min_pixels": 128 * 32 * 32, "max_pixels": 768 * 32 * 32}
        size = whole_video_size(height, width, count, 2, factor=32, **limits)
        return qwen_patches(resize(frames, size), patch=16, temporal=2, merge=2, **HALF)
    return image_pixels(resize(frames, longest_side_size(height, width, 512), "lanczos"), side=384, **HALF)


def theirs(family: str, frames: torch.Tensor) -> torch.Tensor:
    """Input of a family's tower as transformers computes it."""
    from transformers import Qwen2VLVideoProcessor, Qwen3VLVideoProcessor, SmolVLMVideoProcessor

    video = frames.permute(0, 3, 1, 2)
    if family == "smolvlm":
        processor = SmolVLMVideoProcessor(size={"longest_edge": 512}, max_image_size={"longest_edge": 384})
        return processor([video], return_tensors="pt")["pixel_values"][0]
    processor = Qwen2VLVideoProcessor() if family == "qwen2_5" else Qwen3VLVideoProcessor()
    return processor([video], return_tensors="pt", do_sample_frames=False)["pixel_values_videos"]


def places(tensor: torch.Tensor) -> list[int]:
    """Thirty flat indices, evenly spread over a tensor."""
    return [int(place) for place in np.linspace(0, tensor.numel() - 1, 30)]


def write_golden() -> None:
    kept = {}
    for family, *shape in CASES:
        tensor = theirs(family, film(*shape))
        values = tensor.flatten()[places(tensor)].tolist()
        kept[f"{family} {shape}"] = {"shape": list(tensor.shape), "values": values}
    GOLDEN.write_text(json.dumps(kept, indent=1))


@pytest.mark.parametrize("family, count, height, width", CASES)
def test_a_towers_input_has_the_stored_values_of_the_processor(family, count, height, width):
    tensor = ours(family, film(count, height, width))
    golden = json.loads(GOLDEN.read_text())[f"{family} {[count, height, width]}"]
    assert list(tensor.shape) == golden["shape"]
    # uint8 resizing rounds differently without AVX and in other torch builds: two levels divided by the smallest std
    assert tensor.flatten()[places(tensor)].tolist() == pytest.approx(golden["values"], abs=2 / 255 / 0.26)


@pytest.mark.skipif(find_spec("torchvision") is None, reason="transformers' video processors need torchvision")
@pytest.mark.parametrize("family, count, height, width", CASES)
def test_a_towers_input_equals_the_processors_output_bit_for_bit(family, count, height, width):
    frames = film(count, height, width)
    assert torch.equal(ours(family, frames), theirs(family, frames))


def test_a_patch_row_is_one_place_through_two_frames():
    """Check row 5 of a 2x4-block grid: the second patch of the second token, in the order channel, frame, y, x."""
    frames = film(4, 8, 16)
    rows = qwen_patches(frames, patch=2, temporal=2, merge=2, **HALF)
    assert rows.shape == (2 * 4 * 8, 3 * 2 * 2 * 2)
    there = normalized(frames, **HALF)[:2, :, 0:2, 6:8]
    assert torch.equal(rows[5].view(3, 2, 2, 2), there.transpose(0, 1))


@pytest.mark.parametrize("shape", [(3, 56, 56), (2, 57, 56), (2, 56, 70)])
def test_frames_that_are_not_whole_patches_are_refused(shape):
    with pytest.raises(ValueError, match="not whole patches of 2 frames and 28 pixels"):
        qwen_patches(film(*shape), patch=14, temporal=2, merge=2, **HALF)


@given(st.integers(1, 4000), st.integers(1, 4000), st.integers(1, 800))
def test_sizes_are_on_the_grid_and_within_limits(height, width, frames):
    low, high = 128 * 32 * 32, 16384 * 32 * 32
    if max(height, width) > 200 * min(height, width):
        with pytest.raises(ValueError, match="200 times the other"):
            per_frame_size(height, width, factor=32, min_pixels=low, max_pixels=high)
        return
    rows, columns = per_frame_size(height, width, factor=32, min_pixels=low, max_pixels=high)
    assert rows % 32 == columns % 32 == 0
    assert low <= rows * columns <= high
    rows, columns = whole_video_size(height, width, 2 * frames, 2, factor=32, min_pixels=low, max_pixels=high)
    assert rows % 32 == columns % 32 == 0
    assert low <= 2 * frames * rows * columns
    assert 2 * frames * rows * columns <= high or min(rows, columns) == 32


if __name__ == "__main__":
    write_golden()
