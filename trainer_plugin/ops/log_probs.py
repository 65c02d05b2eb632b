"""Log-probabilities and entropies of given tokens, computed in chunks so that the full logits never exist.

At 128k tokens and a vocabulary of 152,064 the logits alone would be 40 GB in bfloat16. Here the logits of a chunk of
rows are computed, reduced to two numbers per row, and recomputed in the backward pass.

Guarantees: logits, softmax and the sum of the weight's gradient over chunks are float32 (float64 for float64 tensors)
whatever the dtype of the weights, so that log-probabilities are never above 0. Zero rows are a valid input with zero
gradients, so that a rank without supervised tokens makes the same calls as the others.

Not here: which rows are supervised and with which targets (`distributed.sequence_plan`), and the loss.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK_BYTES = 256 << 20
"""Maximum bytes of a chunk's float32 logits: 441 rows with a vocabulary of 152,064."""


class LogProbs(NamedTuple):
    """Log-probabilities and entropies of N tokens. It is a tuple so that FSDP finds the tensors in it."""

    log_probs: Tensor
    """[N] float32: log p(target); never above 0."""
    entropies: Tensor | None
    """[N] float32, in nats, of the same distribution (with temperature); None unless requested."""


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
    """Compute log softmax((hidden weight^T + bias) / temperature) at the targets, and optionally the entropies.

    Both results are differentiable. Matrix products take operands in the given dtype and sum in float32. The gradient
    of the logits is rounded to the given dtype before it is multiplied, as it would be without chunks.

    Args:
        hidden: [N, H], supervised rows only; N may be 0.
        weight: [V, H].
        targets: [N] int64 in [0, V). Checked if on the CPU. On a GPU an invalid target stops the process with a
            device-side assertion.
        temperature: divisor of the logits, as in sampling; must be above 0.
        entropy: whether to compute the entropies.
        rows: rows per chunk; None for as many as fit in `CHUNK_BYTES` of float32 logits.
        bias: [V], or None.

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
    """Compute the same result as `token_log_probs` from the logits of all rows, with gradients by autograd.

    It is the reference for `token_log_probs` in tests and benchmarks. Arguments and errors are the same.
    """
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
            logits = compute_logits(hidden[chunk], weight, bias, temperature)
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
        """Gradients by chunks: d log p_t / dz = 1_t - p and dH / dz = -p (log p + H).

        Here z are the logits divided by the temperature, p = softmax(z), and H is the entropy.
        """
        hidden, weight, bias, targets, totals, entropies = ctx.saved_tensors
        dhidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        dweight = weight.new_zeros(weight.shape, dtype=totals.dtype) if ctx.needs_input_grad[1] else None
        dbias = bias.new_zeros(bias.shape, dtype=totals.dtype) if ctx.needs_input_grad[2] else None
        grad = torch.zeros_like(totals) if grad is None else grad
        for chunk in _chunks(len(hidden), ctx.rows):
            log_softmax = compute_logits(hidden[chunk], weight, bias, ctx.temperature).sub_(totals[chunk, None])
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
    """The dtype of sums: float32, or float64 for float64."""
    return torch.promote_types(dtype, torch.float32)


def _chunks(count: int, rows: int) -> Iterator[slice]:
    for start in range(0, count, rows):
        yield slice(start, min(start + rows, count))


def compute_logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: float) -> Tensor:
    """Logits [n, V] of hidden states [n, H], in float32 whatever the dtype of the operands, divided by the temperature.

    Not differentiable.
    """
    logits = _product(hidden, weight.T)
    if bias is not None:
        logits += bias
    return logits if temperature == 1 else logits.div_(temperature)


def _product(left: Tensor, right: Tensor) -> Tensor:
    """Compute left @ right in float32. On CUDA, half-precision operands are not copied to float32."""
    exact = _exact(left.dtype)
    if left.is_cuda and left.dtype != exact:
        return torch.mm(left, right, out_dtype=exact)
    return left.to(exact) @ right.to(exact)


def _add_product(total: Tensor, dlogits: Tensor, hidden: Tensor) -> None:
    """Add dlogits^T hidden to `total`, in chunks of vocabulary rows.

    The whole product would be another float32 tensor as large as the weight.
    """
    for vocabulary in _chunks(len(total), max(1, CHUNK_BYTES // (4 * total.shape[1]))):
        total[vocabulary] += _product(dlogits[:, vocabulary].T, hidden)
