"""Differentiable operations: attention, log-probabilities, tiling and offloading."""
