"""The records of a journal: raw answers of models, and which of them no longer count and are requested again."""

from __future__ import annotations

from typing import Literal

from schemas.base import Model, Sha256


class JournalEntry(Model):
    """One raw answer, valid or not. It is validated again whenever it is read."""

    request_sha256: Sha256
    """Hash of the whole request that was answered."""
    origin_sha256: Sha256
    """Hash of the stage's own request. It differs from `request_sha256` if this answers the repeated request after an
    invalid answer."""
    key: str
    """Id of the clip or question that the answer belongs to."""
    model: str
    served_model: str = ""
    """Name of the model that the server stated, which may be an alias. Empty if it stated none."""
    thoughts: str | None = None
    """The model's thinking, where the server returned it apart from the text. If None, `raw` may begin with it."""
    raw: str
    """The raw text of the answer."""
    finish_reason: Literal["stop", "length", "content_filter"]
    tokens_in: int
    tokens_out: int


class JournalRecord(Model):
    """One line (or object) of a journal. Records of several writers are ordered by their time."""

    written_ns: int
    """Time of writing, in nanoseconds since 1970 by the writer's clock."""
    entry: JournalEntry | None = None
    forgotten: tuple[Sha256, ...] = ()
    """`origin_sha256` of earlier entries that no longer count."""
