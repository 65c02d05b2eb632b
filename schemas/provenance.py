"""Provenance of a generated text. Every row that a model or a program wrote has one."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from schemas.base import Model


class Sampling(Model):
    """Sampling parameters of a request. They are part of its hash, as they change the answer."""

    temperature: float = Field(default=0.0, ge=0.0, le=2.0)
    """Softmax temperature. 0 always takes the most likely token."""
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    """Nucleus sampling: tokens are drawn from the smallest set whose probabilities add up to this."""
    max_tokens: int = Field(default=1024, ge=1)
    """Maximum number of tokens of an answer."""


class Provenance(Model):
    """Author, request and cost of a text: enough to repeat the request and to explain the text."""

    model: str
    """Name of the model on its server; `measured` or `program` for texts that no model wrote."""
    prompt_id: str = ""
    """File stem of the prompt in `prompts/`; empty if no prompt was used."""
    prompt_sha256: str = ""
    sampling: Sampling = Sampling()
    seed: int = 0
    tokens_in: int = Field(default=0, ge=0)
    tokens_out: int = Field(default=0, ge=0)
    finish_reason: Literal["stop", "length", "content_filter", "none"] = "none"
    """Why the model stopped; `none` for texts that no model wrote."""
    raw: str = ""
    """The raw answer, before parsing."""
    request_sha256: str = ""
    """Hash of the whole request, which is the journal's key."""
