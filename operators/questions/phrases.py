"""Wordings of programmatic questions and answers, as a person would write them after watching the video.

A question has several equivalent wordings, selected by seed. An answer has one fixed form, because `questions.proof`
must reproduce it.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from schemas.base import Region
from schemas.tables import QuestionKind, Template

REGIONS = {
    Region.TOP_LEFT: "top left",
    Region.TOP: "top centre",
    Region.TOP_RIGHT: "top right",
    Region.LEFT: "centre left",
    Region.CENTER: "centre",
    Region.RIGHT: "centre right",
    Region.BOTTOM_LEFT: "bottom left",
    Region.BOTTOM: "bottom centre",
    Region.BOTTOM_RIGHT: "bottom right",
}

_ASKED = {
    Template.ORDER: (
        "In which order do these texts appear on screen: {list}?",
        "Put these on-screen texts in the order in which they appear: {list}.",
        "The texts {list} are shown during the video. In what order do they first appear?",
    ),
    Template.AFTER: (
        "Which text appears on screen right after {0}?",
        "What is the next text to come up after {0} is shown?",
        "Once {0} has been shown, which on-screen text follows directly?",
    ),
    Template.BEFORE: (
        "Which text appears on screen right before {0}?",
        "What is the last text to come up before {0} is shown?",
        "Directly before {0} comes up, which on-screen text is shown?",
    ),
    Template.WHEN: (
        "At about what time does the text {0} appear?",
        "When in the video does {0} come up on screen, as minutes and seconds?",
    ),
    Template.REGION: (
        "Where in the picture does the text {0} stand?",
        "In which part of the picture can {0} be read?",
    ),
}
_SHOWINGS = (
    "How many separate times does the text {0} appear on screen?",
    "How often is {0} shown in the course of the video, counting each time it comes up?",
)
_BETWEEN = (
    "How many different texts come up on screen after {0} and before {1}?",
    "Between the appearance of {0} and that of {1}, how many other texts appear on screen?",
)
_LONGEST = (
    "Which of these texts stays on screen the longest{list}?",
    "Which text can be read for the longest time{list}?",
)
_HOW_LONG = ("About how long does the text {0} stay on screen?", "For roughly how many seconds can {0} be read?")


def quoted(text: str) -> str:
    return f'"{text}"'


def listed(words: Sequence[str]) -> str:
    """The words as `a`, `a and b` or `a, b and c`."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def question_text(template: Template, subjects: Sequence[str], kind: QuestionKind, rng: Random) -> str:
    """The question in one of its wordings. A choice question does not repeat the texts that are its options."""
    names = [quoted(subject) for subject in subjects]
    if template is Template.COUNT:
        wordings: Sequence[str] = _SHOWINGS if len(names) == 1 else _BETWEEN
    elif template is Template.DURATION:
        wordings = _HOW_LONG if len(names) == 1 else _LONGEST
    else:
        wordings = _ASKED[template]
    in_list = listed(names)
    if template is Template.DURATION:
        in_list = f": {in_list}" if kind is QuestionKind.OPEN else ""
    return rng.choice(wordings).format(*names, list=in_list)


def in_order(texts: Sequence[str]) -> str:
    """The quoted texts in order, as `"A", then "B", then "C"`."""
    return ", then ".join(map(quoted, texts))


def about_seconds(duration_us: int) -> str:
    """The duration rounded to seconds, as `about 6 seconds`."""
    seconds = round(duration_us / 1_000_000)
    return "about 1 second" if seconds == 1 else f"about {seconds} seconds"


def place_seen(region: Region) -> str:
    """The position of a region in the picture, in other words than its name in `REGIONS`."""
    row, column = divmod(tuple(Region).index(region), 3)
    sides = ("towards the left edge", "half-way between the left and the right edge", "towards the right edge")
    return f"in the {('upper', 'middle', 'lower')[row]} third of the picture, {sides[column]}"
