"""From a folder or a configuration to a sharded model, without any rank but the first ever holding a whole one.
A vision tower alone is whole on every rank (`build_tower`).

The first rank reads (or draws) the weights in the host's memory; all ranks build the model without storage, shard that,
and receive their shards tensor by tensor. So a host needs memory for one copy in the stored type, and a device for its
shards and one tensor. What is learned becomes float32, what is frozen stays in the type of the computation.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from schemas.errors import BadInput
from trainer_plugin.bytes_tokenizer import bytes_tokenizer
from trainer_plugin.checkpoint import comparable, config_values
from trainer_plugin.families import family_of
from trainer_plugin.model import LongVideoModel, RunOptions, shard_parameters
from trainer_plugin.parallel import Parallel, on_first_rank
from trainer_plugin.patches import resample_mode
from trainer_plugin.recipe import Lora, ModelSource, Trained


def read_config(source: ModelSource) -> PretrainedConfig:
    """The model's configuration, with the recipe's rotary base.

    Raises:
        BadInput: there is none, or transformers or the trainer does not know its kind of model.
    """
    folder = None if source.path is None else _folder(source.path)
    try:
        if folder is not None:
            config = AutoConfig.from_pretrained(folder)
        else:
            config = AutoConfig.for_model(**(source.config or {}))
        family_of(config)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise BadInput(f"model {source.path or source.config}: {error}") from error
    text = config.get_text_config()
    if source.rope_theta is not None:
        text.rope_parameters = {**text.rope_parameters, "rope_theta": source.rope_theta}
    if source.max_positions is not None:
        text.max_position_embeddings = source.max_positions
    return config


def read_tokenizer(source: ModelSource) -> PreTrainedTokenizerBase:
    """The tokenizer of the recipe, of the model's folder, or of bytes. Raises BadInput if the folder has none."""
    folder = source.tokenizer or source.path
    if folder is None:
        return bytes_tokenizer()
    folder = _folder(folder)
    try:
        return AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise BadInput(f"there is no tokenizer in {folder}; name its folder in model.tokenizer ({error})") from error


def build_model(
    source: ModelSource,
    trained: Trained,
    config: PretrainedConfig,
    parallel: Parallel,
    *,
    compute: torch.dtype = torch.bfloat16,
    options: RunOptions | None = None,
    offload: bool = False,
    seed: int = 0,
) -> LongVideoModel:
    """The sharded model, ready to train. Every rank must call it.

    Args:
        source: where the weights come from; random ones follow from `seed`, whatever the number of ranks.
        config: `read_config(source)`.
        offload: parameters and optimizer live in the host's memory.

    Raises:
        BadInput: on every rank, when the folder's weights are not those of the model.
    """
    weights = on_first_rank(lambda: _weights(source, config, trained, seed)) or {}
    skeleton = prepare(empty_model(config), trained)
    for parameter in skeleton.parameters():
        parameter.data = parameter.data.to(torch.float32 if parameter.requires_grad else compute)
    model = shard_parameters(LongVideoModel(skeleton, parallel, options), compute, offload=offload)
    model.to_empty(device="cpu" if offload else parallel.device)
    _receive(model, weights, parallel)
    return model.train()


def build_tower(
    source: ModelSource,
    config: PretrainedConfig,
    parallel: Parallel,
    *,
    compute: torch.dtype = torch.bfloat16,
    options: RunOptions | None = None,
    seed: int = 0,
) -> LongVideoModel:
    """The model with its vision tower alone, frozen and whole on every rank: the rest has no storage.

    Arguments and errors are those of `build_model`, and so are the tower's weights. Every rank must call it.
    """
    weights = on_first_rank(lambda: _weights(source, config, Trained(), seed)) or {}
    inner = empty_model(config).requires_grad_(False)
    model = LongVideoModel(inner, parallel, options)
    model.compute_dtype = compute
    inside = {id(module) for module in model.family.vision_tower(inner).modules()}
    for name, module in inner.named_modules():
        if id(module) in inside:
            for key, tensor in [
                *module.named_parameters(name, recurse=False),
                *module.named_buffers(name, recurse=False),
            ]:
                dtype = compute if isinstance(tensor, nn.Parameter) else tensor.dtype
                _receive_whole(inner, key, tensor, weights, parallel.device, dtype)
    return model.eval()


def tower_identity(model: LongVideoModel) -> str:
    """Names the frozen tower that features are of: a hash of its weights, their type, its configuration, and how
    frames are resized for it, which for SmolVLM depends on the version of torch.

    Every rank must call it, and gets the same.
    """
    tower = model.family.vision_tower(model.model)
    values = comparable(config_values(model.model.config)["vision_config"])
    resized = resample_mode(model.family.resample)
    found = hashlib.sha256(json.dumps([model.model.config.model_type, values, resized], sort_keys=True).encode())
    for name, parameter in sorted(tower.named_parameters()):
        whole = parameter.detach().to(model.parallel.device)
        whole = whole.full_tensor() if isinstance(whole, DTensor) else whole
        if model.parallel.rank == 0:
            found.update(f"{name} {whole.dtype} {tuple(whole.shape)}".encode())
            found.update(whole.cpu().contiguous().view(torch.uint8).numpy().data)
    identity = [found.hexdigest()[:16]]
    dist.broadcast_object_list(identity, src=0)
    return identity[0]


def empty_model(config: PretrainedConfig, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """The model without storage, and with transformers' own choice of attention."""
    plain = type(config).from_dict(config.to_dict())
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(plain, dtype=dtype)
    model.tie_weights()
    return model


def prepare(model: PreTrainedModel, trained: Trained) -> PreTrainedModel:
    """The model, in place, with what the recipe learns: adapters added, or the rest frozen."""
    if trained.lora:
        add_adapters(model, trained.lora)
        return model
    family = family_of(model.config)
    model.requires_grad_(trained.language_model)
    family.vision_tower(model).requires_grad_(trained.vision_tower)
    for part in family.projectors(model):
        part.requires_grad_(trained.projector)
    return model


def add_adapters(model: PreTrainedModel, lora: Lora) -> None:
    """LoRA on every linear layer of the decoder, in place; everything else is frozen. Raises BadInput without peft."""
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise BadInput(f"trained.lora needs the package peft ({error}): pip install peft") from error

    decoder = family_of(model.config).language_model(model)
    inside = {id(module) for module in decoder.modules() if isinstance(module, nn.Linear)}
    names = [name for name, module in model.named_modules() if id(module) in inside]
    config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=0.0, target_modules=names)
    model.add_adapter(config)


def _weights(source: ModelSource, config: PretrainedConfig, trained: Trained, seed: int) -> dict[str, Tensor]:
    """All parameters and buffers by name; raises BadInput if they are not the model's."""
    torch.manual_seed(seed)
    if source.path is None:
        model = AutoModelForImageTextToText.from_config(config)
    else:
        try:
            loaded: Any = AutoModelForImageTextToText.from_pretrained(
                _folder(source.path), config=config, dtype="auto", output_loading_info=True
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise BadInput(f"model {source.path}: {error}") from error
        model, found = loaded
        for kind in ("missing_keys", "mismatched_keys", "unexpected_keys"):
            if found.get(kind):
                few = sorted(str(key) for key in found[kind])[:3]
                raise BadInput(
                    f"model {source.path}: {len(found[kind])} {kind.replace('_', ' ')} in its weights, e.g. {few}"
                )
    prepare(model, trained)
    return {**dict(model.named_buffers()), **dict(model.named_parameters())}


@torch.no_grad()
def _receive(model: LongVideoModel, weights: dict[str, Tensor], parallel: Parallel) -> None:
    """Deal out the first rank's tensors; it forgets each as it goes."""
    inner = model.model
    for name, parameter in inner.named_parameters():
        assert isinstance(parameter, DTensor), name
        shape, dtype = parameter.shape, parameter.dtype
        whole = weights.pop(name).to(parallel.device, dtype) if weights else None
        whole = torch.empty(shape, dtype=dtype, device=parallel.device) if whole is None else whole
        shard = distribute_tensor(whole, parameter.device_mesh, parameter.placements)
        parameter.to_local().copy_(shard.to_local())
    for name, buffer in list(inner.named_buffers()):
        _receive_whole(inner, name, buffer, weights, parallel.device, buffer.dtype)


@torch.no_grad()
def _receive_whole(
    inner: nn.Module,
    name: str,
    empty: Tensor,
    weights: dict[str, Tensor],
    device: torch.device,
    dtype: torch.dtype,
) -> None:
    """Put the first rank's tensor in the place of an empty parameter or buffer."""
    whole = weights.pop(name) if weights else torch.empty_like(empty, device="cpu")
    whole = whole.to(device, dtype).contiguous()
    dist.broadcast(whole, src=0)
    holder, _, key = name.rpartition(".")
    whole = nn.Parameter(whole, requires_grad=False) if isinstance(empty, nn.Parameter) else whole
    setattr(inner.get_submodule(holder), key, whole)


def _folder(path: str) -> str:
    if not Path(path).is_dir():
        raise BadInput(f"{path}: no such folder; models are read from disk, not from a hub")
    return path
