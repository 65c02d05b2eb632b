"""Compares shot boundaries with the true ones or with another detector's. Only benchmarks use it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Agreement:
    """Result of matching boundaries with transitions."""

    found: tuple[bool, ...]
    """For each true transition: whether a boundary matched it."""
    right: tuple[bool, ...]
    """For each boundary: whether it matched a transition."""


def agreement(boundaries_us: Sequence[int], transitions_us: Sequence[tuple[int, int]], tolerance_us: int) -> Agreement:
    """Match each transition with at most one boundary, and each boundary with at most one transition.

    Args:
        boundaries_us: ascending shot start times, without the video's own start.
        transitions_us: ascending and disjoint. Each goes from the first frame that is not purely the shot before to the
            first that is purely the shot after. The two are equal for a hard cut.
        tolerance_us: how far outside a transition its boundary may lie.
    """
    found = [False] * len(transitions_us)
    right = [False] * len(boundaries_us)
    unseen = 0
    for number, (start_us, end_us) in enumerate(transitions_us):
        while unseen < len(boundaries_us) and boundaries_us[unseen] < start_us - tolerance_us:
            unseen += 1
        if unseen < len(boundaries_us) and boundaries_us[unseen] <= end_us + tolerance_us:
            found[number] = right[unseen] = True
            unseen += 1
    return Agreement(tuple(found), tuple(right))


@dataclass(frozen=True)
class Score:
    """Match counts that can be summed over videos, with precision, recall and F1."""

    found: int = 0
    missed: int = 0
    false: int = 0

    def __add__(self, other: Score) -> Score:
        return Score(self.found + other.found, self.missed + other.missed, self.false + other.false)

    @property
    def precision(self) -> float:
        """Share of the boundaries that are right; 1 when there are none."""
        return self.found / (self.found + self.false) if self.found + self.false else 1.0

    @property
    def recall(self) -> float:
        """Share of the transitions that were found; 1 when there are none."""
        return self.found / (self.found + self.missed) if self.found + self.missed else 1.0

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; 1 when there is nothing to find and nothing was found."""
        total = 2 * self.found + self.missed + self.false
        return 2 * self.found / total if total else 1.0
