"""Conversion between a stream's timestamps (PTS) and times: integer microseconds from the first presented frame."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import overload

import numpy as np
from numpy.typing import NDArray

SECOND_US = 1_000_000


@dataclass(frozen=True)
class StreamClock:
    """Exact conversion between a stream's timestamps and microseconds from its first presented frame."""

    time_base: Fraction
    first_pts: int

    @overload
    def microseconds(self, pts: int) -> int: ...
    @overload
    def microseconds(self, pts: NDArray[np.int64]) -> NDArray[np.int64]: ...
    def microseconds(self, pts: int | NDArray[np.int64]) -> int | NDArray[np.int64]:
        """Times of timestamps in microseconds, rounded to the nearest (halves up). Arrays keep their shape."""
        ticks = self.time_base.denominator
        seconds, rest = divmod((pts - self.first_pts) * self.time_base.numerator, ticks)
        return seconds * SECOND_US + (2 * rest * SECOND_US + ticks) // (2 * ticks)

    def pts(self, time_us: int) -> int:
        """The first timestamp whose time is `time_us` or later.

        Frames with this timestamp or a later one are exactly the frames from `time_us` on.
        """
        us_per_pts = self.time_base * SECOND_US
        return self.first_pts - ((1 - 2 * time_us) * us_per_pts.denominator) // (2 * us_per_pts.numerator)

    def seconds(self, time_us: int) -> float:
        """Convert a time to seconds on the container's own clock, which all streams share."""
        return float(self.first_pts * self.time_base) + time_us / SECOND_US
