"""The sampling parameters of a request: those of its prompt, as the settings of the role's model change them."""

from __future__ import annotations

import functools
import logging

from schemas.config import ModelConfig, Role
from schemas.provenance import Sampling

log = logging.getLogger(__name__)

RECOMMENDED_FOR_THINKING = {"temperature": 0.6, "top_p": 0.95, "top_k": 20}
"""Values for a thinking model that would decode greedily, from the model cards of Qwen3: "DO NOT use greedy decoding,
as it can lead to performance degradation and endless repetitions"."""


def sampling_for(sampling: Sampling, config: ModelConfig, role: Role, max_tokens: int | None = None) -> Sampling:
    """The parameters that are sent.

    Args:
        sampling: the prompt's.
        max_tokens: limit of every answer with its thinking, also where prompt and settings allow more.

    Returns:
        Parameters whose `max_tokens` has room for answer and thinking.
    """
    changed = sampling.model_copy(update=config.sampling.model_dump(exclude_none=True))
    if config.thinking_room and changed.temperature == 0:
        _warn_of_greedy_decoding(role, config.model)
        # What the settings name stays, even at temperature 0.
        named = config.sampling.model_dump(exclude_none=True).keys() - {"temperature"}
        recommended = {name: value for name, value in RECOMMENDED_FOR_THINKING.items() if name not in named}
        changed = changed.model_copy(update=recommended)
    room = changed.max_tokens + config.thinking_room
    return changed.model_copy(update={"max_tokens": room if max_tokens is None else min(room, max_tokens)})


@functools.cache
def _warn_of_greedy_decoding(role: Role, model: str) -> None:
    log.warning(
        "%s: %s thinks and would decode greedily, so temperature %s, top_p %s and top_k %s are used; set others as "
        "models.%s.sampling",
        role.value,
        model,
        *RECOMMENDED_FOR_THINKING.values(),
        role.value,
    )
