"""Reinforcement learning on videos: advantages, losses, rollout correction and rewards."""
