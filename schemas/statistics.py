"""Intervals of shares, which evaluations and reports give next to accuracies."""

from __future__ import annotations

import math

_Z = 1.959963984540054
"""Quantile of the normal distribution for 95 %, two-sided."""


def wilson_interval(right: float, count: int) -> tuple[float, float]:
    """Wilson's score interval of 95 % for a share (Wilson 1927, doi 10.2307/2276774).

    Args:
        right: number of right answers out of `count`. It is a fraction if every question counts with the mean of
            several answers; the interval is then an upper bound, because such means vary less than single answers.
        count: number of questions, at least 1.

    Returns:
        The lower and the upper limit, from 0 to 1.
    """
    share, square = right / count, _Z * _Z
    centre = (share + square / (2 * count)) / (1 + square / count)
    half = _Z / (1 + square / count) * math.sqrt(share * (1 - share) / count + square / (4 * count * count))
    return max(0.0, centre - half), min(1.0, centre + half)
