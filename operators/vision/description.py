"""Reads a captioner's description of a clip: its objects and texts get exact times, and boxes as fractions.

What has a time outside the clip, or a box outside the picture, is dropped and counted.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from operators.vision.boxes import read_box
from schemas.answers import ClipDescription, SeenObject, SeenText
from schemas.base import Box, Span
from schemas.tables import BoxConvention, DetectedObject, ScreenText

UNSCORED = 1.0
"""Score of objects and texts from a captioner, which gives no scores."""
MAX_LABEL = 80
"""Maximum number of characters of an object's label."""
MAX_TEXT = 300
"""Maximum number of characters of a text on screen."""
SHOWN_STEP_US = 10_000
"""Resolution of the times in the captioner's prompt: hundredths of a second, rounded down."""


@dataclass(frozen=True)
class ShownPictures:
    """What the captioner was given, as far as it is needed to interpret its answer."""

    start_us: int
    """Start of the clip on the video's timeline."""
    end_us: int
    cells: tuple[Span, ...]
    """The parts of the clip that the frames represent, at least one."""
    times_us: tuple[int, ...]
    """Times of the frames on the video's timeline, or the middles of the cells if the captioner got the clip's file."""
    width: int
    """Width of the frames in pixels."""
    height: int
    convention: BoxConvention
    clock_us: int = 0
    """Time on the video's timeline at which the captioner's clock begins: the clip's start if it got the file."""


@dataclass(frozen=True)
class ReadDescription:
    """A description's objects and texts, and the number of those that were dropped."""

    objects: tuple[DetectedObject, ...]
    texts: tuple[ScreenText, ...]
    dropped_objects: int
    dropped_texts: int


def read_description(description: ClipDescription, shown: ShownPictures) -> ReadDescription:
    """The objects and texts of a description whose times and boxes are valid."""
    objects = tuple(thing for seen in description.objects if (thing := _object(shown, seen)))
    texts = tuple(words for seen in description.on_screen_text if (words := _screen_text(shown, seen)))
    return ReadDescription(
        objects, texts, len(description.objects) - len(objects), len(description.on_screen_text) - len(texts)
    )


def _object(shown: ShownPictures, seen: SeenObject) -> DetectedObject | None:
    index, box, label = _frame_index(shown, seen.time), _box(shown, seen.box), seen.label.strip()
    if index is None or box is None or not 0 < len(label) <= MAX_LABEL:
        return None
    return DetectedObject(label=label, box=box, time_us=shown.times_us[index], score=UNSCORED)


def _screen_text(shown: ShownPictures, seen: SeenText) -> ScreenText | None:
    first, last = _frame_index(shown, seen.first), _frame_index(shown, seen.last)
    box, text = _box(shown, seen.box), seen.text.strip()
    if first is None or last is None or last < first or box is None or not 0 < len(text) <= MAX_TEXT:
        return None
    start_us, end_us = shown.cells[first].start_us, shown.cells[last].end_us
    return ScreenText(start_us=start_us, end_us=end_us, text=text, box=box, score=UNSCORED)


def _box(shown: ShownPictures, corners: Sequence[float]) -> Box | None:
    return read_box(corners, shown.convention, shown.width, shown.height)


def _frame_index(shown: ShownPictures, words: str) -> int | None:
    """Index of the frame nearest to a time such as `01:12.40`; None when it is not a time inside the clip."""
    # The digits are bounded because an endless number from the model would become infinite.
    match = re.fullmatch(r"\[?((?:\d{1,6}:){0,2}\d{1,6}(?:\.\d{1,20})?)\]?", words.strip())
    if match is None:
        return None
    parts = reversed(match[1].split(":"))
    time_us = shown.clock_us + round(sum(float(part) * 60**power for power, part in enumerate(parts)) * 1_000_000)
    if not shown.start_us - SHOWN_STEP_US < time_us < shown.end_us:
        return None
    return min(range(len(shown.times_us)), key=lambda i: abs(shown.times_us[i] - time_us))
