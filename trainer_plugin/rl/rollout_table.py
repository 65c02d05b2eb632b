"""Every rollout of a run as one row of a Parquet file for each step, `{out}/rollouts/step-000012.parquet`."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from pydantic import Field

from schemas.arrow import rows_from_parquet, rows_to_parquet
from schemas.base import Identifier, Model, Row, VideoId
from schemas.tables import QuestionCategory, QuestionKind
from trainer_plugin.atomic_files import atomic_write_bytes
from trainer_plugin.rl.rollout import Finish

log = logging.getLogger(__name__)

RIGHT_BY = ("accuracy", "judge")
"""Rewards that state whether an answer is right, with 1 or 0. The first one that applies decides."""

Finite = Annotated[float, Field(allow_inf_nan=False)]


class RolloutStatus(StrEnum):
    """Whether a response counts in the loss, or the first reason why not, in this order."""

    EMPTY = "empty"
    """It has no tokens."""
    FAILED = "failed"
    """No reward is known, because none applies or one failed."""
    NO_SIGNAL = "no_signal"
    """Its group was dropped: all known rewards are equal."""
    TRUNCATED = "truncated"
    """It ended at the length limit, and such responses are masked."""
    REJECTED = "rejected"
    """The rollout correction rejected it."""
    KEPT = "kept"


def choose_status(tokens: int, *, scored: bool, dropped: bool, masked: bool, accepted: bool) -> RolloutStatus:
    """The status of a response.

    Args:
        tokens: number of its tokens.
        scored: a reward is known.
        dropped: its group was dropped for lack of signal.
        masked: it is truncated, and such responses are in no loss.
        accepted: the rollout correction did not reject it.
    """
    if not tokens:
        return RolloutStatus.EMPTY
    if not scored:
        return RolloutStatus.FAILED
    if dropped:
        return RolloutStatus.NO_SIGNAL
    if masked:
        return RolloutStatus.TRUNCATED
    return RolloutStatus.KEPT if accepted else RolloutStatus.REJECTED


class RewardValue(Model):
    """The value of one reward."""

    name: str
    value: Finite | None
    """None where the reward does not apply, or one of the response's rewards failed."""


def find_right(rewards: Iterable[RewardValue]) -> bool | None:
    """Whether the answer is right, by the first reward of `RIGHT_BY` that applies; None if there is none."""
    values = {reward.name: reward.value for reward in rewards}
    known = [value for name in RIGHT_BY if (value := values.get(name)) is not None]
    return known[0] >= 0.5 if known else None


class RolloutRow(Row):
    """One response."""

    step: int = Field(ge=1)
    """One-based number of the optimizer step that it was sampled for."""
    round: int = Field(ge=0)
    """Round of sampling within the step. Rounds after 0 replace groups without signal."""
    question_id: Identifier
    kind: QuestionKind
    category: QuestionCategory
    video_id: VideoId
    number: int = Field(ge=0)
    """Number of the response among those to the same prompt."""
    prompt_tokens: int = Field(ge=0)
    """Number of tokens of the prompt, with those of the video."""
    response: str
    """The whole response as text, without special tokens."""
    response_tokens: int = Field(ge=0)
    """Number of tokens of the response, with the one that ends the turn."""
    finish: Finish
    answer: str | None
    """The parsed answer; None if there is none."""
    right: bool | None
    """Whether the answer is right (`find_right`); None if no reward states it."""
    rewards: tuple[RewardValue, ...]
    """Values of the rewards in the order of the recipe."""
    reward: Finite | None
    """Weighted sum of the rewards; None if none is known."""
    failure: str | None
    """Message of the first reward that failed; None if none did."""
    advantage: Finite | None
    """None if the group was dropped."""
    status: RolloutStatus
    log_prob: Finite
    """Mean log-probability of the tokens, by the engine that sampled them; 0 for a response without tokens."""
    mismatch_k1: Finite | None
    """Mean over the tokens of the engine's log-probability minus the trainer's before the update, in nats; None if the
    group was dropped."""
    mismatch_k3: Finite | None
    """Mean over the tokens of exp(x) - x - 1, where x is the trainer's log-probability minus the engine's."""
    entropy: Finite | None
    """Mean entropy of the trainer's distributions before the update, in nats per token."""


class RolloutFolder:
    """The rollouts of a run. Only rank 0 writes them."""

    def __init__(self, out: Path) -> None:
        """
        Args:
            out: folder of the run.
        """
        self.folder = out / "rollouts"

    def path(self, step: int) -> Path:
        """The file of a step."""
        return self.folder / f"step-{step:06d}.parquet"

    def write(self, step: int, rows: Iterable[RolloutRow]) -> Path:
        """Write the rollouts of a step, atomically, and return the file. A file of the same step is replaced.

        Raises:
            FullDisk: the disk is full.
        """
        path = self.path(step)
        atomic_write_bytes(path, rows_to_parquet(rows, RolloutRow))
        return path

    def read(self, step: int) -> list[RolloutRow]:
        """The rollouts of a step, in the order in which they were written.

        Raises:
            FileNotFoundError: the step has no file.
            SchemaError: the file is damaged, or of another version.
        """
        path = self.path(step)
        return rows_from_parquet(path.read_bytes(), RolloutRow, str(path))

    def drop_after(self, step: int) -> None:
        """Remove the files of later steps, which a run wrote after the checkpoint that it resumes from."""
        for path in sorted(self.folder.glob("step-*.parquet")):
            found = re.fullmatch(r"step-(\d{6,})", path.stem)
            if found and int(found[1]) > step:
                path.unlink()
                log.info("%s is of a step after the checkpoint and was removed", path)
