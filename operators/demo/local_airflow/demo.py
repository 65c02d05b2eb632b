"""`make demo` and `make ui`: the whole pipeline on one machine, without setup and without processes left running.

It renders the demo films, starts a local Airflow, triggers the DAG as a user would, shows its progress, and
shows the result. A second demo computes nothing, because every work item is found under its key.
"""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rich.console import Console

from operators.demo.films import write_manifest
from operators.demo.films.film import render_film
from operators.demo.films.grammar.rendering import render_films
from operators.demo.films.stories import film_scripts
from operators.demo.local_airflow.progress import Tasks, follow
from operators.demo.local_airflow.rest import AirflowApi
from operators.demo.local_airflow.standalone import ROOT, USER, Standalone, ended_by_signals
from operators.release.publish import newest_release
from operators.release.show import show_build
from operators.store.run_folder import RunFolder
from schemas.errors import Outage
from schemas.manifest import ManifestRow

DAG_ID = "build_dataset"
NAME = "demo"
LOG_LINES = 25

FILMS: dict[str, Any] = {"count": 3, "minutes": (3.0, 3.3), "seed": 50}
"""The films that come with facts: those of the story grammar."""
MEASURED_FILM, MEASURED_SHOTS = "the_mountain_rally", 7
"""The film without annotations, of which everything is measured: the first minute of one of the demo films."""

SETTINGS: dict[str, Any] = {
    "name": NAME,
    "partition_videos": 2,
    "seed": 5,
    "assemble.eval_fraction": 0.25,
    "split.detector": "content",
    "split.clip_seconds": 9.0,
    "split.min_seconds": 5.0,
    "split.max_seconds": 18.0,
    "caption.source": "annotations",
    "caption.ocr": False,
    "question.per_template": 1,
    "question.max_per_category": 1,
    "question.writers": ["program", "annotations"],
    "verify.blind_trials": 0,
    "difficulty.trials": 1,
    "assemble.pass_rates.eval_min": 0.0,
    "assemble.pass_rates.sft_min": 0.0,
    "assemble.pass_rates.rl_min": 0.0,
    "assemble.pass_rates.rl_max": 1.0,
    "models.target.context_tokens": 1920,
    "models.target.sampling.max_tokens": 12,
}
"""Small settings, so that the build takes minutes on two cores. With this seed the films are in three splits.

The detector finds every fade of the films, and clips may be as long as their longest shots. So they end with shots, and
few captions repeat a shot. That leaves half of each story and a summary of the rest in the target's context.

The embedded model only answers: once per question for the difficulty, where most of its time goes into reading the
captions, and as the judge of open answers. It does not think before it answers and is seldom right, so it gets room for
a letter or a few words, and no pass rate keeps a question out of a split. It checks no question without the video,
because as a judge it finds any two answers equal: half of all questions would be rejects.
"""


class DemoFailed(Outage):
    """The demo's run failed, or Airflow did not read the DAG. The logs of failed tasks have been printed."""


def run_demo(out: Path = ROOT / ".demo", keep: bool = False, console: Console | None = None) -> None:
    """Build a dataset from the demo films under a real Airflow, and show it.

    Args:
        out: folder for the films and the dataset. A second run with the same folder reuses its contents.
        keep: keep Airflow running until Ctrl-C.

    Raises:
        DemoFailed: the run failed, or Airflow did not read the DAG.
        StandaloneError: Airflow did not start, or one of its components ended.
    """
    console = console or Console()
    out = out.absolute()
    with ended_by_signals():
        films = make_films(out / "films", console)
        console.print("starting Airflow ...", highlight=False)
        started = time.monotonic()
        with Standalone() as airflow:
            console.print(f"Airflow is up after {time.monotonic() - started:.0f} s")
            _print_login(airflow, console)
            _build(airflow, out, films, console)
            if keep:
                _wait(airflow, console)
    console.print("open the UI again with: make ui", highlight=False)


def run_ui(console: Console | None = None) -> None:
    """Run the local Airflow until Ctrl-C.

    Raises:
        StandaloneError: Airflow did not start, or one of its components ended.
    """
    console = console or Console()
    with ended_by_signals():
        console.print("starting Airflow ...")
        with Standalone() as airflow:
            _print_login(airflow, console)
            _wait(airflow, console)


def make_films(folder: Path, console: Console) -> Path:
    """Render the films of the demo unless they exist, and return their manifest.

    Those of the story grammar come with facts and captions, and the other without annotations.
    """

    def report(line: str) -> None:
        console.print(line, highlight=False)

    rally = film_scripts()[MEASURED_FILM]
    rally = rally.model_copy(update={"shots": rally.shots[:MEASURED_SHOTS]})
    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(render_film, rally, folder)
        manifest = render_films(folder, **FILMS, progress=report)
        film = job.result()
    row = ManifestRow(
        uri=film.path.name, source_id=MEASURED_FILM, title=rally.title, category=rally.category,
        licence="CC0-1.0", origin="rendered by `lvr demo`",
    )  # fmt: skip
    rows = [ManifestRow.model_validate(known) for known in json.loads(manifest.read_text(encoding="utf-8"))]
    return write_manifest(folder, [*rows, row])


def _build(airflow: Standalone, out: Path, films: Path, console: Console) -> None:
    api = airflow.api()
    started = time.monotonic()
    wait_for_dag(api, DAG_ID, airflow)
    run_id = api.trigger(DAG_ID, {"source": str(films), "out": str(out / "dataset"), **SETTINGS})
    console.print(f"run     {airflow.url}/dags/{DAG_ID}/runs/{run_id}", highlight=False, soft_wrap=True)
    state, tasks = follow(api, DAG_ID, run_id, console, airflow.check)
    if state != "success":
        show_failure(api, tasks, airflow, console)
        raise DemoFailed(f"run {run_id} failed; its task logs are under {airflow.home / 'logs'}")
    folder = RunFolder.open(api.xcom(DAG_ID, run_id, "plan", "run"))
    release = newest_release(folder.store, NAME)
    assert release is not None, "a run that has succeeded has published, now or before"
    show_build(console, folder, release, time.monotonic() - started)


def wait_for_dag(api: AirflowApi, dag_id: str, airflow: Standalone, seconds: float = 60.0) -> None:
    """Wait until Airflow has read the DAG's file.

    Raises:
        DemoFailed: Airflow has not read it within `seconds`. The message contains Airflow's import errors.
        StandaloneError: a component of Airflow has ended.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        airflow.check()
        if any(dag["dag_id"] == dag_id for dag in api.call("GET", "/api/v2/dags")["dags"]):
            return
        time.sleep(0.5)
    errors = api.call("GET", "/api/v2/importErrors")["import_errors"]
    problems = "\n".join(error["stack_trace"] for error in errors) or "it reports no import error"
    raise DemoFailed(f"Airflow has not read the DAG {dag_id} within {seconds:.0f} s: {problems}")


def show_failure(api: AirflowApi, tasks: Tasks, airflow: Standalone, console: Console) -> None:
    """Print the last lines of every failed task's log, at most `LOG_LINES` each."""
    for task in tasks:
        if task["state"] == "failed":
            console.print(f"\n[bold red]{task['task_id']}[/] failed at try {task['try_number']}:", highlight=False)
            for line in api.task_log(task)[-LOG_LINES:]:
                console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)


def _print_login(airflow: Standalone, console: Console) -> None:
    console.print(f"UI      {airflow.url}  user {USER}  password {airflow.password}", highlight=False, markup=False)


def _wait(airflow: Standalone, console: Console) -> None:
    console.print("Ctrl-C stops Airflow")
    while True:
        airflow.check()
        time.sleep(1.0)
