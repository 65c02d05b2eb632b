"""Reinforcement learning: advantages, losses and rollout correction as pure functions of tensors."""
