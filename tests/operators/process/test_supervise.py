"""Commands end with the process that started them, and the watchdog ends commands that hang."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from operators.process import supervise
from operators.process.supervise import (
    GRACE_SECONDS,
    WatchdogExpired,
    run_supervised,
    start_supervised,
    stop_supervised,
)

ROOT = Path(__file__).resolve().parents[3]
PATIENCE = 60.0
"""Timeout in seconds that no operation here reaches, however busy the machine is."""


def python(code: str) -> list[str]:
    return [sys.executable, "-u", "-c", textwrap.dedent(code)]


def gone(pid: int, within_seconds: float = PATIENCE) -> bool:
    deadline = time.monotonic() + within_seconds
    while time.monotonic() < deadline:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


def pids_in(file: Path, count: int) -> list[int]:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if file.exists() and len(pids := file.read_text().split()) == count:
            return [int(pid) for pid in pids]
        time.sleep(0.05)
    raise AssertionError(f"{file} never named {count} processes")


STUBBORN_FAMILY = """
    import os, signal, subprocess, sys, time
    stubborn = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"
    child = subprocess.Popen([sys.executable, "-c", stubborn], process_group=0)
    with open(sys.argv[1], "w") as file:
        file.write(f"{os.getpid()} {child.pid}")
    print("started", file=sys.stderr)
    time.sleep(600)
"""
"""Script of a parent, with a child that has moved to a process group of its own and ignores SIGTERM."""


def test_lines_status_and_last_line_come_back():
    lines: list[str] = []
    finished = run_supervised(
        python("import sys; put = sys.stderr.write; put('one\\n'); print('{}'); print(); put('two\\n'); sys.exit(3)"),
        wall_seconds=PATIENCE,
        silence_seconds=PATIENCE,
        on_line=lines.append,
    )
    assert lines == ["one", "two"]
    assert (finished.status, finished.last_line, finished.tail) == (3, "{}", "one\ntwo")


def test_the_end_is_seen_though_a_reader_has_not_ended_yet(monkeypatch):
    """The last reader thread may still be alive when its end of stream is received, and no later event would follow."""
    read = supervise._queue_lines
    monkeypatch.setattr(supervise, "_queue_lines", lambda *stream: (read(*stream), time.sleep(PATIENCE)))
    finished = run_supervised(python("print(7)"), wall_seconds=PATIENCE, silence_seconds=PATIENCE)
    assert (finished.status, finished.last_line) == (0, "7")


def test_a_signal_is_a_negative_status():
    finished = run_supervised(
        python("import os; os.kill(os.getpid(), 9)"), wall_seconds=PATIENCE, silence_seconds=PATIENCE
    )
    assert finished.status == -signal.SIGKILL


class LeapingClock:
    """Replacement for `time` in the watchdog. Tests advance it by hours, so no limit depends on the machine's speed."""

    sleep = staticmethod(time.sleep)

    def __init__(self) -> None:
        self.leapt = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.leapt

    def leap(self, line: str) -> None:
        """Advances the clock by one hour. Called for every line that the command prints."""
        self.leapt += 3600.0


@pytest.fixture
def clock(monkeypatch):
    clock = LeapingClock()
    monkeypatch.setattr("operators.process.supervise.time", clock)
    return clock


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"wall_seconds": 1800, "silence_seconds": 7200}, "was still running after 36"),
        ({"wall_seconds": 7200, "silence_seconds": 1800}, "had no output for 1800 s"),
    ],
)
def test_watchdog_ends_the_whole_family(tmp_path, clock, limits, message):
    pids = tmp_path / "pids"
    with pytest.raises(WatchdogExpired, match=f"{message}.*its last line: started"):
        run_supervised([*python(STUBBORN_FAMILY), str(pids)], grace_seconds=0.5, on_line=clock.leap, **limits)
    assert all(gone(pid) for pid in pids_in(pids, 2))


def test_output_keeps_a_quiet_watchdog_away(clock):
    code = "import sys, time\nfor i in range(5): print(i, file=sys.stderr); time.sleep(0.2)"
    finished = run_supervised(python(code), wall_seconds=10 * 3600, silence_seconds=2 * 3600, on_line=clock.leap)
    assert (finished.status, clock.leapt) == (0, 5 * 3600)


def test_processes_that_a_command_leaves_behind_do_not_delay_its_end(tmp_path):
    pids = tmp_path / "pids"
    stubborn_child = STUBBORN_FAMILY.replace("    time.sleep(600)\n", "    print('ended', time.monotonic())\n")
    finished = run_supervised([*python(stubborn_child), str(pids)], wall_seconds=PATIENCE, silence_seconds=PATIENCE)
    text, at = finished.last_line.split()
    assert text == "ended" and time.monotonic() - float(at) < GRACE_SECONDS / 2
    assert all(gone(pid) for pid in pids_in(pids, 2))


def test_a_process_that_left_the_session_with_the_streams_does_not_delay_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(supervise, "STREAMS_SECONDS", 0.2)
    code = """
        import subprocess, sys
        left = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
        open(sys.argv[1], "w").write(str(left.pid))
        print("done")
    """
    finished = run_supervised([*python(code), str(tmp_path / "pid")], wall_seconds=PATIENCE, silence_seconds=PATIENCE)
    [left] = pids_in(tmp_path / "pid", 1)
    assert psutil.pid_exists(left)
    os.kill(left, signal.SIGKILL)
    assert (finished.status, finished.last_line) == (0, "done")


def test_a_folder_with_a_package_of_the_same_name_does_no_harm(tmp_path, monkeypatch):
    (tmp_path / "operators").mkdir()
    (tmp_path / "operators" / "__init__.py").write_text("raise ImportError(__file__)")
    monkeypatch.chdir(tmp_path)
    finished = run_supervised(python("print(7)"), wall_seconds=PATIENCE, silence_seconds=PATIENCE)
    assert (finished.status, finished.last_line) == (0, "7"), finished.tail


def test_stop_ends_the_family(tmp_path):
    pids = tmp_path / "pids"
    watcher = start_supervised([*python(STUBBORN_FAMILY), str(pids)], grace_seconds=0.5)
    family = pids_in(pids, 2)
    stop_supervised(watcher, grace_seconds=0.5)
    assert all(gone(pid) for pid in family)


@pytest.mark.parametrize("victim", ["starter", "watcher"])
def test_kill_9_leaves_nothing_behind(tmp_path, victim):
    pids, code = tmp_path / "pids", textwrap.dedent(STUBBORN_FAMILY)
    if victim == "watcher":  # the kernel signals the command; its own children are up to the command
        code = "import os, sys, time; open(sys.argv[1], 'w').write(f'{os.getpid()} {os.getpid()}'); time.sleep(600)"
    starter = f"""
        import sys, time
        from operators.process.supervise import start_supervised
        watcher = start_supervised([sys.executable, "-c", {code!r}, {str(pids)!r}], grace_seconds=0.5)
        print(watcher.pid, flush=True)
        time.sleep(600)
    """
    with subprocess.Popen(python(starter), cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        watcher_pid = int(process.stdout.readline())
        family = pids_in(pids, 2)
        os.kill(process.pid if victim == "starter" else watcher_pid, signal.SIGKILL)
        assert all(gone(pid) for pid in [watcher_pid, *family])
        process.kill()
