"""`lvr ui` and `lvr demo` leave no process behind, however they end. Their functions are tested in tests/e2e."""

import importlib.metadata
import signal
import socket
import subprocess
import sys
import time

import psutil
import pytest

from operators.demo.local_airflow import standalone
from operators.demo.local_airflow.standalone import (
    COMPONENTS,
    ROOT,
    Standalone,
    StandaloneError,
    _airflow,
    reserve_port,
)

STARTER = """
import sys, time
from pathlib import Path
from operators.demo.local_airflow.standalone import Standalone, ended_by_signals
try:
    with ended_by_signals(), Standalone(Path(sys.argv[1])) as airflow:
        print(airflow.url, flush=True)
        time.sleep(600)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def descendants(pid: int) -> list[psutil.Process]:
    """All descendants of a process."""
    return psutil.Process(pid).children(recursive=True)


def wait_until_ended(processes: list[psutil.Process], within_seconds: float = 120.0) -> bool:
    deadline = time.monotonic() + within_seconds
    while time.monotonic() < deadline:
        if not [each for each in processes if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]:
            return True
        time.sleep(0.2)
    return False


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("airflow")


@pytest.fixture
def starter(home):
    with subprocess.Popen(
        [sys.executable, "-c", STARTER, str(home)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as starter:
        yield starter
        starter.kill()


def test_airflow_starts_in_a_folder_with_a_package_of_the_same_name(tmp_path):
    (tmp_path / "airflow").mkdir()
    (tmp_path / "airflow" / "__init__.py").write_text("raise ImportError(__file__)")
    completed = subprocess.run(
        _airflow("version"),
        cwd=tmp_path,
        env=Standalone(tmp_path / "home").environment(),
        capture_output=True,
        text=True,
    )
    assert importlib.metadata.version("apache-airflow") in completed.stdout, completed.stderr


@pytest.mark.parametrize(("signum", "last_line"), [(signal.SIGKILL, ""), (signal.SIGINT, "interrupted\n")])
def test_an_end_while_it_starts_leaves_nothing_running(starter, signum, last_line):
    deadline = time.monotonic() + 200
    while len(started := descendants(starter.pid)) < 2 * len(COMPONENTS):  # each component has a watcher
        assert time.monotonic() < deadline and starter.poll() is None
        time.sleep(0.1)
    starter.send_signal(signum)
    assert starter.communicate(timeout=60)[0] == last_line
    assert wait_until_ended(started)


def test_a_port_that_is_taken_is_left_alone(home):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        wanted = taken.getsockname()[1]
        airflow = Standalone(home, port=wanted)
        assert airflow.port != wanted
        airflow.close()


def test_a_database_that_another_version_has_begun_to_migrate_is_not_taken_for_done(tmp_path, monkeypatch):
    """After a failed upgrade the previous version must run its migration again and report the result."""
    broken = tmp_path / "packages" / "airflow" / "__main__.py"
    broken.parent.mkdir(parents=True)
    (broken.parent / "__init__.py").touch()
    broken.write_text("raise SystemExit('half of it is done')")
    monkeypatch.setenv("PYTHONPATH", str(broken.parents[1]))
    version = importlib.metadata.version("apache-airflow-core")
    (tmp_path / "migrated").write_text(version)
    (tmp_path / "airflow.db").touch()
    for started in ("a newer one", version):
        monkeypatch.setattr(importlib.metadata, "version", lambda package, started=started: started)
        with pytest.raises(StandaloneError, match=r"db migrate ended with status 1;(.|\n)*half of it is done"):
            Standalone(tmp_path).__enter__()


def test_a_start_that_was_killed_as_it_wrote_the_password_does_not_hinder_the_next(tmp_path, monkeypatch):
    def interrupt(values, writer):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(standalone.json, "dump", interrupt)
        standalone._password(tmp_path)
    assert standalone._password(tmp_path) == standalone._password(tmp_path)


def test_a_port_is_given_out_once():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        other, lock = reserve_port(port)
        lock.close()
        assert other != port
    first, lock = reserve_port(port)
    second, other_lock = reserve_port(port)  # nobody listens yet, but the port is reserved
    lock.close()
    third, third_lock = reserve_port(port)
    other_lock.close()
    third_lock.close()
    assert (first == port, second != port, third == port) == (True, True, True)
