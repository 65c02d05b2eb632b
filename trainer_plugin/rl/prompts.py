"""The prompts of a reinforcement-learning run: which samples are used, and in which order.

Every rank runs the same stream, and the loop distributes its prompts. The order depends only on the seed, the epoch and
the samples' keys, so a run resumes exactly with any number of ranks.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Iterator
from enum import StrEnum
from typing import Any

from pydantic import Field, model_validator

from schemas.base import Fraction, Model
from schemas.errors import BadInput
from schemas.sample import Sample
from schemas.tables import QuestionKind
from trainer_plugin.data.packing import order_key
from trainer_plugin.data.samples import Prompt, ReleaseDataset
from trainer_plugin.distributed.mesh import is_group_leader
from trainer_plugin.types import UnusableSample

log = logging.getLogger(__name__)


class Curriculum(StrEnum):
    """Order of the prompts within an epoch."""

    NONE = "none"
    """Random."""
    EASY_FIRST = "easy_first"
    """By pass rate, the highest first; random among equal ones."""


class PromptSettings(Model):
    """Choice and order of a run's prompts."""

    min_pass_rate: Fraction = 0.0
    """Lowest pass rate of the target model. Questions that are too hard have groups of wrong answers alone."""
    max_pass_rate: Fraction = 1.0
    """Highest pass rate. Questions that are too easy have groups of right answers alone."""
    kinds: tuple[QuestionKind, ...] = Field(default=tuple(QuestionKind), min_length=1)
    curriculum: Curriculum = Curriculum.NONE

    @model_validator(mode="after")
    def _range_is_not_empty(self) -> PromptSettings:
        if self.min_pass_rate > self.max_pass_rate:
            raise ValueError(f"min_pass_rate {self.min_pass_rate} is above max_pass_rate {self.max_pass_rate}")
        return self

    def find_objection(self, sample: Sample) -> str | None:
        """Why a sample is not used, as one of a few words: `kind`, `no_trials`, `too_hard`, `too_easy`.

        A sample without trials has no pass rate. It is used only if the range of pass rates is not limited.
        """
        if sample.kind not in self.kinds:
            return "kind"
        if not sample.trials:
            return "no_trials" if (self.min_pass_rate, self.max_pass_rate) != (0.0, 1.0) else None
        if sample.pass_rate < self.min_pass_rate:
            return "too_hard"
        return "too_easy" if sample.pass_rate > self.max_pass_rate else None


class PromptStream(Iterator[tuple[Prompt, Sample]]):
    """Iterator over prompts with their samples, the same on every rank. It can be resumed."""

    def __init__(
        self,
        dataset: ReleaseDataset,
        settings: PromptSettings,
        max_tokens: int,
        *,
        seed: int,
        epochs: int | None = None,
    ) -> None:
        """
        Args:
            max_tokens: maximum number of tokens of a prompt.
            epochs: number of passes over the samples; None: the stream is endless.

        Raises:
            BadInput: no sample is left. The message has the counts by reason.
        """
        self.dataset = dataset
        self.settings = settings
        self.max_tokens = max_tokens
        self.seed = seed
        self.epochs = epochs
        self.filtered: dict[str, str] = {}
        """Samples that the settings exclude: reason by key (`PromptSettings.find_objection`)."""
        self.skipped: dict[str, str] = {}
        """Samples skipped so far because they have no usable prompt: reason by key (`UnusableSample.reason`)."""
        self._numbers: list[int] = []
        for number in range(len(dataset)):
            reason = settings.find_objection(dataset.sample(number))
            if reason is None:
                self._numbers.append(number)
            else:
                self.filtered[dataset.key(number)] = reason
        if not self._numbers:
            raise BadInput(
                f"not one of the {len(dataset)} samples of the split {dataset.split} is chosen: {self.counts}; widen "
                f"the range of pass rates and the kinds"
            )
        self._epoch = 0
        self._position = 0
        self._order = self._epoch_order(0)
        keys = "\n".join(dataset.key(number) for number in self._numbers)
        self._fingerprint = hashlib.sha256(keys.encode()).hexdigest()

    @property
    def counts(self) -> dict[str, int]:
        """Number of samples that are filtered or were skipped, by reason."""
        return dict(Counter([*self.filtered.values(), *self.skipped.values()]))

    def __len__(self) -> int:
        """Number of samples of an epoch."""
        return len(self._numbers)

    def __next__(self) -> tuple[Prompt, Sample]:
        """The next prompt that can be used.

        Raises:
            BadInput: not one sample has a usable prompt.
        """
        while self.epochs is None or self._epoch < self.epochs:
            number = self._order[self._position]
            self._position += 1
            if self._position == len(self._order):
                self._epoch, self._position = self._epoch + 1, 0
                self._order = self._epoch_order(self._epoch)
            key = self.dataset.key(number)
            try:
                prompt = self.dataset.prompt(number, self.max_tokens)
            except UnusableSample as unusable:
                self._skip(unusable)
            else:
                self.skipped.pop(key, None)  # a run with fewer tokens may have skipped it
                return prompt, self.dataset.sample(number)
        raise StopIteration

    @property
    def place(self) -> tuple[int, int]:
        """Epoch and position in it after the prompts that were returned."""
        return self._epoch, self._position

    def state_dict(self) -> dict[str, Any]:
        """Position after the prompts that were returned, as JSON values. It is the same on all ranks."""
        return {
            "samples": self._fingerprint,
            "seed": self.seed,
            "curriculum": str(self.settings.curriculum),
            "epoch": self._epoch,
            "position": self._position,
            "skipped": dict(self.skipped),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from the state of another stream.

        Raises:
            BadInput: the state belongs to other samples, another seed or another curriculum.
        """
        for name, own in (("seed", self.seed), ("curriculum", str(self.settings.curriculum))):
            if state[name] != own:
                raise BadInput(f"{name} is {own}, but the saved position has {name} {state[name]}; set it to that")
        if state["samples"] != self._fingerprint:
            raise BadInput(
                f"the saved position is one among other samples than these {len(self)}; resume with the same release "
                f"and the same range of pass rates and kinds, or begin a new run from the exported model"
            )
        self._epoch, self._position = state["epoch"], state["position"]
        self._order = self._epoch_order(self._epoch)
        self.skipped = dict(state["skipped"])

    def _skip(self, unusable: UnusableSample) -> None:
        if is_group_leader(1) and unusable.reason not in self.skipped.values():
            log.warning("%s; skipping this and all further samples that are %s", unusable, unusable.reason)
        self.skipped[unusable.key] = unusable.reason
        if len(self.skipped) == len(self):
            raise BadInput(
                f"not one of the {len(self)} chosen samples has a usable prompt of at most "
                f"{self.max_tokens} tokens: {self.counts}; the log names the "
                f"first of each reason"
            )

    def _epoch_order(self, epoch: int) -> list[int]:
        def rank(number: int) -> tuple[float, bytes]:
            easy_first = self.settings.curriculum is Curriculum.EASY_FIRST
            easiness = self.dataset.sample(number).pass_rate if easy_first else 0.0
            return -easiness, order_key(self.seed, epoch, self.dataset.key(number))

        return sorted(self._numbers, key=rank)
