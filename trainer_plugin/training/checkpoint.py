"""Checkpoints of a run: trainable weights, optimizer state, position in the data, and RNG state.

A checkpoint is a folder. It is written to a staging directory and renamed when it is complete. The file `latest` is
written last and names it. Every rank writes its own shards (torch.distributed.checkpoint), and any number of ranks can
read them. Frozen weights are not included, because they can be read from their source. Every run has its own staging
directory and removes only incomplete ones that existed before it began. A run that still writes when the next one
begins therefore does not damage that run's files.

Guarantees: with the same number of ranks, a resumed run is bitwise equal to an uninterrupted one. A checkpoint of
another model is rejected before anything is changed, and the error names the first differences.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from secrets import token_hex
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor
from torch.optim import Adam, Optimizer

from schemas.base import Model, accept_earlier_names, parse_json
from schemas.errors import BadInput
from trainer_plugin.atomic_files import atomic_replace_dir, atomic_write_bytes, backup_path, locked, reserve_space
from trainer_plugin.distributed.mesh import broadcast_from_rank_zero, run_on_all_ranks, run_on_rank_zero
from trainer_plugin.model import LongVideoModel
from trainer_plugin.training.model_identity import FROZEN_BITS, LORA, comparable, model_values
from trainer_plugin.training.optimizer_step import trainable_parameters

log = logging.getLogger(__name__)

LOCK = "_lock"
"""Name of the lock file. It begins with an underscore, as staging directories do, because `push_to_hub` of
transformers' Trainer skips such names."""
_EARLIER_LOCK = ".lock"
"""Name of the lock file of runs of an earlier version, which may still write into the folder."""
_STATE = "state.json"
_FILES = "files.json"
_SMALL_FILES_BYTES = 1 << 18
"""Approximate size in bytes of a checkpoint's small files."""
_MOMENT_NAMES = ("exp_avg", "exp_avg_sq")
_STATE_NAMES = ("step", *_MOMENT_NAMES)
"""AdamW's state of each parameter. `step` is per parameter, since steps without a gradient do not count for it."""
_MAX_DIFFERENCES = 3
"""Maximum number of differences that an error names."""
_VISIBLE_WITHIN_SECONDS = 5.0
"""Maximum delay until a folder made by one host is visible to the others on a shared disk."""


class RunState(Model):
    """The part of a checkpoint that is not tensors."""

    _earlier_names = accept_earlier_names(left_out="skipped")

    step: int
    """Number of completed optimizer steps."""
    tokens: int
    """Number of tokens in all rows so far."""
    data: tuple[dict[str, Any], ...]
    """Position in the data after these steps: one for all ranks, or for text data one for each data-parallel rank."""
    skipped: dict[str, str]
    """Skipped samples: the reason by key, for videos that could not be decoded and documents that cannot be used."""
    model: dict[str, Any]
    """Identity of the model: `model_values`."""
    recipe: dict[str, Any]
    """The recipe as JSON values."""
    kind: str = "sft"
    """Kind of the run: `RunSettings.folder` of its recipe. Checkpoints of earlier versions are of supervised runs."""


class CheckpointFolder:
    """The checkpoints of one run, in `{folder}/step-00000100` and so on.

    Every method must be called on all ranks, except `latest`, which involves no other rank.
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        """
        Args:
            folder: folder of the checkpoints, on a disk that all hosts share.
            keep: number of checkpoints to keep.

        Raises:
            BadInput: on every rank, if rank 0 cannot write into the folder, or some rank does not see it.
        """
        self.folder = folder
        self.keep = keep
        self._writing = StagingDir(folder)

    def remove_partial(self) -> None:
        """Remove the incomplete output of killed runs to free disk space. No other run may be using the folder."""
        self._writing.reset()

    def latest_on_all_ranks(self) -> Path | None:
        """Return `latest` after checking that all ranks see the same checkpoint.

        Raises:
            BadInput: on every rank, if ranks see different checkpoints, from which they would resume at different
                steps, or if the named checkpoint is missing.
            OSError, RuntimeError: on every rank, if some rank cannot read the file.
        """
        mine = run_on_all_ranks(self.latest)
        found: list[Path | None] = [None] * dist.get_world_size()
        dist.all_gather_object(found, mine)
        if len(set(found)) > 1:
            seen = ", ".join(f"rank {rank}: {path}" for rank, path in enumerate(found))
            raise BadInput(f"ranks see different checkpoints ({seen}); put `out` on a disk that all hosts share")
        return mine

    def latest(self) -> Path | None:
        """The last complete checkpoint that this process sees; None if there is none. It involves no other rank.

        Raises:
            BadInput: the checkpoint that the file `latest` names is missing.
        """
        pointer = self.folder / "latest"
        if not pointer.exists():
            return None
        name = pointer.read_text().strip()
        for path in (self.folder / name, backup_path(self.folder / name)) if name else ():
            if path.is_dir():
                return path
        names = ", ".join(sorted(path.name for path in self.folder.glob("step-*"))) or "none"
        raise BadInput(
            f"{pointer} names {name!r}, which is not there; write the name of one that is into it ({names}), or remove "
            f"it to start from the beginning"
        )

    def latest_complete(self) -> Path | None:
        """The last checkpoint whose files are undamaged; None if there are no checkpoints.

        A warning is logged if it is not the latest one.

        Raises:
            BadInput: on every rank, if all checkpoints are damaged, or for the reasons given in `latest_on_all_ranks`.
        """
        latest = self.latest_on_all_ranks()
        if latest is None:
            return None
        return newest_complete([latest, *broadcast_from_rank_zero(lambda: self._list_earlier(latest))])

    def _list_earlier(self, latest: Path) -> list[Path]:
        """The checkpoints to resume from if `latest` is damaged, in order of preference.

        If a step was being saved again when a run was killed, the earlier copy comes after the later one.
        """

        def step(path: Path) -> str:
            return path.name.removeprefix(".").removesuffix(".replaced")

        found = [*self.folder.glob("step-*"), *self.folder.glob(".step-*.replaced")]
        found.sort(key=lambda path: (step(path), path.name), reverse=True)
        return [path for path in found if step(path) <= step(latest) and path != latest]

    def save(self, model: LongVideoModel, optimizer: Optimizer, state: RunState) -> Path:
        """Write a checkpoint, then delete all but the last `keep` up to it, and the incomplete output of killed runs.

        If the run was set back to an earlier checkpoint, those of later steps stay until the run reaches their steps.

        Returns:
            The folder of the checkpoint.

        Raises:
            FullDisk, CheckpointException, OSError, RuntimeError: on every rank, if some rank cannot write, for example
                because the disk is full. The previous checkpoint is kept, and nothing of this one is visible.
        """
        final = self.folder / f"step-{state.step:08d}"
        staging = self._writing.reset()
        with self._writing.reserve_space(tensor_bytes(model, optimizer)):
            save_tensors(staging, model, optimizer)
            run_on_rank_zero(lambda: atomic_write_bytes(staging / _STATE, state.model_dump_json(indent=1).encode()))
            record_files(staging)
            run_on_rank_zero(lambda: self._publish(staging, final))
        return final

    def _publish(self, staging: Path, final: Path) -> None:
        atomic_replace_dir(staging, final)
        atomic_write_bytes(self.folder / "latest", final.name.encode())
        earlier = [path for path in sorted(self.folder.glob("step-*")) if path.name <= final.name]
        for old in [*earlier[: -self.keep], *self.folder.glob(".step-*.replaced")]:
            shutil.rmtree(old)

    def load(self, path: Path, model: LongVideoModel, optimizer: Optimizer) -> RunState:
        """Load a checkpoint into the model, the optimizer and the RNGs, and return its other state.

        Raises:
            BadInput: on every rank, if the checkpoint is of another model or of other trainable parameters.
            CheckpointException, OSError, RuntimeError: on every rank, if some rank cannot read it.
        """
        state = run_on_all_ranks(lambda: parse_json((path / _STATE).read_bytes(), RunState, str(path / _STATE)))
        load_tensors(path, model, optimizer, state.model)
        return state


def record_files(folder: Path) -> None:
    """Write the SHA-256 of every file of a checkpoint into the checkpoint. Every rank must call it.

    Each rank reads back the shards that it has written.

    Raises:
        OSError, RuntimeError: on every rank, if some rank cannot read its shards.
    """
    shards = f"__{dist.get_rank()}_*.distcp"
    mine = run_on_all_ranks(lambda: {str(path.relative_to(folder)): _hash(path) for path in folder.rglob(shards)})
    found: list[dict[str, str]] = [{}] * dist.get_world_size()
    dist.all_gather_object(found, mine)

    def write() -> None:
        hashes = {name: value for each in found for name, value in each.items()}
        for path in folder.rglob("*"):
            if path.is_file() and (name := str(path.relative_to(folder))) not in hashes:
                hashes[name] = _hash(path)
        atomic_write_bytes(folder / _FILES, json.dumps(hashes, indent=1, sort_keys=True).encode())

    run_on_rank_zero(write)


def damage(folder: Path) -> str | None:
    """Check a checkpoint's files against their hashes. Every rank must call it; each reads a part of the files.

    Returns:
        A description of the first damage found, the same on every rank. None if there is no damage, or if an earlier
        version wrote the checkpoint without hashes.
    """
    mine = run_on_all_ranks(lambda: _damage(folder, dist.get_rank(), dist.get_world_size()))
    found: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(found, mine)
    return next((problem for problem in found if problem), None)


def newest_complete(checkpoints: Sequence[Path]) -> Path:
    """The first undamaged checkpoint. Every rank must call it. A warning names the damaged ones that precede it.

    Args:
        checkpoints: checkpoints in order of preference, the latest first.

    Raises:
        BadInput: on every rank, if all are damaged.
    """
    damaged: list[str] = []
    for path in checkpoints:
        if (problem := damage(path)) is None:
            if damaged and dist.get_rank() == 0:
                log.warning("%s; resuming from the previous one, %s", "; ".join(damaged), path)
            return path
        damaged.append(f"checkpoint {path} is damaged: {problem}")
    raise BadInput(f"{'; '.join(damaged)}; copy it again, or start a new run in another out folder")


def _damage(folder: Path, rank: int, ranks: int) -> str | None:
    try:
        hashes = json.loads((folder / _FILES).read_bytes())
        for name in sorted(hashes)[rank::ranks]:
            if not (folder / name).exists():
                return f"{name} is missing"
            if _hash(folder / name) != hashes[name]:
                return f"{name} is not what was written"
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        return f"{_FILES} cannot be read ({error})"
    return None


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def lock_run_folder(folder: Path) -> Iterator[None]:
    """Lock a folder against other runs while the block runs. Every rank must call it.

    Rank 0 holds the lock, so that it outlives the program that started the ranks.

    Raises:
        BadInput: on every rank, if another run uses the folder (the message names its process), or if rank 0 cannot
            write into the folder.
    """
    with ExitStack() as held:

        def hold() -> None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                held.enter_context(locked(folder / LOCK, folder))
                if (folder / _EARLIER_LOCK).exists():
                    held.enter_context(locked(folder / _EARLIER_LOCK, folder))
            except OSError as error:
                raise BadInput(f"nothing can be written into {folder}: {error}; choose another folder") from error

        run_on_rank_zero(hold)
        yield


class StagingDir:
    """A run's staging directory for incomplete output, inside the target folder. All ranks must call all methods."""

    def __init__(self, folder: Path) -> None:
        """
        Args:
            folder: the target folder, on a disk that all hosts share.

        Raises:
            BadInput: on every rank, if rank 0 cannot write into `folder`, or some rank does not see what rank 0 wrote.
        """
        name = [f"_run-{token_hex(8)}.writing"]
        dist.broadcast_object_list(name, src=0)
        self.path = folder / name[0]
        self._leftovers = list(folder.glob("[._]run-*.writing"))  # earlier versions began with a dot
        run_on_rank_zero(self._create)
        try:
            run_on_all_ranks(self._check_visible)
        finally:
            if dist.get_rank() == 0:
                self.path.rmdir()

    def reset(self) -> Path:
        """Remove the staging directory and those of runs that began before this one, and return this run's path."""
        if dist.get_rank() == 0:
            for leftover in (self.path, *self._leftovers):
                shutil.rmtree(leftover, ignore_errors=True)
        dist.barrier()
        return self.path

    @contextmanager
    def reserve_space(self, needed: int) -> Iterator[None]:
        """Check for free space, then run a block in which all ranks write `needed` bytes into `path`.

        If the disk is full, the partial output is removed.

        Raises:
            FullDisk: on rank 0, if the disk is too full at the start or becomes full in the block. Other ranks raise
                RuntimeError or their own error.
        """
        with ExitStack() as held:
            run_on_rank_zero(lambda: held.enter_context(reserve_space(self.path, needed)))
            yield

    def _create(self) -> None:
        try:
            self.path.mkdir(parents=True)
        except OSError as error:
            raise BadInput(f"checkpoints cannot be written into {self.path.parent}: {error}") from error

    def _check_visible(self) -> None:
        deadline = time.monotonic() + _VISIBLE_WITHIN_SECONDS
        while not self.path.is_dir():
            if time.monotonic() > deadline:
                raise BadInput(
                    f"rank {dist.get_rank()} does not see in {self.path.parent} what the first rank wrote there; put "
                    f"`out` on a disk that all hosts share"
                )
            time.sleep(0.1)


def check_optimizer(optimizer: Optimizer) -> None:
    """Check that checkpoints can hold all of the optimizer's state.

    Raises:
        BadInput: the optimizer is not torch's Adam or AdamW, or uses amsgrad.
    """
    if not isinstance(optimizer, Adam) or optimizer.defaults["amsgrad"]:
        raise BadInput(
            f"checkpoints hold the two moments of torch's Adam and AdamW, not the state of {type(optimizer).__name__}; "
            f"use AdamW, without amsgrad"
        )


def save_tensors(path: Path, model: LongVideoModel, optimizer: Optimizer) -> None:
    """Write trainable parameters, AdamW's state and the RNG state. Every rank must call it; each writes its shards."""
    save(_tensors(model, optimizer) | _rng_state(), checkpoint_id=path)


def tensor_bytes(model: LongVideoModel, optimizer: Optimizer) -> int:
    """Number of bytes that `save_tensors` writes on all ranks, plus a small margin. Every rank must call it."""
    local = (t.to_local() if isinstance(t, DTensor) else t for t in _tensors(model, optimizer).values())
    total = torch.tensor(sum(tensor.numel() * tensor.itemsize for tensor in local))
    dist.all_reduce(total)
    return int(total) + _SMALL_FILES_BYTES


def load_tensors(path: Path, model: LongVideoModel, optimizer: Optimizer, written_by: Mapping[str, Any]) -> None:
    """Read the tensors that `save_tensors` wrote, also with another number of ranks. Every rank must call it.

    Args:
        path: folder that `save_tensors` wrote.
        model: the model whose trainable parameters are set.
        optimizer: the optimizer whose state is set.
        written_by: `model_values` of the model that was saved.

    Raises:
        BadInput: on every rank, if the tensors are of another model or of other parameters. Nothing was changed.
        CheckpointException, OSError, RuntimeError: on every rank, if some rank cannot read them.
    """
    present = model_values(model)
    tensors = _tensors(model, optimizer)

    def read_names() -> Collection[str]:
        stored = FileSystemReader(path).read_metadata().state_dict_metadata
        # Differences in trainable tensors are more informative than differences in adapters or frozen weights.
        _check_config({**written_by, **{name: present[name] for name in (LORA, FROZEN_BITS)}}, present, path)
        _check_tensors({name: tuple(tensor.shape) for name, tensor in tensors.items()}, stored, path)
        _check_config(written_by, present, path)
        return stored.keys()

    stored = run_on_all_ranks(read_names)
    rng_state = {name: tensor for name, tensor in _rng_state().items() if name in stored}
    load(tensors | rng_state, checkpoint_id=path)
    for name, state in rng_state.items():
        (torch.set_rng_state if ".cpu." in name else torch.cuda.set_rng_state)(state)


def differences(saved: Mapping[str, Any], present: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Differences between nested JSON values: (old value, new value) by dotted name.

    Single values precede lists, because they are more informative than lists that follow from them.
    """
    old, new = comparable(saved), comparable(present)
    differing = [name for name in sorted(old | new) if old.get(name) != new.get(name)]
    differing.sort(key=lambda name: isinstance(new.get(name), list))
    return {name: (old.get(name), new.get(name)) for name in differing}


def format_differences(differing: Mapping[str, tuple[Any, Any]], limit: int = _MAX_DIFFERENCES) -> str:
    """Format the first `limit` differences for an error message about a saved run."""
    named = [f"{name} is {old!r}, not {new!r}" for name, (old, new) in differing.items()]
    return "; ".join(named[:limit]) + (f"; and {len(named) - limit} more" if len(named) > limit else "")


def check_data(saved: Mapping[str, Any], present: Mapping[str, Any]) -> None:
    """Compare the facts of a run's data with those of the saved run.

    Args:
        saved, present: everything that determines the samples, nested JSON values.

    Raises:
        BadInput: they differ.
    """
    if differing := differences(saved, present):
        raise BadInput(
            f"the run began with other data: {format_differences(differing)}; use those, or start a new run in another "
            f"out folder, from the exported model to continue from its weights"
        )


def check_settings(saved: Mapping[str, Any], present: Mapping[str, Any], allowed: Collection[str]) -> None:
    """Compare the settings that affect training with those of the saved run.

    Rank 0 logs the allowed changes.

    Args:
        saved, present: settings of the saved and of the present run, nested JSON values.
        allowed: dotted names of settings or sections that may differ.

    Raises:
        BadInput: another setting differs.
    """
    differing = differences(saved, present)
    sections = tuple(f"{name}." for name in allowed)
    if refused := {name: d for name, d in differing.items() if name not in allowed and not name.startswith(sections)}:
        raise BadInput(
            f"the saved run has other settings: {format_differences(refused, len(refused))}; restore those, allow the "
            f"change with resume_changes=[{', '.join(refused)}], or give the run another out folder"
        )
    if differing and dist.get_rank() == 0:
        changes = [f"{name} {old!r} -> {new!r}" for name, (old, new) in differing.items()]
        log.warning("continuing with changed settings: %s", "; ".join(changes))


def _tensors(model: LongVideoModel, optimizer: Optimizer) -> dict[str, Tensor]:
    """The trainable parameters and AdamW's state by name. Missing state is created as zeros."""
    check_optimizer(optimizer)
    tensors: dict[str, Tensor] = {}
    for name, parameter in trainable_parameters(model).items():
        state = optimizer.state[parameter]
        if not state:
            place = parameter.device if optimizer.defaults.get("fused") else torch.device("cpu")
            state["step"] = torch.zeros((), dtype=torch.float32, device=place)
            state |= {moment: torch.zeros_like(parameter) for moment in _MOMENT_NAMES}
        tensors[f"parameters.{name}"] = parameter.detach()
        tensors |= {f"{part}.{name}": state[part] for part in _STATE_NAMES}
    return tensors


def _rng_state() -> dict[str, Tensor]:
    """The RNG state of this rank. Training does not draw random numbers, unless a model's own code does."""
    rank = dist.get_rank()
    states = {f"chance.cpu.{rank}": torch.get_rng_state()}
    if torch.cuda.is_available():
        states[f"chance.cuda.{rank}"] = torch.cuda.get_rng_state()
    return states


def _check_config(stored: Mapping[str, Any], present: Mapping[str, Any], path: Path) -> None:
    if differing := differences(stored, present):
        raise BadInput(
            f"checkpoint {path} belongs to another model: {format_differences(differing)}; give the run another out "
            f"folder, or the model that it began with"
        )


def _check_tensors(expected: Mapping[str, tuple[int, ...]], stored: Mapping[str, Any], path: Path) -> None:
    found = {name: tuple(entry.size) for name, entry in stored.items() if not name.startswith("chance.")}
    differences = [f"{name} is not in it" for name in expected if name not in found]
    differences += [f"{name} is not trainable here" for name in found if name not in expected]
    differences += [
        f"{name} has shape {found[name]}, not {shape}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    if differences:
        raise BadInput(
            f"checkpoint {path} does not match the trainable parameters ({len(differences)} tensors differ): "
            f"{'; '.join(differences[:_MAX_DIFFERENCES])}; give the run another out folder, or train the same parts"
        )
