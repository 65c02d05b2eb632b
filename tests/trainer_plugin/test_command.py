import errno
import logging
import signal
import subprocess
import sys

import pytest
import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException

from schemas.errors import BadInput, Outage
from trainer_plugin.command import run
from trainer_plugin.distributed import mesh
from trainer_plugin.distributed.mesh import run_on_all_ranks, run_on_rank_zero
from trainer_plugin.rl.alarms import TrainingAlarm

LOADING = """
import time
from trainer_plugin.command import run

def load():
    print("loading", flush=True)
    time.sleep(1000)

run(load, exit_message="nothing to save")
"""

HANGING = """
import ctypes
from trainer_plugin.command import Interrupts

interrupts = Interrupts()
print("hanging", flush=True)
ctypes.CDLL(None).sleep(1000)  # in C, as a collective does
"""


AS_FROM_A_TERMINAL = """
import signal

signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
"""
"""Restores the default handlers. Tests in the background or under nohup ignore these signals, and so would children."""


def start(code: str) -> subprocess.Popen:
    command = [sys.executable, "-c", AS_FROM_A_TERMINAL + code]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP], ids=lambda number: number.name)
def test_outside_of_a_step_a_signal_ends_the_command_with_a_message(number):
    process = start(LOADING)
    assert process.stdout.readline() == "loading\n"
    process.send_signal(number)
    output = process.communicate()[1]
    assert process.returncode == 128 + number
    assert output.endswith(f" WARNING {number.name}: nothing to save\n") and len(output.splitlines()) == 1


def test_a_second_signal_ends_what_hangs():
    process = start(HANGING)
    assert process.stdout.readline() == "hanging\n"
    process.send_signal(signal.SIGINT)
    assert (
        "SIGINT: the step in progress is finished and saved; a second signal ends it immediately"
        in process.stderr.readline()
    )
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert process.returncode == 128 + signal.SIGINT


def test_a_hangup_that_nohup_ignores_stays_ignored():
    process = start("signal.signal(signal.SIGHUP, signal.SIG_IGN)\n" + LOADING)
    assert process.stdout.readline() == "loading\n"
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)
    assert "SIGTERM: nothing to save" in process.communicate()[1]
    assert process.returncode == 128 + signal.SIGTERM


@pytest.mark.parametrize("torchrun", [True, False])
def test_a_run_that_a_signal_ends_has_its_status_but_under_torchrun_zero(monkeypatch, torchrun):
    """torchrun treats any status other than 0 as a failure."""
    if torchrun:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    mesh.init_distributed()
    assert run(lambda: signal.SIGHUP, exit_message="") == (0 if torchrun else 128 + signal.SIGHUP)
    assert not dist.is_initialized()


def test_requests_of_a_judge_are_not_logged(caplog):
    def work() -> int:
        logging.getLogger("httpx").info("HTTP Request: POST")
        logging.getLogger("httpx2").warning("connection lost")
        return 0

    mesh.init_distributed()
    with caplog.at_level(logging.INFO):
        run(work, exit_message="")
    assert [record.getMessage() for record in caplog.records] == ["connection lost"]


def raise_error(error: BaseException) -> int:
    raise error


FULL = OSError(errno.ENOSPC, "No space left on device", "/out")


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (BadInput("lr is -1; raise it"), 2, "lr is -1; raise it"),
        (Outage("no answer"), 3, "no answer; run it again to resume from the last checkpoint"),
        (FULL, 3, "No space left on device: '/out'; run it again"),
        (CheckpointException("save", {1: (FULL, None)}), 3, "checkpoint: rank 1: [Errno 28] No space left on"),
        (RuntimeError("[gloo/pair.cc:1] Connection closed by peer"), 3, "another rank has ended or does not answer"),
        (TrainingAlarm("alarm mismatch: k3 5.2"), 2, "alarm mismatch: k3 5.2"),
        (ZeroDivisionError("x"), 1, "internal error"),
    ],
    ids=["input", "outage", "disk", "checkpoint", "peer", "alarm", "fault"],
)
def test_an_error_is_one_message_and_a_status(alone, caplog, error, status, message):
    assert run(lambda: raise_error(error), exit_message="") == status
    assert [message in record.getMessage() for record in caplog.records] == [True]


def fail_on(kind: str) -> int:
    rank = dist.get_rank()
    if kind == "all":
        raise BadInput("sp is 3; set it to 2")
    if kind == "first":
        run_on_rank_zero(lambda: raise_error(BadInput("no such folder")))
    if kind == "second":
        run_on_all_ranks(lambda: raise_error(FULL) if rank == 1 else 0)
    return run_on_all_ranks(lambda: raise_error(BadInput("film is cut off")) if rank == 1 else 0)


def run_and_collect_log(kind: str) -> tuple[int, list[str]]:
    """Exit status of this rank and the messages that it logged."""
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logging.getLogger("trainer_plugin").addHandler(handler)
    status = run(lambda: fail_on(kind), exit_message="")
    logging.getLogger("trainer_plugin").removeHandler(handler)
    return status, messages


@pytest.mark.parametrize(
    ("kind", "status", "message"),
    [
        ("all", 2, "sp is 3; set it to 2"),
        ("first", 2, "no such folder (on rank 0)"),
        ("last", 2, "film is cut off (on rank 1)"),
        ("second", 3, "[Errno 28] No space left on device: '/out'; run it again to resume from the last checkpoint"),
    ],
)
def test_an_error_is_logged_once_for_all_ranks(ranks, kind, status, message):
    found = ranks[2].run(run_and_collect_log, kind)
    assert [each for each, _ in found] == [status] * 2
    assert [line for _, lines in found for line in lines] == [message]
