"""The format reward: whether a response is a thought and an answer, in the tags of `schemas.answer_format`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from schemas.answer_format import parse_response


def format_reward(prompts: Sequence[str], completions: Sequence[str], **_: Any) -> list[float]:
    """1 for a well-formed response, else 0. Where the prompt ends with `<think>`, the response must not repeat it."""
    return [
        float(parse_response(text, thought_is_open=prompt.rstrip().endswith("<think>")).is_well_formed)
        for prompt, text in zip(prompts, completions, strict=True)
    ]
