"""Operators: one `lvr` command each, run in a process of its own.

A task waits, hands progress on to its log, and returns a small dict; all work happens in the child. So nothing heavy is
imported into Airflow, a stage that crashes or hangs takes no worker with it, and a task that is killed leaves nothing
running. The exit status says what a failure means: the configuration or the input is wrong (the task fails at once), or
something is away (the task is tried again, and goes on where it stopped).
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

from operators.airflow_connections import command_environment
from operators.airflow_params import config_from_params
from operators.settings import ConfigError, validate_config
from operators.supervise import Finished, WatchdogExpired, run_watched, stop

LVR = (sys.executable, "-P", "-m", "operators.cli")
BAD_INPUT_STATUS = 2
PROGRESS_SECONDS = 2.0
"""The progress that the UI shows is renewed no more often."""

RELEASES = Asset(name="longvideo_releases", uri="x-longvideo-reason://releases", group="longvideo")
"""Gets an event for every published version; `extra` says which one and where."""


class LvrCommandOperator(BaseOperator):
    """Runs a command of the pipeline in a child process, watched.

    :param command: the program and its first arguments; `lvr` of this very installation by default
    :param wall_limit: the command is ended after this time
    :param silence_limit: the command is ended when it says nothing for this long; longer than one unit's own limit
        (`Stage.timeout_seconds`), which is the finer watchdog; what works on the whole build as one unit needs more
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
        """Run `lvr` with these arguments; returns the JSON value of its last line, or None without one.

        :raises AirflowFailException: the configuration or the input is wrong; trying again would not help
        :raises AirflowException: an outage, a crash or an expired watchdog; the task is tried again
        """
        finished = self._watched(context, arguments)
        if finished.status == BAD_INPUT_STATUS:
            raise AirflowFailException(finished.tail)
        if finished.status:
            raise AirflowException(f"lvr {arguments[0]} ended with status {finished.status}:\n{finished.tail}")
        return _json(finished.last_line)

    def on_kill(self) -> None:
        if self._watcher is not None:
            stop(self._watcher)

    def _watched(self, context: Context, arguments: Sequence[str]) -> Finished:
        try:
            environment = command_environment()
        except ConfigError as error:
            raise AirflowFailException(str(error)) from error
        progress = _Progress(context, self.log.warning)

        def on_line(line: str) -> None:
            self.log.info(line)
            progress.show(line)

        def on_start(watcher: subprocess.Popen[str]) -> None:
            self._watcher = watcher

        try:
            return run_watched(
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
    """Checks all that can be known before any work starts; returns the whole configuration as a dict.

    :param build_config: a `BuildConfig` as a dict; None: made from the run's parameters
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
    """Lists the sources and groups them into lanes; returns one dict per lane (`run`, `lane`, `label`) to map over.

    The run's address is also pushed as XCom `run`, the number of videos and of unusable ones as `videos` and `rejects`.

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
        lanes: list[dict[str, Any]] = planned["lanes"]
        if len(lanes) > (limit := conf.getint("core", "max_map_length")):
            raise AirflowFailException(
                f"{planned['videos']} videos make {len(lanes)} lanes, more than Airflow's [core] max_map_length of "
                f"{limit}: raise lane_videos to at least {-(-planned['videos'] // limit)}"
            )
        for key in ("run", "videos", "rejects"):
            context["ti"].xcom_push(key=key, value=planned[key])
        return [{"run": planned["run"], **lane} for lane in lanes]


class StageOperator(LvrCommandOperator):
    """Runs one stage, for one lane or over the whole build; returns its metrics.

    :param stage: the stage's name
    :param lane: a lane as `PlanOperator` returns it
    :param run_url: the run's address, for stages over the whole build
    """

    template_fields: Sequence[str] = ("lane", "run_url")

    def __init__(self, *, stage: str, lane: Any = None, run_url: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.stage = stage
        self.lane = lane
        self.run_url = run_url

    def execute(self, context: Context) -> dict[str, Any]:
        if self.lane is None:
            return self.run_lvr(context, "stage", self.run_url, self.stage)
        return self.run_lvr(context, "stage", self.lane["run"], self.stage, "--lane", str(self.lane["lane"]))


class ReportOperator(LvrCommandOperator):
    """Writes the run's report page; returns its address.

    :param run_url: the run's address
    """

    template_fields: Sequence[str] = ("run_url",)

    def __init__(self, *, run_url: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.run_url = run_url

    def execute(self, context: Context) -> dict[str, Any]:
        return self.run_lvr(context, "report", self.run_url)


class PublishOperator(LvrCommandOperator):
    """Publishes the run's files as the next version of the dataset; returns what was published and tells `RELEASES`.

    Content that the newest version already has is not published again: the task is skipped, and nobody is told. A task
    that died after publishing is told on its retry that its version is new, so that the event is not lost.

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
    """Finds out what a new run of a published build would compute; returns the counts and the reasons.

    The new run's configuration is pushed as XCom `config`. Which build: the run's parameters `out` and `name` (not
    needed where `out` holds one dataset), or else the newest event of `RELEASES`. The parameter `overrides` holds
    `section.field=value` settings for the new run. When nothing is stale the task, and all that follows, is skipped.
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
    # One that a person made in the UI says nothing of a build.
    builds = [dict(event.extra) for event in context["inlet_events"][RELEASES] if event.extra and "run" in event.extra]
    if not builds:
        raise AirflowSkipException(
            "no build has been published yet: run build_dataset first, or name one with the parameters out and name"
        )
    return builds[-1]


class _Progress:
    """The task's newest progress line, in its state store: the UI and the REST API show it while the task runs.

    A line that cannot be stored is left out, and the log says so the first time.
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
        except Exception as error:  # noqa: BLE001 - hours of work do not depend on what the UI shows
            if not self._has_failed:
                self._warn(f"the progress cannot be stored, the UI may show an old one: {error}")
            self._has_failed = True
        self._shown_at = time.monotonic()


def _json(line: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return None  # a command that reports in words
