"""Imaginary films for tests: the texts that they show, and the captions that the caption stage would measure.

The texts are tracked with the caption stage's own `track`, from readings at one frame per second. Tests therefore see
exactly what the pipeline would see of such a film.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from hypothesis import strategies as st

from operators.vision.ocr import Reading, track, within
from schemas.base import Box, Span
from schemas.provenance import Provenance
from schemas.tables import Caption, CaptionStatus

SECOND = 1_000_000
TEXTS = (
    "NORA NEEDS A LAMP",
    "THE LAST FERRY",
    "FERRY 1",
    "FERRY 2",
    "FRESH APPLES",
    "OPEN DAILY",
    "HER SHOE IS LOOSE",
    "WHERE IS MAX?",
    "CHAPTER 1: THE HARBOUR",
    "CHAPTER 2: THE MARKET",
    "LIGHTHOUSE",
    "EXIT",
)
BOXES = tuple(
    Box(x0=x - 0.1, y0=y - 0.05, x1=x + 0.1, y1=y + 0.05) for y in (0.15, 0.5, 0.85) for x in (0.15, 0.5, 0.85)
)
"""Nine boxes on a 3 x 3 grid over the frame, each in the middle of its cell, row by row."""


@dataclass(frozen=True)
class Shown:
    """A text that the film shows: the ground truth."""

    text: str
    start_us: int
    end_us: int
    box: Box = BOXES[7]
    score: float = 0.98


@dataclass(frozen=True)
class ImaginaryFilm:
    """The ground truth of an imaginary film: its clips and its on-screen texts."""

    duration_us: int
    edges_us: tuple[int, ...]
    """Clip boundaries in microseconds, from 0 to the duration."""
    shown: tuple[Shown, ...]
    """Texts on screen, sorted by start."""


def shown(text: str, start: float, end: float, box: Box = BOXES[7], score: float = 0.98) -> Shown:
    """A text on screen from `start` to `end`, in seconds."""
    return Shown(text, round(start * SECOND), round(end * SECOND), box, score)


def film(*texts: Shown, seconds: float = 60.0) -> ImaginaryFilm:
    """A film that shows these texts and is divided into ten-second clips."""
    duration_us = round(seconds * SECOND)
    edges = (*range(0, duration_us, 10 * SECOND), duration_us)
    return ImaginaryFilm(duration_us, edges, tuple(sorted(texts, key=lambda each: each.start_us)))


def captions_of(film: ImaginaryFilm, video_id: str = "film") -> list[Caption]:
    """The captions that the caption stage would measure in this film."""
    spans = [Span(start_us=a, end_us=b) for a, b in pairwise(film.edges_us)]
    cells = [_cells(span) for span in spans]
    texts = track((cell, _readings(film, _sample_time(cell))) for group in cells for cell in group)
    return [
        Caption(
            clip_id=f"{video_id}_{span.start_us:012d}",
            video_id=video_id,
            start_us=span.start_us,
            end_us=span.end_us,
            text=f"A scene with {len(within(texts, span.start_us, span.end_us))} texts.",
            objects=(),
            screen_texts=within(texts, span.start_us, span.end_us),
            colours=("blue",),
            speech="",
            frame_times_us=tuple(map(_sample_time, group)),
            text_sample_times_us=tuple(map(_sample_time, group)),
            status=CaptionStatus.OK,
            provenance=Provenance(model="measured"),
        )
        for span, group in zip(spans, cells, strict=True)
    ]


@st.composite
def films(draw: st.DrawFn) -> ImaginaryFilm:
    """Films of one to three minutes. A text lasts at least 1.2 s and is absent at least 2.6 s before it reappears."""
    clips = draw(st.lists(st.integers(8_000, 12_000), min_size=6, max_size=16))
    edges = [0]
    for milliseconds in clips:
        edges.append(edges[-1] + 1000 * milliseconds)
    showings: list[Shown] = []
    for text in draw(st.permutations(TEXTS)):
        start_us = 0
        box = draw(st.sampled_from(BOXES))
        for _ in range(draw(st.sampled_from((0, 1, 1, 1, 1, 2, 3)))):
            latest = edges[-1] - 1_200_000
            start_us = draw(st.integers(min(start_us, latest), latest))
            end_us = min(start_us + 1000 * draw(st.integers(1_200, 14_000)), edges[-1])
            if all(start_us >= other.end_us + 2_600_000 for other in showings if other.text == text):
                showings.append(Shown(text, start_us, end_us, box))
            start_us = end_us
    showings.sort(key=lambda each: (each.start_us, each.text))
    return ImaginaryFilm(edges[-1], tuple(edges), tuple(showings))


def _cells(span: Span) -> list[Span]:
    """Divide a span into equal cells of about one second."""
    length = span.end_us - span.start_us
    count = max(1, round(length / SECOND))
    edges = [span.start_us + length * index // count for index in range(count + 1)]
    return [Span(start_us=a, end_us=b) for a, b in pairwise(edges)]


def _sample_time(cell: Span) -> int:
    return (cell.start_us + cell.end_us) // 2


def _readings(film: ImaginaryFilm, time_us: int) -> Sequence[Reading]:
    return [Reading(each.text, each.box, each.score) for each in film.shown if each.start_us <= time_us < each.end_us]
