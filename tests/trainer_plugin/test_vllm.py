"""vLLM computes the same log-probabilities as the trainer for a prompt with a video, from an exported folder.

vLLM has its own vision tower, positions, patches and kernels, so this also tests that rollouts and training agree. How
to run it: `tests.trainer_plugin.in_vllm`.
"""

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.trainer_plugin.in_vllm import CONFIGS, hub_folder, needs_vllm, vllm_log_probs
from tests.trainer_plugin.runs import make_recipe
from trainer_plugin.distributed.sequence_plan import SequencePlan
from trainer_plugin.families.base import Family
from trainer_plugin.model import RankInput
from trainer_plugin.sft import Training
from trainer_plugin.types import Example, VideoClip, VideoSource

FPS = 1
"""Frame rate so low that a Qwen2.5-VL video has its largest position in time, not in a frame side. Text follows it."""
FRAMES, ROWS, COLUMNS = 8, 6, 8
"""Number of frames, and rows and columns of tokens; processors do not resize such a video."""

BEFORE = "<|im_start|>user\n"
AFTER = "What is shown?<|im_end|>\n<|im_start|>assistant\nA lamp."


def film(family: Family) -> np.ndarray:
    """Frames of random coloured squares, one per token: uint8 [frames, height, width, 3]."""
    height, width = family.frame_size(1, 1, FRAMES, max_tokens=FRAMES // family.temporal_patch)
    squares = np.random.default_rng(0).integers(0, 256, (FRAMES, ROWS, COLUMNS, 3), dtype=np.uint8)
    return squares.repeat(height, axis=1).repeat(width, axis=2)


def example_of(training: Training, frames: np.ndarray) -> Example:
    family, encode, (count, height, width, _) = training.family, training.tokenizer.encode, frames.shape
    grid, times = family.grid(height, width, count), tuple(n * 1_000_000 // FPS for n in range(count))
    video_ids = family.video_ids(training.tokenizer, grid, times, count * 1_000_000 // FPS)
    input_ids = torch.tensor([*encode(BEFORE), *video_ids, *encode(AFTER)])
    clip = VideoClip(VideoSource("film", ""), times, (height, width), grid)
    return Example("film", input_ids, input_ids.clone(), family.positions(input_ids, [(grid, times)]), (clip,))


def own_log_probs(training: Training, example: Example, frames: np.ndarray) -> Tensor:
    """Log-probabilities of all tokens but the first, from the trainer's model."""
    model = training.model
    plan = SequencePlan([example], model.family, training.parallel.layout, model.costs)
    with torch.no_grad():
        found, _ = model(RankInput(plan.rank_plan(0), (torch.from_numpy(frames),)))
    return found


def prompt(training: Training, name: str) -> list[int]:
    """Prompt tokens for vLLM, with one placeholder for the video.

    For families with times between frames, transformers since 5.10 keeps markers around the placeholder in addition to
    those of each frame. Qwen's own processor, with which the weights were trained, did not.
    """
    placeholder = "<|video_pad|>" if name == "qwen3_vl" else "<|vision_start|><|video_pad|><|vision_end|>"
    return training.tokenizer.encode(BEFORE + placeholder + AFTER)


@pytest.mark.timeout(600)
@needs_vllm
@pytest.mark.parametrize("name", CONFIGS)
def test_an_exported_model_gives_the_trainers_log_probs_of_a_video_in_vllm(alone, release, tmp_path, name):
    source = hub_folder(tmp_path / "source", name)
    with Training(
        make_recipe(tmp_path / "run", release, f"model={{path: {source}}}", "steps=1", "export=model")
    ) as training:
        for _ in training:
            pass
        training.export()
        frames = film(training.family)
        example = example_of(training, frames)
        expected = own_log_probs(training, example, frames)
    ids, found = vllm_log_probs(tmp_path, tmp_path / "run/export", frames, FPS, prompt(training, name))
    assert ids == example.input_ids.tolist()
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
