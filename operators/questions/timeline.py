"""The on-screen texts of a whole video, in order, from the sampled readings of its captions.

Texts are read at single moments ("looks"), not in every frame. What is known of an occurrence is therefore an interval
for its start and one for its end, and both are kept: `derive` asks only what holds for every value inside them. A text
or a pause shorter than two looks' distance cannot be seen and is not accounted for.

Readings of one text in neighbouring clips become one occurrence. Whether a question may be asked about it is for
`derive` to say.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from schemas.base import Box, Region, Span
from schemas.tables import Caption, ScreenText

PAUSE_US = 3_000_000
"""A text not read for longer than this has gone; for less, it may be a reader's miss or a short pause."""
_BORDER = 0.04
"""A box's middle this near to a line between two ninths of the frame (fraction of a side) is in neither for certain."""

_BETWEEN_LETTERS = r"(?<=[^\W\d_]){}(?=[^\W\d_])"
_MISREAD = {"0": "o", "1": "i", "5": "s", "8": "b"}
"""Digits that readers see inside words (N0RA, HARB0UR)."""


@dataclass(frozen=True)
class Occurrence:
    """One showing of a text, with the limits between which it really began and ended."""

    text: str
    """The reading with the highest score."""
    key: str
    """`text_key` of the text."""
    start_us: int
    end_us: int
    """As measured: right to within half the distance between looks."""
    earliest_start_us: int
    """The last look before it: not there yet. The timeline's start when there is none."""
    latest_start_us: int
    """The first look that showed it."""
    earliest_end_us: int
    """The last look that showed it."""
    latest_end_us: int
    """The first look after it: not there any more. The timeline's end when there is none."""
    start_seen: bool
    """Some look came before it: else it may have been there since any time."""
    end_seen: bool
    """Some look came after it: else it may have stayed for any time."""
    score: float
    """Mean confidence of its readings."""
    region: Region | None
    """None when it moved, was seen in several places at once, or stood on a line between two regions."""
    continuous: bool
    """Read at every look between the first and the last."""

    @property
    def span(self) -> Span:
        return Span(start_us=self.start_us, end_us=self.end_us)

    @property
    def duration_us(self) -> int:
        return self.end_us - self.start_us

    @property
    def shortest_us(self) -> int:
        return self.earliest_end_us - self.latest_start_us

    @property
    def longest_us(self) -> int:
        return self.latest_end_us - self.earliest_start_us


@dataclass(frozen=True)
class Timeline:
    """A video's occurrences by start, over the span that its captions cover."""

    start_us: int
    end_us: int
    looks_us: tuple[int, ...]
    """When texts were looked for, ascending."""
    occurrences: tuple[Occurrence, ...]

    def watched(self, start_us: int, end_us: int) -> bool:
        """Was there no stretch longer than PAUSE_US without a look? Captions that are missing make such stretches."""
        inside = self.looks_us[bisect_left(self.looks_us, start_us) : bisect_right(self.looks_us, end_us)]
        return all(later - earlier <= PAUSE_US for earlier, later in pairwise((start_us, *inside, end_us)))


def text_key(text: str) -> str:
    """What readings of the same text share: its letters and digits, case folded, digits misread in words mended."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    for digit, letter in _MISREAD.items():
        folded = re.sub(_BETWEEN_LETTERS.format(digit), letter, folded)
    return re.sub(r"[\W_]+", "", folded)


def region_of(box: Box) -> Region | None:
    """The ninth of the frame that holds the box's middle; None near a line between two."""
    column, row = _third((box.x0 + box.x1) / 2), _third((box.y0 + box.y1) / 2)
    if column is None or row is None:
        return None
    return tuple(Region)[3 * row + column]


def looks_of(captions: Iterable[Caption]) -> tuple[int, ...]:
    """Every moment at which a frame was read, ascending."""
    return tuple(sorted({time_us for caption in captions for time_us in caption.frame_times_us}))


def read_timeline(captions: Sequence[Caption]) -> Timeline:
    """The timeline of one video's captions (at least one, in any order)."""
    looks = looks_of(captions)
    start_us, end_us = min(each.start_us for each in captions), max(each.end_us for each in captions)
    by_key: dict[str, list[ScreenText]] = {}
    for caption in captions:
        for reading in caption.screen_texts:
            by_key.setdefault(text_key(reading.text), []).append(reading)
    occurrences = [
        _occurrence(key, showing, looks, start_us, end_us)
        for key, readings in by_key.items()
        if key
        for showing in _showings(sorted(readings, key=lambda reading: (reading.start_us, reading.end_us)))
    ]
    occurrences.sort(key=lambda occurrence: (occurrence.start_us, occurrence.end_us, occurrence.key))
    return Timeline(start_us, end_us, looks, tuple(occurrences))


def _third(position: float) -> int | None:
    if min(abs(position - 1 / 3), abs(position - 2 / 3)) < _BORDER:
        return None
    return min(int(position * 3), 2)


def _showings(readings: Sequence[ScreenText]) -> list[list[ScreenText]]:
    """Readings of one text, by start, grouped where no more than PAUSE_US lies between them."""
    groups: list[list[ScreenText]] = []
    end_us = 0
    for reading in readings:
        if groups and reading.start_us - end_us <= PAUSE_US:
            groups[-1].append(reading)
        else:
            groups.append([reading])
        end_us = max(end_us, reading.end_us)
    return groups


def _occurrence(
    key: str, showing: Sequence[ScreenText], looks: Sequence[int], start_us: int, end_us: int
) -> Occurrence:
    first, last = showing[0].start_us, max(reading.end_us for reading in showing)
    before, after = bisect_left(looks, first), bisect_left(looks, last)
    inside = looks[before:after]
    regions = {region_of(reading.box) for reading in showing}
    best = max(showing, key=lambda reading: (reading.score, -reading.start_us))
    return Occurrence(
        text=" ".join(best.text.split()),
        key=key,
        start_us=first,
        end_us=last,
        earliest_start_us=looks[before - 1] if before else start_us,
        latest_start_us=inside[0] if inside else first,
        earliest_end_us=inside[-1] if inside else first,
        latest_end_us=looks[after] if after < len(looks) else max(end_us, last),
        start_seen=before > 0,
        end_seen=after < len(looks),
        score=sum(reading.score for reading in showing) / len(showing),
        region=regions.pop() if len(regions) == 1 else None,
        continuous=all(_shown(showing, look) for look in inside),
    )


def _shown(showing: Sequence[ScreenText], look: int) -> bool:
    return any(reading.start_us <= look < reading.end_us for reading in showing)
