"""Evaluates the model of a run while it is trained: before the first step, every k steps, and at the end.

The model that is trained samples the answers itself, sharded as it is. Evaluations leave no trace in the training: its
steps are the same bit by bit with and without them. Each has a folder of its own, `{out}/evaluations/step-00000100`,
with the files of `trainer_plugin.evaluation.run.evaluate`.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from schemas.errors import BadInput, Outage
from schemas.uri import shown_uri
from trainer_plugin.data.samples import ReleaseDataset
from trainer_plugin.distributed.mesh import broadcast_from_rank_zero, run_on_all_ranks, run_on_rank_zero
from trainer_plugin.evaluation.answers import AnswerFolder
from trainer_plugin.evaluation.frames import FrameSource
from trainer_plugin.evaluation.grading import OpenGrading
from trainer_plugin.evaluation.run import Interrupted, evaluate, list_facts, read_evaluation
from trainer_plugin.evaluation.table import Evaluation
from trainer_plugin.recipe import PeriodicEvaluationSettings, VideoData
from trainer_plugin.rl.engines import Engine, open_engine
from trainer_plugin.rl.rewards.base import load_reward
from trainer_plugin.training.from_recipe import open_samples
from trainer_plugin.training.model_identity import sum_bits
from trainer_plugin.training.run import Run

log = logging.getLogger(__name__)


class PeriodicEvaluation:
    """The evaluations of one run, on this rank. Every rank must call every method.

    A run whose recipe has no section `evaluation` has one too, which does nothing.
    """

    def __init__(self, run: Run, videos: VideoData | None) -> None:
        """Open the questions. The model need not be loaded yet.

        Args:
            videos: the run's section on videos; None for a run on text data.

        Raises:
            BadInput: on every rank, if there is no such release or split, it has no questions, or the judge cannot be
                loaded.
        """
        self._run = run
        self._settings = run.recipe.evaluation
        self._evaluated = -1
        """The last step after which this process evaluated."""
        if (settings := self._settings) is None:
            return
        own = run.recipe.evaluation_defaults
        self._settings = settings.model_copy(
            update={name: own[name] for name in own if name not in settings.model_fields_set}
        )
        update: dict[str, Any] = {"split": settings.split}
        if settings.release is not None:
            update |= {"release": settings.release, "media": settings.media}
        self._videos = (videos or VideoData(release="")).model_copy(update=update)
        self._dataset = run_on_all_ranks(self._open_questions)
        if settings.open_grading is OpenGrading.JUDGE:
            run_on_rank_zero(lambda: load_reward(settings.judge))

    def _open_questions(self) -> ReleaseDataset:
        videos = self._videos
        dataset = open_samples(videos, self._run.family, self._run.tokenizer)
        if not len(dataset):
            raise BadInput(
                f"{shown_uri(videos.release)}: the split {videos.split} has no questions to evaluate; choose another "
                f"evaluation.split or evaluation.release, or set evaluation to null"
            )
        return dataset

    def evaluate_if_due(self, *, is_last: bool = False) -> None:
        """Evaluate the model after the last step, if it is due and was not done yet.

        Call it before the first step of a run that is started or resumed, after each step, once its checkpoint is
        written, and after the last one. A signal ends the evaluation after the questions in progress. When the run
        resumes from that step, the evaluation continues.

        An evaluation that fails, e.g. because the judge is down, is a warning, because the training does not need it.
        Its answers are kept. Before the first step the run ends, because nothing is lost yet.

        Args:
            is_last: whether the training is complete.

        Raises:
            BadInput, Outage: on every rank, before the first step, as `evaluate`.
        """
        run, settings, step = self._run, self._settings, self._run.step
        if settings is None or step == self._evaluated or run.interrupted or not _is_due(settings, step, is_last):
            return
        self._evaluated = step
        run.progress.update(None)  # `evaluate` logs its own
        folder = Path(run.recipe.out) / "evaluations" / f"step-{step:08d}"
        try:
            evaluation = self._evaluate(settings, folder)
        except Interrupted as interrupted:
            if run.parallel.rank == 0:
                log.warning("the evaluation of step %d is not complete: %s", step, interrupted)
            return
        except (BadInput, Outage) as error:
            if step == 0:
                raise
            if run.parallel.rank == 0:
                log.warning("the evaluation of step %d failed, and the training continues: %s", step, error)
            return
        finally:
            _forget_memory(run.parallel.device)
        run.record_scalars({f"evaluation/{name}": number for name, number in evaluation.scalars().items()})
        if run.parallel.rank == 0:
            log.info("evaluation of step %d: %s; see %s", step, evaluation.line(), folder)

    def _evaluate(self, settings: PeriodicEvaluationSettings, folder: Path) -> Evaluation:
        run, dataset = self._run, self._dataset
        model = {"step": run.step, "bits": sum_bits(run.model)}
        facts = list_facts(dataset, settings, model)
        if (complete := broadcast_from_rank_zero(lambda: _read_complete(folder, facts))) is not None:
            return complete
        with closing(FrameSource(run.family, self._videos.workers)) as frames:
            stop_ids = dataset.layout.chat.stop_ids
            engine = open_engine(Engine.AUTO, run.model, frames, stop_ids, settings.requests)
            return evaluate(dataset, engine, run.parallel, settings, folder, model, run.check_interrupts)


def _is_due(settings: PeriodicEvaluationSettings, step: int, is_last: bool) -> bool:
    if is_last and settings.at_end:
        return True
    if step == 0:
        return settings.before
    return settings.every_steps is not None and step % settings.every_steps == 0


def _read_complete(folder: Path, facts: Mapping[str, Any]) -> Evaluation | None:
    """The result in a folder if it is of these weights; else the folder is removed, unless it can be continued."""
    saved = AnswerFolder(folder).read_facts()
    evaluation = read_evaluation(folder)
    if evaluation is not None and saved.get("model") == facts["model"]:
        return evaluation
    if saved and saved != json.loads(json.dumps(facts)):
        log.warning("%s is of other weights or other settings; it is replaced", folder)
        shutil.rmtree(folder)
    return None


def _forget_memory(device: torch.device) -> None:
    """Free the memory that an evaluation left in the allocator's cache, and measure the peak of the steps again."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
