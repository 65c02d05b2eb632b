"""Provenance of a generated text. Every row that a model or a program wrote has one."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from schemas.base import Model, canonical_json


def _object_to_text(value: Any) -> Any:
    return canonical_json(value) if isinstance(value, dict) else value


def _assert_json_object(text: str) -> str:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ValueError(f"it must be a JSON object such as {{'enable_thinking': false}}: {error}") from error
    if not isinstance(value, dict):
        raise ValueError("it must be a JSON object such as {'enable_thinking': false}")
    return canonical_json(value)


Temperature = Annotated[float, Field(ge=0.0, le=2.0)]
TopP = Annotated[float, Field(gt=0.0, le=1.0)]
Tokens = Annotated[int, Field(ge=1)]
JsonObject = Annotated[str, BeforeValidator(_object_to_text), AfterValidator(_assert_json_object)]
"""A JSON object as canonical text. A mapping is accepted, too."""


class SamplingOptions(Model):
    """Sampling parameters that are sent only where they are set. Not every server knows all of them."""

    top_k: int | None = Field(default=None, ge=-1)
    """Tokens are drawn from this many most likely ones."""
    min_p: float | None = Field(default=None, ge=0.0, le=1.0)
    """Tokens are drawn from those with at least this share of the most likely token's probability."""
    presence_penalty: float | None = Field(default=None, ge=-2.0, le=2.0)
    """Amount that is subtracted from the logits of tokens that the answer has already."""
    frequency_penalty: float | None = Field(default=None, ge=-2.0, le=2.0)
    """Amount that is subtracted from a token's logit for each time that the answer has it."""
    repetition_penalty: float | None = Field(default=None, gt=0.0, le=2.0)
    """Factor by which the logits of earlier tokens are divided (above 1: fewer repetitions)."""
    thinking_token_budget: int | None = Field(default=None, ge=0)
    """Tokens of thinking after which the server ends it. vLLM needs `--reasoning-config` for it."""
    chat_template_kwargs: JsonObject | None = None
    """Variables of the model's chat template, such as `{"enable_thinking": false}` for Qwen3."""


class Sampling(SamplingOptions):
    """Sampling parameters of a request. They are part of its hash, as they change the answer."""

    temperature: Temperature = 0.0
    """Softmax temperature. 0 always takes the most likely token."""
    top_p: TopP = 1.0
    """Nucleus sampling: tokens are drawn from the smallest set whose probabilities add up to this."""
    max_tokens: Tokens = 1024
    """Maximum number of tokens of an answer, in a prompt without its thinking."""


class SamplingOverrides(SamplingOptions):
    """Sampling parameters of one role's model. What is set here replaces what a prompt sets."""

    temperature: Temperature | None = None
    """Softmax temperature. 0 always takes the most likely token."""
    top_p: TopP | None = None
    """Nucleus sampling: tokens are drawn from the smallest set whose probabilities add up to this."""
    max_tokens: Tokens | None = None
    """Maximum number of tokens of every answer without its thinking."""


class Provenance(Model):
    """Author, request and cost of a text: enough to repeat the request and to explain the text."""

    model: str
    """Name of the model that was requested; `measured` or `program` for texts that no model wrote."""
    served_model: str = ""
    """Name of the model that the server states in its answer. It may be an alias of `model`. Empty if it states none,
    for texts that no model wrote, and in tables of earlier versions."""
    prompt_id: str = ""
    """File stem of the prompt in `prompts/`; empty if no prompt was used."""
    prompt_sha256: str = ""
    sampling: Sampling = Sampling()
    """As it was sent: `max_tokens` includes room for thinking."""
    seed: int = 0
    tokens_in: int = Field(default=0, ge=0)
    tokens_out: int = Field(default=0, ge=0)
    finish_reason: Literal["stop", "length", "content_filter", "none"] = "none"
    """Why the model stopped; `none` for texts that no model wrote."""
    raw: str = ""
    """The raw answer, before parsing. Thoughts come first, between `<think>` and `</think>`."""
    request_sha256: str = ""
    """Hash of the whole request, which is the journal's key."""


class StepProvenance(Model):
    """The model and the prompt of one step on the way to a sample."""

    step: str
    """`caption`, `outline`, `question`, `reason`, `refine`, or a check (`schemas.tables.Check`), such as `difficulty`.
    """
    model: str
    """Name of the model that was requested; `measured` or `program` if there was none."""
    served_model: str = ""
    """Name of the model that its server states."""
    prompt_id: str = ""
    """Id of the prompt. `judge` compares answers of the step's own model with the right one."""
    prompt_sha256: str = ""
    """Hash of the prompt."""


def list_steps(step: str, provenances: Iterable[Provenance]) -> tuple[StepProvenance, ...]:
    """The models and prompts of one step, each once, in the order of their first use."""
    found = (
        StepProvenance(
            step=step,
            model=each.model,
            served_model=each.served_model,
            prompt_id=each.prompt_id,
            prompt_sha256=each.prompt_sha256,
        )
        for each in provenances
    )
    return tuple(dict.fromkeys(found))
