"""Airflow plugin with two pages: the report as a tab of its DAG run, and the published releases with a few samples.

Airflow's API server serves the pages behind its own login. Reading a run's report needs the permission to read that
DAG's XComs. Reading the list of releases needs the permission to read assets. The plugin serves only generated pages
and the `report.html` of the run that the DAG run itself planned. Each page has a sandboxing Content-Security-Policy,
so that no text from a dataset can act on the user's behalf.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Annotated, Any

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.common.db.common import SessionDep
from airflow.api_fastapi.core_api.security import requires_access_asset, requires_access_dag
from airflow.models.asset import AssetEvent, AssetModel
from airflow.models.xcom import XComModel
from airflow.plugins_manager import AirflowPlugin
from fastapi import Depends, FastAPI
from fastapi import Path as PathParam
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader
from sqlalchemy import select

from operators.airflow.operators import RELEASES

PREFIX = "/lvr"
SHOWN_RELEASES = 50
SHOWN_SAMPLES = 6
HEADERS = {
    "Content-Security-Policy": (
        "sandbox allow-popups; default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}

app = FastAPI(title="longvideo-reason", docs_url=None, redoc_url=None, openapi_url=None)
pages = Environment(loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True)


@app.get("/report/{dag_id}/{run_id}", dependencies=[Depends(requires_access_dag("GET", DagAccessEntity.XCOM))])
def report(dag_id: str, run_id: Annotated[str, PathParam()], session: SessionDep) -> HTMLResponse:
    """Serve the report of the build that a DAG run has planned.

    Without a planned build or a report yet, the page is a notice. The status is 404 if the recorded address is outside
    the configured `out` folder, or if the run's folder no longer exists.
    """
    run_url = _xcom(session, dag_id, run_id, "plan", "run")
    config = _xcom(session, dag_id, run_id, "preflight", "return_value")
    if run_url is None or config is None:
        return _page(_notice("No build yet: this run has not planned one."))
    if run_url.rpartition("/runs/")[0] != config["out"].rstrip("/"):
        return _page(_notice("The recorded address of this run's build is not under its out folder."), status=404)
    from operators.store.run_folder import RunFolder, RunMissing  # slow to import, so not when Airflow starts

    try:
        folder = RunFolder.open(run_url)
        return _page(folder.store.read(f"{folder.address}/report.html").decode())
    except RunMissing:
        return _page(_notice(f"{run_url} is gone."), status=404)
    except FileNotFoundError:
        return _page(_notice("The report is written once all shards are; see the grid for how far this run is."))


@app.get("/releases", dependencies=[Depends(requires_access_asset("GET"))])
def releases(session: SessionDep) -> HTMLResponse:
    """Serve the list of published releases, newest first, with a few samples of the newest one.

    The list has at most `SHOWN_RELEASES` entries, and the page at most `SHOWN_SAMPLES` samples.
    """
    query = (
        select(AssetEvent.extra, AssetEvent.timestamp)
        .join(AssetModel, AssetModel.id == AssetEvent.asset_id)
        .where(AssetModel.uri == RELEASES.uri)
        .order_by(AssetEvent.timestamp.desc())
        .limit(SHOWN_RELEASES)
    )
    published = [{**extra, "time": time} for extra, time in session.execute(query) if "version" in extra]
    template = pages.get_template("releases.html.jinja")
    return _page(template.render(releases=published, samples=_samples(published[:1]), clock=_clock()))


def _samples(newest: Sequence[dict[str, Any]]) -> list[Any]:
    from operators.release.show import pick_samples, read_samples
    from operators.store.run_folder import RunFolder, RunMissing
    from schemas.errors import Outage
    from schemas.run import Release

    for published in newest:
        try:
            store = RunFolder.open(published["run"]).store
            address = published["url"].removeprefix(f"{store.url}/")
            release = Release.model_validate_json(store.read(f"{address}/manifest.json"))
            return pick_samples(read_samples(store, release), SHOWN_SAMPLES)
        except (FileNotFoundError, RunMissing, Outage):
            return []  # the newest release was moved or deleted: show the list without samples
    return []


def _clock() -> Any:
    from operators.video.timecode import format_time

    return format_time


def _xcom(session: Any, dag_id: str, run_id: str, task_id: str, key: str) -> Any:
    row = session.execute(
        select(XComModel.value).where(
            XComModel.dag_id == dag_id,
            XComModel.run_id == run_id,
            XComModel.task_id == task_id,
            XComModel.key == key,
        )
    ).first()
    return None if row is None else XComModel.deserialize_value(row)


def _page(html: str, status: int = 200) -> HTMLResponse:
    return HTMLResponse(html, status_code=status, headers=HEADERS)


def _notice(text: str) -> str:
    return f"<!doctype html><p style='font: 16px system-ui; color: #667; margin: 3rem'>{escape(text)}</p>"


class BrowserPlugin(AirflowPlugin):
    """Mounts the pages under `/lvr`, and links to them from DAG runs and from the Browse menu."""

    name = "lvr_browser"
    fastapi_apps = [{"app": app, "url_prefix": PREFIX, "name": "longvideo-reason"}]  # noqa: RUF012 - Airflow's form
    external_views = [  # noqa: RUF012
        {
            "name": "Report",
            "href": f"{PREFIX}/report/{{DAG_ID}}/{{RUN_ID}}",
            "destination": "dag_run",
            "url_route": "lvr-report",
        },
        {
            "name": "Datasets",
            "href": f"{PREFIX}/releases",
            "destination": "nav",
            "category": "browse",
            "url_route": "lvr-releases",
        },
    ]
