"""What a decoder layer does between its matrix products, for one token of each slot: norms, rotation, the gated MLP.

On CUDA each function is one Triton kernel that rounds once, as the trainer's compiled modules do; elsewhere it is plain
PyTorch. None waits for the device, so all can be captured in a CUDA graph.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import silu


def add_rms_norm(hidden: Tensor, weight: Tensor, eps: float, residual: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The sum of `hidden` and `residual`, both [N, width], and its root-mean-square norm times the weight [width]."""
    if hidden.is_cuda:
        from trainer_plugin.ops import triton_decode

        return triton_decode.add_rms_norm(hidden, weight, eps, residual)
    total = hidden if residual is None else hidden + residual
    return total, _rms_norm(total, weight, eps)


def rotate_and_store(
    projected: Tensor,
    heads: int,
    norms: tuple[Tensor, Tensor] | None,
    eps: float,
    cos: Tensor,
    sin: Tensor,
    own: Tensor,
    own_lengths: Tensor,
) -> Tensor:
    """Norm and rotate queries and keys, and store keys and values as the last own token of each slot.

    Args:
        projected: [N, (heads + 2 * kv heads) * d]: queries, keys and values.
        heads: number of query heads.
        norms: weights [d] of the norms of queries and keys, in models that have them.
        eps: of these norms.
        cos, sin: [N, d]: rotary embedding of each slot's position; both halves are equal.
        own: [2, N, kv heads, room, d], which is changed at index `own_lengths - 1`.
        own_lengths: int32 [N]: number of own tokens with this one. With 0 nothing is stored.

    Returns:
        Queries [N, heads, d].
    """
    if projected.is_cuda:
        from trainer_plugin.ops import triton_decode

        return triton_decode.rotate_and_store(projected, heads, norms, eps, cos, sin, own, own_lengths)
    kv_heads = own.shape[2]
    q, k, v = projected.unflatten(1, (-1, own.shape[-1])).split([heads, kv_heads, kv_heads], dim=1)
    if norms is not None:
        q, k = _rms_norm(q, norms[0], eps), _rms_norm(k, norms[1], eps)
    q, k = (_rotate(each, cos, sin) for each in (q, k))
    held = own_lengths > 0
    slots, places = held.nonzero()[:, 0], (own_lengths - 1)[held].long()
    own[0][slots, :, places] = k[held]
    own[1][slots, :, places] = v[held]
    return q


def gated(gate_up: Tensor) -> Tensor:
    """silu(gate) * up for [N, 2 * width], which holds the gate first."""
    if gate_up.is_cuda:
        from trainer_plugin.ops import triton_decode

        return triton_decode.gated(gate_up)
    gate, up = gate_up.chunk(2, dim=-1)
    return silu(gate) * up


def _rms_norm(rows: Tensor, weight: Tensor, eps: float) -> Tensor:
    exact = rows.to(torch.promote_types(rows.dtype, torch.float32))
    return (exact * torch.rsqrt(exact.square().mean(-1, keepdim=True) + eps)).to(rows.dtype) * weight


def _rotate(rows: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the two halves of each head of [N, heads, d]."""
    first, second = rows.chunk(2, dim=-1)
    return rows * cos[:, None] + torch.cat([-second, first], dim=-1) * sin[:, None]
