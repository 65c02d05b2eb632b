"""Attention of responses that are decoded one token a step, over prompts whose keys are distributed among ranks.

Every rank of a sequence-parallel group runs the same tokens. It computes the attention of its Ulysses heads over its
ring part of the prompts. The first ring rank adds the responses' own keys. The results are gathered and merged by their
log-sum-exp, so no key or value is sent.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from trainer_plugin.distributed.collectives import gather
from trainer_plugin.distributed.sequence_plan import Layout, Range
from trainer_plugin.ops.attention_kernels import Kernel, attend_all


class DecodeKeys:
    """This rank's keys and values of prompts and of the responses to them, in all layers.

    Not a dataclass or a dict, which FSDP would copy for each layer.
    """

    def __init__(
        self,
        prompts: Sequence[tuple[Tensor, Tensor]],
        ranges: Sequence[Range],
        responses: Sequence[int],
        layout: Layout,
        rank: int,
        group: ProcessGroup | None,
        kernel: Kernel = Kernel.AUTO,
    ) -> None:
        """
        Args:
            prompts: keys and values of each layer, [tokens of this rank's part, kv heads of this rank, d], of a row
                that holds all prompts.
            ranges: the rows of `prompts` that belong to each prompt; empty ranges where this rank has none.
            responses: number of responses to each prompt. A batch holds one token of each response, in this order.
            layout: layout of the sequence-parallel group.
            rank: this rank's number in the group.
            group: the group; None for one rank.
            kernel: kernel for attention to the prompts.
        """
        self._prompts = [[(k[start:end], v[start:end]) for start, end in ranges] for k, v in prompts]
        self._responses = list(responses)
        self._layout = layout
        self._rank = rank
        self._group = group
        self._kernel = kernel
        self._own = [_OwnKeys() for _ in prompts] if rank < layout.ulysses else []

    def keep(self, rows: Tensor) -> None:
        """Keep some of the responses and drop the others.

        Args:
            rows: int64, ascending: their rows in the batch.
        """
        owners = torch.repeat_interleave(torch.arange(len(self._responses)), torch.tensor(self._responses))
        self._responses = torch.bincount(owners[rows], minlength=len(self._responses)).tolist()
        for own in self._own:
            own.keep(rows)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        """Add the keys and values of this step's tokens to those of a layer, and compute the tokens' attention.

        Args:
            layer: number of the layer.
            q: [n, hq, d], one row for each response.
            k, v: [n, hkv, d].
            scale: factor of the scores.

        Returns:
            [n, hq, d] of all heads, in q's dtype. Zeros for a batch of no responses, whose row only keeps a rank in
            step with the others.
        """
        if not sum(self._responses):
            return torch.zeros_like(q)
        dtype, number = q.dtype, self._rank % self._layout.ulysses
        q, k, v = (heads_of_each_rank(rows, self._layout.ulysses)[:, number] for rows in (q, k, v))
        parts = [
            attend_all(queries, *keys, scale, self._kernel)
            for queries, keys in zip(q.split(self._responses), self._prompts[layer], strict=True)
        ]
        # [parts, h, n, d + 1]: outputs and, in the last column, log-sum-exps
        found = torch.cat([_pack(out.transpose(0, 1), lse) for out, lse in parts], dim=1)[None]
        if self._own:
            found = _merge(torch.cat([found, _attend_own(q, *self._own[layer].append(k, v), scale)[None]]))[None]
        if self._group is not None:
            found = gather(found[0], [found.shape[1]] * self._layout.size, self._group)
            found = found.unflatten(0, (self._layout.ring, -1))
        return _merge(found)[..., :-1].transpose(0, 1).to(dtype)


class _OwnKeys:
    """Keys and values of the responses' own tokens in one layer."""

    def __init__(self) -> None:
        self._length = 0
        self._buffer: Tensor | None = None
        """[2, responses, at least length, h, d]"""

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Add one token [n, h, d] to each response, and return the keys and values of all, [n, tokens, h, d]."""
        if self._buffer is None:
            self._buffer = k.new_empty(2, len(k), 16, *k.shape[1:])
        elif self._length == self._buffer.shape[2]:
            self._buffer = torch.cat([self._buffer, torch.empty_like(self._buffer)], dim=2)
        self._buffer[0, :, self._length], self._buffer[1, :, self._length] = k, v
        self._length += 1
        keys, values = self._buffer[:, :, : self._length]
        return keys, values

    def keep(self, rows: Tensor) -> None:
        assert self._buffer is not None
        self._buffer = self._buffer[:, rows.to(self._buffer.device)]


def heads_of_each_rank(rows: Tensor, ranks: int) -> Tensor:
    """Reshape [S, heads, d] to [S, ranks, h, d]. With fewer KV heads than ranks, adjacent ranks share a head."""
    if rows.shape[1] < ranks:
        rows = rows.repeat_interleave(ranks // rows.shape[1], dim=1)
    return rows.unflatten(1, (ranks, -1))


def _attend_own(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """Attention of each response's token [n, hq, d] to its own keys [n, t, hkv, d], packed as [hq, n, d + 1]."""
    exact = torch.promote_types(q.dtype, torch.float32)
    queries, keys, values = q.to(exact).unflatten(1, (k.shape[2], -1)), k.to(exact), v.to(exact)
    scores = torch.einsum("nhgd,nthd->hgnt", queries, keys) * scale
    lse = scores.logsumexp(-1)
    out = torch.einsum("hgnt,nthd->hgnd", (scores - lse[..., None]).exp(), values)
    return _pack(out, lse).flatten(0, 1)


def _pack(out: Tensor, lse: Tensor) -> Tensor:
    """Outputs [..., d] and their log-sum-exps [...] in one tensor [..., d + 1] of the latter's dtype."""
    return torch.cat([out.to(lse.dtype), lse[..., None]], dim=-1)


def _merge(parts: Tensor) -> Tensor:
    """Merge packed results of the same queries over different keys, [parts, ..., d + 1] to [..., d + 1].

    A part without keys has the log-sum-exp -inf; some part must have keys.
    """
    out, lse = parts[..., :-1], parts[..., -1]
    return _pack((lse.softmax(0)[..., None] * out).sum(0), lse.logsumexp(0))
