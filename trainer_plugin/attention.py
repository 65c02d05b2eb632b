"""The language model's attention over a row that several ranks share, as one function for transformers' registry.

Ulysses exchanges tokens for heads, gather-KV brings all keys to some queries; the plan says how much of each, and a
kernel does the rest. Registered for the language model only; nothing is patched. No mask is registered with it, so
transformers builds none.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from transformers import AttentionInterface, PretrainedConfig

from trainer_plugin.comm import gather, heads_to_tokens, tokens_to_heads
from trainer_plugin.kernels import Kernel, attend
from trainer_plugin.offload import HostMemory, OnHost
from trainer_plugin.plan import AttentionShare

SEQUENCE_PARALLEL = "sequence_parallel"
"""Attention name for the language model."""


@dataclass
class AttentionRun:
    """One forward pass (and its recomputation) over one row: travels through the model as a keyword."""

    share: AttentionShare
    ulysses: ProcessGroup | None
    ring: ProcessGroup | None
    kernel: Kernel = Kernel.AUTO
    recomputed_layers: int = 0
    """Of so many layers, from the first, which are computed again, what attention gave is kept, so that the
    recomputation skips the kernels."""
    host: HostMemory | None = None
    """Where that is kept; None: on the device."""
    _kept: dict[int, tuple[Tensor | OnHost, Tensor | OnHost]] = field(default_factory=dict)

    def stash(self, layer: int) -> _LayerStash | None:
        """Where layer number `layer` keeps its result; None when it is not recomputed."""
        recomputed = layer < self.recomputed_layers and torch.is_grad_enabled()
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
    run: AttentionRun | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention inside each segment of the row.

    Args:
        query, key, value: [1, heads, S_local, d], after rotary embedding; keys not repeated.
        run: what `LongVideoModel` passes down.

    Returns:
        [1, S_local, heads, d] and None.

    Raises:
        ValueError: something is asked for that sequence parallelism does not do here.
    """
    if run is None:
        raise ValueError(f"attention {SEQUENCE_PARALLEL!r} needs a plan: call the model through LongVideoModel")
    if attention_mask is not None or dropout or sliding_window is not None:
        raise ValueError(
            f"attention {SEQUENCE_PARALLEL!r} does no mask ({attention_mask is not None}), no dropout ({dropout}) and "
            f"no sliding window ({sliding_window}); see check_attention"
        )
    q, k, v = (rows[0].transpose(0, 1) for rows in (query, key, value))
    scale = q.shape[-1] ** -0.5 if scaling is None else scaling
    sizes = run.share.ulysses_sizes
    if run.ulysses is not None:
        heads = _of_each_rank(q, len(sizes)), _of_each_rank(k, len(sizes)), _of_each_rank(v, len(sizes))
        counts = [part.shape[2] for part in heads]
        q, k, v = tokens_to_heads(torch.cat(heads, dim=2), sizes, run.ulysses).split(counts, dim=1)
    if run.ring is not None:
        parts = gather(torch.stack([k, v], dim=1), run.share.ring_sizes, run.ring)
        k, v = torch.cat([parts[start:end] for start, end in run.share.ring_order]).unbind(1)
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    out = attend(q, k, v, run.share.blocks, scale, run.kernel, run.stash(layer))
    return heads_to_tokens(out, sizes, run.ulysses).flatten(1, 2)[None], None


def check_attention(config: PretrainedConfig) -> None:
    """Raises ValueError if the configuration asks for an attention, or logits, that are not computed here."""
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
    """Make `SEQUENCE_PARALLEL` known to transformers. Can be called any number of times."""
    AttentionInterface.register(SEQUENCE_PARALLEL, sequence_parallel_attention)


def _of_each_rank(rows: Tensor, ranks: int) -> Tensor:
    """[S, heads, d] as [S, ranks, h, d]; with fewer kv heads than ranks, neighbours get the same one."""
    if rows.shape[1] < ranks:
        rows = rows.repeat_interleave(ranks // rows.shape[1], dim=1)
    return rows.unflatten(1, (ranks, -1))
