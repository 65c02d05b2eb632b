"""What a journal holds: the raw answers of models, and which of them are to be asked for again."""

from __future__ import annotations

from typing import Literal

from schemas.base import Model, Sha256


class JournalEntry(Model):
    """One answer as it came, valid or not; it is validated again whenever it is read."""

    request_sha256: Sha256
    """Hash of the whole request that was answered."""
    origin_sha256: Sha256
    """Hash of the stage's own request; another one when this answers the repetition after an invalid answer."""
    key: str
    """Clip or question id that the answer belongs to."""
    model: str
    raw: str
    finish_reason: Literal["stop", "length", "content_filter"]
    tokens_in: int
    tokens_out: int


class JournalRecord(Model):
    """One line (or object) of a journal. Records of several writers are ordered by their time."""

    written_ns: int
    """Nanoseconds since 1970, the writer's clock."""
    entry: JournalEntry | None = None
    forgotten: tuple[Sha256, ...] = ()
    """`origin_sha256` of earlier entries that no longer count."""
