"""Triton kernels of `decode_kernels` and `shared_prefix_attention`. Only a machine with a GPU imports this module.

Sums are float32. Float32 tensors are multiplied in full precision, not in TF32.
"""

# mypy: allow-untyped-defs
# (Triton compiles the kernels from the values that they are called with.)

from __future__ import annotations

from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

_LOG2E = 1.4426950408889634


def shared_prefix_attention(
    q: Tensor, prompt: Tensor, prompt_lengths: Tensor, own: Tensor, own_lengths: Tensor, scale: float
) -> Tensor:
    slots, heads, d = q.shape
    regions, kv_heads, room = prompt.shape[1:4]
    group = slots // regions
    per_kv = heads // kv_heads
    rows = group * per_kv
    tile = max(16, min(128, triton.next_power_of_2(rows)))
    tiles = triton.cdiv(rows, tile)
    splits = max(1, min(_processors(q.device) // (kv_heads * regions * tiles), triton.cdiv(room, 64)))
    own_splits = max(1, min(4, own.shape[3] // 512))
    parts = torch.empty(slots, heads, splits + own_splits, d, device=q.device, dtype=torch.float32)
    lse = torch.empty(slots, heads, splits + own_splits, device=q.device, dtype=torch.float32)
    exact = q.dtype == torch.float32
    # Seen fastest on an H200: 64 rows in blocks of 64 keys, 128 rows in blocks of 128.
    block, stages, warps = (32, 1, 4) if exact else (64, 4, 4) if tile <= 64 else (128, 3, 8)
    shapes = {"D": d, "SPLITS": splits + own_splits, "HEADS": heads, "PER_KV": per_kv, "EXACT": exact}
    _attend_prompt[splits, kv_heads, regions * tiles](
        q, prompt[0], prompt[1], parts, lse, prompt_lengths, room, scale * _LOG2E, splits, rows, tiles, group,
        TILE=tile, BLOCK=block, num_stages=stages, num_warps=warps, **shapes,
    )  # fmt: skip
    _attend_own[own_splits, kv_heads, slots](
        q, own[0], own[1], parts, lse, own_lengths, own.shape[3], scale * _LOG2E, own_splits, splits,
        TILE=max(16, triton.next_power_of_2(per_kv)), BLOCK=32 if exact else 64, num_stages=1 if exact else 2,
        num_warps=4, **shapes,
    )  # fmt: skip
    out = torch.empty_like(q)
    _merge[slots * heads,](
        parts, lse, out, D=d, SPLITS=splits + own_splits, PADDED=triton.next_power_of_2(splits + own_splits)
    )
    return out


def add_rms_norm(hidden: Tensor, weight: Tensor, eps: float, residual: Tensor | None) -> tuple[Tensor, Tensor]:
    count, width = hidden.shape
    total = hidden if residual is None else torch.empty_like(hidden)
    normed = torch.empty_like(hidden)
    _add_rms_norm[count,](
        hidden, hidden if residual is None else residual, weight, total, normed, eps, width,
        ADDS=residual is not None, BLOCK=triton.next_power_of_2(width), num_warps=8,
    )  # fmt: skip
    return total, normed


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
    count, (kv_heads, room, d) = len(projected), own.shape[2:]
    q = projected.new_empty(count, heads, d)
    q_norm, k_norm = norms or (projected, projected)
    _rotate_and_store[count, heads + 2 * kv_heads](
        projected, q_norm, k_norm, cos, sin, q, own[0], own[1], own_lengths, eps, room,
        HEADS=heads, KV_HEADS=kv_heads, D=d, NORMS=norms is not None, num_warps=1,
    )  # fmt: skip
    return q


def gated(gate_up: Tensor) -> Tensor:
    count, width = len(gate_up), gate_up.shape[1] // 2
    out = gate_up.new_empty(count, width)
    _gated[count, triton.cdiv(width, 1024)](gate_up, out, width, BLOCK=1024)
    return out


@cache
def _processors(device: torch.device) -> int:
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


@triton.jit
def _attend(q, keys, values, start, stop, scale, D: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr,
            EXACT: tl.constexpr):  # fmt: skip
    """Attention of TILE query rows to keys [start, stop): output, and log-sum-exp to base 2."""
    columns = tl.arange(0, D)
    largest = tl.full([TILE], float("-inf"), tl.float32)
    total = tl.zeros([TILE], tl.float32)
    out = tl.zeros([TILE, D], tl.float32)
    for first in range(start, stop, BLOCK):
        tokens = first + tl.arange(0, BLOCK)
        seen = tokens < stop
        k = tl.load(keys + tokens[:, None] * D + columns[None, :], mask=seen[:, None], other=0.0)
        v = tl.load(values + tokens[:, None] * D + columns[None, :], mask=seen[:, None], other=0.0)
        scores = tl.dot(q, k.T, input_precision="ieee" if EXACT else None) * scale
        scores = tl.where(seen[None, :], scores, float("-inf"))
        above = tl.maximum(largest, tl.max(scores, 1))
        weights = tl.exp2(scores - above[:, None])
        shrink = tl.exp2(largest - above)
        total = total * shrink + tl.sum(weights, 1)
        out = out * shrink[:, None] + tl.dot(weights.to(v.dtype), v, input_precision="ieee" if EXACT else None)
        largest = above
    any_seen = total > 0
    safe = tl.where(any_seen, total, 1.0)
    return out / safe[:, None], tl.where(any_seen, largest + tl.log2(safe), float("-inf"))


@triton.jit
def _attend_prompt(Q, K, V, PARTS, LSE, LENGTHS, room, scale, splits, rows, tiles, group, D: tl.constexpr,
                   SPLITS: tl.constexpr, HEADS: tl.constexpr, PER_KV: tl.constexpr, EXACT: tl.constexpr,
                   TILE: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """One split of a region's prompt, for the queries of all its slots that use one key head."""
    split, kv_head = tl.program_id(0), tl.program_id(1)
    region, tile = tl.program_id(2) // tiles, tl.program_id(2) % tiles
    row = tile * TILE + tl.arange(0, TILE)
    columns = tl.arange(0, D)
    query = (region * group + row // PER_KV) * HEADS + kv_head * PER_KV + row % PER_KV
    held = row < rows
    q = tl.load(Q + query[:, None] * D + columns[None, :], mask=held[:, None], other=0.0)
    length = tl.load(LENGTHS + region)
    share = tl.cdiv(tl.cdiv(length, splits), BLOCK) * BLOCK
    start = split * share
    base = (region.to(tl.int64) * tl.num_programs(1) + kv_head) * room * D
    out, lse = _attend(q, K + base, V + base, start, tl.minimum(start + share, length), scale, D, TILE, BLOCK, EXACT)
    place = query * SPLITS + split
    tl.store(PARTS + place[:, None] * D + columns[None, :], out, mask=held[:, None])
    tl.store(LSE + place, lse, mask=held)


@triton.jit
def _attend_own(Q, K, V, PARTS, LSE, LENGTHS, room, scale, own_splits, first_split, D: tl.constexpr,
                SPLITS: tl.constexpr, HEADS: tl.constexpr, PER_KV: tl.constexpr, EXACT: tl.constexpr,
                TILE: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """One split of a slot's own tokens, for its queries that use one key head."""
    split, kv_head, slot = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    row = tl.arange(0, TILE)
    columns = tl.arange(0, D)
    query = slot * HEADS + kv_head * PER_KV + row
    held = row < PER_KV
    q = tl.load(Q + query[:, None] * D + columns[None, :], mask=held[:, None], other=0.0)
    length = tl.load(LENGTHS + slot)
    share = tl.cdiv(tl.cdiv(length, own_splits), BLOCK) * BLOCK
    start = split * share
    base = (slot.to(tl.int64) * tl.num_programs(1) + kv_head) * room * D
    out, lse = _attend(q, K + base, V + base, start, tl.minimum(start + share, length), scale, D, TILE, BLOCK, EXACT)
    place = query * SPLITS + first_split + split
    tl.store(PARTS + place[:, None] * D + columns[None, :], out, mask=held[:, None])
    tl.store(LSE + place, lse, mask=held)


@triton.jit
def _merge(PARTS, LSE, OUT, D: tl.constexpr, SPLITS: tl.constexpr, PADDED: tl.constexpr):
    """Merge all splits of one query."""
    query = tl.program_id(0)
    split, columns = tl.arange(0, PADDED), tl.arange(0, D)
    lse = tl.load(LSE + query * SPLITS + split, mask=split < SPLITS, other=float("-inf"))
    largest = tl.max(lse, 0)
    weights = tl.where(lse == float("-inf"), 0.0, tl.exp2(lse - tl.where(largest == float("-inf"), 0.0, largest)))
    place = (query * SPLITS + split)[:, None] * D + columns[None, :]
    parts = tl.load(PARTS + place, mask=(split < SPLITS)[:, None], other=0.0)
    total = tl.sum(weights, 0)
    out = tl.sum(parts * weights[:, None], 0) / tl.where(total > 0, total, 1.0)
    tl.store(OUT + query * D + columns, out)


@triton.jit
def _add_rms_norm(HIDDEN, RESIDUAL, WEIGHT, TOTAL, NORMED, eps, width, ADDS: tl.constexpr, BLOCK: tl.constexpr):
    row, column = tl.program_id(0), tl.arange(0, BLOCK)
    held = column < width
    place = row * width + column
    total = tl.load(HIDDEN + place, mask=held, other=0.0)
    if ADDS:
        total = (total.to(tl.float32) + tl.load(RESIDUAL + place, mask=held, other=0.0).to(tl.float32)).to(total.dtype)
        tl.store(TOTAL + place, total, mask=held)
    exact = total.to(tl.float32)
    scale = tl.rsqrt(tl.sum(exact * exact, 0) / width + eps)
    normed = (exact * scale).to(total.dtype) * tl.load(WEIGHT + column, mask=held, other=0.0)
    tl.store(NORMED + place, normed, mask=held)


@triton.jit
def _rotate_and_store(PROJECTED, Q_NORM, K_NORM, COS, SIN, Q, K, V, LENGTHS, eps, room, HEADS: tl.constexpr,
                      KV_HEADS: tl.constexpr, D: tl.constexpr, NORMS: tl.constexpr):  # fmt: skip
    """One head of one slot: a query, a key or a value."""
    slot, head = tl.program_id(0), tl.program_id(1)
    HALF: tl.constexpr = D // 2
    half = tl.arange(0, HALF)
    base = PROJECTED + (slot * (HEADS + 2 * KV_HEADS) + head) * D
    stored_first = tl.load(base + half)
    first, second = stored_first.to(tl.float32), tl.load(base + HALF + half).to(tl.float32)
    is_value = head >= HEADS + KV_HEADS
    if not is_value:
        if NORMS:
            weight = Q_NORM if head < HEADS else K_NORM
            scale = tl.rsqrt((tl.sum(first * first, 0) + tl.sum(second * second, 0)) / D + eps)
            dtype = stored_first.dtype
            first = ((first * scale).to(dtype) * tl.load(weight + half)).to(tl.float32)
            second = ((second * scale).to(dtype) * tl.load(weight + HALF + half)).to(tl.float32)
        cos = tl.load(COS + slot * D + half).to(tl.float32)
        sin = tl.load(SIN + slot * D + half).to(tl.float32)
        first, second = first * cos - second * sin, second * cos + first * sin
    if head < HEADS:
        out = Q + (slot * HEADS + head) * D
        tl.store(out + half, first)
        tl.store(out + HALF + half, second)
    else:
        length = tl.load(LENGTHS + slot)
        kv_head = head - HEADS - (KV_HEADS if is_value else 0)
        place = ((slot.to(tl.int64) * KV_HEADS + kv_head) * room + length - 1) * D
        out = (V if is_value else K) + place
        tl.store(out + half, first, mask=length > 0)
        tl.store(out + HALF + half, second, mask=length > 0)


@triton.jit
def _gated(GATE_UP, OUT, width, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    held = column < width
    gate = tl.load(GATE_UP + row * 2 * width + column, mask=held, other=0.0).to(tl.float32)
    up = tl.load(GATE_UP + row * 2 * width + width + column, mask=held, other=0.0).to(tl.float32)
    tl.store(OUT + row * width + column, gate * tl.sigmoid(gate) * up, mask=held)
