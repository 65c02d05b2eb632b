"""Divides a video into scenes: runs of clips with a common topic, by the words of their captions.

Scenes have 8 to 20 clips, 80 s to 200 s at clips of ten seconds. A boundary lies where the words of the captions before
and after it differ most, as in TextTiling (M. Hearst, Computational Linguistics 23, 1997). Among all divisions into
scenes of a valid length, dynamic programming finds the one whose boundaries have the largest mean difference.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

from schemas.tables import Caption

MIN_CLIPS = 8
MAX_CLIPS = 20
WINDOW = 4
"""Captions on each side of a boundary whose words are compared."""
SUMMARY_CHARACTERS = 600
"""Characters of a summary that is made by program."""

_STOP_WORDS = frozenset(
    re.findall(
        r"\w+",
        "a an the of to in on at is are was were be been and or with by from for as it its his her their this that he "
        "she they who which there while then into out over under up down off behind front near next across",
    )
)


def plan_scenes(captions: Sequence[Caption]) -> list[list[Caption]]:
    """Divide the captions of a video, in order of time, into scenes of `MIN_CLIPS` to `MAX_CLIPS`.

    A video with fewer than twice `MIN_CLIPS` clips is one scene, if it has at most `MAX_CLIPS`.
    """
    total = len(captions)
    if total < 2 * MIN_CLIPS:
        return [list(captions)] if captions else []
    words = [_words(caption) for caption in captions]
    differences = [_difference(words, index) for index in range(total)]
    # best[n]: the largest sum of scores of a division of the first n captions, and where its last scene begins.
    best: list[tuple[float, int] | None] = [None] * (total + 1)
    best[0] = (0.0, 0)
    mean = sum(differences[1:]) / (total - 1)
    for end in range(MIN_CLIPS, total + 1):
        for start in range(max(0, end - MAX_CLIPS), end - MIN_CLIPS + 1):
            before = best[start]
            if before is None:
                continue
            score = before[0] + (differences[start] - mean if start else 0.0)
            if best[end] is None or score > best[end][0]:  # type: ignore[index]
                best[end] = (score, start)
    scenes: list[list[Caption]] = []
    end = total
    while end:
        found = best[end]
        assert found is not None  # every number from 2 x MIN_CLIPS on is a sum of valid lengths
        scenes.insert(0, list(captions[found[1] : end]))
        end = found[1]
    return scenes


def summarize_by_program(captions: Sequence[Caption]) -> str:
    """The first sentences of a scene's captions, in at most `SUMMARY_CHARACTERS`, evenly over the scene."""
    sentences = [re.split(r"(?<=[.!?])\s", " ".join(caption.text.split()), maxsplit=1)[0] for caption in captions]
    room = max(40, SUMMARY_CHARACTERS // max(1, len(sentences)) - 1)
    return " ".join(each if len(each) <= room else f"{each[: room - 1].rstrip()}…" for each in sentences)


def _words(caption: Caption) -> Counter[str]:
    texts = [caption.text, *(each.text for each in caption.screen_texts)]
    return Counter(word for word in re.findall(r"\w+", " ".join(texts).casefold()) if word not in _STOP_WORDS)


def _difference(words: Sequence[Counter[str]], boundary: int) -> float:
    """One minus the cosine similarity of the words in the windows before and after a boundary."""
    before: Counter[str] = sum(words[max(0, boundary - WINDOW) : boundary], Counter())
    after: Counter[str] = sum(words[boundary : boundary + WINDOW], Counter())
    norm = math.sqrt(sum(n * n for n in before.values()) * sum(n * n for n in after.values()))
    return 1 - sum(before[word] * after[word] for word in before) / norm if norm else 0.0
