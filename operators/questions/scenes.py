"""Divides a video into scenes: runs of clips with a common topic, by the vocabulary of their captions.

Scenes have 8 to 20 clips, 80 s to 200 s at clips of ten seconds. A boundary lies where the words of the captions before
and after it differ most, as in TextTiling (M. Hearst, Computational Linguistics 23, 1997). Words that most captions
share count less. Among all divisions into scenes of a valid length, dynamic programming finds the one whose boundaries
have the largest sum of differences above the mean.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain

from schemas.tables import Caption

MIN_CLIPS = 8
MAX_CLIPS = 20
WINDOW = 4
"""Captions on each side of a boundary whose words are compared."""

_WORDS = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]{1,2}|[^\W\d_\u3040-\u30ff\u3400-\u9fff]+")
"""Words without numbers; pairs of characters of scripts that do not separate words."""


def plan_scenes(captions: Sequence[Caption]) -> list[list[Caption]]:
    """Divide the captions of a video, in order of time, into scenes of `MIN_CLIPS` to `MAX_CLIPS`.

    A video with fewer than twice `MIN_CLIPS` clips is one scene.
    """
    total = len(captions)
    if total < 2 * MIN_CLIPS:
        return [list(captions)] if captions else []
    differences = _measure_differences(captions)
    mean = sum(differences[1:]) / (total - 1)
    # The best division of the first n captions: its score, and where its last scene begins. Every number from twice
    # MIN_CLIPS on is a sum of valid lengths.
    score = [0.0] + [-math.inf] * total
    begin = [0] * (total + 1)
    for end in range(MIN_CLIPS, total + 1):
        for start in range(max(0, end - MAX_CLIPS), end - MIN_CLIPS + 1):
            found = score[start] + (differences[start] - mean if start else 0.0)
            if found > score[end]:
                score[end], begin[end] = found, start
    scenes: list[list[Caption]] = []
    end = total
    while end:
        scenes.insert(0, list(captions[begin[end] : end]))
        end = begin[end]
    return scenes


def _measure_differences(captions: Sequence[Caption]) -> list[float]:
    """How much the words before each caption differ from those from it on: 0 for the same, 1 for no common word.

    One minus the cosine similarity of the two windows, by inverse document frequency.
    """
    words = [_count_words(caption) for caption in captions]
    captions_with = Counter(chain.from_iterable(words))
    weight = {word: math.log(1 + len(words) / found) for word, found in captions_with.items()}
    return [_difference(words, index, weight) for index in range(len(words))]


def _count_words(caption: Caption) -> Counter[str]:
    texts = [caption.text, *(each.text for each in caption.screen_texts)]
    return Counter(_WORDS.findall(" ".join(texts).casefold()))


def _difference(words: Sequence[Counter[str]], boundary: int, weight: Mapping[str, float]) -> float:
    before, after = (
        {each: count * weight[each] for each, count in sum(window, Counter[str]()).items()}
        for window in (words[max(0, boundary - WINDOW) : boundary], words[boundary : boundary + WINDOW])
    )
    norm = math.sqrt(sum(n * n for n in before.values()) * sum(n * n for n in after.values()))
    return 1 - sum(value * after.get(word, 0.0) for word, value in before.items()) / norm if norm else 0.0
