"""The plan of a video's questions: how many, of which category, kind and reach, and about which parts of the video.

The number grows with the duration. Categories, kinds and reaches follow the configured mix as closely as whole numbers
allow. A slot of the plan that no kept question fills is requested again (`open_slots`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeVar

from schemas.base import Span, digest
from schemas.config import QuestionConfig
from schemas.tables import Question, QuestionCategory, QuestionKind, Reach

FAR = 1 / 3
"""Share of the video that lies between the first and the last part of far-reaching evidence, at least."""
FAR_SECONDS = 60.0
"""Shortest video, in seconds, that has far-reaching questions. Below it every question is about all of the video."""

K = TypeVar("K")


@dataclass(frozen=True)
class Slot:
    """A question to request."""

    category: QuestionCategory
    kind: QuestionKind
    reach: Reach
    around_us: tuple[int, ...]
    """Times that the question should draw on: one if it is near, two that are half of the video apart if it is far."""

    @property
    def cell(self) -> tuple[QuestionCategory, QuestionKind, Reach]:
        """What the plan counts."""
        return self.category, self.kind, self.reach


def plan_slots(video_id: str, duration_us: int, config: QuestionConfig, seed: int) -> list[Slot]:
    """The slots of a video's plan, by category, in order of time within each.

    Kinds and reaches are dealt to the slots at random, so that over many videos every category has all of them.

    Args:
        video_id: id of the video.
        duration_us: duration of the video in microseconds.
        config: number of questions per duration, and the mix.
        seed: the build's seed. It and the video's id determine the deal.
    """
    total = round(duration_us / 1_000_000 / config.seconds_per_question)
    total = min(max(total, config.min_questions), config.max_questions)
    weights = {category: config.mix.weight(category) for category in config.categories}
    far_share = config.far_share if duration_us >= FAR_SECONDS * 1_000_000 else 0.0
    choices = (
        round(total * config.choice_share) if len(config.kinds) > 1 else total * (QuestionKind.CHOICE in config.kinds)
    )
    far = math.ceil(total * far_share)
    rng = Random(digest([seed, "plan", video_id]))
    kinds = _deal(QuestionKind.CHOICE, choices, QuestionKind.OPEN, total, rng)
    reaches = _deal(Reach.FAR, far, Reach.NEAR, total, rng)
    return [
        Slot(category, kinds.pop(), reach := reaches.pop(), _times(duration_us, index, count, reach))
        for category, count in apportion(total, weights).items()
        for index in range(count)
    ]


def open_slots(plan: Sequence[Slot], kept: Sequence[Question]) -> list[Slot]:
    """The slots of the plan that no kept question fills.

    A question fills a slot of its own category, kind and reach, whichever slot it was requested for.
    """
    filled = Counter((question.category, question.kind, question.reach) for question in kept)
    missing: list[Slot] = []
    for slot in plan:
        if filled[slot.cell]:
            filled[slot.cell] -= 1
        else:
            missing.append(slot)
    return missing


def reach_of(evidence: Sequence[Span], duration_us: int) -> Reach:
    """Whether the evidence reaches over at least `FAR` of the video: from the end of its first part to its last."""
    ordered = sorted(evidence, key=lambda span: span.start_us)
    if len(ordered) < 2:
        return Reach.NEAR
    return Reach.FAR if ordered[-1].start_us - ordered[0].end_us >= FAR * duration_us else Reach.NEAR


def apportion(total: int, weights: Mapping[K, float]) -> dict[K, int]:
    """Divide a number in proportion to weights by the largest remainder (Hamilton's method).

    Raises:
        ValueError: no weight is positive.
    """
    whole = sum(weights.values())
    if whole <= 0:
        raise ValueError(f"the weights {dict(weights)} have no positive one; give at least one category a share")
    shares = {key: total * weight / whole for key, weight in weights.items()}
    counts = {key: int(share) for key, share in shares.items()}
    by_remainder = sorted(shares, key=lambda key: counts[key] - shares[key])
    for key in by_remainder[: total - sum(counts.values())]:
        counts[key] += 1
    return counts


def _deal(one: K, count: int, other: K, total: int, rng: Random) -> list[K]:
    """`count` times one value and the other for the rest of `total`, shuffled."""
    return rng.sample([*[one] * count, *[other] * (total - count)], total)


def _times(duration_us: int, index: int, count: int, reach: Reach) -> tuple[int, ...]:
    """The middle of part `index` of `count` equal parts of the video; for far slots, of both halves of the video."""
    if reach is Reach.NEAR:
        return (duration_us * (2 * index + 1) // (2 * count),)
    middle = duration_us * (2 * index + 1) // (4 * count)
    return (middle, middle + duration_us // 2)
