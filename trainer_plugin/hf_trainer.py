"""A subclass of `transformers.Trainer` with the same plan, attention, sharding and loss as `trainer_plugin.sft`.

Rows come packed (`trainer_plugin.data.packing.RowStream`), so the Trainer's own batch size, collator and samplers are
not used. Its optimizer, schedule, callbacks, logging and checkpoints are. `gradient_accumulation_steps` counts rows of
one data-parallel rank. `max_steps` must be set, because the number of rows after packing is unknown.

Checkpoints are written atomically, whenever the run is killed. Resuming is exact and does not decode the rows before
the checkpoint again. A loss or gradient that is not finite ends the run on every rank, with an error that names the
samples.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, IterableDataset
from transformers import PreTrainedTokenizerBase, Trainer, TrainingArguments
from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import (
    PREFIX_CHECKPOINT_DIR,
    IntervalStrategy,
    SaveStrategy,
    TrainOutput,
    rotate_checkpoints,
)
from transformers.training_args import OptimizerNames

from schemas.errors import BadInput
from trainer_plugin.atomic_files import atomic_replace_dir, backup_path
from trainer_plugin.data.row_loader import RowSource
from trainer_plugin.distributed.mesh import broadcast_from_rank_zero, run_on_all_ranks, run_on_rank_zero
from trainer_plugin.model import LongVideoModel, RankInput
from trainer_plugin.training.checkpoint import (
    StagingDir,
    check_optimizer,
    check_settings,
    differences,
    load_tensors,
    lock_run_folder,
    newest_complete,
    record_files,
    save_tensors,
    tensor_bytes,
)
from trainer_plugin.training.export import export_bytes, export_model
from trainer_plugin.training.model_identity import model_values
from trainer_plugin.training.optimizer_step import (
    BadStep,
    NotFinite,
    clip_gradients,
    cross_entropy,
    finite_step,
    gradient_norm,
)
from trainer_plugin.training.step_feed import Step, StepFeed, check_features

log = logging.getLogger(__name__)

_POSITION = "rows.json"
_MODEL = "model.json"
_SCHEDULER = "scheduler.pt"
_TENSORS = "sharded"
_STATE = "trainer_state.json"

SETTINGS = (
    "gradient_accumulation_steps",
    "max_grad_norm",
    "learning_rate",
    "lr_scheduler_type",
    "lr_scheduler_kwargs",
    "warmup_steps",
    "optim",
    "optim_args",
    "weight_decay",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
)
"""Arguments that affect training. Checkpoints hold them, and on resuming only those in `resume_changes` may differ.

`max_steps` is not among them: a run may be extended, and schedules that are functions of the step adapt to it.
"""

_NOT_OPTIMIZER_SETTINGS = ("precision", "row_tokens", "gradient_accumulation_steps", "max_grad_norm")

_ROWS = (
    "rows come packed, of at most row_tokens each; gradient_accumulation_steps is the number of a rank's rows in a step"
)
_OWN_SHARDING = (
    "the model is sharded already (shard_parameters), over the groups of trainer_plugin.distributed.mesh.parallelize"
)
_OWN_LOADER = "LongVideoTrainer loads rows itself; its argument workers is the number of decoder processes"
_COMPILE = "RunOptions.compile does that, by default"
_CHECKPOINTING = "RunOptions.checkpointed_layers is the number of checkpointed layers, by default all"
_OWN_KERNELS = "the plan's own attention and head replace what it would"

REFUSED = {
    "per_device_train_batch_size": _ROWS,
    "auto_find_batch_size": _ROWS,
    "num_train_epochs": "max_steps sets the end of the training, RowStream(epochs=...) that of its rows",
    "include_num_input_tokens_seen": "inputs are plans, not token ids; StepMetrics of trainer_plugin.sft count tokens",
    "average_tokens_across_devices": "the loss is always of all ranks' tokens",
    "train_sampling_strategy": "rows come in the order of RowStream",
    "length_column_name": "rows come in the order of RowStream",
    "data_seed": "the order of rows follows from RowStream(seed=...)",
    "dataloader_drop_last": _OWN_LOADER,
    "dataloader_num_workers": _OWN_LOADER,
    "dataloader_pin_memory": _OWN_LOADER,
    "dataloader_persistent_workers": _OWN_LOADER,
    "dataloader_prefetch_factor": _OWN_LOADER,
    "dataloader_multiprocessing_context": _OWN_LOADER,
    "dataloader_in_order": _OWN_LOADER,
    "gradient_checkpointing_kwargs": _CHECKPOINTING,
    "torch_compile": _COMPILE,
    "torch_compile_backend": _COMPILE,
    "torch_compile_mode": _COMPILE,
    "use_liger_kernel": _OWN_KERNELS,
    "liger_kernel_config": _OWN_KERNELS,
    "use_cache": "training keeps no cache of keys",
    "fp16": "gradients would be clipped as scaled; the model computes in the type that it was built with",
    "label_smoothing_factor": "the loss is that of the labels",
    "neftune_noise_alpha": "embeddings are the model's own",
    "optim_target_modules": "it is of optimizers that cannot step on sharded parameters",
    "fsdp": _OWN_SHARDING,
    "fsdp_config": _OWN_SHARDING,
    "deepspeed": _OWN_SHARDING,
    "parallelism_config": _OWN_SHARDING,
    "accelerator_config": _OWN_SHARDING,
    "ddp_find_unused_parameters": _OWN_SHARDING,
    "ddp_bucket_cap_mb": _OWN_SHARDING,
    "ddp_broadcast_buffers": _OWN_SHARDING,
    "ddp_static_graph": _OWN_SHARDING,
    "ddp_backend": _OWN_SHARDING,
    "ddp_timeout": _OWN_SHARDING,
    "save_on_each_node": "checkpoints are on a disk that all hosts share",
    "enable_jit_checkpoint": "only ranks that get the signal would save, and wait for the others; save every few steps",
    "load_best_model_at_end": "load the best checkpoint's folder instead, as a Hugging Face model",
}
"""Arguments that would be ignored silently or break something, each with the alternative that errors name."""

_OPTIMIZERS = ("adamw_torch", "adamw_torch_fused", "sgd", "adagrad", "rmsprop")
"""Optimizers that support sharded parameters (DTensor): those of torch itself."""


class LongVideoTrainer(Trainer):
    """A Trainer for a sharded `LongVideoModel` and packed rows."""

    def __init__(
        self,
        model: LongVideoModel,
        args: TrainingArguments,
        row_stream: RowSource,
        tokenizer: PreTrainedTokenizerBase,
        *,
        workers: int = 4,
        resume_changes: Sequence[str] = (),
        **options: Any,
    ) -> None:
        """
        Args:
            model: sharded model from `trainer_plugin.training.weights.build_model` or
            `trainer_plugin.model.shard_parameters`.
            args: the Trainer's arguments. `REFUSED` lists those that must keep their default.
            row_stream: this data-parallel rank's rows (`RowStream` or `TextRowStream`).
            tokenizer: tokenizer that is saved with the weights.
            workers: number of processes that decode videos.
            resume_changes: names of settings that may differ from the checkpoint's: "precision", "row_tokens", those in
                `SETTINGS`, and "optimizer" for an optimizer of your own. Model and data may not differ.
            options: further arguments of `transformers.Trainer`, such as callbacks.

        Raises:
            BadInput: `args.max_steps` is not set, `args` has unsupported values, one process sees several GPUs, the
                rows read features of another tower than the model's, or ranks do not save to a disk that all share.
        """
        if args.max_steps <= 0:
            raise BadInput(f"max_steps is {args.max_steps}: set it, because the number of packed rows is unknown")
        _check_arguments(args)
        if args.bf16 and model.compute_dtype != torch.bfloat16:
            raise BadInput(
                f"bf16 is True, but the model was built to compute in {model.compute_dtype}; build it with "
                f"compute=torch.bfloat16, or leave bf16 out"
            )
        if args.gradient_checkpointing and not model.checkpointed_layers:
            raise BadInput(
                "gradient_checkpointing is True, but the model was built with checkpointed_layers=0; build it with "
                "more, or leave gradient_checkpointing out"
            )
        evaluation = IntervalStrategy(args.eval_strategy)
        if (evaluation != IntervalStrategy.NO or args.eval_on_start) and type(self).evaluate is Trainer.evaluate:
            raise BadInput(
                f"eval_strategy is {evaluation.value}, eval_on_start {args.eval_on_start}: there is no evaluation of "
                f"packed rows here; override `evaluate` in a class of your own, or set both to their defaults"
            )
        if args.n_gpu > 1:
            raise BadInput(
                f"one process sees {args.n_gpu} GPUs, which transformers would copy the model to: start one for each "
                f"with torchrun, or set CUDA_VISIBLE_DEVICES"
            )
        check_features(row_stream, model)
        # The model is already sharded, so accelerate must not wrap it again.
        model._is_accelerate_prepared = True  # type: ignore[assignment]
        self.feed = StepFeed(
            row_stream,
            model.family,
            model.parallel,
            model.costs,
            rows_per_step=args.gradient_accumulation_steps,
            workers=workers,
        )
        self.resume_changes = resume_changes
        self.tokenizer = tokenizer
        self._step: Step
        self._losses: list[Tensor] = []
        self._staging: Path | None = None
        self._staging_dir = StagingDir(Path(args.output_dir or "")) if args.save_strategy != SaveStrategy.NO else None
        super().__init__(model=model, args=args, train_dataset=_NoDataset(), **options)
        # For the Trainer, this means that the loss is divided by the step's tokens, not by the number of micro-batches.
        self.model_accepts_loss_kwargs = True

    def train(self, resume_from_checkpoint: str | bool | None = None, *arguments: Any, **options: Any) -> TrainOutput:
        """Train as `Trainer.train` does, with a lock on the output folder if checkpoints are saved.

        With `resume_from_checkpoint=True` it resumes from the last checkpoint that is complete and undamaged.

        Raises:
            BadInput: on every rank, if another run uses the output folder or the checkpoint is damaged, or for the
                reasons given in the methods below.
        """
        with ExitStack() as held:
            if self._staging_dir is not None:
                held.enter_context(lock_run_folder(self._staging_dir.path.parent))
                self._staging_dir.reset()
            if resume_from_checkpoint is True:
                folders = broadcast_from_rank_zero(lambda: _checkpoints(Path(self.args.output_dir or "")))
                resume_from_checkpoint = str(newest_complete(folders)) if folders else True
            elif resume_from_checkpoint:
                newest_complete([Path(resume_from_checkpoint)])
            held.enter_context(self.feed)
            return super().train(resume_from_checkpoint, *arguments, **options)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """An empty loader. The Trainer requires one, but rows come from `get_batch_samples`."""
        return DataLoader(_NoDataset(), batch_size=None)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, RankInput | None]], int]:
        """Return one step's rows and their number of supervised tokens on all ranks.

        Rows are skipped while no rank has a supervised token in them. When the rows end, the remaining ones form a last
        step, and the training stops after it.

        Raises:
            BadInput: on every rank, if all samples of the data have been skipped.
        """
        step = self.feed.next_step(self.state.global_step + 1)
        if step is None:
            if self._long.parallel.rank == 0:
                log.warning("the rows end after step %d of %d", self.state.global_step, self.args.max_steps)
            self.control.should_training_stop = True
            return [], 0
        self._step, self._losses = step, []
        # The Trainer takes an optimizer step only after `num_batches` micro-steps, never after fewer.
        missing = num_batches - len(step.rows)
        return [{"row": row} for row in (*step.rank_inputs(), *[None] * missing)], step.supervised_tokens

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Create the optimizer that `args` describe.

        Raises:
            BadInput: checkpoints are to be saved, but could not hold the optimizer's state.
        """
        optimizer = super().create_optimizer(model)
        if self.args.save_strategy != SaveStrategy.NO and not self.args.save_only_model:
            check_optimizer(optimizer)
        return optimizer

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Compute one row's part of the step's loss on this rank.

        It is the sum over the row's local supervised tokens, divided by `num_items_in_batch`, the number of supervised
        tokens of the step on all ranks.
        """
        row = inputs["row"].to(self._long.parallel.device)
        log_probs, entropies = model(row)
        loss = cross_entropy(max(int(num_items_in_batch or 0), 1))(row, log_probs, entropies)
        return (loss, {"log_probs": log_probs}) if return_outputs else loss

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *arguments: Any) -> Tensor:
        """Run the forward and backward pass of one row.

        Raises:
            BadStep: on every rank, after a step's last row, if the loss or a gradient is not finite.
        """
        if inputs["row"] is None:
            return torch.zeros_like(self._losses[-1])
        loss = super().training_step(model, inputs, *arguments)
        self._losses.append(loss)
        if len(self._losses) == len(self._step.rows):
            self._check_finite()
        # The Trainer reports the mean of the ranks' return values, but these losses are parts of one sum.
        return loss * self._long.parallel.world_size

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Export the model to a Hugging Face folder. Every rank must call it."""
        folder = output_dir or self.args.output_dir
        assert folder is not None
        export_model(self._long, Path(folder), tokenizer=self.tokenizer, dtype=self._long.compute_dtype)

    @property
    def skipped(self) -> dict[str, str]:
        """The reason by key of each skipped sample: those that do not fit, and those not decodable since this run
        began."""
        return self.feed.skipped

    @property
    def _long(self) -> LongVideoModel:
        assert isinstance(self.model, LongVideoModel)
        return self.model

    def _move_model_to_device(self, model: nn.Module, device: torch.device) -> None:
        """No-op: the model is already on its device, or its parameters are in host memory."""

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        return inputs

    def _clip_grad_norm(self, model: nn.Module) -> Tensor:
        norm = gradient_norm(model.parameters())
        clip_gradients(model.parameters(), float(norm), self.args.max_grad_norm)
        return norm

    def _check_finite(self) -> None:
        try:
            finite_step(self._losses, gradient_norm(self._long.parameters()))
        except NotFinite as error:
            samples = self._step.describe_samples(error)
            raise BadStep(
                f"step {self.state.global_step + 1}: {error}; the step was not applied; lower the "
                f"learning rate, or check the {samples}"
            ) from error

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Let the Trainer write the checkpoint to a staging directory, then rename it.

        Raises:
            FullDisk, CheckpointException, OSError, RuntimeError: on every rank, if some rank cannot write.
        """
        out = Path(self._get_output_dir(trial))
        final = out / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        self._staging_dir = self._staging_dir or StagingDir(out)
        staging = self._staging_dir.reset()
        written = staging / final.name
        self._staging = staging
        needed = 0 if self.args.save_only_model else tensor_bytes(self._long, self._adam)
        with self._staging_dir.reserve_space(needed + export_bytes(self._long, self._long.compute_dtype)):
            try:
                run_on_all_ranks(partial(super()._save_checkpoint, model, trial))
            finally:
                self._staging = None
            if self.state.best_model_checkpoint == str(written):
                self.state.best_model_checkpoint = str(final)
            run_on_rank_zero(lambda: self.state.save_to_json(str(written / _STATE)))
            record_files(written)

        def publish() -> None:
            atomic_replace_dir(written, final)
            shutil.rmtree(staging)
            best, limit = self.state.best_model_checkpoint, self.args.save_total_limit
            rotate_checkpoints(str(out), limit, best_model_checkpoint=best, use_mtime=True)
            for backup in out.glob(backup_path(out / f"{PREFIX_CHECKPOINT_DIR}-*").name):
                shutil.rmtree(backup)

        run_on_rank_zero(publish)
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(final))

    def _get_output_dir(self, trial: Any) -> str:
        return super()._get_output_dir(trial) if self._staging is None else str(self._staging)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Push only a renamed checkpoint. The push reads files later, when the staging directory no longer exists."""
        if self._staging is None:
            super()._push_from_checkpoint(checkpoint_folder)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        save_tensors(Path(output_dir) / _TENSORS, self._long, self._adam)
        saved = self.feed.positions()
        values = model_values(self._long)
        groups = _group_values(self._adam)

        def write() -> None:
            (Path(output_dir) / _POSITION).write_text(json.dumps(saved))
            (Path(output_dir) / _MODEL).write_text(json.dumps(values))
            state = {"schedule": self._schedule.state_dict(), "groups": groups, "settings": self._settings()}
            state["scheduler"] = type(self._schedule).__name__
            torch.save(state, Path(output_dir) / _SCHEDULER)

        run_on_rank_zero(write)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Check that the checkpoint is complete, without loading it.

        Weights are loaded later with the optimizer's moments, when the optimizer exists.

        Raises:
            BadInput: on every rank, if parts are missing or ranks see different checkpoints.
            OSError, RuntimeError, ValueError: on every rank, if some rank cannot read the Trainer's state, which the
                Trainer itself reads next.
        """
        parts = (_STATE, _POSITION, _MODEL, _SCHEDULER, _TENSORS)
        folder = Path(resume_from_checkpoint)
        missing = run_on_all_ranks(lambda: [name for name in parts if not (folder / name).exists()])
        found: list[tuple[str, str]] = [("", "")] * dist.get_world_size()
        dist.all_gather_object(found, (str(resume_from_checkpoint), ", ".join(missing)))
        if len(set(found)) > 1 or missing:
            seen = "; ".join(f"{path} (without {lacking or 'nothing'})" for path, lacking in sorted(set(found)))
            raise BadInput(
                f"cannot resume from checkpoint {seen}: it was written with save_only_model, by another Trainer, or "
                f"on a disk that not all hosts share; remove it, or name another one"
            )
        run_on_all_ranks(lambda: TrainerState.load_from_json(str(folder / _STATE)))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        run_on_all_ranks(partial(super()._load_rng_state, checkpoint))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        folder = Path(checkpoint)

        def read() -> tuple[dict[str, Any], dict[str, Any]]:
            state = torch.load(folder / _SCHEDULER)
            if "groups" not in state:  # earlier versions saved only the schedule's state, with the learning rates
                groups = [{"lr": rate} for rate in state["_last_lr"]]
                state = {"schedule": state, "groups": groups, "settings": self._settings()}
            self._check_optimization(state)
            return json.loads((folder / _MODEL).read_text()), state

        def resume_feed() -> None:
            self._load_schedule(state)
            if not self.args.ignore_data_skip:
                self.feed.resume(json.loads((folder / _POSITION).read_text()))

        values, state = run_on_all_ranks(read)
        load_tensors(folder / _TENSORS, self._long, self._adam, values)
        run_on_all_ranks(resume_feed)

    def _check_optimization(self, state: dict[str, Any]) -> None:
        """Compare the arguments, and the caller's own optimizer and schedule, with those of the checkpoint.

        Raises:
            BadInput: they differ, and `resume_changes` does not allow it.
        """
        check_settings(state["settings"], self._settings(), self.resume_changes)
        if not self._changed_arguments(state):  # differing groups then come from the caller's own optimizer
            check_settings(*self._groups(state), self.resume_changes)
        saved, present = state.get("scheduler"), type(self._schedule).__name__  # earlier versions did not save it
        if saved not in (None, present):
            raise BadInput(
                f"the saved run has a {saved} as its schedule, not a {present}, which cannot read its state; use "
                f"that, or begin a new run from the saved model"
            )

    def _changed_arguments(self, state: dict[str, Any]) -> set[str]:
        """Names of the changed arguments from which the optimizer and its schedule are created."""
        return differences(state["settings"], self._settings()).keys() - set(_NOT_OPTIMIZER_SETTINGS)

    def _groups(self, state: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The saved and the present values of the optimizer's groups, without the values that its schedule changes."""
        moved = {"lr"} if isinstance(self._schedule, LambdaLR) else {"lr", "betas", "momentum"}

        def select_fixed(groups: list[dict[str, Any]], others: list[dict[str, Any]]) -> dict[str, Any]:
            named = {
                f"{number}": {name: value for name, value in group.items() if name in other and name not in moved}
                for number, (group, other) in enumerate(zip(groups, others, strict=False))
            }
            return {"optimizer": {**named, "groups": len(groups)}}

        saved, present = state["groups"], _group_values(self._adam)
        return select_fixed(saved, present), select_fixed(present, saved)

    def _load_schedule(self, state: dict[str, Any]) -> None:
        """Load the schedule's state and the values that it has set in the optimizer's groups.

        Examples are learning rates and OneCycleLR's betas. A schedule sets them after a step for the next one, and
        loading its own state does not restore them.

        Raises:
            BadInput: settings of the optimizer have changed, and the schedule cannot adapt to them.
        """
        present, schedule = _group_values(self._adam), self._schedule
        changed = self._changed_arguments(state) or differences(*self._groups(state)).keys()
        schedule.load_state_dict(state["schedule"])
        for group, values in zip(self._adam.param_groups, state["groups"], strict=True):
            group |= values
        if isinstance(schedule, LambdaLR):  # a function of the step, so the present settings apply from here on
            schedule.base_lrs = [values["initial_lr"] for values in present]
            factors = [factor(schedule.last_epoch) for factor in schedule.lr_lambdas]
            schedule._last_lr = [rate * factor for rate, factor in zip(schedule.base_lrs, factors, strict=True)]
            for group, values, rate in zip(self._adam.param_groups, present, schedule._last_lr, strict=True):
                group |= {**values, "lr": rate}
            return
        if changed:
            raise BadInput(
                f"{', '.join(sorted(changed))} cannot change in mid-run with {type(schedule).__name__}, which "
                f"continues from its own state; leave them as they were, or begin a new run from the saved model"
            )

    def _settings(self) -> dict[str, Any]:
        arguments = self.args.to_dict()
        own = {"precision": str(self._long.compute_dtype), "row_tokens": self.feed.row_tokens}
        return own | {name: arguments[name] for name in SETTINGS}

    @property
    def _schedule(self) -> torch.optim.lr_scheduler.LRScheduler:
        assert self.lr_scheduler is not None
        return self.lr_scheduler

    @property
    def _adam(self) -> torch.optim.Optimizer:
        """The optimizer without accelerate's wrapper."""
        return getattr(self.optimizer, "optimizer", self.optimizer)  # type: ignore[return-value]


def _check_arguments(args: TrainingArguments) -> None:
    """Check that all arguments are supported.

    Raises:
        BadInput: an argument in `REFUSED` differs from its default, or the optimizer does not support sharded
            parameters.
    """
    defaults = TrainingArguments(args.output_dir, use_cpu=args.use_cpu)  # some defaults depend on it
    for name, fix in REFUSED.items():
        if (value := getattr(args, name)) != getattr(defaults, name):
            raise BadInput(f"{name} is {value}, but must keep its default: {fix}")
    if (optimizer := OptimizerNames(args.optim)) not in _OPTIMIZERS:
        raise BadInput(
            f"optim is {optimizer.value}, which cannot step on sharded parameters; use {', '.join(_OPTIMIZERS)}, or "
            f"give LongVideoTrainer an optimizer of your own"
        )


def _checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a Trainer's output folder, the latest first.

    If a step was being saved again when a run was killed, the earlier copy comes after the later one.
    """
    found: list[tuple[int, bool, Path]] = []
    for complete, pattern in ((True, PREFIX_CHECKPOINT_DIR), (False, f".{PREFIX_CHECKPOINT_DIR}")):
        for path in folder.glob(f"{pattern}-*"):
            step = path.name.removeprefix(f"{pattern}-").removesuffix("" if complete else ".replaced")
            if step.isdecimal():
                found.append((int(step), complete, path))
    return [path for *_, path in sorted(found, reverse=True)]


def _group_values(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """The values of an optimizer's groups, without their parameters."""
    return [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]


class _NoDataset(IterableDataset[Any]):
    """Empty dataset, because the Trainer requires a dataset even though it gets its own data loader."""

    def __iter__(self) -> Iterator[Any]:
        return iter(())
