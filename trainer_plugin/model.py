"""One unmodified Hugging Face model, run on this rank's share of a row: frames, then tokens, then log-probabilities.

`LongVideoModel` is an ordinary module around the model: it encodes the frames that the plan gives to this rank, sends
the features to the ranks that own their tokens, runs the decoder on the local tokens and the head on the supervised ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from transformers import PreTrainedModel

from trainer_plugin import attention, kernels
from trainer_plugin.attention import SEQUENCE_PARALLEL, AttentionRun
from trainer_plugin.comm import exchange
from trainer_plugin.examples import Grid
from trainer_plugin.families import family_of
from trainer_plugin.families.base import Features
from trainer_plugin.head import full_log_probs, token_log_probs
from trainer_plugin.kernels import VISION_ATTENTION, Kernel
from trainer_plugin.parallel import Parallel
from trainer_plugin.plan import RankShare


class Head(StrEnum):
    """`chunked` never holds the logits of a whole row; `full` does, to measure what that costs."""

    CHUNKED = "chunked"
    FULL = "full"


@dataclass(frozen=True)
class RunOptions:
    """How the model is run. None of it changes the result."""

    kernel: Kernel = Kernel.AUTO
    head: Head = Head.CHUNKED
    checkpoint: bool = True
    """Recompute layers in the backward pass."""
    keep_attention: bool = True
    """But not their attention."""
    vision_patches: int = 16_384
    """Patches that the tower encodes at once."""


@dataclass(frozen=True)
class RowShare:
    """What one rank computes of one row."""

    share: RankShare
    patches: tuple[Tensor, ...]
    """For each of `share.frames` its temporal patches, as `Family.patches` makes them."""

    def to(self, device: torch.device, dtype: torch.dtype) -> RowShare:
        """Copied to the device; patches in the compute type."""
        moved = {
            name: getattr(self.share, name).to(device, non_blocking=True)
            for name in ("input_ids", "positions", "visual", "supervised", "targets", "send_order")
        }
        patches = tuple(patch.to(device, dtype, non_blocking=True) for patch in self.patches)
        return RowShare(replace(self.share, **moved), patches)


class LongVideoModel(nn.Module):
    """A model with its place among the ranks. Parameters are the model's own, under the prefix `model.`."""

    def __init__(self, model: PreTrainedModel, parallel: Parallel, options: RunOptions | None = None) -> None:
        super().__init__()
        self.model = model
        self.parallel = parallel
        self.options = options or RunOptions()
        self.family = family_of(model.config)
        attention.register()
        kernels.register()
        model.set_attn_implementation({"text_config": SEQUENCE_PARALLEL, "vision_config": VISION_ATTENTION})
        if self.options.checkpoint:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})

    def forward(
        self, row: RowShare, temperature: float = 1.0, entropy: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Log-probabilities of the local supervised tokens.

        Every rank of all groups must call it equally often.

        Returns:
            float32 [N] and, if asked for, the entropies [N].
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
            keep_outputs=self.training and self.options.checkpoint and self.options.keep_attention,
        )
        hidden = self.family.run_language_model(
            self.model, embeds, share.positions, share.visual, features, run=run
        )
        head = token_log_probs if self.options.head is Head.CHUNKED else full_log_probs
        weight = self.model.get_output_embeddings().weight
        found = head(hidden[share.supervised], weight, share.targets, temperature=temperature, entropy=entropy)
        return found.log_probs, found.entropies

    def _features(self, row: RowShare) -> Features | None:
        """Of the local placeholders, in their order; None when no rank has a frame."""
        calls = self._encoder_calls(row)
        agreed = _most(len(calls))
        if agreed == 0:
            return None
        tower = self.family.vision_tower(self.model)
        with torch.set_grad_enabled(torch.is_grad_enabled() and any(p.requires_grad for p in tower.parameters())):
            encoded = [self.family.encode(self.model, patches, grids).packed() for grids, patches in calls]
            # A rank with less to do encodes something blank, so that sharded parameters are gathered by all at once, and
            # takes no row of it, so that its gradients are zeros.
            for _ in range(agreed - len(calls)):
                encoded.append(self._encode_blank(row)[:0])
            features = torch.cat(encoded)[row.share.send_order]
        if row.share.send_sizes:
            features = exchange(features, row.share.send_sizes, row.share.receive_sizes, self.parallel.sp_group)
        return Features.unpacked(features, self.family.levels)

    def _encoder_calls(self, row: RowShare) -> list[tuple[list[Grid], Tensor]]:
        """This rank's temporal patches, in calls of at most `vision_patches` patches (or one temporal patch)."""
        calls: list[tuple[list[Grid], Tensor]] = []
        for grid, patches in zip(row.share.grids, row.patches, strict=True):
            step = max(1, self.options.vision_patches // (grid.h * grid.w))
            calls += [([Grid(len(piece), grid.h, grid.w)], piece) for piece in patches.split(step)]
        return calls

    def _encode_blank(self, row: RowShare) -> Tensor:
        grid, patches = self.family.blank_patch()
        weight = next(self.family.vision_tower(self.model).parameters())
        dtype = row.patches[0].dtype if row.patches else weight.dtype
        return self.family.encode(self.model, patches.to(self.parallel.device, dtype), [grid]).packed()


def shard_parameters(model: LongVideoModel, compute: torch.dtype | None = torch.bfloat16) -> LongVideoModel:
    """FSDP2 over all ranks: parameters as they are (float32 masters), computed in `compute`, gradients added in float32.

    Gradients are sums over ranks, not means: the loss is divided by the global number of tokens instead.
    """
    policy = MixedPrecisionPolicy(param_dtype=compute, reduce_dtype=torch.float32, cast_forward_inputs=False)
    family, inner = model.family, model.model
    for layer in [*family.vision_layers(inner), *family.language_model(inner).layers]:
        fully_shard(layer, mesh=model.parallel.mesh, mp_policy=policy)
    fully_shard(model, mesh=model.parallel.mesh, mp_policy=policy)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
    return model


def _most(count: int) -> int:
    """The largest of all ranks' counts."""
    found = torch.tensor([count])
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return int(found)
