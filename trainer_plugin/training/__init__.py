"""One training run: weights, steps, checkpoints, metrics and export."""
