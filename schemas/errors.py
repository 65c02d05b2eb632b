"""The two kinds of failure that a caller treats differently: what running again cannot help, and what it can."""

from __future__ import annotations


class BadInput(ValueError):
    """The configuration or the data is wrong. Running again gives the same; the message names the way out."""


class Outage(RuntimeError):
    """Something the run depends on is away: a model server, the disk. Running again goes on where it stopped."""


class SchemaError(BadInput):
    """Data on disk does not fit its schema; the message names file, row, field and value."""


class SourceError(BadInput):
    """A list of videos cannot be read; the message names it and the way out."""
