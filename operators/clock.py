"""Times and spans of a video in words, as people write them."""

from __future__ import annotations

from schemas.base import Span


def clock(time_us: int) -> str:
    """A time as mm:ss, from one hour on h:mm:ss, rounded down to the second."""
    minutes, seconds = divmod(time_us // 1_000_000, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes:02d}:{seconds:02d}"


def clock_span(span: Span) -> str:
    return f"{clock(span.start_us)}–{clock(span.end_us)}"
