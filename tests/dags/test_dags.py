"""Requirements on every DAG file: it parses alone and fast, documents itself, and stays the same."""

import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from operators.execution.pipeline import BUILD_STAGES, VIDEO_STAGES, stage
from operators.stages.package import LONGEST_SECONDS
from tests.support.airflow_home import ROOT, dag_bag

FILES = sorted((ROOT / "dags").glob("*.py"))
IDS = [file.stem for file in FILES]
HEAVY = ("torch", "pyarrow", "numpy", "pandas", "cv2", "av", "scenedetect", "typer")


@pytest.fixture(scope="module", params=IDS)
def dag(request):
    return dag_bag().dags[request.param]


def test_files_parse_to_one_dag_each_of_the_same_name():
    assert dag_bag().import_errors == {}
    assert {dag_id: Path(dag.fileloc).stem for dag_id, dag in dag_bag().dags.items()} == {name: name for name in IDS}


def test_a_dag_has_a_description_and_an_owner(dag):
    assert "longvideo" in dag.tags
    assert len(dag.doc_md) > 300 and dag.description and dag.dag_display_name
    assert not dag.catchup
    assert dag.max_active_runs and dag.max_active_tasks >= 16
    for task in dag.tasks:
        assert task.owner == "longvideo"


def test_outages_are_tried_again_with_growing_pauses(dag):
    for task in dag.tasks:
        assert task.retries >= 3
        assert task.retry_exponential_backoff == 2.0
        assert task.retry_delay < task.max_retry_delay <= timedelta(hours=1)


def test_stages_follow_one_another_inside_their_partition(dag):
    before = "plan"
    for name in VIDEO_STAGES:
        task = dag.get_task(f"partition.{name}")
        assert task.upstream_task_ids - {"plan"} == {before} - {"plan"}
        assert task.map_index_template
        before = task.task_id
    weights = [dag.get_task(f"partition.{name}").priority_weight for name in VIDEO_STAGES]
    assert weights == sorted(set(weights))  # a partition that has begun goes before one that has not
    for name in (*BUILD_STAGES, "report", "publish"):
        task = dag.get_task(name)
        assert task.upstream_task_ids - {"plan"} == {before}
        before = name


def test_silence_limit_covers_the_work_on_one_work_item(dag):
    for name in VIDEO_STAGES:
        longest = LONGEST_SECONDS if name == "package" else stage(name).timeout_seconds(None)
        assert dag.get_task(f"partition.{name}").silence_limit.total_seconds() > longest
    for name in (*BUILD_STAGES, "report", "publish"):
        assert dag.get_task(name).silence_limit == timedelta(hours=24)


def test_pools_and_queues(dag):
    places = {task.task_id: (task.pool, task.queue) for task in dag.tasks}
    for name in ("partition.ingest", "partition.caption", "partition.package", "shard"):
        assert places[name] == ("lvr_decode", "default")
    assert places["partition.question"] == places["partition.difficulty"] == ("lvr_models", "models")
    assert places["preflight"] == places["report"] == ("default_pool", "default")


def test_the_schedule_does_not_start_by_itself():
    bag = dag_bag()
    assert bag.dags["regenerate_dataset"].is_paused_upon_creation
    assert not bag.dags["build_dataset"].is_paused_upon_creation
    assert not bag.dags["build_dataset"].timetable.can_be_scheduled


PARSE = """
import json, sys, time
from airflow.dag_processing.dagbag import DagBag
from airflow.serialization.serialized_objects import DagSerialization
started = time.perf_counter()
bag = DagBag(dag_folder=sys.argv[1])
seconds = time.perf_counter() - started
dags = {dag_id: DagSerialization.to_dict(dag) for dag_id, dag in bag.dags.items()}
found = {"dags": dags, "errors": list(bag.import_errors.values()), "seconds": seconds, "modules": list(sys.modules)}
print(json.dumps(found, sort_keys=True, default=str))
"""


def parse_dags(hash_seed: str, tmp_path: Path) -> dict:
    """All DAG files, parsed and serialized in a clean process with another working folder."""
    done = subprocess.run(
        [sys.executable, "-c", PARSE, str(ROOT / "dags")],
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": hash_seed},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def test_parsing_is_light_and_always_gives_the_same(tmp_path):
    """A DAG that differs between two parses gets a new version each time."""
    dag_bag()  # creates the database
    first, second = parse_dags("1", tmp_path), parse_dags("2", tmp_path)
    assert first["errors"] == []
    assert first["dags"] == second["dags"] and set(first["dags"]) == set(IDS)
    assert not {name for name in first["modules"] if name.partition(".")[0] in HEAVY}
    assert first["seconds"] < 10
