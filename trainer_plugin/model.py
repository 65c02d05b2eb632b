"""An unmodified Hugging Face model run on one rank's part of a row: from frames and tokens to log-probabilities.

`LongVideoModel` is an ordinary module that wraps the model. It encodes the frames that the plan assigns to this rank
and sends the features to the ranks that own their tokens. It then runs the decoder on the local tokens, and the head on
the supervised ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from transformers import PreTrainedModel

from schemas.errors import BadInput
from trainer_plugin import versions
from trainer_plugin.distributed.collectives import GradientReduction, exchange
from trainer_plugin.distributed.mesh import RankContext, run_on_all_ranks
from trainer_plugin.distributed.sequence_plan import Costs, RankPlan, SequencePlan
from trainer_plugin.families import family_of
from trainer_plugin.families.base import Family, Features
from trainer_plugin.ops import sequence_parallel_attention as attention
from trainer_plugin.ops import vision_attention
from trainer_plugin.ops.activation_offload import HostMemory
from trainer_plugin.ops.attention_kernels import Kernel
from trainer_plugin.ops.decode_attention import DecodeKeys
from trainer_plugin.ops.log_probs import compute_logits, full_log_probs, token_log_probs
from trainer_plugin.ops.sequence_parallel_attention import (
    SEQUENCE_PARALLEL,
    AttentionRun,
    KeepKeys,
    KeptKeys,
    KeysValues,
)
from trainer_plugin.ops.tiled_mlp import tile
from trainer_plugin.ops.vision_attention import VISION_ATTENTION
from trainer_plugin.types import Example, Grid

WARM_UP_TOKENS = (41, 67)
"""Tokens of each rank in the rows of `LongVideoModel.warm_up`. They have no common factors, to which a kernel for any
length could be restricted."""


class Head(StrEnum):
    """How the head computes log-probabilities.

    `chunked` never allocates the logits of a whole row. `full` does, to measure the cost of that.
    """

    CHUNKED = "chunked"
    FULL = "full"


@dataclass(frozen=True)
class RunOptions:
    """Options for speed and memory. None of them changes the result, up to rounding."""

    kernel: Kernel = Kernel.AUTO
    head: Head = Head.CHUNKED
    checkpointed_layers: int | None = None
    """Activation checkpointing for the first N decoder layers; None for all. Unless it is 0, a trainable vision tower
    is checkpointed too."""
    save_attention_output: bool = True
    """Cache the attention output of checkpointed layers, so that recomputation skips the attention kernels."""
    mlp_tile_tokens: int | None = None
    """Maximum number of tokens that the MLPs of checkpointed layers process at a time; None for all."""
    vision_patches: int = 65_536
    """Maximum number of patches that the tower encodes in one call. With a quarter of them, the host is too slow to
    keep an H100 busy."""
    compile: bool = True
    """On a GPU, use torch.compile to fuse operations other than matrix products: norms, rotary embeddings, MLPs without
    activation checkpointing, and the blocks of a frozen tower."""
    offload: bool = False
    """Keep the activations for the decoder's backward pass in host memory."""


@dataclass(frozen=True)
class RankInput:
    """One rank's input for one row."""

    plan: RankPlan
    """This rank's part of the plan."""
    pixels: tuple[Tensor, ...]
    """One tensor for each element of `plan.frames`: frames, uint8 [frames, height, width, 3], or precomputed features
    [tokens, hidden * levels] of a floating-point dtype."""

    def to(self, device: torch.device) -> RankInput:
        """Copy to a device. Frames become patches later, on the device, only as many as are encoded in one call."""
        moved = {
            name: getattr(self.plan, name).to(device, non_blocking=True)
            for name in ("input_ids", "positions", "visual", "supervised", "targets", "supervised_index", "send_order")
        }
        pixels = tuple(each.to(device, non_blocking=True) for each in self.pixels)
        return RankInput(replace(self.plan, **moved), pixels)


class PromptKeys(NamedTuple):
    """Keys and values of a prompt on this rank."""

    hidden: Tensor
    """[S_local, hidden]: the decoder's last hidden states, the end of the graph."""
    layers: tuple[KeysValues, ...]
    """Of each decoder layer."""


class LongVideoModel(nn.Module):
    """Wrapper that runs a model on one rank's part of a row.

    Parameters are the model's own, with the prefix `model.`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        parallel: RankContext,
        options: RunOptions | None = None,
        family: Family | None = None,
    ) -> None:
        """
        Args:
            model: the Hugging Face model. Its attention implementation is replaced, in place.
            parallel: this process's rank and groups.
            options: options for speed and memory; None for the defaults.
            family: the model's family. None selects it with the published processor settings.

        Raises:
            RuntimeError: the version of torch or transformers is not supported.
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
        """The dtype of matrix products' operands; set by `shard_parameters`."""
        self.host = HostMemory(parallel.device) if self.options.offload else None
        attention.register()
        vision_attention.register()
        model.set_attn_implementation({"text_config": SEQUENCE_PARALLEL, "vision_config": VISION_ATTENTION})
        compiles = self.options.compile and parallel.device.type == "cuda"
        if compiles:
            self._compile()
        if self.options.mlp_tile_tokens is not None:
            for layer in self._checkpointed_layers():
                mlp = layer.get_submodule("mlp")
                tile(mlp, self.options.mlp_tile_tokens, torch.compile(mlp.forward) if compiles else None)
        if self.checkpointed_layers:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        for layer in self._kept_layers():
            layer.gradient_checkpointing = False  # type: ignore[assignment]

    def forward(
        self,
        row: RankInput,
        temperature: float = 1.0,
        entropy: bool = False,
        prompt: Sequence[KeysValues] | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Compute the log-probabilities of the local supervised tokens.

        All ranks must make the same number of calls, because each call contains collectives.

        Args:
            row: this rank's input, on the model's device.
            temperature: divisor of the logits; above 0.
            entropy: whether to compute entropies.
            prompt: keys and values of a prompt in a row of its own (`PromptKeys.layers`), if the plan of `row` has one.

        Returns:
            Log-probabilities, float32 [N], and entropies in nats [N], or None unless requested.

        Raises:
            BadInput: on every rank, if the frames or features of a video do not fit its grid on some rank. The message
                names the sample.
        """
        plan = row.plan
        hidden = self._hidden(row, self._attention_run(row, tuple(prompt) if prompt is not None else None))
        weight = self.model.get_output_embeddings().weight
        if self.options.head is Head.FULL:
            targets = torch.zeros_like(plan.input_ids).index_copy(0, plan.supervised, plan.targets)
            log_probs, entropies = full_log_probs(hidden, weight, targets, temperature=temperature, entropy=entropy)
            return log_probs[plan.supervised], entropies if entropies is None else entropies[plan.supervised]
        found = token_log_probs(hidden[plan.supervised], weight, plan.targets, temperature=temperature, entropy=entropy)
        return found.log_probs, found.entropies

    def prompt_keys(self, row: RankInput) -> PromptKeys:
        """Compute the keys and values of a prompt, which responses in other rows attend to.

        Every rank must call it, as `forward`.

        Args:
            row: this rank's input of a row that begins with `PromptGroup.prefix`.

        Raises:
            BadInput: as `forward`.
        """
        kept = KeptKeys()
        return PromptKeys(self._prompt_pass(row, kept, None), kept.close())

    def prefill(self, row: RankInput, kept: KeepKeys | None, earlier: tuple[KeysValues, ...] | None) -> None:
        """Run a part of a prompt for its keys and values alone, without gradients.

        Every rank must call it, as `forward`.

        Args:
            row: this rank's input. Its plan has `earlier_tokens`.
            kept: is given the keys and values of each layer; None: they are not kept.
            earlier: this rank's heads of the earlier tokens' keys and values, by layer; None if there are none.
        """
        self._prompt_pass(row, kept, earlier)

    def _prompt_pass(self, row: RankInput, kept: KeepKeys | None, earlier: tuple[KeysValues, ...] | None) -> Tensor:
        """Keep the keys and values of a row, and return its last hidden states. FSDP wraps it as it does `forward`."""
        run = self._attention_run(row, earlier)
        run.kept = kept
        return self._hidden(row, run).clone()  # not a view, from which FSDP's hook could get lost

    def decode_step(self, input_ids: Tensor, positions: Tensor, keys: DecodeKeys, temperature: float) -> Tensor:
        """Run one token of each of n responses, without gradients, and compute the logits of their next tokens.

        Every rank must call it, with at least one token.

        Args:
            input_ids: int64 [n]. Placeholder ids are text.
            positions: int64 [rope rows, n].
            keys: keys and values of the prompts and the responses, to which those of these tokens are added.
            temperature: divisor of the logits; above 0.

        Returns:
            Logits divided by the temperature, float32 [n, V].
        """
        embeds = self._embeddings(input_ids)
        visual, features = torch.zeros_like(input_ids, dtype=torch.bool), self._without_visual_tokens(embeds)
        hidden = self.family.run_language_model(self.model, embeds, positions, visual, features, run=keys)
        return compute_logits(hidden, self.model.get_output_embeddings().weight, None, temperature)

    @torch.no_grad()
    def encode_frames(self, frames: Tensor | None) -> Tensor:
        """Encode some temporal patches of a video in one call of the tower, without gradients.

        Every rank must call it, because the tower's parameters are sharded. Use `temporal_patches_per_call` to choose
        the number of frames. No temporal patch attends to another, so that number does not change the features.

        Args:
            frames: uint8 [n, height, width, 3], where n is a multiple of the family's temporal patch. None: this rank
                has no frames and encodes blank ones, to keep in step.

        Returns:
            Features [tokens, hidden * levels] in the compute dtype; no tokens for None.
        """
        if frames is None:
            return self._encode(*self._blank())[:0].to(self.compute_dtype)
        grid = self.family.grid(frames.shape[1], frames.shape[2], len(frames))
        return self._encode(grid, frames.to(self.parallel.device, non_blocking=True)).to(self.compute_dtype)

    def temporal_patches_per_call(self, grid: Grid) -> int:
        """Number of temporal patches of a video that one call of the tower encodes: at most `vision_patches` patches,
        but at least one temporal patch."""
        return max(1, self.options.vision_patches // (grid.h * grid.w))

    def warm_up(self) -> None:
        """Run short rows of text of two lengths, so that no step of another length compiles anything. Every rank must
        call it.

        The first length compiles for that length, the second one for any. Gradients are zero afterwards.
        """
        modes = [(module, module.training) for module in self.modules()]
        for training, gradients in ((True, True), (True, False), (False, False)):
            self.train(training)
            for tokens in WARM_UP_TOKENS:
                ids = torch.ones(tokens * self.parallel.sp, dtype=torch.int64)
                positions = torch.arange(len(ids)).expand(self.family.rope_rows, -1)
                plan = SequencePlan(
                    [Example("warm-up", ids, ids, positions)], self.family, self.parallel.layout, self.costs
                )
                row = RankInput(plan.rank_plan(self.parallel.sp_rank), ()).to(self.parallel.device)
                with torch.set_grad_enabled(gradients):
                    log_probs, _ = self(row)
                if gradients:
                    log_probs.sum().backward()
        reshard(self)
        self.zero_grad()
        for module, training in modes:
            module.training = training

    def _attention_run(self, row: RankInput, prompt: tuple[KeysValues, ...] | None) -> AttentionRun:
        return AttentionRun(
            plan=row.plan.attention,
            ulysses=self.parallel.ulysses_group,
            ring=self.parallel.ring_group,
            kernel=self.options.kernel,
            checkpointed_layers=self.checkpointed_layers if self.training and self.options.save_attention_output else 0,
            host=self.host,
            prompt=prompt,
        )

    def _hidden(self, row: RankInput, run: AttentionRun) -> Tensor:
        """The decoder's last hidden states of the local tokens, [S_local, hidden]."""
        plan = row.plan
        embeds = self._embeddings(plan.input_ids)
        features = self._features(row)
        if features is not None:
            embeds = embeds.masked_scatter(plan.visual[:, None], features.levels[0].to(embeds.dtype))
        else:
            features = self._without_visual_tokens(embeds)
        with self.host.saving() if self.host else nullcontext():
            return self.family.run_language_model(self.model, embeds, plan.positions, plan.visual, features, run=run)

    def _embeddings(self, input_ids: Tensor) -> Tensor:
        embeddings: Tensor = self.family.language_model(self.model).get_input_embeddings()(input_ids)
        return embeddings

    def _without_visual_tokens(self, embeds: Tensor) -> Features:
        return Features((embeds[:0],) * self.family.levels)

    def gradient_checkpointing_enable(self, **options: object) -> None:
        """No-op, since `RunOptions.checkpointed_layers` sets the checkpointing. `transformers.Trainer` calls it."""

    @property
    def checkpointed_layers(self) -> int:
        """Number of leading decoder layers with activation checkpointing."""
        layers = len(self.family.language_model(self.model).layers)
        wanted = self.options.checkpointed_layers
        return layers if wanted is None else min(wanted, layers)

    def _checkpointed_layers(self) -> list[nn.Module]:
        return list(self.family.language_model(self.model).layers)[: self.checkpointed_layers]

    def _kept_layers(self) -> list[nn.Module]:
        """Decoder layers without activation checkpointing: the last ones.

        The backward pass frees their activations first, before gradients accumulate.
        """
        return list(self.family.language_model(self.model).layers)[self.checkpointed_layers :]

    def _compile(self) -> None:
        """Compile norms, attention modules, MLPs without activation checkpointing, and a frozen tower's blocks.

        Recomputation of a checkpointed MLP stops before its last product, which is not needed unless the MLP has
        adapters. A compiled MLP could not stop there, so checkpointed MLPs are compiled only with adapters. MLPs in
        tiles are compiled separately.
        """
        layers = list(self.family.language_model(self.model).layers)
        adapted = any(".lora_" in name for name, _ in layers[0].named_parameters())
        parts = [] if self.vision_tower_is_trainable() else list(self.family.vision_layers(self.model))
        parts += [layer.self_attn for layer in layers]
        whole = adapted and self.options.mlp_tile_tokens is None
        parts += [layer.get_submodule("mlp") for layer in (layers if whole else self._kept_layers())]
        inside = {module for part in parts for module in part.modules()}
        norms = [module for module in self.model.modules() if type(module).__name__.endswith("RMSNorm")]
        for module in [*parts, *(norm for norm in norms if norm not in inside)]:
            module.compile()

    def _features(self, row: RankInput) -> Features | None:
        """Features of the local placeholders, in their order; None if no rank of any group has frames or features.

        If only the tower is trained, a blank frame is encoded instead of returning None.
        """
        problem = self._problem(row)
        pieces = list(self._pieces(row)) if problem is None else []
        calls = sum(not _is_encoded(pixels) for _, pixels in pieces)
        agreed, shown, refused = all_reduce_max(calls, len(pieces), problem is not None)
        if refused:
            run_on_all_ranks(partial(_refuse, problem))
        if torch.is_grad_enabled() and self.vision_tower_is_trainable() and not self._decoder_is_trainable():
            agreed = max(agreed, 1)  # otherwise the loss of a text-only row would have no gradient
        elif shown == 0:
            return None
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.vision_tower_is_trainable()):
            features = [self._encode(grid, pixels) for grid, pixels in pieces]
            # A rank with fewer pieces encodes blank frames, so that all ranks take part in gathering sharded
            # parameters. It uses no rows of the result, so that their gradients are zeros.
            features += [self._encode(*self._blank())[:0] for _ in range(agreed - calls)]
        own = torch.cat(features) if features else self._no_features()
        own = own[row.plan.send_order]
        if row.plan.send_sizes:
            own = exchange(own, row.plan.send_sizes, row.plan.receive_sizes, self.parallel.sp_group)
        return Features.unpacked(own, self.family.levels)

    def _pieces(self, row: RankInput) -> Iterator[tuple[Grid, Tensor]]:
        """Split this rank's frames into pieces of one call (`temporal_patches_per_call`).

        Precomputed features are yielded unsplit.
        """
        for grid, pixels in zip(row.plan.grids, row.pixels, strict=True):
            if _is_encoded(pixels):
                yield grid, pixels
                continue
            step = self.temporal_patches_per_call(grid) * self.family.temporal_patch
            for piece in pixels.split(step):
                yield Grid(len(piece) // self.family.temporal_patch, grid.h, grid.w), piece

    def _problem(self, row: RankInput) -> str | None:
        """Describe the first mismatch between this rank's pixels and its plan; None if there is none.

        Without this check a mismatch would shift features to other tokens.
        """
        plan = row.plan
        if len(row.pixels) != len(plan.grids):
            return f"samples {plan.keys}: {len(row.pixels)} pixels for {len(plan.grids)} frame ranges"
        for key, grid, pixels in zip(plan.keys, plan.grids, row.pixels, strict=True):
            if not self._fits(grid, pixels):
                frames, tokens = grid.t * self.family.temporal_patch, self._tokens(grid)
                return (
                    f"sample {key}: pixels of shape {tuple(pixels.shape)} ({pixels.dtype}) do not make its {grid}: "
                    f"give {frames} uint8 frames of its size, or floating-point features "
                    f"[{tokens}, {self.feature_width}]"
                )
        return None

    def _fits(self, grid: Grid, pixels: Tensor) -> bool:
        shape, frames = tuple(pixels.shape), grid.t * self.family.temporal_patch
        if _is_encoded(pixels):
            return shape == (self._tokens(grid), self.feature_width)
        return len(shape) == 4 and shape[0] == frames and self.family.grid(shape[1], shape[2], frames) == grid

    def _tokens(self, grid: Grid) -> int:
        return grid.t * self.family.tokens_per_temporal_patch(grid)

    def _encode(self, grid: Grid, pixels: Tensor) -> Tensor:
        """Encode a piece to features [tokens, hidden * levels] in the compute dtype."""
        if _is_encoded(pixels):
            return pixels.to(self.compute_dtype)
        return self.family.encode(self.model, self.family.patches(pixels).to(self.compute_dtype), [grid]).packed()

    def _blank(self) -> tuple[Grid, Tensor]:
        grid, frames = self.family.blank_frames()
        return grid, frames.to(self.parallel.device)

    def _no_features(self) -> Tensor:
        return torch.empty(0, self.feature_width, dtype=self.compute_dtype, device=self.parallel.device)

    @property
    def feature_width(self) -> int:
        """Width of packed features: the decoder's hidden size times the family's levels."""
        return int(self.model.config.get_text_config().hidden_size) * self.family.levels

    def vision_tower_is_trainable(self) -> bool:
        """Whether the vision tower or its projector is trainable."""
        return any(parameter.requires_grad for parameter in self.family.vision_tower(self.model).parameters())

    def _decoder_is_trainable(self) -> bool:
        tower = {id(parameter) for parameter in self.family.vision_tower(self.model).parameters()}
        return any(p.requires_grad and id(p) not in tower for p in self.model.parameters())


def shard_parameters(
    model: LongVideoModel, compute: torch.dtype | None = torch.bfloat16, offload: bool = False
) -> LongVideoModel:
    """Shard the model with FSDP2 over all ranks, in place. Every rank must call it.

    Parameters keep their dtype (float32 masters), and gradients are reduced in float32. Gradients are sums over ranks,
    not means, because the loss is divided by the global number of tokens instead.

    Args:
        model: the model to shard.
        compute: dtype of the computation; None for the parameters' own dtype.
        offload: keep parameters and gradients in host memory.
    """
    if compute is not None:
        model.compute_dtype = compute
    policy = MixedPrecisionPolicy(param_dtype=compute, reduce_dtype=torch.float32, cast_forward_inputs=False)
    family, inner = model.family, model.model
    place = CPUOffloadPolicy() if offload and model.parallel.device.type != "cpu" else OffloadPolicy()
    shard = partial(fully_shard, mesh=model.parallel.mesh, mp_policy=policy, offload_policy=place)
    for block in family.vision_layers(inner):
        # A frozen tower is gathered once, in the compute dtype, and stays gathered: it runs several times for each row.
        frozen = not any(parameter.requires_grad for parameter in block.parameters())
        shard(block, reshard_after_forward=not frozen)
    for layer in family.language_model(inner).layers:
        shard(layer)
    embeddings = inner.get_input_embeddings()
    if embeddings.weight is not inner.get_output_embeddings().weight:
        # Neither the decoder nor the gradient of the embeddings needs their weights again.
        shard(embeddings).set_unshard_in_backward(False)
    shard(model)
    register_fsdp_forward_method(model, "_prompt_pass")
    register_fsdp_forward_method(model, "decode_step")
    register_fsdp_forward_method(model, "encode_frames")
    reduction = GradientReduction()
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_custom_reduce_scatter(reduction)  # type: ignore[arg-type]
            if model.parallel.world_size > 1:  # for one rank FSDP would divide by 1 in another buffer
                module.set_gradient_divide_factor(1.0)
            # A plain sum, because gloo does not support a factor inside the reduction, even of 1.
            module.set_force_sum_reduction_for_comms(True)
    return model


def reshard(model: nn.Module) -> None:
    """Free gathered parameters, so that the model's parameters are this rank's shards again.

    A forward pass without a backward pass leaves some parameters gathered, in the compute dtype.
    """
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def _is_encoded(pixels: Tensor) -> bool:
    return pixels.is_floating_point()


def _refuse(problem: str | None) -> None:
    if problem is not None:
        raise BadInput(problem)


def all_reduce_max(*counts: int) -> tuple[int, ...]:
    """All-reduce each count to its maximum over all ranks."""
    found = torch.tensor(counts)
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return tuple(found.tolist())
