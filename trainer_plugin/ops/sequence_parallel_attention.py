"""Sequence-parallel attention of the language model, as a function for transformers' attention registry.

Ulysses exchanges tokens for heads, and gather-KV gathers all keys for some queries. The plan sets the size of each, and
a kernel computes the attention itself. The function is registered for the language model only, and nothing is patched.
No mask function is registered with it, so transformers builds no mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from transformers import AttentionInterface, PretrainedConfig

from trainer_plugin.distributed.collectives import gather, heads_to_tokens, tokens_to_heads
from trainer_plugin.distributed.sequence_plan import AttentionPlan
from trainer_plugin.ops.activation_offload import HostMemory, OnHost
from trainer_plugin.ops.attention_kernels import Kernel, attend
from trainer_plugin.ops.decode_attention import DecodeKeys, heads_of_each_rank

SEQUENCE_PARALLEL = "sequence_parallel"
"""Name of the language model's attention in transformers' registry."""


KeysValues = tuple[Tensor, Tensor]
"""Keys and values [tokens of this rank's part, kv heads of this rank, d] of one layer, after rotary embedding."""


class KeepKeys(Protocol):
    """What keeps the keys and values of a row's layers."""

    def put(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Keep [tokens of this rank's part, kv heads of this rank, d] of one layer."""


class KeptKeys:
    """Keeps the keys and values of each layer, with their graph, until it is closed.

    Not a dataclass or a dict, which FSDP would copy for each layer.
    """

    def __init__(self) -> None:
        self._layers: dict[int, KeysValues] | None = {}

    def put(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Keep the keys and values of one layer. After `close`, a recomputed forward pass changes nothing.

        Without gradients they are copied, because they may be parts of a larger tensor with the queries.
        """
        if self._layers is not None:
            self._layers[layer] = (k, v) if torch.is_grad_enabled() else (k.contiguous(), v.contiguous())

    def close(self) -> tuple[KeysValues, ...]:
        """Return what was kept, in the order of the layers, and keep nothing further."""
        assert self._layers is not None
        layers, self._layers = self._layers, None
        return tuple(layers[layer] for layer in sorted(layers))


@dataclass
class AttentionRun:
    """Context of one forward pass and its recomputation over one row. It passes through the model as a keyword
    argument."""

    plan: AttentionPlan
    ulysses: ProcessGroup | None
    ring: ProcessGroup | None
    kernel: Kernel = Kernel.AUTO
    checkpointed_layers: int = 0
    """Number of leading checkpointed layers whose attention output is cached, so that recomputation skips the attention
    kernels."""
    host: HostMemory | None = None
    """Host memory that holds the cached outputs; None keeps them on the device."""
    prompt: tuple[KeysValues, ...] | None = None
    """This rank's keys and values of a prompt in a row of its own, by layer; or, if the plan has no parts of a prompt,
    this rank's heads of all earlier tokens. The plan's blocks name which of them each row attends to."""
    kept: KeepKeys | None = None
    """Where this rank's keys and values are kept; None: nowhere."""
    _kept: dict[int, tuple[Tensor | OnHost, Tensor | OnHost]] = field(default_factory=dict)

    def stash(self, layer: int) -> _LayerStash | None:
        """The cache of one layer's attention output; None when the layer is not recomputed or gradients are off."""
        recomputed = layer < self.checkpointed_layers and torch.is_grad_enabled()
        return _LayerStash(self._kept, layer, self.host) if recomputed else None


@dataclass(frozen=True)
class _LayerStash:
    kept: dict[int, tuple[Tensor | OnHost, Tensor | OnHost]]
    layer: int
    host: HostMemory | None

    def take(self) -> tuple[Tensor, Tensor] | None:
        if (found := self.kept.pop(self.layer, None)) is None:
            return None
        out, lse = (self.host.fetch(held) if self.host else held for held in found)
        assert isinstance(out, Tensor) and isinstance(lse, Tensor)
        return out, lse

    def put(self, out: Tensor, lse: Tensor) -> None:
        self.kept[self.layer] = (self.host.hold(out), self.host.hold(lse)) if self.host else (out, lse)


@torch.compiler.disable
def sequence_parallel_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    run: AttentionRun | DecodeKeys | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention of the row's blocks: causal inside each segment, and of responses to the prompt that they share.

    Args:
        module: the attention layer; its `layer_idx` is the layer's number.
        query, key, value: [1, heads, S_local, d], after rotary embedding. Key heads are not repeated.
        attention_mask: must be None.
        run: context that `LongVideoModel` passes down. With `DecodeKeys`, the row holds one token of each response.
        scaling: factor of the scores; None for d ** -0.5.
        dropout: must be 0.
        sliding_window: must be None.

    Returns:
        ([1, S_local, heads, d], None), as transformers expects.

    Raises:
        ValueError: `run` is missing, or a mask, dropout or a sliding window is requested.
    """
    if run is None:
        raise ValueError(f"attention {SEQUENCE_PARALLEL!r} needs a plan: call the model through LongVideoModel")
    if attention_mask is not None or dropout or sliding_window is not None:
        raise ValueError(
            f"attention {SEQUENCE_PARALLEL!r} supports no mask ({attention_mask is not None}), no dropout ({dropout}) "
            f"and no sliding window ({sliding_window}); see check_attention"
        )
    q, k, v = (rows[0].transpose(0, 1) for rows in (query, key, value))
    scale = q.shape[-1] ** -0.5 if scaling is None else scaling
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    if isinstance(run, DecodeKeys):
        return run.attend(layer, q, k, v, scale)[None], None
    sizes = run.plan.ulysses_sizes
    if run.ulysses is not None:
        heads = heads_of_each_rank(q, len(sizes)), heads_of_each_rank(k, len(sizes)), heads_of_each_rank(v, len(sizes))
        counts = [part.shape[2] for part in heads]
        q, k, v = tokens_to_heads(torch.cat(heads, dim=2), sizes, run.ulysses).split(counts, dim=1)
    if run.kept is not None:
        run.kept.put(layer, k, v)
    k, v = gather_row(k, v, run.plan.ring_sizes, run.plan.ring_order, run.ring)
    if run.prompt is not None:
        plan = run.plan
        prompt = run.prompt[layer]
        if plan.prompt_ring_sizes:
            prompt = gather_row(*prompt, plan.prompt_ring_sizes, plan.prompt_ring_order, run.ring)
        k, v = torch.cat([prompt[0], k]), torch.cat([prompt[1], v])
    out = attend(q, k, v, run.plan.blocks, scale, run.kernel, run.stash(layer))
    return heads_to_tokens(out, sizes, run.ulysses).flatten(1, 2)[None], None


def gather_row(
    k: Tensor, v: Tensor, sizes: Sequence[int], order: Sequence[tuple[int, int]], ring: ProcessGroup | None
) -> KeysValues:
    """Gather a row's keys and values from the parts of all ring ranks, in the order of its tokens."""
    if ring is None:
        return k, v
    parts = gather(torch.stack([k, v], dim=1), sizes, ring)
    k, v = torch.cat([parts[start:end] for start, end in order]).unbind(1)
    return k, v


def check_attention(config: PretrainedConfig) -> None:
    """Check that the model's attention and logits are supported.

    Raises:
        ValueError: the configuration has attention dropout, layers without full causal attention, soft-capping of
            logits, a logit scale, or ALiBi.
    """
    text = config.get_text_config()
    for part, values in (("text_config", text), ("vision_config", config.vision_config)):
        if dropout := getattr(values, "attention_dropout", 0):
            raise ValueError(
                f"{part}.attention_dropout is {dropout}, which is not supported; set it to 0 in config.json"
            )
    window = getattr(text, "sliding_window", None)
    others = sorted({kind for kind in getattr(text, "layer_types", None) or () if kind != "full_attention"})
    if others or (window is not None and not getattr(text, "layer_types", None)):
        asked = f"layers of {', '.join(others)}" if others else "every layer's attention"
        raise ValueError(
            f"text_config has {asked} (sliding_window {window}), and only full causal attention is supported; take a "
            f"model without, or, if no sample is longer than the window, set use_sliding_window to false and "
            f"sliding_window and layer_types to null in config.json"
        )
    for name in ("attn_logit_softcapping", "final_logit_softcapping", "logit_scale", "alibi"):
        if getattr(text, name, None):
            raise ValueError(
                f"text_config.{name} is {getattr(text, name)}, which is not supported; take a model without"
            )


def register() -> None:
    """Register `SEQUENCE_PARALLEL` with transformers. Repeated calls are harmless."""
    AttentionInterface.register(SEQUENCE_PARALLEL, sequence_parallel_attention)
