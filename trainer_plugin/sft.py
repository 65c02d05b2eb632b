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
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from trainer_plugin.command import run
from trainer_plugin.data.packing import RowStream, fraction_done
from trainer_plugin.data.texts import TextRowStream
from trainer_plugin.distributed.mesh import run_on_all_ranks
from trainer_plugin.evaluation.during_training import PeriodicEvaluation
from trainer_plugin.recipe import Recipe, load_recipe, recipe_names
from trainer_plugin.training.flops import TowerCosts, peak_flops, training_flops
from trainer_plugin.training.from_recipe import open_samples
from trainer_plugin.training.metrics import StepMetrics, by_reason, peak_memory
from trainer_plugin.training.optimizer_step import NotFinite, cross_entropy, train_step
from trainer_plugin.training.run import Clock, Run, run_to_end
from trainer_plugin.training.step_feed import Step, StepFeed, check_features


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
        self.run = Run(recipe)
        with self.run.resources as resources:
            self.parallel, self.family, self.tokenizer = self.run.parallel, self.run.family, self.run.tokenizer
            rows_per_step = recipe.micro_steps(self.parallel.dp)
            self.row_stream = run_on_all_ranks(self._open_row_stream)
            self.evaluations = PeriodicEvaluation(self.run, recipe.videos)
            self.run.load(rows_per_step)
            self.model, self.optimizer = self.run.model, self.run.optimizer
            self.checkpoints = self.run.checkpoints
            check_features(self.row_stream, self.model)
            self._tower_costs = TowerCosts.of(self.model.model, self.family)
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
            self.run.resume(lambda state: self.feed.resume(state.data, state.skipped))
            self.run.resources = resources.pop_all()

    def __enter__(self) -> Training:
        self.run.handle_interrupts()
        return self

    def __exit__(self, *exception: object) -> None:
        self.run.resources.close()

    def __iter__(self) -> Iterator[StepMetrics]:
        try:
            yield from self._run_steps()
            if not self.run.is_saved:
                self.save()
            self.evaluations.evaluate_if_due(is_last=True)
        finally:  # the caller handles signals in what follows, such as an export
            self.run.release_interrupts()

    def _run_steps(self) -> Iterator[StepMetrics]:
        self.evaluations.evaluate_if_due()
        began, clock = time.perf_counter(), Clock(self.share_done)
        while not self.interrupted and (self.recipe.steps is None or self.step < self.recipe.steps):
            self.run.progress.update(f"in step {self.step + 1}")
            step = self.feed.next_step(self.step + 1, self.run.check_interrupts)
            if step is None:
                break
            metrics = self._train(step, began)
            done = self._share_done_at(self.feed.position, metrics.step)
            metrics = metrics.model_copy(update={"share_done": done, "seconds_left": clock.seconds_left(done)})
            self.run.record(metrics)
            yield metrics
            if self.run.must_save:
                self.save()
            self.evaluations.evaluate_if_due()
            began = time.perf_counter()

    @property
    def step(self) -> int:
        """Number of completed optimizer steps."""
        return self.run.step

    @property
    def tokens(self) -> int:
        """Number of tokens in all rows so far."""
        return self.run.tokens

    @property
    def share_done(self) -> float:
        """Completed share of the training, from 0 to 1."""
        return self._share_done_at(self.feed.position, self.step)

    @property
    def interrupted(self) -> bool:
        """Whether a rank received a signal to end before the training was complete."""
        return self.run.interrupted

    @property
    def ended_by(self) -> int:
        """Number of the signal that any rank received to end the run; 0 if there was none."""
        return self.run.ended_by

    @property
    def skipped(self) -> dict[str, str]:
        """The reason by key of each sample that was skipped and has not been used since."""
        return self.feed.skipped

    def save(self) -> Path:
        """Write a checkpoint and return its folder. Every rank must call it, between steps. Raises as `Run.save`."""
        return self.run.save(self.feed.positions(), self.feed.unusable)

    def export(self, folder: Path | None = None) -> None:
        """Export the model to a Hugging Face folder, `{out}/export` by default. Every rank must call it.

        Raises:
            BadInput: the recipe's `export` is `none`.
        """
        self.run.export(folder)

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
        samples = open_samples(recipe.videos, self.family, self.tokenizer)
        return RowStream(samples, recipe.row_tokens, seed=recipe.seed, rank=rank, ranks=ranks, epochs=recipe.epochs)

    def _share_done_at(self, position: dict[str, Any], step: int) -> float:
        if self.recipe.steps is not None:
            return step / self.recipe.steps
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
        before = self._share_done_at(step.position_before, self.step)
        after = before + 1 / self.recipe.steps if self.recipe.steps else self.share_done
        rate = self.run.set_learning_rate((before + after) / 2)
        limit = self.recipe.optimizer.max_grad_norm
        try:
            loss = cross_entropy(step.supervised_tokens)
            result = train_step(self.model, self.optimizer, step.rank_inputs(), loss, max_norm=limit)
        except NotFinite as error:
            raise self.run.describe_bad_step(error, step.describe_samples(error)) from error
        self.run.tokens += step.tokens
        seconds, data_seconds, memory = self.run.all_reduce_max(
            time.perf_counter() - began, step.data_seconds, peak_memory(self.parallel.device)
        )
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
        flops = torch.tensor(own, dtype=torch.float64)
        dist.all_reduce(flops)
        return None if peak is None else flops.item() / seconds / self.parallel.world_size / peak


def train(recipe: Recipe) -> int:
    """Run all steps and write checkpoints and the export, unless a signal ends the run before.

    Returns:
        The number of the signal that ended the run; 0 if it is complete.
    """
    with Training(recipe) as training:
        return run_to_end(training)


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
