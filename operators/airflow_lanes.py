"""The tasks that both DAGs share: from a configuration to a published release.

    preflight → plan → lane (one per group of videos: ingest → … → package) → assemble → shard → report → publish

Lanes are a mapped task group: each runs its stages depth-first, at its own pace. Pools bound what all runs do at once.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import BaseOperator, task_group

from operators.airflow_operators import (
    PlanOperator,
    PreflightOperator,
    PublishOperator,
    ReportOperator,
    StageOperator,
)
from operators.pipeline import BUILD_STAGES, VIDEO_STAGES

DECODE_POOL = "lvr_decode"
MODELS_POOL = "lvr_models"

DECODING = ("ingest", "split", "caption", "package")
"""Stages that decode video: bound by the CPU. A captioning server is bounded by its own `concurrency` as well."""

DEFAULT_ARGS: dict[str, Any] = {
    "owner": "longvideo",
    "retries": 4,
    "retry_delay": timedelta(seconds=30),
    "retry_exponential_backoff": 2.0,
    "max_retry_delay": timedelta(minutes=15),
}
"""Retries are for outages; a wrong configuration fails a task at once, whatever is left of them."""

LONG_SILENCE = timedelta(hours=24)
"""Of what may work for long between two lines of its log: encoding one video whole, and what follows the lanes, which
covers the whole build in one unit."""

LANE_LABEL = "{{ task.lane['label'] }}"


def build_tasks(build_config: Any = None) -> BaseOperator:
    """Wire a whole build; returns its first task.

    Args:
        build_config: the configuration as a dict (an XCom); None: made from the run's parameters.
    """
    preflight = PreflightOperator(task_id="preflight", build_config=build_config)
    plan: Any = PlanOperator(task_id="plan", build_config=preflight.output)

    @task_group
    def lane(lane: Any) -> None:
        before: BaseOperator | None = None
        for position, name in enumerate(VIDEO_STAGES, start=1):
            limits: dict[str, Any] = {"silence_limit": LONG_SILENCE} if name == "package" else {}
            stage = StageOperator(
                task_id=name,
                stage=name,
                lane=lane,
                map_index_template=LANE_LABEL,
                priority_weight=position,
                weight_rule="absolute",  # the lane that is furthest goes first
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
    before_tail: Any = lane.expand(lane=plan.output)
    for following in tail:
        before_tail >> following
        before_tail = following
    return preflight


def _place(name: str) -> dict[str, str]:
    """Pool, and queue for executors that have queues."""
    if name in DECODING:
        return {"pool": DECODE_POOL, "queue": "default"}
    return {"pool": MODELS_POOL, "queue": "models"}
