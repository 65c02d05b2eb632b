"""How a command of the trainer ends: by itself, by a signal, or with an error that is said once for all ranks.

Exit status: 0 done; 1 a fault of the program; 2 the recipe, the data or the model is wrong, running again does not
help; 3 an outage (a disk, another rank), running again goes on; 128 + n ended by signal n (130 Ctrl-C, 129 SIGHUP, 143
SIGTERM).
"""

from __future__ import annotations

import hashlib
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException

from schemas.errors import BadInput, Outage
from trainer_plugin.metrics import LOG_FORMAT, log_level
from trainer_plugin.parallel import OTHER_RANK
from trainer_plugin.step import BadStep

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

FAULT_STATUS, BAD_INPUT_STATUS, OUTAGE_STATUS = 1, 2, 3


class Interrupts:
    """Takes Ctrl-C (SIGINT), SIGTERM and SIGHUP from when it is made until it is closed, both in the main thread.

    The first is noted, for the step in progress to be finished; a second ends the process at once. A thread waits for
    them, so that a run that hangs in a collective can be ended too. What the process was told to ignore, by nohup say,
    stays ignored. They may be nested: the innermost has the signals.
    """

    def __init__(self, *, at_once: str | None = None) -> None:
        """
        Args:
            at_once: end the process with the first signal, and log this; None: with the second.
        """
        self.received = 0
        """The number of the first signal; 0: there was none."""
        self._at_once = at_once
        self._heard = 0
        self._ours, self._theirs = socket.socketpair()
        self._theirs.setblocking(False)
        taken = [number for number in SIGNALS if signal.getsignal(number) not in (signal.SIG_IGN, None)]
        self._handlers: dict[int, Any] = {number: signal.signal(number, self._note) for number in taken}
        self._wakeup = signal.set_wakeup_fd(self._theirs.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._wait, daemon=True).start()

    def close(self) -> None:
        """Give the signals back to whoever had them before. It may be called again."""
        if self._theirs.fileno() < 0:
            return
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._theirs.close()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = self.received or number

    def _wait(self) -> None:
        with self._ours:
            while number := self._ours.recv(1):
                if number[0] in self._handlers:
                    self._answer(number[0])

    def _answer(self, number: int) -> None:
        self._heard += 1
        name = signal.Signals(number).name
        if self._at_once is None and self._heard == 1:
            _on_first_rank(
                logging.WARNING, f"{name}: the step in progress is finished and saved; again ends it at once"
            )
            return
        _on_first_rank(logging.WARNING, f"{name}: {self._at_once or 'ended at once; the last checkpoint is whole'}")
        os._exit(128 + number)


def run(work: Callable[[], int], *, at_once: str) -> int:
    """Do a command's work.

    Args:
        work: returns the number of the signal by which it was ended, or 0.
        at_once: what to log when a signal ends it outside of what `work` finishes by itself.

    Returns:
        The exit status. Under torchrun a rank that was asked to end has 0: torchrun takes any other for a failure, and
        may start the ranks again.
    """
    logging.basicConfig(level=log_level(), format=LOG_FORMAT, stream=sys.stderr)
    interrupts = Interrupts(at_once=at_once)
    try:
        ended_by = work()
    except (Exception, CheckpointException) as error:  # noqa: BLE001 - each kind has its message and its status
        return _report(error)
    finally:
        interrupts.close()
    # Only here: after an error, other ranks may never come to it.
    dist.destroy_process_group()
    return 0 if not ended_by or "TORCHELASTIC_RUN_ID" in os.environ else 128 + ended_by


def _report(error: BaseException) -> int:
    """Log an error, once for all ranks that have the same. Returns the exit status."""
    if OTHER_RANK in getattr(error, "__notes__", ()):
        return OUTAGE_STATUS
    if isinstance(error, CheckpointException):  # raised on all ranks
        if dist.get_rank() == 0:
            rank, (cause, _) = next(iter(error.failures.items()))
            log.error("checkpoint: rank %d: %s; run it again to go on from the last one that is whole", rank, cause)
        return OUTAGE_STATUS
    notes = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
    if isinstance(error, BadInput | BadStep):
        _log_once(f"{error}{notes}")
        return BAD_INPUT_STATUS
    if isinstance(error, torch.OutOfMemoryError):
        _log_once(f"{_rank()}{error}; raise parallel.sp, lower row_tokens, or see memory.* in docs/trainer.md")
        return BAD_INPUT_STATUS
    if isinstance(error, Outage | OSError):
        _log_once(f"{error}{notes}; run it again to go on from the last checkpoint")
        return OUTAGE_STATUS
    if isinstance(error, dist.DistError) or "gloo" in str(error):
        first_line = str(error).partition("\n")[0]
        _log_once(f"another rank has ended or does not answer; its own message says why ({first_line})", "another rank")
        return OUTAGE_STATUS
    log.error("%sa fault of the program", _rank(), exc_info=error)
    return FAULT_STATUS


def _rank() -> str:
    return f"rank {dist.get_rank()}: " if dist.is_initialized() and dist.get_world_size() > 1 else ""


def _on_first_rank(level: int, message: str) -> None:
    if os.environ.get("RANK", "0") == "0":
        log.log(level, "%s", message)


def _log_once(message: str, key: str | None = None) -> None:
    """Unless another rank has logged it, or another message of that key."""
    if not dist.is_initialized():  # nothing is different between ranks before they have met
        _on_first_rank(logging.ERROR, message)
        return
    name = hashlib.sha256((key or message).encode()).hexdigest()
    try:
        count = dist.distributed_c10d._get_default_store().add(f"logged/{name}", 1)
    except Exception:  # noqa: BLE001 - the store is gone with the process that had it; better twice than never
        count = 1
    if count == 1:
        log.error("%s", message)
