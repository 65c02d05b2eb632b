"""On-screen text: read from frames by OCR, followed from frame to frame into occurrences on the video's timeline.

Every sampled frame stands for its cell, a piece of the timeline around it; the cells tile the video and none crosses a
clip's boundary. An occurrence lasts from the start of the first cell it was read in to the end of the last one, so both
ends are right to within half a sampling step, and an occurrence that goes on across a clip's boundary touches it from
both sides. A reading without two different letters or digits, or of which the reader is in doubt, is no text.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from schemas.base import Box, Span
from schemas.tables import ScreenText

if TYPE_CHECKING:
    from rapidocr.ch_ppocr_det import TextDetOutput
    from rapidocr.ch_ppocr_rec import TextRecOutput

MIN_SCORE = 0.8
"""Readings below are noise; on frames without text PP-OCR typically finds a letter or two at 0.5 to 0.7."""
MIN_SCORE_ALONE = 0.9
"""What a text must reach that was read in one frame only."""
MIN_CHARACTERS = 2
"""Different letters or digits of a text. Wheels in a row are read as `000`, and fences and waves as `lll` and `ww`."""
EDITS_PER_CHARACTER = 0.1
"""Letters that two readings of one text may differ in. Short texts must agree in all: `SHOP A` is not `SHOP B`."""
MIN_OVERLAP = 0.3
"""Intersection over union of the boxes of one text in neighbouring frames."""

LINE_MARGIN = 0.1
"""On either side of a line, as a fraction of its height. From 0.2 on, what stands beside is read as letters."""

_OCR = {
    "Global.log_level": "error",
    "Det.limit_type": "max",
    "Det.limit_side_len": 480,
    "EngineConfig.onnxruntime.intra_op_num_threads": 1,
    "EngineConfig.onnxruntime.inter_op_num_threads": 1,
}
_BLOCKS = (80, 45)
_BLOCK_CHANGE = 8
"""8-bit levels of mean luma. One new letter changes its block by more; H.264 noise on a still picture by less."""


@dataclass(frozen=True)
class Reading:
    """A line of text in one frame; `score` is the reader's confidence, 0 to 1."""

    text: str
    box: Box
    score: float


class TextReader:
    """Reads frames in the order of time: a frame that looks like the last one that was read has the same text."""

    def __init__(self) -> None:
        from rapidocr import RapidOCR  # more than a second: only who reads texts pays, not all that name the stage

        self._ocr = RapidOCR(params=_OCR)
        self._blocks: NDArray[np.int16] | None = None
        self._readings: tuple[Reading, ...] = ()

    def read(self, rgb: NDArray[np.uint8]) -> tuple[Reading, ...]:
        """The text lines of a frame (height, width, 3), top to bottom."""
        luma = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
        blocks = cv2.resize(luma, _BLOCKS, interpolation=cv2.INTER_AREA).astype(np.int16)
        # The largest change of any block, not the mean: one short word is a fraction of a percent of the frame.
        if self._blocks is None or np.abs(blocks - self._blocks).max() > _BLOCK_CHANGE:
            self._blocks = blocks
            self._readings = self._recognise(rgb)
        return self._readings

    def _recognise(self, rgb: NDArray[np.uint8]) -> tuple[Reading, ...]:
        bgr = np.ascontiguousarray(rgb[:, :, ::-1])
        found = cast("TextDetOutput", self._ocr(bgr, use_det=True, use_rec=False, use_cls=False))
        if found.boxes is None:
            return ()
        readings = [self._read_line(bgr, _bounds(corners, *bgr.shape[:2])) for corners in found.boxes]
        return tuple(each for each in readings if each and each.score >= MIN_SCORE and _is_text(each.text))

    def _read_line(self, bgr: NDArray[np.uint8], box: Box) -> Reading | None:
        """The text in an upright box, a little wider than found: the finder likes to cut off a last, lone digit.

        Line by line because RapidOCR's own way, lines rectified and batched, loses spaces and lone digits more often
        (6 of 188 texts of the sample films, against 1).
        """
        height, width = bgr.shape[:2]
        top, bottom = int(box.y0 * height), round(box.y1 * height)
        margin = LINE_MARGIN * (bottom - top)
        left, right = max(0, int(box.x0 * width - margin)), round(box.x1 * width + margin)
        line = bgr[top:bottom, left:right]
        if not line.size:
            return None
        read = cast("TextRecOutput", self._ocr(line, use_det=False, use_rec=True, use_cls=False))
        if not read.txts:
            return None
        return Reading(text=read.txts[0].strip(), box=box, score=float(read.scores[0]))


def track(samples: Iterable[tuple[Span, Sequence[Reading]]]) -> list[ScreenText]:
    """The occurrences of texts, by start time, from the cell and the readings of each sampled frame in order of time.

    A text goes on while it is read again, up to OCR noise, at the place where it was. A frame in which it is not read
    ends it, be it gone or missed; what to make of short pauses is left to others. Occurrences of one text are all
    spelled alike: as in the best-scored reading, with the spaces of that reading of the same letters that has most of
    them, for PP-OCR drops spaces and does not invent them.
    """
    running: list[_Occurrence] = []
    ended: list[_Occurrence] = []
    for cell, readings in samples:
        waiting = list(running)
        for reading in readings:
            going_on = next((each for each in waiting if each.continues_as(reading)), None)
            if going_on is None:
                running.append(_Occurrence(cell, reading))
            else:
                waiting.remove(going_on)
                going_on.add(cell, reading)
        ended += waiting
        running = [each for each in running if each not in waiting]
    kept = [each for each in ended + running if len(each.readings) > 1 or each.best.score >= MIN_SCORE_ALONE]
    texts = [each.screen_text(spelling) for each, spelling in zip(kept, _spellings(kept), strict=True)]
    return sorted(texts, key=lambda each: (each.start_us, each.box.y0, each.box.x0))


def within(texts: Iterable[ScreenText], start_us: int, end_us: int) -> tuple[ScreenText, ...]:
    """The parts of occurrences that lie in [start_us, end_us), in their order."""
    return tuple(
        each.model_copy(update={"start_us": max(each.start_us, start_us), "end_us": min(each.end_us, end_us)})
        for each in texts
        if each.start_us < end_us and each.end_us > start_us
    )


def same_text(one: str, other: str) -> bool:
    """Whether two readings may be the same text: equal digits, and letters equal but for a tenth of them.

    Case, spaces and punctuation do not count; that is where OCR errs most.
    """
    a, b = _folded(one), _folded(other)
    if a == b:
        return True
    allowed = int(EDITS_PER_CHARACTER * max(len(a), len(b)))
    return abs(len(a) - len(b)) <= allowed and _digits(a) == _digits(b) and _edit_distance(a, b) <= allowed


class _Occurrence:
    """One text while it is followed."""

    def __init__(self, cell: Span, reading: Reading) -> None:
        self.start_us = cell.start_us
        self.end_us = cell.end_us
        self.readings = [reading]

    @property
    def best(self) -> Reading:
        return max(self.readings, key=lambda each: each.score)

    def continues_as(self, reading: Reading) -> bool:
        latest = self.readings[-1]
        return overlap(latest.box, reading.box) >= MIN_OVERLAP and same_text(latest.text, reading.text)

    def add(self, cell: Span, reading: Reading) -> None:
        self.end_us = cell.end_us
        self.readings.append(reading)

    def screen_text(self, spelling: str) -> ScreenText:
        score = min(1.0, fmean(each.score for each in self.readings))
        return ScreenText(start_us=self.start_us, end_us=self.end_us, text=spelling, box=self.best.box, score=score)


def overlap(one: Box, other: Box) -> float:
    """Intersection over union of two boxes."""
    width = min(one.x1, other.x1) - max(one.x0, other.x0)
    height = min(one.y1, other.y1) - max(one.y0, other.y0)
    if width <= 0 or height <= 0:
        return 0.0
    areas = sum((box.x1 - box.x0) * (box.y1 - box.y0) for box in (one, other))
    return width * height / (areas - width * height)


def _spellings(occurrences: Sequence[_Occurrence]) -> list[str]:
    """How each occurrence's text is spelled."""
    spaced: dict[str, str] = {}
    for reading in (each for occurrence in occurrences for each in occurrence.readings):
        letters = _folded(reading.text)
        if letters not in spaced or reading.text.count(" ") > spaced[letters].count(" "):
            spaced[letters] = reading.text
    leaders: dict[str, str] = {}
    for best in sorted((each.best for each in occurrences), key=lambda each: -each.score):
        leader = next((each for each in leaders.values() if same_text(each, best.text)), best.text)
        leaders.setdefault(best.text, leader)
    return [spaced[_folded(leaders[each.best.text])] for each in occurrences]


def _bounds(corners: NDArray[np.floating], height: int, width: int) -> Box:
    """The upright box around four (x, y) corners in pixels, cut at the frame's edges."""
    (x0, y0), (x1, y1) = (
        (edge / (width, height)).clip(0, 1).tolist() for edge in (corners.min(axis=0), corners.max(axis=0))
    )
    return Box(x0=x0, y0=y0, x1=x1, y1=y1)


def _folded(text: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFKC", text).casefold() if c.isalnum())


def _is_text(reading: str) -> bool:
    return len(set(_folded(reading))) >= MIN_CHARACTERS


def _digits(text: str) -> str:
    return "".join(c for c in text if c.isdigit())


def _edit_distance(a: str, b: str) -> int:
    """Levenshtein: insertions, deletions and replacements of single letters."""
    row = list(range(len(b) + 1))
    for i, left in enumerate(a, start=1):
        before, row = row, [i]
        for j, right in enumerate(b, start=1):
            row.append(min(before[j] + 1, row[-1] + 1, before[j - 1] + (left != right)))
    return row[-1]
