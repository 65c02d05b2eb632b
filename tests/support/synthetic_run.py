"""A run folder as a build leaves it, made without videos or models, for tests of the report, card and validator.

Rows, commits, records and metrics are written through the project's own Store, RunFolder and Commit. The real assemble
stage makes the samples. With `media`, the real shard stage writes shards from small real MP4 files. Everything is
determined by the seed.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from operators.execution.pipeline import BUILD_STAGES, VIDEO_STAGES
from operators.execution.stage import SOURCE, Context
from operators.release.publish import publish
from operators.report import write_report
from operators.stages import assemble, shard
from operators.store.content_store import Store
from operators.store.run_folder import RunFolder
from schemas.base import Row, digest
from schemas.config import AssembleConfig, BuildConfig, ModelConfig, ModelsConfig, ShardConfig
from schemas.run import Commit, Partition, Run, StageKey, StageMetrics, StageRecord
from schemas.sample import Sample
from schemas.tables import (
    Caption,
    Clip,
    Outline,
    PackagedVideo,
    Question,
    Reasoning,
    Reject,
    Trial,
    Video,
)
from tests.support.synthetic_rows import RowMaker, Tables

PARTITION_VIDEOS = 4

_STAGE_ROWS: dict[str, type[Row]] = {
    "ingest": Video,
    "split": Clip,
    "caption": Caption,
    "outline": Outline,
    "question": Question,
    "reason": Reasoning,
    "difficulty": Trial,
    "package": PackagedVideo,
}


def synthetic_run(
    out: Path,
    *,
    videos: int = 24,
    until: str = "assemble",
    nothing_passes: bool = False,
    hostile: bool = False,
    media: bool = False,
    seed: int = 0,
) -> RunFolder:
    """Write a run that has finished every stage up to and including `until`.

    With `nothing_passes`, every question fails its blind check. With `hostile`, every text that a model writes contains
    markup. With `media`, each video has a real file of 2 s, so that `until="shard"` can write tars.
    """
    store = Store(str(out))
    maker = RowMaker(random.Random(seed), nothing_passes, hostile, out / "videos" if media else None)
    sources = tuple(maker.source(index) for index in range(videos))
    partitions = [
        Partition(index=index, label=f"partition {index}", sources=sources[first : first + PARTITION_VIDEOS])
        for index, first in enumerate(range(0, videos, PARTITION_VIDEOS))
    ]
    plan_reject = Reject(stage="plan", unit="all", key="notes", reason="not_a_video", message="notes.txt: not a video")
    config = _config(out, seed)
    run = Run(
        run_id="synthetic-20261122",
        requested=config,
        config=config,
        partitions=len(partitions),
        videos=videos,
        plan_rejects_sha256=store.put_rows([plan_reject], Reject),
        skipped={".srt files": 3},
    )
    folder = RunFolder.create(store, run, partitions)
    tables = {source.source_id: maker.tables(source, index) for index, source in enumerate(sources)}
    for stage in VIDEO_STAGES[: VIDEO_STAGES.index(until) + 1 if until in VIDEO_STAGES else None]:
        for partition in partitions:
            _write_partition(folder, stage, partition, tables)
    for stage in BUILD_STAGES[: BUILD_STAGES.index(until) + 1 if until in BUILD_STAGES else 0]:
        _run_build_stage(folder, stage, list(tables.values()), out)
    return folder


def published_release(out: Path, **options: bool) -> Path:
    """Publish a release from a run whose videos are real files; returns the release folder."""
    folder = synthetic_run(out, videos=12, until="shard", media=True, **options)
    write_report(folder)
    return Path(publish(folder).url)


def _config(out: Path, seed: int) -> BuildConfig:
    return BuildConfig(
        source="videos",
        out=str(out),
        name="synthetic",
        seed=seed,
        partition_videos=PARTITION_VIDEOS,
        assemble=AssembleConfig(eval_fraction=0.25),
        shard=ShardConfig(videos_per_tar=4),
        models=ModelsConfig(
            captioner=ModelConfig(model="vlm-8b", vision=True),
            reasoner=ModelConfig(model="reasoner-120b", vision=False),
            judge=ModelConfig(model="judge-30b", vision=False),
            target=ModelConfig(model="target-7b", vision=True),
        ),
    )


def _write_partition(folder: RunFolder, stage: str, partition: Partition, tables: dict[str, Tables]) -> None:
    commits = {
        source.source_id: _commit(
            folder,
            stage,
            source.source_id,
            tables[source.source_id].rows.get(stage, []),
            tables[source.source_id].rejects.get(stage, []),
            _STAGE_ROWS[stage],
        )
        for source in partition.sources
    }
    folder.write_record(StageRecord(stage=stage, partition=partition.index, commits=commits))
    folder.write_metrics(_metrics(stage, partition.index, commits))


def _run_build_stage(folder: RunFolder, stage: str, tables: list[Tables], out: Path) -> None:
    """Run the real assemble or shard stage on the rows of all videos."""
    scratch = out / "scratch"
    scratch.mkdir(exist_ok=True)
    context = Context(stage, "all", folder.run.config, {}, {}, folder.store, scratch)
    found = assemble if stage == "assemble" else shard
    read = {name: [row for each in tables for row in each.rows.get(name, [])] for name in VIDEO_STAGES}
    read[SOURCE] = list(folder.sources())
    if stage == "shard":
        [assembled] = folder.record("assemble", None).commits.values()
        read["assemble"] = list(folder.store.get_rows(assembled.rows_sha256, Sample))
    declared = list(found.run(context, **{parameter: read[name] for parameter, name in found.STAGE.reads.items()}))
    rejects = [row for row in declared if isinstance(row, Reject)]
    rows = [row for row in declared if not isinstance(row, Reject)]
    commit = _commit(folder, stage, "all", rows, rejects, found.STAGE.row)
    folder.write_record(StageRecord(stage=stage, partition=None, commits={"all": commit}))
    folder.write_metrics(_metrics(stage, None, {"all": commit}))


def _commit(
    folder: RunFolder, stage: str, item: str, rows: Sequence[Row], rejects: Sequence[Reject], row: type[Row]
) -> Commit:
    key = StageKey(stage=stage, version=1, unit=item, seed=0, section="null", prompts=(), models=(), inputs=())
    return folder.store.commit(
        Commit(
            key_sha256=digest(key),
            key=key,
            rows_sha256=folder.store.put_rows(rows, row),
            rejects_sha256=folder.store.put_rows(rejects, Reject),
            rows=len(rows),
            rejects=len(rejects),
        )
    )


def _metrics(stage: str, partition: int | None, commits: dict[str, Commit]) -> StageMetrics:
    """Made-up costs that resemble a build's: they grow with the rows, and model stages mostly wait."""
    rows = sum(commit.rows for commit in commits.values())
    role = {"caption": "captioner", "question": "reasoner", "reason": "reasoner"}
    role |= {"difficulty": "target"}
    requests = {role[stage]: 3 * rows} if stage in role else {}
    wall = 2.0 + 0.05 * rows
    models = 0.8 * wall if requests else 0.0
    return StageMetrics(
        stage=stage,
        partition=partition,
        units=len(commits),
        reused=len(commits) // 4,
        rows=rows,
        rejects={},
        wall_seconds=wall,
        cpu_seconds=wall - models,
        phase_seconds={"models": models, "compute": 0.9 * (wall - models), "write": 0.1 * (wall - models)},
        requests=requests,
        journal_hits={name: count // 10 for name, count in requests.items()},
        tokens_in=900 * sum(requests.values()),
        tokens_out=120 * sum(requests.values()),
        server_busy_share=0.8 if requests else 0.0,
    )
