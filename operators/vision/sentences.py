"""Describes a clip's measurements in a few short sentences whose wording depends on the facts alone.

A small language model reads the descriptions of all clips of a video in one prompt. Each is therefore one line of well
under sixty words, with times on the video's clock, so that they read as one account of the whole.
"""

from __future__ import annotations

from collections.abc import Sequence

from operators.video.timecode import format_time
from schemas.base import Box
from schemas.tables import Clip, ScreenText

MAX_CUTS = 4
"""Maximum number of cuts whose times are listed."""
MAX_TEXTS = 4
"""Maximum number of texts that are quoted."""
DARK, DIM, BRIGHT = 0.2, 0.35, 0.6
"""Limits of mean luma, 0 to 1. Light between dim and bright is not mentioned."""
STILL, LITTLE, LIVELY = 0.0002, 0.004, 0.015
"""Limits of the mean change of luma between consecutive frames at 25 fps.

Measured on one film each: 0.001 for a figure that moves through an otherwise still picture, 0.01 for a slow pan, 0.02
to 0.03 for a music video.
"""
BLURRED = 10.0
"""Variance of the Laplacian below which a picture has hardly any edges: it is out of focus or shows a plain surface."""

_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_ROWS = ("top", "centre", "bottom")
_COLUMNS = ("left", "centre", "right")


def describe(clip: Clip, colours: Sequence[str], faces: int, texts: Sequence[ScreenText]) -> str:
    """A one-line description of the clip, beginning with its start and end.

    Args:
        clip: the clip with its measurements.
        colours: names of the dominant colours, largest area first.
        faces: largest number of faces in one frame.
        texts: on-screen texts inside the clip, in order of time.
    """
    sentences = [f"{_scene(clip, colours)}; {_shots(clip)}.", *_faces(faces), *_texts(texts)]
    return f"From {format_time(clip.start_us)} to {format_time(clip.end_us)}: " + " ".join(sentences)


def region(box: Box) -> str:
    """Name of the ninth of the frame that contains a box's centre: `top left`, `top centre`, ... `bottom right`."""
    row = min(int((box.y0 + box.y1) / 2 * 3), 2)
    column = min(int((box.x0 + box.x1) / 2 * 3), 2)
    return "centre" if row == column == 1 else f"{_ROWS[row]} {_COLUMNS[column]}"


def _scene(clip: Clip, colours: Sequence[str]) -> str:
    light = "dark " if clip.brightness < DARK else "dim " if clip.brightness < DIM else ""
    light = "bright " if clip.brightness > BRIGHT else light
    blurred = ", blurred or plain" if clip.sharpness < BLURRED else ""
    return f"a {light}scene, mostly {_enumerate(colours)}{blurred}{_movement(clip.motion)}"


def _movement(motion: float | None) -> str:
    if motion is None:
        return ""
    if motion < STILL:
        return ", still"
    if motion < LITTLE:
        return ", with little movement"
    return ", with lively movement" if motion > LIVELY else ", with movement"


def _shots(clip: Clip) -> str:
    cuts = [format_time(time) for time in clip.shot_starts_us if time > clip.start_us]
    if not cuts:
        return "one shot"
    if len(cuts) > MAX_CUTS:
        return f"{_number(len(cuts) + 1)} shots in quick succession"
    return f"{_number(len(cuts) + 1)} shots, the picture cuts at {_enumerate(cuts)}"


def _faces(count: int) -> list[str]:
    if not count:
        return []
    return ["A face is visible." if count == 1 else f"{_number(count).capitalize()} faces are visible."]


def _texts(texts: Sequence[ScreenText]) -> list[str]:
    """One sentence for each of the texts that stay longest, in order of time, and one that counts the others."""
    longest = sorted(texts, key=lambda each: each.start_us - each.end_us)[:MAX_TEXTS]
    sentences = [
        f"The text '{each.text}' appears at the {region(each.box)} from {format_time(each.start_us)} to "
        f"{format_time(each.end_us)}."
        for each in texts
        if each in longest
    ]
    if omitted := len(texts) - len(longest):
        sentences.append(f"{_number(omitted).capitalize()} more text{'s' if omitted > 1 else ''} can be read.")
    return sentences


def _enumerate(words: Sequence[str]) -> str:
    """The words as `a`, `a and b` or `a, b and c`."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _number(count: int) -> str:
    return _NUMBERS[count] if count < len(_NUMBERS) else str(count)
