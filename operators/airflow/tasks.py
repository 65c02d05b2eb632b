"""The tasks that both DAGs share, from a configuration to a published release.

    preflight → plan → partition (one per group of videos: ingest → … → package) → assemble → shard → report → publish

`partition` is a mapped task group, with one mapped instance for each partition of the source videos. A partition runs
its stages depth-first and does not wait for the other partitions. Pools bound how many tasks of all runs execute
concurrently.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import BaseOperator, task_group

from operators.airflow.operators import (
    PlanOperator,
    PreflightOperator,
    PublishOperator,
    ReportOperator,
    StageOperator,
)
from operators.execution.pipeline import BUILD_STAGES, VIDEO_STAGES

DECODE_POOL = "lvr_decode"
MODELS_POOL = "lvr_models"

DECODING = ("ingest", "split", "caption", "package")
"""CPU-bound stages that decode video. The `concurrency` setting also bounds the requests to a captioning server."""

DEFAULT_ARGS: dict[str, Any] = {
    "owner": "longvideo",
    "retries": 4,
    "retry_delay": timedelta(seconds=30),
    "retry_exponential_backoff": 2.0,
    "max_retry_delay": timedelta(minutes=15),
}
"""Retries are for outages. A wrong configuration fails a task immediately, even if it has retries left."""

LONG_SILENCE = timedelta(hours=24)
"""Silence limit of tasks that can work for a long time between two lines of their log.

These are the tasks after the partitions, which process the whole build as one work item.
"""

PACKAGE_SILENCE = timedelta(days=7)
"""Silence limit of `package`, which may encode a whole video. It is above every limit of one video."""

PARTITION_LABEL = "{{ task.partition['label'] }}"


def build_tasks(build_config: Any = None) -> BaseOperator:
    """Create and connect the tasks of a whole build, and return the first one.

    Args:
        build_config: the configuration as a dict (an XCom). None means that it is made from the run's parameters.
    """
    preflight = PreflightOperator(task_id="preflight", build_config=build_config)
    plan: Any = PlanOperator(task_id="plan", build_config=preflight.output)

    @task_group
    def partition(partition: Any) -> None:
        before: BaseOperator | None = None
        for position, name in enumerate(VIDEO_STAGES, start=1):
            limits: dict[str, Any] = {"silence_limit": PACKAGE_SILENCE} if name == "package" else {}
            stage = StageOperator(
                task_id=name,
                stage=name,
                partition=partition,
                map_index_template=PARTITION_LABEL,
                priority_weight=position,
                weight_rule="absolute",  # the partition that is furthest along goes first
                **limits,
                **_place(name),
            )
            if before is not None:
                before >> stage
            before = stage

    run_url = plan.output["run"]
    whole: dict[str, Any] = {"run_url": run_url, "silence_limit": LONG_SILENCE}
    tail: list[BaseOperator] = [
        *(StageOperator(task_id=name, stage=name, **whole, **_place("ingest")) for name in BUILD_STAGES),
        ReportOperator(task_id="report", **whole),
        PublishOperator(task_id="publish", **whole),
    ]
    before_tail: Any = partition.expand(partition=plan.output)
    for following in tail:
        before_tail >> following
        before_tail = following
    return preflight


def _place(name: str) -> dict[str, str]:
    """Pool of a stage's task, and its queue for executors that have queues."""
    if name in DECODING:
        return {"pool": DECODE_POOL, "queue": "default"}
    return {"pool": MODELS_POOL, "queue": "models"}
