"""Packs training samples into rows of at most a budget of tokens, in an order that any run can take up again.

Every rank runs the same packing and keeps its own rows, so nothing is communicated: data-parallel ranks get different
rows and equally many, the ranks of a sequence-parallel group the same. Only lengths are needed of the other ranks'
samples. A step lasts as long as its fullest row; rows are filled as far as the samples ahead allow.

The order follows from the seed, the epoch and the samples' keys alone. The state is a few hundred numbers, and says
exactly what comes next, whatever the number of decoding processes.
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
from trainer_plugin.examples import IGNORED, Example, Row, Unusable
from trainer_plugin.parallel import leads_group

log = logging.getLogger(__name__)


class Samples(Protocol):
    """Samples by number (`trainer_plugin.dataset.ReleaseDataset`)."""

    def __len__(self) -> int: ...

    def key(self, number: int) -> str:
        """A name that no other sample has."""

    def length(self, number: int, max_tokens: int) -> int:
        """Tokens of the sample; raises Unusable."""

    def example(self, number: int, max_tokens: int) -> Example:
        """The sample, of that length."""


class RowStream(Iterator[Row]):
    """The rows of one rank, micro-step by micro-step."""

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
            rank, ranks: the data-parallel ones.
            epochs: how often every sample comes before the stream ends; None: without end. In the last step ranks
                for which nothing is left get a row without labels, so that all take part in it.
            look_ahead: samples among which one is looked for that still fits into a row. The first of them is always
                taken, so none waits for long. Those of the next epoch are not among them until this one's are all
                in rows, so that after every row each sample was seen equally often, or once more.

        Raises:
            BadInput: there are no samples.
        """
        if not len(samples):
            raise BadInput("there are no samples to train on; look at the release's counts per split")
        self.samples = samples
        self.token_budget = token_budget
        self.seed = seed
        self.rank = rank
        self.ranks = ranks
        self.epochs = epochs
        self.look_ahead = look_ahead
        self.skipped: dict[str, str] = {}
        """Reasons by key of the sample: those met so far that cannot be trained on."""
        self._said: set[str] = set()
        self._epoch = 0
        self._position = 0
        self._window: list[tuple[int, int, int]] = []  # epoch, sample, tokens
        self._order = self._permutation(0)
        keys = "\n".join(samples.key(number) for number in range(len(samples)))
        self._fingerprint = hashlib.sha256(keys.encode()).hexdigest()

    def __next__(self) -> Row:
        rows = [row for _ in range(self.ranks) if (row := self._pack())]
        if not rows:
            raise StopIteration
        if self.rank < len(rows):
            return self._built(rows[self.rank])
        return without_labels(self._built(rows[0]))

    def state_dict(self) -> dict[str, Any]:
        """What comes after the rows that were given out, as JSON values. The same on all ranks."""
        return {
            "samples": self._fingerprint,
            "seed": self.seed,
            "epoch": self._epoch,
            "position": self._position,
            "window": [[epoch, number] for epoch, number, _ in self._window],
            "skipped": dict(self.skipped),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where another stream was. The number of ranks may differ; rows are then dealt out anew. So may the
        budget: what does not fit any more is skipped.

        Raises:
            BadInput: it went over other samples, or in the order of another seed.
        """
        if state["seed"] != self.seed:
            raise BadInput(f"seed is {self.seed}, but the saved position is of seed {state['seed']}; set seed to that")
        if state["samples"] != self._fingerprint:
            raise BadInput(
                f"the saved position is one among other samples than these {len(self.samples)}; go on with the same "
                f"data, or begin a new run from the exported model"
            )
        self._epoch, self._position = state["epoch"], state["position"]
        self._order = self._permutation(self._epoch)
        self.skipped = dict(state["skipped"])
        self._window = []
        for epoch, number in state["window"]:
            self._wait(epoch, number)

    def _pack(self) -> list[tuple[int, int, int]]:
        """The next row: the sample that waits longest, and of those ahead each that still fits. Empty at the end.

        A sample's next turn comes only after all others have had this one, and not in the same row: else short
        samples, which fit into any gap, would be drawn more often than long ones.
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
            self._wait(self._epoch, self._order[self._position])
            self._position += 1
            if self._position == len(self._order):
                self._next_epoch()

    def _wait(self, epoch: int, number: int) -> None:
        """Put a sample among those that wait, or skip it."""
        try:
            tokens = self.samples.length(number, self.token_budget)
        except Unusable as unusable:
            self.skipped[unusable.key] = unusable.reason
            self._say(unusable)
        else:
            self.skipped.pop(self.samples.key(number), None)  # it did not fit into a smaller budget
            self._window.append((epoch, number, tokens))

    def _say(self, unusable: Unusable) -> None:
        """Of each reason the first sample; all ranks meet the same."""
        if self.rank == 0 and leads_group(self.ranks) and unusable.reason not in self._said:
            log.warning("%s; it is left out, as all that are %s", unusable, unusable.reason)
        self._said.add(unusable.reason)

    def _next_epoch(self) -> None:
        if len(self.skipped) == len(self.samples):
            counts = dict(Counter(self.skipped.values()))
            raise BadInput(
                f"not one of the {len(self.samples)} samples can be trained on: {counts}; the log names the first of "
                f"each reason"
            )
        self._epoch, self._position = self._epoch + 1, 0
        self._order = self._permutation(self._epoch)

    def _built(self, row: list[tuple[int, int, int]]) -> Row:
        return Row(tuple(self.samples.example(number, self.token_budget) for _, number, _ in row), row[0][0])

    def _permutation(self, epoch: int) -> list[int]:
        """By a hash of seed, epoch and key: the same in every version of every library."""

        def rank(number: int) -> bytes:
            text = f"{self.seed}/{epoch}/{self.samples.key(number)}"
            return hashlib.blake2b(text.encode(), digest_size=16).digest()

        return sorted(range(len(self.samples)), key=rank)


def share_given_out(state: dict[str, Any], samples: int, epochs: int) -> float:
    """Which share of so many epochs of samples a stream with this state has given out or skipped, from 0 to 1."""
    seen = state["epoch"] * samples + state["position"] - len(state["window"])
    return float(seen / (epochs * samples))


def without_labels(row: Row, examples: torch.Tensor | None = None) -> Row:
    """The row with nothing to learn in it, or in those examples for which a bool tensor [examples] is true."""
    masked = [True] * len(row.examples) if examples is None else examples.tolist()
    return replace(
        row,
        examples=tuple(
            replace(example, labels=torch.full_like(example.labels, IGNORED)) if mask else example
            for example, mask in zip(row.examples, masked, strict=True)
        ),
    )
