"""A data engineer's whole workflow: log in, fill in the trigger form, watch the run, read its report.

A real Airflow, a real browser, real films, and a real HTTP server that answers as the models. Screenshots of the pages
are kept in pytest's temporary folder. The tests share that one Airflow, and the last of them ends it.
"""

import json
import os
import signal
import stat
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from urllib.parse import quote

import psutil
import pytest

from operators.demo.local_airflow.demo import wait_for_dag
from operators.demo.local_airflow.progress import follow
from operators.demo.local_airflow.rest import AirflowApi, ApiError
from operators.demo.local_airflow.standalone import COMPONENTS, USER, Standalone, StandaloneError
from operators.execution.pipeline import VIDEO_STAGES
from tests.support.browser import chromium
from tests.support.cards import cards_video
from tests.support.openai_server import OpenAIServer

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("e2e")
    (folder / "films").mkdir()
    cards_video(folder / "films" / "cards.mp4")
    return folder


@pytest.fixture(scope="module")
def models():
    """Model server for the reasoner, judge and target. Captions are measured without a model."""
    with OpenAIServer() as server:
        wanted = server.environ("reasoner", "judge", "target", vision=False)
        os.environ.update(wanted)
        yield server
        for name in wanted:
            os.environ.pop(name, None)


@pytest.fixture(scope="module")
def airflow(folder, models):
    with Standalone(folder / "airflow") as airflow:
        wait_for_dag(airflow.api(), "build_dataset", airflow)
        yield airflow


@pytest.fixture(scope="module")
def page(airflow):
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1440, "height": 1000}, reduced_motion="reduce")
        page.set_default_timeout(60_000)
        page.goto(airflow.url)
        page.fill("input[name=username]", USER)
        page.fill("input[name=password]", airflow.password)
        page.click("button[type=submit]")
        page.wait_for_url(lambda url: not url.startswith(f"{airflow.url}/auth/"), wait_until="load")
        yield page


def element(name: str) -> str:
    """CSS selector of a parameter's input, which for numbers is nested in a wrapper element."""
    return f'input[name="element_{name}"]'


def wait_until(holds: Callable[[], object], seconds: float = 300.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.5)


def wait_for_success(api: AirflowApi, dag_id: str, run_id: str, airflow: Standalone) -> dict[str, str]:
    """Waits until the run has ended, and returns the state of every task by `task_id[map_index]`."""
    from rich.console import Console

    state, tasks = follow(api, dag_id, run_id, Console(), airflow.check)
    logs = [line for task in tasks if task["state"] == "failed" for line in api.task_log(task)[-15:]]
    assert state == "success", "\n".join(logs)
    return {f"{task['task_id']}[{task['map_index']}]": task["state"] for task in tasks}


def test_a_build_from_form_to_report(airflow, page, folder):
    page.goto(f"{airflow.url}/dags/build_dataset")
    page.get_by_role("button", name="Trigger").first.click()
    page.wait_for_selector(element("source"))
    page.screenshot(path=folder / "form-empty.png")
    page.fill(element("source"), str(folder / "films"))
    page.fill(element("out"), str(folder / "out"))
    page.fill(element("name"), "cards")
    page.fill(element("partition_videos"), "1")
    page.get_by_text("Assemble: from verified questions").click()
    page.fill(element("assemble.eval_fraction"), "1")
    page.fill(element("assemble.pass_rates.eval_min"), "0")
    page.get_by_text("Difficulty: how often").click()
    page.fill(element("difficulty.trials"), "2")
    page.screenshot(path=folder / "form-filled.png")
    page.get_by_role("button", name="Trigger").last.click()
    page.wait_for_url("**/dags/build_dataset/runs/**")
    page.goto("about:blank")  # a page that watches a run redraws all the time, which takes half of the machine

    api = airflow.api()
    [run] = api.call("GET", "/api/v2/dags/build_dataset/dagRuns")["dag_runs"]
    run_id = run["dag_run_id"]
    assert run["conf"]["name"] == "cards" and run["conf"]["difficulty.trials"] == 2
    states = wait_for_success(api, "build_dataset", run_id, airflow)
    assert set(states.values()) == {"success"}
    mapped = [task for task in api.task_instances("build_dataset", run_id) if task["map_index"] >= 0]
    [label] = {task["rendered_map_index"] for task in mapped}
    assert len(mapped) == len(VIDEO_STAGES) and label.startswith("cards-")
    published = api.xcom("build_dataset", run_id, "publish")
    assert published["is_new"] and published["samples"]["eval"] > 0
    [event] = api.call("GET", "/api/v2/assets/events")["asset_events"]
    assert event["name"] == "longvideo_releases" and event["extra"] == published

    page.goto(f"{airflow.url}/dags/build_dataset/runs/{run_id.replace('+', '%2B')}")
    page.wait_for_selector("text=publish")
    page.screenshot(path=folder / "run.png")
    page.locator('a[href$="/plugin/lvr-report"]').click()
    frame = page.frame_locator("iframe").first
    frame.get_by_text("cards").first.wait_for()
    time.sleep(1.0)
    page.screenshot(path=folder / "report-tab.png")
    page.goto(f"{airflow.url}/plugin/lvr-releases")
    page.frame_locator("iframe").first.get_by_text("Published datasets").wait_for()
    time.sleep(1.0)
    page.screenshot(path=folder / "datasets.png")
    page.goto("about:blank")


def commands(out: Path, stage: str) -> list[psutil.Process]:
    """Processes that run a stage of the builds in this folder."""
    running = [(process, process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
    return [
        process
        for process, arguments in running
        if stage in arguments and any(f"{out}/runs/" in word for word in arguments)
    ]


def processes() -> list[psutil.Process]:
    """Airflow's processes, and the processes that watch them."""
    children = psutil.Process().children()
    watchers = [each for each in children if is_watcher(words_of(each))]
    return [each for watcher in watchers for each in (watcher, *descendants(watcher))]


def words_of(process: psutil.Process) -> list[str]:
    """Command line of a process. Empty once the process has ended, as task processes do at any time."""
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


def descendants(process: psutil.Process) -> list[psutil.Process]:
    """All descendants of a process. Empty once the process has ended."""
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def listening_addresses(process: psutil.Process, port: int) -> list[str]:
    """Addresses on which a process listens at a port. Empty once the process has ended."""
    try:
        connections = process.net_connections(kind="tcp")
    except psutil.NoSuchProcess:
        return []
    return [each.laddr.ip for each in connections if each.status == psutil.CONN_LISTEN and each.laddr.port == port]


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def is_watcher(arguments: Sequence[str], of: Collection[str] = COMPONENTS) -> bool:
    return "operators.process.supervise" in arguments and not set(arguments).isdisjoint(of)


def test_a_task_that_is_marked_failed_ends_what_it_has_started(airflow, folder, models, monkeypatch):
    monkeypatch.setattr(models, "delay_seconds", 30.0)
    api, out = airflow.api(), folder / "out"
    params = {"source": str(folder / "films"), "out": str(out), "name": "stopped", "question.min_questions": 40}
    run_id = api.trigger("build_dataset", params)
    wait_until(lambda: commands(out, "question"))
    task = f"/api/v2/dags/build_dataset/dagRuns/{quote(run_id, safe='')}/taskInstances/partition.question/0"
    api.call("PATCH", task, {"new_state": "failed"})
    wait_until(lambda: not commands(out, "question"))
    wait_until(lambda: api.run_state("build_dataset", run_id) in ("failed", "success"))
    assert api.run_state("build_dataset", run_id) == "failed"


def test_nobody_gets_in_without_a_login_or_from_another_machine(airflow):
    api = airflow.api()
    run_id = api.call("GET", "/api/v2/dags/build_dataset/dagRuns")["dag_runs"][0]["dag_run_id"]
    for path in (f"/lvr/report/build_dataset/{run_id.replace('+', '%2B')}", "/lvr/releases", "/api/v2/dags"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(airflow.url + path)
        assert refused.value.code == 401
    passwords = airflow.home / "passwords.json"
    assert stat.S_IMODE(passwords.stat().st_mode) == 0o600
    assert json.loads(passwords.read_text()) == {"admin": airflow.password}
    assert {address for process in processes() for address in listening_addresses(process, airflow.port)} == {
        "127.0.0.1"
    }


def test_airflow_has_the_pools_and_names_an_unknown_dag(airflow):
    api = airflow.api()
    assert api.unhealthy() == []
    pools = {pool["name"]: pool["slots"] for pool in api.call("GET", "/api/v2/pools")["pools"]}
    assert pools["lvr_decode"] >= 1 and pools["lvr_models"] >= 1
    with pytest.raises(ApiError, match="no_such_dag") as raised:
        api.trigger("no_such_dag", {})
    assert raised.value.status == 404


def test_regeneration_finds_nothing_to_do_and_then_something(airflow, page, folder):
    """Nothing is stale right after a build. A second film makes the work of one video, and a new version."""
    api = airflow.api()
    api.call("PATCH", "/api/v2/dags/regenerate_dataset?update_mask=is_paused", {"is_paused": False})
    states = wait_for_success(api, "regenerate_dataset", api.trigger("regenerate_dataset", {}), airflow)
    assert states["find_stale[-1]"] == states["publish[-1]"] == "skipped"
    cards_video(folder / "films" / "more.mp4", ("GARDEN", "TROMBONE", "RIVER", "CASTLE"), 120)
    run_id = api.trigger("regenerate_dataset", {})
    assert set(wait_for_success(api, "regenerate_dataset", run_id, airflow).values()) == {"success"}
    assert api.xcom("regenerate_dataset", run_id, "find_stale")["stale"]["caption"] == 1
    assert api.xcom("regenerate_dataset", run_id, "publish")["version"] == 2


def test_a_folder_has_one_airflow_and_the_end_of_a_component_ends_all_of_it(airflow):
    with pytest.raises(StandaloneError, match=f"another Airflow uses {airflow.home}"):
        Standalone(airflow.home).__enter__()
    airflow.check()
    running = processes()
    assert len(running) > 2 * len(COMPONENTS)
    watcher = next(each for each in running if is_watcher(words_of(each), ["scheduler"]))
    [scheduler] = watcher.children()
    os.kill(scheduler.pid, signal.SIGKILL)
    deadline = time.monotonic() + 300
    with pytest.raises(StandaloneError, match=r"Airflow's scheduler ended with status .*scheduler\.log"):
        while time.monotonic() < deadline:
            airflow.check()
            time.sleep(0.2)
    airflow.close()
    psutil.wait_procs([each for each in running if is_alive(each)], timeout=60)
    assert not [each for each in running if is_alive(each)]
