"""Rewards of responses: the built-in functions, users' own from one file, and running several of them."""
