"""How a command of the trainer ends: normally, by a signal, or with an error that is logged once for all ranks.

Exit status:
    0: done.
    1: a bug in the program.
    2: the recipe, the data or the model is wrong, or a device has too little memory. Running again does not help.
    3: an outage (a disk, another rank). Running again resumes.
    128 + n: ended by signal n (130 Ctrl-C, 129 SIGHUP, 143 SIGTERM).
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
from transformers.utils.logging import disable_progress_bar

from schemas.errors import BAD_INPUT_STATUS, FAULT_STATUS, OUTAGE_STATUS, BadInput, Outage
from trainer_plugin.distributed.mesh import OTHER_RANK
from trainer_plugin.rl.alarms import TrainingAlarm
from trainer_plugin.training.metrics import LOG_FORMAT, log_level
from trainer_plugin.training.optimizer_step import BadStep

log = logging.getLogger(__name__)

_HTTP_CLIENTS = ("httpx", "httpx2")
"""Loggers of the openai client's HTTP packages. They log each request at INFO: for a judge, thousands a step."""

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """Handles SIGINT (Ctrl-C), SIGTERM and SIGHUP from its creation until `close`, both in the main thread.

    The first signal is recorded, so that the step in progress can finish; a second one ends the process immediately. A
    thread waits for the signals, so that a run that hangs in a collective can be ended too. Signals that the process
    already ignores, e.g. under nohup, stay ignored. Instances may be nested: the innermost receives the signals.
    """

    def __init__(self, *, exit_message: str | None = None) -> None:
        """
        Args:
            exit_message: logged when the first signal ends the process; None: only a second signal ends it.
        """
        self.received = 0
        """Number of the first signal received; 0: none."""
        self._exit_message = exit_message
        self._signals = 0
        self._ours, self._theirs = socket.socketpair()
        self._theirs.setblocking(False)
        taken = [number for number in SIGNALS if signal.getsignal(number) not in (signal.SIG_IGN, None)]
        self._handlers: dict[int, Any] = {number: signal.signal(number, self._record) for number in taken}
        self._wakeup = signal.set_wakeup_fd(self._theirs.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._wait, daemon=True).start()

    def close(self) -> None:
        """Restore the previous signal handlers. It may be called more than once."""
        if self._theirs.fileno() < 0:
            return
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._theirs.close()

    def _record(self, number: int, frame: FrameType | None) -> None:
        self.received = self.received or number

    def _wait(self) -> None:
        with self._ours:
            while number := self._ours.recv(1):
                if number[0] in self._handlers:
                    self._handle(number[0])

    def _handle(self, number: int) -> None:
        self._signals += 1
        name = signal.Signals(number).name
        if self._exit_message is None and self._signals == 1:
            _log_on_rank_zero(
                logging.WARNING,
                f"{name}: the step in progress is finished and saved; a second signal ends it immediately",
            )
            return
        _log_on_rank_zero(
            logging.WARNING, f"{name}: {self._exit_message or 'ended immediately; the last checkpoint is complete'}"
        )
        os._exit(128 + number)


def run(work: Callable[[], int], *, exit_message: str) -> int:
    """Run a command and return its exit status.

    Args:
        work: does the command's work; returns the number of the signal that ended it, or 0.
        exit_message: logged when a signal ends the command where `work` does not handle signals itself.

    Returns:
        The exit status. Under torchrun, a rank that a signal ended returns 0, because torchrun takes any other status
        for a failure and may restart the ranks.
    """
    logging.basicConfig(level=log_level(), format=LOG_FORMAT, stream=sys.stderr)
    disable_progress_bar()
    for client in _HTTP_CLIENTS:
        logging.getLogger(client).setLevel(logging.WARNING)
    interrupts = Interrupts(exit_message=exit_message)
    try:
        ended_by = work()
    except (Exception, CheckpointException) as error:  # noqa: BLE001 - each kind has its message and its status
        return _report(error)
    finally:
        interrupts.close()
    # Not after an error: other ranks may never reach this call.
    dist.destroy_process_group()
    return 0 if not ended_by or "TORCHELASTIC_RUN_ID" in os.environ else 128 + ended_by


def _report(error: BaseException) -> int:
    """Log an error, once for all ranks that have the same. Returns the exit status."""
    if OTHER_RANK in getattr(error, "__notes__", ()):
        return OUTAGE_STATUS
    if isinstance(error, CheckpointException):  # raised on all ranks
        if dist.get_rank() == 0:
            rank, (cause, _) = next(iter(error.failures.items()))
            log.error("checkpoint: rank %d: %s; run it again to resume from the last complete one", rank, cause)
        return OUTAGE_STATUS
    notes = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
    if isinstance(error, BadInput | BadStep | TrainingAlarm):
        _log_once(f"{error}{notes}")
        return BAD_INPUT_STATUS
    if isinstance(error, torch.OutOfMemoryError):
        _log_once(f"{_rank_prefix()}{error}; raise parallel.sp, lower row_tokens, or see memory.* in docs/trainer.md")
        return BAD_INPUT_STATUS
    if isinstance(error, Outage | OSError):
        _log_once(f"{error}{notes}; run it again to resume from the last checkpoint")
        return OUTAGE_STATUS
    if isinstance(error, dist.DistError) or "gloo" in str(error):
        first_line = str(error).partition("\n")[0]
        _log_once(
            f"another rank has ended or does not answer; its own message gives the cause ({first_line})", "another rank"
        )
        return OUTAGE_STATUS
    log.error("%sinternal error", _rank_prefix(), exc_info=error)
    return FAULT_STATUS


def _rank_prefix() -> str:
    return f"rank {dist.get_rank()}: " if dist.is_initialized() and dist.get_world_size() > 1 else ""


def _log_on_rank_zero(level: int, message: str) -> None:
    if os.environ.get("RANK", "0") == "0":
        log.log(level, "%s", message)


def _log_once(message: str, key: str | None = None) -> None:
    """Log an error, unless another rank has logged the same message or one with the same key."""
    if not dist.is_initialized():  # before that, all ranks have the same errors
        _log_on_rank_zero(logging.ERROR, message)
        return
    name = hashlib.sha256((key or message).encode()).hexdigest()
    try:
        count = dist.distributed_c10d._get_default_store().add(f"logged/{name}", 1)
    except Exception:  # noqa: BLE001 - the store ended with its process; log twice rather than never
        count = 1
    if count == 1:
        log.error("%s", message)
