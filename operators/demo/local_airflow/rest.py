"""A client for the part of Airflow's public REST API (v2) that the demo needs."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import httpx2

_TIMEOUT_SECONDS = 60.0
_PAGE = 100
"""Entries per page, which is the maximum that Airflow returns."""


class ApiError(RuntimeError):
    """Airflow responded with an error or not at all. `status` is the HTTP status, or 0 without a valid response."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class AirflowApi:
    """Client for one Airflow. With a user and a password, it logs in at the first call that needs a login."""

    def __init__(self, url: str, user: str = "", password: str = "") -> None:
        self._client = httpx2.Client(base_url=url, timeout=_TIMEOUT_SECONDS, trust_env=False)  # never through a proxy
        self._login = {"username": user, "password": password} if user else None
        self._token = ""

    def unhealthy(self) -> list[str]:
        """Names of the components that are not healthy.

        The HTTP status does not show this, because it is 200 even if the scheduler is dead.
        """
        health = self._send("GET", "/api/v2/monitor/health", None, "")
        return [name for name, state in health.items() if state["status"] != "healthy"]

    def trigger(self, dag_id: str, conf: dict[str, Any]) -> str:
        """Start a run of a DAG with the parameters `conf`, and return its id.

        Raises:
            ApiError: a parameter is invalid. The message is Airflow's explanation.
        """
        body = {"logical_date": None, "conf": conf}
        return str(self.call("POST", f"/api/v2/dags/{dag_id}/dagRuns", body)["dag_run_id"])

    def run_state(self, dag_id: str, run_id: str) -> str:
        """Airflow's state of a run, such as `running`, `success` or `failed`."""
        return str(self.call("GET", _run_path(dag_id, run_id))["state"])

    def task_instances(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """All task instances of a run, fetched page by page."""
        found: list[dict[str, Any]] = []
        while True:
            page = f"limit={_PAGE}&offset={len(found)}"
            answer = self.call("GET", f"{_run_path(dag_id, run_id)}/taskInstances?{page}")
            found += answer["task_instances"]
            if len(found) >= answer["total_entries"] or not answer["task_instances"]:
                return found

    def task_log(self, task: dict[str, Any]) -> list[str]:
        """The lines of the log of a task instance's latest try."""
        path = f"{_run_path(task['dag_id'], task['dag_run_id'])}/taskInstances/{quote(task['task_id'], safe='')}"
        answer = self.call(
            "GET", f"{path}/logs/{max(1, task['try_number'])}?map_index={task['map_index']}&full_content=true"
        )
        content = answer["content"]
        return [line if isinstance(line, str) else str(line.get("event", "")) for line in content]

    def xcom(self, dag_id: str, run_id: str, task_id: str, key: str = "return_value") -> Any:
        """The value that a task has returned, or has pushed under `key`."""
        path = f"{_run_path(dag_id, run_id)}/taskInstances/{quote(task_id, safe='')}/xcomEntries/{key}"
        return self.call("GET", f"{path}?deserialize=true")["value"]

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Call the API with a login, and return the parsed JSON. If the login has expired, it is renewed once.

        Raises:
            ApiError: Airflow responded with an error or not at all.
        """
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
        headers = {"authorization": f"Bearer {token}"} if token else {}
        try:
            answer = self._client.request(method, path, json=body, headers=headers)
            if answer.is_success:
                return answer.json()
        except (httpx2.HTTPError, ValueError) as error:
            raise ApiError(0, f"{method} {self._client.base_url.join(path)}: {error}") from error
        raise ApiError(answer.status_code, f"{method} {path}: HTTP {answer.status_code}: {_detail(answer)}")


def _run_path(dag_id: str, run_id: str) -> str:
    return f"/api/v2/dags/{dag_id}/dagRuns/{quote(run_id, safe='')}"


def _detail(answer: httpx2.Response) -> str:
    try:
        return str(answer.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return answer.text
