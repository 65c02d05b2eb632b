"""Reinforcement learning on videos: prompts, sampling, rewards, advantages, and the loss of a policy update."""
