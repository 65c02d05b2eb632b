"""Two kinds of errors, those that a second run cannot fix and those that it may fix, and their exit statuses.

The statuses are shared by the commands of the pipeline and of the trainer.
"""

from __future__ import annotations

FAULT_STATUS = 1
"""A bug in the program."""
BAD_INPUT_STATUS = 2
"""Running again fails the same way; see `BadInput`."""
OUTAGE_STATUS = 3
"""Running again may help; see `Outage`."""


class BadInput(ValueError):
    """The configuration or the data is wrong. Running again fails the same way; the message says what to change."""


class Outage(RuntimeError):
    """Something the run depends on is unavailable: a model server, the disk. Running again resumes where it stopped."""


class SchemaError(BadInput):
    """Data on disk does not fit its schema. The message names file, row, field and value."""


class SourceError(BadInput):
    """A list of videos cannot be read. The message names the list and says what to do."""
