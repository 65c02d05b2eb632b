"""Files that the runner writes: commits, plans, records and metrics of a run, and the manifest of a release."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import AfterValidator, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from schemas.base import Identifier, Model, Row, Sha256, VideoId, accept_earlier_names, digest
from schemas.config import BuildConfig, Role
from schemas.tables import Source


class ModelIdentity(Model):
    """The model behind a role, as far as its answers depend on it."""

    role: Role
    model: str
    vision: bool
    settings: str = ""
    """Settings that change its answers, as JSON; empty if all are unset."""

    @model_serializer(mode="wrap")
    def _omit_unset_settings(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave keys as they were before there were settings."""
        values: dict[str, Any] = dump(self)
        return values if self.settings else {name: value for name, value in values.items() if name != "settings"}


class PromptIdentity(Model):
    """A prompt, and the hash of its text and its answer schema."""

    prompt_id: str
    sha256: Sha256


class InputIdentity(Model):
    """A table that a stage reads, by the stage that wrote it and the hash of its rows."""

    stage: str
    rows_sha256: Sha256


class StageKey(Model):
    """Everything that a stage's rows depend on. Equal keys give equal rows: a committed key is never computed again."""

    stage: str
    version: int
    unit: str
    seed: int
    section: str
    """The stage's part of the configuration, as canonical JSON."""
    prompts: tuple[PromptIdentity, ...]
    models: tuple[ModelIdentity, ...]
    inputs: tuple[InputIdentity, ...]
    tools: tuple[str, ...] = Field(default=(), exclude_if=lambda tools: not tools)
    """Names and versions of the programs that write bytes of the rows, such as `ffmpeg 7.1`. An empty tuple is omitted
    from the JSON, so that keys from before this field existed are unchanged."""


class Commit(Model):
    """The manifest of a finished work item of a stage. It is written last and never changed."""

    key_sha256: Sha256
    key: StageKey
    rows_sha256: Sha256
    """Hash that names the Parquet object of the rows."""
    rejects_sha256: Sha256
    """Hash that names the Parquet object of the rejects."""
    rows: int = Field(ge=0)
    rejects: int = Field(ge=0)


class Partition(Model):
    """A partition: a group of source videos that one chain of tasks works on, independently of all others."""

    index: int = Field(ge=0)
    label: str
    """Short and readable: the first video's id and the number of the others."""
    sources: tuple[Source, ...] = Field(min_length=1)


_EARLIER_SETTINGS = {
    "question": ("per_category",),
    "verify": ("blind_limit", "grounded_trials", "grounded_limit"),
    "difficulty": ("frames", "frame_side"),
}
"""Settings of earlier versions by section. A new build that names one of them fails."""


class Run(Model):
    """One run of a build: its resolved configuration and the size of its plan. Every task of the run starts from it."""

    _earlier_names = accept_earlier_names(lanes="partitions")

    @model_validator(mode="before")
    @classmethod
    def _drop_earlier_settings(cls, values: Any) -> Any:
        """Runs of earlier versions have settings that are gone. They describe what that version did."""
        builds = [values.get(name) for name in ("requested", "config")] if isinstance(values, dict) else []
        for build in filter(None, builds):
            for section, settings in _EARLIER_SETTINGS.items() if isinstance(build, dict) else ():
                for setting in settings if isinstance(build.get(section), dict) else ():
                    build[section].pop(setting, None)
        return values

    run_id: Identifier
    requested: BuildConfig
    """The configuration as the user requested it."""
    config: BuildConfig
    """The resolved configuration: every role names the model that plays it in this run."""
    partitions: int = Field(ge=1)
    videos: int = Field(ge=1)
    plan_rejects_sha256: Sha256
    """Hash of the table of sources that could not be planned."""
    skipped: dict[str, int] = Field(default={})
    """Number of files and folders that the search for videos skipped, by kind, such as `.txt files`."""


class GivenIds(Model):
    """`ids.json`: the video ids that earlier versions assigned in this store. Its videos keep them."""

    ids: dict[str, dict[str, VideoId]] = Field(default={})
    """Video ids by source, as a build names it, and by the video's path in the source."""


class StageRecord(Model):
    """The commits of one stage that a run uses, in one partition or over the whole build."""

    _earlier_names = accept_earlier_names(lane="partition")

    stage: str
    partition: int | None
    """None for stages over the whole build."""
    commits: dict[str, Commit]
    """Commits by work item."""


class StageMetrics(Model):
    """Work and cost of one stage in one partition of a run; one JSON line."""

    _earlier_names = accept_earlier_names(lane="partition")

    stage: str
    partition: int | None
    units: int
    """Number of work items."""
    reused: int
    """Number of work items whose key had been committed before."""
    rows: int
    rejects: dict[str, int]
    """Number of rejects by reason, over all work items."""
    wall_seconds: float
    cpu_seconds: float
    """CPU seconds (user and system) of the threads or child processes that computed work items. Model servers are not
    counted."""
    phase_seconds: dict[str, float]
    """Wall-clock seconds by phase: computing, waiting for models, writing."""
    requests: dict[str, int]
    """Number of model requests sent, by role."""
    journal_hits: dict[str, int]
    """Number of answers read from the journal instead, by role."""
    tokens_in: int
    tokens_out: int
    server_busy_share: float
    """Share of the work items' summed time with at least one model request in flight."""


_RELATIVE_PATH = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")


def _check_relative_path(path: str) -> str:
    """Accept a relative path without `..` and without characters that a shell, a loader or a store reads as a pattern.

    Raises:
        ValueError: any other path, also an absolute one or an address.
    """
    if not _RELATIVE_PATH.fullmatch(path):
        raise ValueError(
            "must be a path below the release's folder, of letters, digits, `_`, `-` and `.`: do not use this release"
        )
    return path


PathBelow = Annotated[str, Field(max_length=500), AfterValidator(_check_relative_path)]


class ReleaseFile(Row):
    """One file of a release."""

    path: PathBelow
    """Path relative to the release's folder."""
    sha256: Sha256
    bytes: int = Field(gt=0)
    split: str = ""
    videos: int = Field(default=0, ge=0)
    """Number of source videos. In a tar, each is one record."""
    samples: int = Field(default=0, ge=0)
    """Number of samples, one per question."""


def content_digest(files: Iterable[ReleaseFile]) -> str:
    """Digest over the paths and hashes of a release's files."""
    return digest([[file.path, file.sha256] for file in files])


class Release(Model):
    """`manifest.json` of a release: its contents, and the hash by which every file can be checked."""

    name: str
    version: int = Field(ge=1)
    run_id: Identifier
    """The run that made the release."""
    content_sha256: Sha256
    """`content_digest` of the files. Equal content has an equal digest, so that nothing is published twice."""
    samples: dict[str, int]
    """Number of samples by split."""
    videos: dict[str, int]
    """Number of source videos by split."""
    files: tuple[ReleaseFile, ...]

    @model_validator(mode="after")
    def _names_each_file_once(self) -> Release:
        if len({file.path for file in self.files}) != len(self.files):
            raise ValueError("files: a path is named twice; do not use this release")
        return self


class LatestRelease(Model):
    """`latest.json`: the newest version of a dataset, and the last run that published this content."""

    version: int = Field(ge=1)
    run_id: Identifier
