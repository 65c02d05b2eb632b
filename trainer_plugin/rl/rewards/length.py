"""The length reward: DAPO's soft overlong punishment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from trainer_plugin.rl.losses import soft_overlong_punishment


@dataclass(frozen=True)
class SoftOverlong:
    """0 for short responses, falling to -1 at the length limit (`losses.soft_overlong_punishment`)."""

    max_length: int
    """The length limit, in tokens."""
    buffer: int
    """Length of the slope, in tokens, in [1, max_length]."""

    def __post_init__(self) -> None:
        self([])  # rejects a buffer outside its range

    def __call__(self, completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float]:
        """One value per response, in [-1, 0]."""
        lengths = torch.tensor([len(ids) for ids in completion_ids], dtype=torch.int64)
        values: list[float] = soft_overlong_punishment(lengths, max_length=self.max_length, buffer=self.buffer).tolist()
        return values
