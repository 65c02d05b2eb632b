"""Run a command so that nothing of it outlives whoever started it, kill -9 included.

`start` puts a small watcher between the caller and the command. The watcher holds one end of a pipe: when the caller
dies, however it dies, the pipe closes and the watcher ends every process of the command, politely first. `run_watched`
adds two limits, on the whole time and on silence, and hands on the command's lines as they come.
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

from operators.isolate import die_with_parent

GRACE_SECONDS = 20.0
"""Between SIGTERM and SIGKILL."""
ORPHANS_SECONDS = 2.0
"""The same, at most, for what a command has left behind that ended by itself."""
STREAMS_SECONDS = 3.0
"""For which a command's streams are read after its end: what has left its session may hold them for ever."""
_TAIL_LINES = 40
_PACKAGE_ROOT = Path(__file__).resolve().parents[1]


class WatchdogExpired(RuntimeError):
    """The command was ended because it ran, or kept silent, for longer than allowed."""


@dataclass(frozen=True)
class Finished:
    """How a command ended. `status` is its exit status, negative for a signal."""

    status: int
    last_line: str
    """The last line of its standard output that is not blank."""
    tail: str
    """The last lines of its standard error."""


def start(
    command: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    stdout: int | IO[Any] | None = None,
    stderr: int | IO[Any] | None = None,
    grace_seconds: float = GRACE_SECONDS,
    pass_fds: Sequence[int] = (),
) -> subprocess.Popen[str]:
    """Start a command behind a watcher, in a session of its own; returns the watcher, which ends as the command does.

    Closing the watcher's standard input, terminating it (`stop`) or dying ends the command's whole session.

    Args:
        pass_fds: descriptors that the watcher keeps open as long as it lives (a lock); the command does not get them.
    """
    # -P, here and wherever a module is run: the current folder may hold another package of the same name.
    watcher = [sys.executable, "-P", "-m", "operators.supervise", str(grace_seconds), *command]
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


def stop(watcher: subprocess.Popen[str], grace_seconds: float = GRACE_SECONDS) -> int:
    """End a started command and everything it started; returns the watcher's exit status."""
    if watcher.stdin:
        with contextlib.suppress(BrokenPipeError):
            watcher.stdin.close()
    try:
        return watcher.wait(timeout=grace_seconds + 10.0)
    except subprocess.TimeoutExpired:
        watcher.kill()  # the command dies with it
        return watcher.wait()


def run_watched(
    command: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    wall_seconds: float,
    silence_seconds: float,
    on_line: Callable[[str], None] = lambda line: None,
    on_start: Callable[[subprocess.Popen[str]], None] = lambda watcher: None,
    grace_seconds: float = GRACE_SECONDS,
) -> Finished:
    """Run a command to its end.

    Args:
        on_line: gets every line of its standard error as it comes.
        on_start: gets the watcher, for whoever may have to `stop` it.

    Raises:
        WatchdogExpired: it was ended for running longer than `wall_seconds` or saying nothing for `silence_seconds`.
    """
    watcher = start(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, grace_seconds=grace_seconds)
    on_start(watcher)
    lines: queue.Queue[tuple[str, str] | None] = queue.Queue()
    streams = {"out": watcher.stdout, "err": watcher.stderr}
    for name, stream in streams.items():
        threading.Thread(target=_read, args=(name, stream, lines), daemon=True).start()
    threading.Thread(target=_end_streams, args=(watcher, lines, len(streams)), daemon=True).start()
    unended = len(streams)
    started = heard = time.monotonic()
    last_line = ""
    tail: deque[str] = deque(maxlen=_TAIL_LINES)
    try:
        while unended:
            deadline = min(started + wall_seconds, heard + silence_seconds)
            try:
                said = lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise WatchdogExpired(_expiry(command, started, wall_seconds, silence_seconds, tail)) from None
            heard = time.monotonic()
            if said is None:
                unended -= 1
                continue
            name, line = said
            if name == "err":
                tail.append(line)
                on_line(line)
            elif line.strip():
                last_line = line
        return Finished(_status(watcher.wait()), last_line, "\n".join(tail))
    finally:
        stop(watcher, grace_seconds)


def _read(name: str, stream: IO[str], lines: queue.Queue[tuple[str, str] | None]) -> None:
    """Put a stream's lines into a queue, under its name, and None at its end."""
    for line in stream:
        lines.put((name, line.rstrip("\n")))
    lines.put(None)


def _end_streams(watcher: subprocess.Popen[str], lines: queue.Queue[tuple[str, str] | None], count: int) -> None:
    """Put the streams' ends into the queue, a while after the command's."""
    watcher.wait()
    time.sleep(STREAMS_SECONDS)
    for _ in range(count):
        lines.put(None)


def _status(code: int) -> int:
    """A shell's 128 + signal, which the watcher reports, as Python's negative signal number."""
    return 128 - code if code > 128 else code


def _expiry(command: Sequence[str], started: float, wall: float, silence: float, tail: deque[str]) -> str:
    ran = time.monotonic() - started
    what = (
        f"was still running after {ran:.0f} s (limit {wall:.0f} s)"
        if ran >= wall
        else f"said nothing for {silence:.0f} s"
    )
    last = f"; its last line: {tail[-1]}" if tail else ""
    return f"{Path(command[0]).name} {' '.join(command[1:5])} {what} and was ended{last}"


# --- the watcher itself ----------------------------------------------------------------------------------------------


def watch(command: Sequence[str], grace_seconds: float) -> int:
    """Run the command until it ends, this process is told to end, or standard input closes; returns its exit status."""
    wake_read, wake_write = os.pipe()
    told: list[int] = []

    def wake(signum: int, frame: FrameType | None) -> None:
        if signum != signal.SIGCHLD:
            told.append(signum)
        os.write(wake_write, b".")

    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(signum, wake)
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=partial(die_with_parent, os.getpid()),  # noqa: PLW1509 - there is one thread; for a killed watcher
    )
    while child.poll() is None and not told:
        ready, _, _ = select.select([sys.stdin.fileno(), wake_read], [], [])
        if wake_read in ready:
            os.read(wake_read, 4096)
        elif not os.read(sys.stdin.fileno(), 4096):
            break  # whoever started this is gone, or wants the command gone
    end_session(child, grace_seconds if child.poll() is None else min(grace_seconds, ORPHANS_SECONDS))
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


def end_session(leader: subprocess.Popen[bytes], grace_seconds: float) -> None:
    """End every process of a child's session, whatever group it moved to: SIGTERM, after the grace SIGKILL."""
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
