"""Formats times and time spans of a video for readers."""

from __future__ import annotations

from schemas.base import Span


def format_time(time_us: int) -> str:
    """Format a time in microseconds as mm:ss, or as h:mm:ss from one hour on, rounded down to the second."""
    minutes, seconds = divmod(time_us // 1_000_000, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes:02d}:{seconds:02d}"


def format_span(span: Span) -> str:
    """Format a span as its start and end time, joined by an en dash."""
    return f"{format_time(span.start_us)}–{format_time(span.end_us)}"
