"""Where a generated text came from: kept on every row that a model or a program wrote."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from schemas.base import Model


class Sampling(Model):
    """How tokens are drawn. Part of a request's identity: other sampling, other answer."""

    temperature: float = Field(default=0.0, ge=0.0, le=2.0)
    """0 takes the likeliest token each time."""
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    """Nucleus: the smallest set of tokens whose probabilities add up to this."""
    max_tokens: int = Field(default=1024, ge=1)
    """Most tokens that an answer may have."""


class Provenance(Model):
    """Enough to ask again and to explain: who wrote a text, from which request, at what cost."""

    model: str
    """Model name as the server knows it, or `measured` / `program` for texts that no model wrote."""
    prompt_id: str = ""
    """File stem in `prompts/`; empty when no prompt was used."""
    prompt_sha256: str = ""
    sampling: Sampling = Sampling()
    seed: int = 0
    tokens_in: int = Field(default=0, ge=0)
    tokens_out: int = Field(default=0, ge=0)
    finish_reason: Literal["stop", "length", "content_filter", "none"] = "none"
    """Why the model stopped; `none` for texts that no model wrote."""
    raw: str = ""
    """The answer as it came, before parsing."""
    request_sha256: str = ""
    """Hash of the whole request, the journal's key."""
