"""What models are asked to answer with: one model per prompt, named in the prompt's front matter as its `output`.

The JSON schema that a server decodes by is made from these models, descriptions included.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, StringConstraints

from schemas.base import Model


class Written(Model):
    """Something a model writes. A field too many is passed over: not every server decodes by the schema."""

    model_config = ConfigDict(extra="ignore")


# The schema holds a decoder to four numbers; reading is lenient, so that an answer that was cut off inside a box still
# counts. The stage drops what is incomplete.
Corners = Annotated[tuple[float, ...], Field(default=(), json_schema_extra={"minItems": 4, "maxItems": 4})]


class SeenObject(Written):
    """A person, animal or thing at one moment."""

    label: str = ""
    """One to three words."""
    time: str = ""
    """The time written before the frame in which it is seen, e.g. 01:12.40."""
    box: Corners
    """Left, top, right and bottom edge, as fractions of the frame's width and height from 0 to 1."""


class SeenText(Written):
    """Words that can be read in the picture."""

    text: str = ""
    """Exactly as written."""
    first: str = ""
    """The time written before the first frame that shows it."""
    last: str = ""
    """The time written before the last frame that shows it."""
    box: Corners
    """Left, top, right and bottom edge, as fractions of the frame's width and height from 0 to 1."""


class ClipDescription(Written):
    """What a captioner sees in a few seconds of a video."""

    text: str = Field(min_length=1)
    """The description."""
    objects: tuple[SeenObject, ...] = ()
    on_screen_text: tuple[SeenText, ...] = ()


# The longest lengths are there to stop a small model that does not come to an end; what people write is far shorter.
AskedText = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=300)]
AnswerText = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=120)]
_CLOCK = "([0-9]{1,2}:)?[0-5][0-9]:[0-5][0-9]"
TimeRange = Annotated[str, Field(pattern=f"^{_CLOCK}( - {_CLOCK})?$")]
"""A part of the video as it is shown, `00:10 - 00:20` or `1:00:10 - 1:00:20`, or a moment, `00:12`."""
Evidence = Annotated[tuple[TimeRange, ...], Field(min_length=1, max_length=8)]


class WrittenChoice(Written):
    """A question with one right and three wrong answers."""

    evidence: Evidence
    """The parts of the video that one must have seen to answer."""
    question: AskedText
    answer: AnswerText
    """The right answer, in a few words."""
    wrong_answers: Annotated[tuple[AnswerText, ...], Field(min_length=3, max_length=3)]
    """Plausible, and wrong."""


class WrittenOpen(Written):
    """A question with a short answer."""

    evidence: Evidence
    """The parts of the video that one must have seen to answer."""
    question: AskedText
    answer: AnswerText
    """One to ten words, a number or a time."""


class ChainOfThought(Written):
    """How the answer follows from what the video shows."""

    reasoning: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=3000)]
    evidence: Evidence
    """The parts of the video that the reasoning rests on."""


class Letter(Written):
    """The chosen option."""

    answer: Literal["A", "B", "C", "D"]


class ShortAnswer(Written):
    """A free answer."""

    answer: AnswerText
    """One to ten words, a number or a time."""


class Verdict(Written):
    """Do two answers to a question mean the same?"""

    same: bool
