"""One optimizer step: gradients of many rows added up, clipped by their true norm, applied - or refused.

The loss of a step is the sum over all its supervised tokens divided by their number, counted over all rows and ranks
before the first forward pass. So it depends neither on the number of ranks nor on packing nor on accumulation; ranks
add their gradients (`trainer_plugin.model.shard_parameters`), they do not average them.

Leaves to others: where rows come from (sft.py), and what the learning rate is at which time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import AdamW, Optimizer

from trainer_plugin.model import LongVideoModel, RowShare, reshard


@dataclass(frozen=True)
class StepResult:
    """Of one optimizer step, over all ranks."""

    loss: float
    """Mean over the supervised tokens, in nats."""
    grad_norm: float
    """Before clipping, over all parameters of all ranks."""


class NotFinite(ArithmeticError):
    """A loss or a gradient is not a finite number. Raised on every rank, before any parameter is changed."""

    def __init__(self, loss: float, grad_norm: float, rows: tuple[int, ...]) -> None:
        super().__init__(f"loss {loss}, gradient norm {grad_norm}")
        self.rows = rows
        """Numbers of this rank's rows whose own loss is not finite; empty when only gradients are."""


class BadStep(ArithmeticError):
    """A run ends with the step that was not finite: nothing was learned from it. The message names its samples."""


def supervised_tokens(shares: Iterable[RowShare]) -> int:
    """How many tokens a step learns: this rank's rows and all others'. Every rank must call it."""
    count = torch.tensor([sum(len(row.share.targets) for row in shares)])
    dist.all_reduce(count)
    return int(count)


def train_step(
    model: LongVideoModel,
    optimizer: Optimizer,
    rows: Iterable[RowShare],
    tokens: int,
    *,
    max_norm: float | None = 1.0,
) -> StepResult:
    """Learn from rows. Every rank must call it, with equally many rows, at least one.

    Args:
        model: with sharded parameters, in training mode.
        rows: this rank's shares, taken one after another; a generator may prepare each when its turn comes.
        tokens: supervised tokens of all rows of all ranks (`supervised_tokens`).
        max_norm: gradients are scaled down to this norm; None leaves them as they are.

    Raises:
        ValueError: there is no row or no token to learn from; nothing was changed.
        NotFinite: nothing was changed.

    After any error the gradients are gone, so that another step can follow.
    """
    if tokens < 1:
        raise ValueError(f"tokens is {tokens}: pass over a step in which no rank learns anything (supervised_tokens)")
    try:
        losses = add_gradients(model, rows, tokens)
        if not losses:
            raise ValueError("rows is empty: every rank takes equally many, one without labels where it has none left")
        parameters = trained_parameters(model).values()
        result = finite_step(losses, gradient_norm(parameters))
    except BaseException:  # also an interruption: the next step would add to what is there
        optimizer.zero_grad()
        raise
    if max_norm is not None:
        clip_gradients(parameters, result.grad_norm, max_norm)
    optimizer.step()
    optimizer.zero_grad()
    return result


def add_gradients(model: LongVideoModel, rows: Iterable[RowShare], tokens: int) -> list[Tensor]:
    """Run rows forward and backward. Returns each row's part of the loss on this rank, a scalar."""
    losses = []
    for row in rows:
        log_probs, _ = model(row.to(model.parallel.device))
        loss = -log_probs.sum() / tokens
        loss.backward()
        losses.append(loss.detach())
    return losses


def finite_step(losses: Sequence[Tensor], grad_norm: Tensor) -> StepResult:
    """What came of a step's gradients. Every rank must call it.

    Args:
        losses: each row's part of the loss on this rank.
        grad_norm: as `gradient_norm` gives it.

    Raises:
        NotFinite: a rank's loss, or the norm, is not finite.
    """
    per_row = torch.stack(list(losses))
    total = per_row.sum()
    dist.all_reduce(total)
    loss, norm = total.item(), grad_norm.item()
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise NotFinite(loss, norm, tuple((~per_row.isfinite()).nonzero()[:, 0].tolist()))
    return StepResult(loss, norm)


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Those that are learned, by name; this rank's shards of them."""
    learned = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if all(isinstance(parameter, DTensor) for parameter in learned.values()):
        return learned
    reshard(model)
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def adamw(
    model: nn.Module, learning_rate: float, weight_decay: float = 0.0, betas: tuple[float, float] = (0.9, 0.999)
) -> AdamW:
    """AdamW over what is learned; weight decay on matrices only, not on norms and biases."""
    parameters = list(trained_parameters(model).values())
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return AdamW([group for group in groups if group["params"]], lr=learning_rate, betas=betas, fused=True)


def gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """The 2-norm of all gradients as one vector, each entry counted once wherever it lies; the same on all ranks."""
    parameters = [parameter for parameter in parameters if parameter.grad is not None]
    squares = [torch.zeros((), device=_device(parameters))]
    squares += [norm.float() ** 2 for norm in torch._foreach_norm([_local(p.grad) for p in parameters])]
    total = torch.stack([square.to(squares[0].device) for square in squares]).sum()
    dist.all_reduce(total)
    return total.sqrt()


def clip_gradients(parameters: Iterable[nn.Parameter], norm: float, max_norm: float) -> None:
    """Scale all gradients, whose norm together is `norm`, down to `max_norm` if they are above."""
    if norm > max_norm:
        torch._foreach_mul_([_local(p.grad) for p in parameters if p.grad is not None], max_norm / norm)


def _local(tensor: Tensor | None) -> Tensor:
    assert tensor is not None
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _device(parameters: Sequence[nn.Parameter]) -> torch.device:
    return parameters[0].device if parameters else torch.device("cpu")
