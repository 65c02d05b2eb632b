"""One unmodified Hugging Face model, run on this rank's share of a row: frames, then tokens, then log-probabilities.

`LongVideoModel` is an ordinary module around the model: it encodes the frames that the plan gives to this rank, sends
the features to the ranks that own their tokens, runs the decoder on the local tokens and the head on those supervised.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from transformers import PreTrainedModel

from schemas.errors import BadInput
from trainer_plugin import attention, versions, vision_attention
from trainer_plugin.attention import SEQUENCE_PARALLEL, AttentionRun
from trainer_plugin.comm import GradientReduction, exchange
from trainer_plugin.examples import Grid
from trainer_plugin.families import family_of
from trainer_plugin.families.base import Family, Features
from trainer_plugin.head import full_log_probs, token_log_probs
from trainer_plugin.kernels import Kernel
from trainer_plugin.offload import HostMemory
from trainer_plugin.parallel import Parallel, together
from trainer_plugin.plan import Costs, RankShare
from trainer_plugin.tiling import tile
from trainer_plugin.vision_attention import VISION_ATTENTION


class Head(StrEnum):
    """`chunked` never holds the logits of a whole row; `full` does, to measure what that costs."""

    CHUNKED = "chunked"
    FULL = "full"


@dataclass(frozen=True)
class RunOptions:
    """How the model is run. None of it changes the result."""

    kernel: Kernel = Kernel.AUTO
    head: Head = Head.CHUNKED
    recomputed_layers: int | None = None
    """Decoder layers, from the first, that are computed again in the backward pass; None: all. Unless it is 0, so are a
    learned tower's."""
    keep_attention: bool = True
    """But not their attention."""
    mlp_tokens: int | None = None
    """Tokens of which the MLPs of those layers are computed at once; None: all."""
    vision_patches: int = 65_536
    """Patches that the tower encodes at once. With a quarter of them the host is slower than an H100."""
    compile: bool = True
    """On a GPU, let torch.compile fuse what is no matrix product: norms, rotary embeddings, MLPs that are not computed
    again, a frozen tower's blocks."""
    offload: bool = False
    """Hold what the decoder's backward pass needs in the host's memory."""


@dataclass(frozen=True)
class RowShare:
    """What one rank computes of one row."""

    share: RankShare
    pixels: tuple[Tensor, ...]
    """For each of `share.frames` its frames, uint8 [frames, height, width, 3], or what the tower has made of them
    before: features [tokens, hidden * levels], of a floating-point type."""

    def to(self, device: torch.device) -> RowShare:
        """Copied to the device; frames become patches there, and only as many at a time as are encoded."""
        moved = {
            name: getattr(self.share, name).to(device, non_blocking=True)
            for name in ("input_ids", "positions", "visual", "supervised", "targets", "send_order")
        }
        pixels = tuple(each.to(device, non_blocking=True) for each in self.pixels)
        return RowShare(replace(self.share, **moved), pixels)


class LongVideoModel(nn.Module):
    """A model with its place among the ranks. Parameters are the model's own, under the prefix `model.`."""

    def __init__(
        self,
        model: PreTrainedModel,
        parallel: Parallel,
        options: RunOptions | None = None,
        family: Family | None = None,
    ) -> None:
        """
        Args:
            family: the model's; None: with the published processor.

        Raises:
            RuntimeError: torch or transformers is of a version that is not supported.
            ValueError: no family supports the model, or its attention is not supported.
        """
        super().__init__()
        versions.check()
        attention.check_attention(model.config)
        self.model = model
        self.parallel = parallel
        self.options = options or RunOptions()
        self.family = family or family_of(model.config)
        self.costs = Costs.of(model.config.get_text_config())
        self.compute_dtype = model.dtype
        """What matrix products take; `shard_parameters` sets it."""
        self.host = HostMemory(parallel.device) if self.options.offload else None
        attention.register()
        vision_attention.register()
        model.set_attn_implementation({"text_config": SEQUENCE_PARALLEL, "vision_config": VISION_ATTENTION})
        compiles = self.options.compile and parallel.device.type == "cuda"
        if compiles:
            self._compile()
        if self.options.mlp_tokens is not None:
            for layer in self._recomputed_layers():
                mlp = layer.get_submodule("mlp")
                tile(mlp, self.options.mlp_tokens, torch.compile(mlp.forward) if compiles else None)
        if self.recomputed_layers:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        for layer in self._kept_layers():
            layer.gradient_checkpointing = False  # type: ignore[assignment]

    def forward(self, row: RowShare, temperature: float = 1.0, entropy: bool = False) -> tuple[Tensor, Tensor | None]:
        """Log-probabilities of the local supervised tokens.

        Every rank of all groups must call it equally often.

        Returns:
            float32 [N] and, if asked for, the entropies [N].

        Raises:
            BadInput: on every rank, when a video's frames or features are not of its grid on one; names its sample.
        """
        share = row.share
        language_model = self.family.language_model(self.model)
        embeds = language_model.get_input_embeddings()(share.input_ids)
        features = self._features(row)
        if features is not None:
            embeds = embeds.masked_scatter(share.visual[:, None], features.levels[0].to(embeds.dtype))
        else:
            features = Features((embeds[:0],) * self.family.levels)
        run = AttentionRun(
            share=share.attention,
            ulysses=self.parallel.ulysses_group,
            ring=self.parallel.ring_group,
            kernel=self.options.kernel,
            recomputed_layers=self.recomputed_layers if self.training and self.options.keep_attention else 0,
            host=self.host,
        )
        with self.host.saving() if self.host else nullcontext():
            hidden = self.family.run_language_model(
                self.model, embeds, share.positions, share.visual, features, run=run
            )
        weight = self.model.get_output_embeddings().weight
        if self.options.head is Head.FULL:
            targets = torch.zeros_like(share.input_ids).index_copy(0, share.supervised, share.targets)
            log_probs, entropies = full_log_probs(hidden, weight, targets, temperature=temperature, entropy=entropy)
            return log_probs[share.supervised], entropies if entropies is None else entropies[share.supervised]
        found = token_log_probs(
            hidden[share.supervised], weight, share.targets, temperature=temperature, entropy=entropy
        )
        return found.log_probs, found.entropies

    def gradient_checkpointing_enable(self, **options: object) -> None:
        """Nothing: `RunOptions.recomputed_layers` says it. `transformers.Trainer` calls this."""

    @property
    def recomputed_layers(self) -> int:
        """How many decoder layers, from the first, are computed again in the backward pass."""
        layers = len(self.family.language_model(self.model).layers)
        wanted = self.options.recomputed_layers
        return layers if wanted is None else min(wanted, layers)

    def _recomputed_layers(self) -> list[nn.Module]:
        return list(self.family.language_model(self.model).layers)[: self.recomputed_layers]

    def _kept_layers(self) -> list[nn.Module]:
        """Decoder layers that are not computed again. The last ones: what they hold is gone when gradients add up."""
        return list(self.family.language_model(self.model).layers)[self.recomputed_layers :]

    def _compile(self) -> None:
        """Not the MLPs that are computed again: that stops before their last product, which nobody needs, unless they
        have adapters; a compiled MLP could not stop there. What is computed in tiles is compiled by itself."""
        layers = list(self.family.language_model(self.model).layers)
        adapted = any(".lora_" in name for name, _ in layers[0].named_parameters())
        parts = [] if self.tower_learns() else list(self.family.vision_layers(self.model))
        parts += [layer.self_attn for layer in layers]
        whole = adapted and self.options.mlp_tokens is None
        parts += [layer.get_submodule("mlp") for layer in (layers if whole else self._kept_layers())]
        inside = {module for part in parts for module in part.modules()}
        norms = [module for module in self.model.modules() if type(module).__name__.endswith("RMSNorm")]
        for module in [*parts, *(norm for norm in norms if norm not in inside)]:
            module.compile()

    def _features(self, row: RowShare) -> Features | None:
        """Of the local placeholders, in their order; None when no rank of any group has a frame that could matter."""
        problem = self._problem(row)
        pieces = list(self._pieces(row)) if problem is None else []
        calls = sum(not _is_encoded(pixels) for _, pixels in pieces)
        agreed, shown, refused = _most(calls, len(pieces), problem is not None)
        if refused:
            together(partial(_refuse, problem))
        if torch.is_grad_enabled() and self.tower_learns() and not self._decoder_learns():
            agreed = max(agreed, 1)  # or the loss of texts alone would have no gradient at all
        elif shown == 0:
            return None
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.tower_learns()):
            features = [self._encode(grid, pixels) for grid, pixels in pieces]
            # A rank with less to do encodes something blank, so that sharded parameters are gathered by all at once,
            # and takes no row of it, so that its gradients are zeros.
            features += [self._encode(*self._blank())[:0] for _ in range(agreed - calls)]
        own = torch.cat(features) if features else self._no_features()
        own = own[row.share.send_order]
        if row.share.send_sizes:
            own = exchange(own, row.share.send_sizes, row.share.receive_sizes, self.parallel.sp_group)
        return Features.unpacked(own, self.family.levels)

    def _pieces(self, row: RowShare) -> Iterator[tuple[Grid, Tensor]]:
        """This rank's frames, in pieces of at most `vision_patches` patches (or a temporal patch), and its features."""
        for grid, pixels in zip(row.share.grids, row.pixels, strict=True):
            if _is_encoded(pixels):
                yield grid, pixels
                continue
            step = max(1, self.options.vision_patches // (grid.h * grid.w)) * self.family.temporal_patch
            for piece in pixels.split(step):
                yield Grid(len(piece) // self.family.temporal_patch, grid.h, grid.w), piece

    def _problem(self, row: RowShare) -> str | None:
        """What is wrong with this rank's pixels: others would give tokens the features of their neighbours."""
        share = row.share
        if len(row.pixels) != len(share.grids):
            return f"samples {share.keys}: {len(row.pixels)} pixels for {len(share.grids)} shares of frames"
        for key, grid, pixels in zip(share.keys, share.grids, row.pixels, strict=True):
            if not self._fits(grid, pixels):
                frames, tokens = grid.t * self.family.temporal_patch, self._tokens(grid)
                return (
                    f"sample {key}: pixels of shape {tuple(pixels.shape)} ({pixels.dtype}) do not make its {grid}: "
                    f"give {frames} uint8 frames of its size, or floating-point features "
                    f"[{tokens}, {self._feature_width}]"
                )
        return None

    def _fits(self, grid: Grid, pixels: Tensor) -> bool:
        shape, frames = tuple(pixels.shape), grid.t * self.family.temporal_patch
        if _is_encoded(pixels):
            return shape == (self._tokens(grid), self._feature_width)
        return len(shape) == 4 and shape[0] == frames and self.family.grid(shape[1], shape[2], frames) == grid

    def _tokens(self, grid: Grid) -> int:
        return grid.t * self.family.tokens_per_temporal_patch(grid)

    def _encode(self, grid: Grid, pixels: Tensor) -> Tensor:
        """Features [tokens, hidden * levels] of a piece."""
        if _is_encoded(pixels):
            return pixels.to(self.compute_dtype)
        return self.family.encode(self.model, self.family.patches(pixels).to(self.compute_dtype), [grid]).packed()

    def _blank(self) -> tuple[Grid, Tensor]:
        grid, frames = self.family.blank_frames()
        return grid, frames.to(self.parallel.device)

    def _no_features(self) -> Tensor:
        return torch.empty(0, self._feature_width, dtype=self.compute_dtype, device=self.parallel.device)

    @property
    def _feature_width(self) -> int:
        return int(self.model.config.get_text_config().hidden_size) * self.family.levels

    def tower_learns(self) -> bool:
        """Whether the vision tower or its projector is trained."""
        return any(parameter.requires_grad for parameter in self.family.vision_tower(self.model).parameters())

    def _decoder_learns(self) -> bool:
        tower = {id(parameter) for parameter in self.family.vision_tower(self.model).parameters()}
        return any(p.requires_grad and id(p) not in tower for p in self.model.parameters())


def shard_parameters(
    model: LongVideoModel, compute: torch.dtype | None = torch.bfloat16, offload: bool = False
) -> LongVideoModel:
    """FSDP2 over all ranks: parameters as they are (float32 masters), computed in `compute`, gradients in float32.

    Gradients are sums over ranks, not means: the loss is divided by the global number of tokens instead. With `offload`
    parameters and gradients live in the host's memory.
    """
    if compute is not None:
        model.compute_dtype = compute
    policy = MixedPrecisionPolicy(param_dtype=compute, reduce_dtype=torch.float32, cast_forward_inputs=False)
    family, inner = model.family, model.model
    place = CPUOffloadPolicy() if offload and model.parallel.device.type != "cpu" else OffloadPolicy()
    shard = partial(fully_shard, mesh=model.parallel.mesh, mp_policy=policy, offload_policy=place)
    for block in family.vision_layers(inner):
        # A frozen tower is gathered once, in the compute type, and stays: it runs several times for every row.
        frozen = not any(parameter.requires_grad for parameter in block.parameters())
        shard(block, reshard_after_forward=not frozen)
    for layer in family.language_model(inner).layers:
        shard(layer)
    embeddings = inner.get_input_embeddings()
    if embeddings.weight is not inner.get_output_embeddings().weight:
        # What they map tokens to needs their weights no more, nor does its gradient.
        shard(embeddings).set_unshard_in_backward(False)
    shard(model)
    reduction = GradientReduction()
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_custom_reduce_scatter(reduction)  # type: ignore[arg-type]
            if model.parallel.world_size > 1:  # FSDP would divide by 1, in another buffer
                module.set_gradient_divide_factor(1.0)
            # As a plain sum, which gloo knows; a factor of 1 inside the reduction it does not.
            module.set_force_sum_reduction_for_comms(True)
    return model


def reshard(model: nn.Module) -> None:
    """Let the model's parameters be this rank's shards again.

    A forward pass without a backward leaves some gathered, in the type of the computation.
    """
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def _is_encoded(pixels: Tensor) -> bool:
    return pixels.is_floating_point()


def _refuse(problem: str | None) -> None:
    if problem is not None:
        raise BadInput(problem)


def _most(*counts: int) -> tuple[int, ...]:
    """The largest of all ranks' counts, each for itself."""
    found = torch.tensor(counts)
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return tuple(found.tolist())
