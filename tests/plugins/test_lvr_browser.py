"""A run's report page shows the report of that run's own build, and nothing else that a recorded URL could point to."""

import importlib.util
import sys

import pytest

from operators.store.content_store import Store
from operators.store.run_folder import RunFolder
from schemas.config import BuildConfig
from schemas.run import Partition, Run
from schemas.tables import Source
from tests.support.airflow_home import ROOT


@pytest.fixture(scope="module")
def plugin():
    spec = importlib.util.spec_from_file_location("lvr_browser", ROOT / "plugins" / "lvr_browser.py")
    sys.modules["lvr_browser"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["lvr_browser"]


def plan_run(out, report: str = "") -> RunFolder:
    config = BuildConfig(source="/videos", out=str(out))
    run = Run(run_id="r", requested=config, config=config, partitions=1, videos=1, plan_rejects_sha256="0" * 64)
    partition = Partition(index=0, label="v", sources=(Source(source_id="v", uri="/videos/v.mp4", fingerprint="1"),))
    folder = RunFolder.create(Store(str(out)), run, [partition])
    if report:
        folder.store.write(f"{folder.address}/report.html", report.encode())
    return folder


@pytest.fixture
def page(plugin, monkeypatch):
    """Function that returns the report page of a DAG run whose tasks have recorded these results."""

    def show(run_url: str | None, out: str):
        left = {("plan", "run"): run_url, ("preflight", "return_value"): {"out": out}}
        monkeypatch.setattr(plugin, "_xcom", lambda session, dag_id, run_id, *of: left[of])
        return plugin.report("build_dataset", "manual__1", session=None)

    return show


@pytest.mark.parametrize("slash", ["", "/"])
def test_the_report_of_the_run_is_shown_in_a_sandbox(page, tmp_path, slash):
    shown = page(plan_run(tmp_path, "<p>mine").url, f"{tmp_path}{slash}")
    assert (shown.status_code, shown.body) == (200, b"<p>mine")
    assert shown.headers["Content-Security-Policy"].startswith("sandbox")
    assert "allow-scripts" not in shown.headers["Content-Security-Policy"]


@pytest.mark.parametrize("where", ["other", "mine/nested", "mine/runs/r/../../../other"])
def test_an_address_outside_the_runs_out_folder_is_refused(page, tmp_path, where):
    plan_run(tmp_path / "mine", "<p>mine")
    plan_run(tmp_path / "other", "<p>secret")
    plan_run(tmp_path / "mine" / "nested", "<p>secret")
    shown = page(f"{tmp_path}/{where}/runs/r", str(tmp_path / "mine"))
    assert shown.status_code == 404
    assert b"secret" not in shown.body and b"not under its out folder" in shown.body


@pytest.mark.parametrize("run_id", ["gone", "../../other/runs/r", ".."])
def test_an_invalid_run_is_not_searched_for_elsewhere(page, tmp_path, run_id):
    plan_run(tmp_path / "mine")
    plan_run(tmp_path / "other", "<p>secret")
    shown = page(f"{tmp_path}/mine/runs/{run_id}", str(tmp_path / "mine"))
    assert shown.status_code == 404
    assert b"secret" not in shown.body


def test_the_page_has_a_notice_before_the_plan_and_before_the_report(page, tmp_path):
    assert b"No build yet" in page(None, str(tmp_path)).body
    assert b"once all shards are" in page(plan_run(tmp_path).url, str(tmp_path)).body


def test_samples_of_a_release_that_is_gone_are_none(plugin, tmp_path):
    published = {
        "run": str(tmp_path / "gone" / "runs" / "r"),
        "url": str(tmp_path / "gone" / "releases" / "x" / "v0001"),
    }
    assert plugin._samples([published]) == []
