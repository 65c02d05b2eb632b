"""Divides a video's timeline into clips, by arithmetic on microseconds without any I/O.

Guarantees for any shots: clips tile `[0, duration)` without gap or overlap. They end where the picture format changes,
except where it changes twice within a second. The part between two such changes is planned like a separate video. With
`shots`, the following also holds for each of these parts:

- Every length lies in `[min, max]` if the duration can be written as a sum of such lengths. Otherwise the part is one
  clip.
- No clip ends inside a shot if a plan without such ends exists. Otherwise an over-long stretch is divided evenly, and
  no shot boundary inside it allows clips to end on both sides.
- The plan is the best of these: it has the fewest ends inside shots, then the least cost by `_Bounds.cost` and
  `plan_clips`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from schemas.config import ClipMode, SplitConfig
from schemas.tables import Boundary
from schemas.video.clock import SECOND_US

SHORTEST_FORMAT_US = SECOND_US
"""Shortest format with a clip of its own. A shorter one shares a clip with the next format, and the last one with the
previous format. A recorded call may change its picture with every frame while it searches for a suitable rate."""


@dataclass(frozen=True)
class ClipSpan:
    """A planned clip, `[start_us, end_us)`, and why it ends there."""

    start_us: int
    end_us: int
    boundary: Boundary
    shot_starts_us: tuple[int, ...]
    """Shot starts within the clip."""


def plan_clips(
    duration_us: int,
    shot_starts_us: Sequence[int],
    config: SplitConfig,
    visual_distance: Sequence[float] | None = None,
    format_starts_us: Sequence[int] = (0,),
) -> list[ClipSpan]:
    """Plan the clips of a video.

    Args:
        duration_us: duration of the video.
        shot_starts_us: ascending, the first 0.
        config: clip mode and lengths.
        visual_distance: visual distance across each shot start except the first, 0 to 1 (see
            `operators.video.analysis.analysis.Analysis.shot_boundary_distance`). An end between similar pictures (0)
            costs as much as a clip of the shortest or longest length, so that a short shot joins the neighbour that it
            resembles, as in Panda-70M (arXiv:2402.19479). None means that only lengths matter.
        format_starts_us: start times of the picture formats, ascending, the first 0.
    """
    target_us = round(config.clip_seconds * SECOND_US)
    bounds = _Bounds(round(config.min_seconds * SECOND_US), target_us, round(config.max_seconds * SECOND_US))
    shots: dict[int, float] = {}
    if config.mode is not ClipMode.FIXED:
        inner = shot_starts_us[1:]
        shots = dict(zip(inner, [1.0] * len(inner) if visual_distance is None else visual_distance, strict=True))
    format_ends = _format_ends(duration_us, format_starts_us)
    ends: list[int] = []
    for start_us, end_us in pairwise([0, *format_ends]):
        length = end_us - start_us
        if config.mode is ClipMode.FIXED:
            ends_in_part = _fixed_ends(length, target_us)
        else:
            within = {shot - start_us: distance for shot, distance in shots.items() if start_us < shot < end_us}
            ends_in_part = _shot_ends(length, within, bounds)
        ends += [start_us + end for end in ends_in_part]

    def boundary_at(end_us: int) -> Boundary:
        if end_us == duration_us:
            return Boundary.END
        if end_us in format_ends:
            return Boundary.FORMAT
        return Boundary.SHOT if end_us in shots else Boundary.FIXED

    def shots_in(start_us: int, end_us: int) -> tuple[int, ...]:
        first, beyond = (bisect_left(shot_starts_us, time_us) for time_us in (start_us, end_us))
        return tuple(shot_starts_us[first:beyond])

    return [ClipSpan(start, end, boundary_at(end), shots_in(start, end)) for start, end in pairwise([0, *ends])]


@dataclass(frozen=True)
class _Bounds:
    """Shortest, target and longest clip length in microseconds.

    `SplitConfig` ensures `longest >= 1.5 * shortest`.
    """

    shortest: int
    target: int
    longest: int

    def divisible(self, length: int) -> bool:
        """Whether a stretch of this length can be divided into clips within the bounds.

        n clips cover `[n * shortest, n * longest]`. From n = 2 on these ranges overlap. A length that cannot be divided
        is therefore shorter than one clip, or longer than one and shorter than two.
        """
        return self.shortest <= length <= self.longest or length >= 2 * self.shortest

    def pieces(self, length: int) -> int:
        """Number of clips for a divisible stretch.

        It is one if possible, else the number that brings the clip length nearest to the target within the bounds.
        """
        if length <= self.longest:
            return 1
        fewest, most = -(-length // self.longest), length // self.shortest
        return min(most, max(fewest, round(length / self.target)))

    def cost(self, length: float) -> float:
        """Cost of a clip: 0 at the target length, 1 at the shortest and the longest, quadratic in between."""
        if length == self.target:
            return 0.0
        farthest = self.shortest if length < self.target else self.longest
        return ((length - self.target) / (farthest - self.target)) ** 2


class _Best(NamedTuple):
    """The best plan whose clips end at a given shot boundary. Plans are compared by their first two fields."""

    inside: int
    """Number of ends inside shots."""
    cost: float
    start_us: int
    """Start of the last stretch, at a shot boundary. The stretch is divided evenly into `pieces` clips."""
    pieces: int


def _format_ends(duration_us: int, format_starts_us: Sequence[int]) -> list[int]:
    """End times of the formats that are long enough; the last is the end of the video."""
    ends: list[int] = []
    for start_us in format_starts_us:
        lasted_us = start_us - (ends[-1] if ends else 0)
        if min(lasted_us, duration_us - start_us) >= SHORTEST_FORMAT_US:
            ends.append(start_us)
    return [*ends, duration_us]


def _fixed_ends(duration_us: int, target_us: int) -> list[int]:
    ends = list(range(target_us, duration_us, target_us))
    if ends and 2 * (duration_us - ends[-1]) < target_us:
        ends.pop()
    return [*ends, duration_us]


def _shot_ends(duration_us: int, visual_distance: Mapping[int, float], bounds: _Bounds) -> list[int]:
    """End times of the best plan, by dynamic programming over shot boundaries from left to right.

    A plan always exists: the whole video as one stretch, split at usable boundaries as long as there are any.
    """
    if not bounds.divisible(duration_us):
        return [duration_us]
    edges = [0, *(shot for shot in sorted(visual_distance) if 0 < shot < duration_us), duration_us]
    best = {0: _Best(0, 0.0, 0, 0)}
    for start_us in edges[:-1]:
        if start_us not in best:
            continue
        inside_before, cost_before = best[start_us][:2]
        for end_us, pieces in _stretches(start_us, edges, bounds):
            inside = inside_before + pieces - 1
            cost = cost_before + pieces * bounds.cost((end_us - start_us) / pieces)
            if end_us != duration_us:
                cost += 1 - visual_distance[end_us]
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
    """Yield the possible ends of a stretch that starts at this edge, and the number of clips for each.

    A stretch of several clips must have no usable boundary inside. A length of two shortest clips is always divisible.
    A stretch that ends at least that far beyond the nearest possible end therefore has a usable boundary inside, and
    the search stops there.
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
