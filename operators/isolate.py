"""Run a function in a fresh child process, with a watchdog.

Decoders crash, hang and blow up on bad files; Airflow's forked tasks inherit locks. A spawned child has neither
problem: it starts from a clean interpreter, dies with its parent, and its death is an exception here.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, TypeVar

T = TypeVar("T")

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class ChildFailed(RuntimeError):
    """The child died without an answer or ran out of time. `reason` is `crashed` or `timeout`."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Stopped(RuntimeError):
    """A child was told to end (`stop_children`, SIGTERM), or would have been started after that."""


_stopping = threading.Event()


def stop_children() -> None:
    """End every child at once, with what it started. Whoever waits for one gets `Stopped`, not a failure to record."""
    _stopping.set()
    for child in multiprocessing.active_children():
        _kill_group(child)


def run_isolated(function: Callable[..., T], *arguments: Any, timeout_seconds: float) -> T:
    """The function's result, computed in a spawned child process.

    Function, arguments and result must be picklable. An exception of the function is raised here as it is.

    Raises:
        ChildFailed: the child was killed (signal, out of memory) or did not finish in time; it is gone in either case.
        Stopped: the child was told to end, or the program is ending.
    """
    if _stopping.is_set():
        raise Stopped("the program is ending")
    spawn = multiprocessing.get_context("spawn")
    receiver, sender = spawn.Pipe(duplex=False)
    child = spawn.Process(target=_child, args=(sender, os.getpid(), function, arguments), daemon=True)
    child.start()
    sender.close()
    try:
        if not receiver.poll(timeout_seconds):
            raise ChildFailed(
                "timeout", f"no result within {timeout_seconds:.0f} s; raise the limit or look at the input"
            )
        outcome, value = receiver.recv()
    except EOFError:
        child.join()
        if _stopping.is_set() or child.exitcode in (-signal.SIGTERM, -signal.SIGINT):
            raise Stopped("the child was told to end") from None
        raise ChildFailed("crashed", f"the process working on it died ({_exit(child.exitcode)})") from None
    finally:
        receiver.close()
        _end(child)
    if outcome == "error":
        raise value
    return value


def process_cpu_seconds() -> float:
    """User and system CPU seconds of this process and of its ended children."""
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def die_with_parent(parent_pid: int) -> None:
    """Ask the kernel to kill this process when its parent dies, kill -9 included. Linux only; elsewhere a no-op."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:  # it died before the request was in place
        os._exit(1)


def _child(sender: Connection, parent_pid: int, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    os.setpgid(0, 0)  # so that what it starts (ffmpeg) can be ended with it
    die_with_parent(parent_pid)
    try:
        answer: tuple[str, Any] = ("value", function(*arguments))
    except Exception as error:  # noqa: BLE001 - raised again in the parent
        answer = ("error", error)
    sender.send(answer)
    sender.close()


def _end(child: Any) -> None:
    child.join(timeout=1.0)
    if child.is_alive():
        _kill_group(child)
        child.join()


def _kill_group(child: Any) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.kill()


def _exit(code: int | None) -> str:
    if code is not None and code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"exit status {code}"
