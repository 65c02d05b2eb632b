"""Reviews by a judge, of which two in three must agree.

A second and a third review are requested only where the first raises a doubt. With a judge that errs in one of ten
answers, a doubt that is not justified is then confirmed in 1.9 % of the cases instead of 10 %, and most items take one
request.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from operators.models.client import Answer, ModelClient, Refusal, Request

T = TypeVar("T")

REVIEWS = 3
"""Number of reviews of an item whose first review raises a doubt."""
AGREEING = 2
"""Number of reviews that must find the same fault for it to count."""


def run_reviews(
    client: ModelClient,
    items: Sequence[T],
    make_request: Callable[[T, int], Request],
    is_doubted: Callable[[T, Answer], bool],
) -> list[list[Answer | Refusal]]:
    """Review each item once, and those that are doubted or were refused `REVIEWS` times.

    Args:
        client: the model that reviews.
        items: what is reviewed.
        make_request: makes the request of an item's review with this number, from 0. Its seed depends on the number.
        is_doubted: whether an answer finds a fault in its item.

    Returns:
        One or `REVIEWS` replies for each item, in the same order.
    """
    first = client.call([make_request(item, 0) for item in items]) if items else []
    replies = [[reply] for reply in first]
    doubted = [
        index
        for index, (item, reply) in enumerate(zip(items, first, strict=True))
        if isinstance(reply, Refusal) or is_doubted(item, reply)
    ]
    numbers = range(1, REVIEWS)
    more = client.call([make_request(items[index], n) for index in doubted for n in numbers]) if doubted else []
    for position, index in enumerate(doubted):
        replies[index] += more[position * len(numbers) : (position + 1) * len(numbers)]
    return replies
