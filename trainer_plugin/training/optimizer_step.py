"""One optimizer step: accumulate the gradients of rows, clip them by their global norm, and apply them if finite.

A loss function gives each row's part of the step's loss on each rank, and the loss is the sum of these parts. Divisors
are counted over all rows and ranks before the first forward pass, so the loss does not depend on the number of ranks,
on packing or on accumulation. Ranks sum their gradients (`trainer_plugin.model.shard_parameters`) and do not average
them.

Not here: where rows come from (`training.step_feed`), and the learning-rate schedule (`sft`).
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

from trainer_plugin.model import LongVideoModel, RankInput, reshard
from trainer_plugin.training.chunked_groups import ChunkedInput, LossFunction, add_chunked_gradients


@dataclass(frozen=True)
class StepResult:
    """Result of one optimizer step, over all ranks."""

    loss: float
    """The sum of all parts of the loss; with `cross_entropy`, the mean per supervised token, in nats."""
    grad_norm: float
    """Norm of the gradients before clipping, over all parameters of all ranks."""


class NotFinite(ArithmeticError):
    """A loss or a gradient is not a finite number. Raised on every rank, before any parameter is changed."""

    def __init__(self, loss: float, grad_norm: float, rows: tuple[int, ...]) -> None:
        super().__init__(f"loss {loss}, gradient norm {grad_norm}")
        self.rows = rows
        """Indices of this rank's rows whose loss is not finite; empty if only gradients or other ranks' losses are."""


class BadStep(ArithmeticError):
    """A step whose loss or gradient was not finite. It was not applied and ends the run. The message names its
    samples."""


def supervised_tokens(rank_inputs: Iterable[RankInput]) -> int:
    """Number of supervised tokens of a step, over the rows of all ranks. Every rank must call it."""
    count = torch.tensor([sum(len(row.plan.targets) for row in rank_inputs)])
    dist.all_reduce(count)
    return int(count)


def cross_entropy(tokens: int) -> LossFunction:
    """The loss of supervised training: the mean over a step's supervised tokens of -log p.

    Args:
        tokens: number of supervised tokens over the rows of all ranks (`supervised_tokens`).

    Raises:
        ValueError: there are no supervised tokens.
    """
    if tokens < 1:
        raise ValueError(f"tokens is {tokens}: skip a step in which no rank has supervised tokens (supervised_tokens)")
    return lambda row, log_probs, entropies: -log_probs.sum() / tokens


def train_step(
    model: LongVideoModel,
    optimizer: Optimizer,
    rows: Iterable[RankInput | ChunkedInput],
    loss: LossFunction,
    *,
    max_norm: float | None = 1.0,
    temperature: float = 1.0,
    entropy: bool = False,
) -> StepResult:
    """Train one step on rows. Every rank must call it, with the same number of rows, at least one.

    After any error the gradients are cleared, so that another step can follow.

    Args:
        model: the model with sharded parameters, in training mode.
        optimizer: the optimizer of its trainable parameters.
        rows: this rank's inputs, consumed one at a time, so that a generator can prepare each when it is needed. The
            inputs of one step at the same place are of the same kind on all ranks.
        loss: a row's part of the loss on this rank, such as `cross_entropy`.
        max_norm: norm to which larger gradients are scaled down; None disables clipping.
        temperature, entropy: as in `LongVideoModel.forward`.

    Raises:
        ValueError: there are no rows. Nothing was changed.
        NotFinite: a loss or the gradient norm is not finite. Nothing was changed.
    """
    try:
        losses = add_gradients(model, rows, loss, temperature=temperature, entropy=entropy)
        if not losses:
            raise ValueError("rows is empty: every rank takes equally many, one without labels where it has none left")
        parameters = trainable_parameters(model).values()
        result = finite_step(losses, gradient_norm(parameters))
    except BaseException:  # also KeyboardInterrupt: the next step would add to the gradients that exist
        optimizer.zero_grad()
        raise
    if max_norm is not None:
        clip_gradients(parameters, result.grad_norm, max_norm)
    optimizer.step()
    optimizer.zero_grad()
    return result


def add_gradients(
    model: LongVideoModel,
    rows: Iterable[RankInput | ChunkedInput],
    loss: LossFunction,
    *,
    temperature: float = 1.0,
    entropy: bool = False,
) -> list[Tensor]:
    """Run the forward and backward pass of each row. Returns each row's part of the loss on this rank, a scalar."""
    losses = []
    for row in rows:
        if isinstance(row, ChunkedInput):
            parts = add_chunked_gradients(model, row, loss, temperature=temperature, entropy=entropy)
            losses.append(torch.stack(parts).sum())
            continue
        moved = row.to(model.parallel.device)
        part = loss(moved, *model(moved, temperature, entropy))
        part.backward()
        losses.append(part.detach())
    return losses


def finite_step(losses: Sequence[Tensor], grad_norm: Tensor) -> StepResult:
    """Sum the loss over all ranks and check that it and the gradient norm are finite. Every rank must call it.

    Args:
        losses: each row's part of the loss on this rank, scalars.
        grad_norm: result of `gradient_norm`.

    Raises:
        NotFinite: on every rank, if the loss or the norm is not finite.
    """
    per_row = torch.stack(list(losses))
    total = per_row.sum()
    dist.all_reduce(total)
    loss, norm = total.item(), grad_norm.item()
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise NotFinite(loss, norm, tuple((~per_row.isfinite()).nonzero()[:, 0].tolist()))
    return StepResult(loss, norm)


def trainable_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The trainable parameters by name, as this rank's shards."""
    trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if all(isinstance(parameter, DTensor) for parameter in trainable.values()):
        return trainable
    reshard(model)
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def adamw(
    model: nn.Module, learning_rate: float, weight_decay: float = 0.0, betas: tuple[float, float] = (0.9, 0.999)
) -> AdamW:
    """Create AdamW over the trainable parameters, with weight decay on matrices but not on norms and biases."""
    parameters = list(trainable_parameters(model).values())
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return AdamW([group for group in groups if group["params"]], lr=learning_rate, betas=betas, fused=True)


def gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """The 2-norm of all gradients over all shards, a scalar that is the same on all ranks. Every rank must call it."""
    parameters = [parameter for parameter in parameters if parameter.grad is not None]
    squares = [torch.zeros((), device=parameters[0].device if parameters else None)]
    squares += [norm.float() ** 2 for norm in torch._foreach_norm([_local(p.grad) for p in parameters])]
    total = torch.stack([square.to(squares[0].device) for square in squares]).sum()
    dist.all_reduce(total)
    return total.sqrt()


def clip_gradients(parameters: Iterable[nn.Parameter], norm: float, max_norm: float) -> None:
    """Scale all gradients in place so that their global norm `norm` is at most `max_norm`."""
    if norm > max_norm:
        torch._foreach_mul_([_local(p.grad) for p in parameters if p.grad is not None], max_norm / norm)


def _local(tensor: Tensor | None) -> Tensor:
    assert tensor is not None
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
