"""Checks of questions over the whole dataset: duplicates across videos, evaluation lists, and the longest option."""
