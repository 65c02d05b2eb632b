"""The rollout engines by name."""

from __future__ import annotations

import logging
from collections.abc import Collection
from enum import StrEnum

from schemas.errors import BadInput
from trainer_plugin.model import LongVideoModel
from trainer_plugin.rl.rollout import RolloutEngine
from trainer_plugin.rl.sampler import HfSampler
from trainer_plugin.rl.sampling import PixelSource
from trainer_plugin.rl.shared_prefix_sampler import SharedPrefixSampler

log = logging.getLogger(__name__)

PREFILL_TOKENS = 32_768
"""Default for the maximum number of tokens of a prompt that run in one pass."""

CROSSOVER_TOKENS = 8_192
"""Tokens of a prompt from which `shared_prefix` was faster than vLLM 0.26, in groups of 8 responses of 512 tokens with
the shapes of Qwen2.5-VL-7B on one H200 (benchmarks/LOG.md, 2026-12-01)."""


class Engine(StrEnum):
    """What samples responses."""

    AUTO = "auto"
    """`shared_prefix` on a GPU, for decoders that it knows, and otherwise `sharded`."""
    SHARED_PREFIX = "shared_prefix"
    """Each rank copies the whole decoder, reads a prompt once for all responses to it, and replays a CUDA graph."""
    SHARDED = "sharded"
    """The model as it is trained: weights and keys stay on the ranks that hold them. For models that one device cannot
    hold, and for CPUs."""
    VLLM = "vllm"
    """vLLM on each rank, from features (`trainer_plugin.rl.vllm_engine`). It must be installed with the trainer."""


def open_engine(
    engine: Engine,
    model: LongVideoModel,
    pixels: PixelSource,
    stop_ids: Collection[int],
    batch_requests: int = 1,
    prefill_tokens: int = PREFILL_TOKENS,
) -> HfSampler | SharedPrefixSampler:
    """The engine of that name on a model's own weights, which `vllm` is not.

    Args:
        batch_requests: number of prompts in memory, whose responses are decoded in the same steps.
        prefill_tokens: as in `SharedPrefixSampler`; `sharded` runs whole prompts.

    Raises:
        BadInput: a number is below 1, the engine does not know the model's decoder, or it is `vllm`.
    """
    if engine is Engine.VLLM:
        raise BadInput("vllm does not sample with the model's own weights; make a VllmEngine")
    if engine is Engine.SHARDED or (engine is Engine.AUTO and model.parallel.device.type != "cuda"):
        return HfSampler(model, pixels, stop_ids, batch_requests)
    try:
        return SharedPrefixSampler(model, pixels, stop_ids, batch_requests, prefill_tokens)
    except BadInput as error:
        if engine is not Engine.AUTO:
            raise
        log.warning("sampling with rollout.engine=sharded: %s", error)
        return HfSampler(model, pixels, stop_ids, batch_requests)


def log_crossover(engine: RolloutEngine, prompt_tokens: int) -> None:
    """Log which engine was faster at such prompts, if the engine is one of the two that compete on a GPU.

    Args:
        prompt_tokens: of the longest prompt.
    """
    if not isinstance(engine, HfSampler):
        log.info(
            "prompts have up to %d tokens; on an H200 with the shapes of a 7B model, rollout.engine=shared_prefix was "
            "faster than vllm from about %d tokens on",
            prompt_tokens,
            CROSSOVER_TOKENS,
        )
