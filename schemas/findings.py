"""Findings about a build: what its figures mean for the data, each with a severity. `findings.json` of a run."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, Field

from schemas.base import Identifier, Model
from schemas.uri import printable


class Severity(StrEnum):
    """How much a finding matters. `info`: as it should be. `warning`: the data is of less use, or less certain, than it
    could be. `error`: the release should not be used before it is explained."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class Finding(Model):
    """The result of one check of a build."""

    severity: Severity
    code: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    """The check. It stays the same over versions, so that runs can be compared."""
    subject: str
    """What was checked, such as `Captions cut off at the token limit`."""
    message: Annotated[str, AfterValidator(printable)]
    """The result as text, and for a warning or an error what to do, on one line."""
    figures: dict[str, float] = Field(default={})
    """The figures behind it by name."""

    def __str__(self) -> str:
        return f"{self.severity}: {self.subject}: {self.message} [{self.code}]"


class Findings(Model):
    """All findings about a run, the most severe first."""

    run_id: Identifier
    findings: tuple[Finding, ...]

    @property
    def problems(self) -> tuple[Finding, ...]:
        """The findings that need attention."""
        return tuple(finding for finding in self.findings if finding.severity is not Severity.INFO)

    def counts(self) -> dict[str, int]:
        """Number of findings of each severity, from error to info."""
        return {
            severity.value: sum(finding.severity is severity for finding in self.findings)
            for severity in reversed(Severity)
        }
