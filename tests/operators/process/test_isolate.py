import importlib
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import ffmpeg
import psutil
import pytest

from operators.process import isolate
from operators.process.isolate import ChildFailed, NotStarted, Stopped, run_isolated
from operators.video.decode.ffmpeg import run_ffmpeg
from schemas.fork_server import ForkServer
from tests.support.videos import counting_video


def multiply(a, b):
    return a * b, os.getpid()


def refuse(text):
    raise KeyError(text)


def kill_itself(signum=signal.SIGSEGV):
    os.kill(os.getpid(), signum)


def import_what_is_not_there():
    import a_package_that_nobody_has  # noqa: F401


def start_a_sleeper_and_crash(path):
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Path(path).write_text(str(sleeper.pid))
    kill_itself()


def fill_memory():
    return len([bytearray(16 << 20) for _ in range(10**9)])


def let_another_fill_memory():
    subprocess.run([sys.executable, "-c", "x = [bytearray(16 << 20) for _ in range(10**9)]"], check=True)


def allocate_too_much():
    return bytearray(1 << 60)


def fill_a_file(path):
    with Path(path).open("wb") as file:
        for _ in range(100):
            file.write(bytes(1 << 20))


def let_ffmpeg_fill_a_file(path):
    source = counting_video(Path(path).with_name("source.mp4"), seconds=1)
    run_ffmpeg(ffmpeg.input(str(source), stream_loop=-1).output(path, vcodec="rawvideo"), 60)


def start_a_sleeper_and_hang(path):
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Path(path).write_text(str(sleeper.pid))
    time.sleep(600)


def test_the_result_comes_from_another_process():
    product, pid = run_isolated(multiply, 6, 7, timeout_seconds=60)
    assert product == 42 and pid != os.getpid()


def test_an_exception_is_raised_here_as_it_was():
    with pytest.raises(KeyError, match="no such clip"):
        run_isolated(refuse, "no such clip", timeout_seconds=60)


def test_a_crash_is_a_typed_failure():
    with pytest.raises(ChildFailed, match="SIGSEGV") as failed:
        run_isolated(kill_itself, timeout_seconds=60)
    assert failed.value.reason == "crashed"


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGBUS, signal.SIGILL])
def test_a_child_that_the_machine_ends_has_not_crashed(signum):
    """The machine ends a process when memory runs out, for example, or when a page of a library cannot be read."""
    with pytest.raises(ChildFailed, match=f"the machine ended the process.*{signum.name}") as failed:
        run_isolated(kill_itself, signum, timeout_seconds=60)
    assert failed.value.reason == "killed"


def test_a_child_that_cannot_import_what_it_needs_has_not_begun():
    with pytest.raises(NotStarted, match=r"a_package_that_nobody_has.*install it again"):
        run_isolated(import_what_is_not_there, timeout_seconds=60)


def test_a_child_that_ends_before_its_work_has_not_begun(tmp_path, monkeypatch):
    """The child imports the function's module when it starts. Here its library disappeared after the parent began."""
    module = "import os\nif 'GONE' in os.environ: raise ImportError('libx264.so.164: cannot open shared object file')\n"
    (tmp_path / "brittle.py").write_text(f"{module}def work(): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    work = importlib.import_module("brittle").work
    monkeypatch.setenv("GONE", "1")
    with pytest.raises(NotStarted, match=r"ended before it could begin \(exit status 1\)"):
        run_isolated(work, timeout_seconds=60)


@pytest.fixture
def server(monkeypatch):
    """A fork server of its own, which is not running yet."""
    server = ForkServer()
    monkeypatch.setattr(isolate, "_server", server)
    yield server
    server.kill()


def test_a_child_that_cannot_be_started_is_an_outage(server, monkeypatch, tmp_path):
    with monkeypatch.context() as patch, pytest.raises(NotStarted, match=r"no process can be started .*free memory"):
        patch.setattr(sys, "executable", str(tmp_path / "python"))
        run_isolated(multiply, 6, 7, timeout_seconds=60)
    assert run_isolated(multiply, 6, 7, timeout_seconds=60)[0] == 42


NO_FORK = """
import errno, os, sys

def fork():
    raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

if any("fork_server" in part for part in sys.orig_argv):
    os.fork = fork
"""


def test_a_fork_that_the_machine_refuses_is_an_outage(tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text(NO_FORK)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(NotStarted, match=r"no process can be started .*temporarily unavailable.*free memory"):
        run_isolated(multiply, 6, 7, timeout_seconds=60)


def test_a_hang_is_ended_with_everything_it_started(tmp_path):
    note = tmp_path / "pid"
    with pytest.raises(ChildFailed) as failed:
        run_isolated(start_a_sleeper_and_hang, str(note), timeout_seconds=8)
    assert failed.value.reason == "timeout"
    assert gone(int(note.read_text()))


def test_a_crash_ends_what_was_started(tmp_path):
    note = tmp_path / "pid"
    with pytest.raises(ChildFailed, match="SIGSEGV"):
        run_isolated(start_a_sleeper_and_crash, str(note), timeout_seconds=60)
    assert gone(int(note.read_text()))


@pytest.mark.parametrize("hungry", [fill_memory, let_another_fill_memory])
def test_a_bomb_is_ended_before_it_takes_the_machine(hungry):
    with pytest.raises(ChildFailed, match=r"0\.5 GB are allowed") as failed:
        run_isolated(hungry, timeout_seconds=60, memory_bytes=500_000_000)
    assert failed.value.reason == "out_of_memory"


def fill_memory_and_log(seconds):
    hoard = [b"x" * (16 << 20) for _ in range(40)]
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        log_a_line(logging.WARNING)
        time.sleep(0.1)
    return len(hoard)


def test_the_watchdog_polls_while_the_child_logs():
    with pytest.raises(ChildFailed) as failed:
        run_isolated(fill_memory_and_log, 8, timeout_seconds=60, memory_bytes=500_000_000)
    assert failed.value.reason == "out_of_memory"


def test_memory_that_cannot_be_had_is_a_typed_failure():
    with pytest.raises(ChildFailed) as failed:
        run_isolated(allocate_too_much, timeout_seconds=60)
    assert failed.value.reason == "out_of_memory"


@pytest.mark.parametrize("verbose", [fill_a_file, let_ffmpeg_fill_a_file])
def test_a_file_that_outgrows_its_limit_is_a_typed_failure(tmp_path, verbose):
    target = tmp_path / "large.avi"
    with pytest.raises(ChildFailed) as failed:
        run_isolated(verbose, str(target), timeout_seconds=60, output_bytes=10_000_000)
    assert failed.value.reason == "output_too_large"
    assert target.stat().st_size <= 10_000_000


def test_a_killed_parent_takes_its_child_along(tmp_path):
    note = tmp_path / "pid"
    code = (
        "import sys; sys.path[:0] = sys.argv[2:]\n"
        "from operators.process.isolate import run_isolated\n"
        "from test_isolate import write_pid_and_hang\n"
        "if __name__ == '__main__':\n"
        "    run_isolated(write_pid_and_hang, sys.argv[1], timeout_seconds=600)\n"
    )
    script = tmp_path / "parent.py"
    script.write_text(code)
    here = Path(__file__).resolve().parent
    parent = subprocess.Popen([sys.executable, str(script), str(note), str(here), str(here.parents[2])])
    deadline = time.monotonic() + 60
    while not (note.exists() and note.read_text()):
        assert time.monotonic() < deadline and parent.poll() is None
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    assert gone(int(note.read_text()))


def write_pid_and_hang(path):
    Path(path).write_text(str(os.getpid()))
    time.sleep(600)


def gone(pid):
    """Whether a process ends within some seconds."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return True
        psutil.wait_procs([process], timeout=10)
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def log_a_line(level):
    logging.getLogger("operators.video").log(level, "%d of %d frames", 3, 7)


def test_a_child_that_is_just_being_started_is_ended_with_the_others(server, monkeypatch):
    start = server.start
    started = []

    def start_and_stop(*arguments, **settings):
        isolate.stop_children()
        started.append(start(*arguments, **settings))
        return started[0]

    # others, such as the ranks of the trainer's tests, keep running
    monkeypatch.setattr(multiprocessing, "active_children", lambda: [])
    monkeypatch.setattr(isolate, "_stopping", threading.Event())
    monkeypatch.setattr(server, "start", start_and_stop)
    with pytest.raises(Stopped):
        run_isolated(time.sleep, 600, timeout_seconds=10)
    assert gone(started[0].pid)


def test_log_records_of_a_child_are_logged_by_the_parent(caplog):
    with caplog.at_level(logging.INFO, "operators"):
        run_isolated(log_a_line, logging.INFO, timeout_seconds=60)
    assert [(record.name, record.getMessage()) for record in caplog.records] == [("operators.video", "3 of 7 frames")]


def test_a_child_logs_no_more_than_is_wanted_here(caplog):
    with caplog.at_level(logging.WARNING, "operators"):
        run_isolated(log_a_line, logging.INFO, timeout_seconds=60)
    assert caplog.records == []
