"""The interface of rollouts: requests about videos, how to sample, and the responses with their log-probabilities.

The sampler on the trainer's own model (`trainer_plugin.rl.sampler`) implements it. An engine such as vLLM can, too:
`RolloutRequest.unexpanded_ids` are for that. Token ids and log-probabilities travel as they were sampled. Nothing is
tokenised a second time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from pydantic import Field, model_validator
from torch import Tensor

from schemas.base import Model
from trainer_plugin.types import Example


class Finish(StrEnum):
    """Why a response ended."""

    STOP = "stop"
    """The model ended its turn."""
    LENGTH = "length"
    """The response reached the length limit."""


class SamplingSettings(Model):
    """How responses are sampled. Top-p, top-k and penalties do not exist here.

    They would sample from another distribution than the one whose log-probabilities the loss uses.
    """

    temperature: float = Field(default=1.0, gt=0)
    """Divisor of the logits, for sampling and for all log-probabilities."""
    max_tokens: int = Field(default=1024, ge=1)
    """Maximum number of tokens of a response, with the token that ends the turn."""
    greedy: bool = False
    """Take the likeliest token. Log-probabilities are then those of temperature 1, and `temperature` must be 1."""

    @model_validator(mode="after")
    def _greedy_has_no_temperature(self) -> SamplingSettings:
        if self.greedy and self.temperature != 1:
            raise ValueError(f"greedy sampling with temperature {self.temperature}; set temperature to 1")
        return self


@dataclass(frozen=True)
class RolloutRequest:
    """One prompt about a video."""

    prompt: Example
    """The prompt as the trainer lays it out: expanded ids, positions and clips, without labels. `prompt.key` names the
    sample."""
    unexpanded_ids: tuple[int, ...]
    """The same prompt with one placeholder for each video, as engines with a processor of their own take it."""
    seed: int
    """Seed of the request. With the number of the response it determines the random numbers, whatever the ranks."""


@dataclass(frozen=True)
class RolloutResponse:
    """One sampled response."""

    token_ids: Tensor
    """int64 [R], with the token that ends the turn, if there is one."""
    log_probs: Tensor
    """float32 [R]: log-probabilities of these tokens by the engine that sampled them. The trainer refuses values that
    are not finite."""
    finish: Finish
    prompt_ids: Tensor
    """int64: the expanded prompt as the engine ran it, which the trainer compares with its own
    (`RolloutRequest.prompt`)."""


OnResponse = Callable[[RolloutRequest, int, RolloutResponse], None]
"""Called with a request, the number of a response to it, and the response. All ranks wait for it, so it should return
soon, e.g. after it has started a call elsewhere."""


class RolloutEngine(Protocol):
    """Samples responses. Every rank must call it, with its own requests."""

    def generate(
        self,
        requests: Sequence[RolloutRequest],
        responses: int,
        sampling: SamplingSettings,
        on_response: OnResponse | None = None,
    ) -> list[list[RolloutResponse]]:
        """Sample `responses` responses to each request.

        Ranks that share a row (sequence parallelism) pass the same requests and receive the same responses.

        Args:
            on_response: called as each response ends, on the first rank of those that share a row only. An exception
                in it ends `generate` on every rank, as in `run_on_all_ranks`.

        Raises:
            BadInput: on every rank, if a request cannot be sampled. The message names the sample.
        """
