"""Runs a function in a fresh child process, with limits on its run time, its memory and the size of its files.

Decoders crash, hang or run out of memory on bad files, and Airflow's forked tasks inherit locks. A child of a fork
server avoids both problems. It starts from an interpreter that has only imported modules. It dies with the process that
runs the function in it, which gets its death as an exception.

A failure is attributed to the input only after the child has reported that it started working on it. A child that
cannot start (no memory, a damaged installation) is no evidence about the input, and neither is one that the machine
kills.

The parent handles the child's log records as if they had been logged there.

The memory limit applies to the resident memory of the child and all its descendants, which the parent measures twice a
second. Limits on the address space (RLIMIT_AS) are unsuitable: the threads of decoders and numpy reserve many times the
memory that they use, and ffmpeg treats a failed allocation as a damaged frame. Between two measurements a child can
exceed its limit by as much as it allocates in half a second.

`pebble` would only replace the time limit: it does not end what a child has started, nor watch memory or forward logs.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import multiprocessing
import os
import resource
import signal
import threading
import time
from collections.abc import Callable, Sequence
from logging.handlers import QueueHandler
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any, TypeVar

import psutil

from schemas.errors import Outage
from schemas.fork_server import Child, ForkServer

T = TypeVar("T")

MEMORY_BYTES = 8 << 30
"""Default memory limit. Decoding 10-bit 8K video with sixteen threads takes about 4 GB, encoding a clip below 1 GB."""

OUTPUT_BYTES = 64 << 30
"""Default size limit of one file. It must exceed the size of any source, as the child downloads remote ones itself."""

_MEMORY_POLL_SECONDS = 0.5
"""Time between two measurements of memory, each of which takes about 5 ms."""

START_SECONDS = 900.0
"""Time within which a child must start. The first one takes a second or two, or minutes with packages on a slow network
disk."""

_MACHINE_SIGNALS = (signal.SIGKILL, signal.SIGBUS, signal.SIGILL)
"""Signals that are not caused by the input: no memory is left, a page of a program cannot be read, or the processor
lacks an instruction."""


class ChildFailed(RuntimeError):
    """The child died without returning a result, or exceeded a limit.

    `reason` is `crashed`, `timeout`, `out_of_memory`, `output_too_large`, or `killed` when the machine ended it.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[type[ChildFailed], tuple[str, str]]:
        return type(self), (self.reason, str(self))  # for pickling: it may come from a child process


class NotStarted(Outage):
    """No child can be started on this machine, regardless of the input."""


class Stopped(RuntimeError):
    """A child was stopped (`stop_children`, SIGTERM), or a new one was requested after that."""


_stopping = threading.Event()
_server = ForkServer()
_children: set[Child] = set()


def stop_children() -> None:
    """Kill every child immediately, with all processes that it started, and the children of `multiprocessing`.

    Callers that wait for a child get `Stopped`, so that they do not record a failure.
    """
    _stopping.set()
    for child in list(_children):
        _kill_group(child.pid)
    _server.kill()
    for process in multiprocessing.active_children():
        process.kill()


def run_isolated(
    function: Callable[..., T],
    *arguments: Any,
    timeout_seconds: float,
    memory_bytes: int = MEMORY_BYTES,
    output_bytes: int = OUTPUT_BYTES,
    modules: Sequence[str] = (),
) -> T:
    """Run a function in a child process, and return its result.

    The function, its arguments and its result must be picklable. An exception of the function is raised here unchanged,
    except for those that report a limit (`MemoryError`, `OSError` with EFBIG), which become `ChildFailed`.

    Args:
        timeout_seconds: time limit for the work, counted from the moment when the child starts on it.
        memory_bytes: limit on the total resident memory of the child and all processes that it started.
        output_bytes: size limit of each file that they write.
        modules: names of modules that the function imports when it is called. They are imported once for all children,
            like the function's own module.

    Raises:
        ChildFailed: the child was killed by a signal or for exceeding a limit, or ended without a result. In each case
            the child and all processes that it started have ended.
        NotStarted: the child could not be started, or could not import what it needs.
        Stopped: the child was stopped, or the program is ending.
    """
    if _stopping.is_set():
        raise Stopped("the program is ending")
    level = logging.getLogger("operators").getEffectiveLevel()
    try:
        child = _server.start(
            _run_child,
            output_bytes,
            level,
            function,
            arguments,
            modules={function.__module__, *modules},
            timeout_seconds=START_SECONDS,
        )
    except OSError as error:
        if _stopping.is_set():
            raise Stopped("the program is ending") from error
        raise NotStarted(f"no process can be started ({error}); free memory, or allow more processes") from error
    _children.add(child)
    try:
        if _stopping.is_set():  # checked again: `stop_children` does not see a child that is being started
            raise Stopped("the program is ending")
        _await_start(child)
        outcome, value = _await_result(child, timeout_seconds, memory_bytes)
        child.wait(timeout_seconds=1.0)
    except (ChildFailed, NotStarted):
        _kill_group(child.pid)
        raise
    except EOFError:
        _kill_group(child.pid)  # processes that it started may still be running
        code = child.wait()
        if _stopping.is_set() or code in (-signal.SIGTERM, -signal.SIGINT):
            raise Stopped("the child was stopped") from None
        if code in [-signum for signum in _MACHINE_SIGNALS]:
            ended = f"the machine ended the process working on it ({_describe_exit(code)})"
            raise ChildFailed("killed", f"{ended}, as when memory runs out") from None
        raise ChildFailed("crashed", f"the process working on it died ({_describe_exit(code)})") from None
    finally:
        if child.wait(timeout_seconds=0.0) is None:
            _kill_group(child.pid)
            child.wait()
        _children.discard(child)
        child.close()
    if outcome == "error" and isinstance(value, ImportError):
        raise NotStarted(f"a process cannot import what it needs ({value}); install it again") from value
    if outcome == "error":
        raise value
    return value


def process_cpu_seconds() -> float:
    """User and system CPU seconds of this process and of its ended children."""
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def _await_start(child: Child) -> None:
    """Wait for the child's first message.

    Raises:
        NotStarted: the child ended before it sent one, or sent none within `START_SECONDS`.
        EOFError: the child was stopped.
    """
    try:
        if child.connection.poll(START_SECONDS):
            child.connection.recv()
            return
    except EOFError:
        code = child.wait()
        if _stopping.is_set() or code in (-signal.SIGTERM, -signal.SIGINT):
            raise
        raise NotStarted(
            f"a process ended before it could begin ({_describe_exit(code)}), its output is above; free memory, or "
            f"reinstall what it could not load"
        ) from None
    raise NotStarted(f"a process has not begun within {START_SECONDS:.0f} s; is the disk with its packages slow?")


def _await_result(child: Child, timeout_seconds: float, memory_bytes: int) -> tuple[str, Any]:
    """Wait for the child's result, and handle its log records while waiting.

    Returns:
        The outcome (`value` or `error`) and its value.

    Raises:
        ChildFailed: the child exceeded its time or memory limit.
        EOFError: the child ended without a result.
    """
    deadline = time.monotonic() + timeout_seconds
    poll_at = time.monotonic() + _MEMORY_POLL_SECONDS
    while True:
        if child.connection.poll(max(0.0, min(poll_at, deadline) - time.monotonic())):
            outcome, value = child.connection.recv()
            if outcome != "log":
                return outcome, value
            logging.getLogger(value.name).handle(value)
        if time.monotonic() >= deadline:
            raise ChildFailed(
                "timeout", f"no result within {timeout_seconds:.0f} s; raise the limit or check this input file"
            )
        if time.monotonic() >= poll_at:
            _assert_within(memory_bytes, child.pid)
            poll_at = time.monotonic() + _MEMORY_POLL_SECONDS


def _assert_within(memory_bytes: int, pid: int) -> None:
    used = _resident_bytes(pid)
    if used > memory_bytes:
        raise ChildFailed(
            "out_of_memory",
            f"{used / 1e9:.1f} GB of memory in use, {memory_bytes / 1e9:.1f} GB are allowed; check this input file",
        )


def _resident_bytes(pid: int) -> int:
    """Resident memory of a process and all its descendants, in bytes. It is 0 once the process has ended."""
    total = 0
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for each in [process, *process.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                total += each.memory_info().rss
    return total


class _LogSender(QueueHandler):
    """Sends log records to the parent, one at a time."""

    def __init__(self, sender: Connection) -> None:
        super().__init__(SimpleQueue())  # the queue is never used: only `prepare` of the base class is needed
        self._sender = sender

    def enqueue(self, record: logging.LogRecord) -> None:
        self._sender.send(("log", record))


def _run_child(
    sender: Connection,
    output_bytes: int,
    log_level: int,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    os.setpgid(0, 0)  # so that the processes that it starts (ffmpeg) can be killed with it
    # Python ignores SIGXFSZ, the signal for exceeding this limit, so that writing fails with EFBIG.
    _, hardest = resource.getrlimit(resource.RLIMIT_FSIZE)
    allowed = output_bytes if hardest == resource.RLIM_INFINITY else min(output_bytes, hardest)
    resource.setrlimit(resource.RLIMIT_FSIZE, (allowed, hardest))
    sender.send("started")
    log = logging.getLogger("operators")
    log.addHandler(_LogSender(sender))
    log.setLevel(log_level)
    try:
        answer: tuple[str, Any] = ("value", function(*arguments))
    except Exception as error:  # noqa: BLE001 - raised again in the parent
        answer = ("error", _explain_limit(error, output_bytes))
    sender.send(answer)
    sender.close()


def _explain_limit(error: Exception, output_bytes: int) -> Exception:
    """`ChildFailed` for an error that comes from a limit of the child, else the error itself."""
    if isinstance(error, MemoryError):
        return ChildFailed("out_of_memory", f"out of memory ({error}); check this input file")
    if isinstance(error, OSError) and error.errno == errno.EFBIG:
        return ChildFailed("output_too_large", f"a file grew beyond {output_bytes / 1e9:.1f} GB; check this input file")
    return error


def _kill_group(pid: int) -> None:
    """Kill a process and those of its process group."""
    for kill in (os.killpg, os.kill):  # it may not have a group of its own yet
        with contextlib.suppress(ProcessLookupError):
            kill(pid, signal.SIGKILL)


def _describe_exit(code: int | None) -> str:
    if code is not None and code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"exit status {code}"
