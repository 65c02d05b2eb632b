"""The state of a run on disk: what is learned, its optimizer, where the data is, and what numbers chance would give.

A checkpoint is a folder, written beside and renamed when it is whole; `latest` is written last and names it. Every rank
writes its own shards (torch.distributed.checkpoint), and any number of ranks can read them. Frozen weights are not in
it: they are where they came from. A run that still writes when the next one has begun takes nothing from that one: each
writes beside under a name of its own, and removes only what was half written before it began.

Guarantees: with equally many ranks the run goes on bit by bit as if it had not stopped. A checkpoint of another model
is refused by naming the first differences, before anything is changed.
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
from transformers import PretrainedConfig

from schemas.base import Model, parse_json
from schemas.errors import BadInput
from trainer_plugin.files import aside, locked, put_whole, room_for, write_whole
from trainer_plugin.model import LongVideoModel, reshard
from trainer_plugin.parallel import from_first_rank, on_first_rank, together
from trainer_plugin.step import trained_parameters

log = logging.getLogger(__name__)

LOCK = "_lock"
"""Begins with an underscore, as what is being written does: `push_to_hub` of a Trainer leaves out what does."""
_STATE = "state.json"
_FILES = "files.json"
_OVERHEAD_BYTES = 1 << 18
"""Of a checkpoint's small files, about."""
_MOMENTS = ("exp_avg", "exp_avg_sq")
_STATES = ("step", *_MOMENTS)
"""Of AdamW, for each parameter: one without a gradient in some step is behind in its own count of them."""
_LORA, _FROZEN = "lora", "frozen_bits"
_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_SHOWN = 3
"""Differences that an error names."""
_SEEN_WITHIN_SECONDS = 5.0
"""How late a shared disk may show one host what another has made."""


class RunState(Model):
    """All of a checkpoint that is not a tensor."""

    step: int
    """Optimizer steps done."""
    tokens: int
    """Tokens of all rows so far."""
    data: tuple[dict[str, Any], ...]
    """What comes after the rows of these steps: one position for all, or (texts) one for each data-parallel rank."""
    left_out: dict[str, str]
    """Reasons by key of the sample: videos that could not be decoded."""
    model: dict[str, Any]
    """`model_values`."""
    recipe: dict[str, Any]
    """What was asked for."""


class CheckpointFolder:
    """The checkpoints of one run, `{folder}/step-00000100`. All ranks must call all methods together."""

    def __init__(self, folder: Path, keep: int = 2) -> None:
        """Raises BadInput, on every rank, unless all of them can write into the same folder."""
        self.folder = folder
        self.keep = keep
        self._writing = WritingPlace(folder)

    def remove_half_written(self) -> None:
        """What killed runs left: it takes room, and no run that is alive may be in the folder."""
        self._writing.cleared()

    def agreed_latest(self) -> Path | None:
        """`latest`, of which all ranks must see the same.

        Raises:
            BadInput: on every rank, when they do not: they would go on from different steps; or as `latest`.
            OSError, RuntimeError: on every rank, when one of them cannot read it.
        """
        mine = together(self.latest)
        found: list[Path | None] = [None] * dist.get_world_size()
        dist.all_gather_object(found, mine)
        if len(set(found)) > 1:
            seen = ", ".join(f"rank {rank}: {path}" for rank, path in enumerate(found))
            raise BadInput(f"ranks see different checkpoints ({seen}); put `out` on a disk that all hosts share")
        return mine

    def latest(self) -> Path | None:
        """The last whole checkpoint that this process sees.

        Raises:
            BadInput: the one that is named is not there.
        """
        pointer = self.folder / "latest"
        if not pointer.exists():
            return None
        name = pointer.read_text().strip()
        for path in (self.folder / name, aside(self.folder / name)) if name else ():
            if path.is_dir():
                return path
        there = ", ".join(sorted(path.name for path in self.folder.glob("step-*"))) or "none"
        raise BadInput(
            f"{pointer} names {name!r}, which is not there; write the name of one that is into it ({there}), or remove "
            f"it to begin anew"
        )

    def whole_latest(self) -> Path | None:
        """The last checkpoint, if all of it is there as it was written; else the last one before it of which that is
        true, and a warning.

        Raises:
            BadInput: on every rank, when there are checkpoints, but none is whole; or as `agreed_latest`.
        """
        latest = self.agreed_latest()
        if latest is None:
            return None
        return first_whole([latest, *from_first_rank(lambda: self._before(latest))])

    def _before(self, latest: Path) -> list[Path]:
        """The checkpoints to resume from if this one is damaged, the best first. Of a step that was being saved again,
        the earlier copy comes after the later one."""

        def step(path: Path) -> str:
            return path.name.removeprefix(".").removesuffix(".replaced")

        found = [*self.folder.glob("step-*"), *self.folder.glob(".step-*.replaced")]
        found.sort(key=lambda path: (step(path), path.name), reverse=True)
        return [path for path in found if step(path) <= step(latest) and path != latest]

    def save(self, model: LongVideoModel, optimizer: Optimizer, state: RunState) -> Path:
        """Write a checkpoint, then forget all but the last `keep` up to it, and what killed runs left half.

        Later ones, of a run that was sent back to this step, stay until it comes to them.

        Raises:
            FullDisk, CheckpointException, OSError, RuntimeError: on every rank, when one of them cannot write, say as
                the disk is full; the last checkpoint stays, and nothing of this one.
        """
        final = self.folder / f"step-{state.step:08d}"
        beside = self._writing.cleared()
        with self._writing.room_for(tensor_bytes(model, optimizer)):
            save_tensors(beside, model, optimizer)
            on_first_rank(lambda: write_whole(beside / _STATE, state.model_dump_json(indent=1).encode()))
            record_files(beside)
            on_first_rank(lambda: self._publish(beside, final))
        return final

    def _publish(self, beside: Path, final: Path) -> None:
        put_whole(beside, final)
        write_whole(self.folder / "latest", final.name.encode())
        earlier = [path for path in sorted(self.folder.glob("step-*")) if path.name <= final.name]
        for old in [*earlier[: -self.keep], *self.folder.glob(".step-*.replaced")]:
            shutil.rmtree(old)

    def load(self, path: Path, model: LongVideoModel, optimizer: Optimizer) -> RunState:
        """Take up a checkpoint.

        Raises:
            BadInput: on every rank, when it is of another model, or learned something else.
            OSError, RuntimeError: on every rank, when one of them cannot read it.
        """
        state = together(lambda: parse_json((path / _STATE).read_bytes(), RunState, str(path / _STATE)))
        load_tensors(path, model, optimizer, state.model)
        return state


def record_files(folder: Path) -> None:
    """Note the hash of every file of a checkpoint in it. Every rank must call it, and reads what it has written.

    Raises:
        OSError, RuntimeError: on every rank, when one of them cannot read that again.
    """
    shards = f"__{dist.get_rank()}_*.distcp"
    mine = together(lambda: {str(path.relative_to(folder)): _hash(path) for path in folder.rglob(shards)})
    found: list[dict[str, str]] = [{}] * dist.get_world_size()
    dist.all_gather_object(found, mine)

    def write() -> None:
        hashes = {name: value for each in found for name, value in each.items()}
        for path in folder.rglob("*"):
            if path.is_file() and (name := str(path.relative_to(folder))) not in hashes:
                hashes[name] = _hash(path)
        write_whole(folder / _FILES, json.dumps(hashes, indent=1, sort_keys=True).encode())

    on_first_rank(write)


def damage(folder: Path) -> str | None:
    """What is wrong with the files of a checkpoint, the same on every rank; None: nothing, or an earlier version wrote
    it, which noted no hashes. Every rank must call it, and reads a part of them."""
    mine = together(lambda: _damage(folder, dist.get_rank(), dist.get_world_size()))
    found: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(found, mine)
    return next((problem for problem in found if problem), None)


def first_whole(checkpoints: Sequence[Path]) -> Path:
    """Of checkpoints, the latest first, the first without damage; a warning names those before it. Every rank must call
    it.

    Raises:
        BadInput: on every rank, when all are damaged.
    """
    damaged: list[str] = []
    for path in checkpoints:
        if (problem := damage(path)) is None:
            if damaged and dist.get_rank() == 0:
                log.warning("%s; going on from the one before, %s", "; ".join(damaged), path)
            return path
        damaged.append(f"checkpoint {path} is damaged: {problem}")
    raise BadInput(f"{'; '.join(damaged)}; copy it again, or begin anew in another out folder")


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
def only_run_in(folder: Path) -> Iterator[None]:
    """Keep every other run out of a folder while the block lasts. All ranks call it; the first one holds the lock, also
    when the program that started the ranks is gone.

    Raises:
        BadInput: on every rank, when another run is in there, whose process is named, or nothing can be written there.
    """
    with ExitStack() as held:

        def hold() -> None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                held.enter_context(locked(folder / LOCK, folder))
            except OSError as error:
                raise BadInput(f"nothing can be written into {folder}: {error}; choose another folder") from error

        on_first_rank(hold)
        yield


class WritingPlace:
    """Where one run writes what is not whole yet, inside the folder that it is for. All ranks call all methods."""

    def __init__(self, folder: Path) -> None:
        """
        Raises:
            BadInput: on every rank, when the first one cannot write into `folder`, or some rank sees another one.
        """
        name = [f"_run-{token_hex(8)}.writing"]
        dist.broadcast_object_list(name, src=0)
        self.path = folder / name[0]
        self._left = list(folder.glob("[._]run-*.writing"))  # earlier versions began with a dot
        on_first_rank(self._make)
        try:
            together(self._check_seen)
        finally:
            if dist.get_rank() == 0:
                self.path.rmdir()

    def cleared(self) -> Path:
        """The path, with nothing there; what runs that had begun before this one left half is gone too."""
        if dist.get_rank() == 0:
            for left in (self.path, *self._left):
                shutil.rmtree(left, ignore_errors=True)
        dist.barrier()
        return self.path

    @contextmanager
    def room_for(self, needed: int) -> Iterator[None]:
        """While all ranks write so many bytes into `path`, of which nothing stays if there is no room.

        Raises:
            FullDisk: on the first rank, when there is no room; on the others RuntimeError or what they met.
        """
        with ExitStack() as room:
            on_first_rank(lambda: room.enter_context(room_for(self.path, needed)))
            yield

    def _make(self) -> None:
        try:
            self.path.mkdir(parents=True)
        except OSError as error:
            raise BadInput(f"checkpoints cannot be written into {self.path.parent}: {error}") from error

    def _check_seen(self) -> None:
        deadline = time.monotonic() + _SEEN_WITHIN_SECONDS
        while not self.path.is_dir():
            if time.monotonic() > deadline:
                raise BadInput(
                    f"rank {dist.get_rank()} does not see in {self.path.parent} what the first rank wrote there; put "
                    f"`out` on a disk that all hosts share"
                )
            time.sleep(0.1)


def check_optimizer(optimizer: Optimizer) -> None:
    """Raises BadInput if a checkpoint would not hold all of its state."""
    if not isinstance(optimizer, Adam) or optimizer.defaults["amsgrad"]:
        raise BadInput(
            f"checkpoints hold the two moments of torch's Adam and AdamW, not the state of {type(optimizer).__name__}; "
            f"use AdamW, without amsgrad"
        )


def save_tensors(path: Path, model: LongVideoModel, optimizer: Optimizer) -> None:
    """Every rank writes its shards of what is learned and of AdamW's state, and its random state."""
    save(_tensors(model, optimizer) | _chance(), checkpoint_id=path)


def tensor_bytes(model: LongVideoModel, optimizer: Optimizer) -> int:
    """How much `save_tensors` writes, over all ranks, and a little more. Every rank must call it."""
    local = (t.to_local() if isinstance(t, DTensor) else t for t in _tensors(model, optimizer).values())
    total = torch.tensor(sum(tensor.numel() * tensor.itemsize for tensor in local))
    dist.all_reduce(total)
    return int(total) + _OVERHEAD_BYTES


def load_tensors(path: Path, model: LongVideoModel, optimizer: Optimizer, written_by: Mapping[str, Any]) -> None:
    """Read what `save_tensors` wrote, with any number of ranks. Every rank must call it.

    Args:
        written_by: `model_values` of the model that it was written by.

    Raises:
        BadInput: on every rank, when it is of another model or of other parameters; nothing was changed.
        CheckpointException, OSError, RuntimeError: on every rank, when one of them cannot read it.
    """
    present = model_values(model)
    tensors = _tensors(model, optimizer)

    def read_names() -> Collection[str]:
        stored = FileSystemReader(path).read_metadata().state_dict_metadata
        # The parts that are learned say more than that there are adapters, or that the frozen parts are others.
        _check_config({**written_by, **{name: present[name] for name in (_LORA, _FROZEN)}}, present, path)
        _check_tensors({name: tuple(tensor.shape) for name, tensor in tensors.items()}, stored, path)
        _check_config(written_by, present, path)
        return stored.keys()

    stored = together(read_names)
    chance = {name: tensor for name, tensor in _chance().items() if name in stored}
    load(tensors | chance, checkpoint_id=path)
    _set_chance(chance)


def config_values(config: PretrainedConfig) -> dict[str, Any]:
    """A model's configuration as JSON values."""
    values: dict[str, Any] = json.loads(config.to_json_string(use_diff=False))
    return values


def model_values(model: LongVideoModel) -> dict[str, Any]:
    """What the learned tensors are part of, as JSON values: the configuration, how much adapters count, and the sum of
    the bits of all that is frozen, which is the same for any number of ranks. Every rank must call it."""
    reshard(model)
    total = torch.zeros((), dtype=torch.int64)
    for parameter in model.parameters():
        if not parameter.requires_grad:
            shard = parameter.to_local() if isinstance(parameter, DTensor) else parameter
            total += shard.contiguous().view(_BITS[shard.dtype.itemsize]).sum(dtype=torch.int64).cpu()
    dist.all_reduce(total)
    adapters = getattr(model.model, "peft_config", {})
    lora = {name: {"rank": config.r, "alpha": config.lora_alpha} for name, config in adapters.items()}
    return {**config_values(model.model.config), _LORA: lora, _FROZEN: int(total)}


def comparable(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A configuration's nested values by dotted name, without what does not make a model another one."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if name.startswith("_") or name in ("transformers_version", "dtype", "torch_dtype"):
            continue
        if isinstance(value, Mapping):
            flat |= comparable(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What differs between nested JSON values, by dotted name: what it was, and what it is. Single values come first:
    they say more than lists that follow from them."""
    was, present = comparable(before), comparable(now)
    differing = [name for name in sorted(was | present) if was.get(name) != present.get(name)]
    differing.sort(key=lambda name: isinstance(present.get(name), list))
    return {name: (was.get(name), present.get(name)) for name in differing}


def shown(differing: Mapping[str, tuple[Any, Any]], most: int = _SHOWN) -> str:
    """The first of some differences, for a message about what was saved."""
    named = [f"{name} is {was!r}, not {present!r}" for name, (was, present) in differing.items()]
    return "; ".join(named[:most]) + (f"; and {len(named) - most} more" if len(named) > most else "")


def check_settings(before: Mapping[str, Any], now: Mapping[str, Any], allowed: Collection[str]) -> None:
    """Compare what decides how a run learns with what it was when the run was last saved.

    Args:
        before, now: nested JSON values.
        allowed: dotted names, also of sections, of what may differ; what does is logged by the first rank.

    Raises:
        BadInput: something else differs.
    """
    differing = differences(before, now)
    sections = tuple(f"{name}." for name in allowed)
    if refused := {name: d for name, d in differing.items() if name not in allowed and not name.startswith(sections)}:
        raise BadInput(
            f"the saved run has other settings: {shown(refused, len(refused))}; go on with those, allow the change "
            f"with resume_changes=[{', '.join(refused)}], or give the run another out folder"
        )
    if differing and dist.get_rank() == 0:
        changes = [f"{name} {was!r} -> {present!r}" for name, (was, present) in differing.items()]
        log.warning("from here on with other settings: %s", "; ".join(changes))


def _tensors(model: LongVideoModel, optimizer: Optimizer) -> dict[str, Tensor]:
    """What is learned and AdamW's state of it, by name; states that are not there yet are made, as zeros."""
    check_optimizer(optimizer)
    tensors: dict[str, Tensor] = {}
    for name, parameter in trained_parameters(model).items():
        state = optimizer.state[parameter]
        if not state:
            place = parameter.device if optimizer.defaults.get("fused") else torch.device("cpu")
            state["step"] = torch.zeros((), dtype=torch.float32, device=place)
            state |= {moment: torch.zeros_like(parameter) for moment in _MOMENTS}
        tensors[f"parameters.{name}"] = parameter.detach()
        tensors |= {f"{part}.{name}": state[part] for part in _STATES}
    return tensors


def _chance() -> dict[str, Tensor]:
    """This rank's random number generators. Nothing in training draws from them, unless a model's own code does."""
    rank = dist.get_rank()
    states = {f"chance.cpu.{rank}": torch.get_rng_state()}
    if torch.cuda.is_available():
        states[f"chance.cuda.{rank}"] = torch.cuda.get_rng_state()
    return states


def _set_chance(states: Mapping[str, Tensor]) -> None:
    for name, state in states.items():
        (torch.set_rng_state if ".cpu." in name else torch.cuda.set_rng_state)(state)


def _check_config(stored: Mapping[str, Any], present: Mapping[str, Any], path: Path) -> None:
    if differing := differences(stored, present):
        raise BadInput(
            f"checkpoint {path} is of another model: {shown(differing)}; give the run another out folder, or the model "
            f"that it began with"
        )


def _check_tensors(wanted: Mapping[str, tuple[int, ...]], stored: Mapping[str, Any], path: Path) -> None:
    found = {name: tuple(entry.size) for name, entry in stored.items() if not name.startswith("chance.")}
    differences = [f"{name} is not in it" for name in wanted if name not in found]
    differences += [f"{name} is not learned here" for name in found if name not in wanted]
    differences += [
        f"{name} has shape {found[name]}, not {shape}"
        for name, shape in wanted.items()
        if name in found and found[name] != shape
    ]
    if differences:
        raise BadInput(
            f"checkpoint {path} does not fit what is learned here ({len(differences)} tensors differ): "
            f"{'; '.join(differences[:_SHOWN])}; give the run another out folder, or train the same parts"
        )
