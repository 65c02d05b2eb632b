"""The collectives that autograd sees. Each backward is the exact adjoint of its forward: a sum, never a mean.

A group of None, or of one rank, does nothing. All sizes come from the plan, so that nothing is asked of other ranks.
And FSDP's reduction of gradients, with another place for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup

# The older name, of torch before 2.13, is deprecated there.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


def exchange(rows: Tensor, send: Sequence[int], receive: Sequence[int], group: ProcessGroup | None) -> Tensor:
    """All-to-all of rows.

    Args:
        rows: [sum(send), ...], ordered by the rank that they go to.
        send, receive: rows to and from each rank of the group.

    Returns:
        [sum(receive), ...], ordered by the rank that they came from.
    """
    return rows if group is None else _Exchange.apply(rows, tuple(send), tuple(receive), group)


def gather(rows: Tensor, sizes: Sequence[int], group: ProcessGroup | None) -> Tensor:
    """All ranks' rows, one rank after the other: [sum(sizes), ...]. The backward sums in float32."""
    return rows if group is None else _Gather.apply(rows, tuple(sizes), group)


def tokens_to_heads(rows: Tensor, sizes: Sequence[int], group: ProcessGroup | None) -> Tensor:
    """From this rank's tokens with all heads to all tokens with this rank's heads (DeepSpeed-Ulysses).

    Args:
        rows: [tokens, ranks, h, d]: for each rank its h heads.
        sizes: tokens of each rank of the group.

    Returns:
        [sum(sizes), h, d]
    """
    if group is None:
        return rows[:, 0]
    flat = rows.transpose(0, 1).flatten(0, 1)
    return exchange(flat, [rows.shape[0]] * len(sizes), sizes, group)


def heads_to_tokens(rows: Tensor, sizes: Sequence[int], group: ProcessGroup | None) -> Tensor:
    """The reverse of `tokens_to_heads`: from [sum(sizes), h, d] to [tokens, ranks, h, d]."""
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
        # all_gather wants equal shapes; the plan's parts differ by few rows.
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
        # Not reduce_scatter: it would add bf16 gradients in bf16.
        shares = _all_to_all(grad, sizes, [mine] * len(sizes), group).unflatten(0, (len(sizes), mine))
        return shares.sum(0, dtype=torch.promote_types(grad.dtype, torch.float32)).to(grad.dtype), None, None


class GradientReduction:
    """FSDP's reduce-scatter (`FSDPModule.set_custom_reduce_scatter`), into memory that the computation has set free.

    By itself FSDP keeps gradients in memory of the stream that reduces them, and what one stream sets free no other
    gets: a device needs room for all activations and for all gradients, though the ones go as the others come.
    """

    def allocate(self, size: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        """A buffer. Called in the computation's stream, which must be the default one, or in the reducing stream once
        that has waited for it: it may be used at once."""
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
