"""Runs an evaluation: samples the answers that are missing, grades them, keeps them, and computes the table.

Data-parallel ranks take different questions; ranks that share a row sample the same ones. Rank 0 writes the answers
after every round. The table does not depend on the number of ranks.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch.distributed as dist

from schemas.answer_format import choice_letter, parse_response
from schemas.errors import BadInput
from schemas.sample import Sample
from schemas.tables import QuestionKind
from trainer_plugin.atomic_files import atomic_write_bytes
from trainer_plugin.data.packing import order_key
from trainer_plugin.data.samples import Prompt, PromptVariant, ReleaseDataset
from trainer_plugin.distributed.mesh import RankContext, broadcast_from_rank_zero, run_on_all_ranks, run_on_rank_zero
from trainer_plugin.evaluation.answers import AnswerFolder, AnswerRow, Answers, Decoding
from trainer_plugin.evaluation.grading import grade
from trainer_plugin.evaluation.settings import EvaluationSettings
from trainer_plugin.evaluation.table import Evaluation, tabulate
from trainer_plugin.rl.rewards.base import Reward, RewardBatch, load_reward
from trainer_plugin.rl.rewards.run import run_rewards
from trainer_plugin.rl.rollout import RolloutEngine, RolloutRequest, RolloutResponse, SamplingSettings
from trainer_plugin.training.checkpoint import lock_run_folder
from trainer_plugin.training.metrics import Progress
from trainer_plugin.types import UnusableSample

log = logging.getLogger(__name__)

_JUDGED_ROWS = 64
"""Number of answers judged between two collectives, in which the other ranks wait."""

_RESULT = "evaluation.json"
"""Name of the file that a complete evaluation has in its folder."""


class Interrupted(Exception):
    """An evaluation was ended before it was complete. Its answers are kept."""


@dataclass(frozen=True)
class _Pass:
    """One pass over the questions."""

    variant: PromptVariant
    decoding: Decoding
    responses: int
    """Number of responses to each prompt."""
    sampling: SamplingSettings


def _passes(settings: EvaluationSettings) -> list[_Pass]:
    """The passes over the questions, in order."""
    greedy = SamplingSettings(greedy=True, max_tokens=settings.max_tokens)
    sampled = SamplingSettings(temperature=settings.temperature, max_tokens=settings.max_tokens)
    found = [_Pass(PromptVariant.VIDEO, Decoding.GREEDY, 1, greedy)] if settings.greedy else []
    found += [_Pass(PromptVariant.VIDEO, Decoding.SAMPLED, settings.samples, sampled)] if settings.samples else []
    return found + [_Pass(variant, Decoding.GREEDY, 1, greedy) for variant in settings.baselines]


def evaluate(
    dataset: ReleaseDataset,
    engine: RolloutEngine,
    ranks: RankContext,
    settings: EvaluationSettings,
    out: Path,
    model: Mapping[str, Any] | None = None,
    is_interrupted: Callable[[], bool] = lambda: False,
) -> Evaluation:
    """Evaluate a model on a dataset's questions. Every rank must call it and gets the same result.

    `out` then holds `answers.parquet`, `evaluation.json` and `evaluation.md`. A second run with the same `out` samples
    only the answers that are missing.

    Args:
        engine: samples with the model.
        ranks: this process's rank and groups.
        out: folder of this evaluation alone, on a disk that all hosts share.
        model: identity of the model, as JSON values (`trainer_plugin.training.model_identity.model_values`). Answers of
            another one in `out` are an error. None: `out` was chosen for this model.
        is_interrupted: called on every rank before every round of questions, and of answers to judge; must return the
            same on every rank.

    Raises:
        BadInput: on every rank, if there are no questions, not one can be answered, or `out` holds the answers of
            another evaluation.
        Interrupted: on every rank, if `is_interrupted` returned True.
        Outage: on every rank, if the judge fails for all answers.
    """
    if not len(dataset):
        raise BadInput(f"the split {dataset.split} has no questions to evaluate; choose another videos.split")
    with lock_run_folder(out), closing(Progress("reading the answers")) as progress:
        facts = list_facts(dataset, settings, model or {})
        return _Run(dataset, engine, ranks, settings, AnswerFolder(out), progress, is_interrupted).run(facts)


def list_facts(dataset: ReleaseDataset, settings: EvaluationSettings, model: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that determines the answers to a question and their grades, as JSON values.

    Args:
        model: as in `evaluate`.
    """
    named = ("temperature", "max_tokens", "prompt_tokens", "seed", "open_grading", "judge")
    return {"model": dict(model), "data": dataset.facts, **settings.model_dump(mode="json", include=set(named))}


def read_evaluation(folder: Path) -> Evaluation | None:
    """The result in the folder of an evaluation; None if it is not complete."""
    file = folder / _RESULT
    return Evaluation.model_validate_json(file.read_bytes()) if file.exists() else None


@dataclass
class _Run:
    """One evaluation in progress, on this rank."""

    dataset: ReleaseDataset
    engine: RolloutEngine
    ranks: RankContext
    settings: EvaluationSettings
    folder: AnswerFolder
    progress: Progress
    is_interrupted: Callable[[], bool]
    answers: Answers = field(default_factory=dict)
    """All answers so far, of all ranks."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Questions that cannot be answered, on any rank: why, by question id."""

    def run(self, facts: Mapping[str, Any]) -> Evaluation:
        settings, dataset = self.settings, self.dataset
        self.answers = broadcast_from_rank_zero(lambda: self.folder.open(facts))
        numbers = self._choose_questions()
        for each in _passes(settings):
            self._sample(each, numbers)
        for key, reason in self.skipped.items() if self.ranks.rank == 0 else ():
            log.warning("question %s is skipped and does not count: %s", key, reason)
        samples = [dataset.sample(number) for number in numbers if dataset.key(number) not in self.skipped]
        self._judge({sample.question_id: sample for sample in samples})
        return broadcast_from_rank_zero(lambda: self._conclude(samples))

    def _choose_questions(self) -> list[int]:
        """Numbers of the questions in the dataset's order, so that those about one video are neighbours."""
        seed, count = self.settings.seed, len(self.dataset)
        by_hash = sorted(range(count), key=lambda number: order_key(seed, 0, self.dataset.key(number)))
        return sorted(by_hash[: self.settings.questions])

    def _sample(self, each: _Pass, numbers: Sequence[int]) -> None:
        """Sample the answers of one pass that are missing."""
        keys = {number: self.dataset.key(number) for number in numbers}
        waiting = [
            number for number, key in keys.items() if key not in self.skipped and not self._has_answers(key, each)
        ]
        per_rank = self.settings.requests
        name = f"{each.variant}, {each.decoding}"
        for first in range(0, len(waiting), per_rank * self.ranks.dp):
            self._check_interrupts()
            self.progress.update(f"{name}: sampling question {first + 1} of {len(waiting)}")
            start = first + per_rank * self.ranks.dp_rank
            rows, skipped = self._sample_round(each, waiting[start : start + per_rank])
            everyone: list[Any] = [None] * self.ranks.world_size
            dist.all_gather_object(everyone, (rows, skipped))
            found = [row for own, _ in everyone[:: self.ranks.sp] for row in own]
            self.skipped |= {key: reason for _, own in everyone for key, reason in own.items()}
            if found:
                run_on_rank_zero(partial(self.folder.append, found))
            self.answers |= {row.key: row for row in found}
            if self.ranks.rank == 0:
                done = min(first + per_rank * self.ranks.dp, len(waiting))
                log.info("%s: %d of %d questions answered", name, done, len(waiting))
        if self.skipped.keys() >= set(keys.values()):
            reason = next(iter(self.skipped.values()))
            raise BadInput(f"not one of {len(keys)} questions can be answered; the first of them: {reason}")

    def _has_answers(self, key: str, each: _Pass) -> bool:
        return all((key, each.variant, each.decoding, number) in self.answers for number in range(each.responses))

    def _sample_round(self, each: _Pass, numbers: Sequence[int]) -> tuple[list[AnswerRow], dict[str, str]]:
        """Answers to this rank's questions, and why the others have none, by key."""
        prompts: list[tuple[int, Prompt]] = []
        skipped: dict[str, str] = {}

        def lay_out() -> None:
            for number in numbers:
                try:
                    prompts.append((number, self.dataset.prompt(number, self.settings.prompt_tokens, each.variant)))
                except UnusableSample as unusable:
                    skipped[unusable.key] = str(unusable)

        run_on_all_ranks(lay_out)
        requests = [
            RolloutRequest(prompt.example, prompt.unexpanded_ids, self._seed(each, prompt.example.key))
            for _, prompt in prompts
        ]
        rows: list[AnswerRow] = []
        for (number, prompt), responses in zip(prompts, self._generate(each, requests), strict=True):
            if isinstance(responses, BadInput):
                skipped[prompt.example.key] = str(responses)
                continue
            rows += [self._row(each, number, prompt, index, response) for index, response in enumerate(responses)]
        return rows, skipped

    def _check_interrupts(self) -> None:
        if self.is_interrupted():
            raise Interrupted(f"{len(self.answers)} answers are kept in {self.folder.folder}")

    def _seed(self, each: _Pass, key: str) -> int:
        """Seed of a request, which depends on neither ranks nor order."""
        digest = hashlib.blake2b(f"{self.settings.seed}/{each.variant}/{key}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") >> 1

    def _generate(self, each: _Pass, requests: Sequence[RolloutRequest]) -> list[list[RolloutResponse] | BadInput]:
        """Responses to each request, or the error instead of them. Every rank must call it."""
        most = [0] * self.ranks.world_size
        dist.all_gather_object(most, len(requests))
        if not any(most):
            return []
        try:
            return list(self.engine.generate(requests, each.responses, each.sampling))
        except BadInput as error:  # on every rank
            log.info("trying questions one by one, because one cannot be sampled: %s", error)
        found: list[list[RolloutResponse] | BadInput] = []
        for group, count in enumerate(most[:: self.ranks.sp]):
            for index in range(count):
                own = requests[index : index + 1] if group == self.ranks.dp_rank else ()
                try:
                    found += self.engine.generate(own, each.responses, each.sampling)
                except BadInput as error:
                    found += [error] if own else []
        return found

    def _row(self, each: _Pass, number: int, prompt: Prompt, index: int, response: RolloutResponse) -> AnswerRow:
        sample, chat = self.dataset.sample(number), self.dataset.layout.chat
        text = chat.decode(response.token_ids.tolist())
        parsed = parse_response(text, thought_is_open=chat.opens_thought)
        choice = sample.kind is QuestionKind.CHOICE and parsed.answer is not None
        return AnswerRow(
            question_id=sample.question_id,
            variant=each.variant,
            decoding=each.decoding,
            number=index,
            response=text,
            answer=parsed.answer,
            letter=choice_letter(parsed.answer or "", sample.options) if choice else None,
            problem=parsed.problem,
            correct=grade(sample, parsed.answer, self.settings.open_grading),
            tokens=len(response.token_ids),
            log_prob=float(response.log_probs.double().sum()),
            finish=response.finish,
            frame_times_us=tuple(time for clip in prompt.example.videos for time in clip.frame_times_us),
        )

    def _judge(self, samples: Mapping[str, Sample]) -> None:
        """Judge the answers without a verdict. Answers on which the judge fails stay without one."""
        waiting = [row for row in self.answers.values() if row.correct is None and row.question_id in samples]
        for first in range(0, len(waiting), _JUDGED_ROWS):
            self._check_interrupts()
            self.progress.update(f"judging answer {first + 1} of {len(waiting)}")
            rows = waiting[first : first + _JUDGED_ROWS]
            for row in broadcast_from_rank_zero(partial(self._judge_rows, rows, samples)):
                self.answers[row.key] = row

    @cached_property
    def _judge_reward(self) -> Reward:
        return load_reward(self.settings.judge)

    def _judge_rows(self, rows: Sequence[AnswerRow], samples: Mapping[str, Sample]) -> list[AnswerRow]:
        own = [samples[row.question_id] for row in rows]
        batch = RewardBatch.of_samples(own, [""] * len(rows), [row.response for row in rows], [()] * len(rows))
        found = run_rewards([self._judge_reward], [1.0], batch, self.settings.judge_timeout_seconds)
        for failure in found.failures[:1]:
            log.warning("%d answers are not judged, e.g. %s", len(found.failures), failure.message)
        judged = [
            row.model_copy(update={"correct": value >= 0.5})
            for row, value in zip(rows, found.values[:, 0].tolist(), strict=True)
            if value == value
        ]
        if judged:
            self.folder.append(judged)
        return judged

    def _conclude(self, samples: Sequence[Sample]) -> Evaluation:
        self.folder.merge(self.answers)
        passes = {(each.variant, each.decoding): each.responses for each in _passes(self.settings)}
        keys = {sample.question_id for sample in samples}
        counted = {
            key: row
            for key, row in self.answers.items()
            if row.question_id in keys and row.number < passes.get((row.variant, row.decoding), 0)
        }
        try:
            evaluation = tabulate(samples, counted, self.skipped, str(self.dataset.split))
        except ValueError as error:
            raise BadInput(f"{error}: not one of {len(counted)} answers is judged; check the judge") from error
        atomic_write_bytes(self.folder.folder / _RESULT, evaluation.model_dump_json(indent=1).encode())
        atomic_write_bytes(self.folder.folder / "evaluation.md", evaluation.markdown().encode())
        return evaluation
