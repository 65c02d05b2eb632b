"""What the runner writes: commits, plans, records and metrics of a run, and the manifest of a published release."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from schemas.base import Identifier, Model, Row, Sha256, VideoId, digest
from schemas.config import BuildConfig, Role
from schemas.tables import Source


class ModelIdentity(Model):
    """The model behind a role, as far as it decides answers."""

    role: Role
    model: str
    vision: bool


class PromptIdentity(Model):
    prompt_id: str
    sha256: Sha256


class InputIdentity(Model):
    stage: str
    rows_sha256: Sha256


class StageKey(Model):
    """All that a stage's rows depend on. The same key, the same rows: a committed key is never computed again."""

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
    """Names and versions of programs that make bytes of them, such as `ffmpeg 7.1`. Keys without any are as they were
    before there was this field."""


class Commit(Model):
    """The manifest of a finished (stage, unit): written last, never changed."""

    key_sha256: Sha256
    key: StageKey
    rows_sha256: Sha256
    """Names the Parquet object of the rows."""
    rejects_sha256: Sha256
    rows: int = Field(ge=0)
    rejects: int = Field(ge=0)


class Lane(Model):
    """A group of source videos that one chain of tasks works on, independently of all others."""

    index: int = Field(ge=0)
    label: str
    """Short and readable: the first video's id and how many more."""
    sources: tuple[Source, ...] = Field(min_length=1)


class Run(Model):
    """One run of a build: its resolved configuration and the size of its plan. Every task of the run starts from it."""

    run_id: Identifier
    requested: BuildConfig
    """As the user asked for it."""
    config: BuildConfig
    """Resolved: every role names the model that plays it in this run."""
    lanes: int = Field(ge=1)
    videos: int = Field(ge=1)
    plan_rejects_sha256: Sha256
    """Table of the sources that could not be planned."""
    skipped: dict[str, int] = Field(default={})
    """Files and folders that the search for videos has skipped, by kind in words: `.txt files`."""


class GivenIds(Model):
    """`ids.json`: the ids that earlier versions have given in this store, which its videos keep."""

    ids: dict[str, dict[str, VideoId]] = Field(default={})
    """Video ids by source, as a build names it, and by the video's path in it."""


class StageRecord(Model):
    """The commits that one (lane, stage) of a run uses."""

    stage: str
    lane: int | None
    """None for stages over the whole build."""
    commits: dict[str, Commit]
    """By unit."""


class StageMetrics(Model):
    """What one (lane, stage) of a run did and cost; one JSON line."""

    stage: str
    lane: int | None
    units: int
    reused: int
    """Units whose key had been committed before."""
    rows: int
    rejects: dict[str, int]
    """By reason, over all units."""
    wall_seconds: float
    cpu_seconds: float
    """User and system, of the threads or child processes that worked on units. Model servers are not counted."""
    phase_seconds: dict[str, float]
    """Wall seconds of computing, waiting for models, writing."""
    requests: dict[str, int]
    """Model requests sent, by role."""
    journal_hits: dict[str, int]
    """Answers taken from the journal instead, by role."""
    tokens_in: int
    tokens_out: int
    server_busy_share: float
    """Share of the units' own time, added up, with at least one model request under way."""


_BELOW = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")


def _below_a_folder(path: str) -> str:
    """Not absolute, not an address, without `..` and without what a shell, a loader or a store reads as a pattern."""
    if not _BELOW.fullmatch(path):
        raise ValueError(
            "must be a path below the release's folder, of letters, digits, `_`, `-` and `.`: do not use this release"
        )
    return path


PathBelow = Annotated[str, Field(max_length=500), AfterValidator(_below_a_folder)]


class ReleaseFile(Row):
    """One file of a release."""

    path: PathBelow
    """Relative to the release's folder."""
    sha256: Sha256
    bytes: int = Field(gt=0)
    split: str = ""
    videos: int = Field(default=0, ge=0)
    """Records, in tars."""
    samples: int = Field(default=0, ge=0)
    """Questions."""


def content_digest(files: Iterable[ReleaseFile]) -> str:
    """Digest over paths and hashes of a release's files."""
    return digest([[file.path, file.sha256] for file in files])


class Release(Model):
    """`manifest.json` of a published dataset: what it holds and where every file's bytes can be checked."""

    name: str
    version: int = Field(ge=1)
    run_id: Identifier
    """The run that made it."""
    content_sha256: Sha256
    """`content_digest` of the files: equal content, equal digest, so nothing is published twice."""
    samples: dict[str, int]
    """By split."""
    videos: dict[str, int]
    files: tuple[ReleaseFile, ...]

    @model_validator(mode="after")
    def _names_each_file_once(self) -> Release:
        if len({file.path for file in self.files}) != len(self.files):
            raise ValueError("files: a path is named twice; do not use this release")
        return self


class LatestRelease(Model):
    """`latest.json`: the newest version of a dataset, and the run whose tables it comes from."""

    version: int = Field(ge=1)
    run_id: Identifier
