"""The captions of a video as text for language models: lines with times, in order, within a token budget.

When the captions exceed the budget, whole lines are dropped evenly over the video. Each gap in the text states how many
lines were dropped, so nothing is cut silently.
"""

from __future__ import annotations

from collections.abc import Sequence

from operators.models.client import ModelClient
from operators.models.embedded import EMBEDDED_MODEL
from operators.video.timecode import format_time
from schemas.base import Span
from schemas.tables import Caption

CHARACTERS_PER_TOKEN = 3
"""A conservative estimate. English text has about four, names in capitals and times have fewer."""
EMBEDDED_TOKENS = 600
"""Token budget for captions in a prompt to the embedded model.

A model of 135M parameters on one core gains little from more, and is slow: 48 answers about a film of five minutes took
50 s of CPU with this budget and 125 s with 2,000.
"""
SERVER_TOKENS = 24_000
"""Token budget for captions in a prompt to any other model.

It leaves room for reasoning in a context of 32,768 tokens, the smallest that long-video models are served with.
"""


def tokens_for(client: ModelClient) -> int:
    """The token budget for captions in a prompt to this model."""
    return EMBEDDED_TOKENS if client.model == EMBEDDED_MODEL else SERVER_TOKENS


def storyboard(captions: Sequence[Caption], tokens: int) -> str:
    """The captions as lines `mm:ss - mm:ss: what is seen`, in about `tokens` tokens.

    At least one line is kept, even if it exceeds the budget.
    """
    lines = [_line(caption) for caption in sorted(captions, key=lambda caption: caption.start_us)]
    kept = _select_lines(lines, tokens * CHARACTERS_PER_TOKEN)
    shown: list[str] = []
    dropped = 0
    for index, line in enumerate(lines):
        if index not in kept:
            dropped += 1
            continue
        shown += [_gap(dropped), line] if dropped else [line]
        dropped = 0
    return "\n".join([*shown, _gap(dropped)] if dropped else shown)


def within(captions: Sequence[Caption], spans: Sequence[Span]) -> list[Caption]:
    """Captions that overlap any of the spans."""
    return [
        caption
        for caption in captions
        if any(caption.start_us < span.end_us and span.start_us < caption.end_us for span in spans)
    ]


def _line(caption: Caption) -> str:
    """The line of a caption: its times and text, its speech, and on-screen texts that its text does not contain."""
    start, end = format_time(caption.start_us), format_time(caption.end_us)
    # Measured captions begin with their own times.
    seen = " ".join(caption.text.split()).removeprefix(f"From {start} to {end}: ")
    unread = [each.text for each in caption.screen_texts if each.text.casefold() not in seen.casefold()]
    texts = f" On screen: {'; '.join(unread)}." if unread else ""
    speech = f" Heard: {' '.join(caption.speech.split())}" if caption.speech else ""
    return f"{start} - {end}: {seen}{texts}{speech}"


def _select_lines(lines: Sequence[str], characters: int) -> frozenset[int]:
    """Indexes of the most lines, evenly spread, that fit into a number of characters; at least one."""
    most, fewest = len(lines), 1
    while fewest < most:
        count = (fewest + most + 1) // 2
        if sum(len(lines[index]) for index in _spread(len(lines), count)) <= characters:
            fewest = count
        else:
            most = count - 1
    return frozenset(_spread(len(lines), fewest))


def _spread(total: int, count: int) -> list[int]:
    return [index * total // count for index in range(count)]


def _gap(lines: int) -> str:
    return f"({lines} part{'s' if lines > 1 else ''} of the video left out here)"
