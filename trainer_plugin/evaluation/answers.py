"""The answers of an evaluation: one Parquet row each, written while it runs, so that no answer is sampled twice."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import Field

from schemas.arrow import rows_from_parquet, rows_to_parquet
from schemas.base import Identifier, Microseconds, Row
from schemas.errors import BadInput
from trainer_plugin.atomic_files import atomic_write_bytes
from trainer_plugin.data.samples import PromptVariant
from trainer_plugin.rl.rollout import Finish
from trainer_plugin.training.checkpoint import differences, format_differences


class Decoding(StrEnum):
    """How a response is generated: the likeliest token at each step, or sampled tokens."""

    GREEDY = "greedy"
    SAMPLED = "sampled"


class AnswerRow(Row):
    """One response to one question."""

    question_id: Identifier
    variant: PromptVariant
    """What the prompt showed of the video."""
    decoding: Decoding
    number: int = Field(ge=0)
    """Number of the response among those to the same prompt."""
    response: str
    """The whole response as text, without special tokens."""
    answer: str | None
    """The parsed answer; None if there is none."""
    letter: str | None
    """The letter that the answer certainly chooses; None for open questions."""
    problem: str | None
    """The first deviation from the format of a thought and an answer; None for a well-formed response."""
    correct: bool | None
    """Whether the answer is right; None if it is not judged yet, or the judge failed."""
    tokens: int = Field(ge=0)
    """Number of tokens of the response, with the one that ends the turn."""
    log_prob: float
    """Sum of the tokens' log-probabilities."""
    finish: Finish
    frame_times_us: tuple[Microseconds, ...]
    """Times of the frames in the order in which the prompt shows them."""

    @property
    def key(self) -> tuple[str, PromptVariant, Decoding, int]:
        """Identifies the answer within its evaluation."""
        return self.question_id, self.variant, self.decoding, self.number


Answers = dict[tuple[str, PromptVariant, Decoding, int], AnswerRow]
"""Answers by `AnswerRow.key`."""


class AnswerFolder:
    """The answers in a folder: `answers.parquet`, and the parts of an evaluation that is not complete."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._parts = 0

    @property
    def _whole(self) -> Path:
        return self.folder / "answers.parquet"

    @property
    def _facts(self) -> Path:
        return self.folder / "facts.json"

    def read_facts(self) -> dict[str, Any]:
        """The facts of the earlier runs; empty if there was none."""
        facts: dict[str, Any] = json.loads(self._facts.read_bytes()) if self._facts.exists() else {}
        return facts

    def open(self, facts: Mapping[str, Any]) -> Answers:
        """Read all answers of an earlier run with the same facts.

        Args:
            facts: everything that determines the answers, as JSON values. They are written on the first run.

        Raises:
            BadInput: the answers are of other facts.
            SchemaError: a file is damaged.
        """
        if not self._facts.exists():
            atomic_write_bytes(self._facts, json.dumps(facts, indent=1).encode())
        if differing := differences(self.read_facts(), json.loads(json.dumps(facts))):
            raise BadInput(
                f"{self.folder} holds the answers of another evaluation: {format_differences(differing)}; set out to "
                f"another folder, or remove this one"
            )
        parts = sorted(self.folder.glob("answers-*.parquet"))
        self._parts = int(parts[-1].stem.rpartition("-")[2]) + 1 if parts else 0
        whole = [self._whole] if self._whole.exists() else []
        rows = [row for path in (*whole, *parts) for row in rows_from_parquet(path.read_bytes(), AnswerRow, str(path))]
        return {row.key: row for row in rows}

    def append(self, rows: Iterable[AnswerRow]) -> None:
        """Write rows to a part of its own. Rows of equal keys replace earlier ones.

        Raises:
            FullDisk: the disk is full; all earlier parts are kept.
        """
        path = self.folder / f"answers-{self._parts:06d}.parquet"
        atomic_write_bytes(path, rows_to_parquet(rows, AnswerRow))
        self._parts += 1

    def merge(self, answers: Answers) -> None:
        """Write all answers to `answers.parquet`, in the order of their keys, and remove the parts."""
        rows = [answers[key] for key in sorted(answers)]
        atomic_write_bytes(self._whole, rows_to_parquet(rows, AnswerRow))
        for path in self.folder.glob("answers-*.parquet"):
            path.unlink()
        self._parts = 0
