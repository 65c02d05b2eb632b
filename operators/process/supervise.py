"""Runs a command so that none of its processes outlives the caller, even if the caller is killed by kill -9.

`start_supervised` puts a small watcher process between the caller and the command. The watcher holds one end of a pipe.
When the caller dies for any reason, the pipe closes, and the watcher ends every process of the command, first with
SIGTERM and then with SIGKILL. `run_supervised` adds limits on the run time and on the time without output, and forwards
the command's lines as they arrive.
"""

from __future__ import annotations

import contextlib
import os
import queue
import select
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import IO, Any

import psutil

from schemas.fork_server import die_with_parent

GRACE_SECONDS = 20.0
"""Default time between SIGTERM and SIGKILL."""
ORPHANS_SECONDS = 2.0
"""Maximum of the same time for processes that are left when a command has ended by itself."""
STREAMS_SECONDS = 3.0
"""Time for which a command's streams are read after it has ended. A process that has left its session may keep them
open forever."""
_TAIL_LINES = 40
_PACKAGE_ROOT = Path(__file__).resolve().parents[2]


class WatchdogExpired(RuntimeError):
    """The command was ended because it exceeded its limit on run time or on time without output."""


@dataclass(frozen=True)
class Finished:
    """Result of a finished command. `status` is its exit status, or the negative number of the signal that ended it."""

    status: int
    last_line: str
    """The last line of its standard output that is not blank, or an empty string."""
    tail: str
    """The last 40 lines of its standard error."""


def start_supervised(
    command: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    stdout: int | IO[Any] | None = None,
    stderr: int | IO[Any] | None = None,
    grace_seconds: float = GRACE_SECONDS,
    pass_fds: Sequence[int] = (),
) -> subprocess.Popen[str]:
    """Start a command behind a watcher, in a session of its own.

    The command's whole session ends when the watcher's standard input is closed (as `stop_supervised` does), when the
    watcher is terminated, or when this process dies.

    Args:
        grace_seconds: time between SIGTERM and SIGKILL when the session is ended.
        pass_fds: descriptors, such as that of a lock, that the watcher keeps open until it ends. The command does not
            inherit them.

    Returns:
        The watcher, which exits with the command's status, or with 128 + signal number.
    """
    # -P, here and wherever a module is run, as the current folder may contain another package of the same name.
    watcher = [sys.executable, "-P", "-m", "operators.process.supervise", str(grace_seconds), *command]
    environment = dict(os.environ if env is None else env)
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(_PACKAGE_ROOT), environment.get("PYTHONPATH", "")]))
    return subprocess.Popen(
        watcher,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=stdout,
        stderr=stderr,
        text=True,
        errors="replace",
        start_new_session=True,
        pass_fds=tuple(pass_fds),
    )


def stop_supervised(watcher: subprocess.Popen[str], grace_seconds: float = GRACE_SECONDS) -> int:
    """End a started command and all processes that it started, and return the watcher's exit status."""
    if watcher.stdin:
        with contextlib.suppress(BrokenPipeError):
            watcher.stdin.close()
    try:
        return watcher.wait(timeout=grace_seconds + 10.0)
    except subprocess.TimeoutExpired:
        watcher.kill()  # the command dies with it
        return watcher.wait()


def run_supervised(
    command: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    wall_seconds: float,
    silence_seconds: float,
    on_line: Callable[[str], None] = lambda line: None,
    on_start: Callable[[subprocess.Popen[str]], None] = lambda watcher: None,
    grace_seconds: float = GRACE_SECONDS,
) -> Finished:
    """Run a command until it ends.

    Args:
        wall_seconds: limit on the run time.
        silence_seconds: limit on the time without a line on either stream.
        on_line: called with every line of the command's standard error as it arrives.
        on_start: called with the watcher, for callers that may have to stop it with `stop_supervised`.
        grace_seconds: time between SIGTERM and SIGKILL when the command is ended.

    Raises:
        WatchdogExpired: the command exceeded one of the limits and was ended.
    """
    watcher = start_supervised(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, grace_seconds=grace_seconds
    )
    on_start(watcher)
    lines: queue.Queue[tuple[str, str] | None] = queue.Queue()
    streams = {"out": watcher.stdout, "err": watcher.stderr}
    for name, stream in streams.items():
        threading.Thread(target=_queue_lines, args=(name, stream, lines), daemon=True).start()
    threading.Thread(target=_end_streams, args=(watcher, lines, len(streams)), daemon=True).start()
    unended = len(streams)
    started = heard = time.monotonic()
    last_line = ""
    tail: deque[str] = deque(maxlen=_TAIL_LINES)
    try:
        while unended:
            deadline = min(started + wall_seconds, heard + silence_seconds)
            try:
                received = lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise WatchdogExpired(_describe_expiry(command, started, wall_seconds, silence_seconds, tail)) from None
            heard = time.monotonic()
            if received is None:
                unended -= 1
                continue
            name, line = received
            if name == "err":
                tail.append(line)
                on_line(line)
            elif line.strip():
                last_line = line
        return Finished(_python_status(watcher.wait()), last_line, "\n".join(tail))
    finally:
        stop_supervised(watcher, grace_seconds)


def _queue_lines(name: str, stream: IO[str], lines: queue.Queue[tuple[str, str] | None]) -> None:
    """Put a stream's lines into a queue with the stream's name, and None at its end."""
    for line in stream:
        lines.put((name, line.rstrip("\n")))
    lines.put(None)


def _end_streams(watcher: subprocess.Popen[str], lines: queue.Queue[tuple[str, str] | None], count: int) -> None:
    """Put one None per stream into the queue, `STREAMS_SECONDS` after the command has ended."""
    watcher.wait()
    time.sleep(STREAMS_SECONDS)
    for _ in range(count):
        lines.put(None)


def _python_status(code: int) -> int:
    """Convert the watcher's exit status of 128 + signal, as in a shell, to Python's negative signal number."""
    return 128 - code if code > 128 else code


def _describe_expiry(command: Sequence[str], started: float, wall: float, silence: float, tail: deque[str]) -> str:
    ran = time.monotonic() - started
    what = f"had no output for {silence:.0f} s"
    if ran >= wall:
        what = f"was still running after {ran:.0f} s (limit {wall:.0f} s)"
    last = f"; its last line: {tail[-1]}" if tail else ""
    return f"{Path(command[0]).name} {' '.join(command[1:5])} {what} and was ended{last}"


# --- the watcher itself ----------------------------------------------------------------------------------------------


def watch(command: Sequence[str], grace_seconds: float) -> int:
    """Run the command until it ends, this process gets a signal to end, or standard input closes.

    Returns:
        The command's exit status, or 128 + signal number if a signal ended it.
    """
    wake_read, wake_write = os.pipe()
    signals: list[int] = []

    def wake(signum: int, frame: FrameType | None) -> None:
        if signum != signal.SIGCHLD:
            signals.append(signum)
        os.write(wake_write, b".")

    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(signum, wake)
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=partial(die_with_parent, os.getpid()),  # noqa: PLW1509 - one thread only; for a killed watcher
    )
    while child.poll() is None and not signals:
        ready, _, _ = select.select([sys.stdin.fileno(), wake_read], [], [])
        if wake_read in ready:
            os.read(wake_read, 4096)
        elif not os.read(sys.stdin.fileno(), 4096):
            break  # the caller has ended, or wants the command to end
    end_session(child, grace_seconds if child.poll() is None else min(grace_seconds, ORPHANS_SECONDS))
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


def end_session(leader: subprocess.Popen[bytes], grace_seconds: float) -> None:
    """End every process of a child's session, including those that changed their process group.

    They get SIGTERM, and those still alive after `grace_seconds` get SIGKILL.
    """
    for signum, seconds in ((signal.SIGTERM, grace_seconds), (signal.SIGKILL, 5.0)):
        deadline = time.monotonic() + seconds
        for pid in (members := _members(leader.pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signum)
        while members and time.monotonic() < deadline:
            time.sleep(0.05)
            leader.poll()
            members = _members(leader.pid)
    leader.wait()


def _members(session: int) -> list[int]:
    """The living processes of a session."""
    found = []
    for pid in psutil.pids():
        with contextlib.suppress(ProcessLookupError, PermissionError, psutil.NoSuchProcess):
            if os.getsid(pid) == session and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                found.append(pid)
    return found


if __name__ == "__main__":
    sys.exit(watch(sys.argv[2:], float(sys.argv[1])))
