"""Airflow's public REST API (v2), as far as the demo needs it. Standard library only: it imports no Airflow."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import quote, urlencode

_TIMEOUT_SECONDS = 60.0
_PAGE = 100
"""Airflow's own limit."""


class ApiError(RuntimeError):
    """Airflow answered with an error or not at all; `status` is the HTTP status, 0 for no answer."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class AirflowApi:
    """One Airflow. With user and password it logs in at the first call that needs it."""

    def __init__(self, url: str, user: str = "", password: str = "") -> None:
        self.url = url
        self._login = {"username": user, "password": password} if user else None
        self._token = ""

    def unhealthy(self) -> list[str]:
        """Components that are not healthy. The HTTP status says nothing: it is 200 when the scheduler is dead."""
        health = self._send("GET", "/api/v2/monitor/health", None, "")
        return [name for name, state in health.items() if state["status"] != "healthy"]

    def trigger(self, dag_id: str, conf: dict[str, Any]) -> str:
        """Start a run; returns its id. Raises ApiError with Airflow's explanation when a parameter does not fit."""
        body = {"logical_date": None, "conf": conf}
        return str(self.call("POST", f"/api/v2/dags/{dag_id}/dagRuns", body)["dag_run_id"])

    def run_state(self, dag_id: str, run_id: str) -> str:
        return str(self.call("GET", _run(dag_id, run_id))["state"])

    def task_instances(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """All task instances of a run."""
        found: list[dict[str, Any]] = []
        while True:
            page = urlencode({"limit": _PAGE, "offset": len(found)})
            answer = self.call("GET", f"{_run(dag_id, run_id)}/taskInstances?{page}")
            found += answer["task_instances"]
            if len(found) >= answer["total_entries"] or not answer["task_instances"]:
                return found

    def task_log(self, task: dict[str, Any]) -> list[str]:
        """The lines of a task instance's newest log."""
        path = f"{_run(task['dag_id'], task['dag_run_id'])}/taskInstances/{quote(task['task_id'], safe='')}"
        answer = self.call(
            "GET", f"{path}/logs/{max(1, task['try_number'])}?map_index={task['map_index']}&full_content=true"
        )
        content = answer["content"]
        return [line if isinstance(line, str) else str(line.get("event", "")) for line in content]

    def xcom(self, dag_id: str, run_id: str, task_id: str, key: str = "return_value") -> Any:
        """What a task has returned, or pushed under a key."""
        path = f"{_run(dag_id, run_id)}/taskInstances/{quote(task_id, safe='')}/xcomEntries/{key}"
        return self.call("GET", f"{path}?deserialize=true")["value"]

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """One call, logged in; a session that has run out is renewed once."""
        if not self._token:
            self._log_in()
        try:
            return self._send(method, path, body, self._token)
        except ApiError as error:
            if error.status != 401:
                raise
            self._log_in()
            return self._send(method, path, body, self._token)

    def _log_in(self) -> None:
        self._token = str(self._send("POST", "/auth/token", self._login, "")["access_token"])

    def _send(self, method: str, path: str, body: Any, token: str) -> Any:
        headers = {"content-type": "application/json", "accept": "application/json"}
        if token:
            headers["authorization"] = f"Bearer {token}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, headers=headers, method=method)  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as answer:  # noqa: S310 - http(s) only
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            raise ApiError(error.code, f"{method} {path}: HTTP {error.code}: {_detail(error)}") from error
        except (OSError, ValueError) as error:
            raise ApiError(0, f"{method} {self.url}{path}: {error}") from error


def _run(dag_id: str, run_id: str) -> str:
    return f"/api/v2/dags/{dag_id}/dagRuns/{quote(run_id, safe='')}"


def _detail(error: urllib.error.HTTPError) -> str:
    text = error.read().decode(errors="replace")
    try:
        return str(json.loads(text)["detail"])
    except (ValueError, KeyError, TypeError):
        return text
