"""Writes a trained model as an ordinary Hugging Face folder: what `from_pretrained` and vLLM load.

Weights are gathered tensor by tensor, so that a device holds one at a time; the first rank's host holds the model once.
A new folder appears when it is whole. In one that is there, the weights are replaced and everything else stays: a
Trainer's output folder also holds its checkpoints.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerBase

from schemas.errors import BadInput
from trainer_plugin.checkpoint import comparable, config_values
from trainer_plugin.files import locked, put_whole, room_for
from trainer_plugin.model import LongVideoModel, reshard
from trainer_plugin.parallel import on_first_rank
from trainer_plugin.recipe import Export
from trainer_plugin.weights import empty_model, plain_config

log = logging.getLogger(__name__)

_NOT_COPIED = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".msgpack", ".h5", ".index.json")
_WRITTEN_ANEW = ("config.json",)
_OF_AN_EXPORT = ("*.safetensors", "*.safetensors.index.json", "adapter_config.json", "config.json")
"""What would be loaded, or added to the weights, if it were left beside those of another export."""


_HOW_TO_LOAD = """\
# Adapters of a base with another configuration

They were learned with `config.json` of this folder, which differs from that of their base, e.g. in its rotary base.
Added to the base as it is they compute something else, and nothing says so. Load the base with this configuration:

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
    """Write the folder. Every rank must call it.

    Args:
        kind: the whole model with adapters merged into it, or PEFT's adapters alone.
        source: the folder that the model came from, whose other files (processors, tokenizer) come along.
        tokenizer: written over those files; None where the source has the right one.
        dtype: of the weights.

    Raises:
        BadInput: nothing is asked for; or, on every rank, another process is writing the folder.
        OSError, RuntimeError: on every rank, when the first one cannot write.
    """
    if kind is Export.NONE:
        raise BadInput("there is nothing to export with export: none; set it to model or adapter")
    weights = _gathered(model, dtype, adapters_only=kind is Export.ADAPTER)
    needed = sum(tensor.numel() * tensor.itemsize for tensor in weights.values())

    def write() -> None:
        # In a folder that is there, not next to it: that may be another disk.
        beside = folder / ".writing" if folder.exists() else folder.with_name(f".{folder.name}.writing")
        beside.parent.mkdir(parents=True, exist_ok=True)
        with locked(beside.with_name(f"{beside.name}.lock"), folder):
            shutil.rmtree(beside, ignore_errors=True)
            with room_for(beside, needed):
                beside.mkdir()
                if kind is Export.ADAPTER:
                    _write_adapters(model.model, weights, beside, source)
                    _write_companions(beside, None, tokenizer)
                else:
                    _write_model(model.model, weights, beside, dtype)
                    _write_companions(beside, source, tokenizer)
                _put(beside, folder)

    on_first_rank(write)


def export_bytes(model: LongVideoModel, dtype: torch.dtype) -> int:
    """How much a whole model's weights take in that type."""
    return sum(parameter.numel() for parameter in model.model.parameters()) * dtype.itemsize


def _gathered(model: LongVideoModel, dtype: torch.dtype, adapters_only: bool) -> dict[str, Tensor]:
    """Whole tensors in the first rank's host memory; nothing on the others."""
    first = dist.get_rank() == 0
    weights: dict[str, Tensor] = {}
    reshard(model)
    for name, parameter in model.model.named_parameters():
        if adapters_only and ".lora_" not in name:
            continue
        whole = parameter.detach().to(model.parallel.device)
        whole = whole.full_tensor() if isinstance(whole, DTensor) else whole
        if first:
            # Adapters stay exact until they are merged.
            weights[name] = whole.cpu() if ".lora_" in name else whole.to(dtype).cpu()
    return weights


def _put(beside: Path, folder: Path) -> None:
    """Move what was written to where it belongs. Killed in between, it leaves a folder that lacks weights and does not
    load, never one with some of each."""
    if beside.parent != folder:
        put_whole(beside, folder)
        return
    for old in [path for pattern in _OF_AN_EXPORT for path in folder.glob(pattern)]:
        old.unlink()
    for new in sorted(beside.iterdir()):  # the index of the weights' files after them
        if new.is_dir():  # a tokenizer's further chat templates
            shutil.rmtree(folder / new.name, ignore_errors=True)
        new.replace(folder / new.name)
    beside.rmdir()


def _write_model(model: PreTrainedModel, weights: dict[str, Tensor], folder: Path, dtype: torch.dtype) -> None:
    empty = empty_model(model.config, dtype)
    names = {name for name, _ in empty.named_parameters()}
    merged = {name: _merged(name, weights, model).to(dtype) for name in sorted(names)}
    empty.save_pretrained(folder, state_dict=merged, max_shard_size="5GB")


def _merged(name: str, weights: dict[str, Tensor], model: PreTrainedModel) -> Tensor:
    """A weight of the plain model, with the adapter's product added where there is one; forgotten in `weights`."""
    if name in weights:
        return weights.pop(name)
    layer, _, kind = name.rpartition(".")
    base = weights.pop(f"{layer}.base_layer.{kind}")
    if kind != "weight":
        return base
    down, up = weights.pop(f"{layer}.lora_A.default.weight"), weights.pop(f"{layer}.lora_B.default.weight")
    scale = model.get_submodule(layer).scaling["default"]  # type: ignore[index]
    return base.float() + scale * (up.float() @ down.float())


def _write_adapters(model: PreTrainedModel, weights: dict[str, Tensor], folder: Path, source: str | None) -> None:
    """In PEFT's format, with the configuration beside if it is another than the base's: PEFT has no place for that, and
    would add the adapters to a base with, e.g., another rotary base without a word."""
    named = {f"base_model.model.{name.replace('.default.', '.')}": tensor for name, tensor in weights.items()}
    save_file(named, folder / "adapter_model.safetensors", {"format": "pt"})
    # Random weights have no base, although their tokenizer may come from a folder.
    base = source if source is not None and (Path(source) / "config.json").exists() else None
    adapters = model.peft_config["default"]
    adapters.base_model_name_or_path = base
    adapters.save_pretrained(folder)
    values = {} if base is None else comparable(config_values(AutoConfig.from_pretrained(base)))
    if values != comparable(config_values(model.config)):
        plain_config(model.config).save_pretrained(folder)
        (folder / "README.md").write_text(_HOW_TO_LOAD.format(base=base or "BASE"))
        log.warning("the base of these adapters must be loaded with the config.json beside them: see their README.md")


def _write_companions(folder: Path, source: str | None, tokenizer: PreTrainedTokenizerBase | None) -> None:
    for file in Path(source).iterdir() if source else ():
        if file.is_file() and not file.name.endswith(_NOT_COPIED) and file.name not in _WRITTEN_ANEW:
            shutil.copyfile(file, folder / file.name)
    if tokenizer is not None:
        (folder / "chat_template.json").unlink(missing_ok=True)  # the source's processor's, which would win in vLLM
        tokenizer.save_pretrained(folder)
