"""What models are asked to answer with: one model per prompt, named in the prompt's front matter as its `output`.

The JSON schema that a server decodes by is made from these models, descriptions included.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field, StringConstraints

from schemas.base import Model
from schemas.tables import QuestionCategory, VideoCategory


class Written(Model):
    """Something a model writes. A field too many is passed over: not every server decodes by the schema."""

    model_config = ConfigDict(extra="ignore")


class FreeText(Written):
    """An answer without a schema: all that the model wrote, thoughts between `<think>` and `</think>` included."""

    text: str


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
    """Left, top, right and bottom edge."""


class SeenText(Written):
    """Words that can be read in the picture."""

    text: str = ""
    """Exactly as written."""
    first: str = ""
    """The time written before the first frame that shows it."""
    last: str = ""
    """The time written before the last frame that shows it."""
    box: Corners
    """Left, top, right and bottom edge."""


MOST_OBJECTS = 8
MOST_TEXTS = 32


def _cut_list(most: int) -> AfterValidator:
    """Keep the first items of a longer list: not every server decodes by the schema."""
    return AfterValidator(lambda items: items[:most])


# Without a longest list a decoder that is held to the schema may fill it until it runs out of tokens.
SeenObjects = Annotated[
    tuple[SeenObject, ...],
    _cut_list(MOST_OBJECTS),
    Field(default=(), json_schema_extra={"maxItems": MOST_OBJECTS}),
]
SeenTexts = Annotated[
    tuple[SeenText, ...],
    _cut_list(MOST_TEXTS),
    Field(default=(), json_schema_extra={"maxItems": MOST_TEXTS}),
]


class ClipDescription(Written):
    """What a captioner sees in a few seconds of a video."""

    text: str = Field(min_length=1)
    """The description."""
    objects: SeenObjects
    on_screen_text: SeenTexts


# The longest lengths are there to stop a small model that does not come to an end; what people write is far shorter.
AskedText = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=300)]
AnswerText = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=120)]
_CLOCK = "([0-9]{1,2}:)?[0-5][0-9]:[0-5][0-9]"
TimeRange = Annotated[str, Field(pattern=f"^{_CLOCK}( - {_CLOCK})?$")]
"""A part of the video as it is shown, `00:10 - 00:20` or `1:00:10 - 1:00:20`, or a moment, `00:12`."""
Evidence = Annotated[tuple[TimeRange, ...], Field(min_length=1, max_length=8)]


# Times are held to their form by a decoder only, and an entity may be cut off: no reason to drop a whole summary.
WrittenTime = Annotated[str, Field(json_schema_extra={"pattern": f"^{_CLOCK}( - {_CLOCK})?$"})]


class SeenEntity(Written):
    """A person, an animal, a thing or a place that matters in a part of a video."""

    name: Annotated[str, StringConstraints(strip_whitespace=True, max_length=100)] = ""
    """How a viewer would call it, so that nothing else in this part is called the same."""
    description: Annotated[str, StringConstraints(strip_whitespace=True, max_length=300)] = ""
    """What it is recognised by elsewhere."""
    seen: Annotated[tuple[WrittenTime, ...], Field(default=(), max_length=12)]
    """When it is seen or heard, each time as it is written in the record."""


class SceneSummary(Written):
    """What happens in one part of a video, and who and what occurs in it."""

    title: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100)]
    summary: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=1500)]
    """Two to four sentences in order of time, with times."""
    entities: Annotated[tuple[SeenEntity, ...], Field(default=(), max_length=16)]


class SameEntity(Written):
    """One person, animal, thing or place that several parts of a video mention."""

    name: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100)]
    description: Annotated[str, StringConstraints(strip_whitespace=True, max_length=300)]
    mentions: Annotated[tuple[int, ...], Field(min_length=1, max_length=200)]
    """The numbers of its mentions."""


class SameEntities(Written):
    """Which mentions mean the same person, animal, thing or place."""

    entities: Annotated[tuple[SameEntity, ...], Field(max_length=80)]
    """Only what is mentioned at least twice. Empty if there is none."""


class VideoDescription(Written):
    """What a video is about, and what kind of video it is."""

    summary: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=600)]
    """One or two sentences on what the whole video is about."""
    category: VideoCategory


# Reading is lenient: what a model writes to itself is not needed, and a long one is no reason to drop the question.
Work = Annotated[str, StringConstraints(strip_whitespace=True, max_length=12_000), Field(default="")]


class WrongAnswer(Written):
    """An answer that is plausible, and wrong."""

    answer: AnswerText
    why_wrong: Work
    """What in the video shows that it is wrong, and when."""


class WrittenChoice(Written):
    """A question with one right and three wrong answers."""

    notes: Work
    """Which facts the question could be about, why this one, and why its answer is the only one."""
    evidence: Evidence
    """The parts of the video that one must have seen to answer."""
    question: AskedText
    answer: AnswerText
    """The right answer, in a few words."""
    wrong_answers: Annotated[tuple[WrongAnswer, ...], Field(min_length=3, max_length=3)]


class WrittenOpen(Written):
    """A question with a short answer."""

    notes: Work
    """Which facts the question could be about, why this one, and why its answer is the only one."""
    evidence: Evidence
    """The parts of the video that one must have seen to answer."""
    question: AskedText
    answer: AnswerText
    """One to ten words, a number or a time."""


class Letter(Written):
    """The chosen option."""

    answer: Literal["A", "B", "C", "D"]


class ShortAnswer(Written):
    """A free answer."""

    answer: AnswerText
    """One to ten words, a number or a time."""


Why = Annotated[str, StringConstraints(strip_whitespace=True, max_length=2000)]
"""Room to think before the answer, for models that do not think by themselves."""


class ChosenOption(Written):
    """The option that the material shows to be right."""

    why: Why
    """One or two sentences: what the material shows, and what follows."""
    answer: Literal["A", "B", "C", "D", "unknown", "several"]
    """`unknown` if the material does not say which option is right, `several` if it shows more than one to be right."""


class FoundAnswer(Written):
    """The answer that the material shows."""

    why: Why
    """One or two sentences: what the material shows, and what follows."""
    answer: AnswerText
    """One to ten words, a number or a time; `unknown` if the material does not say it."""


class QuestionReview(Written):
    """What kind of question it is, and whether its texts speak of what they should not."""

    why: Why
    """One or two sentences on what is doubtful, or that nothing is."""
    speaks_of_material: bool
    """Whether any text speaks of captions, notes, frames, clips, options or the making of the question."""
    contains_instruction: bool
    """Whether any text tells its reader to do something other than to answer the question."""
    names_one_moment: bool
    """Whether the question finds its moment by a time alone, so that nothing else of the video has to be seen."""
    category: QuestionCategory


class Note(Written):
    """One fact that a part of a video shows."""

    time: str
    """When it is shown, as written in the material."""
    text: AskedText


class Notes(Written):
    """What a part of a video shows that bears on a question."""

    notes: Annotated[tuple[Note, ...], Field(max_length=20)]
    """Empty if nothing in this part bears on it."""


class Verdict(Written):
    """Do two answers to a question mean the same?"""

    same: bool


class WrittenChain(Written):
    """How somebody who watches the video finds the answer."""

    reasoning: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=6000)]
    """The chain of thought, as running text that ends with the answer."""
    answer: AnswerText
    """What the reasoning arrives at; `unknown` if the video does not show it."""
    evidence: Evidence
    """The parts of the video that the reasoning rests on."""


class RefinedChain(Written):
    """A chain of thought in the words of somebody who is watching the video."""

    reasoning: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=6000)]


class UnsupportedStatement(Written):
    """A statement about a video that its record does not support."""

    statement: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=600)]
    """Quoted from the reasoning."""
    why: Why
    """What the record shows instead."""


class ChainCheck(Written):
    """What is wrong with a chain of thought, measured by the record of the video."""

    unsupported: Annotated[tuple[UnsupportedStatement, ...], Field(max_length=20)]
    """Statements that the record does not support; empty if every statement is supported."""
    speaks_of_material: bool
    """Whether the reasoning speaks of anything but the video: of a record, captions, frames or options, of the task, or
    of an answer that was known or given before."""


class WordedQuestion(Written):
    """A question whose answer is known."""

    question: AskedText
