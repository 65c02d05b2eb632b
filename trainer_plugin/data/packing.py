"""Packs training samples into rows of at most `token_budget` tokens, in a deterministic order that can be resumed.

Every rank runs the same packing and keeps only its own rows, so no communication is needed. Data-parallel ranks get
different rows, and equally many of them. The ranks of a sequence-parallel group get the same rows. For the samples of
other ranks only the lengths are computed. The fullest row determines how long a step takes, so each row is filled as
far as the look-ahead window allows.

The order depends only on the seed, the epoch and the samples' keys. The state is a few hundred numbers and determines
exactly which rows follow, whatever the number of decoding processes.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Protocol

import torch

from schemas.errors import BadInput
from trainer_plugin.distributed.mesh import is_group_leader
from trainer_plugin.types import IGNORED, Example, PackedRow, UnusableSample

log = logging.getLogger(__name__)


class Samples(Protocol):
    """Samples addressed by index (`trainer_plugin.data.samples.ReleaseDataset`)."""

    def __len__(self) -> int: ...

    def key(self, number: int) -> str:
        """A unique name of the sample."""

    def length(self, number: int, max_tokens: int) -> int:
        """Number of tokens of the sample if it may have at most `max_tokens`.

        Raises:
            UnusableSample: the sample cannot be trained on.
        """

    def example(self, number: int, max_tokens: int) -> Example:
        """The sample, of exactly `length(number, max_tokens)` tokens."""


class RowStream(Iterator[PackedRow]):
    """Iterator over the rows of one data-parallel rank, one row per micro-step."""

    def __init__(
        self,
        samples: Samples,
        token_budget: int,
        *,
        seed: int,
        rank: int = 0,
        ranks: int = 1,
        epochs: int | None = None,
        look_ahead: int = 64,
    ) -> None:
        """
        Args:
            token_budget: maximum number of tokens of a row.
            rank, ranks: data-parallel rank, and number of data-parallel ranks.
            epochs: number of passes over the samples; None: the stream is endless. In the last step, ranks without a
                row of their own get a row without labels, so that all ranks take part in the step.
            look_ahead: size of the window of waiting samples that is searched for one that fits into the row. A row
                always starts with the first sample of the window, so no sample waits for long. Samples of the next
                epoch are not packed before all samples of this epoch are in rows. After every row, the numbers of times
                that any two samples have been seen differ by at most one.

        Raises:
            BadInput: there are no samples.
        """
        if not len(samples):
            raise BadInput("there are no samples to train on; check the release's counts per split")
        self.samples = samples
        self.token_budget = token_budget
        self.seed = seed
        self.rank = rank
        self.ranks = ranks
        self.epochs = epochs
        self.look_ahead = look_ahead
        self.skipped: dict[str, str] = {}
        """Samples skipped so far because they cannot be trained on: reason by sample key."""
        self._warned_reasons: set[str] = set()
        self._epoch = 0
        self._position = 0
        self._window: list[tuple[int, int, int]] = []  # epoch, sample, tokens
        self._order = self._permutation(0)
        keys = "\n".join(samples.key(number) for number in range(len(samples)))
        self._fingerprint = hashlib.sha256(keys.encode()).hexdigest()

    def __next__(self) -> PackedRow:
        """The next row of this rank.

        Raises:
            BadInput: after a whole epoch, none of the samples can be trained on.
        """
        rows = [row for _ in range(self.ranks) if (row := self._pack())]
        if not rows:
            raise StopIteration
        if self.rank < len(rows):
            return self._build_row(rows[self.rank])
        return mask_labels(self._build_row(rows[0]))

    def state_dict(self) -> dict[str, Any]:
        """Position after the rows that were returned, as JSON values. It is the same on all ranks."""
        return {
            "samples": self._fingerprint,
            "seed": self.seed,
            "epoch": self._epoch,
            "position": self._position,
            "window": [[epoch, number] for epoch, number, _ in self._window],
            "skipped": dict(self.skipped),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from the state of another stream.

        The number of ranks may differ: the remaining rows are then distributed over the new ranks. The token budget may
        differ too: samples that no longer fit are skipped.

        Raises:
            BadInput: the state belongs to other samples or another seed.
        """
        if state["seed"] != self.seed:
            raise BadInput(f"seed is {self.seed}, but the saved position is of seed {state['seed']}; set seed to that")
        if state["samples"] != self._fingerprint:
            raise BadInput(
                f"the saved position is one among other samples than these {len(self.samples)}; resume with the same "
                f"data, or begin a new run from the exported model"
            )
        self._epoch, self._position = state["epoch"], state["position"]
        self._order = self._permutation(self._epoch)
        self.skipped = dict(state["skipped"])
        self._window = []
        for epoch, number in state["window"]:
            self._append_to_window(epoch, number)

    def _pack(self) -> list[tuple[int, int, int]]:
        """The next row as entries (epoch, sample, tokens); empty at the end of the stream.

        The row starts with the sample that has waited longest and is filled with the first waiting samples that still
        fit. A sample is not repeated before all others have been seen in its epoch, and never within one row. Otherwise
        short samples, which fit into any gap, would be drawn more often than long ones.
        """
        row: list[tuple[int, int, int]] = []
        left = self.token_budget
        while (entry := self._first_that_fits(left, {number for _, number, _ in row})) is not None:
            self._window.remove(entry)
            row.append(entry)
            left -= entry[2]
        return row

    def _first_that_fits(self, tokens: int, taken: set[int]) -> tuple[int, int, int] | None:
        self._refill()
        fitting = (
            entry
            for entry in self._window
            if entry[0] == self._window[0][0] and entry[1] not in taken and entry[2] <= tokens
        )
        return next(fitting, None)

    def _refill(self) -> None:
        while len(self._window) < self.look_ahead and (self.epochs is None or self._epoch < self.epochs):
            self._append_to_window(self._epoch, self._order[self._position])
            self._position += 1
            if self._position == len(self._order):
                self._next_epoch()

    def _append_to_window(self, epoch: int, number: int) -> None:
        """Append a sample to the window, or skip it."""
        try:
            tokens = self.samples.length(number, self.token_budget)
        except UnusableSample as unusable:
            self.skipped[unusable.key] = unusable.reason
            self._warn_once_per_reason(unusable)
        else:
            self.skipped.pop(self.samples.key(number), None)  # a run with a smaller budget may have skipped it
            self._window.append((epoch, number, tokens))

    def _warn_once_per_reason(self, unusable: UnusableSample) -> None:
        """Log the first skipped sample of each reason. Only one rank logs it, since all ranks skip the same samples."""
        if self.rank == 0 and is_group_leader(self.ranks) and unusable.reason not in self._warned_reasons:
            log.warning("%s; skipping this and all further samples that are %s", unusable, unusable.reason)
        self._warned_reasons.add(unusable.reason)

    def _next_epoch(self) -> None:
        if len(self.skipped) == len(self.samples):
            counts = dict(Counter(self.skipped.values()))
            raise BadInput(
                f"not one of the {len(self.samples)} samples can be trained on: {counts}; the log names the first of "
                f"each reason"
            )
        self._epoch, self._position = self._epoch + 1, 0
        self._order = self._permutation(self._epoch)

    def _build_row(self, row: list[tuple[int, int, int]]) -> PackedRow:
        return PackedRow(tuple(self.samples.example(number, self.token_budget) for _, number, _ in row), row[0][0])

    def _permutation(self, epoch: int) -> list[int]:
        """Sample indices of an epoch, sorted by a hash of seed, epoch and key."""
        return sorted(
            range(len(self.samples)), key=lambda number: order_key(self.seed, epoch, self.samples.key(number))
        )


def order_key(seed: int, epoch: int, key: str) -> bytes:
    """Sort key of a sample in the random order of an epoch: a hash, which is independent of library versions."""
    return hashlib.blake2b(f"{seed}/{epoch}/{key}".encode(), digest_size=16).digest()


def fraction_done(state: dict[str, Any], samples: int, epochs: int) -> float:
    """Fraction (0 to 1) of `epochs * samples` that a stream with this state has returned or skipped."""
    seen = state["epoch"] * samples + state["position"] - len(state["window"])
    return float(seen / (epochs * samples))


def mask_labels(row: PackedRow, examples: torch.Tensor | None = None) -> PackedRow:
    """A copy of the row with all labels masked.

    Args:
        examples: bool, shape [number of examples]: mask only the examples for which it is true.
    """
    masked = [True] * len(row.examples) if examples is None else examples.tolist()
    return replace(
        row,
        examples=tuple(
            replace(example, labels=torch.full_like(example.labels, IGNORED)) if mask else example
            for example, mask in zip(row.examples, masked, strict=True)
        ),
    )
