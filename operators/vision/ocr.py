"""On-screen text: OCR of sampled frames, tracked from frame to frame into occurrences on the video's timeline.

Every sampled frame represents its cell, a piece of the timeline around it. The cells tile the video, and none crosses a
clip's boundary. An occurrence lasts from the start of the first cell in which the text was read to the end of the last
one, so both ends are exact to half a sampling step. An occurrence that continues across a clip's boundary touches the
boundary from both sides. Readings with fewer than two different letters or digits, and readings with a low score, are
dropped.
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
"""Minimum score of a reading. On frames without text, PP-OCR typically finds a letter or two at 0.5 to 0.7."""
MIN_SCORE_ALONE = 0.9
"""Minimum score of a text that was read in one frame only."""
MIN_CHARACTERS = 2
"""Minimum number of different letters or digits of a text.

OCR reads a row of wheels as `000`, and fences and waves as `lll` and `ww`.
"""
EDITS_PER_CHARACTER = 0.1
"""Edit distance per character up to which two readings are one text.

Short texts must agree in every letter: `SHOP A` is not `SHOP B`.
"""
MIN_OVERLAP = 0.3
"""Minimum intersection over union of the boxes of one text in consecutive sampled frames."""

LINE_MARGIN = 0.1
"""Margin added left and right of a line, as a fraction of its height. From 0.2, neighbouring marks become letters."""

_OCR = {
    "Global.log_level": "error",
    "Det.limit_type": "max",
    "Det.limit_side_len": 480,
    "EngineConfig.onnxruntime.intra_op_num_threads": 1,
    "EngineConfig.onnxruntime.inter_op_num_threads": 1,
}
_BLOCKS = (80, 45)
_BLOCK_CHANGE = 8
"""Change of a block's mean luma, in 8-bit levels, above which a frame is read again.

One new letter changes its block by more, H.264 noise on a still picture by less.
"""


@dataclass(frozen=True)
class Reading:
    """A line of text in one frame. `score` is the confidence of the OCR, 0 to 1."""

    text: str
    box: Box
    score: float


class TextReader:
    """OCR for frames given in order of time. A frame that matches the last recognised one reuses its readings."""

    def __init__(self) -> None:
        from rapidocr import RapidOCR  # takes more than a second, so it is imported only where text is read

        self._ocr = RapidOCR(params=_OCR)
        self._blocks: NDArray[np.int16] | None = None
        self._readings: tuple[Reading, ...] = ()

    def read(self, rgb: NDArray[np.uint8]) -> tuple[Reading, ...]:
        """Text lines of an RGB frame of shape (height, width, 3), top to bottom."""
        luma = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
        blocks = cv2.resize(luma, _BLOCKS, interpolation=cv2.INTER_AREA).astype(np.int16)
        # The largest change of any block, not the mean: one short word is a fraction of a percent of the frame.
        if self._blocks is None or np.abs(blocks - self._blocks).max() > _BLOCK_CHANGE:
            self._blocks = blocks
            self._readings = self._recognise(rgb)
        return self._readings

    def _recognise(self, rgb: NDArray[np.uint8]) -> tuple[Reading, ...]:
        bgr = np.ascontiguousarray(rgb[:, :, ::-1])
        lines = cast("TextDetOutput", self._ocr(bgr, use_det=True, use_rec=False, use_cls=False))
        if lines.boxes is None:
            return ()
        readings = [self._read_line(bgr, _bounds(corners, *bgr.shape[:2])) for corners in lines.boxes]
        found = (each for each in readings if each and each.score >= MIN_SCORE)
        return tuple(each for each in found if len(set(_fold(each.text))) >= MIN_CHARACTERS)

    def _read_line(self, bgr: NDArray[np.uint8], box: Box) -> Reading | None:
        """The text in an upright box, or None when the box is empty or nothing is recognised.

        The box is widened by `LINE_MARGIN`, because the detector tends to cut off a single digit at the end of a line.
        Lines are recognised one at a time: RapidOCR's default, rectified and batched lines, loses spaces and single
        digits more often (6 of 188 texts of the demo films, against 1).
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
    """Track texts across sampled frames and return their occurrences, ordered by start time.

    An occurrence continues while the same text, up to OCR noise, is read at the same place. It ends at the first frame
    in which the text is not read, whether it has gone or was missed; callers decide how to treat short pauses.

    All occurrences of a text get the same spelling: that of the reading with the highest score, with the spaces of the
    reading of the same letters that has most of them. PP-OCR drops spaces but does not invent any.

    Args:
        samples: cell and readings of each sampled frame, in order of time.
    """
    running: list[_Occurrence] = []
    ended: list[_Occurrence] = []
    for cell, readings in samples:
        waiting = list(running)
        for reading in readings:
            continued = next((each for each in waiting if each.continues_as(reading)), None)
            if continued is None:
                running.append(_Occurrence(cell, reading))
            else:
                waiting.remove(continued)
                continued.add(cell, reading)
        ended += waiting
        running = [each for each in running if each not in waiting]
    kept = [each for each in ended + running if len(each.readings) > 1 or each.best.score >= MIN_SCORE_ALONE]
    texts = [each.screen_text(spelling) for each, spelling in zip(kept, _spellings(kept), strict=True)]
    return sorted(texts, key=lambda each: (each.start_us, each.box.y0, each.box.x0))


def within(texts: Iterable[ScreenText], start_us: int, end_us: int) -> tuple[ScreenText, ...]:
    """The occurrences that overlap [start_us, end_us), clipped to it, in their given order."""
    return tuple(
        each.model_copy(update={"start_us": max(each.start_us, start_us), "end_us": min(each.end_us, end_us)})
        for each in texts
        if each.start_us < end_us and each.end_us > start_us
    )


def same_text(one: str, other: str) -> bool:
    """Whether two readings may be the same text: equal digits, and at most a tenth of the letters differ.

    Case, spaces and punctuation are ignored, because most OCR errors are there.
    """
    a, b = _fold(one), _fold(other)
    if a == b:
        return True
    allowed = int(EDITS_PER_CHARACTER * max(len(a), len(b)))
    return abs(len(a) - len(b)) <= allowed and _digits(a) == _digits(b) and _edit_distance(a, b) <= allowed


class _Occurrence:
    """A text that is being tracked."""

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
    """The spelling of each occurrence's text."""
    spaced: dict[str, str] = {}
    for reading in (each for occurrence in occurrences for each in occurrence.readings):
        letters = _fold(reading.text)
        if letters not in spaced or reading.text.count(" ") > spaced[letters].count(" "):
            spaced[letters] = reading.text
    leaders: dict[str, str] = {}
    for best in sorted((each.best for each in occurrences), key=lambda each: -each.score):
        leader = next((each for each in leaders.values() if same_text(each, best.text)), best.text)
        leaders.setdefault(best.text, leader)
    return [spaced[_fold(leaders[each.best.text])] for each in occurrences]


def _bounds(corners: NDArray[np.floating], height: int, width: int) -> Box:
    """The upright box around four (x, y) corners in pixels, clipped to the frame."""
    (x0, y0), (x1, y1) = (
        (edge / (width, height)).clip(0, 1).tolist() for edge in (corners.min(axis=0), corners.max(axis=0))
    )
    return Box(x0=x0, y0=y0, x1=x1, y1=y1)


def _fold(text: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFKC", text).casefold() if c.isalnum())


def _digits(text: str) -> str:
    return "".join(c for c in text if c.isdigit())


def _edit_distance(a: str, b: str) -> int:
    """Levenshtein distance: the number of inserted, deleted and replaced letters."""
    row = list(range(len(b) + 1))
    for i, left in enumerate(a, start=1):
        before, row = row, [i]
        for j, right in enumerate(b, start=1):
            row.append(min(before[j] + 1, row[-1] + 1, before[j - 1] + (left != right)))
    return row[-1]
