"""What stages send to a model and get back: a request, and a valid answer or a typed refusal."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import BaseModel

from operators.models.exchange import TimedFrame
from operators.models.prompts import Prompt
from schemas.provenance import Provenance


@dataclass(frozen=True)
class Request:
    """A request to a model.

    `key` is the id of the clip or question that the answer belongs to. Requests with equal content need different
    seeds to get separate answers.

    Raises:
        ValueError: there are both frames and a video.
    """

    key: str
    prompt: Prompt
    text: str
    frames: tuple[TimedFrame, ...] = ()
    seed: int = 0
    video: bytes | None = None
    """An MP4 file, for servers that sample its frames themselves."""

    def __post_init__(self) -> None:
        if self.frames and self.video is not None:
            raise ValueError(f"request {self.key} has frames and a video; send one of them")


@dataclass(frozen=True)
class Answer:
    """A valid answer."""

    request: Request
    value: BaseModel
    """An instance of the prompt's output model."""
    provenance: Provenance
    truncated: bool
    """True when the model ran out of tokens and its unfinished JSON was closed where it ended."""


@dataclass(frozen=True)
class Refusal:
    """A request without a valid answer, which a stage turns into a reject. Sending it again would not help.

    Reasons: `schema` (twice no valid JSON for the output model), `empty` (twice an empty answer), `truncated` (no valid
    answer within the model's context), `blocked` (content filter), `too_long` (more than the context window),
    `request_failed` (the server fails at this request, while it answers others).
    """

    request: Request
    reason: str
    message: str
    raw: str
    """The last raw answer; empty when there was none."""
    request_sha256: str
    """Hash of the request that `raw` answers."""
