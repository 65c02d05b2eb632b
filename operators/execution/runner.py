"""Runs stages. It handles identity, reuse, isolation, commits, records and metrics, so that stages are pure functions.

A work item, the unit of work and of reuse, is one source video, or the whole build for the last stages. Its key covers
everything that its rows depend on (`StageKey`). A committed key is never computed again, by any run or partition. So
adding a video, moving videos between partitions or killing a task loses no finished work.

A fault of the machine is not a property of a video. A work item with a temporary reject (`Reject.is_temporary`) has it
in this run's record, but is not committed, so that the next run tries it again.
"""

from __future__ import annotations

import errno
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path

from operators.execution.identity import WHOLE_BUILD, WorkItem, prompt_identity, stage_key
from operators.execution.pipeline import stage as stage_named
from operators.execution.progress import StageProgress
from operators.execution.rejects import read_rejects
from operators.execution.stage import SOURCE, Context, Scope, Stage
from operators.models.client import ModelClient
from operators.models.journal import Journal
from operators.models.prompts import load_prompt
from operators.models.session import open_models
from operators.process.isolate import ChildFailed, process_cpu_seconds, run_isolated
from operators.process.scratch import scratch_folder
from operators.sources.access import SourceFiles
from operators.sources.listing import source_files
from operators.store.content_store import SourceUnavailable, Store, explain, space_problem
from operators.store.run_folder import RunFolder
from schemas.base import Row, digest
from schemas.config import BuildConfig
from schemas.errors import Outage
from schemas.reject_reasons import FILE_REASONS, MACHINE_REASONS
from schemas.run import (
    Commit,
    Partition,
    StageKey,
    StageMetrics,
    StageRecord,
)
from schemas.storage import StoreError
from schemas.tables import Reject, Source
from schemas.uri import shown_uri, without_secrets

log = logging.getLogger(__name__)


MODEL_BOUND_WORKERS = 8
"""Number of work items that a stage waiting for models processes concurrently. They share each role's limit on
concurrent requests."""

MAX_CONSECUTIVE_FAULTS = 10
"""Number of consecutive videos with faults of the machine at which the machine, or the storage that it reads from, is
considered down."""


class StopOnFailure:
    """Stops the stages that share it from starting more work after the first failure.

    It is a context manager that several threads enter. After one of its blocks has failed, entering it raises that
    failure again.
    """

    def __init__(self) -> None:
        self._failure: BaseException | None = None
        self._faults = 0

    def count(self, fault: Reject | None) -> None:
        """Count a computed work item, and whether it failed because of the machine.

        A file that was removed or replaced is not counted as a fault of the machine. The build continues regardless of
        how many there are.

        Raises:
            Outage: `MAX_CONSECUTIVE_FAULTS` consecutive work items had a fault of the machine.
        """
        if fault and fault.reason in FILE_REASONS:
            return
        self._faults = self._faults + 1 if fault else 0
        if fault and self._faults >= MAX_CONSECUTIVE_FAULTS:
            raise Outage(
                f"{self._faults} videos in a row met faults of the machine, the last: {fault.message}. Look at the "
                f"disk or mount and run again; finished work is kept"
            )

    def __enter__(self) -> None:
        if self._failure is not None:
            raise self._failure

    def __exit__(self, kind: object, failure: BaseException | None, trace: object) -> None:
        self._failure = self._failure or failure


@dataclass(frozen=True)
class WorkResult:
    """A work item's commit and the cost of computing it. A reused work item cost nothing."""

    commit: Commit
    reused: bool
    cpu_seconds: float = 0.0
    phase_seconds: Mapping[str, float] | None = None
    usage: Mapping[str, Mapping[str, float]] | None = None
    """Model usage by role: requests, journal_hits, tokens_in, tokens_out, busy_seconds."""
    fault: Reject | None = None
    """First reject that is a fault of the machine, if any. Then the commit is in this run's record only."""


def run_stage(
    folder: RunFolder,
    name: str,
    partition: int | None = None,
    *,
    workers: int | None = None,
    report: Callable[[StageProgress], None] = lambda progress: None,
    halt: StopOnFailure | None = None,
) -> StageMetrics:
    """Run a stage of a run for one partition or for the whole build, and record its commits and metrics.

    Args:
        partition: index of the partition, for per-video stages. None for a stage over the whole build.
        workers: number of work items that an isolated stage processes concurrently, by default one per core. Other
            stages mostly wait for models and process `MODEL_BOUND_WORKERS` work items concurrently.
        report: called once before the first work item and after each finished one.
        halt: shared by stages that run concurrently. After a failure in one, none of them starts another work item.

    Raises:
        ModelUnavailable: a model server failed permanently. Finished work items and journaled answers are kept.
        StoreError: the store cannot be written.
        Outage: `MAX_CONSECUTIVE_FAULTS` consecutive videos had faults of the machine.
        RunMissing: the partition does not exist, or a stage that this one reads has not finished.
        ValueError: a per-video stage was called without a partition.
    """
    started = time.perf_counter()
    stage = stage_named(name)
    inputs = list(_work_items(folder, stage, partition))
    if stage.uses_models(folder.run.config):
        for prompt in map(load_prompt, stage.prompts):
            folder.write_prompt(prompt_identity(prompt), prompt.source)
    earlier = folder.attempts(name, partition)
    outcomes: dict[str, WorkResult] = {}
    reasons: Counter[str] = Counter()
    at_once = (workers or os.cpu_count() or 1) if stage.isolated else MODEL_BOUND_WORKERS
    cores = max(1, at_once // len(inputs)) if stage.isolated else 1
    halt = halt or StopOnFailure()

    def work(item: WorkItem) -> WorkResult:
        with halt:
            outcome = run_work_item(folder.store, folder.run.config, stage, item, cores)
            if outcome.fault:
                log.warning("%s", outcome.fault.message)
            if not outcome.reused:
                halt.count(outcome.fault)
            return outcome

    report(StageProgress(name, partition, done=0, reused=0, total=len(inputs), rejects=0, seconds=0.0))
    with ThreadPoolExecutor(max_workers=min(at_once, len(inputs))) as pool, halt:
        futures = {pool.submit(work, item): item.unit for item in inputs}
        for future in as_completed(futures):
            outcome = outcomes[futures[future]] = future.result()
            reasons.update(reject.reason for reject in read_rejects(folder.store, outcome.commit))
            metrics = _metrics(name, partition, outcomes.values(), reasons, time.perf_counter() - started)
            if not outcome.reused or len(outcomes) == len(inputs):  # written early, in case this process is killed
                folder.write_metrics(metrics, earlier)
            report(_progress(metrics, len(inputs)))
    commits = {item.unit: outcomes[item.unit].commit for item in inputs}
    folder.write_record(StageRecord(stage=name, partition=partition, commits=commits))
    return metrics


def run_work_item(store: Store, config: BuildConfig, stage: Stage, item: WorkItem, cores: int = 1) -> WorkResult:
    """Return the existing commit for a work item's key, or compute the work item and return its new commit.

    A crash, a timeout or an exceeded limit of an isolated stage becomes a reject of the work item.

    Raises:
        StoreError: no space is left, in the store or for scratch files.
        NotStarted: no child process could be started for an isolated stage.
        Stopped: the child process of an isolated stage was stopped.
    """
    key = stage_key(stage, config, item)
    if commit := store.find_commit(stage.name, digest(key)):
        return WorkResult(commit, reused=True)
    opened: list[Row] = []
    if stage.isolated and not item.empty:
        opened = [row for row in read_input(store, stage.first_input, item) if stage.opens_video(config, row)]
    files = source_files(config, item.sources)
    item = replace(item, files=files, isolated=bool(opened))
    with scratch_folder(stage.name) as scratch:
        if not item.isolated:
            return compute_work_item(store.url, config, key, item, scratch, cores)
        try:
            limit = sum(map(stage.timeout_seconds, opened))
            work = (compute_work_item, store.url, config, key, item, scratch, cores)
            return run_isolated(*work, timeout_seconds=limit, modules=[stage.run.__module__])
        except ChildFailed as failure:
            again = "the next run" if failure.reason in MACHINE_REASONS else "`lvr replay`"
            message = f"{item.unit}: {stage.name} failed: {failure}; {again} tries again"
            reject = _item_reject(key, failure.reason, message)
            return WorkResult(_commit(store, stage, key, [], [reject]), reused=False, fault=_fault([reject]))


def compute_work_item(
    store_url: str, config: BuildConfig, key: StageKey, item: WorkItem, scratch: Path, cores: int = 1
) -> WorkResult:
    """Compute and commit one work item in this process.

    Its arguments are picklable, because isolated stages run it in a child process.

    Raises:
        StoreError: no space is left, in the store or for scratch files.
        Outage: the stage's prompts were edited while it ran, or a stage over the whole build had a system error.
        OSError: a file exceeded the size limit of this process (EFBIG).
    """
    stage = stage_named(key.stage)
    store = Store(store_url)
    cpu_seconds = process_cpu_seconds if item.isolated else time.thread_time
    cpu_started = cpu_seconds()
    started = time.perf_counter()
    inputs = {parameter: read_input(store, name, item) for parameter, name in stage.reads.items()}
    try:
        _assert_unchanged(item)
        has_work = bool(next(iter(inputs.values()))) and not item.empty
        produced, usage = (
            _produce(stage, store, config, key, inputs, scratch, cores, item.files) if has_work else ([], {})
        )
    except SourceUnavailable as gone:
        produced, usage = [_item_reject(key, gone.reason, f"{key.unit}: {gone}")], {}
    except OSError as error:
        if outage := space_problem(error, str(error.filename or scratch)):
            raise outage from error
        if error.errno == errno.EFBIG:  # a limit of this process, which the caller that set it handles
            raise
        if stage.scope is Scope.BUILD:
            raise Outage(f"{stage.name}: {error}; check the disk and run again, finished work is kept") from error
        produced, usage = [_item_reject(key, "system_error", _system_error(key, item, error))], {}
    computed = time.perf_counter()
    if stage_key(stage, config, item) != key:
        raise Outage(f"{key.unit}: the prompts of {stage.name} changed while it ran; run it again")
    rejects = [row for row in produced if isinstance(row, Reject)]
    rows = [row for row in produced if not isinstance(row, Reject)]
    commit = _commit(store, stage, key, rows, rejects)
    cpu_ended = cpu_seconds()
    model_seconds = sum(role["busy_seconds"] for role in usage.values())
    phases = {
        "models": model_seconds,
        "compute": max(0.0, computed - started - model_seconds),
        "write": time.perf_counter() - computed,
    }
    return WorkResult(commit, False, cpu_ended - cpu_started, phases, usage, _fault(rejects))


def _assert_unchanged(item: WorkItem) -> None:
    """Check that the sources that an isolated stage opens are still the files that the build was planned with.

    The rows are committed under a key that identifies the planned files.

    Raises:
        SourceUnavailable: a source has changed.
    """
    for source in item.sources if item.isolated else ():
        if item.files.fingerprint(source) != source.fingerprint:
            message = f"{shown_uri(source.uri)} has changed since the build was planned; run it again"
            raise SourceUnavailable("source_changed", message)


def _produce(
    stage: Stage,
    store: Store,
    config: BuildConfig,
    key: StageKey,
    inputs: Mapping[str, Sequence[Row]],
    scratch: Path,
    cores: int,
    files: SourceFiles,
) -> tuple[list[Row], dict[str, dict[str, float]]]:
    """Run the stage on one work item. Returns its rows and rejects, and the model usage by role."""
    journal = Journal(f"{store.url}/journal/{stage.name}/{key.unit}")
    with open_models(config.models, stage.roles, journal) as models:
        context = Context(
            stage=stage.name,
            unit=key.unit,
            config=config,
            prompts={prompt: load_prompt(prompt) for prompt in stage.prompts},
            models=models,
            files=store,
            scratch=scratch,
            cores=cores,
            sources=files,
            journal=journal,
        )
        produced = list(stage.run(context, **inputs))
        return produced, {role.value: _usage(client) for role, client in models.items()}


def _system_error(key: StageKey, item: WorkItem, error: OSError) -> str:
    files = ", ".join(shown_uri(source.uri) for source in item.sources)
    problem = without_secrets(str(error), item.files.addresses.values())
    return (
        f"{key.unit}: {key.stage} of {files}: {problem}; check the file and its disk or mount, the next run tries again"
    )


def _item_reject(key: StageKey, reason: str, message: str) -> Reject:
    return Reject(stage=key.stage, unit=key.unit, key=key.unit, reason=reason, message=message)


def _commit(store: Store, stage: Stage, key: StageKey, rows: Sequence[Row], rejects: Sequence[Reject]) -> Commit:
    """Store a work item's tables and its commit. The commit is not stored if a reject is a fault of the machine."""
    for row in rows:
        assert isinstance(row, stage.row), f"{stage.name} yielded {type(row).__name__}, not {stage.row.__name__}"
    commit = Commit(
        key_sha256=digest(key),
        key=key,
        rows_sha256=store.put_rows(rows, stage.row),
        rejects_sha256=store.put_rows(rejects, Reject),
        rows=len(rows),
        rejects=len(rejects),
    )
    return commit if _fault(rejects) else store.commit(commit)


def _fault(rejects: Sequence[Reject]) -> Reject | None:
    return next((reject for reject in rejects if reject.is_temporary), None)


def _work_items(folder: RunFolder, stage: Stage, partition: int | None) -> Iterator[WorkItem]:
    if stage.scope is Scope.VIDEO:
        if partition is None:
            raise ValueError(f"stage {stage.name} runs per partition: choose one of 0..{folder.run.partitions - 1}")
        yield from _partition_inputs(folder, stage, folder.partition(partition))
        return
    tables = {name: _all_tables(folder, name) for name in stage.tables}
    yield WorkItem(WHOLE_BUILD, tables, folder.sources() if stage.reads_source else ())


def _all_tables(folder: RunFolder, name: str) -> tuple[str, ...]:
    """Tables of all work items of a finished stage, as sha256.

    They are sorted by work item, so that later rows do not depend on the partitions.
    """
    over_build = stage_named(name).scope is Scope.BUILD
    records = [folder.record(name, partition) for partition in ([None] if over_build else range(folder.run.partitions))]
    commits = {unit: commit for record in records for unit, commit in record.commits.items()}
    return tuple(commits[unit].rows_sha256 for unit in sorted(commits))


def _partition_inputs(folder: RunFolder, stage: Stage, partition: Partition) -> Iterator[WorkItem]:
    required = [stage.requires_rows_of] if stage.requires_rows_of else []
    records = {name: folder.record(name, partition.index) for name in (*stage.tables, *required)}
    for source in partition.sources:
        yield video_input(stage, source, {name: record.commits[source.source_id] for name, record in records.items()})


def video_input(stage: Stage, source: Source, commits: Mapping[str, Commit]) -> WorkItem:
    """Input of a stage for one video.

    Args:
        commits: the video's commits by stage: those of `stage.tables`, and of `stage.requires_rows_of` if it is known.
            Else its rows are assumed to exist.
    """
    tables = {name: (commits[name].rows_sha256,) for name in stage.tables}
    required = {stage.first_input, stage.requires_rows_of} & commits.keys()
    is_empty = not all(commits[name].rows for name in required)
    return WorkItem(source.source_id, tables, (source,), empty=is_empty)


def read_input(store: Store, name: str, item: WorkItem) -> list[Row]:
    """Read the rows of one input of a stage: those of another stage, or the work item's sources."""
    if name == SOURCE:
        return list(item.sources)
    model = stage_named(name).row
    with ThreadPoolExecutor(max_workers=16) as pool:  # for remote stores, with one small object per video
        tables = pool.map(lambda sha256: store.get_rows(sha256, model), item.tables[name])
        try:
            return [row for table in tables for row in table]
        except OSError as error:
            raise StoreError(explain(error, store.url)) from error


def _usage(client: ModelClient) -> dict[str, float]:
    used = client.usage
    return {
        "requests": used.requests,
        "journal_hits": used.journal_hits,
        "tokens_in": used.tokens_in,
        "tokens_out": used.tokens_out,
        "busy_seconds": used.busy_seconds,
    }


def _progress(metrics: StageMetrics, total: int) -> StageProgress:
    return StageProgress(
        metrics.stage,
        metrics.partition,
        done=metrics.units,
        reused=metrics.reused,
        total=total,
        rejects=sum(metrics.rejects.values()),
        seconds=metrics.wall_seconds,
    )


def _metrics(
    name: str, partition: int | None, done: Collection[WorkResult], reasons: Mapping[str, int], wall_seconds: float
) -> StageMetrics:
    phases: Counter[str] = Counter()
    usage: dict[str, Counter[str]] = {}
    for outcome in done:
        phases.update(outcome.phase_seconds or {})
        for role, counts in (outcome.usage or {}).items():
            usage.setdefault(role, Counter()).update(counts)
    busy, worked = phases["models"], sum(phases.values())
    return StageMetrics(
        stage=name,
        partition=partition,
        units=len(done),
        reused=sum(outcome.reused for outcome in done),
        rows=sum(outcome.commit.rows for outcome in done),
        rejects=dict(sorted(reasons.items())),
        wall_seconds=wall_seconds,
        cpu_seconds=sum(outcome.cpu_seconds for outcome in done),
        phase_seconds={phase: round(seconds, 6) for phase, seconds in phases.items()},
        requests={role: int(counts["requests"]) for role, counts in usage.items()},
        journal_hits={role: int(counts["journal_hits"]) for role, counts in usage.items()},
        tokens_in=int(sum(counts["tokens_in"] for counts in usage.values())),
        tokens_out=int(sum(counts["tokens_out"] for counts in usage.values())),
        server_busy_share=min(1.0, busy / worked) if worked else 0.0,
    )
