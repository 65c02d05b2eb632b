"""The training sample: what a build publishes and what the trainer reads.

The first seven fields are LongVideo-Reason's published columns, with its names and meanings (data card of
LongVideo-Reason/longvideo-reason); ours follow. `WebDatasetRecord` is the `.json` member of a tar: one source video
with all its samples, so that a video's bytes are stored, read and decoded once however many questions it has.
"""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, model_validator

from schemas.base import Fraction, Identifier, Model, Row, Sha256, Span, VideoId
from schemas.tables import QuestionCategory, QuestionKind, Split, VideoCategory

LETTERS = "ABCDEFGHIJ"
"""Option letters, in order."""

_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


class Sample(Row):
    """One question with its reasoning and answer."""

    problem_id: int = Field(ge=0, lt=2**63)
    """The first 63 bits of sha256(question_id): stable whatever else the dataset holds."""
    problem: str = Field(min_length=1)
    """The question; for choices followed by one line per option, `A. ...`."""
    data_type: Literal["video"] = "video"
    """Always `video`."""
    problem_type: QuestionCategory
    reasoning: str = Field(min_length=1)
    videos: str
    """Path of the video inside the dataset, `{video_id}.{suffix}`: the media member of the video's tar record."""
    answer: str
    """`<answer>X</answer>` with the letter, or the text for open questions."""

    question_id: Identifier
    """Hash of video, category, kind, writer and index."""
    video_id: VideoId
    """The source video: key of its tar record."""
    kind: QuestionKind
    question: str
    """The question without its options."""
    options: tuple[str, ...]
    """Option texts in the order of their letters; empty for open questions."""
    answer_text: str
    """The right option's text, or the open answer."""
    evidence: tuple[Span, ...]
    pass_rate: Fraction
    """Share of the target model's answers that were right."""
    trials: int = Field(ge=0)
    """Number of those answers."""
    split: Split
    video_category: VideoCategory
    duration_us: int = Field(gt=0, lt=2**63)
    """Of the video."""
    writer: str
    """Who wrote the question: `program` or `model`."""
    question_model: str
    """The model that wrote the question; `program` for none."""
    reasoning_model: str
    """The model that wrote the reasoning; `program` for none."""
    target_model: str
    """The model whose answers the pass rate counts."""
    provenance: Sha256
    """Digest of every provenance behind this sample; the tables of the build hold them in full."""

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
        if self.answer != f"<answer>{wanted}</answer>":
            raise ValueError(f"sample {self.question_id}: answer {self.answer!r} should be <answer>{wanted}</answer>")
        return self

    @property
    def final_answer(self) -> str:
        """What stands between the answer tags: a letter, or the open answer's text."""
        match = _ANSWER.fullmatch(self.answer)
        assert match is not None  # the validator has seen it
        return match.group(1)


class WebDatasetRecord(Model):
    """The `.json` member of a tar sample: one source video and everything asked about it."""

    video_id: VideoId
    split: Split
    video_category: VideoCategory
    title: str
    licence: str
    origin: str
    duration_us: int = Field(gt=0, lt=2**63)
    fps: float = Field(gt=0, allow_inf_nan=False)
    width: int = Field(gt=0)
    height: int = Field(gt=0)
    sha256: Sha256
    """Of the source video's bytes."""
    samples: tuple[Sample, ...] = Field(min_length=1)
