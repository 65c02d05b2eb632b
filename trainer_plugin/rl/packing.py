"""Rows of groups for all data-parallel ranks: several small groups in one row, a large group in chunks.

Rows come in rounds of one for each data-parallel rank. In a round all ranks do the same kind of pass, because every
pass contains collectives.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from trainer_plugin.types import PromptGroup, UnusableSample


@dataclass(frozen=True)
class GroupRow:
    """Groups that are trained on in one row, or one group in chunks."""

    numbers: tuple[int, ...] = ()
    """Indices of its groups among all groups. Empty for a rank that has no row in a round."""
    chunk_tokens: int | None = None
    """Maximum number of tokens of a chunk (`plan_chunks`); None: the groups share one row."""


@dataclass(frozen=True)
class Round:
    """One row for each data-parallel rank."""

    rows: tuple[GroupRow, ...]
    chunked: bool
    """Whether the rows are in chunks."""


def shared_tokens(group: PromptGroup) -> int:
    """Number of tokens of a group in a row: the prompt without its last token, and that token with each response."""
    return len(group.prompt.input_ids) - 1 + sum(len(ids) + 1 for ids in group.responses)


def pack_groups(
    groups: Sequence[PromptGroup], row_tokens: int, ranks: int = 1
) -> tuple[tuple[Round, ...], tuple[UnusableSample, ...]]:
    """Distribute groups over rows of at most `row_tokens` tokens. The result depends on the arguments alone.

    Groups that fit are packed into as few rounds as possible, the largest first, each into the row with the most room,
    so that ranks have about equally many tokens. A larger group is trained on in chunks, each as large as the room that
    its prompt leaves in a row.

    Args:
        groups: with at least one response each.
        row_tokens: maximum number of tokens of a row, or of a prompt and one chunk.
        ranks: number of data-parallel ranks.

    Returns:
        The rounds, and the groups that fit no row: reason `too_long`, with what to do.
    """
    small: list[tuple[int, int]] = []
    large: list[tuple[int, GroupRow]] = []
    unusable: list[UnusableSample] = []
    for number, group in enumerate(groups):
        tokens = shared_tokens(group)
        prompt, longest = len(group.prompt.input_ids) - 1, max(len(ids) for ids in group.responses) + 1
        if prompt + longest > row_tokens:
            message = (
                f"its prompt of {prompt + 1} tokens and its longest response of {longest - 1} do not fit a row of "
                f"{row_tokens}; raise row_tokens, or lower the number of frames or the response length"
            )
            unusable.append(UnusableSample(group.key, "too_long", message))
        elif tokens > row_tokens:
            large.append((tokens, GroupRow((number,), row_tokens - prompt)))
        else:
            small.append((tokens, number))
    chunked = [row for _, row in sorted(large, key=lambda each: -each[0])]
    whole = [GroupRow(numbers) for numbers in _pack(small, row_tokens, ranks)]
    rounds = [
        Round((*rows, *[GroupRow()] * (ranks - len(rows))), kind is chunked)
        for kind in (chunked, whole)
        for rows in (kind[start : start + ranks] for start in range(0, len(kind), ranks))
    ]
    return tuple(rounds), tuple(unusable)


def _pack(sizes: Sequence[tuple[int, int]], row_tokens: int, ranks: int) -> list[tuple[int, ...]]:
    """The groups of each row, from (tokens, number) of each group; the fullest rows first."""
    ordered = sorted(sizes, key=lambda each: (-each[0], each[1]))
    total = sum(tokens for tokens, _ in sizes)
    rows = ranks * max(1, -(-total // (ranks * row_tokens)))
    while True:
        bins: list[tuple[int, int, tuple[int, ...]]] = [(0, row, ()) for row in range(rows)]
        for tokens, number in ordered:
            used, row, numbers = bins[0]  # the row with the most room
            if used + tokens > row_tokens:
                break
            heapq.heapreplace(bins, (used + tokens, row, (*numbers, number)))
        else:
            return [numbers for _, _, numbers in sorted(bins, key=lambda each: (-each[0], each[1])) if numbers]
        rows += ranks
