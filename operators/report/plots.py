"""Bars, histograms and timelines as inline SVG.

Widths are percentages and the text size is fixed, so that a plot is as readable on a phone as on a wide screen. Colours
are classes (`s0`, `s1`, ...) that the page's style sheet maps to its light or dark palette. All text passes through
`Markup.format`, which escapes it.

matplotlib writes SVG of a fixed width and fixed colours, and costs 75 MB and a hundred times the time
(`benchmarks/LOG.md`, 2026-11-30).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from markupsafe import Markup

from schemas.base import Span

_ROW = 40
"""Height of a row in pixels: label line, bar and gap."""
_BAR = 12
_PLOT = 150
_AXIS = 24
_HEADROOM = 18
_LEFT = 10.0
"""Width of a histogram's scale, in per cent of the plot."""
_GAP = 0.12
"""Gap between columns, as a share of a bin's width."""
_SLOTS = 7
"""Minimum number of column slots. Fewer columns are centred and keep the width of one slot."""


@dataclass(frozen=True)
class Bar:
    """A labelled horizontal bar with one part per series. `mark` sets a tick, such as an expected value."""

    label: str
    parts: tuple[float, ...]
    note: str = ""
    mark: float | None = None


@dataclass(frozen=True)
class Histogram:
    """Counts per bin, one tuple per series, drawn stacked. `edges` has one entry more than there are bins."""

    edges: tuple[float, ...]
    counts: tuple[tuple[int, ...], ...]
    ticks: tuple[str, ...]
    """Text under each edge, or under each column if there is one per bin. Empty texts are not drawn."""


def bars(title: str, description: str, rows: Sequence[Bar], full: float | None = None) -> Markup:
    """Draw horizontal bars, each under its label. `full` is the value of the whole width, by default the largest."""
    scale = full or max((max(sum(row.parts), row.mark or 0.0) for row in rows), default=0.0) or 1.0
    drawn = [_bar(row, index * _ROW, scale) for index, row in enumerate(rows)]
    return _svg(title, description, _ROW * len(rows), drawn)


def columns(title: str, description: str, histogram: Histogram) -> Markup:
    """Draw vertical columns side by side, with up to two grid lines, at the top of the scale and at half of it."""
    totals = [sum(parts) for parts in zip(*histogram.counts, strict=True)]
    top = _round_up(max(totals, default=0))
    drawn = [_grid(value, top) for value in (top / 2, top) if value == int(value)]
    slots = max(_SLOTS, len(totals))
    width = (100 - _LEFT) / slots
    left = _LEFT + width * (slots - len(totals)) / 2
    for index, parts in enumerate(zip(*histogram.counts, strict=True)):
        drawn += _column(parts, left + index * width, width, top)
    shift = 0.5 if len(histogram.ticks) == len(totals) else 0.0
    drawn += [_tick(text, left + (index + shift) * width) for index, text in enumerate(histogram.ticks) if text]
    axis = Markup('<line class="axis" x1="{0}%" x2="100%" y1="{1}" y2="{1}"/>')
    drawn.append(axis.format(_LEFT, _HEADROOM + _PLOT))
    return _svg(title, description, _HEADROOM + _PLOT + _AXIS, drawn)


def timeline(title: str, description: str, duration_us: int, spans: Sequence[Span]) -> Markup:
    """Draw a video as a bar with spans on it. A span is drawn at least three pixels wide, so that it stays visible."""
    drawn = [Markup('<rect class="track" x="0" y="2" width="100%" height="{}" rx="3"/>').format(_BAR)]
    for span in spans:
        start, length = 100 * span.start_us / duration_us, 100 * (span.end_us - span.start_us) / duration_us
        drawn.append(Markup('<rect class="span" x="{:.3f}%" y="2" width="{:.3f}%" height="12"/>').format(start, length))
        drawn.append(Markup('<rect class="span" x="{:.3f}%" y="2" width="3" height="12"/>').format(min(start, 99.0)))
    return _svg(title, description, _BAR + 4, drawn)


def histogram(series: Iterable[np.ndarray], wished_bins: int = 24) -> Histogram:
    """Count values in bins of a round width, starting at zero. `wished_bins` is the approximate number of bins."""
    arrays = [np.asarray(values, dtype=float) for values in series]
    longest = max((float(values.max()) for values in arrays if len(values)), default=1.0)
    width = _round_step(longest / wished_bins)
    edges = np.arange(math.floor(longest / width) + 2) * width
    counts = tuple(tuple(int(count) for count in np.histogram(values, edges)[0]) for values in arrays)
    every = max(1, -(-(len(edges) - 1) // 6))
    ticks = tuple(f"{edge:g}" if index % every == 0 else "" for index, edge in enumerate(np.round(edges, 9)))
    return Histogram(tuple(float(edge) for edge in edges), counts, ticks)


def tally(values: Iterable[int]) -> Histogram:
    """Count values with one column per whole number from the smallest value to the largest."""
    found = np.fromiter(values, dtype=int)
    first, last = (int(found.min()), int(found.max())) if len(found) else (0, 0)
    counts = tuple(int(count) for count in np.bincount(found - first, minlength=1)) if len(found) else (0,)
    every = max(1, -(-len(counts) // 12))
    ticks = tuple(str(first + index) if index % every == 0 else "" for index in range(len(counts)))
    return Histogram(tuple(float(edge) for edge in range(first, last + 2)), (counts,), ticks)


def bin_labels(shape: Histogram) -> list[str]:
    """Label of each bin, for tables."""
    if len(shape.ticks) == len(shape.edges):
        return [f"{start:g} to {end:g}" for start, end in pairwise(np.round(shape.edges, 9))]
    return [f"{edge:g}" for edge in shape.edges[:-1]]


def _svg(title: str, description: str, height: float, drawn: Iterable[Markup]) -> Markup:
    head = Markup('<svg class="plot" role="img" width="100%" height="{}"><title>{}</title><desc>{}</desc>')
    return head.format(height, title, description) + Markup("").join(drawn) + Markup("</svg>")


def _bar(row: Bar, top: int, scale: float) -> Markup:
    drawn = [
        Markup('<text x="0" y="{}">{}</text>').format(top + 14, row.label),
        Markup('<text class="note" x="100%" y="{}" text-anchor="end">{}</text>').format(top + 14, row.note),
        Markup('<rect class="track" x="0" y="{}" width="100%" height="{}" rx="3"/>').format(top + 20, _BAR),
    ]
    start = 0.0
    for series, value in enumerate(row.parts):
        width = min(100 * value / scale, 100 - start)
        shape = Markup('<rect class="s{}" x="{:.3f}%" y="{}" width="{:.3f}%" height="{}" rx="2"/>')
        drawn += [shape.format(series, start, top + 20, width, _BAR)] if value > 0 else []
        start += width
    if row.mark is not None:
        tick = Markup('<line class="mark" x1="{0:.3f}%" x2="{0:.3f}%" y1="{1}" y2="{2}"/>')
        drawn.append(tick.format(min(100.0, 100 * row.mark / scale), top + 18, top + 22 + _BAR))
    return Markup("").join(drawn)


def _column(parts: Sequence[int], left: float, width: float, top: float) -> list[Markup]:
    drawn = []
    base = float(_HEADROOM + _PLOT)
    for series, value in enumerate(parts):
        height = _PLOT * value / top
        base -= height
        shape = Markup('<rect class="s{}" x="{:.3f}%" y="{:.2f}" width="{:.3f}%" height="{:.2f}"/>')
        drawn += [shape.format(series, left + width * _GAP / 2, base, width * (1 - _GAP), height)] if value else []
    return drawn


def _grid(value: float, top: float) -> Markup:
    y = _HEADROOM + _PLOT * (1 - value / top)
    line = Markup('<line class="grid" x1="{0}%" x2="100%" y1="{1:.1f}" y2="{1:.1f}"/>').format(_LEFT, y)
    text = Markup('<text class="note" x="{}%" y="{:.1f}" text-anchor="end">{}</text>')
    return line + text.format(_LEFT - 1.5, y + 4, _short(value))


def _tick(text: str, x: float) -> Markup:
    anchor = "end" if x > 98 else "middle"
    place = Markup('<text class="note" x="{:.3f}%" y="{}" text-anchor="{}">{}</text>')
    return place.format(x, _HEADROOM + _PLOT + 17, anchor, text)


def _round_up(value: float) -> float:
    """A round value for the top of the scale, at least `value` and at least 2, whose half is round as well."""
    if value <= 2:
        return 2.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(round(step * power) for step in (1, 1.2, 1.6, 2, 3, 4, 5, 6, 8, 10) if step * power >= value)


def _short(value: float) -> str:
    for unit, suffix in ((1e6, "M"), (1e3, "K")):
        if value >= unit:
            return f"{value / unit:g}{suffix}"
    return f"{value:g}"


def _round_step(value: float) -> float:
    power = 10.0 ** math.floor(math.log10(value)) if value > 0 else 1.0
    return next((step * power for step in (1, 2, 5, 10) if step * power >= value), 10 * power)
