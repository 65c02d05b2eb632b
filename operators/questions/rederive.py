"""Verifies the answer of a programmatic question: derives it again from single sample times instead of occurrences.

`derive` works on a timeline of merged occurrences. This module treats each sample time separately and determines which
texts were visible then. The two methods share only the criterion for readings of the same text (`text_key`), the pause
that separates two appearances (`PAUSE_US`), and the form of the answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from operators.questions.phrases import REGIONS, about_seconds, in_order
from operators.questions.timeline import PAUSE_US, sample_times_of, text_key
from operators.video.timecode import format_time
from schemas.base import Region
from schemas.tables import Caption, Derivation, Template


def rederive_answer(derivation: Derivation, captions: Sequence[Caption]) -> str | None:
    """The answer to a programmatic question from the captions of its video; None when they do not determine it."""
    samples = _SampleTimes(captions)
    keys = [text_key(subject) for subject in derivation.subjects]
    if not keys or any(key not in samples.seen for key in keys):
        return None
    match derivation.template:
        case Template.ORDER:
            return samples.order(derivation.subjects)
        case Template.AFTER:
            return samples.neighbour(keys[0], step=1)
        case Template.BEFORE:
            return samples.neighbour(keys[0], step=-1)
        case Template.COUNT:
            return str(len(samples.showings(keys[0])) if len(keys) == 1 else samples.between(keys[0], keys[1]))
        case Template.DURATION if not all(samples.came(key) and samples.went(key) for key in keys):
            return None
        case Template.DURATION:
            return about_seconds(samples.duration(keys[0])) if len(keys) == 1 else samples.longest(derivation.subjects)
        case Template.WHEN if not samples.came(keys[0]):
            return None
        case Template.WHEN:
            return format_time(samples.seen[keys[0]][0])
        case Template.REGION:
            return samples.place(keys[0])
    return None


class _SampleTimes:
    """The sample times at which each text was visible."""

    def __init__(self, captions: Sequence[Caption]) -> None:
        self.times = sample_times_of(captions)
        self.readings = [reading for caption in captions for reading in caption.screen_texts]
        seen: dict[str, set[int]] = {}
        for caption in captions:
            for time_us in caption.text_sample_times_us:
                for reading in caption.screen_texts:
                    if reading.start_us <= time_us < reading.end_us:
                        seen.setdefault(text_key(reading.text), set()).add(time_us)
        self.seen = {key: sorted(times) for key, times in seen.items()}

    def spelling(self, key: str) -> str:
        """The reading of a text with the highest confidence."""
        best = max((each for each in self.readings if text_key(each.text) == key), key=lambda each: each.score)
        return " ".join(best.text.split())

    def showings(self, key: str) -> list[int]:
        """The times at which the text appeared: its first sample time, and each one after a pause."""
        times = self.seen[key]
        return [times[0], *(later for earlier, later in pairwise(times) if later - earlier > PAUSE_US)]

    def appearances(self) -> list[tuple[int, str]]:
        """Time and key of every appearance of every text, in order of time."""
        return sorted((time, key) for key in self.seen for time in self.showings(key))

    def order(self, subjects: Sequence[str]) -> str | None:
        """The texts sorted by first sample time, or None if two of them have the same time."""
        first = {subject: self.seen[text_key(subject)][0] for subject in subjects}
        return in_order(sorted(subjects, key=first.__getitem__)) if len(set(first.values())) == len(first) else None

    def neighbour(self, key: str, step: int) -> str | None:
        """The text that appeared next before (`step` -1) or after (1) this one; None unless there is exactly one."""
        here = self.seen[key][0]
        ahead = [(time, other) for time, other in self.appearances() if (time - here) * step > 0]
        nearest = min((abs(time - here) for time, _ in ahead), default=None)
        found = {other for time, other in ahead if abs(time - here) == nearest}
        return self.spelling(found.pop()) if len(found) == 1 else None

    def between(self, first: str, last: str) -> int:
        """Number of other texts that appeared after the first text and before the last."""
        start, end = self.seen[first][0], self.seen[last][0]
        return len({key for time, key in self.appearances() if start < time < end} - {first, last})

    def came(self, key: str) -> bool:
        """Whether the text's appearance was observed: it was not visible at the first sample time."""
        return self.seen[key][0] > self.times[0]

    def went(self, key: str) -> bool:
        """Whether the text's disappearance was observed: it was not visible at the last sample time."""
        return self.seen[key][-1] < self.times[-1]

    def duration(self, key: str) -> int:
        """Microseconds from the first sample time that showed the text to the first one after it disappeared.

        Both ends are half a sampling step later than those of an occurrence. Only for texts whose disappearance was
        observed (`went`).
        """
        times = self.seen[key]
        return next(time for time in self.times if time > times[-1]) - times[0]

    def longest(self, subjects: Sequence[str]) -> str | None:
        """The text with the longest duration; None when two have the same."""
        by_length = sorted(subjects, key=lambda subject: self.duration(text_key(subject)))
        first, second = (self.duration(text_key(subject)) for subject in by_length[:-3:-1])
        return by_length[-1] if first > second else None

    def place(self, key: str) -> str:
        """Name of the ninth of the picture that contains the mean centre of the text's boxes."""
        boxes = [each.box for each in self.readings if text_key(each.text) == key]
        across = sum(box.x0 + box.x1 for box in boxes) / len(boxes) / 2
        down = sum(box.y0 + box.y1 for box in boxes) / len(boxes) / 2
        return REGIONS[tuple(Region)[3 * min(int(3 * down), 2) + min(int(3 * across), 2)]]
