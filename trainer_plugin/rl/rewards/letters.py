"""A reward that a model of random weights can learn: the demo's, and an example of a reward in one file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def letters_reward(completions: Sequence[str], **_: Any) -> list[float]:
    """The share of each response's characters that are letters from a to z; 0 for an empty one."""
    return [sum("a" <= character <= "z" for character in text) / max(1, len(text)) for text in completions]
