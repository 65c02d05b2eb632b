"""What vLLM reads: a prompt with the features of its videos, and a folder that describes the model.

vLLM accepts some wrong inputs without an error and computes something else: no times of a video, a row of features too
many, another dtype, a used key with other content. `make_prompt` refuses them all before the engine sees them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from operator import gt
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from schemas.errors import BadInput
from trainer_plugin.model import LongVideoModel
from trainer_plugin.rl.rollout import RolloutRequest
from trainer_plugin.training.weights import plain_config
from trainer_plugin.types import VideoClip

_PROCESSORS = {
    "qwen2_5_vl": ("Qwen2_5_VLProcessor", "Qwen2VLVideoProcessor"),
    "qwen3_vl": ("Qwen3VLProcessor", "Qwen3VLVideoProcessor"),
}
"""Names of the processor and of the video processor, by model type, of the models whose features vLLM takes."""


def check_family(config: PretrainedConfig) -> None:
    """Check that vLLM takes features of this model's videos.

    Raises:
        BadInput: it does not.
    """
    if config.model_type not in _PROCESSORS:
        raise BadInput(
            f"rollout.engine vllm knows the models {', '.join(_PROCESSORS)}, not {config.model_type}; set "
            f"rollout.engine=shared_prefix or sharded"
        )


def make_prompt(
    request: RolloutRequest, features: Sequence[Tensor], keys: Sequence[str], model: LongVideoModel
) -> dict[str, Any]:
    """A request as vLLM's `add_request` takes it.

    Args:
        features: of each video of the prompt, [tokens, hidden * levels] in host memory, as `Features.packed`.
        keys: for each video, a name that no other content has had since the engine's caches were emptied.

    Raises:
        BadInput: features do not fit their video or the model.
    """
    family, prompt = model.family, request.prompt
    for clip, each in zip(prompt.videos, features, strict=True):
        _check_features(f"sample {prompt.key}: video {clip.video.key}", clip, each, model)
    made: dict[str, Any] = {"prompt_token_ids": list(request.unexpanded_ids)}
    if prompt.videos:
        grids = [[clip.grid.t, clip.grid.h, clip.grid.w] for clip in prompt.videos]
        fields = family.vllm_times([clip.frame_times_us for clip in prompt.videos])
        video = {"video_embeds": torch.cat(list(features)), "video_grid_thw": torch.tensor(grids), **fields}
        made["multi_modal_data"] = {"video": video}
        made["multi_modal_uuids"] = {"video": list(keys)}
    return made


def _check_features(name: str, clip: VideoClip, features: Tensor, model: LongVideoModel) -> None:
    family, times = model.family, clip.frame_times_us
    tokens = clip.grid.t * family.tokens_per_temporal_patch(clip.grid)
    width = model.model.config.get_text_config().hidden_size * family.levels
    if features.shape != (tokens, width):
        raise BadInput(
            f"{name}: its features have the shape {tuple(features.shape)}, and its grid of {clip.grid.t} × "
            f"{clip.grid.h} × {clip.grid.w} and the model need {(tokens, width)}; encode it with this model's tower"
        )
    if features.dtype != model.compute_dtype:
        raise BadInput(
            f"{name}: its features are {features.dtype} and the engine computes in {model.compute_dtype}, to which it "
            f"would round them; encode it with the precision of the run"
        )
    if features.device.type != "cpu":
        raise BadInput(f"{name}: its features are on {features.device}; vLLM takes them from host memory only")
    if len(times) != clip.grid.t * family.temporal_patch or any(map(gt, times, times[1:])):
        raise BadInput(
            f"{name}: it has {len(times)} frame times for {clip.grid.t} temporal patches of {family.temporal_patch} "
            f"frames, and they must ascend: {times[:4]} …; choose its frames again"
        )


def write_model_folder(
    folder: Path, model: LongVideoModel, tokenizer: PreTrainedTokenizerBase, video_tokens: int, max_tokens: int
) -> None:
    """Write what vLLM reads of a model without weights: its configuration, tokenizer and processors.

    Args:
        folder: an existing folder.
        tokenizer: the model's.
        video_tokens: number of tokens of the largest video. vLLM derives the size of its encoder cache from the largest
            picture that the processor makes.
        max_tokens: largest number of tokens of a prompt with a response. vLLM compares it with
            `max_position_embeddings`, although positions inside a video grow more slowly than tokens.
    """
    config = plain_config(model.model.config)
    config.architectures = [type(model.model).__name__]
    text = config.get_text_config()
    text.max_position_embeddings = max(text.max_position_embeddings, max_tokens)
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    processor, video = _PROCESSORS[config.model_type]
    vision = config.vision_config
    side = vision.patch_size * vision.spatial_merge_size
    both = {
        "processor_class": processor,
        "patch_size": vision.patch_size,
        "merge_size": vision.spatial_merge_size,
        "temporal_patch_size": vision.temporal_patch_size,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "size": {"shortest_edge": side**2, "longest_edge": 2 * video_tokens * side**2},
    }
    image = {**both, "image_processor_type": "Qwen2VLImageProcessor"}
    (folder / "preprocessor_config.json").write_text(json.dumps(image))
    (folder / "video_preprocessor_config.json").write_text(json.dumps({**both, "video_processor_type": video}))
