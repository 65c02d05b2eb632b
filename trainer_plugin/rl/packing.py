"""Rows of groups: several small groups in one, a large group in chunks, and what fits neither is named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trainer_plugin.types import PromptGroup, UnusableSample


@dataclass(frozen=True)
class GroupRow:
    """Groups that are trained on in one row, or one group in chunks."""

    groups: tuple[PromptGroup, ...]
    chunk_tokens: int | None = None
    """Maximum number of tokens of a chunk (`plan_chunks`); None: the groups share one row."""


def shared_tokens(group: PromptGroup) -> int:
    """Number of tokens of a group in a row: the prompt without its last token, and that token with each response."""
    return len(group.prompt.input_ids) - 1 + sum(len(ids) + 1 for ids in group.responses)


def pack_groups(
    groups: Sequence[PromptGroup], row_tokens: int
) -> tuple[tuple[GroupRow, ...], tuple[UnusableSample, ...]]:
    """Distribute groups over rows of at most `row_tokens` tokens. The result depends on the arguments alone.

    Groups that fit are packed, the largest first, each into the first row with room. A larger group is trained on in
    chunks, each as large as the room that its prompt leaves in a row.

    Args:
        groups: with at least one response each.
        row_tokens: maximum number of tokens of a row, or of a prompt and one chunk.

    Returns:
        The rows, and the groups that fit no row: reason `too_long`, with what to do.
    """
    rows: list[tuple[int, list[PromptGroup]]] = []
    chunked: list[GroupRow] = []
    unusable: list[UnusableSample] = []
    for group in sorted(groups, key=shared_tokens, reverse=True):
        tokens = shared_tokens(group)
        prompt, longest = len(group.prompt.input_ids) - 1, max(len(ids) for ids in group.responses) + 1
        if prompt + longest > row_tokens:
            message = (
                f"its prompt of {prompt + 1} tokens and its longest response of {longest - 1} do not fit a row of "
                f"{row_tokens}; raise row_tokens, or lower the number of frames or the response length"
            )
            unusable.append(UnusableSample(group.key, "too_long", message))
            continue
        if tokens > row_tokens:
            chunked.append(GroupRow((group,), row_tokens - prompt))
            continue
        for number, (used, packed) in enumerate(rows):
            if used + tokens <= row_tokens:
                rows[number] = (used + tokens, [*packed, group])
                break
        else:
            rows.append((tokens, [group]))
    return (*chunked, *(GroupRow(tuple(packed)) for _, packed in rows)), tuple(unusable)
