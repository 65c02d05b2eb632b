"""A build from its configuration to a published release: plan, run every stage, report, publish.

The DAGs run the same steps as Airflow tasks. `run_build` runs them in one process tree, for debugging, for tests and
for GPU hosts without Airflow.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass

from operators.execution.pipeline import BUILD_STAGES, VIDEO_STAGES
from operators.execution.progress import StageProgress
from operators.execution.runner import StopOnFailure, run_stage
from operators.models.session import resolve
from operators.preflight import preflight
from operators.release.publish import Published, publish
from operators.settings import assert_no_secret
from operators.sources.ids import keep_given_ids, read_given_ids
from operators.sources.listing import read_sources
from operators.speech.transcription import resolve_speech
from operators.store.content_store import Store
from operators.store.run_folder import RunFolder
from schemas.base import digest
from schemas.config import BuildConfig
from schemas.errors import BadInput, Outage
from schemas.run import Partition, Run, StageMetrics
from schemas.tables import Reject, Source
from schemas.uri import shown_uri

log = logging.getLogger(__name__)


class NothingToBuild(BadInput):
    """None of the listed sources can be used. The message says why."""


def new_run_id(name: str) -> str:
    """A new run id, `{name}-{UTC time}-{4 random hex digits}`.

    Run ids of one name sort by time, and the random digits distinguish runs started in the same second.
    """
    return f"{name}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{secrets.token_hex(2)}"


def run_id_from(text: str) -> str:
    """A valid run id made from any text, such as Airflow's `manual__2026-11-22T10:00:00+00:00`.

    Characters outside `[A-Za-z0-9_-]` become `-`. A result longer than 96 characters is cut to 87 and gets a hash of
    the text, which distinguishes it from others with the same beginning.
    """
    legal = re.sub(r"[^A-Za-z0-9_-]+", "-", text).strip("-")
    return legal if len(legal) <= 96 else f"{legal[:87]}-{digest(text)[:8]}"


def plan_build(config: BuildConfig, run_id: str, environ: Mapping[str, str] = os.environ) -> RunFolder:
    """Resolve the models, list the sources, group them into partitions and write the run's plan.

    Raises:
        ConfigError: an address in the configuration contains a secret.
        SourceError: the source cannot be read.
        NothingToBuild: the source lists videos, but none of them can be used.
        Outage: none of the videos is reachable.
    """
    assert_no_secret(config)
    resolved = config.model_copy(
        update={"models": resolve(config.models, environ), "caption": resolve_speech(config.caption, environ)}
    )
    store = Store(config.out)
    given = read_given_ids(store)
    listing = read_sources(config.source, config.media_root, config.allowed_roots, given, store)
    if not listing.sources:
        first = listing.rejects[0]
        if all(reject.reason == "unreachable" for reject in listing.rejects):
            raise Outage(
                f"source {config.source!r}: none of its {len(listing.rejects)} videos answers: {first.message}"
            )
        raise NothingToBuild(
            f"source {config.source!r}: none of its {len(listing.rejects)} videos can be used; "
            f"the first: {first.reason}: {first.message}"
        )
    partitions = make_partitions(listing.sources, config.partition_videos)
    store.remove_unfinished()
    keep_given_ids(store, given)
    run = Run(
        run_id=run_id,
        requested=config,
        config=resolved,
        partitions=len(partitions),
        videos=len(listing.sources),
        plan_rejects_sha256=store.put_rows(listing.rejects, Reject),
        skipped=dict(listing.skipped),
    )
    return RunFolder.create(store, run, partitions)


def make_partitions(sources: tuple[Source, ...], partition_videos: int) -> list[Partition]:
    """Split the sources into partitions of at most `partition_videos`, keeping their order."""
    return [
        Partition(index=index, label=_label(group), sources=group)
        for index, group in enumerate(
            sources[first : first + partition_videos] for first in range(0, len(sources), partition_videos)
        )
    ]


def _label(group: tuple[Source, ...]) -> str:
    first = group[0].source_id
    return first if len(group) == 1 else f"{first} +{len(group) - 1}"


@dataclass(frozen=True)
class BuildResult:
    """The run, the release and the stage metrics of a finished build."""

    folder: RunFolder
    published: Published
    metrics: tuple[StageMetrics, ...]

    @property
    def reused(self) -> int:
        """Number of work items, over all stages, whose commits already existed."""
        return sum(stage.reused for stage in self.metrics)

    @property
    def computed(self) -> int:
        """Number of work items, over all stages, that this build computed."""
        return sum(stage.units - stage.reused for stage in self.metrics)


def run_build(
    config: BuildConfig,
    *,
    concurrent_partitions: int = 2,
    report: Callable[[StageProgress], None] = lambda progress: None,
) -> BuildResult:
    """Run a whole build in this process and its children, with the models named by the environment.

    After a failure no partition starts another work item. Work items that are already running in other partitions are
    finished and committed.

    Args:
        concurrent_partitions: number of partitions processed concurrently. The stages of one partition run one after
        another.
        report: called when a stage starts and after every finished work item, from several threads.

    Raises:
        PreflightFailed, SourceError, NothingToBuild: before any work has started.
        ModelUnavailable, StoreError: an outage during the build. Running it again resumes where it stopped.
    """
    for note in preflight(config):
        log.info("%s", note)
    folder = plan_build(config, new_run_id(config.name))
    log.info("run %s: %d videos in %d partitions", shown_uri(folder.url), folder.run.videos, folder.run.partitions)
    workers = max(1, (os.cpu_count() or 1) // min(concurrent_partitions, folder.run.partitions))
    halt = StopOnFailure()
    pool = ThreadPoolExecutor(max_workers=concurrent_partitions)
    try:
        partitions = [
            pool.submit(_run_partition, folder, partition, workers, report, halt)
            for partition in range(folder.run.partitions)
        ]
        for partition in as_completed(partitions):
            partition.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    for name in BUILD_STAGES:
        run_stage(folder, name, report=report)
    from operators.report import write_report  # imports pandas, which planning a build does not need

    write_report(folder)
    published = publish(folder)
    return BuildResult(folder, published, tuple(folder.metrics()))


def _run_partition(
    folder: RunFolder, partition: int, workers: int, report: Callable[[StageProgress], None], halt: StopOnFailure
) -> None:
    for name in VIDEO_STAGES:
        with halt:
            run_stage(folder, name, partition, workers=workers, report=report, halt=halt)
