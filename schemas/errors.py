"""Two kinds of errors: those that a second run cannot fix, and those that it may fix."""

from __future__ import annotations


class BadInput(ValueError):
    """The configuration or the data is wrong. Running again fails the same way; the message says what to change."""


class Outage(RuntimeError):
    """Something the run depends on is unavailable: a model server, the disk. Running again resumes where it stopped."""


class SchemaError(BadInput):
    """Data on disk does not fit its schema. The message names file, row, field and value."""


class SourceError(BadInput):
    """A list of videos cannot be read. The message names the list and says what to do."""
