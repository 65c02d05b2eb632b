"""Differentiable collectives, and FSDP's gradient reduction with its own buffer allocation.

Each backward is the exact adjoint of its forward: a sum, never a mean. With a group of None the functions do not
communicate. All sizes come from the plan, so ranks do not exchange sizes first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup

# torch 2.13 deprecates the older names.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


def exchange(rows: Tensor, send: Sequence[int], receive: Sequence[int], group: ProcessGroup | None) -> Tensor:
    """All-to-all of rows.

    Args:
        rows: [sum(send), ...], ordered by destination rank.
        send, receive: number of rows to and from each rank of the group.
        group: None returns `rows` unchanged.

    Returns:
        [sum(receive), ...], ordered by source rank.
    """
    return rows if group is None else _Exchange.apply(rows, tuple(send), tuple(receive), group)


def gather(rows: Tensor, sizes: Sequence[int], group: ProcessGroup | None) -> Tensor:
    """All-gather of rows with a different number on each rank. The backward sums in float32.

    Args:
        rows: [sizes[rank], ...] of this rank.
        sizes: number of rows of each rank of the group.
        group: None returns `rows` unchanged.

    Returns:
        [sum(sizes), ...], ordered by rank.
    """
    return rows if group is None else _Gather.apply(rows, tuple(sizes), group)


def gather_tokens(values: Tensor, index: Tensor, tokens: int, group: ProcessGroup | None) -> Tensor:
    """Join the values of a row's tokens from the ranks that share it. Not differentiable.

    Args:
        values: [N] of this rank's tokens.
        index: [N] int64, the index of each of them in the row (`RankPlan.supervised_index`).
        tokens: number of the row's tokens.
        group: the ranks that share the row; None for this rank alone.

    Returns:
        [tokens], the same on all those ranks.
    """
    row = values.new_zeros(tokens).index_copy(0, index, values.detach())
    if group is not None:
        dist.all_reduce(row, group=group)
    return row


def tokens_to_heads(rows: Tensor, sizes: Sequence[int], group: ProcessGroup | None) -> Tensor:
    """Exchange this rank's tokens with all heads for all tokens with this rank's heads (DeepSpeed-Ulysses).

    Args:
        rows: [tokens, ranks, h, d], which holds h heads for each rank.
        sizes: number of tokens of each rank of the group.
        group: None for one rank.

    Returns:
        [sum(sizes), h, d]
    """
    if group is None:
        return rows[:, 0]
    flat = rows.transpose(0, 1).flatten(0, 1)
    return exchange(flat, [rows.shape[0]] * len(sizes), sizes, group)


def heads_to_tokens(rows: Tensor, sizes: Sequence[int], group: ProcessGroup | None) -> Tensor:
    """The inverse of `tokens_to_heads`: exchange [sum(sizes), h, d] for [tokens, ranks, h, d]."""
    if group is None:
        return rows[:, None]
    tokens = sizes[dist.get_rank(group)]
    received = exchange(rows, sizes, [tokens] * len(sizes), group)
    return received.unflatten(0, (len(sizes), tokens)).transpose(0, 1)


def _all_to_all(rows: Tensor, send: Sequence[int], receive: Sequence[int], group: ProcessGroup) -> Tensor:
    result = rows.new_empty((sum(receive), *rows.shape[1:]))
    dist.all_to_all_single(result, rows.contiguous(), list(receive), list(send), group=group)
    return result


class _Exchange(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, send: tuple[int, ...], receive: tuple[int, ...], group: ProcessGroup) -> Tensor:
        ctx.sizes = (send, receive, group)
        return _all_to_all(rows, send, receive, group)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        send, receive, group = ctx.sizes
        return _all_to_all(grad, receive, send, group), None, None, None


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, sizes: tuple[int, ...], group: ProcessGroup) -> Tensor:
        ctx.sizes = (sizes, group)
        # all_gather needs equal shapes. The plan's parts differ by few rows, so padding is small.
        most = max(sizes)
        padded = rows.new_zeros((most, *rows.shape[1:]))
        padded[: len(rows)] = rows
        everything = rows.new_empty((len(sizes) * most, *rows.shape[1:]))
        _all_gather(everything, padded, group=group)
        if sizes.count(most) == len(sizes):
            return everything
        return torch.cat([everything[rank * most : rank * most + size] for rank, size in enumerate(sizes)])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        sizes, group = ctx.sizes
        mine = sizes[dist.get_rank(group)]
        # Not reduce_scatter, which would sum bf16 gradients in bf16.
        shares = _all_to_all(grad, sizes, [mine] * len(sizes), group).unflatten(0, (len(sizes), mine))
        return shares.sum(0, dtype=torch.promote_types(grad.dtype, torch.float32)).to(grad.dtype), None, None


class GradientReduction:
    """FSDP's reduce-scatter (`FSDPModule.set_custom_reduce_scatter`) into memory that the computation has freed.

    By default FSDP allocates gradients in the stream that reduces them, and the caching allocator does not reuse memory
    freed in one stream for another. A device would then need memory for all activations plus all gradients, although
    activations are freed while gradients are allocated.
    """

    def allocate(self, size: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Allocate a buffer in the default stream, for use in the current stream.

        The computation must run in the default stream. The caller is either in that stream, or in the reducing stream
        after it has waited for the default one. The buffer may therefore be used immediately.
        """
        if device.type != "cuda":
            return torch.empty(size, dtype=dtype, device=device)
        reducing = torch.cuda.current_stream(device)
        with torch.cuda.stream(torch.cuda.default_stream(device)):
            buffer = torch.empty(size, dtype=dtype, device=device)
        buffer.record_stream(reducing)
        return buffer

    def __call__(
        self,
        output_tensor: Tensor,
        input_tensor: Tensor,
        group: ProcessGroup,
        op: dist.ReduceOp.RedOpType,
        async_op: bool = False,
    ) -> dist.Work | None:
        return _reduce_scatter(output_tensor, input_tensor, group=group, op=op, async_op=async_op)
