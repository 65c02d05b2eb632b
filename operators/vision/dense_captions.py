"""Composes captions of clips from dense captions, which people or an earlier tool wrote about spans of the video."""

from __future__ import annotations

from collections.abc import Sequence

from operators.video.timecode import format_time
from schemas.tables import Annotation, Clip

MIN_SHARED_US = 1_000_000
"""Shortest time, in microseconds, that a dense caption and a clip have in common for one to describe the other. For a
dense caption of less than two seconds it is half of its duration."""


def compose_caption(clip: Clip, captions: Sequence[Annotation]) -> str:
    """The dense captions that describe a clip, in order of time, as one text; empty without any.

    One that begins or ends outside of the clip is whole in each clip that it describes, with its times, so that a
    reader of several captions knows that it is the same event.
    """
    found = []
    for each in sorted(captions, key=lambda each: (each.start_us, each.end_us)):
        shared_us = min(each.end_us, clip.end_us) - max(each.start_us, clip.start_us)
        if shared_us < min(MIN_SHARED_US, (each.end_us - each.start_us + 1) // 2):
            continue
        text = " ".join(each.text.split())
        text = text if text.endswith((".", "!", "?")) else f"{text}."
        is_inside = each.start_us > clip.start_us - MIN_SHARED_US and each.end_us < clip.end_us + MIN_SHARED_US
        times = "" if is_inside else f"From {format_time(each.start_us)} to {format_time(each.end_us)}: "
        found.append(f"{times}{text}")
    return " ".join(found)
