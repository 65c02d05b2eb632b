"""The decoder's attention on one rank in one layer: which rows attend to which, and which kernel computes each part.

`Block`s describe a row of packed segments. `attend` splits them into kernel calls and merges the results of several
calls for the same queries. It is differentiable and saves only q, k, v, the output and the log-sum-exp (LSE).

Guarantees: attention never crosses a block. Grouped-query heads are native (k and v are never repeated). Partial
outputs are merged in float32, and gradients of the same keys from several calls are summed in float32. No full-size
mask is ever built.

Not here: collectives (`distributed.collectives`) and the choice of blocks (`distributed.sequence_plan`). Dropout is not
supported.

    cudnn   torch's cuDNN op: 570-650 TFLOP/s forward and 540-583 backward at 64k-128k causal (H100, bf16, d = 128). One
            segment per call. Its causal mask is aligned TOP-LEFT, so a chunk with a key prefix takes two calls.
    flash2  torch's varlen FlashAttention op: about 330 TFLOP/s in both directions, same setting. It takes any number of
            segments per call, and its causal mask is aligned bottom-right. An installed FlashAttention 3 can replace it
            with `torch.nn.attention.activate_flash_attention_impl("FA3")`, which has not been tested.
    plain   matrix products in chunks of query rows. Runs on any device and dtype, and is the reference for the others.
    auto    on CUDA in half precision, cudnn for long parts and flash2 for short ones; plain elsewhere.

torch's varlen cuDNN op is not used, because its gradients are wrong in 2.11 (inf, then an illegal memory access).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from itertools import accumulate
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from trainer_plugin.types import Block

CUDNN_MIN_ROWS = 4096
"""Minimum number of query and key rows for cuDNN. Smaller parts use flash2, which takes many short segments in one
call. From 16k rows cuDNN is twice as fast (H100)."""

CHUNK_BYTES = 64 << 20
"""Size in bytes of the largest temporary tensor that the plain kernel and the merge allocate."""


class Kernel(StrEnum):
    """Attention kernel; the module docstring describes each."""

    AUTO = "auto"
    CUDNN = "cudnn"
    FLASH2 = "flash2"
    PLAIN = "plain"


class Stash(Protocol):
    """Cache of one layer's attention output between the forward pass and its recomputation under activation
    checkpointing."""

    def take(self) -> tuple[Tensor, Tensor] | None:
        """Remove and return (out [Sq, hq, d], lse [hq, Sq]) as stored by `put`; None in the first pass."""

    def put(self, out: Tensor, lse: Tensor) -> None: ...


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    blocks: Sequence[Block],
    scale: float,
    kernel: Kernel = Kernel.AUTO,
    stash: Stash | None = None,
) -> Tensor:
    """Attention within each block: softmax(scale * q k^T) v.

    Args:
        q: [Sq, hq, d].
        k, v: [Sk, hkv, d]. Query head i uses key head i // (hq // hkv). Rows that are in no block get zero gradients.
        blocks: blocks whose query ranges are ascending and disjoint and cover all of q, and further blocks whose query
            rows earlier ones cover: their keys are attended to in addition. Key ranges of different query rows may
            overlap; those of the same query rows must not.
        scale: factor of the scores, usually d ** -0.5.
        kernel: see the module docstring. `auto` accepts all tensors.
        stash: cache from which a recomputed forward pass takes the result of the first one instead of running kernels.

    Returns:
        [Sq, hq, d] in q's dtype.

    Raises:
        ValueError: the blocks do not cover q or reach beyond k, or the kernel does not support these tensors.
    """
    calls = plan_calls(tuple(blocks), resolve(kernel, q), len(q), len(k))
    return _Attention.apply(q, k, v, calls, scale, stash)


def attend_all(q: Tensor, k: Tensor, v: Tensor, scale: float, kernel: Kernel = Kernel.AUTO) -> tuple[Tensor, Tensor]:
    """Attention of all queries to all keys, with the log-sum-exp. Not differentiable.

    Args:
        q: [Sq, hq, d].
        k, v: [Sk, hkv, d]. Without keys, or without queries, no kernel runs.
        scale, kernel: as in `attend`.

    Returns:
        Output [Sq, hq, d] in q's dtype, and the log-sum-exp of the scores, float32 [hq, Sq] (float64 for float64
        tensors). Without keys they are 0 and -inf.

    Raises:
        ValueError: the kernel does not support these tensors.
    """
    choice = resolve(kernel, q)
    if not len(q) or not len(k):
        return torch.zeros_like(q), q.new_full((q.shape[1], len(q)), float("-inf"), dtype=_exact(q.dtype))
    block = Block((0, len(q)), (0, len(k)), causal=False)
    return _forward(q, k, v, plan_calls((block,), choice, len(q), len(k)), scale)


def resolve(kernel: Kernel, q: Tensor) -> Kernel:
    """The kernel that runs for tensors like q [Sq, hq, d]. AUTO is returned where the choice is made for each part.

    Raises:
        ValueError: the kernel does not support q's device, dtype or head dimension.
    """
    head_dim = q.shape[-1]
    fused = q.is_cuda and q.dtype in (torch.bfloat16, torch.float16) and head_dim % 8 == 0
    flash2, cudnn = fused and head_dim <= 256, fused and 64 <= head_dim <= 128
    if kernel is Kernel.AUTO:
        return Kernel.AUTO if cudnn else Kernel.FLASH2 if flash2 else Kernel.PLAIN
    if (kernel is Kernel.CUDNN and not cudnn) or (kernel is Kernel.FLASH2 and not flash2):
        limits = "64 to 128" if kernel is Kernel.CUDNN else "up to 256"
        raise ValueError(
            f"kernel {kernel}: not for {q.dtype} on {q.device} with head_dim {head_dim}; it takes bfloat16 or float16 "
            f"on CUDA and a head_dim that is a multiple of 8, {limits}; use auto or plain"
        )
    return kernel


@dataclass(frozen=True)
class Call:
    """One kernel launch over blocks with adjacent query rows, all causal or all not. Only flash2 takes several
    blocks."""

    kernel: Kernel
    blocks: tuple[Block, ...]
    merges: bool
    """Whether an earlier call has written a result for the same query rows, so that this one must be merged."""

    @property
    def rows(self) -> slice:
        """The query rows of all blocks."""
        return slice(self.blocks[0].query[0], self.blocks[-1].query[1])

    @property
    def causal(self) -> bool:
        """Whether all blocks are causal."""
        return self.blocks[0].causal

    @property
    def key_ranges(self) -> tuple[tuple[int, int], ...]:
        """The key rows of all blocks in order, with adjacent ranges joined."""
        joined: list[tuple[int, int]] = []
        for start, end in (block.key for block in self.blocks):
            if joined and joined[-1][1] == start:
                start = joined.pop()[0]
            joined.append((start, end))
        return tuple(joined)


def plan_calls(blocks: tuple[Block, ...], kernel: Kernel, queries: int, keys: int) -> tuple[Call, ...]:
    """Plan the kernel launches for blocks over `queries` rows of q and `keys` rows of k.

    Raises:
        ValueError: the blocks do not cover q in order, overlap in part, or reach beyond k.
    """
    calls: list[Call] = []
    for block, adds in zip(blocks, _additions(blocks, queries, keys), strict=True):
        for number, (part, choice) in enumerate(_parts(block, kernel)):
            call = Call(choice, (part,), merges=adds or number > 0)
            if calls and choice is Kernel.FLASH2 and _adjacent(calls[-1], call):
                call = Call(choice, (*calls.pop().blocks, part), call.merges)
            calls.append(call)
    return tuple(calls)


def _adjacent(last: Call, call: Call) -> bool:
    same = (last.kernel, last.causal, last.merges) == (call.kernel, call.causal, call.merges)
    return same and last.rows.stop == call.rows.start


def _parts(block: Block, kernel: Kernel) -> Iterator[tuple[Block, Kernel]]:
    """Split a block into parts that one call computes correctly, each with its kernel.

    cuDNN needs two parts for a causal block with a key prefix.
    """
    if kernel is Kernel.AUTO and min(block.queries, block.keys) < CUDNN_MIN_ROWS:
        yield block, Kernel.FLASH2
    elif kernel in (Kernel.FLASH2, Kernel.PLAIN):
        yield block, kernel
    elif not block.causal or block.queries == block.keys:
        yield block, Kernel.CUDNN
    else:
        start, end = block.key
        own = end - block.queries
        yield Block(block.query, (own, end)), Kernel.CUDNN
        prefix = Block(block.query, (start, own), causal=False)
        yield prefix, Kernel.FLASH2 if kernel is Kernel.AUTO and prefix.keys < CUDNN_MIN_ROWS else Kernel.CUDNN


def _additions(blocks: tuple[Block, ...], queries: int, keys: int) -> list[bool]:
    """Whether each block adds keys to query rows that earlier blocks cover. Checks the blocks; see `plan_calls`."""
    covered = 0
    additions = []
    for block in blocks:
        start, end = block.query
        if block.key[0] < 0 or block.key[1] > keys:
            raise ValueError(f"{block}: there are {keys} key rows")
        additions.append(0 <= start < end <= covered)
        if start == covered:
            covered = end
        elif not additions[-1]:
            break
    else:
        if covered == queries:
            return additions
    raise ValueError(
        f"blocks cover the query rows {[block.query for block in blocks]}; they must cover 0 to {queries} in order and "
        f"once, before further blocks add keys to covered rows"
    )


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, calls: tuple[Call, ...], scale: float, stash: Stash | None
    ) -> Tensor:
        found = stash.take() if stash else None
        out, lse = found or _forward(q, k, v, calls, scale)
        if stash and not found:
            # Autograd attaches this layer's graph to `out` itself, and the stash must not keep that graph alive.
            stash.put(out.detach(), lse)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.calls, ctx.scale = calls, scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, lse = ctx.saved_tensors
        return *_backward(grad.contiguous(), q, k, v, out, lse, ctx.calls, ctx.scale), None, None, None


def _forward(q: Tensor, k: Tensor, v: Tensor, calls: tuple[Call, ...], scale: float) -> tuple[Tensor, Tensor]:
    """Compute (out [Sq, hq, d], lse [hq, Sq]), both contiguous."""
    out = q.new_empty(q.shape)
    lse = q.new_empty((q.shape[1], len(q)), dtype=_exact(q.dtype))
    for call in calls:
        rows, kernel = call.rows, KERNELS[call.kernel]
        part, part_lse = kernel.forward(q[rows], _pack(k, call), _pack(v, call), call, scale)
        if call.merges:
            _merge(out[rows], lse[:, rows], part, part_lse)
        else:
            out[rows] = part
            lse[:, rows] = part_lse
    return out, lse


def _backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, calls: tuple[Call, ...], scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the gradients of q, k, v.

    Each call gets the merged output and LSE of its rows. The probabilities exp(s - lse) are then normalised over all
    keys, so the gradients of the parts add up, as in ring attention (Liu et al., arXiv 2310.01889).
    """
    dq = q.new_empty(q.shape)
    dk = k.new_zeros(k.shape, dtype=_exact(k.dtype))
    dv = v.new_zeros(v.shape, dtype=_exact(v.dtype))
    for call in calls:
        rows, kernel = call.rows, KERNELS[call.kernel]
        packed = _pack(k, call), _pack(v, call)
        saved = out[rows], lse[:, rows]
        dq_part, dk_part, dv_part = kernel.backward(grad[rows], q[rows], *packed, *saved, call, scale)
        if len(calls) == 1 and call.key_ranges == ((0, len(k)),):
            return dq_part, dk_part.to(k.dtype), dv_part.to(v.dtype)
        if call.merges:
            dq[rows] += dq_part
        else:
            dq[rows] = dq_part
        _unpack_add(dk, dk_part, call)
        _unpack_add(dv, dv_part, call)
    return dq, dk.to(k.dtype), dv.to(v.dtype)


def _exact(dtype: torch.dtype) -> torch.dtype:
    """The dtype of sums: float32, or float64 for float64."""
    return torch.promote_types(dtype, torch.float32)


def _pack(rows: Tensor, call: Call) -> Tensor:
    """The key or value rows of a call, block after block: a view if they are adjacent, otherwise a copy."""
    ranges = [rows[start:end] for start, end in call.key_ranges]
    return ranges[0] if len(ranges) == 1 else torch.cat(ranges)


def _unpack_add(total: Tensor, packed: Tensor, call: Call) -> None:
    ranges = call.key_ranges
    for (start, end), part in zip(ranges, packed.split([end - start for start, end in ranges]), strict=True):
        total[start:end] += part


def _merge(out: Tensor, lse: Tensor, part: Tensor, part_lse: Tensor) -> None:
    """Merge into (out, lse), in place, the result of the same queries over other keys.

    With lse' = log(exp(lse) + exp(part_lse)), out' = out * exp(lse - lse') + part * exp(part_lse - lse').
    """
    for rows in _chunks(len(out), out[0].numel() * lse.element_size()):
        weight = torch.sigmoid(part_lse[:, rows] - lse[:, rows]).T[:, :, None]
        out[rows] = torch.lerp(out[rows].to(lse.dtype), part[rows].to(lse.dtype), weight).to(out.dtype)
    lse.copy_(torch.logaddexp(lse, part_lse))


def _chunks(rows: int, row_bytes: int) -> Iterator[slice]:
    step = max(1, CHUNK_BYTES // row_bytes)
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


class _Cudnn:
    """aten._scaled_dot_product_cudnn_attention and its backward. Signatures are the same in torch 2.11 to 2.13."""

    @staticmethod
    def forward(q: Tensor, k: Tensor, v: Tensor, call: Call, scale: float) -> tuple[Tensor, Tensor]:
        heads = (_heads_first(tensor) for tensor in (q, k, v))
        op = torch.ops.aten._scaled_dot_product_cudnn_attention.default
        out, lse, *_ = op(*heads, None, True, 0.0, call.causal, False, scale=scale)
        return out[0].transpose(0, 1), lse.view(q.shape[1], len(q))

    @staticmethod
    def backward(
        grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, call: Call, scale: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        grad, q, k, v, out = (_heads_first(tensor) for tensor in (grad, q, k, v, out))
        lse = lse.contiguous()[None, :, :, None]
        seed = torch.zeros((), dtype=torch.int64, device=q.device)
        op = torch.ops.aten._scaled_dot_product_cudnn_attention_backward.default
        sizes = (q.shape[2], k.shape[2], 0.0, call.causal)
        grads = op(grad, q, k, v, out, lse, seed, seed, None, None, None, *sizes, scale=scale)
        dq, dk, dv = (tensor[0].transpose(0, 1) for tensor in grads)
        return dq, dk, dv


def _heads_first(rows: Tensor) -> Tensor:
    """Reshape [S, h, d] to [1, h, S, d]."""
    return rows.transpose(0, 1)[None]


class _Flash2:
    """aten._flash_attention_forward and its backward over packed segments, with only the arguments of torch 2.11."""

    @staticmethod
    def forward(q: Tensor, k: Tensor, v: Tensor, call: Call, scale: float) -> tuple[Tensor, Tensor]:
        op = torch.ops.aten._flash_attention_forward.default
        out, lse, *_ = op(q, k, v, *_Flash2._lengths(call, q.device), 0.0, call.causal, False, scale=scale)
        return out, lse

    @staticmethod
    def backward(
        grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, call: Call, scale: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        random = torch.zeros(2, dtype=torch.uint64, device=q.device), torch.empty(0, device=q.device)
        lengths = _Flash2._lengths(call, q.device)
        op = torch.ops.aten._flash_attention_backward.default
        lse = lse.contiguous()
        return op(grad, q, k, v, out, lse, *lengths, 0.0, call.causal, *random, scale=scale)

    @staticmethod
    def _lengths(call: Call, device: torch.device) -> tuple[Tensor, Tensor, int, int]:
        queries = tuple(block.queries for block in call.blocks)
        keys = tuple(block.keys for block in call.blocks)
        # A maximum of one query row selects a decoding path. Its LSE has another layout, which the backward cannot use.
        longest = max(2, *queries)
        return _cumulative(queries, device), _cumulative(keys, device), longest, max(keys)


@lru_cache(maxsize=256)
def _cumulative(lengths: tuple[int, ...], device: torch.device) -> Tensor:
    """Cumulative lengths [0, l0, l0 + l1, ...] in int32, copied to the device once for all layers of a row."""
    return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)


class _Plain:
    """Attention by matrix products over chunks of query rows. All query heads of a key head share one product."""

    @staticmethod
    def forward(q: Tensor, k: Tensor, v: Tensor, call: Call, scale: float) -> tuple[Tensor, Tensor]:
        keys, values = (_exact_heads(tensor) for tensor in (k, v))
        out = q.new_empty(q.shape)
        lse = q.new_empty((q.shape[1], len(q)), dtype=keys.dtype)
        for rows, seen in _Plain._chunks(q, keys, call):
            queries = _grouped(q[rows], keys)
            scores = _Plain._scores(queries, keys[:, :seen], call, rows.stop - rows.start, scale)
            total = scores.logsumexp(-1, keepdim=True)
            found = scores.sub_(total).exp_() @ values[:, :seen]
            out[rows] = _ungrouped(found, rows.stop - rows.start)
            lse[:, rows] = total.view(len(lse), -1)
        return out, lse

    @staticmethod
    def backward(
        grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, call: Call, scale: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients by FlashAttention's equations (Dao et al., arXiv 2205.14135, algorithm 4) on whole key rows."""
        keys, values = (_exact_heads(tensor) for tensor in (k, v))
        dq, dk, dv = q.new_empty(q.shape), torch.zeros_like(keys), torch.zeros_like(values)
        for rows, seen in _Plain._chunks(q, keys, call):
            queries, dout, found = (_grouped(tensor[rows], keys) for tensor in (q, grad, out))
            scores = _Plain._scores(queries, keys[:, :seen], call, rows.stop - rows.start, scale)
            probs = scores.sub_(lse[:, rows].reshape(len(keys), -1, 1)).exp_()
            dv[:, :seen] += probs.mT @ dout
            dscores = dout @ values[:, :seen].mT
            dscores.sub_((dout * found).sum(-1, keepdim=True)).mul_(probs).mul_(scale)
            dq[rows] = _ungrouped(dscores @ keys[:, :seen], rows.stop - rows.start)
            dk[:, :seen] += dscores.mT @ queries
        return dq, dk.transpose(0, 1), dv.transpose(0, 1)

    @staticmethod
    def _chunks(q: Tensor, keys: Tensor, call: Call) -> Iterator[tuple[slice, int]]:
        """Chunks of query rows, each with the number of key rows that its last query sees."""
        for rows in _chunks(len(q), q.shape[1] * keys.shape[1] * keys.element_size()):
            yield rows, keys.shape[1] - (len(q) - rows.stop if call.causal else 0)

    @staticmethod
    def _scores(queries: Tensor, keys: Tensor, call: Call, rows: int, scale: float) -> Tensor:
        """Scores [hkv, hq / hkv * n, seen] of queries [hkv, hq / hkv * n, d] and keys [hkv, seen, d], with n = rows.

        The last of the n query rows sees all keys. If causal, each row before it sees one key fewer.
        """
        scores = (queries @ keys.mT).mul_(scale)
        if call.causal:
            hidden = torch.ones(rows, rows, dtype=torch.bool, device=scores.device).triu(1)
            scores.unflatten(1, (-1, rows))[..., -rows:].masked_fill_(hidden, float("-inf"))
        return scores


def _exact_heads(rows: Tensor) -> Tensor:
    """Reshape [S, h, d] to [h, S, d] in the dtype of sums."""
    return rows.to(_exact(rows.dtype)).transpose(0, 1)


def _grouped(rows: Tensor, keys: Tensor) -> Tensor:
    """Reshape [n, hq, d] to [hkv, hq / hkv * n, d] in keys' dtype."""
    return rows.to(keys.dtype).unflatten(1, (len(keys), -1)).permute(1, 2, 0, 3).flatten(1, 2)


def _ungrouped(grouped: Tensor, rows: int) -> Tensor:
    """The inverse of `_grouped`, with n = rows."""
    return grouped.unflatten(1, (-1, rows)).flatten(0, 1).transpose(0, 1)


KERNELS: dict[Kernel, type[_Cudnn] | type[_Flash2] | type[_Plain]] = {
    Kernel.CUDNN: _Cudnn,
    Kernel.FLASH2: _Flash2,
    Kernel.PLAIN: _Plain,
}
