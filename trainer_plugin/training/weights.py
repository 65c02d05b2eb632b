"""Loading of a model from a folder or a configuration, and its sharding. Only rank 0 ever holds a whole model.

The exception is `build_tower`, which gives every rank a whole vision tower. Rank 0 reads the weights, or initializes
them at random, in host memory. All ranks build the model without storage, shard it, and receive their shards tensor by
tensor. A host therefore needs memory for one copy in the stored dtype, and a device for its shards and one tensor.
Trainable weights become float32, and frozen ones have the compute dtype.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Collection
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError
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
from trainer_plugin.data.byte_tokenizer import bytes_tokenizer
from trainer_plugin.data.chat import CHAT_TEMPLATES
from trainer_plugin.distributed.mesh import RankContext, run_on_all_ranks, run_on_rank_zero
from trainer_plugin.families import family_of
from trainer_plugin.families.base import Family
from trainer_plugin.model import LongVideoModel, RunOptions, shard_parameters
from trainer_plugin.ops.sequence_parallel_attention import check_attention
from trainer_plugin.recipe import Lora, ModelSource, TrainableParts

log = logging.getLogger(__name__)

_IGNORED_TENSORS = re.compile(
    r"rotary_(pos_)?emb\.inv_freq$"  # computed today, but saved by earlier versions
    r"|(^|\.)position_ids$"  # the same
    r"|^mtp\."  # multi-token prediction heads, for speculative decoding
)
"""Tensors that files may hold in addition to the model's weights. Any other unexpected tensor is an error."""
_QUANTIZER_FILES = ("hf_quant_config.json", "quantize_config.json", "quant_config.json")
"""Files of ModelOpt, AutoGPTQ and AutoAWQ. config.json need not mention the quantization."""


def read_config(source: ModelSource) -> PretrainedConfig:
    """Read the model's configuration, with the recipe's rotary base and maximum number of positions.

    Raises:
        BadInput: there is no configuration, transformers or the trainer does not support the model type or attention,
            the weights are quantized, or the folder holds adapters.
    """
    folder = None if source.path is None else _folder(source.path)
    if folder is not None:
        _check_whole_model(Path(folder))
    try:
        if folder is not None:
            config = AutoConfig.from_pretrained(folder)
        else:
            config = AutoConfig.for_model(**(source.config or {}))
        family_of(config)
        check_attention(config)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise BadInput(f"model {source.path or source.config}: {error}") from error
    _check_not_quantized(source, config)
    text = config.get_text_config()
    if source.rope_theta is not None:
        text.rope_parameters = {**text.rope_parameters, "rope_theta": source.rope_theta}
    if source.max_positions is not None:
        text.max_position_embeddings = source.max_positions
    return config


def read_family(source: ModelSource, config: PretrainedConfig) -> Family:
    """Read the model's family, with the settings of the folder's own video processor, so that frames are as in serving.

    The settings are searched for in the order of transformers: `video_processor` in processor_config.json, then
    video_preprocessor_config.json, then preprocessor_config.json. Without any, the published settings apply.

    Raises:
        BadInput: the processor's settings are not supported or cannot be read.
        ValueError: no family supports the model.
    """
    folder = Path(source.path or "")
    names = ("processor_config.json", "video_preprocessor_config.json", "preprocessor_config.json")
    for name in names if source.path else ():
        try:
            if not (folder / name).exists():
                continue
            values = json.loads((folder / name).read_bytes())
            values = values.get("video_processor") if name == "processor_config.json" else values
            if values is not None:
                return family_of(config, values)
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise BadInput(f"model {folder}: {name}: {error}") from error
    return family_of(config)


def read_tokenizer(source: ModelSource) -> PreTrainedTokenizerBase:
    """Read the tokenizer of the recipe or of the model's folder; the byte tokenizer if the recipe names neither.

    The recipe's chat template takes precedence. Otherwise a chat_template.json in the tokenizer's folder overrides the
    tokenizer's own template, as in transformers' processors and in vLLM. Tokenizers themselves ignore that file.

    Raises:
        BadInput: the folder has no tokenizer, or the chat template cannot be read.
    """
    name = source.tokenizer or source.path
    folder = None if name is None else _folder(name)
    try:
        tokenizer = bytes_tokenizer() if folder is None else AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise BadInput(f"there is no tokenizer in {folder}; name its folder in model.tokenizer ({error})") from error
    if source.chat_template is not None:
        tokenizer.chat_template = _read_chat_template(source.chat_template)
    elif folder is not None and (file := Path(folder) / "chat_template.json").exists():
        try:
            tokenizer.chat_template = json.loads(file.read_bytes())["chat_template"]
        except (ValueError, KeyError, TypeError) as error:
            raise BadInput(f"{file} holds no chat_template ({error!r}); fix it, or remove it") from error
    return tokenizer


def _read_chat_template(name: str) -> str:
    if name in CHAT_TEMPLATES:
        return CHAT_TEMPLATES[name]
    try:
        return Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(
            f"model.chat_template {name}: {error}; give a Jinja file, or {' or '.join(CHAT_TEMPLATES)}"
        ) from error


def build_model(
    source: ModelSource,
    trained: TrainableParts | None,
    config: PretrainedConfig,
    parallel: RankContext,
    *,
    compute: torch.dtype = torch.bfloat16,
    options: RunOptions | None = None,
    offload: bool = False,
    seed: int = 0,
) -> LongVideoModel:
    """Build the sharded model, ready to train, or frozen. Every rank must call it.

    Args:
        source: where the weights come from. Random weights depend on `seed` only, not on the number of ranks.
        trained: which parts are trainable; None: nothing, for a model that only samples or scores.
        config: result of `read_config(source)`.
        parallel: this process's rank and groups.
        compute: dtype of the computation and of frozen weights.
        options: options for speed and memory; None for the defaults.
        offload: keep parameters and optimizer state in host memory.
        seed: seed of random weights.

    Raises:
        BadInput: on every rank, if the folder's weights do not fit the configuration, or for the reasons given in
            `read_family`.
        RuntimeError: the version of torch or transformers is not supported.
    """
    family = run_on_all_ranks(lambda: read_family(source, config))
    weights, config = _read_weights(source, config, trained, seed)
    skeleton = prepare(empty_model(config), trained)
    for parameter in skeleton.parameters():
        parameter.data = parameter.data.to(torch.float32 if parameter.requires_grad else compute)
    model = shard_parameters(LongVideoModel(skeleton, parallel, options, family), compute, offload=offload)
    model.to_empty(device="cpu" if offload else parallel.device)
    _receive(model, weights, parallel)
    return model.train()


def build_tower(
    source: ModelSource,
    config: PretrainedConfig,
    parallel: RankContext,
    *,
    compute: torch.dtype = torch.bfloat16,
    options: RunOptions | None = None,
    seed: int = 0,
) -> LongVideoModel:
    """Build the model with only its vision tower, frozen and whole on every rank. The rest has no storage.

    Arguments, errors and the tower's weights are those of `build_model`. Every rank must call it.
    """
    family = run_on_all_ranks(lambda: read_family(source, config))
    weights, config = _read_weights(source, config, TrainableParts(), seed)
    inner = empty_model(config).requires_grad_(False)
    model = LongVideoModel(inner, parallel, options, family)
    model.compute_dtype = compute
    inside = {id(module) for module in model.family.vision_tower(inner).modules()}
    for name, module in inner.named_modules():
        if id(module) in inside:
            for key, tensor in [
                *module.named_parameters(name, recurse=False),
                *module.named_buffers(name, recurse=False),
            ]:
                dtype = compute if isinstance(tensor, nn.Parameter) else tensor.dtype
                _receive_tensor(inner, key, tensor, weights, parallel.device, dtype)
    return model.eval()


def plain_config(config: PretrainedConfig) -> PretrainedConfig:
    """A copy of a configuration with transformers' own choice of attention."""
    return type(config).from_dict(config.to_dict())


def empty_model(config: PretrainedConfig, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """Build a model without storage (on the meta device), with transformers' own choice of attention."""
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(plain_config(config), dtype=dtype)
    model.tie_weights()
    return model


def prepare(model: PreTrainedModel, trained: TrainableParts | None) -> PreTrainedModel:
    """Make the parts of a model trainable that the recipe trains, in place: add adapters, or freeze the rest."""
    if trained is None:
        return model.requires_grad_(False)
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
    """Add LoRA to every linear layer of the decoder, in place, and freeze everything else.

    Raises:
        BadInput: the package peft is not installed.
    """
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise BadInput(f"trained.lora needs the package peft ({error}): pip install peft") from error

    decoder = family_of(model.config).language_model(model)
    inside = {id(module) for module in decoder.modules() if isinstance(module, nn.Linear)}
    names = [name for name, module in model.named_modules() if id(module) in inside]
    config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=0.0, target_modules=names)
    model.add_adapter(config)


def _read_weights(
    source: ModelSource, config: PretrainedConfig, trained: TrainableParts | None, seed: int
) -> tuple[dict[str, Tensor], PretrainedConfig]:
    """Read all parameters and buffers by name on rank 0, and return the configuration that fits them on all ranks.

    The configuration differs from `config` if the files hold a head that it would tie to the embeddings. Other ranks
    get no tensors.
    """
    model = run_on_rank_zero(lambda: _read_model(source, config, seed))
    untied = [model is not None and _is_untied(model)]
    dist.broadcast_object_list(untied, src=0)
    if untied[0]:
        config = type(config).from_dict(config.to_dict())
        config.tie_word_embeddings = config.get_text_config().tie_word_embeddings = False
    if model is None:
        return {}, config
    if untied[0]:
        log.warning(
            "model %s: its configuration ties the head to the embeddings, but its files hold a head of its own; it is "
            "trained, and exported, with tie_word_embeddings: false",
            source.path,
        )
    prepare(model, trained)
    return {**dict(model.named_buffers()), **dict(model.named_parameters())}, config


def _is_untied(model: PreTrainedModel) -> bool:
    """Whether the configuration ties the head, but transformers did not, because the files hold a separate head."""
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    return bool(model.config.tie_word_embeddings) and not tied


def _read_model(source: ModelSource, config: PretrainedConfig, seed: int) -> PreTrainedModel:
    """Load the model with the folder's weights, or initialize it at random if there is no folder.

    Raises:
        BadInput: the files cannot be read, or their weights do not fit the configuration.
    """
    torch.manual_seed(seed)
    if source.path is None:
        return AutoModelForImageTextToText.from_config(config)
    try:
        loaded: Any = AutoModelForImageTextToText.from_pretrained(
            _folder(source.path), config=config, dtype="auto", output_loading_info=True, ignore_mismatched_sizes=True
        )
    except (OSError, ValueError, RuntimeError, SafetensorError, UnpicklingError) as error:
        raise BadInput(f"model {source.path}: {error}") from error
    model, info = loaded
    unused = {key for key in info["unexpected_keys"] if not _IGNORED_TENSORS.search(key)}
    _refuse(source, info["missing_keys"], "weights of the model are missing in its files", "fetch the folder again")
    _refuse(source, info["mismatched_keys"], "weights are not of config.json's shapes", "give their own configuration")
    _refuse(source, unused, "tensors in its files are no weights of the model", "give its own, unquantized folder")
    return model


def _refuse(source: ModelSource, keys: Collection[str | tuple[str, Any, Any]], what: str, fix: str) -> None:
    if keys:
        few = ", ".join(sorted(map(_describe_key, keys))[:3])
        raise BadInput(f"model {source.path}: {len(keys)} {what}, e.g. {few}; {fix}")


def _describe_key(key: str | tuple[str, Any, Any]) -> str:
    """A tensor's name, followed by the found and the expected shape if they differ."""
    if isinstance(key, str):
        return key
    name, found, expected = key
    return f"{name} ({list(found)} instead of {list(expected)})"


def _check_whole_model(folder: Path) -> None:
    """Refuse a folder of adapters, for which transformers would load the base model from another place.

    Raises:
        BadInput: the folder holds adapters.
    """
    file = folder / "adapter_config.json"
    if file.exists():
        base = json.loads(file.read_bytes()).get("base_model_name_or_path")
        raise BadInput(
            f"model {folder}: it holds adapters of {base!r} ({file.name}), not a whole model; merge them first (PEFT's "
            f"merge_and_unload, or export: model in the run that trained them), and give the merged folder"
        )


def _check_not_quantized(source: ModelSource, config: PretrainedConfig) -> None:
    """Refuse quantized weights: the model has no scales and zero points, and rounded weights are unfit for training.

    Raises:
        BadInput: the weights are quantized, according to config.json or a quantizer's file.
    """
    values = config.to_dict()
    parts = [part for part in (values, *values.values()) if isinstance(part, dict)]
    methods = [str(found.get("quant_method", found)) for part in parts if (found := part.get("quantization_config"))]
    methods += [name for name in _QUANTIZER_FILES if source.path and (Path(source.path) / name).exists()]
    if methods:
        raise BadInput(
            f"model {source.path or source.config}: its weights are quantized ({methods[0]}), which is not supported; "
            f"give the folder of the original weights, in bfloat16 or float32"
        )


@torch.no_grad()
def _receive(model: LongVideoModel, weights: dict[str, Tensor], parallel: RankContext) -> None:
    """Distribute rank 0's tensors to the shards of all ranks. Rank 0 frees each tensor after it is sent."""
    inner = model.model
    for name, parameter in inner.named_parameters():
        assert isinstance(parameter, DTensor), name
        shape, dtype = parameter.shape, parameter.dtype
        tensor = weights.pop(name).to(parallel.device, dtype) if weights else None
        tensor = torch.empty(shape, dtype=dtype, device=parallel.device) if tensor is None else tensor
        shard = distribute_tensor(tensor, parameter.device_mesh, parameter.placements)
        parameter.to_local().copy_(shard.to_local())
    for name, buffer in list(inner.named_buffers()):
        _receive_tensor(inner, name, buffer, weights, parallel.device, buffer.dtype)
    assert not weights, f"{sorted(weights)[:3]} have no place in the model"


@torch.no_grad()
def _receive_tensor(
    inner: nn.Module,
    name: str,
    empty: Tensor,
    weights: dict[str, Tensor],
    device: torch.device,
    dtype: torch.dtype,
) -> None:
    """Broadcast rank 0's tensor and replace an empty parameter or buffer by it."""
    tensor = weights.pop(name) if weights else torch.empty_like(empty, device="cpu")
    tensor = tensor.to(device, dtype).contiguous()
    dist.broadcast(tensor, src=0)
    holder, _, key = name.rpartition(".")
    tensor = nn.Parameter(tensor, requires_grad=False) if isinstance(empty, nn.Parameter) else tensor
    setattr(inner.get_submodule(holder), key, tensor)


def _folder(path: str) -> str:
    if not Path(path).is_dir():
        raise BadInput(f"{path}: no such folder; models are read from disk, not from a hub")
    return path
