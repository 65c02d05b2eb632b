"""Loads a model of any supported family, frozen, to sample with it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from transformers import PretrainedConfig

from trainer_plugin.distributed.mesh import init_distributed, parallelize
from trainer_plugin.evaluation.frames import FrameSource
from trainer_plugin.model import RunOptions
from trainer_plugin.ops.attention_kernels import Kernel
from trainer_plugin.recipe import ModelSource, Parallelism
from trainer_plugin.rl.engines import Engine, open_engine
from trainer_plugin.rl.sampler import HfSampler
from trainer_plugin.rl.shared_prefix_sampler import SharedPrefixSampler
from trainer_plugin.training.weights import build_model


@contextmanager
def open_sampler(
    source: ModelSource,
    config: PretrainedConfig,
    stop_ids: Collection[int],
    *,
    parallelism: Parallelism,
    precision: str,
    kernel: Kernel = Kernel.AUTO,
    workers: int = 0,
    batch_requests: int = 1,
) -> Iterator[HfSampler | SharedPrefixSampler]:
    """Load a model and sample with it until the block ends. Every rank must call it.

    Args:
        config: result of `read_config(source)`.
        stop_ids: ids of the tokens that end a response (`Chat.stop_ids`).
        precision: name of the torch dtype of the weights and the computation.
        workers: number of decoder processes per rank.
        batch_requests: as in `open_engine`.

    Raises:
        BadInput: on every rank, if the weights cannot be read, or the number of processes does not fit.
    """
    patience = timedelta(minutes=parallelism.timeout_minutes)
    parallel = parallelize(parallelism.sp, config.get_text_config(), init_distributed(patience), timeout=patience)
    options = RunOptions(kernel=kernel, checkpointed_layers=0, compile=False)
    model = build_model(source, None, config, parallel, compute=getattr(torch, precision), options=options)
    frames = FrameSource(model.family, workers)
    try:
        yield open_engine(Engine.AUTO, model, frames, stop_ids, batch_requests)
    finally:
        frames.close()
