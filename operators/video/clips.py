"""Divides a video's timeline into clips. Pure arithmetic on microseconds; nothing is read or written.

Guarantees, whatever the shots are: clips tile `[0, duration)` without gap or overlap; with `shots`, every length lies
in `[min, max]` as soon as the duration can be written as a sum of such lengths (else the video is one clip), and a clip
ends on a shot boundary or the video's end whenever one lies where it may end.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from operators.video.packets import SECOND_US
from schemas.config import ClipMode, SplitConfig
from schemas.tables import Boundary


@dataclass(frozen=True)
class ClipSpan:
    """One clip of the plan, `[start_us, end_us)`, and why it ends where it ends."""

    start_us: int
    end_us: int
    boundary: Boundary


def plan_clips(duration_us: int, shot_starts_us: Sequence[int], config: SplitConfig) -> list[ClipSpan]:
    """The clips of a video of this length whose shots start at these (ascending) times."""
    wish_us = round(config.clip_seconds * SECOND_US)
    if config.mode is ClipMode.FIXED:
        ends = _fixed_ends(duration_us, wish_us)
        shots: frozenset[int] = frozenset()
    else:
        bounds = _Bounds(round(config.min_seconds * SECOND_US), wish_us, round(config.max_seconds * SECOND_US))
        ends = _shot_ends(duration_us, shot_starts_us, bounds)
        shots = frozenset(shot_starts_us)

    def kind(end_us: int) -> Boundary:
        if end_us == duration_us:
            return Boundary.END
        return Boundary.SHOT if end_us in shots else Boundary.FIXED

    return [ClipSpan(start, end, kind(end)) for start, end in pairwise([0, *ends])]


@dataclass(frozen=True)
class _Bounds:
    """Shortest, wished and longest clip, in microseconds. `longest >= 1.5 * shortest` (SplitConfig sees to it)."""

    shortest: int
    wish: int
    longest: int

    def divisible(self, length: int) -> bool:
        """Can a stretch of this length be divided into clips within the bounds?

        n clips cover `[n * shortest, n * longest]`. From two clips on these ranges overlap, so that what cannot be
        divided is shorter than one clip, or longer than one and shorter than two.
        """
        return self.shortest <= length <= self.longest or length >= 2 * self.shortest

    def even_piece(self, length: int) -> int:
        """Length of the pieces when a divisible stretch is divided evenly, as near to the wish as bounds allow."""
        fewest, most = -(-length // self.longest), length // self.shortest
        return length // min(most, max(fewest, round(length / self.wish)))


def _fixed_ends(duration_us: int, wish_us: int) -> list[int]:
    ends = list(range(wish_us, duration_us, wish_us))
    if ends and 2 * (duration_us - ends[-1]) < wish_us:
        ends.pop()
    return [*ends, duration_us]


def _shot_ends(duration_us: int, shot_starts_us: Sequence[int], bounds: _Bounds) -> list[int]:
    """Ends chosen from left to right, each so that what remains can still be divided."""
    if not bounds.divisible(duration_us):
        return [duration_us]
    inner = shot_starts_us[bisect_right(shot_starts_us, 0) : bisect_left(shot_starts_us, duration_us)]
    allowed = [shot for shot in inner if bounds.divisible(duration_us - shot)] + [duration_us]
    ends = [0]
    while ends[-1] < duration_us:
        ends.append(_next_end(ends[-1], duration_us, allowed, bounds))
    return ends[1:]


def _next_end(start_us: int, duration_us: int, allowed: Sequence[int], bounds: _Bounds) -> int:
    """The allowed boundary in reach that is nearest to the wish; without one, a piece of the way to the next."""
    first = bisect_left(allowed, start_us + bounds.shortest)
    beyond = bisect_right(allowed, start_us + bounds.longest)
    if first < beyond:
        return min(allowed[first:beyond], key=lambda end: abs(end - start_us - bounds.wish))
    target = next(end for end in allowed[beyond:] if bounds.divisible(end - start_us))
    return start_us + bounds.even_piece(target - start_us)
