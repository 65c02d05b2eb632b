"""Divides a video's timeline into clips. Pure arithmetic on microseconds; nothing is read or written.

Guarantees, whatever the shots are: clips tile `[0, duration)` without gap or overlap, and end where the picture's
format changes, unless it does so twice within a second. What lies between two such changes is planned like a video of
its own. With `shots` moreover, of each of these videos,

- every length lies in `[min, max]` as soon as the duration can be written as a sum of such lengths (else the video is
  one clip);
- no clip ends inside a shot if there is a plan of which that is true; where there is none, an over-long stretch is
  divided evenly, and no shot boundary in it is one at which clips could end on both sides;
- among such plans, it is the best: fewest ends inside shots, then least cost as `_Bounds.cost` and `plan_clips` say.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from operators.video.packets import SECOND_US
from schemas.config import ClipMode, SplitConfig
from schemas.tables import Boundary

SHORTEST_FORMAT_US = SECOND_US
"""A format that lasts less long shares a clip with what follows it, the last with what precedes it. A recorded call may
change its picture with every frame while it looks for a rate."""


@dataclass(frozen=True)
class ClipSpan:
    """One clip of the plan, `[start_us, end_us)`, and why it ends where it ends."""

    start_us: int
    end_us: int
    boundary: Boundary
    shot_starts_us: tuple[int, ...]
    """Where shots begin within it."""


def plan_clips(
    duration_us: int,
    shot_starts_us: Sequence[int],
    config: SplitConfig,
    unlikeness: Sequence[float] | None = None,
    format_starts_us: Sequence[int] = (0,),
) -> list[ClipSpan]:
    """The clips of a video of this length.

    Args:
        shot_starts_us: ascending, the first 0.
        unlikeness: how different the pictures before and after each shot start but the first look, 0 to 1 (see
            `operators.video.analysis.Analysis.shot_unlikeness`). A clip's end between look-alikes (0) costs as much as
            a clip of the least or greatest length, so that a short shot goes with the neighbour it looks like, as in
            Panda-70M (arXiv:2402.19479). None means that only lengths matter.
        format_starts_us: where the picture's format changes, ascending, the first 0.
    """
    wish_us = round(config.clip_seconds * SECOND_US)
    bounds = _Bounds(round(config.min_seconds * SECOND_US), wish_us, round(config.max_seconds * SECOND_US))
    shots: dict[int, float] = {}
    if config.mode is not ClipMode.FIXED:
        inner = shot_starts_us[1:]
        shots = dict(zip(inner, [1.0] * len(inner) if unlikeness is None else unlikeness, strict=True))
    format_ends = _format_ends(duration_us, format_starts_us)
    ends: list[int] = []
    for start_us, end_us in pairwise([0, *format_ends]):
        length = end_us - start_us
        if config.mode is ClipMode.FIXED:
            planned = _fixed_ends(length, wish_us)
        else:
            within = {shot - start_us: unlike for shot, unlike in shots.items() if start_us < shot < end_us}
            planned = _shot_ends(length, within, bounds)
        ends += [start_us + end for end in planned]

    def kind(end_us: int) -> Boundary:
        if end_us == duration_us:
            return Boundary.END
        if end_us in format_ends:
            return Boundary.FORMAT
        return Boundary.SHOT if end_us in shots else Boundary.FIXED

    def shots_in(start_us: int, end_us: int) -> tuple[int, ...]:
        first, beyond = (bisect_left(shot_starts_us, time_us) for time_us in (start_us, end_us))
        return tuple(shot_starts_us[first:beyond])

    return [ClipSpan(start, end, kind(end), shots_in(start, end)) for start, end in pairwise([0, *ends])]


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

    def pieces(self, length: int) -> int:
        """How many clips a divisible stretch makes: one if that may be, else so many that they are near the wish."""
        if length <= self.longest:
            return 1
        fewest, most = -(-length // self.longest), length // self.shortest
        return min(most, max(fewest, round(length / self.wish)))

    def cost(self, length: float) -> float:
        """0 for a clip of the wished length, 1 for the shortest and the longest, growing with the square between."""
        if length == self.wish:
            return 0.0
        farthest = self.shortest if length < self.wish else self.longest
        return ((length - self.wish) / (farthest - self.wish)) ** 2


class _Best(NamedTuple):
    """The best way to clips that end at some shot boundary; plans compare by their first two fields."""

    inside: int
    """Ends inside shots."""
    cost: float
    start_us: int
    """The stretch that ends here, from a shot boundary on, is divided evenly into this many clips."""
    pieces: int


def _format_ends(duration_us: int, format_starts_us: Sequence[int]) -> list[int]:
    """Where formats of some length end, the last with the video."""
    ends: list[int] = []
    for start_us in format_starts_us:
        lasted_us = start_us - (ends[-1] if ends else 0)
        if min(lasted_us, duration_us - start_us) >= SHORTEST_FORMAT_US:
            ends.append(start_us)
    return [*ends, duration_us]


def _fixed_ends(duration_us: int, wish_us: int) -> list[int]:
    ends = list(range(wish_us, duration_us, wish_us))
    if ends and 2 * (duration_us - ends[-1]) < wish_us:
        ends.pop()
    return [*ends, duration_us]


def _shot_ends(duration_us: int, unlikeness: Mapping[int, float], bounds: _Bounds) -> list[int]:
    """The best plan's ends, by dynamic programming over shot boundaries from left to right.

    A plan always exists: the whole video as one stretch is one, split at usable boundaries as long as there are any.
    """
    if not bounds.divisible(duration_us):
        return [duration_us]
    edges = [0, *(shot for shot in sorted(unlikeness) if 0 < shot < duration_us), duration_us]
    best = {0: _Best(0, 0.0, 0, 0)}
    for start_us in edges[:-1]:
        if start_us not in best:
            continue
        inside_before, cost_before = best[start_us][:2]
        for end_us, pieces in _stretches(start_us, edges, bounds):
            inside = inside_before + pieces - 1
            cost = cost_before + pieces * bounds.cost((end_us - start_us) / pieces)
            if end_us != duration_us:
                cost += 1 - unlikeness[end_us]
            if end_us not in best or (inside, cost) < best[end_us][:2]:
                best[end_us] = _Best(inside, cost, start_us, pieces)
    ends: list[int] = []
    end_us = duration_us
    while end_us:
        plan = best[end_us]
        length = end_us - plan.start_us
        ends += [plan.start_us + length * piece // plan.pieces for piece in range(plan.pieces, 0, -1)]
        end_us = plan.start_us
    return ends[::-1]


def _stretches(start_us: int, edges: Sequence[int], bounds: _Bounds) -> Iterator[tuple[int, int]]:
    """Where a stretch that starts at this edge may end, and into how many clips it is to be divided.

    A stretch of several clips must have no usable boundary inside. Two shortest clips' length is always divisible, so
    that far beyond the nearest possible end every stretch has one, and the search stops there.
    """
    first = bisect_left(edges, start_us + bounds.shortest)
    while first < len(edges) and not bounds.divisible(edges[first] - start_us):
        first += 1
    if first == len(edges):
        return
    beyond = bisect_left(edges, max(edges[first] + 2 * bounds.shortest, start_us + bounds.longest + 1))
    reached = [edge for edge in edges[first:beyond] if bounds.divisible(edge - start_us)]
    for end_us in reached:
        pieces = bounds.pieces(end_us - start_us)
        usable_from = bisect_left(reached, end_us - bounds.longest)
        if pieces == 1 or reached[usable_from] > end_us - bounds.shortest:
            yield end_us, pieces
