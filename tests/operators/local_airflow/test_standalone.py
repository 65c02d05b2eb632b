"""A real local Airflow: up and healthy, behind a password, noticed when a part dies, and gone without a trace."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request

import psutil
import pytest

from operators.local_airflow.rest import ApiError
from operators.local_airflow.standalone import COMPONENTS, ROOT, Standalone, StandaloneError, reserve_port

STARTER = """
import sys, time
from pathlib import Path
from operators.local_airflow.standalone import Standalone, ended_by_signals
try:
    with ended_by_signals(), Standalone(Path(sys.argv[1])) as airflow:
        print(airflow.url, flush=True)
        time.sleep(600)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def family(pid: int) -> list[psutil.Process]:
    """Everything that a process has started, down to the last."""
    return psutil.Process(pid).children(recursive=True)


def all_gone(processes: list[psutil.Process], within_seconds: float = 40.0) -> bool:
    deadline = time.monotonic() + within_seconds
    while time.monotonic() < deadline:
        if not [each for each in processes if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]:
            return True
        time.sleep(0.2)
    return False


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("airflow")


@pytest.mark.slow
def test_up_guarded_watched_and_gone(home):
    others = set(family(os.getpid()))  # what earlier tests have left to this process
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        wanted = taken.getsockname()[1]
        with Standalone(home, port=wanted) as airflow:
            assert airflow.port != wanted
            api = airflow.api()
            assert api.unhealthy() == []
            with pytest.raises(StandaloneError, match=f"another Airflow uses {home}"):
                Standalone(home).__enter__()
            with pytest.raises(urllib.error.HTTPError, match="401"):
                urllib.request.urlopen(f"{airflow.url}/api/v2/dags")
            assert stat.S_IMODE((home / "passwords.json").stat().st_mode) == 0o600
            assert json.loads((home / "passwords.json").read_text()) == {"admin": airflow.password}
            pools = {pool["name"]: pool["slots"] for pool in api.call("GET", "/api/v2/pools")["pools"]}
            assert pools["lvr_decode"] >= 1 and pools["lvr_models"] >= 1
            with pytest.raises(ApiError, match="no_such_dag") as raised:
                api.trigger("no_such_dag", {})
            assert raised.value.status == 404
            airflow.check()
            components = [process for process in family(os.getpid()) if process not in others]
            assert len(components) > len(COMPONENTS)
            listening = {
                connection.laddr.ip
                for process in components
                for connection in process.net_connections(kind="tcp")
                if connection.status == psutil.CONN_LISTEN and connection.laddr.port == airflow.port
            }
            assert listening == {"127.0.0.1"}
            watcher = next(each for each in components if {"operators.supervise", "scheduler"} <= set(each.cmdline()))
            [scheduler] = watcher.children()
            os.kill(scheduler.pid, signal.SIGKILL)
            deadline = time.monotonic() + 30
            with pytest.raises(StandaloneError, match=r"Airflow's scheduler ended with status .*scheduler\.log"):
                while time.monotonic() < deadline:
                    airflow.check()
                    time.sleep(0.2)
    assert all_gone(components, within_seconds=1)


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGINT])
def test_nothing_outlives_the_starter(home, signum):
    with subprocess.Popen(
        [sys.executable, "-c", STARTER, str(home)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as starter:
        assert starter.stdout.readline().startswith("http://127.0.0.1:")
        started = family(starter.pid)
        assert len(started) > len(COMPONENTS)
        os.kill(starter.pid, signum)
        starter.wait(timeout=60)
        assert all_gone(started)


def test_a_port_is_given_out_once():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        other, lock = reserve_port(port)
        lock.close()
        assert other != port
    first, lock = reserve_port(port)
    second, other_lock = reserve_port(port)  # nobody listens yet, but it is spoken for
    lock.close()
    third, third_lock = reserve_port(port)
    other_lock.close()
    third_lock.close()
    assert (first == port, second != port, third == port) == (True, True, True)
