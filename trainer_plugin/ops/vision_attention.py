"""Bidirectional attention of a vision tower, inside each segment (frame or window) that the tower defines.

On CUDA in half precision, one call of torch's varlen FlashAttention op computes all segments. Elsewhere each run of
segments of equal length is one batch of dense attention. Gradients are torch's own, without code of this package.

Not here: the decoder's attention (`sequence_parallel_attention`, `attention_kernels`), and the distribution of frames
over ranks (`distributed.sequence_plan`).
"""

from __future__ import annotations

from itertools import groupby, pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import flash_attention_mask

VISION_ATTENTION = "varlen_flash"
"""Name of the vision towers' attention in transformers' registry. It must contain "flash": Qwen-VL towers check for
that, and otherwise make one call per frame instead of one call for all frames."""


def register() -> None:
    """Register `VISION_ATTENTION` with transformers. Repeated calls are harmless.

    The mask entry passes padding masks on to `varlen_attention`. Without one, transformers silently drops a tower's
    mask.
    """
    AttentionInterface.register(VISION_ATTENTION, varlen_attention)
    AttentionMaskInterface.register(VISION_ATTENTION, flash_attention_mask)


def varlen_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool = False,
    cu_seq_lens_q: Tensor | None = None,
    cu_seq_lens_k: Tensor | None = None,
    max_length_q: int | None = None,
    max_length_k: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Bidirectional attention of a vision tower, with the signature of transformers' AttentionInterface.

    Args:
        query, key, value: [B, h, S, d], with as many key heads as query heads.
        attention_mask: None, or [B, S] bool, True where a key may be attended to. Allowed only without cu_seq_lens.
        dropout: must be 0.
        scaling: factor of the scores; None for d ** -0.5.
        is_causal: must be False.
        cu_seq_lens_q, cu_seq_lens_k: [n + 1] int32, the boundaries of n segments along S. They require B = 1. Without
            them every batch row is a segment.
        max_length_q, max_length_k: length of the longest segment. Required on CUDA in half precision.

    Returns:
        ([B, S, h, d], None), as transformers expects.

    Raises:
        ValueError: causal attention, dropout or another kind of mask is requested, or segments come with a mask or with
            several batch rows.
    """
    if is_causal or dropout:
        raise ValueError(f"{VISION_ATTENTION}: no causal attention (is_causal={is_causal}), no dropout ({dropout})")
    if attention_mask is not None and (attention_mask.dtype != torch.bool or attention_mask.ndim != 2):
        shape = tuple(attention_mask.shape)
        raise ValueError(f"{VISION_ATTENTION}: the mask is {attention_mask.dtype} {shape}; only [B, S] bool is known")
    if cu_seq_lens_q is None or cu_seq_lens_k is None:
        mask = None if attention_mask is None else attention_mask[:, None, None]
        return _dense(query, key, value, scaling, mask).transpose(1, 2), None
    if attention_mask is not None or len(query) != 1:
        raise ValueError(f"{VISION_ATTENTION}: segments take one batch row, not {len(query)}, and no mask")
    if query.is_cuda and query.dtype in (torch.bfloat16, torch.float16):
        q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
        borders_q, borders_k = cu_seq_lens_q.to(torch.int32), cu_seq_lens_k.to(torch.int32)
        assert max_length_q is not None
        assert max_length_k is not None
        out = varlen_attn(q, k, v, borders_q, borders_k, max_length_q, max_length_k, scale=scaling)
        assert isinstance(out, Tensor)
        return out[None], None
    return _segments(query, key, value, cu_seq_lens_q, cu_seq_lens_k, scaling).transpose(1, 2), None


def _dense(query: Tensor, key: Tensor, value: Tensor, scale: float | None, mask: Tensor | None = None) -> Tensor:
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)


def _segments(
    query: Tensor, key: Tensor, value: Tensor, borders_q: Tensor, borders_k: Tensor, scale: float | None
) -> Tensor:
    """Attention [1, h, S, d] in which each run of segments of equal length is one batch."""
    lengths = [
        (queries[1] - queries[0], keys[1] - keys[0])
        for queries, keys in zip(pairwise(borders_q.tolist()), pairwise(borders_k.tolist()), strict=True)
    ]
    outs, query_start, key_start = [], 0, 0
    for (queries, keys), run in groupby(lengths):
        count = len(list(run))
        q = query[0, :, query_start : (query_start := query_start + count * queries)].unflatten(1, (count, -1))
        rows = slice(key_start, (key_start := key_start + count * keys))
        k, v = (tensor[0, :, rows].unflatten(1, (count, -1)) for tensor in (key, value))
        out = _dense(q.transpose(0, 1), k.transpose(0, 1), v.transpose(0, 1), scale)
        outs.append(out.transpose(0, 1).flatten(1, 2))
    return torch.cat(outs, dim=1)[None]
