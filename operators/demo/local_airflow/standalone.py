"""A local Airflow that runs while it is needed, with SQLite, LocalExecutor and the loopback interface only.

`with Standalone() as airflow:` enters its block when all four components are healthy. Each component runs behind a
watcher (`operators.process.supervise`), so that Airflow ends when this process ends for any reason. Each component has
its own log under `{home}/components`. The database, the password and the task logs stay in `home` for the next start.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.metadata
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType, TracebackType
from typing import IO

from operators.demo.local_airflow.rest import AirflowApi, ApiError
from operators.process.supervise import start_supervised, stop_supervised
from schemas.errors import Outage

ROOT = Path(__file__).resolve().parents[3]
COMPONENTS = ("api-server", "scheduler", "dag-processor", "triggerer")
USER = "admin"
PARALLELISM = 4
"""Maximum number of concurrent tasks. SQLite and two cores can handle this many, but Airflow's default of 32 leads to
`database is locked`."""
START_SECONDS = 120.0
_TAIL_BYTES = 4000


class StandaloneError(Outage):
    """Airflow could not be started, or one of its components ended. The message shows the end of its log."""


class Standalone:
    """A running local Airflow, as a context manager."""

    def __init__(self, home: Path | None = None, port: int = 8080) -> None:
        """Reserve the ports. Entering the context starts Airflow.

        Args:
            home: Airflow's folder, by default `.airflow` in the project. Only one Airflow at a time may use it.
            port: preferred port of the UI. If it is in use, another free port is taken.

        Raises:
            StandaloneError: there is no free port.
        """
        self.home = (home or ROOT / ".airflow").absolute()
        self.password = ""
        self._processes: dict[str, subprocess.Popen[str]] = {}
        self._lock: IO[str] | None = None
        self._reserved: list[IO[str]] = []
        self.port = self._reserve(port)
        self._log_ports = self._reserve(8793), self._reserve(8794)

    @property
    def url(self) -> str:
        """Address of the UI and the REST API."""
        return f"http://127.0.0.1:{self.port}"

    def api(self) -> AirflowApi:
        """A client for the public REST API, with the login of the administrator."""
        return AirflowApi(self.url, USER, self.password)

    def __enter__(self) -> Standalone:
        _require_airflow()
        self.home.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(self.home)
        try:
            self.password = _password(self.home)
            environment = self.environment()
            _migrate(self.home, environment, self._log("migrate"))
            for name in COMPONENTS:
                self._processes[name] = self._start(name, environment)
            self._wait_until_healthy()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all components, wait until no process is left, and release the folder and the ports."""
        for process in self._processes.values():
            if process.stdin:
                with contextlib.suppress(OSError):
                    process.stdin.close()  # so that all components stop concurrently
        for process in self._processes.values():
            stop_supervised(process)
        self._processes.clear()
        if self._lock is not None:
            self._lock.close()
            self._lock = None
        while self._reserved:
            self._reserved.pop().close()

    def check(self) -> None:
        """Check that all components are running.

        Raises:
            StandaloneError: a component has ended. The message shows the end of its log.
        """
        for name, process in self._processes.items():
            if (status := process.poll()) is not None:
                log = self._log(name)
                raise StandaloneError(f"Airflow's {name} ended with status {status}; the end of {log}:\n{_tail(log)}")

    def environment(self) -> dict[str, str]:
        """Environment variables of every component.

        Some settings shorten intervals whose defaults cause delays of 5 seconds after tasks and waits of 5 minutes.
        """
        settings = {
            "CORE__DAGS_FOLDER": ROOT / "dags",
            "CORE__PLUGINS_FOLDER": ROOT / "plugins",
            "CORE__LOAD_EXAMPLES": False,
            "CORE__EXECUTOR": "LocalExecutor",
            "CORE__PARALLELISM": PARALLELISM,
            "CORE__EXECUTION_API_SERVER_URL": f"{self.url}/execution/",
            "CORE__SIMPLE_AUTH_MANAGER_USERS": f"{USER}:admin",
            "CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": _password_file(self.home),
            "DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{_database(self.home)}?timeout=60",
            "WORKERS__MIN_HEARTBEAT_INTERVAL": 1,
            "SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": 0.5,
            "DAG_PROCESSOR__REFRESH_INTERVAL": 10,
            "DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": 300,  # changed files are read again immediately
            "API__HOST": "127.0.0.1",
            "API__PORT": self.port,
            "API__BASE_URL": self.url,
            "API__INSTANCE_NAME": "longvideo-reason",
            "LOGGING__WORKER_LOG_SERVER_PORT": self._log_ports[0],
            "LOGGING__TRIGGER_LOG_SERVER_PORT": self._log_ports[1],
        }
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW__")}
        inherited.pop("PYTHONDONTWRITEBYTECODE", None)  # without bytecode files, everything starts half as fast
        return inherited | {
            **{f"AIRFLOW__{name}": str(value) for name, value in settings.items()},
            "AIRFLOW_HOME": str(self.home),
            "PATH": os.pathsep.join([sysconfig.get_path("scripts"), inherited.get("PATH", "")]),
            "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), inherited.get("PYTHONPATH", "")])),
        }

    def _reserve(self, wanted: int) -> int:
        port, lock = reserve_port(wanted)
        self._reserved.append(lock)
        return port

    def _start(self, name: str, environment: Mapping[str, str]) -> subprocess.Popen[str]:
        assert self._lock is not None
        with self._log(name).open("w") as log:
            return start_supervised(
                _airflow(name),
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=[self._lock.fileno()],  # held until the last component has ended
            )

    def _log(self, name: str) -> Path:
        folder = self.home / "components"
        folder.mkdir(exist_ok=True)
        return folder / f"{name}.log"

    def _wait_until_healthy(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        unhealthy: list[str] = list(COMPONENTS)
        api = self.api()
        while time.monotonic() < deadline:
            self.check()
            with contextlib.suppress(ApiError):
                unhealthy = api.unhealthy()
                if not unhealthy:
                    api.call("GET", "/api/v2/version")  # the login fails if this is another Airflow
                    return
            time.sleep(0.3)
        logs = "\n".join(f"{name}: {_tail(self._log(name))}" for name in COMPONENTS if name in unhealthy)
        raise StandaloneError(f"Airflow was not healthy after {START_SECONDS:.0f} s: {', '.join(unhealthy)}\n{logs}")


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Context in which Ctrl-C, SIGTERM and SIGHUP raise KeyboardInterrupt.

    So the block can end the processes that it started. The earlier signal handlers are restored at its end.
    """

    def interrupt(signum: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {signum: signal.signal(signum, interrupt) for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def reserve_port(wanted: int) -> tuple[int, IO[str]]:
    """Reserve the wanted port if no process listens on it, otherwise a free one.

    Another Airflow may check the same port before a component of this one listens on it. The lock prevents that it
    takes the port.

    Returns:
        The port, and the lock file that reserves it for this process. Closing the file releases the port.

    Raises:
        StandaloneError: there is no free port.
    """
    for port in (wanted, *[0] * 20):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("", port))
                number = int(probe.getsockname()[1])
                lock = (Path(tempfile.gettempdir()) / f"lvr-port-{number}.lock").open("a")
            except OSError:  # in use, or reserved by another user
                continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            continue
        return number, lock
    raise StandaloneError("no free TCP port on this host")


def _airflow(*arguments: str) -> list[str]:
    return [sys.executable, "-P", "-m", "airflow", *arguments]


def _require_airflow() -> None:
    if not (ROOT / "dags").is_dir():
        raise StandaloneError(f"no dags folder in {ROOT}; the demo and the local UI run from a checkout of the project")
    from importlib.util import find_spec

    if find_spec("airflow") is None:
        raise StandaloneError("Airflow is not installed here: make setup, or pip install 'longvideo-reason[airflow]'")


def _lock(home: Path) -> IO[str]:
    lock = (home / "lock").open("a")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise StandaloneError(
            f"another Airflow uses {home}, or is just stopping: end that `lvr ui` or `lvr demo` first"
        ) from None
    return lock


def _database(home: Path) -> Path:
    return home / "airflow.db"


def _password_file(home: Path) -> Path:
    return home / "passwords.json"


def _password(home: Path) -> str:
    """The administrator's password. It is generated at random on the first start and kept for later ones."""
    file = _password_file(home)
    if not file.exists():
        staging = file.with_suffix(".writing")
        staging.unlink(missing_ok=True)
        with os.fdopen(os.open(staging, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as writer:
            json.dump({USER: secrets.token_urlsafe(9)}, writer)
        staging.rename(file)
    passwords: dict[str, str] = json.loads(file.read_text())
    return passwords[USER]


def _migrate(home: Path, environment: Mapping[str, str], log: Path) -> None:
    """Create the database, or migrate it to the installed version of Airflow.

    The file `migrated` next to it records the last version, so that an up-to-date database is not migrated again.

    Raises:
        StandaloneError: the migration failed. The message shows the end of its log.
    """
    version, note = importlib.metadata.version("apache-airflow-core"), home / "migrated"
    if _database(home).exists() and note.exists() and note.read_text() == version:
        return
    note.unlink(missing_ok=True)  # a partial migration belongs to no version
    with log.open("w") as output:
        done = subprocess.run(
            _airflow("db", "migrate"), env=dict(environment), stdout=output, stderr=subprocess.STDOUT, check=False
        )
    if done.returncode:
        raise StandaloneError(
            f"airflow db migrate ended with status {done.returncode}; the end of {log}:\n{_tail(log)}"
        )
    note.write_text(version)


def _tail(log: Path) -> str:
    with contextlib.suppress(FileNotFoundError), log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
        return file.read().decode(errors="replace").strip()
    return ""
