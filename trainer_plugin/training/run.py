"""The parts of a run that do not depend on what is trained: ranks, model, optimizer, checkpoints, log and signals.

A run is opened in two phases. After `Run(recipe)` its data can be opened and checked; `load` then reads the model,
which takes longer. A run that is started again resumes from its last checkpoint. On Ctrl-C, SIGTERM or SIGHUP it ends
after the step in progress.
"""

from __future__ import annotations

import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist

from schemas.errors import BadInput
from trainer_plugin.command import Interrupts
from trainer_plugin.distributed.mesh import init_distributed, parallelize, run_on_all_ranks, run_on_rank_zero
from trainer_plugin.recipe import Export, Optimizer, RunSettings, Schedule
from trainer_plugin.training.checkpoint import CheckpointFolder, RunState, check_settings, lock_run_folder
from trainer_plugin.training.export import export_model
from trainer_plugin.training.from_recipe import open_model
from trainer_plugin.training.memory_check import check_memory
from trainer_plugin.training.metrics import Metrics, MetricsLog, Progress, check_loggers, console_log
from trainer_plugin.training.model_identity import model_values
from trainer_plugin.training.optimizer_step import BadStep, NotFinite, adamw
from trainer_plugin.training.weights import read_config, read_family, read_tokenizer

log = logging.getLogger(__name__)

_RANKS_SHOWN = 3
"""Maximum number of ranks whose samples an error names."""


class Run:
    """One run of a recipe, on this rank. Every rank must call every method."""

    def __init__(self, recipe: RunSettings) -> None:
        """Initialize torch.distributed, and read the model's configuration and tokenizer.

        Raises:
            BadInput: on every rank, if a logger, the model or the number of processes does not fit.
        """
        self.recipe = recipe
        self.step = 0
        """Number of completed steps."""
        self.tokens = 0
        """Number of tokens in all rows so far."""
        self.ended_by = 0
        """Number of the signal that any rank received to end the run; 0 if there was none."""
        self._saved = -1
        self._interrupts: Interrupts | None = None
        self._log: MetricsLog | None = None
        patience = timedelta(minutes=recipe.parallel.timeout_minutes)
        device = init_distributed(patience)
        with ExitStack() as resources:
            resources.enter_context(console_log())
            self.progress = Progress("reading the data and the model")
            resources.callback(self.progress.close)
            run_on_rank_zero(lambda: check_loggers(recipe.wandb_project))
            self.config = run_on_all_ranks(lambda: read_config(recipe.model))
            self.parallel = parallelize(recipe.parallel.sp, self.config.get_text_config(), device, timeout=patience)
            self.family = run_on_all_ranks(lambda: read_family(recipe.model, self.config))
            self.tokenizer = run_on_all_ranks(lambda: read_tokenizer(recipe.model))
            self.resources = resources.pop_all()
            """Closed at the end of the run."""

    def load(self, rows_per_step: int | None) -> None:
        """Lock the run's folder, and load the model and its optimizer.

        Args:
            rows_per_step: number of each data-parallel rank's rows in a step; None if it varies.

        Raises:
            BadInput: on every rank, if the model does not fit the devices, its weights cannot be used, or `recipe.out`
                is in use by another run or not on a disk that all ranks share.
        """
        recipe = self.recipe
        check_memory(self.config, recipe, self.parallel, rows_per_step)
        self.resources.enter_context(lock_run_folder(Path(recipe.out)))
        self.checkpoints = CheckpointFolder(Path(recipe.out) / "checkpoints", recipe.checkpoints.keep)
        self.checkpoints.remove_partial()
        self.model = open_model(recipe, self.config, self.parallel)
        if self.parallel.device.type == "cuda" and self.model.options.compile:
            self.model.warm_up()
        settings = recipe.optimizer
        self.optimizer = adamw(self.model, settings.learning_rate, settings.weight_decay, settings.betas)

    def resume(self, restore: Callable[[RunState], None]) -> None:
        """Continue from the last checkpoint, if there is one, and open the log.

        Args:
            restore: sets the position in the data to that of a checkpoint.

        Raises:
            BadInput: on every rank, if the checkpoint is of another model, another kind of run or other settings, or as
                `restore`.
        """
        path = self.checkpoints.latest_complete()
        if path is not None:
            state = self.checkpoints.load(path, self.model, self.optimizer)
            settings = self.recipe.settings()
            saved = {name: state.recipe[name] for name in settings if name in state.recipe}

            def check_and_restore() -> None:
                if state.kind != (kind := self.recipe.folder):
                    raise BadInput(
                        f"{path} is a checkpoint of a run of {state.kind}, not of {kind}; give this run another out "
                        f"folder, and set model.path to that run's export to begin with its weights"
                    )
                check_settings(saved, settings, self.recipe.resume_changes)
                restore(state)

            run_on_all_ranks(check_and_restore)
            self.step, self.tokens = state.step, state.tokens
            self._saved = self.step
            if self.parallel.rank == 0:
                log.info("resuming from %s: %d steps, %d tokens", path, self.step, self.tokens)
        self._log = run_on_rank_zero(self._open_log)
        if self._log is not None:
            self.resources.callback(self._log.close)

    def _open_log(self) -> MetricsLog:
        recipe = self.recipe
        opened = MetricsLog(
            Path(recipe.out), recipe.model_dump(mode="json"), step=self.step, wandb_project=recipe.wandb_project
        )
        log.info("%d ranks on %s: %s", self.parallel.world_size, self.parallel.device.type, self.parallel.reason)
        return opened

    def record(self, metrics: Metrics) -> None:
        """Log the metrics of a step, which is now complete."""
        self.step = metrics.step
        run_on_rank_zero(lambda: self._log.write(metrics) if self._log else None)
        self.progress.update(None)

    def record_scalars(self, numbers: Mapping[str, float]) -> None:
        """Log numbers in TensorBoard and W&B at the last step."""
        run_on_rank_zero(lambda: self._log.write_scalars(self.step, numbers) if self._log else None)

    def save(self, data: tuple[dict[str, Any], ...], skipped: Mapping[str, str]) -> Path:
        """Write a checkpoint and return its folder.

        Args:
            data, skipped: as in `RunState`.

        Raises:
            FullDisk, CheckpointException, OSError, RuntimeError: on every rank, if some rank cannot write. The previous
                checkpoint is kept.
        """
        self.progress.update(f"writing the checkpoint of step {self.step}")
        state = RunState(
            step=self.step,
            tokens=self.tokens,
            data=data,
            skipped=dict(skipped),
            model=model_values(self.model),
            recipe=self.recipe.model_dump(mode="json"),
            kind=self.recipe.folder,
        )
        saved = self.checkpoints.save(self.model, self.optimizer, state)
        self._saved = self.step
        self.progress.update(None)
        if self.parallel.rank == 0:
            log.info("checkpoint written to %s", saved)
        return saved

    @property
    def is_saved(self) -> bool:
        """Whether the last step is in a checkpoint."""
        return self._saved == self.step

    @property
    def must_save(self) -> bool:
        """Whether a checkpoint is due after the last step, and the caller has not saved it already."""
        is_due = self.interrupted or self.step % self.recipe.checkpoints.every_steps == 0
        return is_due and not self.is_saved

    def export(self, folder: Path | None = None) -> None:
        """Export the model to a Hugging Face folder, `{out}/export` by default.

        Raises:
            BadInput: the recipe's `export` is `none`.
        """
        model = self.recipe.model
        source = model.path or model.tokenizer
        from_elsewhere = source is None or source != (model.tokenizer or source) or model.chat_template is not None
        folder = folder or Path(self.recipe.out) / "export"
        self.progress.update(f"exporting to {folder}")
        export_model(
            self.model,
            folder,
            kind=self.recipe.export,
            source=source,
            tokenizer=self.tokenizer if from_elsewhere else None,
            dtype=getattr(torch, self.recipe.precision),
        )
        self.progress.update(None)
        if self.parallel.rank == 0:
            log.info("exported to %s", folder)

    def set_learning_rate(self, share: float) -> float:
        """Set the optimizer's learning rate to that after a share of the training, from 0 to 1, and return it."""
        rate = learning_rate(self.recipe.optimizer, share)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def describe_bad_step(self, error: NotFinite, samples: str) -> BadStep:
        """The error for a step that is not finite, the same on every rank.

        Args:
            samples: description of the samples of this rank's rows.
        """
        found: list[tuple[bool, str]] = [(False, "")] * self.parallel.world_size
        dist.all_gather_object(found, (bool(error.rows), samples))
        of_rows = [samples for own, samples in found if own]
        # Ranks that share a row name the same samples.
        named = list(dict.fromkeys(of_rows or [samples for _, samples in found]))
        return BadStep(
            f"step {self.step + 1}: {error}; the update was not applied, and {self.describe_checkpoint()}; lower the "
            f"learning rate, or check the {'; '.join(named[:_RANKS_SHOWN])}"
        )

    def describe_checkpoint(self) -> str:
        """The last checkpoint, for an error that ends the run."""
        saved = run_on_all_ranks(self.checkpoints.latest)
        return f"the last checkpoint is {saved}" if saved else "there is no checkpoint yet"

    @property
    def interrupted(self) -> bool:
        """Whether a rank received a signal to end before the training was complete."""
        return self.ended_by != 0

    def handle_interrupts(self) -> None:
        """Record signals from now on, if this is the main thread, until `release_interrupts`."""
        if threading.current_thread() is threading.main_thread():
            self._interrupts = Interrupts()
            self.resources.callback(self._interrupts.close)

    def release_interrupts(self) -> None:
        """Let signals end the process again."""
        if self._interrupts is not None:
            self._interrupts.close()

    def check_interrupts(self) -> bool:
        """Whether any rank received a signal to end the run."""
        self.all_reduce_max()
        return self.interrupted

    def all_reduce_max(self, *numbers: float) -> list[float]:
        """All-reduce numbers to their maxima over all ranks, and with them the signals that ranks received."""
        received = float(self._interrupts.received if self._interrupts else 0)
        tensor = torch.tensor([*numbers, received], dtype=torch.float64)
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
        *found, ended_by = tensor.tolist()
        self.ended_by = int(ended_by)
        return found


class _Training(Protocol):
    """A run that yields the metrics of its steps: `Training` or `GrpoTraining`."""

    run: Run

    def __iter__(self) -> Iterator[Metrics]: ...

    def export(self) -> None: ...


def run_to_end(training: _Training) -> int:
    """Run all steps and write the export, unless a signal ends the run before. Every rank must call it.

    Returns:
        The number of the signal that ended the run; 0 if it is complete.
    """
    for _ in training:
        pass
    run = training.run
    if not run.interrupted:
        if run.recipe.export is not Export.NONE:
            training.export()
    elif run.parallel.rank == 0:
        name = signal.Signals(run.ended_by).name
        log.warning("stopped after step %d by %s; run it again to resume", run.step, name)
    return run.ended_by


class Clock:
    """Estimates the time left of a run from its speed since it was last started."""

    def __init__(self, share_done: float) -> None:
        self._began = time.perf_counter()
        self._share_before = share_done

    def seconds_left(self, share_done: float) -> float:
        """Seconds left after a share of the training, from 0 to 1."""
        seconds = time.perf_counter() - self._began
        return seconds / max(share_done - self._share_before, 1e-9) * (1 - share_done)


def learning_rate(optimizer: Optimizer, share: float) -> float:
    """The learning rate after a share of the training: linear warm-up, then constant or a half cosine to 0.

    Args:
        optimizer: the recipe's optimizer settings.
        share: completed share of the training, from 0 to 1.
    """
    if share < optimizer.warmup:
        return optimizer.learning_rate * share / optimizer.warmup
    if optimizer.schedule is Schedule.CONSTANT:
        return optimizer.learning_rate
    left = (share - optimizer.warmup) / max(1 - optimizer.warmup, 1e-9)
    return optimizer.learning_rate * 0.5 * (1 + math.cos(math.pi * min(left, 1.0)))
