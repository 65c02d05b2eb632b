"""Persistent processes that form a gloo process group and run functions on all ranks, one after another."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from trainer_plugin.distributed.mesh import init_distributed

PRELOAD = [
    "torch.distributed.fsdp",
    "transformers.models.qwen2_5_vl.modeling_qwen2_5_vl",
    "transformers.models.qwen3_vl.modeling_qwen3_vl",
    "transformers.models.smolvlm.modeling_smolvlm",
    "trainer_plugin.sft",
    "trainer_plugin.hf_trainer",
    "tests.trainer_plugin.parity",
]
"""Modules that every rank needs. They are imported once, in the fork server."""


class Ranks:
    """A group of `world` ranks.

    They start on the first run, and again after a failed run, because a failure leaves collectives open.
    """

    def __init__(self, world: int, folder: Path, timeout: float = 120) -> None:
        """
        Args:
            folder: holds the rendezvous file of the ranks.
            timeout: seconds after which a collective or a whole run fails.
        """
        self.world = world
        self.folder = folder
        self.timeout = timeout
        self.processes: list[Any] = []
        self.died: dict[int, int | None] = {}
        """Exit codes of the ranks that died in the last run."""
        self._pipes: list[Connection] = []

    def run(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """Return the results of `function(*arguments)` in rank order.

        Raises:
            AssertionError: a rank died or raised; the message has the traceback of the first rank that raised.
        """
        errors, values = self.outcomes(function, *arguments, patient=False)
        for rank, code in self.died.items():
            raise AssertionError(f"rank {rank} of {self.world} died with exit code {code}; other errors: {errors}")
        for rank, error in errors.items():
            raise AssertionError(f"rank {rank} of {self.world}:\n{error}")
        return [values[rank] for rank in range(self.world)]

    def outcomes(
        self, function: Callable[..., Any], *arguments: Any, patient: bool = True
    ) -> tuple[dict[int, str], dict[int, Any]]:
        """Return tracebacks and results by rank. A rank that died is in neither.

        Without `patient`, return after the first failure.
        """
        if not all(process.is_alive() for process in self.processes):
            self.stop()
        if not self.processes:
            self._start()
        message = pickle.dumps((function, arguments))
        for pipe in self._pipes:
            pipe.send_bytes(message)
        self.died = {}
        errors: dict[int, str] = {}
        values: dict[int, Any] = {}
        waiting = dict(zip(self._pipes, range(self.world), strict=True))
        end = time.monotonic() + self.timeout
        while waiting and (patient or not (errors or self.died)):
            ready = wait(list(waiting), max(0.0, end - time.monotonic()))
            if not ready:
                errors |= dict.fromkeys(waiting.values(), f"no result within {self.timeout} s")
                break
            for pipe in ready:
                rank = waiting.pop(pipe)  # type: ignore[arg-type]
                try:
                    answer = pipe.recv_bytes()  # type: ignore[union-attr]
                except EOFError:
                    self.processes[rank].join()
                    self.died[rank] = self.processes[rank].exitcode
                    continue
                error, value = _unpickled(answer)
                if error:
                    errors[rank] = error
                else:
                    values[rank] = value
        if len(values) < self.world:
            self.stop()
        return errors, values

    def stop(self) -> None:
        """Kill the processes and close their pipes."""
        for process in self.processes:
            process.kill()
            process.join()
        for pipe in self._pipes:
            pipe.close()
        self.processes, self._pipes = [], []

    def _start(self) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOAD)
        rendezvous = self.folder / f"rendezvous-{os.urandom(4).hex()}"
        for rank in range(self.world):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_serve, args=(theirs, rank, self.world, rendezvous, self.timeout), daemon=True
            )
            process.start()
            theirs.close()
            self.processes.append(process)
            self._pipes.append(ours)


def _serve(pipe: Connection, rank: int, world: int, rendezvous: Path, timeout: float) -> None:
    torch.set_num_threads(1)
    os.environ.pop("RANK", None)
    store = dist.FileStore(str(rendezvous), world)
    limit = timedelta(seconds=timeout)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=limit)
    init_distributed(limit)
    while True:
        try:
            request = pipe.recv_bytes()
        except EOFError:
            return
        # Sent as bytes: a torch queue would share memory of a process that may be about to end.
        try:
            function, arguments = pickle.loads(request)
            answer = pickle.dumps(("", function(*arguments)))
        except BaseException:  # noqa: BLE001 - the caller raises it again
            answer = pickle.dumps((traceback.format_exc(), None))
        pipe.send_bytes(answer)


def _unpickled(answer: bytes) -> tuple[str, Any]:
    """A rank's traceback and result; the traceback of the unpickling if the answer cannot be read here."""
    try:
        return pickle.loads(answer)
    except Exception:  # noqa: BLE001 - whatever a result's class raises
        return traceback.format_exc(), None
