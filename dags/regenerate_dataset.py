"""Airflow DAG that brings a published dataset up to date."""

from datetime import datetime

from airflow.sdk import Param, dag

from operators.airflow.operators import StaleOperator
from operators.airflow.tasks import DEFAULT_ARGS, build_tasks

DOC = """
### What changed since the last published build, and only that

Every day `find_stale` takes the newest published build (or the one that **out** and **name** select) and compares what
it holds with what its configuration would give today: new, changed or vanished videos, other prompts, other models,
newer code. If nothing is stale, the run ends there, skipped, and its log states it. Otherwise the stale part is built,
and a new version is published if its content differs.

New installations have this DAG paused: unpause it to let it run by itself.
"""


@dag(
    dag_id="regenerate_dataset",
    dag_display_name="Regenerate a dataset",
    description="Build and publish again what sources, prompts, models or code have changed.",
    schedule="@daily",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    tags=["longvideo", "regenerate"],
    default_args=DEFAULT_ARGS,
    params={
        "out": Param(
            None,
            type=["null", "string"],
            title="Out",
            description_md="Where the build published. Empty: the newest published build.",
        ),
        "name": Param(
            None,
            type=["null", "string"],
            title="Name",
            description_md="The dataset's name. Empty: the newest published build's, or the only one in Out.",
        ),
        "overrides": Param(
            [],
            type="array",
            items={"type": "string", "pattern": "^[a-z_.]+=.*$"},
            title="Overrides",
            description_md="Settings that differ from that build's, one per line, such as `verify.blind_trials=8`.",
        ),
    },
    doc_md=DOC,
    max_active_tasks=64,
    max_active_runs=1,
    is_paused_upon_creation=True,
)
def regenerate_dataset() -> None:
    stale = StaleOperator(task_id="find_stale")
    stale >> build_tasks(build_config=stale.output["config"])


regenerate_dataset()
