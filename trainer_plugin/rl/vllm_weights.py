"""Gives vLLM the trainer's weights, layer by layer, and checks that it has them.

The vision tower is skipped, because the engine gets features. Adapters are not merged, because bfloat16 weights would
lose most of a small change. The engine runs them as adapters.
"""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from schemas.errors import BadInput
from trainer_plugin.distributed.mesh import run_on_all_ranks
from trainer_plugin.model import LongVideoModel, reshard
from trainer_plugin.training.export import gather_parameters, write_adapters

_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Ranks of adapters for which vLLM reserves room."""


_REPORT = "please report it with the versions of vLLM and transformers, and set rollout.engine=shared_prefix meanwhile"


class WrongWeights(RuntimeError):
    """The engine's weights are not the trainer's. The message names one."""


@torch.no_grad()
def push_weights(model: LongVideoModel, engine_model: Any) -> None:
    """Give an engine the decoder's weights and compare what it has then, bit by bit. Every rank must call it.

    A rank gathers the weights of one layer at a time, in the compute dtype.

    Args:
        engine_model: vLLM's module of the same model, whose weights may have any values.

    Raises:
        WrongWeights: a weight of the engine is missing, differs from the trainer's, or is none of the trainer's.
    """
    weights = {name: each for name, each in engine_model.named_parameters() if not name.startswith("visual.")}
    compared: set[str] = set()
    problem: Exception | None = None
    for group in _gather_decoder(model):
        try:
            if problem is None:
                engine_model.load_weights(iter(group.items()))
                for name, expected in _fuse(group, engine_model).items():
                    _compare(name, weights.get(name), expected)
                    compared.add(name)
        except Exception as error:  # noqa: BLE001 - raised below, because other ranks still gather
            problem = error
    if problem is not None:
        raise problem
    if others := sorted(weights.keys() - compared):
        raise WrongWeights(
            f"vLLM's model has {len(others)} weights that the trainer's has not, e.g. {others[0]}; {_REPORT}"
        )


def _gather_decoder(model: LongVideoModel) -> Iterator[dict[str, Tensor]]:
    """Whole weights by Hugging Face's name, without the vision tower and adapters, a layer at a time."""
    reshard(model)
    tower = {id(module) for module in model.family.vision_tower(model.model).modules()}
    inside = {name for name, module in model.model.named_modules() if id(module) in tower}
    for module in model.modules():
        if isinstance(module, FSDPModule) and id(module) not in tower:
            module.unshard()
            yield {
                name: parameter.detach()
                for name, parameter in model.model.named_parameters()
                if not isinstance(parameter, DTensor) and ".lora_" not in name and name.rpartition(".")[0] not in inside
            }
            module.reshard()


def _fuse(group: Mapping[str, Tensor], engine_model: Any) -> dict[str, Tensor]:
    """The group by vLLM's names, where queries, keys and values are one weight, and so are gate and input of an MLP."""
    places = {
        part: (fused, number)
        for fused, parts in engine_model.packed_modules_mapping.items()
        for number, part in enumerate(parts)
    }
    found: defaultdict[str, dict[int, Tensor]] = defaultdict(dict)
    names = engine_model.hf_to_vllm_mapper.apply_list(list(group))
    for name, weight in zip(names, group.values(), strict=True):
        parts = name.split(".")
        index = next((index for index, part in enumerate(parts) if part in places), None)
        number = 0
        if index is not None:
            parts[index], number = places[parts[index]]
        found[".".join(parts)][number] = weight
    return {name: torch.cat([each[number] for number in sorted(each)]) for name, each in found.items()}


def _compare(name: str, weight: Tensor | None, expected: Tensor) -> None:
    """Compare the engine's weight with the trainer's. The engine's vocabulary may have more rows."""
    if weight is None:
        raise WrongWeights(f"vLLM's model has no weight {name}, which the trainer's has; {_REPORT}")
    found = weight.data[: len(expected)]
    if found.shape != expected.shape or not torch.equal(found, expected.to(found.device, found.dtype)):
        raise WrongWeights(
            f"vLLM's weight {name} of shape {tuple(weight.shape)} is not the trainer's of shape "
            f"{tuple(expected.shape)} after it was given to it; {_REPORT}"
        )


class AdapterFolder:
    """Gives vLLM the trainer's adapters in files. Each has a new name, because the engine does not read a known one."""

    def __init__(self, model: LongVideoModel, folder: Path) -> None:
        """
        Args:
            model: a model with adapters.
            folder: an existing folder of this rank.

        Raises:
            BadInput: vLLM takes no adapters of this rank.
        """
        self._model = model
        self._folder = folder
        rank = model.model.peft_config["default"].r  # type: ignore[attr-defined]
        if rank > _RANKS[-1]:
            raise BadInput(f"trained.lora.rank is {rank}, and vLLM takes at most {_RANKS[-1]}; lower it")
        self.rank = next(each for each in _RANKS if each >= rank)
        """The rank for which the engine reserves room."""

    @torch.no_grad()
    def write(self, number: int) -> None:
        """Write the adapters as they are now, and remove those that were written before. Every rank must call it.

        Raises:
            OSError: a file cannot be written. Ranks on which it can raise RuntimeError.
        """
        whole = gather_parameters(self._model, adapters_only=True)
        weights = {name: tensor.cpu() for name, tensor in whole}

        def write() -> None:
            shutil.rmtree(self._path(number - 1), ignore_errors=True)
            self._path(number).mkdir()
            write_adapters(self._model.model, weights, self._path(number))

        run_on_all_ranks(write)

    def request(self, number: int) -> Any:
        """vLLM's name for the adapters of this number."""
        from vllm.lora.request import LoRARequest

        return LoRARequest(f"adapters-{number}", number, str(self._path(number)))

    def _path(self, number: int) -> Path:
        return self._folder / f"adapters-{number}"
