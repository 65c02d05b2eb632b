"""The tables between stages, one row type each: from `Source`, where a build starts, to `PackagedVideo`."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from schemas.base import Box, Fraction, Identifier, Microseconds, Model, Row, Sha256, Span, VideoId
from schemas.provenance import Provenance
from schemas.uri import printable


class VideoCategory(StrEnum):
    """The 12 categories of LongVideo-Reason (arXiv 2507.07966, fig. 3)."""

    TRAVEL_EVENTS = "travel_events"
    SPORTS = "sports"
    EDUCATION = "education"
    PETS_ANIMALS = "pets_animals"
    PEOPLE_BLOGS = "people_blogs"
    NEWS_POLITICS = "news_politics"
    MUSIC = "music"
    SCIENCE_TECHNOLOGY = "science_technology"
    COMEDY = "comedy"
    ENTERTAINMENT = "entertainment"
    FILM = "film"
    GAMING = "gaming"
    UNKNOWN = "unknown"


class QuestionCategory(StrEnum):
    """What a question asks for (arXiv 2507.07966, section 3)."""

    TEMPORAL = "temporal"
    GOAL = "goal"
    PLOT = "plot"
    SPATIAL = "spatial"


class QuestionKind(StrEnum):
    """`choice`: lettered options, one right. `open`: a short free answer."""

    CHOICE = "choice"
    OPEN = "open"


class Split(StrEnum):
    """Who may see a source video's samples. All samples of a source, and of its near-duplicates, share one split."""

    EVAL = "eval"
    SFT = "sft"
    RL = "rl"


class Annotation(Span):
    """A human's or an earlier tool's text about a span, on the full video's timeline."""

    kind: str
    """`caption`, `narration`, `speech` or `summary` (Shot2Story's captions, audio_captions, ASR, whole_caption)."""
    text: str


class Source(Row):
    """One video as the user named it, before anything was opened."""

    source_id: VideoId
    uri: str
    """Local path or fsspec URL of the full video, without user, password and query."""
    fingerprint: str
    """What changes when the file does: size and modification time, or the object store's ETag."""
    title: str = ""
    category: VideoCategory = VideoCategory.UNKNOWN
    licence: str = ""
    origin: str = ""
    """Where the video comes from: a channel, an address, a data set."""
    split_hint: Split | None = None
    """Forces this video's split."""
    annotations: tuple[Annotation, ...] = ()
    redacted: bool = False
    """The list's own address has a user, a password or a query, which `uri` lacks: they are never stored. Whoever opens
    the video reads the list again."""


class AudioTrack(Model):
    """A sound of a video that can be decoded."""

    stream: int = Field(ge=0)
    """Its number in the container."""
    codec: str
    sample_rate: int = Field(ge=0)
    channels: int = Field(ge=0)
    language: str
    """As the container tells it (ISO 639-2; MP4's `und` is undetermined), or empty."""
    start_us: int
    """On the video's timeline, as is the end; may be negative."""
    end_us: int


class PictureFormat(Model):
    """What the frames of a stretch of a video have in common."""

    start_us: int = Field(ge=0)
    """The first of these frames' time."""
    width: int = Field(gt=0)
    """Displayed pixels, after rotation and with square pixels."""
    height: int = Field(gt=0)
    sample_aspect: str = Field(pattern=r"^\d+:\d+$")
    rotation: int = Field(ge=0, lt=360)
    mirrored: bool
    pixel_format: str
    bit_depth: int = Field(gt=0)
    primaries: str
    transfer: str

    def is_like(self, other: PictureFormat) -> bool:
        """Is it the same format, at whatever time?"""
        return self == other.model_copy(update={"start_us": self.start_us})


class Packaging(StrEnum):
    """How a video becomes the MP4 that a release publishes of it, as far as it is not published in little."""

    KEEP = "keep"
    """It is an MP4 and stays so byte for byte."""
    COPY = "copy"
    """Coded frames and coded sound are copied into an MP4."""
    SOUND = "sound"
    """Coded frames are copied; sound that MP4 does not carry, or that changes on the way, is encoded as AAC."""
    PICTURE = "picture"
    """Frames are encoded as H.264 (HDR as HEVC); sound is copied."""
    BOTH = "both"
    """Frames are encoded, and so is such sound."""


class Video(Row):
    """One readable source video, as measured from its packets and from one decode of its frames.

    What its list says of it, its title or its licence, stays in `Source`: it may change without a frame being decoded.
    """

    video_id: VideoId
    uri: str
    sha256: Sha256
    """Of the file's bytes."""
    perceptual_hash: str = Field(pattern=r"^[0-9a-f]{128}$")
    """Eight 64-bit difference hashes (dHash) of frames spread over the video, as 128 hex digits."""
    size_bytes: int = Field(gt=0)
    duration_us: int = Field(gt=0)
    """From the first frame's start to the last frame's end."""
    start_us: int
    """The first frame's time on the container's own clock."""
    missing_us: int = Field(ge=0)
    """How much longer the header says that the video goes on: the file was cut off. 0 for a whole file."""
    unreadable_us: int = Field(ge=0)
    """Time inside the video whose frames cannot be decoded."""
    gaps: tuple[Span, ...]
    """Stretches of more than a second, and ten times the usual step, in which no frame begins."""
    video_stream: int = Field(ge=0)
    """Number in the container of the picture that is watched and published (`operators.video.streams`)."""
    other_pictures: int = Field(ge=0)
    """How many more moving pictures the file holds, as a broadcast of several programmes does. They are not used."""
    audio_stream: int | None
    """Number in the container of the main sound that goes with the picture, if there is any."""
    edited: bool
    """An edit list leaves coded frames out."""
    key_frame_count: int = Field(gt=0)
    longest_gop_us: int = Field(gt=0)
    """Longest stretch from one key frame to the next, or to the end."""
    open_gops: bool
    """Frames shown before a key frame may need others from before it."""
    width: int = Field(gt=0)
    """Displayed pixels, after rotation and with square pixels. Where a recording changes its picture on the way, this
    is the format that lasts longest, as are `height` and the others of `PictureFormat`."""
    height: int = Field(gt=0)
    sample_aspect: str = Field(pattern=r"^\d+:\d+$")
    """A stored pixel's width by its height, e.g. `4:3`; already applied to width and height."""
    fps: float = Field(gt=0)
    """Mean frames per second over the whole video."""
    variable_frame_rate: bool
    frame_count: int = Field(gt=0)
    rotation: int = Field(ge=0, lt=360)
    """Degrees clockwise that the display matrix asks for, to a quarter turn; already applied to width and height."""
    mirrored: bool
    """The display matrix asks to exchange left and right before that rotation, as selfie cameras do."""
    interlaced: bool
    """Its first frame holds two fields."""
    codec: str
    pixel_format: str
    bit_depth: int = Field(gt=0)
    primaries: str
    """Colour primaries as ffmpeg names them (`bt709`, `bt2020`), or `unknown`."""
    transfer: str
    """Transfer characteristics as ffmpeg names them (`bt709`, `smpte2084` = HDR10, `arib-std-b67` = HLG, `unknown`)."""
    formats: tuple[PictureFormat, ...] = ()
    """The formats of the picture in order of time, the first from 0 on, if it changes on the way; else empty."""
    audio_codec: str
    """Of the main sound; empty when the video has none."""
    audio_tracks: tuple[AudioTrack, ...]
    """All sound that goes with the picture, in the order of the container."""
    packaging: Packaging
    analysis_uri: str
    """Address of what every decoded frame measures, relative to the store (`operators.video.analysis_file`)."""
    proxy_uri: str | None
    """Address of the video in little, relative to the store (`operators.video.proxy`); None where only key frames were
    decoded."""


class Boundary(StrEnum):
    """Why a clip ends where it ends."""

    SHOT = "shot"
    FIXED = "fixed"
    FORMAT = "format"
    """The picture changes its size, shape, pixel format or colours here."""
    END = "end"


class Cut(StrEnum):
    """How a clip's file came to be."""

    NONE = "none"
    """Not written: the clip is a span of its source."""
    COPY = "copy"
    """The source's own coded frames: no picture was changed."""
    SMART = "smart"
    """The source's own coded frames but for those before the first usable key frame or at the very end."""
    ENCODE = "encode"
    """All frames encoded anew."""


class Clip(Row):
    """A span of about ten seconds. A video's clips tile it: every microsecond belongs to exactly one."""

    clip_id: Identifier
    """`{video_id}_{start_us:012d}`"""
    video_id: VideoId
    index: int = Field(ge=0)
    start_us: Microseconds
    end_us: Microseconds
    boundary: Boundary
    shot_starts_us: tuple[Microseconds, ...]
    """Where new shots begin inside the clip (its own start not counted unless a shot begins there)."""
    cut: Cut
    uri: str | None
    """Address of the written clip, relative to the store; None when it was not written."""
    frame_count: int = Field(ge=0)
    """Frames of the source whose time lies in the span."""
    motion: Fraction | None
    """Mean absolute difference of luma between neighbouring frames, 0 to 1; None where only key frames were decoded."""
    sharpness: float = Field(ge=0)
    """Mean variance of the Laplacian of luma (8-bit levels) at analysis size."""
    brightness: Fraction
    """Mean luma, 0 black to 1 white."""
    black: Fraction
    """Share of black frames."""
    frozen: Fraction | None
    """Share of frames that repeat the one before; None where only key frames were decoded."""

    @model_validator(mode="after")
    def _is_not_empty(self) -> Clip:
        if self.end_us <= self.start_us:
            raise ValueError(f"clip {self.clip_id}: ends at {self.end_us} us, not after its start {self.start_us} us")
        return self


class DetectedObject(Row):
    """Something seen at one moment."""

    label: str
    box: Box
    time_us: Microseconds
    score: Fraction


class ScreenText(Span):
    """A text on screen, over the cells of time around the frames in which it was read.

    Frames are read at a fixed rate; each stands for the time nearer to it than to its neighbours.
    """

    text: str
    box: Box
    score: Fraction
    """Mean confidence of the reader over the frames."""


class CaptionStatus(StrEnum):
    """`truncated`: the model ran out of tokens; the text is kept and marked."""

    OK = "ok"
    TRUNCATED = "truncated"


class Caption(Row):
    """What is seen (and heard) in one clip."""

    clip_id: Identifier
    video_id: VideoId
    start_us: Microseconds
    end_us: Microseconds
    text: str = Field(min_length=1)
    objects: tuple[DetectedObject, ...]
    screen_texts: tuple[ScreenText, ...]
    colours: tuple[str, ...]
    """Names of the dominant colours, largest area first."""
    speech: str
    frame_times_us: tuple[Microseconds, ...]
    """Exact times, on the video's timeline, of the frames that the caption is made from."""
    status: CaptionStatus
    provenance: Provenance


class Template(StrEnum):
    """Programmatic questions: what is asked of the timeline of on-screen texts (operators.questions.timeline)."""

    ORDER = "order"
    AFTER = "after"
    BEFORE = "before"
    COUNT = "count"
    DURATION = "duration"
    WHEN = "when"
    REGION = "region"


class Derivation(Row):
    """How a programmatic question follows from the timeline, so that a check can derive its answer again."""

    template: Template
    subjects: tuple[str, ...]
    """The on-screen texts that the question is about."""


class Question(Row):
    """A question about one video, before verification. `answer` is a text; letters come when samples are made."""

    question_id: Identifier
    video_id: VideoId
    category: QuestionCategory
    kind: QuestionKind
    writer: str
    """`program` or `model`."""
    question: str = Field(min_length=1)
    options: tuple[str, ...]
    """The texts to choose from, the right one among them; empty for open questions."""
    answer: str = Field(min_length=1)
    evidence: tuple[Span, ...]
    """The spans that one must have seen to answer."""
    derivation: Derivation | None
    provenance: Provenance


class Reasoning(Row):
    """A chain of thought from the evidence to the answer."""

    question_id: Identifier
    video_id: VideoId
    reasoning: str = Field(min_length=1)
    evidence: tuple[Span, ...]
    provenance: Provenance


class Check(StrEnum):
    """`rules`: form. `blind`: without the video. `grounded`: from the evidence. `difficulty`: the target, n times."""

    RULES = "rules"
    BLIND = "blind"
    GROUNDED = "grounded"
    DIFFICULTY = "difficulty"


class Trial(Row):
    """The outcome of one check of one question. Kept whatever the verdict, so that thresholds can be chosen later."""

    question_id: Identifier
    video_id: VideoId
    check: Check
    n: int = Field(ge=0)
    """Answers that were given and could be judged; fewer than were asked for when a model refused some."""
    correct: int = Field(ge=0)
    """Answers that agree with the question's own."""
    answers: tuple[str, ...]
    passed: bool
    provenance: tuple[Provenance, ...]


class PackagedVideo(Row):
    """What a release's tar holds of one video, besides the text: the source, an MP4 made of it, its proxy, or nothing.

    Where nothing goes in (`shard.media=none`), there are neither `packaging` nor `media_uri`.
    """

    video_id: VideoId
    packaging: Packaging | None
    """How the source became the MP4; None for a proxy."""
    media_uri: str | None
    """Address of the file, relative to the store; None where the source itself goes in (`Packaging.KEEP`)."""
    sha256: Sha256 | None
    """Of the file's bytes."""
    size_bytes: int | None
    """Of the file; None for a proxy, whose size is not looked up."""
    width: int = Field(gt=0)
    """Displayed pixels of the video as it is published, from which a re-encoded MP4 may differ by two."""
    height: int = Field(gt=0)
    fps: float = Field(gt=0)
    """Mean frames per second of the video as it is published."""


MACHINE_REASONS = frozenset({"missing_file", "source_changed", "system_error", "killed"})
"""Reasons of rejects for which the machine is at fault, or the moment, and not the video."""

FILE_REASONS = frozenset({"missing_file", "source_changed"})
"""Those of them that say nothing of other files: this one was removed or replaced, and its place is there."""


class Reject(Row):
    """A row that a stage could not or would not pass on: counted, reported, replayable."""

    stage: str
    unit: str
    """The source video, or `all` for a stage over the whole build."""
    key: str
    """The row's own key: source, clip or question id."""
    reason: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    """A typed reason, e.g. `unreadable_video`, `schema`, `answerable_blind`."""
    message: Annotated[str, AfterValidator(printable)]
    """Names the thing, the value and the way out, on one line."""
    raw: str = ""
    """The text that was refused, whole."""
    request_sha256: str = ""
    """The model request behind it, if any."""

    @property
    def is_temporary(self) -> bool:
        """The next run may find that nothing is wrong: what holds such a reject is never committed."""
        return self.reason in MACHINE_REASONS
