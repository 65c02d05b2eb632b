"""Divides speech among the clips of a video, so that every word is in one clip."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence

from schemas.tables import Annotation, Clip

WHOLE = 2 / 3
"""Share of a passage inside one clip from which all of it is given to that clip: short sentences stay whole."""
_CJK = "\u3040-\u30ff\u3400-\u9fff"
_WORD = re.compile(rf"[{_CJK}]\s*|[^\s{_CJK}]+\s*")
"""Words with the space after them; single characters of scripts that do not separate words."""


def share_speech(speech: Sequence[Annotation], clips: Sequence[Clip]) -> list[tuple[Annotation, ...]]:
    """The speech of each clip, in order of time.

    A passage is given to the clip that holds at least two thirds of it. Any other is divided by its words, as if all of
    them took the same time. Times outside of the clips are moved to their border.

    Args:
        speech: passages on the video's timeline.
        clips: clips that tile the video, in order of time.
    """
    shares: list[list[Annotation]] = [[] for _ in clips]
    ends_us = [clip.end_us for clip in clips]
    for passage in sorted(speech, key=lambda each: (each.start_us, each.end_us)):
        start_us, end_us = max(passage.start_us, clips[0].start_us), min(passage.end_us, clips[-1].end_us)
        found = _WORD.findall(passage.text.strip())
        if start_us >= end_us or not found:
            continue
        parts: dict[int, list[str]] = {}
        middle = bisect_right(ends_us, (start_us + end_us) // 2)
        if _overlap(clips[middle], start_us, end_us) >= WHOLE * (end_us - start_us):
            parts[middle] = found
        else:
            for number, each in enumerate(found):
                time_us = start_us + (end_us - start_us) * (2 * number + 1) // (2 * len(found))
                parts.setdefault(bisect_right(ends_us, time_us), []).append(each)
        for index, own in parts.items():
            part = {
                "start_us": max(start_us, clips[index].start_us),
                "end_us": min(end_us, clips[index].end_us),
                "text": "".join(own).strip(),
            }
            shares[index].append(passage.model_copy(update=part))
    return [tuple(share) for share in shares]


def _overlap(clip: Clip, start_us: int, end_us: int) -> int:
    return min(end_us, clip.end_us) - max(start_us, clip.start_us)
