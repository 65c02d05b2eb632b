"""Reinforcement learning of a recipe, as a command or as an object to iterate over.

    torchrun --nproc-per-node 8 -m trainer_plugin.grpo recommended out=/runs/rl model.path=/models/qwen
    videos.release=URL

    with GrpoTraining(load_grpo_recipe("recommended", [...])) as training:
        for metrics in training:
            ...
        training.export(folder)

Each step samples groups of responses (`trainer_plugin.rl.collect`) and updates the policy from them
(`trainer_plugin.rl.update`). A run that is started again resumes from its last checkpoint. On Ctrl-C, SIGTERM or SIGHUP
it writes a checkpoint and ends. Questions that cannot be used are skipped, counted and reported.
"""

from __future__ import annotations

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until main() handles it, to avoid a traceback during the imports

import argparse
import math
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from schemas.answer_format import parse_response
from schemas.errors import BadInput
from trainer_plugin.command import run
from trainer_plugin.data.samples import ReleaseDataset
from trainer_plugin.distributed.mesh import run_on_all_ranks, run_on_rank_zero
from trainer_plugin.evaluation.during_training import PeriodicEvaluation
from trainer_plugin.model import LongVideoModel
from trainer_plugin.recipe import recipe_names
from trainer_plugin.rl.advantages import Advantages, compute_advantages
from trainer_plugin.rl.alarms import Alarms, TrainingAlarm
from trainer_plugin.rl.collect import GroupCollector, RewardedGroup
from trainer_plugin.rl.engines import Engine, log_crossover, open_engine
from trainer_plugin.rl.metrics import GrpoMetrics
from trainer_plugin.rl.prompts import PromptStream
from trainer_plugin.rl.recipe import GrpoRecipe, load_grpo_recipe
from trainer_plugin.rl.rewards.base import Reward, load_reward
from trainer_plugin.rl.rewards.run import RewardCalls
from trainer_plugin.rl.rollout import Finish, RolloutEngine, RolloutRequest
from trainer_plugin.rl.rollout_table import RewardValue, RolloutFolder, RolloutRow, choose_status, find_right
from trainer_plugin.rl.update import PolicyUpdate, RolloutBatch, UpdateReport
from trainer_plugin.rl.video_cache import VideoCache
from trainer_plugin.rl.vllm_engine import VllmEngine
from trainer_plugin.training.checkpoint import RunState, check_data
from trainer_plugin.training.from_recipe import open_model, open_samples
from trainer_plugin.training.metrics import by_reason, peak_memory
from trainer_plugin.training.optimizer_step import NotFinite
from trainer_plugin.training.run import Clock, Run, run_to_end
from trainer_plugin.training.step_feed import check_feature_folder
from trainer_plugin.types import FrameRange

_PHASES = ("videos", "rollout", "rewards", "update")
"""Phases of a step, in order. `videos` is the part that does not overlap with sampling."""

_SAMPLES_SHOWN = 8
"""Maximum number of questions that an error names."""


class GrpoTraining:
    """One reinforcement-learning run of a recipe, on this rank.

    Use it as a context manager and iterate over it once. Each iteration is one step, from sampling to updating, and
    yields its metrics.
    """

    def __init__(self, recipe: GrpoRecipe) -> None:
        """Initialize torch.distributed, load the model, and resume from the last checkpoint in `recipe.out`, if any.

        Raises:
            BadInput: on every rank, if the model, the data, a reward, the checkpoint or the number of processes does
                not fit, or if `recipe.out` is in use by another run or not on a disk that all ranks share.
        """
        self.recipe = recipe
        self.run = Run(recipe)
        with self.run.resources as resources:
            self.parallel = self.run.parallel
            functions = run_on_all_ranks(self._load_rewards)
            self.dataset = run_on_all_ranks(self._open_dataset)
            stream = run_on_all_ranks(self._open_stream)
            self.evaluations = PeriodicEvaluation(self.run, recipe.videos)
            self.run.load(None)
            self.model, self.optimizer = self.run.model, self.run.optimizer
            check_feature_folder(self.dataset.features, self.model)
            self.cache = resources.enter_context(VideoCache(self.model, recipe.cache, workers=recipe.videos.workers))
            engine = self._open_engine(resources)
            run_on_rank_zero(partial(log_crossover, engine, recipe.prompt_tokens))
            self.collector = GroupCollector(stream, self.cache, engine, functions, recipe, self.parallel)
            self._updates = PolicyUpdate(
                self.model,
                self.optimizer,
                self.cache.read,
                objective=recipe.objective,
                correction=recipe.correction,
                update=recipe.update,
                row_tokens=recipe.row_tokens,
                temperature=recipe.rollout.temperature,
                max_response_tokens=recipe.rollout.max_tokens,
                max_norm=recipe.optimizer.max_grad_norm,
                reference=self._open_reference(),
            )
            self._alarms = Alarms(recipe.alarms)
            self.rollouts = RolloutFolder(Path(recipe.out))
            self.run.resume(self._restore)
            run_on_rank_zero(partial(self.rollouts.drop_after, self.run.step))
            self.run.resources = resources.pop_all()

    def __enter__(self) -> GrpoTraining:
        self.run.handle_interrupts()
        return self

    def __exit__(self, *exception: object) -> None:
        self.run.resources.close()

    def __iter__(self) -> Iterator[GrpoMetrics]:
        try:
            yield from self._run_steps()
            if not self.run.is_saved:
                self.save()
            self.evaluations.evaluate_if_due(is_last=True)
        finally:  # the caller handles signals in what follows, such as an export
            self.run.release_interrupts()

    def _run_steps(self) -> Iterator[GrpoMetrics]:
        self.evaluations.evaluate_if_due()
        began, clock = time.perf_counter(), Clock(self.share_done)
        while not self.run.interrupted and (self.recipe.steps is None or self.step < self.recipe.steps):
            self.run.progress.update(f"in step {self.step + 1}")
            before = self.collector.position
            groups = self.collector.collect(self.step + 1)
            if not groups:
                break
            metrics = self._train(groups, before, began, clock)
            self.run.record(metrics)
            yield metrics
            self._check_alarms(metrics)
            if self.run.must_save:
                self.save()
            self.evaluations.evaluate_if_due()
            began = time.perf_counter()

    def _check_alarms(self, metrics: GrpoMetrics) -> None:
        try:
            self._alarms.check(metrics)
        except TrainingAlarm as alarm:
            raise TrainingAlarm(f"{alarm}; {self.run.describe_checkpoint()}") from alarm

    @property
    def step(self) -> int:
        """Number of completed steps."""
        return self.run.step

    @property
    def share_done(self) -> float:
        """Completed share of the training, from 0 to 1."""
        return self._share_done_at(self.collector.position, self.step)

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
        """The reason by question id of each sample that was skipped and has not been used since."""
        return self.collector.skipped

    def save(self) -> Path:
        """Write a checkpoint and return its folder. Every rank must call it, between steps. Raises as `Run.save`."""
        data = {
            **self.collector.position,
            "data": self.dataset.facts,
            "prompts": self.recipe.prompts.model_dump(mode="json"),
            "alarms": self._alarms.state_dict(),
        }
        return self.run.save((data,), self.collector.unusable)

    def export(self, folder: Path | None = None) -> None:
        """Export the model to a Hugging Face folder, `{out}/export` by default. Every rank must call it.

        Raises:
            BadInput: the recipe's `export` is `none`.
        """
        self.run.export(folder)

    def _load_rewards(self) -> list[Reward]:
        recipe = self.recipe
        rewards = [load_reward(each.reward, **each.options) for each in recipe.rewards]
        calls = RewardCalls(rewards, [each.weight for each in recipe.rewards], recipe.reward_timeout_seconds)
        patience = 60 * recipe.parallel.timeout_minutes
        if calls.longest_seconds >= patience:
            raise BadInput(
                f"the rewards may take {calls.longest_seconds:g} s, but ranks wait for each other {patience:g} s at "
                f"most; lower reward_timeout_seconds, or raise parallel.timeout_minutes"
            )
        return rewards

    def _open_dataset(self) -> ReleaseDataset:
        return open_samples(self.recipe.videos, self.run.family, self.run.tokenizer)

    def _open_stream(self) -> PromptStream:
        recipe = self.recipe
        return PromptStream(self.dataset, recipe.prompts, recipe.prompt_tokens, seed=recipe.seed, epochs=recipe.epochs)

    def _open_engine(self, resources: ExitStack) -> RolloutEngine:
        rollout, stop_ids = self.recipe.rollout, self.dataset.layout.chat.stop_ids
        pixels = self._read_pixels
        if rollout.engine is not Engine.VLLM:
            return open_engine(
                rollout.engine, self.model, pixels, stop_ids, rollout.batch_requests, rollout.prefill_tokens
            )
        return resources.enter_context(
            VllmEngine(
                self.model,
                pixels,
                stop_ids,
                self.run.tokenizer,
                prompt_tokens=self.recipe.prompt_tokens,
                max_tokens=rollout.max_tokens,
                responses=rollout.responses,
                batch_requests=rollout.batch_requests,
                prefill_tokens=rollout.prefill_tokens,
            )
        )

    def _open_reference(self) -> LongVideoModel | None:
        """The reference model, if one is needed that is not the policy without its adapters."""
        if not self.recipe.needs_reference:
            return None
        return open_model(self.recipe, self.run.config, self.parallel, frozen=True)

    def _read_pixels(self, request: RolloutRequest, frames: FrameRange) -> Tensor:
        return self.cache.read(request.prompt.videos[frames.video], frames.first, frames.end)

    def _restore(self, state: RunState) -> None:
        [position] = state.data
        present = {**self.dataset.facts, "prompts": self.recipe.prompts.model_dump(mode="json")}
        check_data({**position["data"], "prompts": position["prompts"]}, present)
        self.collector.resume(position, state.skipped)
        self._alarms.load_state_dict(position["alarms"])

    def _share_done_at(self, position: dict[str, Any], step: int) -> float:
        if self.recipe.steps is not None:
            return step / self.recipe.steps
        assert self.recipe.epochs is not None
        samples = len(self.collector.stream)
        return float((position["epoch"] * samples + position["position"]) / (self.recipe.epochs * samples))

    def _train(
        self, groups: Sequence[RewardedGroup], before: dict[str, Any], began: float, clock: Clock
    ) -> GrpoMetrics:
        """Update the policy from the groups of a step and return the step's metrics.

        Args:
            before: position in the prompts before the step.
            began: time when the step began, from `time.perf_counter`.

        Raises:
            BadStep: on every rank, if the loss or the gradient norm is not finite.
        """
        recipe, number = self.recipe, self.step + 1
        used = [group for group in groups if group.has_signal or not recipe.rollout.drop_without_signal]
        done = self._share_done_at(self.collector.position, number)
        # The rate at the middle of the step, as in supervised training.
        rate = self.run.set_learning_rate((self._share_done_at(before, self.step) + done) / 2)
        advantages, report = None, None
        seconds = dict(self.collector.seconds)
        if used:
            updating = time.perf_counter()
            advantages = self._advantages(used)
            report = self._update(used, advantages)
            self.run.tokens += report.tokens
            seconds["update"] = time.perf_counter() - updating
        rows = self._rows(groups, used, advantages, report)
        run_on_rank_zero(lambda: self.rollouts.write(number, rows))
        whole, memory, *phases = self.run.all_reduce_max(
            time.perf_counter() - began,
            peak_memory(self.parallel.device),
            *(seconds.get(phase, 0.0) for phase in _PHASES),
        )
        return GrpoMetrics.of_rollouts(
            rows,
            step=number,
            updates=[(step.loss, step.grad_norm) for step in report.steps] if report else [],
            policy=report.policy if report else {},
            mismatch=report.mismatch if report else {},
            learning_rate=rate,
            seconds=whole,
            phases=dict(zip(_PHASES, phases, strict=True)),
            memory_bytes=int(memory),
            skipped=by_reason(self.skipped),
            steps=recipe.steps,
            share_done=done,
            seconds_left=clock.seconds_left(done),
        )

    def _advantages(self, groups: Sequence[RewardedGroup]) -> Advantages:
        recipe = self.recipe
        return compute_advantages(
            recipe.advantages,
            torch.cat([group.rewards for group in groups]),
            torch.tensor([each.weight for each in recipe.rewards]),
            torch.tensor([len(group.responses) for group in groups]),
            torch.tensor([len(response.token_ids) for group in groups for response in group.responses]),
        )

    def _update(self, groups: Sequence[RewardedGroup], advantages: Advantages) -> UpdateReport:
        responses = [response for group in groups for response in group.responses]
        masks = self.recipe.rollout.mask_truncated
        batch = RolloutBatch(
            groups=tuple(group.prompt_group for group in groups),
            log_probs=tuple(response.log_probs for response in responses),
            advantages=advantages.values,
            scored=advantages.kept,
            truncated=torch.tensor([masks and response.finish is Finish.LENGTH for response in responses]),
        )
        try:
            return self._updates.run(batch)
        except NotFinite as error:
            keys = [group.sample.question_id for group in groups]
            more = f" and {len(keys) - _SAMPLES_SHOWN} more" if len(keys) > _SAMPLES_SHOWN else ""
            samples = f"questions of the step: {', '.join(keys[:_SAMPLES_SHOWN])}{more}"
            raise self.run.describe_bad_step(error, samples) from error

    def _rows(
        self,
        groups: Sequence[RewardedGroup],
        used: Sequence[RewardedGroup],
        advantages: Advantages | None,
        report: UpdateReport | None,
    ) -> list[RolloutRow]:
        """The rows of all responses of a step."""
        first, firsts = 0, {}
        for group in used:
            firsts[id(group)] = first
            first += len(group.responses)
        return [
            self._row(group, number, firsts.get(id(group)), advantages, report)
            for group in groups
            for number in range(len(group.responses))
        ]

    def _row(
        self,
        group: RewardedGroup,
        number: int,
        first: int | None,
        advantages: Advantages | None,
        report: UpdateReport | None,
    ) -> RolloutRow:
        """The row of a response.

        Args:
            number: of the response in its group.
            first: number of the group's first response in the update; None if the group was dropped.
        """
        response, text, sample = group.responses[number], group.completions[number], group.sample
        names = [each.reward for each in self.recipe.rewards]
        values = tuple(
            RewardValue(name=name, value=_none_if_nan(value))
            for name, value in zip(names, group.rewards[number].tolist(), strict=True)
        )
        used = first is not None and advantages is not None and report is not None
        place = number + (first or 0)
        means = report.response_means[place].tolist() if used and report else [math.nan] * 3
        k1, k3, entropy = map(_none_if_nan, means)
        total = _none_if_nan(float(group.totals[number]))
        return RolloutRow(
            step=self.step + 1,
            round=group.round,
            question_id=sample.question_id,
            kind=sample.kind,
            category=sample.problem_type,
            video_id=sample.video_id,
            number=number,
            prompt_tokens=len(group.prompt.example.input_ids),
            response=text,
            response_tokens=len(response.token_ids),
            finish=response.finish,
            answer=parse_response(text, thought_is_open=self.dataset.layout.chat.opens_thought).answer,
            right=find_right(values),
            rewards=values,
            reward=total,
            failure=group.failures[number],
            advantage=float(advantages.values[place]) if used and advantages else None,
            status=choose_status(
                len(response.token_ids),
                scored=total is not None,
                dropped=not used,
                masked=self.recipe.rollout.mask_truncated and response.finish is Finish.LENGTH,
                accepted=bool(report.accepted[place]) if used and report else True,
            ),
            log_prob=float(response.log_probs.double().mean()) if len(response.log_probs) else 0.0,
            mismatch_k1=k1,
            mismatch_k3=k3,
            entropy=entropy,
        )


def _none_if_nan(value: float) -> float | None:
    return value if value == value else None


def train(recipe: GrpoRecipe) -> int:
    """Run all steps and write checkpoints and the export, unless a signal ends the run before.

    Returns:
        The number of the signal that ended the run; 0 if it is complete.
    """
    with GrpoTraining(recipe) as training:
        return run_to_end(training)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Returns the exit status; docs/trainer.md lists them."""
    parser = argparse.ArgumentParser(prog="trainer_plugin.grpo", description="Reinforcement learning of a recipe.")
    parser.add_argument("recipe", help=f"a .yaml file, or one of {', '.join(recipe_names(GrpoRecipe))}")
    parser.add_argument("settings", nargs="*", metavar="section.field=value", help="override values of the recipe")
    given = parser.parse_args(arguments)
    return run(
        lambda: train(load_grpo_recipe(given.recipe, given.settings)),
        exit_message="there was nothing to save; run it again to resume from its last checkpoint, if any",
    )


if __name__ == "__main__":
    sys.exit(main())
