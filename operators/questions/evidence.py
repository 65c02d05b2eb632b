"""Reads the evidence of a model's answer: the spans of the video that the answer rests on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from operators.execution.stage import Context
from operators.models.client import Answer
from operators.video.timecode import format_time
from schemas.answers import WrittenChoice, WrittenOpen
from schemas.base import Span
from schemas.tables import Reject

_SECOND_US = 1_000_000


class EvidenceError(ValueError):
    """Raised when a model names a part of the video that does not exist."""


def read_evidence(context: Context, subject: str, answer: Answer, end_us: int) -> tuple[Span, ...] | Reject:
    """The evidence of an answer, or a reject of an answer that is truncated or whose evidence is not in the video.

    Args:
        subject: what the answer is, for the message of a reject.
        answer: its value is a question or a chain of thought.
        end_us: end of the video in microseconds.
    """
    written = cast(WrittenChoice | WrittenOpen, answer.value)
    key, raw, sha256 = answer.request.key, answer.provenance.raw, answer.provenance.request_sha256
    if answer.truncated:
        message = f"{subject}: the reasoner ran out of tokens; raise max_tokens of prompt {answer.request.prompt.id}"
        return context.reject(key, "truncated", message, raw, sha256)
    try:
        return read_spans(written.evidence, end_us)
    except EvidenceError as error:
        return context.reject(key, "bad_evidence", f"{subject}: its evidence {error}", raw, sha256)


def read_spans(ranges: Sequence[str], end_us: int) -> tuple[Span, ...]:
    """Parse ranges that a model wrote in the form of a story, `00:10 - 00:20` or `00:12`, into sorted spans.

    Times are whole seconds. A range may end in the video's last, incomplete second, and a single time covers its whole
    second. Equal ranges yield one span.

    Args:
        ranges: what the model wrote.
        end_us: end of the video in microseconds.

    Raises:
        EvidenceError: a range ends before it starts or lies outside the video.
    """
    spans = []
    for each in ranges:
        start_us, last_us = read_clock(each.partition(" - ")[0]), read_clock(each.rpartition(" - ")[2])
        if last_us < start_us or start_us >= end_us or last_us > end_us + _SECOND_US:
            raise EvidenceError(f"{each} is no part of a video of {format_time(end_us)}; name parts inside")
        spans.append(Span(start_us=start_us, end_us=min(max(last_us, start_us + _SECOND_US), end_us)))
    return tuple(sorted(set(spans), key=lambda span: (span.start_us, span.end_us)))


def read_clock(text: str) -> int:
    """Microseconds of a time in the form `00:12` or `1:00:12`."""
    seconds = 0
    for part in text.split(":"):
        seconds = 60 * seconds + int(part)
    return _SECOND_US * seconds
