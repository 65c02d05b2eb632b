"""Airflow operators, each of which runs one `lvr` command in a child process.

The child does all of the work. The task waits, forwards the child's progress to its log, and returns a small dict. So
Airflow imports nothing heavy, a stage that crashes or hangs does not take down its worker, and a killed task leaves no
process running. The exit status says what a failure means. If the configuration or the input is wrong, the task fails
immediately. If a service or a disk is unavailable, Airflow retries the task, which resumes where it stopped.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

from airflow.sdk import Asset, BaseOperator, Context, conf
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

from operators.airflow.connections import command_environment
from operators.airflow.params import config_from_params
from operators.process.supervise import Finished, WatchdogExpired, run_supervised, stop_supervised
from operators.settings import ConfigError, validate_config
from schemas.errors import BAD_INPUT_STATUS

LVR = (sys.executable, "-P", "-m", "operators.cli")
PROGRESS_SECONDS = 2.0
"""Minimum time between two updates of the progress that the UI shows."""

RELEASES = Asset(name="longvideo_releases", uri="x-longvideo-reason://releases", group="longvideo")
"""Asset that gets an event for every published version. The event's `extra` says which version it is and where."""


class LvrCommandOperator(BaseOperator):
    """Runs a pipeline command in a child process, with a limit on its run time and on its silence.

    :param command: the program and its first arguments, by default `lvr` of this installation
    :param wall_limit: the command is terminated after this time
    :param silence_limit: the command is terminated when it prints nothing for this long. It must exceed the limit of
        one work item (`Stage.timeout_seconds`), which is the finer watchdog. A task that processes the whole build as
        one work item needs more
    """

    def __init__(
        self,
        *,
        command: Sequence[str] = LVR,
        wall_limit: timedelta = timedelta(days=7),
        silence_limit: timedelta = timedelta(hours=7),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.command = tuple(command)
        self.wall_limit = wall_limit
        self.silence_limit = silence_limit
        self._watcher: subprocess.Popen[str] | None = None

    def run_lvr(self, context: Context, *arguments: str) -> Any:
        """Run `lvr` with these arguments, and return the JSON value of its last line, or None if that is not JSON.

        :raises AirflowFailException: the configuration or the input is wrong, so that a retry would not help
        :raises AirflowException: an outage, a crash or an expired watchdog; Airflow retries the task
        """
        finished = self._run_watched(context, arguments)
        if finished.status == BAD_INPUT_STATUS:
            raise AirflowFailException(finished.tail)
        if finished.status:
            raise AirflowException(f"lvr {arguments[0]} ended with status {finished.status}:\n{finished.tail}")
        return _json(finished.last_line)

    def on_kill(self) -> None:
        if self._watcher is not None:
            stop_supervised(self._watcher)

    def _run_watched(self, context: Context, arguments: Sequence[str]) -> Finished:
        try:
            environment = command_environment()
        except ConfigError as error:
            raise AirflowFailException(str(error)) from error
        progress = _ProgressStore(context, self.log.warning)

        def on_line(line: str) -> None:
            self.log.info(line)
            progress.show(line)

        def on_start(watcher: subprocess.Popen[str]) -> None:
            self._watcher = watcher

        try:
            return run_supervised(
                [*self.command, *arguments],
                env=environment,
                wall_seconds=self.wall_limit.total_seconds(),
                silence_seconds=self.silence_limit.total_seconds(),
                on_line=on_line,
                on_start=on_start,
            )
        except WatchdogExpired as expired:
            raise AirflowException(str(expired)) from expired


class PreflightOperator(LvrCommandOperator):
    """Checks before any work starts whether the build can run, and returns the whole configuration as a dict.

    :param build_config: a `BuildConfig` as a dict; None means that it is made from the run's parameters
    """

    template_fields: Sequence[str] = ("build_config",)

    def __init__(self, *, build_config: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.build_config = build_config

    def execute(self, context: Context) -> dict[str, Any]:
        try:
            params = context["params"]
            config = (
                config_from_params(dict(params)) if self.build_config is None else validate_config(self.build_config)
            )
        except ConfigError as error:
            raise AirflowFailException(str(error)) from error
        self.run_lvr(context, "preflight", "--config-json", config.model_dump_json())
        return config.model_dump(mode="json")


class PlanOperator(LvrCommandOperator):
    """Lists the sources, groups them into partitions, and returns one dict per partition to map over.

    The keys of a dict are `run`, `partition` and `label`. The run's address is also pushed as the XCom `run`, the
    number of videos as `videos`, and the number of unusable sources as `rejects`.

    :param build_config: the `BuildConfig` as a dict
    """

    template_fields: Sequence[str] = ("build_config",)

    def __init__(self, *, build_config: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.build_config = build_config

    def execute(self, context: Context) -> list[dict[str, Any]]:
        run_id = f"{self.build_config['name']}-{context['run_id']}"
        planned = self.run_lvr(
            context, "plan", "--config-json", json.dumps(self.build_config), "--run-id", run_id
        )  # fmt: skip
        partitions: list[dict[str, Any]] = planned["partitions"]
        if len(partitions) > (limit := conf.getint("core", "max_map_length")):
            raise AirflowFailException(
                f"{planned['videos']} videos make {len(partitions)} partitions, more than Airflow's [core] "
                f"max_map_length of {limit}: raise partition_videos to at least {-(-planned['videos'] // limit)}"
            )
        for key in ("run", "videos", "rejects"):
            context["ti"].xcom_push(key=key, value=planned[key])
        return [{"run": planned["run"], **partition} for partition in partitions]


class StageOperator(LvrCommandOperator):
    """Runs one stage, for one partition or for the whole build, and returns its metrics.

    :param stage: the stage's name
    :param partition: a partition as `PlanOperator` returns it
    :param run_url: the run's address, for stages that run once for the whole build
    """

    template_fields: Sequence[str] = ("partition", "run_url")

    def __init__(self, *, stage: str, partition: Any = None, run_url: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.stage = stage
        self.partition = partition
        self.run_url = run_url

    def execute(self, context: Context) -> dict[str, Any]:
        if self.partition is None:
            return self.run_lvr(context, "stage", self.run_url, self.stage)
        return self.run_lvr(
            context, "stage", self.partition["run"], self.stage, "--partition", str(self.partition["partition"])
        )


class ReportOperator(LvrCommandOperator):
    """Writes the run's report page and its findings.

    It returns a dict with the page's address as `report`, and the number of findings of each severity as `findings`.
    Those that need attention are in the log.

    :param run_url: the run's address
    """

    template_fields: Sequence[str] = ("run_url",)

    def __init__(self, *, run_url: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.run_url = run_url

    def execute(self, context: Context) -> dict[str, Any]:
        return self.run_lvr(context, "report", self.run_url)


class PublishOperator(LvrCommandOperator):
    """Publishes the run's files as the next version of the dataset.

    It returns what was published, and adds an event to the asset `RELEASES`. If the newest version already has the same
    content, nothing is published, the task is skipped, and no event is added. When a task died after publishing, its
    retry reports the version as new again, so that the event is not lost.

    :param run_url: the run's address
    """

    template_fields: Sequence[str] = ("run_url",)

    def __init__(self, *, run_url: Any, **kwargs: Any) -> None:
        super().__init__(outlets=[RELEASES], **kwargs)
        self.run_url = run_url

    def execute(self, context: Context) -> dict[str, Any]:
        published: dict[str, Any] = {**self.run_lvr(context, "publish", self.run_url), "run": self.run_url}
        if not published["is_new"]:
            context["ti"].xcom_push(key="return_value", value=published)
            raise AirflowSkipException(
                f"nothing new to publish: {published['name']} version {published['version']} at {published['url']} "
                f"has this very content"
            )
        context["outlet_events"][RELEASES].extra = published
        return published


class StaleOperator(LvrCommandOperator):
    """Finds out what a new run of a published build would compute, and returns the counts and the reasons.

    The new run's configuration is pushed as the XCom `config`. The run's parameters `out` and `name` select the build.
    `name` is not needed if `out` holds only one dataset. Without `out`, the newest event of `RELEASES` selects it. The
    parameter `overrides` holds `section.field=value` settings for the new run. When nothing is stale, this task and all
    downstream tasks are skipped.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(inlets=[RELEASES], **kwargs)

    def execute(self, context: Context) -> dict[str, Any]:
        params = context["params"]
        out, name = params["out"], params["name"]
        if not out:
            newest = _newest_release(context)
            out, name = newest["run"].rpartition("/runs/")[0], name or newest["name"]
        settings = [part for setting in params["overrides"] for part in ("--set", setting)]
        found: dict[str, Any] = self.run_lvr(
            context, "stale", "--out", out, *(("--name", name) if name else ()), *settings
        )  # fmt: skip
        for reason in found["reasons"]:
            self.log.info("stale: %s", reason)
        context["ti"].xcom_push(key="config", value=found["config"])
        summary = {key: found[key] for key in ("stale", "reasons", "previous_run")}
        if not any(found["stale"].values()):
            context["ti"].xcom_push(key="return_value", value=summary)
            raise AirflowSkipException(f"nothing is stale: {found['previous_run']} still stands for today's sources")
        return summary


def _newest_release(context: Context) -> dict[str, Any]:
    # An event that a person created in the UI names no build.
    builds = [dict(event.extra) for event in context["inlet_events"][RELEASES] if event.extra and "run" in event.extra]
    if not builds:
        raise AirflowSkipException(
            "no build has been published yet: run build_dataset first, or name one with the parameters out and name"
        )
    return builds[-1]


class _ProgressStore:
    """Stores a task's newest progress line, which the UI and the REST API show while the task runs.

    The line goes into the task's state store. A line that cannot be stored is dropped, and the first such failure is
    logged as a warning.
    """

    def __init__(self, context: Context, warn: Callable[[str], None]) -> None:
        self._store = context["task_state_store"]
        self._warn = warn
        self._has_failed = False
        self._shown_at = 0.0

    def show(self, line: str) -> None:
        if not line or time.monotonic() - self._shown_at < PROGRESS_SECONDS:
            return
        try:
            self._store.set("progress", line)
        except Exception as error:  # noqa: BLE001 - a failed UI update must not end hours of work
            if not self._has_failed:
                self._warn(f"the progress cannot be stored, the UI may show an old one: {error}")
            self._has_failed = True
        self._shown_at = time.monotonic()


def _json(line: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return None  # a command that prints plain text
