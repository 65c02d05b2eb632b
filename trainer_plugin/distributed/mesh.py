"""Process groups, and functions that run on all ranks or on one.

Ranks form a data-parallel x sequence-parallel grid. A sequence-parallel group is gather-KV x Ulysses. A single process
needs no groups.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch.distributed import ProcessGroup
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from transformers import PretrainedConfig

from schemas.errors import BadInput, Outage
from trainer_plugin.distributed.sequence_plan import Layout, choose_layout

T = TypeVar("T")

TIMEOUT = timedelta(minutes=10)
"""Default timeout of collectives."""


@dataclass(frozen=True)
class RankContext:
    """This process's device, rank and process groups.

    rank = dp_rank * sp + ring_rank * ulysses + ulysses_rank, so that Ulysses groups lie inside a host.
    """

    layout: Layout
    device: torch.device
    mesh: DeviceMesh
    """One-dimensional mesh of all ranks, over which parameters are sharded."""
    sp_group: ProcessGroup | None
    """The ranks that share this rank's rows; None if there are no others."""
    ulysses_group: ProcessGroup | None
    """The ranks that share this rank's part of the row; None if there are no others."""
    ring_group: ProcessGroup | None
    """The ranks with which this rank gathers keys and values; None if there are no others."""
    reason: str
    """Explanation of the layout, for the log."""

    @property
    def world_size(self) -> int:
        """Number of all ranks."""
        return self.mesh.size()

    @property
    def rank(self) -> int:
        """This process's rank among all."""
        return self.mesh.get_rank()

    @property
    def sp(self) -> int:
        """Sequence-parallel size: the number of ranks that share a row."""
        return self.layout.size

    @property
    def sp_rank(self) -> int:
        """This process's rank among those that share its rows."""
        return self.rank % self.sp

    @property
    def dp(self) -> int:
        """Data-parallel size: the number of groups that have different rows."""
        return self.world_size // self.sp

    @property
    def dp_rank(self) -> int:
        """Number of this process's group among those that have different rows."""
        return self.rank // self.sp


def init_distributed(timeout: timedelta = TIMEOUT) -> torch.device:
    """Initialize torch.distributed from torchrun's environment, or for a single process. Returns this rank's device.

    Collectives over all ranks fail on every rank after `timeout`, so a hanging rank is an error within that time. A
    rank that dies causes an immediate error on the ranks that communicate with it.

    Args:
        timeout: timeout of collectives over all ranks.

    Raises:
        BadInput: RANK is set without LOCAL_RANK on a host with several GPUs, or there are more ranks than GPUs.
    """
    if "RANK" in os.environ and "LOCAL_RANK" not in os.environ and torch.cuda.device_count() > 1:
        raise BadInput(
            f"RANK is set, but not LOCAL_RANK, so that all ranks of a host would take the first of its "
            f"{torch.cuda.device_count()} GPUs; start them with torchrun, or set LOCAL_RANK and LOCAL_WORLD_SIZE as it "
            f"does"
        )
    cuda, local = torch.cuda.is_available(), int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cuda", local) if cuda else torch.device("cpu")
    if cuda and local >= (gpus := torch.cuda.device_count()):
        raise BadInput(
            f"LOCAL_RANK is {local}, but this host shows {gpus} GPUs, one for each rank; start with "
            f"--nproc-per-node {gpus}, or let CUDA_VISIBLE_DEVICES show more"
        )
    if cuda:
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
        if "RANK" in os.environ:
            dist.init_process_group(backend, timeout=timeout)
        else:
            store = dist.HashStore()  # type: ignore[attr-defined]
            dist.init_process_group(backend, store=store, rank=0, world_size=1, timeout=timeout)
    return device


OTHER_RANK = "the rank that failed raises its own error"
"""Note on an error that reports another rank's failure."""


def run_on_all_ranks(function: Callable[[], T]) -> T:
    """Run `function` on all ranks and re-raise any rank's error on every rank. Every rank must call it.

    Without this, the other ranks would wait for the failed one until the timeout.

    Returns:
        The result of `function` on this rank.

    Raises:
        BadInput, Outage: on every rank, if `function` raised it on some rank. A note names the rank, unless all failed.
        RuntimeError: if `function` raised another error on another rank, with the note `OTHER_RANK`. The failed rank
            re-raises its own error.
    """
    found: T | None = None
    mine: Exception | None = None
    try:
        found = function()
    except Exception as error:  # noqa: BLE001 - raised below, after it is sent to the other ranks
        mine = error
    problems: list[tuple[str, str] | None] = [None] * dist.get_world_size()
    kind = next((kind.__name__ for kind in (BadInput, Outage) if isinstance(mine, kind)), "")
    dist.all_gather_object(problems, None if mine is None else (kind, f"{mine}"))
    if mine is not None and not kind:
        raise mine
    for rank, problem in enumerate(problems):
        if problem is not None:
            kind, message = problem
            if not kind:
                other = RuntimeError(f"rank {rank} has failed: {message}")
                other.add_note(OTHER_RANK)
                raise other from mine
            agreed = BadInput(message) if kind == BadInput.__name__ else Outage(message)
            if None in problems:
                agreed.add_note(f"on rank {rank}")
            raise agreed from mine
    return cast(T, found)


def run_on_rank_zero(function: Callable[[], T]) -> T | None:
    """Run `function` on rank 0 only. Errors are raised on every rank as in `run_on_all_ranks`. Every rank must call it.

    Returns:
        The result of `function` on rank 0; None on the others.
    """
    return run_on_all_ranks(lambda: function() if dist.get_rank() == 0 else None)


def broadcast_from_rank_zero(function: Callable[[], T]) -> T:
    """Run `function` on rank 0 and return its result on every rank. Every rank must call it.

    Errors are raised on every rank as in `run_on_all_ranks`. The result must be picklable.
    """
    found = [run_on_rank_zero(function)]
    dist.broadcast_object_list(found, src=0)
    return cast(T, found[0])


def is_group_leader(groups: int) -> bool:
    """Whether this is the first rank of its group, if all ranks form `groups` equal groups of consecutive ranks.

    The ranks of a group share their rows, and the first one logs for all of them. True without a process group.
    """
    return not dist.is_initialized() or dist.get_rank() % max(1, dist.get_world_size() // groups) == 0


def parallelize(
    sp: int,
    text_config: PretrainedConfig,
    device: torch.device,
    layout: Layout | None = None,
    timeout: timedelta = TIMEOUT,
) -> RankContext:
    """Create the process groups of `sp` ranks each. Every rank must call it.

    Args:
        sp: number of ranks that share a row.
        text_config: configuration of the language model, for its numbers of heads.
        device: this rank's device, from `init_distributed`.
        layout: the layout to use. None chooses one from the numbers of heads and of ranks per host.
        timeout: timeout of collectives in these groups; pass the timeout given to `init_distributed`. (Groups of a
            device mesh would have PyTorch's default, 30 minutes for gloo.)

    Raises:
        BadInput: `sp` does not divide the number of processes, or the layout does not fit `sp` or the heads.
    """
    world = dist.get_world_size()
    if sp < 1 or world % sp:
        raise BadInput(
            f"sequence-parallel size {sp} does not divide {world} processes; start a multiple of {sp}, or set "
            f"parallel.sp={math.gcd(sp, world)}"
        )
    local = int(os.environ.get("LOCAL_WORLD_SIZE", world))
    heads, kv_heads = text_config.num_attention_heads, text_config.num_key_value_heads
    reason = "as requested"
    if layout is None:
        layout, reason = choose_layout(sp, heads, kv_heads, local)
    _check(layout, sp, heads, kv_heads)
    places = torch.arange(world).view(-1, layout.ring, layout.ulysses)
    sp_group = _group(places.flatten(1), timeout)
    return RankContext(
        layout=layout,
        device=device,
        mesh=init_device_mesh(device.type, (world,), mesh_dim_names=("world",)),
        sp_group=sp_group,
        ulysses_group=sp_group if layout.ulysses == sp else _group(places.flatten(0, 1), timeout),
        ring_group=sp_group if layout.ring == sp else _group(places.mT.flatten(0, 1), timeout),
        reason=reason,
    )


def _group(ranks: torch.Tensor, timeout: timedelta) -> ProcessGroup | None:
    """Create one group for each row of `ranks` and return this process's group; None if groups have one rank."""
    if ranks.shape[1] == 1:
        return None
    group, _ = dist.new_subgroups_by_enumeration(ranks.tolist(), timeout=timeout)
    return group


def _check(layout: Layout, sp: int, heads: int, kv_heads: int) -> None:
    if layout.size != sp:
        raise BadInput(f"layout {layout.ulysses} x {layout.ring} is not of {sp} ranks")
    if heads % layout.ulysses or (kv_heads % layout.ulysses and layout.ulysses % kv_heads):
        raise BadInput(
            f"Ulysses over {layout.ulysses} ranks does not fit {heads} query and {kv_heads} kv heads; "
            f"use a divisor, and gather-KV for the rest"
        )
