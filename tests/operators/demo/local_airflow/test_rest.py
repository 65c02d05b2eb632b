"""The client against a real HTTP server that answers as Airflow does."""

import json
import socket
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from operators.demo.local_airflow.rest import AirflowApi, ApiError


@contextmanager
def airflow(answers):
    """A server on a port of its own: its URL, and the requests that it got as (method, path, token, body).

    Args:
        answers: status and body by path; a list of them is used up one request at a time.
    """
    requests = []

    class Answer(BaseHTTPRequestHandler):
        def respond(self):
            body = self.rfile.read(int(self.headers.get("content-length", 0))).decode()
            token = self.headers.get("authorization", "")
            requests.append((self.command, self.path, token, json.loads(body) if body else None))
            answer = answers[self.path]
            status, text = answer.pop(0) if isinstance(answer, list) else answer
            data = text.encode() if isinstance(text, str) else json.dumps(text).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PATCH = respond

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", requests
    finally:
        server.shutdown()
        server.server_close()


def token(name):
    return 201, {"access_token": name}


def test_the_first_call_logs_in_and_an_expired_login_is_renewed():
    answers = {
        "/auth/token": [token("one"), token("two")],
        "/api/v2/version": [(200, {"version": "3"}), (401, {"detail": "expired"}), (200, {"version": "3"})],
    }
    with airflow(answers) as (url, requests):
        api = AirflowApi(url, "admin", "secret")
        assert api.call("GET", "/api/v2/version") == api.call("GET", "/api/v2/version") == {"version": "3"}
    assert requests[0] == ("POST", "/auth/token", "", {"username": "admin", "password": "secret"})
    assert [(path, held) for _, path, held, _ in requests[1:]] == [
        ("/api/v2/version", "Bearer one"),
        ("/api/v2/version", "Bearer one"),
        ("/auth/token", ""),
        ("/api/v2/version", "Bearer two"),
    ]


def test_health_needs_no_login():
    health = {"scheduler": {"status": "unhealthy"}, "metadatabase": {"status": "healthy"}}
    with airflow({"/api/v2/monitor/health": (200, health)}) as (url, requests):
        assert AirflowApi(url).unhealthy() == ["scheduler"]
    assert len(requests) == 1


def test_a_run_is_triggered_with_its_parameters():
    answers = {"/auth/token": token("one"), "/api/v2/dags/build/dagRuns": (200, {"dag_run_id": "r"})}
    with airflow(answers) as (url, requests):
        assert AirflowApi(url, "admin", "secret").trigger("build", {"seed": 2}) == "r"
    assert requests[-1] == (
        "POST",
        "/api/v2/dags/build/dagRuns",
        "Bearer one",
        {"logical_date": None, "conf": {"seed": 2}},
    )


def test_ids_are_quoted_and_pages_are_joined():
    run = "/api/v2/dags/build/dagRuns/manual__2026-11-30T10%3A00%3A00%2B00%3A00%2Fagain"
    page = {"total_entries": 3}
    answers = {
        "/auth/token": token("one"),
        f"{run}/taskInstances?limit=100&offset=0": (200, page | {"task_instances": [{"n": 0}, {"n": 1}]}),
        f"{run}/taskInstances?limit=100&offset=2": (200, page | {"task_instances": [{"n": 2}]}),
    }
    with airflow(answers) as (url, _):
        tasks = AirflowApi(url, "admin", "secret").task_instances("build", "manual__2026-11-30T10:00:00+00:00/again")
    assert tasks == [{"n": 0}, {"n": 1}, {"n": 2}]


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (404, {"detail": "no DAG 'build'"}, "GET /api/v2/dags: HTTP 404: no DAG 'build'"),
        (502, "<h1>Bad Gateway</h1>", "GET /api/v2/dags: HTTP 502: <h1>Bad Gateway</h1>"),
    ],
)
def test_an_error_has_airflows_explanation(status, body, message):
    answers = {"/auth/token": token("one"), "/api/v2/dags": (status, body)}
    with airflow(answers) as (url, _), pytest.raises(ApiError) as error:
        AirflowApi(url, "admin", "secret").call("GET", "/api/v2/dags")
    assert (error.value.status, str(error.value)) == (status, message)


def test_an_answer_that_is_not_json_is_an_error_without_a_status():
    answers = {"/auth/token": token("one"), "/api/v2/dags": (200, "<html>")}
    with airflow(answers) as (url, _), pytest.raises(ApiError) as error:
        AirflowApi(url, "admin", "secret").call("GET", "/api/v2/dags")
    assert error.value.status == 0
    assert str(error.value).startswith(f"GET {url}/api/v2/dags: Expecting value")


def test_an_unreachable_server_is_reported_with_address_and_reason():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(ApiError, match=rf"GET {url}/api/v2/monitor/health: .*Connection refused") as error:
            AirflowApi(url).unhealthy()
    assert error.value.status == 0


def test_a_proxy_is_not_used_for_the_local_airflow(monkeypatch):
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("all_proxy", "socks5://127.0.0.1:9")
    with airflow({"/api/v2/monitor/health": (200, {})}) as (url, _):
        assert AirflowApi(url).unhealthy() == []
