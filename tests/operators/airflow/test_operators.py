"""Operators run real child processes: a small script replaces `lvr` and records its arguments."""

import json
import signal
import sys
import textwrap
import threading
import time
from datetime import timedelta
from pathlib import Path

import psutil
import pytest

from schemas.config import BuildConfig
from tests.support import airflow_home

assert airflow_home.HOME  # before Airflow

from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException  # noqa: E402

from operators.airflow.operators import (  # noqa: E402
    LVR,
    RELEASES,
    PlanOperator,
    PreflightOperator,
    PublishOperator,
    ReportOperator,
    StageOperator,
    StaleOperator,
)
from operators.process.supervise import run_supervised  # noqa: E402

CONFIG = BuildConfig(source="/videos", out="/data").model_dump(mode="json")


class Instance:
    """The attributes of a task instance that operators use."""

    def __init__(self) -> None:
        self.xcoms: dict = {}

    def xcom_push(self, key, value):
        self.xcoms[key] = value


class StateStore(dict):
    def set(self, key, value):
        self[key] = value


class Event:
    def __init__(self, extra=None) -> None:
        self.extra = extra or {}


@pytest.fixture
def context():
    return {
        "params": {"source": "/videos", "out": "/data"},
        "run_id": "manual__2026-11-22T10:00:00+00:00",
        "ti": Instance(),
        "task_state_store": StateStore(),
        "outlet_events": {RELEASES: Event()},
        "inlet_events": {RELEASES: []},
    }


def lvr(tmp_path: Path, code: str) -> list[str]:
    """A replacement for the `lvr` command that also writes its arguments to `arguments.json`."""
    script = tmp_path / "lvr.py"
    record = f"import json, os, sys, time\njson.dump(sys.argv[1:], open({str(tmp_path / 'arguments.json')!r}, 'w'))\n"
    script.write_text(record + textwrap.dedent(code))
    return [sys.executable, "-u", str(script)]


def arguments(tmp_path: Path) -> list[str]:
    return json.loads((tmp_path / "arguments.json").read_text())


def test_a_stage_runs_for_its_partition_and_returns_its_metrics(tmp_path, context, capfd):
    code = "print('ingest partition 3: 1/2 videos', file=sys.stderr); print(json.dumps({'rows': 7}))"
    partition = {"run": "/data/runs/r", "partition": 3, "label": "a +1"}
    stage = StageOperator(task_id="ingest", stage="ingest", partition=partition, command=lvr(tmp_path, code))
    assert stage.execute(context) == {"rows": 7}
    assert arguments(tmp_path) == ["stage", "/data/runs/r", "ingest", "--partition", "3"]
    assert "ingest partition 3: 1/2 videos" in capfd.readouterr().out
    assert context["task_state_store"] == {"progress": "ingest partition 3: 1/2 videos"}


class BrokenStore(StateStore):
    def set(self, key, value):
        raise RuntimeError("the API server does not answer")


def test_progress_that_cannot_be_stored_is_reported_once_and_ends_nothing(tmp_path, context, capfd, monkeypatch):
    monkeypatch.setattr("operators.airflow.operators.PROGRESS_SECONDS", 0.0)
    context["task_state_store"] = BrokenStore()
    code = "print('1/2 videos', '2/2 videos', sep='\\n', file=sys.stderr); print(json.dumps({'rows': 7}))"
    stage = StageOperator(task_id="shard", stage="shard", run_url="/r", command=lvr(tmp_path, code))
    assert stage.execute(context) == {"rows": 7}
    output = capfd.readouterr().out
    assert "2/2 videos" in output and output.count("the API server does not answer") == 1


def test_a_stage_over_the_build_needs_no_partition(tmp_path, context):
    stage = StageOperator(task_id="shard", stage="shard", run_url="/data/runs/r", command=lvr(tmp_path, "print('{}')"))
    stage.execute(context)
    assert arguments(tmp_path) == ["stage", "/data/runs/r", "shard"]


@pytest.mark.parametrize(
    ("status", "failure"), [(2, AirflowFailException), (3, AirflowException), (1, AirflowException)]
)
def test_the_exit_status_decides_whether_to_try_again(tmp_path, context, status, failure):
    code = f"print('disk s3://x: full; free some space', file=sys.stderr); sys.exit({status})"
    report = ReportOperator(task_id="report", run_url="/r", command=lvr(tmp_path, code))
    with pytest.raises(failure, match="disk s3://x: full; free some space") as raised:
        report.execute(context)
    assert isinstance(raised.value, AirflowFailException) == (status == 2)


def test_a_command_that_was_killed_is_tried_again(tmp_path, context):
    report = ReportOperator(task_id="r", run_url="/r", command=lvr(tmp_path, "os.kill(os.getpid(), 9)"))
    with pytest.raises(AirflowException, match="status -9"):
        report.execute(context)


def test_a_silent_command_is_ended_and_tried_again(tmp_path, context):
    report = ReportOperator(
        task_id="r", run_url="/r", command=lvr(tmp_path, "time.sleep(60)"), silence_limit=timedelta(seconds=1)
    )
    with pytest.raises(AirflowException, match="no output for 1 s"):
        report.execute(context)


def test_on_kill_ends_the_command(tmp_path, context):
    code = "print(os.getpid(), file=sys.stderr); time.sleep(60)"
    report = ReportOperator(task_id="r", run_url="/r", command=lvr(tmp_path, code))
    outcome: list = []

    def run():
        try:
            report.execute(context)
        except AirflowException as error:
            outcome.append(str(error))

    task = threading.Thread(target=run)
    task.start()
    deadline = time.monotonic() + 60
    while "progress" not in context["task_state_store"] and time.monotonic() < deadline:
        time.sleep(0.05)
    pid = int(context["task_state_store"]["progress"])
    assert psutil.pid_exists(pid)
    report.on_kill()
    task.join(timeout=60)
    assert not task.is_alive() and not psutil.pid_exists(pid)
    assert f"status -{signal.SIGTERM.value}" in outcome[0]


def test_keys_reach_the_command_but_neither_its_arguments_nor_the_log(tmp_path, context, monkeypatch, capfd):
    connection = {"conn_type": "generic", "host": "vllm", "password": "key-of-judge", "extra": {"model": "m"}}
    monkeypatch.setenv("AIRFLOW_CONN_LVR_JUDGE", json.dumps(connection))
    code = "print(json.dumps({'seen': os.environ['LVR_JUDGE_API_KEY'] == 'key-of-judge'}))"
    code = f"print('calling', file=sys.stderr); {code}"
    assert ReportOperator(task_id="r", run_url="/r", command=lvr(tmp_path, code)).execute(context) == {"seen": True}
    captured = capfd.readouterr()
    assert "calling" in captured.out
    assert "key-of-judge" not in captured.out + captured.err + str(arguments(tmp_path))


def test_preflight_makes_the_configuration_from_the_parameters(tmp_path, context):
    context["params"]["split.clip_seconds"] = 9
    preflight = PreflightOperator(task_id="p", command=lvr(tmp_path, "print('ffmpeg: found')"))
    config = preflight.execute(context)
    assert config["split"]["clip_seconds"] == 9.0
    assert BuildConfig.model_validate_json(arguments(tmp_path)[2]).model_dump(mode="json") == config


def test_preflight_fails_on_a_wrong_parameter_before_the_command_starts(tmp_path, context):
    context["params"]["partition_videos"] = 0
    with pytest.raises(AirflowFailException, match=r"partition_videos: .*got 0"):
        PreflightOperator(task_id="p", command=lvr(tmp_path, "")).execute(context)
    assert not (tmp_path / "arguments.json").exists()


PLANNED = {
    "run": "/data/runs/r",
    "videos": 3,
    "rejects": 1,
    "partitions": [{"partition": n, "label": str(n)} for n in (0, 1)],
}


def test_plan_returns_partitions_to_map_over(tmp_path, context):
    plan = PlanOperator(task_id="p", build_config=CONFIG, command=lvr(tmp_path, f"print({json.dumps(PLANNED)!r})"))
    assert plan.execute(context) == [
        {"run": "/data/runs/r", "partition": 0, "label": "0"},
        {"run": "/data/runs/r", "partition": 1, "label": "1"},
    ]
    assert context["ti"].xcoms == {"run": "/data/runs/r", "videos": 3, "rejects": 1}
    assert arguments(tmp_path)[-1] == "longvideo-manual__2026-11-22T10:00:00+00:00"


def test_plan_names_the_fix_for_too_many_partitions(tmp_path, context):
    planned = PLANNED | {"videos": 3000, "partitions": [{"partition": n, "label": str(n)} for n in range(1500)]}
    plan = PlanOperator(task_id="p", build_config=CONFIG, command=lvr(tmp_path, f"print({json.dumps(planned)!r})"))
    with pytest.raises(AirflowFailException, match="raise partition_videos to at least 3"):
        plan.execute(context)


PUBLISHED = {"name": "n", "version": 2, "url": "/data/releases/n/v0002", "samples": {"rl": 3}, "videos": {"rl": 1}}


def test_publish_adds_the_new_release_to_the_asset_event(tmp_path, context):
    published = PUBLISHED | {"is_new": True}
    command = lvr(tmp_path, f"print({json.dumps(published)!r})")
    returned = PublishOperator(task_id="p", run_url="/data/runs/r", command=command).execute(context)
    assert returned == published | {"run": "/data/runs/r"} == context["outlet_events"][RELEASES].extra


def test_publish_of_known_content_is_skipped_and_leaves_the_asset_event_empty(tmp_path, context):
    command = lvr(tmp_path, f"print({json.dumps(PUBLISHED | {'is_new': False})!r})")
    with pytest.raises(AirflowSkipException, match=r"n version 2 at /data/releases/n/v0002 "):
        PublishOperator(task_id="p", run_url="/data/runs/r", command=command).execute(context)
    assert context["outlet_events"][RELEASES].extra == {}
    assert context["ti"].xcoms["return_value"]["version"] == 2


def stale_output(**counts) -> str:
    found = {
        "stale": counts,
        "reasons": ["prompt changed (2 videos)"],
        "config": CONFIG,
        "previous_run": "/data/runs/r",
    }
    return f"print({json.dumps(found)!r})"


def test_stale_work_of_the_newest_release_is_returned_with_its_config(tmp_path, context):
    context["params"] = {"out": None, "name": None, "overrides": ["verify.blind_trials=8"]}
    context["inlet_events"][RELEASES] = [
        Event({"run": "old"}),
        Event({"run": "s3://b/data/runs/r", "name": "n"}),
        Event(),
    ]
    stale = StaleOperator(task_id="s", command=lvr(tmp_path, stale_output(caption=2, split=0)))
    assert stale.execute(context)["stale"] == {"caption": 2, "split": 0}
    assert arguments(tmp_path) == ["stale", "--out", "s3://b/data", "--name", "n", "--set", "verify.blind_trials=8"]
    assert context["ti"].xcoms["config"] == CONFIG


def test_a_named_out_without_a_name_leaves_the_name_to_what_is_there(tmp_path, context):
    context["params"] = {"out": "/data", "name": None, "overrides": []}
    context["inlet_events"][RELEASES] = [Event({"run": "/other/runs/r", "name": "other"})]
    StaleOperator(task_id="s", command=lvr(tmp_path, stale_output(caption=1))).execute(context)
    assert arguments(tmp_path) == ["stale", "--out", "/data"]


def test_stale_skips_the_rest_of_the_run_when_nothing_is_stale(tmp_path, context):
    context["params"] = {"out": "/data", "name": "n", "overrides": []}
    with pytest.raises(AirflowSkipException, match="nothing is stale: /data/runs/r"):
        StaleOperator(task_id="s", command=lvr(tmp_path, stale_output(caption=0))).execute(context)
    assert context["ti"].xcoms["return_value"]["stale"] == {"caption": 0}


@pytest.mark.parametrize("events", [[], [Event()]])
def test_stale_without_a_published_release_is_skipped_with_the_fix(tmp_path, context, events):
    """An asset event created by hand in the UI names no build."""
    context["params"] = {"out": None, "name": None, "overrides": []}
    context["inlet_events"][RELEASES] = events
    with pytest.raises(AirflowSkipException, match="run build_dataset first"):
        StaleOperator(task_id="s", command=lvr(tmp_path, "")).execute(context)


def test_the_default_command_is_this_installations_lvr_wherever_it_runs(tmp_path, monkeypatch):
    (tmp_path / "operators").mkdir()
    (tmp_path / "operators" / "__init__.py").write_text("raise ImportError(__file__)")
    monkeypatch.chdir(tmp_path)
    finished = run_supervised([*LVR, "schema", "Box"], wall_seconds=60, silence_seconds=60)
    assert LVR[0] == sys.executable
    assert (finished.status, finished.last_line) == (0, "}"), finished.tail
