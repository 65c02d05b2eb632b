import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from schemas.fork_server import ForkServer


@pytest.fixture
def server():
    server = ForkServer()
    yield server
    server.kill()


def start(server, function, *arguments, modules=()):
    return server.start(function, *arguments, modules=modules, timeout_seconds=60)


def send_parent(connection):
    connection.send(os.getppid())


def send_surroundings(connection, name):
    connection.send((os.environ.get(name), str(Path.cwd()), sys.path))


def send_whether_imported(connection, name):
    connection.send(name in sys.modules)


def send_pid_and_wait(connection):
    connection.send(os.getpid())
    time.sleep(600)


def print_a_line(connection):
    print("printed by a child")
    print("and an error", file=sys.stderr)


def refuse(connection):
    raise ValueError("as a test requests")


def test_children_come_from_one_server(server):
    parents = {start(server, send_parent).connection.recv() for _ in range(3)}
    assert len(parents) == 1 and os.getpid() not in parents


def test_a_child_has_the_present_environment_folder_and_import_path(server, tmp_path, monkeypatch):
    start(server, send_parent).connection.recv()
    monkeypatch.setenv("LVR_PRESENT", "now")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path / "packages"))
    assert start(server, send_surroundings, "LVR_PRESENT").connection.recv() == ("now", str(tmp_path), sys.path)
    monkeypatch.delenv("LVR_PRESENT")
    assert start(server, send_surroundings, "LVR_PRESENT").connection.recv()[0] is None


def test_a_child_writes_to_the_present_output(server, request):
    start(server, send_parent).connection.recv()  # the server's own output is another one than in the next lines
    capfd = request.getfixturevalue("capfd")
    assert start(server, print_a_line).wait(timeout_seconds=60) == 0
    assert capfd.readouterr() == ("printed by a child\n", "and an error\n")


def test_modules_are_imported_once_for_all_children(server):
    assert start(server, send_whether_imported, "colorsys").connection.recv() is False
    assert start(server, send_whether_imported, "colorsys", modules=["colorsys"]).connection.recv() is True
    assert start(server, send_whether_imported, "colorsys", modules=["no_such_module"]).connection.recv() is True


def test_other_settings_of_the_interpreter_need_another_server(server, monkeypatch):
    """The earlier server ends with its last child, and not before."""
    child = start(server, send_pid_and_wait)
    child.connection.recv()
    earlier = psutil.Process(child.pid).parent()
    monkeypatch.setenv("PYTHONUTF8", "1")
    assert start(server, send_parent).connection.recv() != earlier.pid
    assert child.wait(timeout_seconds=0.0) is None
    os.kill(child.pid, signal.SIGTERM)
    assert child.wait(timeout_seconds=60) == -signal.SIGTERM
    del child
    assert not psutil.wait_procs([earlier], timeout=60)[1]


def test_a_child_reports_how_it_ended(server):
    done = start(server, send_parent)
    assert done.wait(timeout_seconds=60) == 0
    failed = start(server, refuse)
    with pytest.raises(EOFError):
        failed.connection.recv()
    assert failed.wait(timeout_seconds=60) == 1


def test_a_child_that_ends_is_noticed_while_others_run(server):
    """A later child must not keep an earlier one's connection open."""
    first, second = start(server, send_pid_and_wait), start(server, send_pid_and_wait)
    assert [first.connection.recv(), second.connection.recv()] == [first.pid, second.pid]
    os.kill(first.pid, signal.SIGSEGV)
    with pytest.raises(EOFError):
        first.connection.recv()
    assert first.wait(timeout_seconds=60) == -signal.SIGSEGV and second.wait(timeout_seconds=0.0) is None


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSEGV])
def test_children_end_with_their_server_and_the_next_one_has_another(server, signum):
    child = start(server, send_pid_and_wait)
    process = psutil.Process(child.connection.recv())
    process.parent().send_signal(signum)
    assert child.wait(timeout_seconds=60) == -signal.SIGKILL
    assert not psutil.wait_procs([process], timeout=60)[1]
    assert start(server, send_parent).connection.recv() != os.getpid()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_processes_ends_children_and_not_their_server(server, signum):
    """The program may finish its work first, for which it may need further children."""
    child = start(server, send_pid_and_wait)
    process = psutil.Process(child.connection.recv())
    parent = process.parent()
    for each in (parent, process):
        each.send_signal(signum)
    assert child.wait(timeout_seconds=60) == -signum
    assert start(server, send_parent).connection.recv() == parent.pid


def answer(connection):
    while True:
        connection.send(2 * connection.recv())


def test_a_child_receives_until_it_is_killed(server):
    child = start(server, answer)
    for number in range(3):
        child.connection.send(number)
        assert child.connection.recv() == 2 * number
    child.kill()
    assert child.wait() == -signal.SIGKILL
    with pytest.raises((EOFError, OSError)):
        child.connection.recv()
    child.kill()  # again, which does nothing


def test_a_server_ends_with_its_program():
    code = (
        "import os, sys\n"
        "from schemas.fork_server import ForkServer\n"
        "from tests.schemas.test_fork_server import send_parent, start\n"
        "print(start(ForkServer(), send_parent).connection.recv(), flush=True)\n"
    )
    root = Path(__file__).resolve().parents[2]
    run = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert not psutil.pid_exists(int(run.stdout))


def start_in_a_fork(server, connection):
    connection.send((os.getpid(), psutil.Process(start(server, send_parent).connection.recv()).ppid()))


def test_a_forked_program_starts_a_server_of_its_own(server):
    start(server, send_parent).connection.recv()
    ours, theirs = multiprocessing.Pipe(duplex=False)
    program = multiprocessing.get_context("fork").Process(target=start_in_a_fork, args=(server, theirs))
    program.start()
    pid, parent_of_its_server = ours.recv()
    program.join()
    assert pid == parent_of_its_server != os.getpid()
