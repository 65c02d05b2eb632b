"""From a folder or a configuration to a sharded model, without any rank but the first ever holding a whole one.
A vision tower alone is whole on every rank (`build_tower`).

The first rank reads (or draws) the weights in the host's memory; all ranks build the model without storage, shard that,
and receive their shards tensor by tensor. So a host needs memory for one copy in the stored type, and a device for its
shards and one tensor. What is learned becomes float32, what is frozen stays in the type of the computation.
"""

from __future__ import annotations

import hashlib
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
from trainer_plugin.attention import check_attention
from trainer_plugin.bytes_tokenizer import bytes_tokenizer
from trainer_plugin.chat import CHAT_TEMPLATES
from trainer_plugin.checkpoint import comparable, config_values
from trainer_plugin.families import family_of
from trainer_plugin.families.base import Family
from trainer_plugin.model import LongVideoModel, RunOptions, shard_parameters
from trainer_plugin.parallel import Parallel, on_first_rank, together
from trainer_plugin.patches import resample_mode
from trainer_plugin.recipe import Lora, ModelSource, Trained

log = logging.getLogger(__name__)

_UNUSED = re.compile(
    r"rotary_(pos_)?emb\.inv_freq$"  # computed, once saved
    r"|(^|\.)position_ids$"  # the same
    r"|^mtp\."  # further heads that predict several tokens at once, for speculative decoding
)
"""What files may hold beside the model's weights. Everything else that the model has no place for is refused."""
_QUANTIZER_FILES = ("hf_quant_config.json", "quantize_config.json", "quant_config.json")
"""ModelOpt's, AutoGPTQ's and AutoAWQ's, beside a config.json that need not say so."""


def read_config(source: ModelSource) -> PretrainedConfig:
    """The model's configuration, with the recipe's rotary base.

    Raises:
        BadInput: there is none, transformers or the trainer does not know its kind of model or attention, its weights
            are quantized, or the folder holds adapters.
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
    """The model's family. Frames are of the size that the folder's own video processor gives them, as in serving.

    The settings are looked for where transformers does: `video_processor` in processor_config.json, then
    video_preprocessor_config.json, then preprocessor_config.json.

    Raises:
        BadInput: the trainer does not follow the processor's settings, or cannot read them.
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
    """The tokenizer of the recipe, of the model's folder, or of bytes, with the recipe's chat template.

    Without one in the recipe, a chat_template.json in that folder wins over the tokenizer's, as in transformers'
    processors and in vLLM; tokenizers themselves pass it over.

    Raises:
        BadInput: the folder has none, or there is no such template.
    """
    name = source.tokenizer or source.path
    folder = None if name is None else _folder(name)
    try:
        tokenizer = bytes_tokenizer() if folder is None else AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise BadInput(f"there is no tokenizer in {folder}; name its folder in model.tokenizer ({error})") from error
    if source.chat_template is not None:
        tokenizer.chat_template = _chat_template(source.chat_template)
    elif folder is not None and (file := Path(folder) / "chat_template.json").exists():
        try:
            tokenizer.chat_template = json.loads(file.read_bytes())["chat_template"]
        except (ValueError, KeyError, TypeError) as error:
            raise BadInput(f"{file} holds no chat_template ({error!r}); mend it, or remove it") from error
    return tokenizer


def _chat_template(asked: str) -> str:
    if asked in CHAT_TEMPLATES:
        return CHAT_TEMPLATES[asked]
    try:
        return Path(asked).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(
            f"model.chat_template {asked}: {error}; give a Jinja file, or {' or '.join(CHAT_TEMPLATES)}"
        ) from error


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
        BadInput: on every rank, when the folder's weights are not those of the model, or as `read_family`.
    """
    family = together(lambda: read_family(source, config))
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
    parallel: Parallel,
    *,
    compute: torch.dtype = torch.bfloat16,
    options: RunOptions | None = None,
    seed: int = 0,
) -> LongVideoModel:
    """The model with its vision tower alone, frozen and whole on every rank: the rest has no storage.

    Arguments and errors are those of `build_model`, and so are the tower's weights. Every rank must call it.
    """
    family = together(lambda: read_family(source, config))
    weights, config = _read_weights(source, config, Trained(), seed)
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
                _receive_whole(inner, key, tensor, weights, parallel.device, dtype)
    return model.eval()


def tower_identity(model: LongVideoModel) -> str:
    """Names the frozen tower that features are of: a hash of its weights, their type, its configuration, and how
    frames are resized for it, which for SmolVLM depends on the version of torch, and normalized, if not as published.

    Every rank must call it, and gets the same.
    """
    tower = model.family.vision_tower(model.model)
    values = comparable(config_values(model.model.config)["vision_config"])
    resized = resample_mode(model.family.resample)
    own = {name: value for name, value in vars(model.family).items() if name in ("mean", "std")}
    parts = [model.model.config.model_type, values, resized, *([own] if own else [])]
    found = hashlib.sha256(json.dumps(parts, sort_keys=True).encode())
    for name, parameter in sorted(tower.named_parameters()):
        whole = parameter.detach().to(model.parallel.device)
        whole = whole.full_tensor() if isinstance(whole, DTensor) else whole
        if model.parallel.rank == 0:
            found.update(f"{name} {whole.dtype} {tuple(whole.shape)}".encode())
            found.update(whole.cpu().contiguous().view(torch.uint8).numpy().data)
    identity = [found.hexdigest()[:16]]
    dist.broadcast_object_list(identity, src=0)
    return identity[0]


def plain_config(config: PretrainedConfig) -> PretrainedConfig:
    """A copy, with transformers' own choice of attention."""
    return type(config).from_dict(config.to_dict())


def empty_model(config: PretrainedConfig, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """The model without storage, and with transformers' own choice of attention."""
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(plain_config(config), dtype=dtype)
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


def _read_weights(
    source: ModelSource, config: PretrainedConfig, trained: Trained, seed: int
) -> tuple[dict[str, Tensor], PretrainedConfig]:
    """All parameters and buffers by name, on the first rank, and the configuration that is true of them, on all."""
    model = on_first_rank(lambda: _read_model(source, config, seed))
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
    """Whether transformers has left a head alone that the configuration ties, since the files hold another one."""
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    return bool(model.config.tie_word_embeddings) and not tied


def _read_model(source: ModelSource, config: PretrainedConfig, seed: int) -> PreTrainedModel:
    """With the folder's weights, or random ones; raises BadInput if the folder's are not those of the configuration."""
    torch.manual_seed(seed)
    if source.path is None:
        return AutoModelForImageTextToText.from_config(config)
    try:
        loaded: Any = AutoModelForImageTextToText.from_pretrained(
            _folder(source.path), config=config, dtype="auto", output_loading_info=True, ignore_mismatched_sizes=True
        )
    except (OSError, ValueError, RuntimeError, SafetensorError, UnpicklingError) as error:
        raise BadInput(f"model {source.path}: {error}") from error
    model, found = loaded
    unused = {key for key in found["unexpected_keys"] if not _UNUSED.search(key)}
    _refuse(source, found["missing_keys"], "weights of the model are missing in its files", "fetch the folder again")
    _refuse(source, found["mismatched_keys"], "weights are not of config.json's shapes", "give their own configuration")
    _refuse(source, unused, "tensors in its files are no weights of the model", "give its own, unquantized folder")
    return model


def _refuse(source: ModelSource, keys: Collection[str | tuple[str, Any, Any]], what: str, remedy: str) -> None:
    if keys:
        few = ", ".join(sorted(map(_described, keys))[:3])
        raise BadInput(f"model {source.path}: {len(keys)} {what}, e.g. {few}; {remedy}")


def _described(key: str | tuple[str, Any, Any]) -> str:
    """A tensor's name; with both shapes where they differ."""
    if isinstance(key, str):
        return key
    name, found, expected = key
    return f"{name} ({list(found)} instead of {list(expected)})"


def _check_whole_model(folder: Path) -> None:
    """transformers would load the adapters' base from elsewhere, and add them to it."""
    file = folder / "adapter_config.json"
    if file.exists():
        base = json.loads(file.read_bytes()).get("base_model_name_or_path")
        raise BadInput(
            f"model {folder}: it holds adapters of {base!r} ({file.name}), not a whole model; merge them first (PEFT's "
            f"merge_and_unload, or export: model in the run that learned them), and give the merged folder"
        )


def _check_not_quantized(source: ModelSource, config: PretrainedConfig) -> None:
    """Scales and zero points have no place in the model, and rounded weights are not for training."""
    values = config.to_dict()
    parts = [part for part in (values, *values.values()) if isinstance(part, dict)]
    methods = [str(asked.get("quant_method", asked)) for part in parts if (asked := part.get("quantization_config"))]
    methods += [name for name in _QUANTIZER_FILES if source.path and (Path(source.path) / name).exists()]
    if methods:
        raise BadInput(
            f"model {source.path or source.config}: its weights are quantized ({methods[0]}), which is not supported; "
            f"give the folder of the original weights, in bfloat16 or float32"
        )


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
    assert not weights, f"{sorted(weights)[:3]} have no place in the model"


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
