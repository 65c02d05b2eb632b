"""Starts child processes by forking a server process that has imported the modules that they need.

A new interpreter takes more than a second of CPU time to import numpy, OpenCV, PyAV and Arrow. A fork of one that has
imported them takes some milliseconds. The server only imports and forks, in one thread, so its children inherit no
locks. A child gets the present environment, working folder, import path and output of the program, as if it had been
spawned.

The server ends when the program ends, even by kill -9, and its children end with it. `multiprocessing` has such a
server as well, but its children keep it alive after a kill -9 of the program, it receives the signals of the program's
process group, and its children have the environment of the time when it started.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import pickle
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import traceback
import weakref
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from multiprocessing.connection import Connection, Pipe, wait
from typing import IO, Any, NoReturn

_PR_SET_PDEATHSIG = 1  # linux/prctl.h

_NUMBER = struct.Struct("q")
_LONGEST_REQUEST = 1 << 16
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_OUTPUTS = (1, 2)  # standard output and standard error


class Child:
    """A forked process."""

    def __init__(self, server: _Server, pid: int, connection: Connection, status: socket.socket) -> None:
        self.pid = pid
        self.connection = connection
        """Connects to the child's function. Receiving raises EOFError or OSError once the child has ended."""
        self._server = server
        self._status = status
        self._exit_code: int | None = None

    def wait(self, timeout_seconds: float | None = None) -> int | None:
        """Its exit status, or the negative number of the signal that ended it. None if it has not ended in this time.

        It is -SIGKILL if the server was ended, as its children then are.
        """
        if self._exit_code is None and wait([self._status], timeout_seconds):
            code = _receive_number(self._status)
            self._exit_code = -signal.SIGKILL if code is None else code
        return self._exit_code

    def kill(self) -> None:
        """End it immediately, and wait for that."""
        if self.wait(timeout_seconds=0.0) is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            self.wait()

    def close(self) -> None:
        """Close the connections to the child and to its server."""
        self.connection.close()
        self._status.close()


class ForkServer:
    """Starts children from a server process. It starts that with the first child, and again if it has ended.

    A child cannot change its user or the settings of its interpreter. If those of the program have changed, a new
    server starts, and the earlier one ends with its last child.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._server: _Server | None = None
        os.register_at_fork(after_in_child=self._forget)

    def start(
        self, function: Callable[..., None], *arguments: Any, modules: Iterable[str], timeout_seconds: float
    ) -> Child:
        """Call a function in a child process, with a connection to this process and these arguments.

        Args:
            modules: names of modules that the server imports, if they can be, so that its children need not.
            timeout_seconds: time limit for the server's start and these imports.

        Raises:
            OSError: no process can be started, or none was within the time.
        """
        call = pickle.dumps((function, arguments))
        ours, theirs = Pipe()
        status, status_sender = socket.socketpair()
        with theirs, status_sender, open(os.memfd_create("call"), "w+b") as file:  # noqa: PTH123 - it has no path
            pickle.dump((dict(os.environ), os.getcwd(), sys.path, call), file)  # noqa: PTH109 - the children's too
            file.seek(0)
            with self._lock:
                if self._server is None or not self._server.is_usable():
                    self._server = _Server()
                server = self._server
                server.send(sorted(modules), [file.fileno(), theirs.fileno(), status_sender.fileno()])
        if not wait([status], timeout_seconds):
            raise TimeoutError(f"none has started within {timeout_seconds:.0f} s; is the disk with its packages slow?")
        pid = _receive_number(status)
        if pid is None:
            raise ChildProcessError(f"the process that starts others ended with status {server.process.wait()}")
        if pid < 0:
            raise OSError(-pid, os.strerror(-pid))
        return Child(server, pid, ours, status)

    def kill(self) -> None:
        """Kill the server, and with it all its children."""
        if self._server is not None:
            self._server.process.kill()

    def _forget(self) -> None:
        """Forget the server, which a forked process must not share with the program that it comes from."""
        self._lock = threading.Lock()
        self._server = None


def die_with_parent(parent_pid: int) -> None:
    """Have the kernel kill this process when its parent dies, even by kill -9.

    This works on Linux only and does nothing elsewhere.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:  # it died before the request was in place
        os._exit(1)


class _Server:
    """A server process. It ends when this object is gone."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]  # as multiprocessing does
        code = f"import sys; sys.path = {sys.path!r}; from {__name__} import _serve; _serve({theirs.fileno()})"
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, *flags, "-c", code],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                process_group=0,  # so that it does not end before the program on Ctrl-C
            )
        self._requests = ours
        self._inherited = _inherited()
        weakref.finalize(self, _end, ours, self.process)

    def is_usable(self) -> bool:
        """Whether it runs, with the present user and settings of the interpreter."""
        return self.process.poll() is None and self._inherited == _inherited()

    def send(self, modules: Sequence[str], files: Sequence[int]) -> None:
        with suppress(ConnectionError):  # it has ended, which `start` finds
            socket.send_fds(self._requests, [json.dumps(modules).encode()], [*files, *_OUTPUTS])


def _end(requests: socket.socket, process: subprocess.Popen[bytes]) -> None:
    requests.close()
    process.wait()


def _inherited() -> tuple[Any, ...]:
    """What a server's children inherit from it and cannot set themselves."""
    settings = {name: value for name, value in os.environ.items() if name.startswith("PYTHON")}
    return sys.executable, os.getresuid(), os.getresgid(), settings


def _receive_number(connection: socket.socket) -> int | None:
    """The next number. None if the other end is closed."""
    data = connection.recv(_NUMBER.size)
    return _NUMBER.unpack(data)[0] if data else None


def _serve(descriptor: int) -> None:
    """Fork a child for each request until the program ends. Reports its process id, and then its exit status."""
    requests = socket.socket(fileno=descriptor)
    woken, wake = socket.socketpair()
    wake.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # the program decides when to end, and this process ends with it
    signal.set_wakeup_fd(wake.fileno())
    children: dict[int, socket.socket] = {}
    own_pid = os.getpid()
    gc.disable()  # it writes to memory that the children share
    while True:
        ready = select.select([requests, woken], [], [])[0]
        if woken in ready:
            woken.recv(1 << 12)
            _report_ended(children)
        if requests in ready:
            request, files, _, _ = socket.recv_fds(requests, _LONGEST_REQUEST, 5, socket.MSG_CMSG_CLOEXEC)
            if not files:
                return
            for name in json.loads(request):
                with suppress(Exception):  # the child imports it as well, and reports why it cannot
                    importlib.import_module(name)
            gc.freeze()
            file, pipe, status, *outputs = files
            with ExitStack() as opened, suppress(ConnectionError):  # the program may no longer wait for the child
                call = opened.enter_context(open(file, "rb"))  # noqa: PTH123
                connection = opened.enter_context(Connection(pipe))
                for output in outputs:
                    opened.callback(os.close, output)
                status_sender = socket.socket(fileno=status)
                try:
                    pid = os.fork()
                except OSError as error:
                    assert error.errno
                    status_sender.send(_NUMBER.pack(-error.errno))
                    continue
                if pid == 0:
                    die_with_parent(own_pid)
                    for other in (requests, woken, wake, status_sender, *children.values()):
                        other.close()
                    for stream, output in zip(_OUTPUTS, outputs, strict=True):
                        os.dup2(output, stream)
                    _call(call, connection)
                children[pid] = status_sender
                status_sender.send(_NUMBER.pack(pid))


def _report_ended(children: dict[int, socket.socket]) -> None:
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        with children.pop(pid) as connection, suppress(ConnectionError):
            connection.send(_NUMBER.pack(os.waitstatus_to_exitcode(status)))


def _call(file: IO[bytes], connection: Connection) -> NoReturn:
    """Call the requested function in this new process, and end it."""
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, *_SIGNALS):
            signal.signal(number, signal.SIG_DFL)
        gc.enable()
        environment, folder, path, call = pickle.load(file)  # noqa: S301 - from the program itself
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(folder)
        sys.path[:] = path
        function, arguments = pickle.loads(call)  # noqa: S301
        function(connection, *arguments)
        code = 0
    except BaseException:  # noqa: BLE001 - the end of this process, which must not return to the server's loop
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)
