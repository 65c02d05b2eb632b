"""Metrics of a run, step by step: console, JSON Lines, TensorBoard where installed, and W&B where configured.

MFU is the fraction of the device's dense peak that the model's own operations use. It counts the decoder and the head,
with causal attention, and the matrix products of the vision tower. Recomputation in the backward pass is not counted.

`accelerate.tracking` passes all arguments through to the same two packages, so it would add a layer and save no code.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import torch

from schemas.base import Model
from schemas.errors import BadInput
from trainer_plugin.atomic_files import FullDisk, atomic_write_bytes, is_full

log = logging.getLogger(__name__)

LOG_FORMAT = "%(asctime)s %(levelname)s %(message)s"

_QUIET_SECONDS = 60.0
"""Maximum time in seconds without a log line."""


class Metrics(Protocol):
    """Metrics of one step, as `MetricsLog` writes them."""

    @property
    def step(self) -> int:
        """One-based number of the step."""

    def line(self) -> str:
        """The metrics as a line for the console."""

    def numbers(self) -> dict[str, float]:
        """The numbers for TensorBoard and W&B, by name."""

    def model_dump_json(self) -> str:
        """All metrics as JSON."""


class StepMetrics(Model):
    """Metrics of one optimizer step, over all ranks."""

    step: int
    """One-based number of the step."""
    epoch: int | None
    """Zero-based epoch of the last row; None for text data."""
    loss: float
    """Mean over supervised tokens, in nats."""
    grad_norm: float
    """Gradient norm before clipping."""
    learning_rate: float
    tokens: int
    """All tokens of those of the step's rows that have supervised tokens."""
    supervised_tokens: int
    samples: int
    """Number of samples with supervised tokens."""
    total_tokens: int
    """Sum of `tokens` over the run so far."""
    seconds: float
    """Wall time since the end of the last step or checkpoint."""
    data_seconds: float
    """The part of `seconds` in which the slowest rank waited for frames."""
    tokens_per_second: float
    tokens_per_second_per_device: float
    mfu: float | None
    """Model FLOPs utilisation; None where the device's peak is unknown."""
    memory_bytes: int
    """Peak memory of tensors on any device since the start or the last evaluation; on a CPU, the peak size of the
    process."""
    skipped: dict[str, int]
    """Samples skipped so far and not trained on since: counts by reason."""
    steps: int | None = None
    """Number of steps of the whole run; None if the run counts epochs."""
    share_done: float | None = None
    """Fraction of the whole run that is done, from 0 to 1."""
    seconds_left: float | None = None
    """Estimated time left, from the speed since the run was last started."""

    def numbers(self) -> dict[str, float]:
        """All numbers by name, those of `skipped` as `skipped/{reason}`."""
        return flatten_numbers(self)

    def line(self) -> str:
        """The metrics as a line for the console."""
        of = "" if self.steps is None else f" of {self.steps}"
        if self.steps is None and self.share_done is not None:
            of = f" ({self.share_done:.0%})"
        left = "" if self.seconds_left is None else f"  {duration(self.seconds_left)} left"
        mfu = "" if self.mfu is None else f"  mfu {self.mfu:.1%}"
        skipped = f"  skipped {sum(self.skipped.values())}" if self.skipped else ""
        return (
            f"step {self.step}{of}  loss {self.loss:.4f}  grad {self.grad_norm:.3f}  lr {self.learning_rate:.2e}  "
            f"{self.tokens:,} tokens in {self.seconds:.2f} s ({self.data_seconds:.2f} s waiting): "
            f"{self.tokens_per_second:,.0f}/s, {self.tokens_per_second_per_device:,.0f}/s/device{mfu}  "
            f"memory {self.memory_bytes / 2**30:.1f} GiB{skipped}{left}"
        )


def flatten_numbers(values: Iterable[tuple[str, Any]], prefix: str = "") -> dict[str, float]:
    """The numbers of a model or of pairs of name and value, with those of nested ones as `name/nested`."""
    found: dict[str, float] = {}
    for name, value in values:
        if isinstance(value, int | float):
            found[f"{prefix}{name}"] = value
        elif isinstance(value, Model | Mapping):
            found |= flatten_numbers(value.items() if isinstance(value, Mapping) else value, f"{prefix}{name}/")
    return found


def check_loggers(wandb_project: str | None) -> None:
    """Check that metrics can be logged. Call it before a run loads anything.

    Raises:
        BadInput: W&B is configured but not installed, or the package of a logger cannot be imported.
    """
    _tensorboard()
    if wandb_project is not None:
        _wandb()


class Progress:
    """Logs what a run does whenever that takes longer than a minute, so that a log file shows that the run is alive."""

    def __init__(self, doing: str | None) -> None:
        """
        Args:
            doing: as in `update`.
        """
        self._closed = threading.Event()
        self.update(doing)
        threading.Thread(target=self._repeat, daemon=True).start()

    def update(self, doing: str | None) -> None:
        """Set what the run does now.

        It is logged once a minute for as long as it lasts. None: nothing to log.
        """
        self._since = self._logged = time.monotonic()
        self._doing = doing

    def close(self) -> None:
        """Stop logging."""
        self._closed.set()

    def _repeat(self) -> None:
        while not self._closed.wait(min(1.0, _QUIET_SECONDS)):
            now = time.monotonic()
            if self._doing is not None and now - self._logged >= _QUIET_SECONDS:
                self._logged = now
                log.info("%s, for %s", self._doing, duration(now - self._since))


@contextmanager
def console_log() -> Iterator[None]:
    """Log to stderr inside the block, if the program has not configured logging.

    Rank 0 logs everything, the other ranks only warnings.
    """
    package = logging.getLogger("trainer_plugin")
    if package.hasHandlers():
        yield
        return
    handler, level = logging.StreamHandler(), package.level
    handler.setFormatter(logging.Formatter(LOG_FORMAT))
    package.addHandler(handler)
    package.setLevel(log_level())
    try:
        yield
    finally:
        package.removeHandler(handler)
        package.setLevel(level)


def log_level() -> int:
    """Log level of this rank: INFO on rank 0, WARNING on the others, so that common messages are logged once."""
    return logging.INFO if os.environ.get("RANK", "0") == "0" else logging.WARNING


def duration(seconds: float) -> str:
    """Human-readable duration: 5 s, 12 min, 3 h 20 min."""
    if round(seconds) < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


class MetricsLog:
    """Writes the metrics of one run. Only rank 0 has one."""

    def __init__(
        self, folder: Path, recipe: Mapping[str, Any], *, step: int = 0, wandb_project: str | None = None
    ) -> None:
        """
        Args:
            recipe: values recorded as the configuration of the W&B run.
            step: number of the last step to keep. Later entries, which a run wrote after the checkpoint that it resumes
                from, are dropped.

        Raises:
            BadInput: as `check_loggers`; the folder is not writable; or W&B rejects the run.
        """
        self._file = folder / "metrics.jsonl"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._drop_after(step)
            self._board = self._open_board(folder / "tensorboard", step)
        except OSError as error:
            raise BadInput(f"metrics cannot be written to {folder}: {error}") from error
        self._wandb = None if wandb_project is None else self._open_wandb_run(folder, wandb_project, recipe)

    def write(self, metrics: Metrics) -> None:
        """Record the metrics of one step.

        Raises:
            FullDisk: the disk is full.
        """
        log.info("%s", metrics.line())
        line = metrics.model_dump_json() + "\n"
        try:
            with self._file.open("a") as file:
                file.write(line)
        except OSError as error:
            if is_full(error):
                raise FullDisk(self._file.parent, len(line)) from error
            raise
        self.write_scalars(metrics.step, metrics.numbers())

    def write_scalars(self, step: int, numbers: Mapping[str, float]) -> None:
        """Record numbers of a step in TensorBoard and W&B, and not in metrics.jsonl."""
        if self._board is not None:
            for name, value in numbers.items():
                self._board.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log(dict(numbers), step=step)

    def close(self) -> None:
        """Flush buffered metrics and close the loggers."""
        if self._board is not None:
            self._board.close()
        if self._wandb is not None:
            self._wandb.finish()

    def _open_board(self, folder: Path, step: int) -> Any:
        if (tensorboard := _tensorboard()) is None:
            log.warning("tensorboard is not installed; metrics go to %s alone", self._file)
            return None
        return tensorboard.SummaryWriter(str(folder), purge_step=step + 1)

    def _open_wandb_run(self, folder: Path, project: str, recipe: Mapping[str, Any]) -> Any:
        """The W&B run of this folder.

        A run that is resumed in the folder continues it. Another folder of the same name has its own.
        """
        wandb = _wandb()
        identity = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
        try:
            return wandb.init(
                project=project, id=identity, name=folder.name, dir=str(folder), config=dict(recipe), resume="allow"
            )
        except wandb.Error as error:
            raise BadInput(f"wandb_project {project}: {error}; `wandb login`, or unset wandb_project") from error

    def _drop_after(self, step: int) -> None:
        if not self._file.exists():
            return
        lines = self._file.read_bytes().splitlines(keepends=True)
        steps = [_step_of(line) for line in lines]
        if broken := steps.count(None):
            # A full disk or a kill cuts off the last line; a crash of the host may put zeros in place of lines.
            log.warning("%s: %d incomplete lines dropped", self._file, broken)
        kept = [line for line, found in zip(lines, steps, strict=True) if found is not None and found <= step]
        atomic_write_bytes(self._file, b"".join(kept))


def _step_of(line: bytes) -> int | None:
    """The step of a metrics line; None if the line is incomplete."""
    try:
        return int(json.loads(line)["step"]) if line.endswith(b"\n") else None
    except (ValueError, KeyError, TypeError):
        return None


def peak_memory(device: torch.device) -> int:
    """Peak memory in bytes, as defined by `StepMetrics.memory_bytes`."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def by_reason(skipped: Mapping[str, str]) -> dict[str, int]:
    """Number of samples by reason, from reasons by sample."""
    return dict(Counter(skipped.values()))


def _tensorboard() -> ModuleType | None:
    """TensorBoard's module; None if it is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        return None
    return _import("torch.utils.tensorboard", "repair the package tensorboard, or uninstall it to do without")


def _wandb() -> ModuleType:
    return _import("wandb", "pip install wandb, or unset wandb_project")


def _import(module: str, fix: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except Exception as error:  # whatever a broken package raises
        raise BadInput(f"{module} cannot be imported ({type(error).__name__}: {error}): {fix}") from error
