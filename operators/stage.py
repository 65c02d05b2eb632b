"""What a stage is: a pure, retry-safe function from typed rows of one unit to typed rows and rejects.

A unit is one source video, or the whole build. A stage knows nothing of Airflow, paths or other stages: it gets its
input rows, its models and its prompts, and yields rows of one type. Identity, reuse, commits, journals and metrics are
the runner's (`operators.runner`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from operators.sources.access import SourceFiles
from schemas.base import Row, digest
from schemas.config import BuildConfig, Role
from schemas.tables import Reject

if TYPE_CHECKING:
    from operators.models.client import ModelClient
    from operators.models.prompts import Prompt


class Files(Protocol):
    """Content-addressed files beside the tables."""

    def put_file(self, path: Path) -> str:
        """Store a local file; returns its address, relative to the store. The same bytes have the same address."""

    def fetch(self, address: str, folder: Path) -> Path:
        """A local path of a stored file; a remote one is downloaded into the folder."""


@dataclass(frozen=True)
class Context:
    """What a stage may use while it works on one unit."""

    stage: str
    unit: str
    config: BuildConfig
    prompts: Mapping[str, Prompt]
    models: Mapping[Role, ModelClient]
    """The declared roles that a model plays; a role without a model (measured captions) is absent."""
    files: Files
    """What stages have stored; source videos are opened by `sources`."""
    scratch: Path
    """An empty local folder, removed afterwards."""
    cores: int = 1
    """How many cores the unit has to itself. Rows must not depend on it."""
    sources: SourceFiles = field(default_factory=SourceFiles)

    def reject(self, key: str, reason: str, message: str, raw: str = "", request_sha256: str = "") -> Reject:
        """A reject of this stage and unit. `reason` is a typed word, `message` names the thing and the way out."""
        return Reject(
            stage=self.stage,
            unit=self.unit,
            key=key,
            reason=reason,
            message=message,
            raw=raw,
            request_sha256=request_sha256,
        )

    def seed(self, *parts: object) -> int:
        """A 31-bit seed that depends on the build's seed and the parts only."""
        return int(digest([self.config.seed, *map(str, parts)])[:8], 16) >> 1


class Scope(Enum):
    """What one run of a stage's function covers."""

    VIDEO = "video"
    BUILD = "build"


@dataclass(frozen=True)
class Stage:
    """A step of the pipeline, declared.

    `run(context, *inputs)` takes one list of rows per name in `reads`, in that order, and yields rows of type `row` and
    rejects. It must give the same rows for the same inputs, models' answers being part of the inputs.
    """

    name: str
    version: int
    """Raised whenever the code would make other rows from the same inputs."""
    row: type[Row]
    reads: tuple[str, ...]
    run: Callable[..., Iterator[Row]]
    section: Callable[[BuildConfig], Any]
    """The part of the configuration that the rows depend on."""
    source_columns: tuple[str, ...] = ()
    """Where it reads `source`: the columns that its rows depend on. It looks at no others."""
    prompts: tuple[str, ...] = ()
    roles: tuple[Role, ...] = ()
    asks: Callable[[BuildConfig], bool] = lambda config: True
    """Does it use its prompts and models under this configuration? If not, they are no part of its rows' identity."""
    tools: tuple[Callable[[], str], ...] = ()
    """Name and version of each program outside of this package that makes bytes of its rows or files."""
    scope: Scope = Scope.VIDEO
    isolated: bool = False
    """Decodes or computes for long: runs in a child process with a watchdog, and its crash is a reject."""
    timeout_seconds: float = 6 * 3600.0
    """The watchdog's limit for one unit."""
