"""Supervised training of a recipe, as a command or as an object to iterate over.

    torchrun --nproc-per-node 8 -m trainer_plugin.sft cot_sft out=/runs/cot model.path=/models/qwen videos.release=URL

    with Training(load_recipe("cot_sft", [...])) as training:
        for metrics in training:
            ...
        training.export(folder)

A run that is started again resumes from its last checkpoint. On Ctrl-C, SIGTERM or SIGHUP it writes a checkpoint and
ends. Samples that cannot be used are skipped, counted and reported. A loss that is not finite ends the run with an
error that names the samples, and the last checkpoint is kept.
"""

from __future__ import annotations

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until main() handles it, to avoid a traceback during the imports

import argparse
import logging
import math
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from trainer_plugin.command import Interrupts, run
from trainer_plugin.data.features import FeatureFolder
from trainer_plugin.data.packing import RowStream, fraction_done
from trainer_plugin.data.texts import TextRowStream
from trainer_plugin.distributed.mesh import init_distributed, parallelize, run_on_all_ranks, run_on_rank_zero
from trainer_plugin.recipe import Export, Optimizer, Recipe, Schedule, load_recipe, recipe_names
from trainer_plugin.training.checkpoint import CheckpointFolder, RunState, check_settings, lock_run_folder
from trainer_plugin.training.export import export_model
from trainer_plugin.training.flops import TowerCosts, peak_flops, training_flops
from trainer_plugin.training.from_recipe import open_model, open_samples
from trainer_plugin.training.memory_check import check_memory
from trainer_plugin.training.metrics import (
    MetricsLog,
    Progress,
    StepMetrics,
    by_reason,
    check_loggers,
    console_log,
    peak_memory,
)
from trainer_plugin.training.model_identity import model_values
from trainer_plugin.training.optimizer_step import BadStep, NotFinite, adamw, cross_entropy, train_step
from trainer_plugin.training.step_feed import Step, StepFeed, check_features
from trainer_plugin.training.weights import read_config, read_family, read_tokenizer

log = logging.getLogger(__name__)

_RANKS_SHOWN = 3
"""Maximum number of ranks whose samples an error names."""


class Training:
    """One run of a recipe, on this rank.

    Use it as a context manager and iterate over it once. Each iteration is one optimizer step and yields its metrics.
    """

    def __init__(self, recipe: Recipe) -> None:
        """Initialize torch.distributed, load the model, and resume from the last checkpoint in `recipe.out`, if any.

        Args:
            recipe: the recipe to train.

        Raises:
            BadInput: on every rank, if the model, the data, the checkpoint or the number of processes does not fit, or
                if `recipe.out` is in use by another run or not on a disk that all ranks share.
        """
        self.recipe = recipe
        self.step = 0
        """Number of completed optimizer steps."""
        self.tokens = 0
        """Number of tokens in all rows so far."""
        self._saved = -1
        self._interrupts: Interrupts | None = None
        self._ended_by = 0
        patience = timedelta(minutes=recipe.parallel.timeout_minutes)
        device = init_distributed(patience)
        with ExitStack() as resources:
            resources.enter_context(console_log())
            self._progress = Progress("reading the data and the model")
            resources.callback(self._progress.close)
            run_on_rank_zero(lambda: check_loggers(recipe.wandb_project))
            config = run_on_all_ranks(lambda: read_config(recipe.model))
            self.parallel = parallelize(recipe.parallel.sp, config.get_text_config(), device, timeout=patience)
            rows_per_step = recipe.micro_steps(self.parallel.dp)
            check_memory(config, recipe, self.parallel)
            self.family = run_on_all_ranks(lambda: read_family(recipe.model, config))
            self.tokenizer = run_on_all_ranks(lambda: read_tokenizer(recipe.model))
            self.row_stream = run_on_all_ranks(self._open_row_stream)
            resources.enter_context(lock_run_folder(Path(recipe.out)))
            self.checkpoints = CheckpointFolder(Path(recipe.out) / "checkpoints", recipe.checkpoints.keep)
            self.checkpoints.remove_partial()
            self.model = open_model(recipe, config, self.parallel)
            check_features(self.row_stream, self.model)
            self._tower_costs = TowerCosts.of(self.model.model, self.family)
            settings = recipe.optimizer
            self.optimizer = adamw(self.model, settings.learning_rate, settings.weight_decay, settings.betas)
            workers = recipe.videos.workers if recipe.videos else 0
            self.feed = StepFeed(
                self.row_stream,
                self.family,
                self.parallel,
                self.model.costs,
                rows_per_step=rows_per_step,
                workers=workers,
            )
            resources.enter_context(self.feed)
            self._resume()
            self._log = run_on_rank_zero(self._open_log)
            if self._log is not None:
                resources.callback(self._log.close)
            self._resources = resources.pop_all()

    def __enter__(self) -> Training:
        if threading.current_thread() is threading.main_thread():
            self._interrupts = Interrupts()
            self._resources.callback(self._interrupts.close)
        return self

    def __exit__(self, *exception: object) -> None:
        self._resources.close()

    def __iter__(self) -> Iterator[StepMetrics]:
        try:
            yield from self._run_steps()
            if self._saved != self.step:
                self.save()
        finally:  # the caller handles signals in what follows, such as an export
            if self._interrupts is not None:
                self._interrupts.close()

    def _run_steps(self) -> Iterator[StepMetrics]:
        first, share_before = time.perf_counter(), self.share_done
        began = first
        while not self._ended_by and (self.recipe.steps is None or self.step < self.recipe.steps):
            self._progress.update(f"in step {self.step + 1}")
            step = self.feed.next_step(self.step + 1, self._check_interrupts)
            if step is None:
                break
            metrics = self._train(step, began)
            self.step = metrics.step
            done = self.share_done
            total_seconds = (time.perf_counter() - first) / max(done - share_before, 1e-9)
            metrics = metrics.model_copy(update={"share_done": done, "seconds_left": total_seconds * (1 - done)})
            run_on_rank_zero(partial(self._record, metrics))
            self._progress.update(None)
            yield metrics
            if self._ended_by or self.step % self.recipe.checkpoints.every_steps == 0:
                self.save()
            began = time.perf_counter()

    @property
    def share_done(self) -> float:
        """Completed share of the training, from 0 to 1."""
        return self._share_done_at(self.feed.position)

    @property
    def interrupted(self) -> bool:
        """Whether a rank received a signal to end before the training was complete."""
        return self._ended_by != 0

    @property
    def ended_by(self) -> int:
        """Number of the signal that any rank received to end the run; 0 if there was none."""
        return self._ended_by

    @property
    def skipped(self) -> dict[str, str]:
        """The reason by key of each sample that was skipped and has not been used since."""
        return self.feed.skipped

    def save(self) -> Path:
        """Write a checkpoint and return its folder. Every rank must call it, between steps.

        Raises:
            FullDisk, CheckpointException, OSError, RuntimeError: on every rank, if some rank cannot write. The previous
                checkpoint is kept.
        """
        self._progress.update(f"writing the checkpoint of step {self.step}")
        state = RunState(
            step=self.step,
            tokens=self.tokens,
            data=self.feed.positions(),
            skipped=self.feed.unusable,
            model=model_values(self.model),
            recipe=self.recipe.model_dump(mode="json"),
        )
        saved = self.checkpoints.save(self.model, self.optimizer, state)
        self._saved = self.step
        self._progress.update(None)
        if self.parallel.rank == 0:
            log.info("checkpoint written to %s", saved)
        return saved

    def export(self, folder: Path | None = None) -> None:
        """Export the model to a Hugging Face folder, `{out}/export` by default. Every rank must call it.

        Raises:
            BadInput: the recipe's `export` is `none`.
        """
        model = self.recipe.model
        source = model.path or model.tokenizer
        from_elsewhere = source is None or source != (model.tokenizer or source) or model.chat_template is not None
        folder = folder or Path(self.recipe.out) / "export"
        self._progress.update(f"exporting to {folder}")
        export_model(
            self.model,
            folder,
            kind=self.recipe.export,
            source=source,
            tokenizer=self.tokenizer if from_elsewhere else None,
            dtype=getattr(torch, self.recipe.precision),
        )
        self._progress.update(None)
        if self.parallel.rank == 0:
            log.info("exported to %s", folder)

    def _open_row_stream(self) -> RowStream | TextRowStream:
        recipe, rank, ranks = self.recipe, self.parallel.dp_rank, self.parallel.dp
        if recipe.texts is not None:
            return TextRowStream(
                recipe.texts.files,
                self.tokenizer,
                recipe.row_tokens,
                lambda input_ids: self.family.positions(input_ids, []),
                seed=recipe.seed,
                rank=rank,
                ranks=ranks,
                column=recipe.texts.column,
            )
        assert recipe.videos is not None
        stored = recipe.videos.features
        features = FeatureFolder(stored.url, stored.tower) if stored else None
        samples = open_samples(recipe.videos, self.family, self.tokenizer, features)
        return RowStream(samples, recipe.row_tokens, seed=recipe.seed, rank=rank, ranks=ranks, epochs=recipe.epochs)

    def _share_done_at(self, position: dict[str, Any]) -> float:
        if self.recipe.steps is not None:
            return self.step / self.recipe.steps
        assert isinstance(self.row_stream, RowStream) and self.recipe.epochs is not None
        return fraction_done(position, len(self.row_stream.samples), self.recipe.epochs)

    def _train(self, step: Step, began: float) -> StepMetrics:
        """Run one optimizer step and return its metrics.

        Args:
            step: the rows of the step.
            began: time when the step began, from `time.perf_counter`.

        Raises:
            BadStep: on every rank, if the loss or the gradient norm is not finite.
        """
        # The rate at the middle of the step, so that it is above 0 in the first step and, with a decay to 0, in the
        # last.
        before = self._share_done_at(step.position_before)
        after = before + 1 / self.recipe.steps if self.recipe.steps else self.share_done
        rate = learning_rate(self.recipe.optimizer, (before + after) / 2)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        limit = self.recipe.optimizer.max_grad_norm
        try:
            loss = cross_entropy(step.supervised_tokens)
            result = train_step(self.model, self.optimizer, step.rank_inputs(), loss, max_norm=limit)
        except NotFinite as error:
            raise self._bad_step(error, step) from error
        self.tokens += step.tokens
        largest = [time.perf_counter() - began, step.data_seconds, peak_memory(self.parallel.device), self._signal]
        seconds, data_seconds, memory, ended_by = _all_reduce(largest, dist.ReduceOp.MAX)
        self._ended_by = int(ended_by)
        devices = self.parallel.world_size
        return StepMetrics(
            step=self.step + 1,
            epoch=step.epoch if self.recipe.videos else None,
            loss=result.loss,
            grad_norm=result.grad_norm,
            learning_rate=rate,
            tokens=step.tokens,
            supervised_tokens=step.supervised_tokens,
            samples=step.samples,
            total_tokens=self.tokens,
            seconds=seconds,
            data_seconds=data_seconds,
            tokens_per_second=step.tokens / seconds,
            tokens_per_second_per_device=step.tokens / seconds / devices,
            mfu=self._mfu(step, seconds),
            memory_bytes=int(memory),
            skipped=by_reason(self.skipped),
            steps=self.recipe.steps,
        )

    def _mfu(self, step: Step, seconds: float) -> float | None:
        """Model FLOPs utilization of a step; None where the device's peak is unknown. Every rank must call it."""
        peak, trained = peak_flops(self.parallel.device, self.recipe.peak_tflops), self.recipe.trained.language_model
        plans = [row.plan for row in step.counted]
        own = training_flops(plans, self.model.costs, self._tower_costs, weights_trainable=trained)
        [flops] = _all_reduce([own], dist.ReduceOp.SUM)
        return None if peak is None else flops / seconds / self.parallel.world_size / peak

    def _bad_step(self, error: NotFinite, step: Step) -> BadStep:
        """Create the error for a step that is not finite, the same on every rank. Every rank must call it."""
        saved = run_on_all_ranks(self.checkpoints.latest)
        checkpoint = f"the last checkpoint is {saved}" if saved else "there is no checkpoint yet"
        found: list[tuple[bool, str]] = [(False, "")] * self.parallel.world_size
        dist.all_gather_object(found, (bool(error.rows), step.describe_samples(error)))
        of_rows = [samples for own, samples in found if own]
        # Ranks that share a row name the same samples.
        named = list(dict.fromkeys(of_rows or [samples for _, samples in found]))
        return BadStep(
            f"step {self.step + 1}: {error}; the step was not applied, and {checkpoint}; lower the learning rate, "
            f"or check the {'; '.join(named[:_RANKS_SHOWN])}"
        )

    def _resume(self) -> None:
        path = self.checkpoints.latest_complete()
        if path is None:
            return
        state = self.checkpoints.load(path, self.model, self.optimizer)
        settings = self.recipe.settings()
        saved = {name: state.recipe[name] for name in settings if name in state.recipe}

        def resume_feed() -> None:
            check_settings(saved, settings, self.recipe.resume_changes)
            self.feed.resume(state.data, state.skipped)

        run_on_all_ranks(resume_feed)
        self.step, self.tokens = state.step, state.tokens
        self._saved = self.step
        if self.parallel.rank == 0:
            log.info("resuming from %s: %d steps, %d tokens", path, self.step, self.tokens)

    def _open_log(self) -> MetricsLog:
        opened = MetricsLog(
            Path(self.recipe.out),
            self.recipe.model_dump(mode="json"),
            step=self.step,
            wandb_project=self.recipe.wandb_project,
        )
        log.info("%d ranks on %s: %s", self.parallel.world_size, self.parallel.device.type, self.parallel.reason)
        return opened

    def _record(self, metrics: StepMetrics) -> None:
        assert self._log is not None
        self._log.write(metrics)

    def _check_interrupts(self) -> bool:
        """Whether any rank received a signal to end the run. Every rank must call it."""
        self._ended_by = int(_all_reduce([self._signal], dist.ReduceOp.MAX)[0])
        return self.interrupted

    @property
    def _signal(self) -> float:
        """Number of the signal that this rank alone received; 0 if there was none."""
        return float(self._interrupts.received if self._interrupts else 0)


def _all_reduce(numbers: list[float], reduction: dist.ReduceOp.RedOpType) -> list[float]:
    """All-reduce each number with the given reduction, in float64."""
    tensor = torch.tensor(numbers, dtype=torch.float64)
    dist.all_reduce(tensor, reduction)
    return tensor.tolist()


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


def train(recipe: Recipe) -> int:
    """Run all steps and write checkpoints and the export, unless a signal ends the run before.

    Returns:
        The number of the signal that ended the run; 0 if it is complete.
    """
    with Training(recipe) as training:
        for _ in training:
            pass
        if training.interrupted:
            name = signal.Signals(training.ended_by).name
            if training.parallel.rank == 0:
                log.warning("stopped after step %d by %s; run it again to resume", training.step, name)
        elif recipe.export is not Export.NONE:
            training.export()
        return training.ended_by


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Returns the exit status; docs/trainer.md lists them."""
    parser = argparse.ArgumentParser(prog="trainer_plugin.sft", description="Supervised training of a recipe.")
    parser.add_argument("recipe", help=f"a .yaml file, or one of {', '.join(recipe_names())}")
    parser.add_argument("settings", nargs="*", metavar="section.field=value", help="override values of the recipe")
    given = parser.parse_args(arguments)
    return run(
        lambda: train(load_recipe(given.recipe, given.settings)),
        exit_message="there was nothing to save; run it again to resume from its last checkpoint, if any",
    )


if __name__ == "__main__":
    sys.exit(main())
