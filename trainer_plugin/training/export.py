"""Exports a trained model as an ordinary Hugging Face folder, which `from_pretrained` and vLLM load.

Weights are gathered tensor by tensor: a device holds one whole tensor at a time, and only rank 0's host holds the whole
model. A new folder appears only when it is complete. In an existing folder the weights are replaced and everything else
is kept, because a Trainer's output folder also holds its checkpoints.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerBase

from schemas.errors import BadInput
from trainer_plugin.atomic_files import atomic_replace_dir, locked, reserve_space
from trainer_plugin.distributed.mesh import run_on_rank_zero
from trainer_plugin.model import LongVideoModel, reshard
from trainer_plugin.recipe import Export
from trainer_plugin.training.model_identity import comparable, config_values
from trainer_plugin.training.weights import empty_model, plain_config

log = logging.getLogger(__name__)

_NOT_COPIED_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".msgpack", ".h5", ".index.json")
_REPLACED_FILES = ("config.json",)
_WEIGHT_FILES = ("*.safetensors", "*.safetensors.index.json", "adapter_config.json", "config.json")
"""Files that would be loaded, or added to the weights, if they were left over from another export."""


_HOW_TO_LOAD = """\
# Adapters of a base with another configuration

They were trained with `config.json` of this folder, which differs from that of their base, e.g. in its rotary base.
Added to the base as it is they compute something else, without any error. Load the base with this configuration:

```python
from peft import PeftModel
from transformers import AutoConfig, AutoModelForImageTextToText

folder, base = "THIS FOLDER", "{base}"
config = AutoConfig.from_pretrained(folder)
model = AutoModelForImageTextToText.from_pretrained(base, config=config)
model = PeftModel.from_pretrained(model, folder)
```

To serve it, e.g. with vLLM, merge: `model.merge_and_unload().save_pretrained(...)`, or export with `export: model`.
"""


def export_model(
    model: LongVideoModel,
    folder: Path,
    *,
    kind: Export = Export.MODEL,
    source: str | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    dtype: torch.dtype = torch.bfloat16,
) -> None:
    """Export the model to a folder. Every rank must call it.

    Args:
        kind: the whole model with merged adapters, or only the adapters, in PEFT's format.
        source: the folder that the model was loaded from; its other files (processors, tokenizer) are copied.
        tokenizer: saved over the copied files; None if `source` has the right tokenizer.
        dtype: type of the exported weights. Adapters that are exported alone keep their own type.

    Raises:
        BadInput: on every rank, if `kind` is `Export.NONE` or another process is writing to the folder.
        OSError, RuntimeError: on every rank, if rank 0 cannot write. Rank 0 raises its own error.
    """
    if kind is Export.NONE:
        raise BadInput("there is nothing to export with export: none; set it to model or adapter")
    weights = _gather_weights(model, dtype, adapters_only=kind is Export.ADAPTER)
    needed = sum(tensor.numel() * tensor.itemsize for tensor in weights.values())

    def write() -> None:
        # Stage inside an existing folder, not next to it, which may be on another disk.
        staging = folder / ".writing" if folder.exists() else folder.with_name(f".{folder.name}.writing")
        staging.parent.mkdir(parents=True, exist_ok=True)
        with locked(staging.with_name(f"{staging.name}.lock"), folder):
            shutil.rmtree(staging, ignore_errors=True)
            with reserve_space(staging, needed):
                staging.mkdir()
                if kind is Export.ADAPTER:
                    write_adapters(model.model, weights, staging, _base_of(source))
                    _write_base_config(model.model, staging, _base_of(source))
                    _write_companions(staging, None, tokenizer)
                else:
                    _write_model(model.model, weights, staging, dtype)
                    _write_companions(staging, source, tokenizer)
                _share_weights(staging)
                _publish(staging, folder)

    run_on_rank_zero(write)


def _share_weights(folder: Path) -> None:
    """Give the weights' files the permissions of the others: safetensors makes them readable by their owner alone."""
    mode = next(folder.glob("*config.json")).stat().st_mode
    for path in folder.glob("*.safetensors"):
        path.chmod(mode)


def export_bytes(model: LongVideoModel, dtype: torch.dtype) -> int:
    """Size in bytes of the whole model's weights in `dtype`."""
    return sum(parameter.numel() for parameter in model.model.parameters()) * dtype.itemsize


def gather_parameters(model: LongVideoModel, *, adapters_only: bool) -> Iterator[tuple[str, Tensor]]:
    """Whole parameters by name, one at a time, on this rank's device. Every rank must iterate over all of them."""
    reshard(model)
    for name, parameter in model.model.named_parameters():
        if not adapters_only or ".lora_" in name:
            tensor = parameter.detach().to(model.parallel.device)
            yield name, tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _gather_weights(model: LongVideoModel, dtype: torch.dtype, adapters_only: bool) -> dict[str, Tensor]:
    """Whole tensors by name in rank 0's host memory; empty on the other ranks."""
    first = dist.get_rank() == 0
    weights: dict[str, Tensor] = {}
    for name, tensor in gather_parameters(model, adapters_only=adapters_only):
        if first:
            # Adapters are not rounded before they are merged.
            weights[name] = tensor.cpu() if ".lora_" in name else tensor.to(dtype).cpu()
    return weights


def _publish(staging: Path, folder: Path) -> None:
    """Move the staged files to their final place.

    If the process is killed while it moves files into an existing folder, that folder lacks weights and does not load.
    It never mixes weights of two exports.
    """
    if staging.parent != folder:
        atomic_replace_dir(staging, folder)
        return
    for old in [path for pattern in _WEIGHT_FILES for path in folder.glob(pattern)]:
        old.unlink()
    for new in sorted(staging.iterdir()):  # this order moves the weights before their index
        if new.is_dir():  # additional chat templates of a tokenizer
            shutil.rmtree(folder / new.name, ignore_errors=True)
        new.replace(folder / new.name)
    staging.rmdir()


def _write_model(model: PreTrainedModel, weights: dict[str, Tensor], folder: Path, dtype: torch.dtype) -> None:
    empty = empty_model(model.config, dtype)
    names = {name for name, _ in empty.named_parameters()}
    merged = {name: _pop_merged(name, weights, model).to(dtype) for name in sorted(names)}
    empty.save_pretrained(folder, state_dict=merged, max_shard_size="5GB")


def _pop_merged(name: str, weights: dict[str, Tensor], model: PreTrainedModel) -> Tensor:
    """A weight of the plain model, with the adapter's product added where there is one.

    The tensors that it is made of are removed from `weights`.
    """
    if name in weights:
        return weights.pop(name)
    layer, _, kind = name.rpartition(".")
    base = weights.pop(f"{layer}.base_layer.{kind}")
    if kind != "weight":
        return base
    down, up = weights.pop(f"{layer}.lora_A.default.weight"), weights.pop(f"{layer}.lora_B.default.weight")
    scale = model.get_submodule(layer).scaling["default"]  # type: ignore[index]
    return base.float() + scale * (up.float() @ down.float())


def write_adapters(model: PreTrainedModel, weights: dict[str, Tensor], folder: Path, base: str | None = None) -> None:
    """Write adapters in PEFT's format.

    Args:
        weights: whole tensors by name, as in the model.
        base: folder of the model to which they belong.
    """
    named = {f"base_model.model.{name.replace('.default.', '.')}": tensor for name, tensor in weights.items()}
    save_file(named, folder / "adapter_model.safetensors", {"format": "pt"})
    adapters = model.peft_config["default"]
    adapters.base_model_name_or_path = base
    adapters.save_pretrained(folder)


def _base_of(source: str | None) -> str | None:
    """The base of adapters. Random weights have none, although their tokenizer may come from a folder."""
    return source if source is not None and (Path(source) / "config.json").exists() else None


def _write_base_config(model: PreTrainedModel, folder: Path, base: str | None) -> None:
    """Write the model's configuration next to its adapters if it differs from the base's.

    PEFT stores no configuration. It would silently add the adapters to a base with, e.g., another rotary base.
    """
    values = {} if base is None else comparable(config_values(AutoConfig.from_pretrained(base)))
    if values != comparable(config_values(model.config)):
        plain_config(model.config).save_pretrained(folder)
        (folder / "README.md").write_text(_HOW_TO_LOAD.format(base=base or "BASE"))
        log.warning(
            "the base of these adapters must be loaded with the config.json in their folder: see their README.md"
        )


def _write_companions(folder: Path, source: str | None, tokenizer: PreTrainedTokenizerBase | None) -> None:
    for file in Path(source).iterdir() if source else ():
        if file.is_file() and not file.name.endswith(_NOT_COPIED_SUFFIXES) and file.name not in _REPLACED_FILES:
            shutil.copyfile(file, folder / file.name)
    if tokenizer is not None:
        (folder / "chat_template.json").unlink(missing_ok=True)  # copied from the source; vLLM would prefer it
        tokenizer.save_pretrained(folder)
