"""Attention of decoded tokens to prompts that are read once for all their responses, and to each response's own tokens.

A region holds the keys of one prompt, and `slots // regions` slots hold those of the responses to it. All queries of a
region that use the same key head are the rows of one matrix, so a prompt's keys are read once for all responses. The
prompt is divided into splits that run in parallel, and a response's own keys are further splits. A last kernel merges
them by their log-sum-exp (split-KV decoding, arXiv 2311.01282; shared prefixes, arXiv 2402.05099).

All sizes are on the device, so that a CUDA graph of a call serves prompts and responses of any length.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class SharedKeys:
    """Keys and values of R regions and N slots, of one layer."""

    prompt: Tensor
    """[2, R, kv heads, room, d]: keys and values of the prompts."""
    prompt_lengths: Tensor
    """int32 [R]: number of tokens of each prompt; 0 where there is none."""
    own: Tensor
    """[2, N, kv heads, room, d]: keys and values of the responses' own tokens. Slots of a region are adjacent."""
    own_lengths: Tensor
    """int32 [N]: number of own tokens; 0 for a slot without a response."""


def shared_prefix_attention(q: Tensor, keys: SharedKeys, scale: float) -> Tensor:
    """Attention of one token of each slot, softmax(scale * q k^T) v over its prompt and its own tokens.

    Args:
        q: [N, heads, d], after rotary embedding. Query head i uses key head i // (heads // kv heads).
        keys: of this layer, with the token's own key and value.
        scale: factor of the scores.

    Returns:
        [N, heads, d] in q's dtype; zeros for a slot that attends to nothing.
    """
    if q.is_cuda:
        from trainer_plugin.ops import triton_decode

        return triton_decode.shared_prefix_attention(
            q, keys.prompt, keys.prompt_lengths, keys.own, keys.own_lengths, scale
        )
    return _plain(q, keys, scale)


def _plain(q: Tensor, keys: SharedKeys, scale: float) -> Tensor:
    exact = torch.promote_types(q.dtype, torch.float32)
    slots, heads, d = q.shape
    regions, kv_heads = keys.prompt.shape[1:3]
    queries = q.to(exact).view(regions, slots // regions, kv_heads, heads // kv_heads, d) * scale
    own_queries = queries.view(slots, kv_heads, heads // kv_heads, d)
    # What lies beyond a length may be NaN, which stays NaN when it is multiplied by a weight of 0.
    prompt = _zero_beyond(keys.prompt.to(exact), keys.prompt_lengths)
    own = _zero_beyond(keys.own.to(exact), keys.own_lengths)
    to_prompt = torch.einsum("rshgd,rhpd->rshgp", queries, prompt[0]).flatten(0, 1)
    to_own = torch.einsum("nhgd,nhtd->nhgt", own_queries, own[0])
    lengths = keys.prompt_lengths.repeat_interleave(slots // regions)
    seen = [
        torch.arange(scores.shape[-1], device=q.device) < each[:, None, None, None]
        for scores, each in ((to_prompt, lengths), (to_own, keys.own_lengths))
    ]
    scores = torch.cat([to_prompt, to_own], dim=-1).masked_fill(~torch.cat(seen, dim=-1), float("-inf"))
    weights = scores.softmax(-1).nan_to_num(nan=0.0)  # NaN where nothing is attended to
    room = keys.prompt.shape[3]
    by_region = weights[..., :room].unflatten(0, (regions, -1))
    out = torch.einsum("rshgp,rhpd->rshgd", by_region, prompt[1]).flatten(0, 1)
    out = out + torch.einsum("nhgt,nhtd->nhgd", weights[..., room:], own[1])
    return out.reshape(q.shape).to(q.dtype)


def _zero_beyond(keys: Tensor, lengths: Tensor) -> Tensor:
    """Keys and values [2, n, kv heads, room, d] with zeros after the length [n] of each."""
    held = torch.arange(keys.shape[3], device=keys.device) < lengths[:, None]
    return torch.where(held[:, None, :, None], keys, 0.0)
