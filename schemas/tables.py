"""Row types of the tables between stages, from `Source`, the input of a build, to `PackagedVideo`."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from schemas.base import Box, Fraction, Identifier, Microseconds, Model, Row, Sha256, Span, VideoId
from schemas.provenance import Provenance, StepProvenance
from schemas.reject_reasons import MACHINE_REASONS
from schemas.uri import printable


class VideoCategory(StrEnum):
    """The 12 video categories of LongVideo-Reason (arXiv 2507.07966, fig. 3), and `unknown`."""

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
    """Category of a question, after LongVideo-Reason (arXiv 2507.07966, section 3)."""

    TEMPORAL = "temporal"
    GOAL = "goal"
    PLOT = "plot"
    SPATIAL = "spatial"


class QuestionKind(StrEnum):
    """Form of a question. `choice`: lettered options, one of them right. `open`: a short free answer."""

    CHOICE = "choice"
    OPEN = "open"


class Split(StrEnum):
    """Use of a sample: `eval` for evaluation, `sft` for fine-tuning on reasoning, `rl` for reinforcement learning.

    All samples of a source video, and of its near-duplicates, share one split.
    """

    EVAL = "eval"
    SFT = "sft"
    RL = "rl"


class Annotation(Span):
    """A text about a span of the full video, written by a person or an earlier tool."""

    kind: str
    """`caption`, `narration`, `speech` or `summary` (Shot2Story: captions, audio_captions, ASR, whole_caption)."""
    text: str
    speaker: str = Field(default="", exclude_if=lambda speaker: not speaker)
    """Name of the speaker of speech, if that is known. Without one it is omitted from the JSON, so that keys from
    before this field existed are unchanged."""


class Source(Row):
    """One video as the user named it, before any file was opened."""

    source_id: VideoId
    """Id of the video in all tables."""
    uri: str
    """Local path or fsspec URL of the full video, without user, password and query."""
    fingerprint: str
    """A text that changes when the file does: its size, with its modification time or the object store's ETag."""
    title: str = ""
    """Title of the video, as its list states it."""
    category: VideoCategory = VideoCategory.UNKNOWN
    licence: str = ""
    """Licence of the video, as its list states it."""
    origin: str = ""
    """Origin of the video: a channel, an address, a data set."""
    split_hint: Split | None = None
    """Forces the split of this video and of its near-duplicates."""
    annotations: tuple[Annotation, ...] = ()
    facts_uri: str | None = None
    """Address of its facts (`schemas.facts.VideoFacts`), relative to the store. None without facts."""
    redacted: bool = False
    """Whether the list's own address has a user, a password or a query, which `uri` lacks. These are never stored: a
    stage that opens the video reads the list again."""


class AudioTrack(Model):
    """An audio track of a video that can be decoded."""

    stream: int = Field(ge=0)
    """Stream index in the container."""
    codec: str
    sample_rate: int = Field(ge=0)
    channels: int = Field(ge=0)
    language: str
    """Language as the container states it (ISO 639-2; MP4's `und` is undetermined), or empty."""
    start_us: int
    """Start on the video's timeline in microseconds; may be negative."""
    end_us: int
    """End on the video's timeline in microseconds."""


class PictureFormat(Model):
    """Picture format that the frames of a stretch of a video share."""

    start_us: int = Field(ge=0)
    """Time of the first of these frames, in microseconds."""
    width: int = Field(gt=0)
    """Displayed width in pixels, after rotation and with square pixels."""
    height: int = Field(gt=0)
    """Displayed height in pixels, after rotation and with square pixels."""
    sample_aspect: str = Field(pattern=r"^\d+:\d+$")
    rotation: int = Field(ge=0, lt=360)
    mirrored: bool
    pixel_format: str
    bit_depth: int = Field(gt=0)
    primaries: str
    transfer: str

    def is_like(self, other: PictureFormat) -> bool:
        """Whether two formats are the same apart from their start."""
        return self == other.model_copy(update={"start_us": self.start_us})


class Packaging(StrEnum):
    """How a video becomes the MP4 that a release publishes. Releases of proxies do not use it."""

    KEEP = "keep"
    """The source is an MP4 and is published byte for byte."""
    COPY = "copy"
    """Video and audio are copied into an MP4 without re-encoding."""
    SOUND = "sound"
    """Video is copied. Audio that MP4 does not carry, or whose format changes during the video, is encoded as AAC."""
    PICTURE = "picture"
    """Video is encoded as H.264 (HDR as HEVC). Audio is copied."""
    BOTH = "both"
    """Video is encoded, and so is audio that MP4 does not carry or whose format changes."""


class Video(Row):
    """One readable source video, as measured from its packets and from one decode of its frames.

    Title, licence and the like stay in `Source`: they may change without a frame being decoded again.
    """

    video_id: VideoId
    """Id of the source video."""
    uri: str
    sha256: Sha256
    """Hash of the file's bytes."""
    perceptual_hash: str = Field(pattern=r"^[0-9a-f]{128}$")
    """Eight 64-bit difference hashes (dHash) of frames spread over the video, as 128 hex digits."""
    size_bytes: int = Field(gt=0)
    duration_us: int = Field(gt=0)
    """Duration in microseconds, from the first frame's start to the last frame's end."""
    start_us: int
    """Time of the first frame on the container's own clock, in microseconds."""
    missing_us: int = Field(ge=0)
    """Microseconds by which the file is shorter than its header states, because it was truncated. 0 for a whole file,
    and for differences of up to a second."""
    unreadable_us: int = Field(ge=0)
    """Time inside the video whose frames cannot be decoded, in microseconds."""
    gaps: tuple[Span, ...]
    """Stretches without the start of a frame, longer than a second and than ten times the usual frame interval."""
    video_stream: int = Field(ge=0)
    """Stream index in the container of the picture that is analysed and published
    (`operators.video.decode.streams`)."""
    other_pictures: int = Field(ge=0)
    """Number of further moving pictures in the file, as in a broadcast of several programmes. They are not used."""
    audio_stream: int | None
    """Stream index in the container of the main audio track that belongs to the picture; None without audio."""
    edited: bool
    """Whether an edit list hides coded frames."""
    key_frame_count: int = Field(gt=0)
    longest_gop_us: int = Field(gt=0)
    """Length of the longest GOP in microseconds: from one key frame to the next, or to the end."""
    open_gops: bool
    """Whether any GOP is open: frames shown before its key frame may need frames from before it."""
    width: int = Field(gt=0)
    """Displayed width in pixels, after rotation and with square pixels. If the picture format changes during the video,
    this and the other fields of `PictureFormat` describe the format that lasts longest."""
    height: int = Field(gt=0)
    """Displayed height in pixels, after rotation and with square pixels."""
    sample_aspect: str = Field(pattern=r"^\d+:\d+$")
    """Width of a stored pixel by its height, e.g. `4:3`. Already applied to width and height."""
    fps: float = Field(gt=0)
    """Mean frames per second over the whole video."""
    variable_frame_rate: bool
    frame_count: int = Field(gt=0)
    rotation: int = Field(ge=0, lt=360)
    """Clockwise rotation in degrees by the display matrix, to a quarter turn. Already applied to width and height."""
    mirrored: bool
    """Whether the display matrix swaps left and right before the rotation, as for selfie cameras."""
    interlaced: bool
    """Whether the first frame holds two fields."""
    codec: str
    pixel_format: str
    bit_depth: int = Field(gt=0)
    primaries: str
    """Colour primaries as ffmpeg names them (`bt709`, `bt2020`), or `unknown`."""
    transfer: str
    """Transfer characteristics as ffmpeg names them (`bt709`, `smpte2084` = HDR10, `arib-std-b67` = HLG, `unknown`)."""
    formats: tuple[PictureFormat, ...] = ()
    """Picture formats in order of time, the first from 0 on. Empty if the format does not change."""
    audio_codec: str
    """Codec of the main audio track; empty without audio."""
    audio_tracks: tuple[AudioTrack, ...]
    """All audio tracks that belong to the picture, in the order of the container."""
    packaging: Packaging
    analysis_uri: str
    """Address of the measurements of every decoded frame, relative to the store
    (`operators.video.analysis.analysis_file`)."""
    proxy_uri: str | None
    """Address of the proxy, relative to the store (`operators.video.analysis.proxy`). None if only key frames were
    decoded."""


class Boundary(StrEnum):
    """Reason why a clip ends where it ends."""

    SHOT = "shot"
    FIXED = "fixed"
    FORMAT = "format"
    """The picture changes its size, shape, pixel format or colours here."""
    END = "end"


class Cut(StrEnum):
    """How the file of a clip was made."""

    NONE = "none"
    """No file was written: the clip is a span of its source."""
    COPY = "copy"
    """All coded frames are copied from the source; no picture was changed."""
    SMART = "smart"
    """Coded frames are copied from the source, except those before the first usable key frame or at the very end."""
    ENCODE = "encode"
    """All frames are re-encoded."""


class Clip(Row):
    """A span of about ten seconds. A video's clips tile it: every microsecond belongs to exactly one of them."""

    clip_id: Identifier
    """`{video_id}_{start_us:012d}`"""
    video_id: VideoId
    index: int = Field(ge=0)
    start_us: Microseconds
    end_us: Microseconds
    boundary: Boundary
    shot_starts_us: tuple[Microseconds, ...]
    """Start times of shots inside the clip. The clip's own start is included only if a shot begins there."""
    cut: Cut
    uri: str | None
    """Address of the clip's file, relative to the store. None if it was not written."""
    frame_count: int = Field(ge=0)
    """Number of the source's frames whose time is in the span."""
    motion: Fraction | None
    """Mean absolute difference of luma between neighbouring frames, 0 to 1. None if only key frames were decoded."""
    sharpness: float = Field(ge=0)
    """Mean variance of the Laplacian of luma (8-bit levels) at analysis size."""
    brightness: Fraction
    """Mean luma, from 0 (black) to 1 (white)."""
    black: Fraction
    """Share of black frames."""
    frozen: Fraction | None
    """Share of frames that repeat the frame before. None if only key frames were decoded."""

    @model_validator(mode="after")
    def _is_not_empty(self) -> Clip:
        if self.end_us <= self.start_us:
            raise ValueError(f"clip {self.clip_id}: ends at {self.end_us} us, not after its start {self.start_us} us")
        return self


class DetectedObject(Row):
    """An object seen in one frame."""

    label: str
    box: Box
    time_us: Microseconds
    score: Fraction


class ScreenText(Span):
    """A text on screen, with the span of time during which it was read.

    Frames are read at a fixed rate. Each stands for the time nearer to it than to its neighbours, and the span covers
    the time of all frames that show the text.
    """

    text: str
    box: Box
    score: Fraction
    """Mean confidence of the text recognition over the frames, 0 to 1."""


class BoxConvention(StrEnum):
    """How a captioner was to write boxes: in `pixels` of the picture that it got (Qwen2.5-VL), in `thousandths` of the
    picture's sides (Qwen3-VL), or in `fractions` of them from 0 to 1. Stored boxes are always fractions."""

    PIXELS = "pixels"
    THOUSANDTHS = "thousandths"
    FRACTIONS = "fractions"


class CaptionStatus(StrEnum):
    """Whether a caption is complete. `truncated`: the model ran out of tokens; the text is kept and marked."""

    OK = "ok"
    TRUNCATED = "truncated"


class Caption(Row):
    """Description of what is seen and heard in one clip."""

    clip_id: Identifier
    video_id: VideoId
    start_us: Microseconds
    end_us: Microseconds
    text: str = Field(min_length=1)
    objects: tuple[DetectedObject, ...]
    screen_texts: tuple[ScreenText, ...]
    """Texts that a program read at `text_sample_times_us`. Programmatic questions rest on these alone."""
    text_sample_times_us: tuple[Microseconds, ...] = ()
    """Times, on the video's timeline, of the frames that were searched for text. Empty if none were
    (`caption.ocr=false`)."""
    seen_texts: tuple[ScreenText, ...] = ()
    """Texts that the captioner reports: those that it noticed, at rough times. Empty without a captioner."""
    colours: tuple[str, ...]
    """Names of the dominant colours, largest area first."""
    speech: str
    """What is spoken in the clip, from annotations or a transcription endpoint. A passage over several clips is divided
    among them (`operators.speech.sharing`)."""
    frame_times_us: tuple[Microseconds, ...]
    """Exact times, on the video's timeline, of the frames that the caption is made from. Empty if the clip's file was
    sent, of which the server chooses frames itself."""
    box_convention: BoxConvention | None = None
    """How the captioner was to write boxes; None without a captioner."""
    dropped_boxes: int = Field(default=0, ge=0)
    """Number of the captioner's objects whose box or time is not in the clip."""
    dropped_texts: int = Field(default=0, ge=0)
    """Number of the captioner's texts whose box or time is not in the clip."""
    repaired: tuple[str, ...] = ()
    """Faults of the captioner's earlier answers for this clip, in order: words of `schemas.reject_reasons`. Each made
    one more request. Empty if the first answer was used."""
    status: CaptionStatus
    provenance: Provenance


class Entity(Model):
    """A person, an animal, a thing or a place that matters in a video, the same one wherever it is seen."""

    name: str
    """How it is called throughout, such as `the man in the red coat`."""
    description: str
    """What it is recognised by."""
    spans: tuple[Span, ...]
    """Where it is seen, in order of time."""


class Scene(Span):
    """A run of clips with a common topic."""

    title: str
    summary: str
    """What happens in it, in order of time."""


class Outline(Row):
    """The scenes of a video, and who and what occurs in it."""

    video_id: VideoId
    category: VideoCategory
    summary: str
    """What the video is about, in a few sentences; empty if no model wrote it."""
    scenes: tuple[Scene, ...]
    """They tile the captioned part of the video."""
    entities: tuple[Entity, ...]
    provenance: tuple[Provenance, ...]
    """Of all answers behind it; empty if it was made by program."""
    captioned_by: tuple[StepProvenance, ...] = ()
    """Models and prompts of the captions."""


class Template(StrEnum):
    """Kinds of programmatic questions about the timeline of on-screen texts (`operators.questions.timeline`)."""

    ORDER = "order"
    AFTER = "after"
    BEFORE = "before"
    COUNT = "count"
    DURATION = "duration"
    WHEN = "when"
    REGION = "region"


class Derivation(Row):
    """How an answer follows from what was measured or annotated, so that a check can derive it again."""

    template: str
    """The kind of question: a `Template` of on-screen texts, or a template of another source."""
    subjects: tuple[str, ...]
    """What the question is about: on-screen texts, or whatever its template names."""


class Check(StrEnum):
    """A check of a question."""

    RULES = "rules"
    """Its form."""
    REVIEW = "review"
    """Its wording, as a judge reads it."""
    DUPLICATE = "duplicate"
    """Whether it repeats a question of the same video."""
    BLIND = "blind"
    """Answers without the video."""
    GROUNDED = "grounded"
    """Answers from the captions of its evidence; for programmatic questions, a second derivation."""
    TIMELINE = "timeline"
    """Answers from the whole video, without being told the evidence."""
    FRAMES = "frames"
    """Answers of the viewer from frames of its evidence."""
    PARTS = "parts"
    """Answers from its evidence without one of its parts. `passed`: the part is needed."""
    CHAIN_READ = "chain_read"
    """Answers of a reader of the chain of thought, without the video."""
    CHAIN_SWAPPED = "chain_swapped"
    """Answers of a reader of another question's chain of thought. `passed`: they are not the right ones."""
    CHAIN_SUPPORT = "chain_support"
    """Reviews of whether the captions support what the chain of thought states."""
    DIFFICULTY = "difficulty"
    """Answers of the target."""
    SOLVABLE = "solvable"
    """Answers of the viewer from frames of the whole video, where the target gave no right one."""


class Trial(Row):
    """The outcome of one check of one question, kept whatever the verdict so that thresholds can be chosen later."""

    question_id: Identifier
    video_id: VideoId
    check: Check
    n: int = Field(ge=0)
    """Number of answers that were given and could be judged. It is below the number requested if a model refused
    some."""
    correct: int = Field(ge=0)
    """Number of answers that agree with the question's own."""
    answers: tuple[str, ...]
    passed: bool
    provenance: tuple[Provenance, ...]


class Reach(StrEnum):
    """How far apart the parts of a question's evidence are. `far`: at least a third of the video."""

    NEAR = "near"
    FAR = "far"


class Question(Row):
    """A question about one video, with the checks that it went through.

    `answer` is a text. Option letters are assigned when samples are made.
    """

    question_id: Identifier
    video_id: VideoId
    category: QuestionCategory
    kind: QuestionKind
    writer: str
    """Writer of the question: `program`, `annotations` or `model`."""
    question: str = Field(min_length=1)
    options: tuple[str, ...]
    """The options' texts, the right one among them. Empty for open questions."""
    answer: str = Field(min_length=1)
    evidence: tuple[Span, ...]
    """Spans of the video that one must have seen to answer."""
    derivation: Derivation | None
    provenance: Provenance
    reach: Reach = Reach.NEAR
    round: int = Field(default=0, ge=0)
    """The round in which it was written, from 0."""
    checks: tuple[Trial, ...] = ()
    """All checks in order, up to the first that it did not pass."""
    passed: bool = True
    """Whether it passed all checks. If not, it has a reject."""


class Reasoning(Row):
    """A chain of thought from the evidence to the answer."""

    question_id: Identifier
    video_id: VideoId
    reasoning: str = Field(min_length=1)
    evidence: tuple[Span, ...]
    provenance: Provenance
    """Of the chain as it was first written."""
    refinement: Provenance | None = None
    """Of the second pass, which made it read naturally; None if the chain stayed as it was written."""
    hinted: bool = False
    """Whether its writer was given the answer, because no chain arrived at it without."""
    checks: tuple[Trial, ...] = ()
    """What readers of the chain concluded; empty if it was made by program."""


class PackagedVideo(Row):
    """The media that a release's tar holds of one video: the source, an MP4 made from it, its proxy, or nothing.

    If nothing is published (`shard.media=none`), both `packaging` and `media_uri` are None.
    """

    video_id: VideoId
    packaging: Packaging | None
    """Way in which the source became the MP4. None for a proxy."""
    media_uri: str | None
    """Address of the file, relative to the store. None if the source itself is published (`Packaging.KEEP`)."""
    sha256: Sha256 | None
    """Hash of the file's bytes."""
    size_bytes: int | None
    """Size of the file. None for a proxy, whose size is not recorded."""
    width: int = Field(gt=0)
    """Displayed width of the published video in pixels. A re-encoded MP4 may differ from it by two."""
    height: int = Field(gt=0)
    """Displayed height of the published video in pixels. A re-encoded MP4 may differ from it by two."""
    fps: float = Field(gt=0)
    """Mean frames per second of the published video."""


class Reject(Row):
    """A row that a stage could not or would not pass on. Rejects are counted and reported, and can be replayed.

    `schemas.reject_reasons` lists all reasons, with what they mean, what to do, and the code that decides.
    """

    stage: str
    unit: str
    """Work item: the source video, or `all` for a stage over the whole build."""
    key: str
    """Key of the row itself: source, clip or question id."""
    reason: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    """A word of `schemas.reject_reasons`, e.g. `not_a_video`, `schema`, `answerable_blind`."""
    message: Annotated[str, AfterValidator(printable)]
    """Names the thing and the value, and says what to do, on one line."""
    raw: str = ""
    """The rejected text in full."""
    request_sha256: str = ""
    """Hash of the model request behind it, if any."""

    @property
    def is_temporary(self) -> bool:
        """Whether the next run may succeed. A work item with such a reject is never committed."""
        return self.reason in MACHINE_REASONS
