"""MLPs computed in tiles of tokens, as in Arctic Long Sequence Training (TiledMLP; arXiv:2506.13996).

An MLP's backward pass needs the widest tensors of a decoder: several tensors of `intermediate_size` for every token.
With tiles they exist for one tile at a time. The cost is one more forward pass of each tile in the backward pass.
Activation checkpointing of the whole layer costs the same, except for the MLP's last product.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Forward = Callable[[Tensor], Tensor]


def tile(module: nn.Module, tokens: int, forward: Forward | None = None) -> None:
    """Replace a module's forward by one that processes at most `tokens` tokens at a time, in place.

    Gradients are exact. Gradients of weights are summed over tiles in float32. Parameters and their names do not
    change. The module must not use random numbers.

    Args:
        module: maps [..., tokens, hidden] to the same shape, each token independently of the others.
        tokens: maximum number of tokens in a tile.
        forward: function that computes a tile; None for `module.forward`.
    """
    module.forward = _Tiled(module, forward or module.forward, tokens)


class _Tiled:
    def __init__(self, module: nn.Module, forward: Forward, tokens: int) -> None:
        self.module = module
        self.compute = forward
        self.tokens = tokens

    def __call__(self, hidden: Tensor) -> Tensor:
        if hidden.shape[-2] <= self.tokens:
            return self.compute(hidden)
        trainable = [parameter for parameter in self.module.parameters() if parameter.requires_grad]
        # If nothing before the module is trainable, its input is not in the graph. This adds it to the graph.
        hidden = _Keep.apply(hidden, torch.empty(0, requires_grad=True))
        result: Tensor = _InTiles.apply(hidden, hidden.grad_fn, self, *trainable)
        return result

    def split(self, tensor: Tensor) -> tuple[Tensor, ...]:
        """Split a tensor [..., tokens, hidden] into views of almost equal size."""
        return tensor.tensor_split(math.ceil(tensor.shape[-2] / self.tokens), dim=-2)


class _Keep(torch.autograd.Function):
    """Identity that saves the tiles' input before the tiles are computed.

    Recomputation of the enclosing layer stops at the last tensor that the layer has saved. It therefore does not
    compute the tiles, which recompute themselves in their own backward pass.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, _: Tensor) -> Tensor:
        ctx.save_for_backward(hidden)
        return hidden.view_as(hidden)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


class _InTiles(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, kept: Any, tiled: _Tiled, *trainable: Tensor) -> Tensor:
        ctx.kept, ctx.tiled, ctx.trainable = kept, tiled, trainable
        result = torch.empty_like(hidden)
        for tile, place in zip(tiled.split(hidden), tiled.split(result), strict=True):
            place.copy_(tiled.compute(tile))
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        tiled, trainable = ctx.tiled, ctx.trainable
        [hidden] = ctx.kept.saved_tensors
        hidden_grad = torch.empty_like(hidden)
        sums = [torch.zeros_like(each, dtype=torch.promote_types(each.dtype, torch.float32)) for each in trainable]
        for tile, tile_grad, place in zip(*map(tiled.split, (hidden, grad, hidden_grad)), strict=True):
            tile = tile.detach().requires_grad_()
            with torch.enable_grad():
                result = tiled.compute(tile)
            found, *weights = torch.autograd.grad(result, (tile, *trainable), tile_grad)
            place.copy_(found)
            for total, weight in zip(sums, weights, strict=True):
                total += weight
        return hidden_grad, None, None, *(total.to(each.dtype) for total, each in zip(sums, trainable, strict=True))
