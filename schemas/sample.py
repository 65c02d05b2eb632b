"""The training sample, which a build publishes and the trainer reads.

The first seven fields are LongVideo-Reason's published columns, with its names and meanings (data card of
LongVideo-Reason/longvideo-reason). The fields after them are this project's. `WebDatasetRecord` is the `.json` member
of a tar: one source video with all its samples. So a video's bytes are stored, read and decoded once, however many
questions it has.
"""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, model_validator

from schemas.answer_format import LETTERS, format_answer
from schemas.base import Fraction, Identifier, Model, Row, Sha256, Span, VideoId
from schemas.provenance import StepProvenance
from schemas.tables import QuestionCategory, QuestionKind, Split, VideoCategory


class Sample(Row):
    """One question with its reasoning and answer."""

    problem_id: int = Field(ge=0, lt=2**63)
    """First 63 bits of the sha256 of `question_id` in double quotes. Independent of the rest of the dataset."""
    problem: str = Field(min_length=1)
    """The question. For multiple choice it is followed by one line per option, `A. ...`."""
    data_type: Literal["video"] = "video"
    """Always `video`."""
    problem_type: QuestionCategory
    reasoning: str = Field(min_length=1)
    """Chain of thought from the evidence to the answer."""
    videos: str
    """Path of the video inside the dataset, `{video_id}.{suffix}`: the media member of the video's tar record."""
    answer: str
    """`<answer>X</answer>`, where X is the option's letter, or the text for open questions."""

    question_id: Identifier
    """Hash of video, category, kind, writer and index."""
    video_id: VideoId
    """Id of the source video, which is the key of its tar record."""
    kind: QuestionKind
    question: str
    """The question without its options."""
    options: tuple[str, ...]
    """Texts of the options in the order of their letters. Empty for open questions."""
    answer_text: str
    """Text of the right option, or the open answer."""
    evidence: tuple[Span, ...]
    """Spans of the video that one must have seen to answer, `[start_us, end_us)` in microseconds."""
    pass_rate: Fraction
    """Share of the target model's answers that were right."""
    trials: int = Field(ge=0)
    """Number of answers of the target model that count in `pass_rate`."""
    split: Split
    video_category: VideoCategory
    duration_us: int = Field(gt=0, lt=2**63)
    """Duration of the video in microseconds."""
    writer: str
    """Writer of the question: `program` or `model`."""
    question_model: str
    """Model that wrote the question; `program` if no model did."""
    reasoning_model: str
    """Model that wrote the reasoning; `program` if no model did."""
    target_model: str
    """Model whose answers `pass_rate` counts."""
    provenance: Sha256
    """Digest of all provenance behind this sample. The tables of the build hold it in full."""
    reasoning_hinted: bool = False
    """Whether the writer of the reasoning was given the answer, because no chain of thought arrived at it without.
    False in releases of earlier versions, where the model's writer was always given it."""
    steps: tuple[StepProvenance, ...] = ()
    """Models and prompts of the captions, the question, its checks, the reasoning and the difficulty, in this order.
    Empty in releases of earlier versions."""

    @model_validator(mode="after")
    def _video_is_its_own(self) -> Sample:
        if not re.fullmatch(rf"{self.video_id}\.[a-z0-9]+", self.videos):
            raise ValueError(f"sample {self.question_id}: videos {self.videos!r} should be {self.video_id}.<suffix>")
        return self

    @model_validator(mode="after")
    def _answer_is_consistent(self) -> Sample:
        wanted = self.answer_text
        if self.kind is QuestionKind.CHOICE:
            if self.answer_text not in self.options:
                raise ValueError(f"sample {self.question_id}: answer {self.answer_text!r} is not among its options")
            wanted = LETTERS[self.options.index(self.answer_text)]
        if self.answer != format_answer(wanted):
            raise ValueError(f"sample {self.question_id}: answer {self.answer!r} should be {format_answer(wanted)}")
        return self

    @property
    def final_answer(self) -> str:
        """The text between the answer tags: a letter, or the text of an open answer."""
        choice = self.kind is QuestionKind.CHOICE
        return LETTERS[self.options.index(self.answer_text)] if choice else self.answer_text


class WebDatasetRecord(Model):
    """The `.json` member of a tar record: one source video and all questions about it."""

    video_id: VideoId
    """Id of the source video, which is the key of the record."""
    split: Split
    video_category: VideoCategory
    title: str
    """Title of the video."""
    licence: str
    """Licence of the video, as its source states it."""
    origin: str
    """Origin of the video: a channel, an address, a data set."""
    duration_us: int = Field(gt=0, lt=2**63)
    """Duration of the video in microseconds."""
    fps: float = Field(gt=0, allow_inf_nan=False)
    """Mean frames per second of the published video."""
    width: int = Field(gt=0)
    """Displayed width of the published video in pixels, after rotation and with square pixels. A re-encoded MP4 may
    differ from it by two."""
    height: int = Field(gt=0)
    """Displayed height of the published video in pixels, likewise."""
    sha256: Sha256
    """Hash of the source video's bytes."""
    samples: tuple[Sample, ...] = Field(min_length=1)
    """All samples of the video."""
