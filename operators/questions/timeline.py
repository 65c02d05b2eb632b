"""The timeline of on-screen texts of a whole video, built from the readings in its captions.

Texts are read at sample times, not in every frame. The start and the end of an occurrence are therefore known only as
intervals. Both intervals are stored, and `derive` uses only what holds for every value inside
them. A text or a pause that is shorter than the sampling step may be missed and is not accounted for.

Readings of one text in consecutive clips become one occurrence. `derive` decides whether a question may use it.
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
"""A text that is not read for longer than this has disappeared. A shorter gap may be an OCR miss or a short pause."""
_BORDER = 0.04
"""Distance from a line between two ninths of the frame, as a fraction of a side.

A box whose centre is closer to the line is assigned to neither.
"""

_BETWEEN_LETTERS = r"(?<=[^\W\d_]){}(?=[^\W\d_])"
_MISREAD = {"0": "o", "1": "i", "5": "s", "8": "b"}
"""Digits that OCR reads in place of letters inside words (N0RA, HARB0UR)."""


@dataclass(frozen=True)
class Occurrence:
    """One appearance of a text, with the intervals in which it actually started and ended."""

    text: str
    """The reading with the highest score."""
    key: str
    """`text_key` of the text."""
    start_us: int
    end_us: int
    """Measured start and end, exact to half a sampling step."""
    earliest_start_us: int
    """Last sample time before the text was visible; the timeline's start when there is none."""
    latest_start_us: int
    """First sample time that showed the text."""
    earliest_end_us: int
    """Last sample time that showed the text."""
    latest_end_us: int
    """First sample time after the text disappeared; the timeline's end when there is none."""
    start_seen: bool
    """Whether there is a sample time before it. If not, the text may have been visible for any time before."""
    end_seen: bool
    """Whether there is a sample time after it. If not, the text may have stayed for any time after."""
    score: float
    """Mean confidence of its readings, 0 to 1."""
    region: Region | None
    """Ninth of the frame; None when the text moved, was read in several places, or is near a line between two."""
    continuous: bool
    """Whether the text was read at every sample time from the first to the last."""

    @property
    def span(self) -> Span:
        return Span(start_us=self.start_us, end_us=self.end_us)

    @property
    def duration_us(self) -> int:
        return self.end_us - self.start_us

    @property
    def shown_seconds(self) -> int:
        """Whole seconds between start and end as `format_time` shows them, both rounded down to the second.

        It differs from the measured duration by less than a second. An explanation that shows both times states this
        number, so that it adds up.
        """
        return self.end_us // 1_000_000 - self.start_us // 1_000_000

    @property
    def shortest_us(self) -> int:
        """The shortest duration that agrees with the sample times."""
        return self.earliest_end_us - self.latest_start_us

    @property
    def longest_us(self) -> int:
        """The longest duration that agrees with the sample times."""
        return self.latest_end_us - self.earliest_start_us


@dataclass(frozen=True)
class Timeline:
    """A video's occurrences ordered by start, over the span that its captions cover."""

    start_us: int
    end_us: int
    sample_times_us: tuple[int, ...]
    """Sample times at which frames were searched for text, ascending."""
    occurrences: tuple[Occurrence, ...]

    def has_samples(self, start_us: int, end_us: int) -> bool:
        """Whether [start_us, end_us] has no gap between sample times that is longer than PAUSE_US.

        Missing captions leave such gaps.
        """
        inside = self.sample_times_us[
            bisect_left(self.sample_times_us, start_us) : bisect_right(self.sample_times_us, end_us)
        ]
        return all(later - earlier <= PAUSE_US for earlier, later in pairwise((start_us, *inside, end_us)))


def text_key(text: str) -> str:
    """The key that readings of the same text share.

    It consists of the letters and digits, case-folded, with misread digits inside words replaced by letters.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    for digit, letter in _MISREAD.items():
        folded = re.sub(_BETWEEN_LETTERS.format(digit), letter, folded)
    return re.sub(r"[\W_]+", "", folded)


def region_of(box: Box) -> Region | None:
    """The ninth of the frame that contains the box's centre; None near a line between two."""
    column, row = _third((box.x0 + box.x1) / 2), _third((box.y0 + box.y1) / 2)
    if column is None or row is None:
        return None
    return tuple(Region)[3 * row + column]


def sample_times_of(captions: Iterable[Caption]) -> tuple[int, ...]:
    """All times at which frames were searched for text, in microseconds, ascending."""
    return tuple(sorted({time_us for caption in captions for time_us in caption.text_sample_times_us}))


def read_timeline(captions: Sequence[Caption]) -> Timeline:
    """Build the timeline of a video from its captions (at least one, in any order) that were searched for text."""
    sample_times = sample_times_of(captions)
    start_us, end_us = min(each.start_us for each in captions), max(each.end_us for each in captions)
    by_key: dict[str, list[ScreenText]] = {}
    for caption in captions:
        for reading in caption.screen_texts:
            by_key.setdefault(text_key(reading.text), []).append(reading)
    occurrences = [
        _occurrence(key, showing, sample_times, start_us, end_us)
        for key, readings in by_key.items()
        if key
        for showing in _showings(sorted(readings, key=lambda reading: (reading.start_us, reading.end_us)))
    ]
    occurrences.sort(key=lambda occurrence: (occurrence.start_us, occurrence.end_us, occurrence.key))
    return Timeline(start_us, end_us, sample_times, tuple(occurrences))


def _third(position: float) -> int | None:
    if min(abs(position - 1 / 3), abs(position - 2 / 3)) < _BORDER:
        return None
    return min(int(position * 3), 2)


def _showings(readings: Sequence[ScreenText]) -> list[list[ScreenText]]:
    """Readings of one text, sorted by start, grouped so that gaps inside a group are at most PAUSE_US."""
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
    key: str, showing: Sequence[ScreenText], sample_times: Sequence[int], start_us: int, end_us: int
) -> Occurrence:
    first, last = showing[0].start_us, max(reading.end_us for reading in showing)
    before, after = bisect_left(sample_times, first), bisect_left(sample_times, last)
    inside = sample_times[before:after]
    regions = {region_of(reading.box) for reading in showing}
    best = max(showing, key=lambda reading: (reading.score, -reading.start_us))
    return Occurrence(
        text=" ".join(best.text.split()),
        key=key,
        start_us=first,
        end_us=last,
        earliest_start_us=sample_times[before - 1] if before else start_us,
        latest_start_us=inside[0] if inside else first,
        earliest_end_us=inside[-1] if inside else first,
        latest_end_us=sample_times[after] if after < len(sample_times) else max(end_us, last),
        start_seen=before > 0,
        end_seen=after < len(sample_times),
        score=sum(reading.score for reading in showing) / len(showing),
        region=regions.pop() if len(regions) == 1 else None,
        continuous=all(_is_shown(showing, time_us) for time_us in inside),
    )


def _is_shown(showing: Sequence[ScreenText], time_us: int) -> bool:
    return any(reading.start_us <= time_us < reading.end_us for reading in showing)
