"""Definition of a stage: a pure, retry-safe function from the typed rows of a work item to typed rows and rejects.

A work item is one source video or the whole build. A stage knows nothing about Airflow, paths or other stages. It gets
its input rows, its models and its prompts, and yields rows of one type. The runner (`operators.execution.runner`) is
responsible for identity, reuse, commits, journals and metrics.
"""

from __future__ import annotations

import inspect
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
    from operators.models.client import ModelClient, Refusal
    from operators.models.journal import Journal
    from operators.models.prompts import Prompt

SOURCE = "source"
"""Name of the list of source videos in `Stage.reads` and in keys, next to the names of stages."""


class Files(Protocol):
    """Storage of content-addressed files, alongside the tables."""

    def put_file(self, path: Path) -> str:
        """Store a local file, and return its address relative to the store. Equal bytes have the same address."""

    def fetch(self, address: str, folder: Path) -> Path:
        """Return a local path of a stored file. A file in a remote store is downloaded into the folder."""


@dataclass(frozen=True)
class Context:
    """Everything that a stage may use while it processes one work item."""

    stage: str
    unit: str
    config: BuildConfig
    prompts: Mapping[str, Prompt]
    models: Mapping[Role, ModelClient]
    """Clients of the roles that the stage declares. A role without a model (measured captions, no viewer) is absent."""
    files: Files
    """Files that stages have stored. Source videos are opened through `sources`."""
    scratch: Path
    """An empty local folder, which is removed when the work item is finished."""
    cores: int = 1
    """Number of CPU cores that this work item may use. Rows must not depend on it."""
    sources: SourceFiles = field(default_factory=SourceFiles)
    journal: Journal | None = None
    """Journal of the work item, for answers of servers that are no model role. Clients of roles use it by
    themselves."""

    def reject(self, key: str, reason: str, message: str, raw: str = "", request_sha256: str = "") -> Reject:
        """A reject of this stage and work item.

        `reason` is a word of `schemas.reject_reasons`. `message` says what is wrong and what to do.
        """
        return Reject(
            stage=self.stage,
            unit=self.unit,
            key=key,
            reason=reason,
            message=message,
            raw=raw,
            request_sha256=request_sha256,
        )

    def refuse(self, subject: str, refusal: Refusal) -> Reject:
        """A reject of the row that a model was requested for and did not give. `subject` names it in the message."""
        message = f"{subject}: {refusal.message}"
        return self.reject(refusal.request.key, refusal.reason, message, refusal.raw, refusal.request_sha256)

    def seed(self, *parts: object) -> int:
        """A 31-bit seed that depends only on the build's seed and the parts."""
        return int(digest([self.config.seed, *map(str, parts)])[:8], 16) >> 1


class Scope(Enum):
    """The extent of one work item of a stage: one video or the whole build."""

    VIDEO = "video"
    BUILD = "build"


@dataclass(frozen=True)
class Stage:
    """Declaration of one step of the pipeline.

    `run(context, **inputs)` takes one list of rows for each entry of `reads`, and yields rows of type `row` and
    rejects. Equal inputs must give equal rows, and the models' answers count as inputs.

    Raises:
        TypeError: `reads` does not fit the parameters of `run`, or `source_columns`.
    """

    name: str
    version: int
    """Number that is increased whenever a code change makes the stage yield other rows from the same inputs."""
    row: type[Row]
    reads: Mapping[str, str]
    """Stage whose rows each parameter of `run` takes, or `SOURCE`. The order is that of the key's inputs. If the first
    input has no rows, the stage has nothing to do."""
    run: Callable[..., Iterator[Row]]
    section: Callable[[BuildConfig], Any]
    """Function that returns the part of the configuration that the rows depend on."""
    source_columns: tuple[str, ...] = ()
    """Columns of the source list that the rows depend on, if the stage reads it. The stage reads no other columns."""
    prompts: tuple[str, ...] = ()
    roles: tuple[Role, ...] = ()
    uses_models: Callable[[BuildConfig], bool] = lambda config: True
    """Whether the stage uses its prompts and models under a configuration. If not, they are not part of its keys."""
    tools: tuple[Callable[[], str], ...] = ()
    """Functions that return name and version of each external program that produces bytes of the rows or files."""
    scope: Scope = Scope.VIDEO
    requires_rows_of: str = ""
    """Earlier stage without whose rows of a video this one has nothing to do. Its rows are not read, and the key holds
    only whether there are any."""
    isolated: bool = False
    """Whether the stage runs in a child process with a watchdog, because it decodes or computes for long. A crash of
    the child is a reject."""
    opens_video: Callable[[BuildConfig, Any], bool] = lambda config, row: True
    """Whether an isolated stage opens the video of a row of its first input. If not, it needs no child process and not
    the video's file."""
    timeout_seconds: Callable[[Any], float] = lambda row: 6 * 3600.0
    """The watchdog's time limit for a row of the first input."""

    def __post_init__(self) -> None:
        _, *parameters = inspect.signature(self.run).parameters
        for parameter in parameters:
            if parameter not in self.reads:
                raise TypeError(
                    f"stage {self.name}: `run` has a parameter {parameter!r}, which `reads` does not give; add it to "
                    f"`reads` with the stage whose rows it takes, or remove it"
                )
        for parameter, stage in self.reads.items():
            if parameter not in parameters:
                raise TypeError(
                    f"stage {self.name}: `reads` gives rows of {stage!r} to {parameter!r}, but `run` takes "
                    f"{', '.join(parameters) or 'no rows'}; rename one of the two"
                )
        if self.reads_source != bool(self.source_columns):
            raise TypeError(
                f"stage {self.name}: `reads` and `source_columns` disagree on whether it reads the source list; give "
                f"both or neither"
            )

    @property
    def tables(self) -> tuple[str, ...]:
        """The stages whose tables it reads."""
        return tuple(name for name in self.reads.values() if name != SOURCE)

    @property
    def reads_source(self) -> bool:
        """Whether it reads the list of source videos."""
        return SOURCE in self.reads.values()

    @property
    def first_input(self) -> str:
        """The stage whose rows it works through, or `SOURCE`."""
        return next(iter(self.reads.values()))
