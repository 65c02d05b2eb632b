"""Log-probabilities and entropies of chosen tokens, without ever holding the logits of all of them.

At 128k tokens and a vocabulary of 152,064 the logits alone would be 40 GB in bfloat16. Here a chunk of rows is
computed, reduced to two numbers per row, and computed again in the backward pass.

Guarantees: logits, softmax and the sum of the weight's gradient over chunks are float32 (float64 for float64 tensors)
whatever the weights are, so that log-probabilities are never above 0. No rows at all is a valid input, with zero
gradients, so that a rank without supervised tokens stays in step with the others.

Leaves to others: which rows are supervised and with what target (plan.py); losses.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK_BYTES = 256 << 20
"""Logits of one chunk of rows: 441 rows of 152,064 float32 logits."""


class LogProbs(NamedTuple):
    """A tuple, so that FSDP finds the tensors in it."""

    log_probs: Tensor
    """[N] float32: log p(target); never above 0."""
    entropies: Tensor | None
    """[N] float32, in nats, of the same tempered distribution; None unless asked for."""


def token_log_probs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    temperature: float = 1.0,
    entropy: bool = False,
    rows: int | None = None,
    bias: Tensor | None = None,
) -> LogProbs:
    """log softmax((hidden weight^T + bias) / temperature) at the targets; differentiable, the entropies too.

    Products take their operands in the given dtype and sum in float32; the gradient of the logits is rounded to that
    dtype before it is multiplied, as it would be without chunks.

    Args:
        hidden: [N, H], supervised rows only; N may be 0.
        weight: [V, H].
        targets: [N] int64 in [0, V). Checked if on the CPU; on a GPU a wrong one stops the process with a device-side
            assertion.
        temperature: divides the logits, as it does when sampling; above 0.
        entropy: whether to compute the entropies.
        rows: rows per chunk; by default as many as `CHUNK_BYTES` of logits hold.
        bias: [V].

    Raises:
        ValueError: a target outside the vocabulary, a temperature of 0 or less.
    """
    _check(weight, targets, temperature)
    rows = rows or max(1, CHUNK_BYTES // (4 * len(weight)))
    log_probs, entropies = _TokenLogProbs.apply(hidden, weight, bias, targets, temperature, entropy, rows)
    return LogProbs(log_probs, entropies)


def full_log_probs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    temperature: float = 1.0,
    entropy: bool = False,
    bias: Tensor | None = None,
) -> LogProbs:
    """The same from the logits of all rows at once, left to autograd: what `token_log_probs` is measured against."""
    _check(weight, targets, temperature)
    logits = torch.nn.functional.linear(hidden, weight, bias)
    log_softmax = (logits.to(_exact(logits.dtype)) / temperature).log_softmax(-1)
    log_probs = log_softmax.gather(1, targets[:, None])[:, 0]
    return LogProbs(log_probs, -(log_softmax.exp() * log_softmax).sum(-1) if entropy else None)


def _check(weight: Tensor, targets: Tensor, temperature: float) -> None:
    if temperature <= 0:
        raise ValueError(f"temperature {temperature}: must be above 0; greedy sampling has no log-probabilities")
    if targets.is_cpu and len(targets):
        least, most = int(targets.min()), int(targets.max())
        if least < 0 or most >= len(weight):
            raise ValueError(f"targets from {least} to {most}, outside [0, {len(weight)}); pass supervised rows only")


class _TokenLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        temperature: float,
        entropy: bool,
        rows: int,
    ) -> tuple[Tensor, Tensor | None]:
        totals = hidden.new_empty(len(hidden), dtype=_exact(hidden.dtype))
        log_probs = torch.empty_like(totals)
        entropies = torch.empty_like(totals) if entropy else None
        for chunk in _chunks(len(hidden), rows):
            logits = _logits(hidden[chunk], weight, bias, temperature)
            total = torch.logsumexp(logits, -1, out=totals[chunk])
            log_probs[chunk] = logits.gather(1, targets[chunk, None])[:, 0] - total
            if entropies is not None:
                log_softmax = logits.sub_(total[:, None])
                entropies[chunk] = -(log_softmax.exp() * log_softmax).sum(-1)
        ctx.save_for_backward(hidden, weight, bias, targets, totals, entropies)
        ctx.temperature, ctx.rows = temperature, rows
        ctx.set_materialize_grads(False)
        return log_probs, entropies

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor | None, grad_entropy: Tensor | None) -> tuple[Tensor | None, ...]:
        """With z the tempered logits and p = softmax(z): d log p_t / dz = 1_t - p and dH / dz = -p (log p + H)."""
        hidden, weight, bias, targets, totals, entropies = ctx.saved_tensors
        dhidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        dweight = weight.new_zeros(weight.shape, dtype=totals.dtype) if ctx.needs_input_grad[1] else None
        dbias = bias.new_zeros(bias.shape, dtype=totals.dtype) if ctx.needs_input_grad[2] else None
        grad = torch.zeros_like(totals) if grad is None else grad
        for chunk in _chunks(len(hidden), ctx.rows):
            log_softmax = _logits(hidden[chunk], weight, bias, ctx.temperature).sub_(totals[chunk, None])
            scaled = grad[chunk, None] / ctx.temperature
            if grad_entropy is None:
                dlogits = log_softmax.exp_().mul_(-scaled)
            else:
                scaled_entropy = grad_entropy[chunk, None] / ctx.temperature
                probs = log_softmax.exp()
                dlogits = log_softmax.add_(entropies[chunk, None]).mul_(scaled_entropy).add_(scaled).mul_(probs).neg_()
            dlogits.scatter_add_(1, targets[chunk, None], scaled)
            if dbias is not None:
                dbias += dlogits.sum(0)
            dlogits = dlogits.to(hidden.dtype)
            if dhidden is not None:
                dhidden[chunk] = dlogits @ weight
            if dweight is not None:
                _add_product(dweight, dlogits, hidden[chunk])
        dweight = None if dweight is None else dweight.to(weight.dtype)
        dbias = None if dbias is None else dbias.to(bias.dtype)
        return dhidden, dweight, dbias, None, None, None, None


def _exact(dtype: torch.dtype) -> torch.dtype:
    """What sums are kept in: float32, or float64 for float64."""
    return torch.promote_types(dtype, torch.float32)


def _chunks(count: int, rows: int) -> Iterator[slice]:
    for start in range(0, count, rows):
        yield slice(start, min(start + rows, count))


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: float) -> Tensor:
    """[n, V] float32."""
    logits = _product(hidden, weight.T)
    if bias is not None:
        logits += bias
    return logits if temperature == 1 else logits.div_(temperature)


def _product(left: Tensor, right: Tensor) -> Tensor:
    """left @ right in float32, also of operands of half precision, without float32 copies of them on CUDA."""
    exact = _exact(left.dtype)
    if left.is_cuda and left.dtype != exact:
        return torch.mm(left, right, out_dtype=exact)
    return left.to(exact) @ right.to(exact)


def _add_product(total: Tensor, dlogits: Tensor, hidden: Tensor) -> None:
    """total += dlogits^T hidden, some vocabulary rows at a time: the whole product would be another float32 weight."""
    for vocabulary in _chunks(len(total), max(1, CHUNK_BYTES // (4 * total.shape[1]))):
        total[vocabulary] += _product(dlogits[:, vocabulary].T, hidden)
