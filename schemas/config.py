"""`BuildConfig`: all that a build may be told. The Airflow form, `lvr build --set` and the config file derive from it.

Sections mirror the stages; a stage's identity covers its own section only, so that a change makes stale just what it
touches. Addresses and keys of model servers are not here: they are Airflow Connections or environment variables. How
tokens are drawn is said in each prompt's front matter, beside the text that it was tuned for.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field, StringConstraints, model_validator

from schemas.base import Fraction, Model
from schemas.tables import QuestionCategory, QuestionKind

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,40}$")]


class Decode(StrEnum):
    """What of a video is decoded to find its shots and to measure it. See `SplitConfig.decode`."""

    EVERY_FRAME = "every_frame"
    KEY_FRAMES = "key_frames"


class Detector(StrEnum):
    """Who finds shots: a detector of PySceneDetect's, or the network TransNetV2. See `SplitConfig.detector`."""

    ADAPTIVE = "adaptive"
    CONTENT = "content"
    TRANSNET = "transnet"

    @property
    def usual_threshold(self) -> float:
        """Its authors' choice."""
        return {Detector.ADAPTIVE: 3.0, Detector.CONTENT: 27.0, Detector.TRANSNET: 0.5}[self]

    def accepts(self, threshold: float) -> bool:
        """Is it of the size that this detector's thresholds have?"""
        if self is Detector.TRANSNET:
            return threshold < 1
        return (self is Detector.CONTENT) == (threshold >= 10)


class ClipMode(StrEnum):
    """`shots` ends clips at shot boundaries near the wished length; `fixed` cuts every `clip_seconds`."""

    SHOTS = "shots"
    FIXED = "fixed"


class SplitConfig(Model):
    """From a video to clips."""

    mode: ClipMode = ClipMode.SHOTS
    """`shots` ends clips at shot boundaries near the wished length, `fixed` cuts every clip_seconds."""
    clip_seconds: float = Field(default=10.0, ge=1.0, le=120.0)
    """Wished length of a clip (LongVideo-Reason: about 10 s)."""
    min_seconds: float = Field(default=8.0, ge=0.5)
    """With `shots`: no clip is shorter, unless the video is. One between max and 2 x min long stays whole."""
    max_seconds: float = Field(default=12.0, ge=1.0)
    """With `shots`: no clip is longer; an over-long shot is divided."""
    decode: Decode = Decode.EVERY_FRAME
    """`key_frames` takes a tenth of the time: shots are looked for where neighbouring key frames differ, motion is not
    measured, and there is no proxy, so that captions decode the source again."""
    detector: Detector = Detector.ADAPTIVE
    """`adaptive` (PySceneDetect) tolerates fast camera movement, `content` (PySceneDetect) is more sensitive,
    `transnet` (TransNetV2, needs torch) also sees gradual transitions. A change to or from it decodes all videos
    again."""
    threshold: float = Field(default=0.0, ge=0.0)
    """The detector's own threshold; 0 is its usual one: 3 (adaptive), 27 (content), 0.5 (transnet). For
    another one clips are cut anew, but videos are not looked through again."""
    write_clips: bool = True
    """Write every clip as an MP4 of its own (exact; copied where that can be proved, else re-encoded). Off: clips are
    spans of their source."""

    @property
    def shot_threshold(self) -> float:
        """The threshold that holds."""
        return self.threshold or self.detector.usual_threshold

    @model_validator(mode="after")
    def _values_agree(self) -> SplitConfig:
        if not self.detector.accepts(self.shot_threshold):
            raise ValueError(
                f"threshold {self.threshold} does not suit detector {self.detector}: adaptive's is about 3 (below 10), "
                f"content's about 27 (from 10 on), transnet's about 0.5 (below 1)"
            )
        if self.decode is Decode.KEY_FRAMES and self.detector is Detector.TRANSNET:
            raise ValueError("detector transnet looks at every frame: set decode to every_frame, or another detector")
        if self.mode is ClipMode.FIXED:
            return self
        if not self.min_seconds <= self.clip_seconds <= self.max_seconds:
            raise ValueError(
                f"min_seconds ({self.min_seconds}) <= clip_seconds ({self.clip_seconds}) <= max_seconds "
                f"({self.max_seconds}) must hold"
            )
        if 2 * round(self.max_seconds * 1e6) < 3 * round(self.min_seconds * 1e6):
            raise ValueError(
                f"max_seconds ({self.max_seconds}) must be at least 1.5 x min_seconds ({self.min_seconds}), so that "
                f"every video of at least 2 x min_seconds can be divided"
            )
        return self


class CaptionConfig(Model):
    """From a clip to a text."""

    frames_per_clip: int = Field(default=8, ge=1, le=64)
    """Frames that a captioning model sees, evenly spread over the clip."""
    frame_side: int = Field(default=448, ge=64, le=2048)
    """Longest side of those frames in pixels; sides are rounded to multiples of 28 (Qwen-VL's patch grid)."""
    text_fps: float = Field(default=1.0, gt=0.0, le=10.0)
    """Measured captions: frames per second that are searched for on-screen text."""


class Writer(StrEnum):
    """`program` derives questions from the texts that were read on screen; `model` asks the reasoner."""

    PROGRAM = "program"
    MODEL = "model"


class QuestionConfig(Model):
    """From captions to questions."""

    writers: tuple[Writer, ...] = Field(default=(Writer.PROGRAM, Writer.MODEL), min_length=1)
    """Who writes questions: `program` derives them from measured captions (not from a captioner's), `model` is the
    reasoner."""
    categories: tuple[QuestionCategory, ...] = Field(default=tuple(QuestionCategory), min_length=1)
    """What is asked for. Goal questions are written by the reasoner only."""
    kinds: tuple[QuestionKind, ...] = Field(default=tuple(QuestionKind), min_length=1)
    """Multiple choice, open, or both."""
    per_template: int = Field(default=2, ge=1, le=50)
    """Programmatic questions for each template and kind, of each video, at most."""
    per_category: int = Field(default=1, ge=1, le=20)
    """Questions that the reasoner writes for each category and kind, of each video."""


class VerifyConfig(Model):
    """Which questions may stay."""

    blind_trials: int = Field(default=4, ge=0, le=64)
    """Answers asked for without the video, options in a new order each time; 0 switches the check off."""
    blind_limit: Fraction = 0.75
    """A question answered right at least this often without the video is out."""
    grounded_trials: int = Field(default=3, ge=1, le=64)
    """Answers asked for from the evidence, for questions that a model wrote."""
    grounded_limit: Fraction = 1.0
    """Share of the answers given that must agree with the question's."""


class DifficultyConfig(Model):
    """How often the target model is right."""

    trials: int = Field(default=10, ge=1, le=128)
    """Answers of the target (LongVideo-Reason: 10)."""
    frames: int = Field(default=64, ge=1, le=4096)
    """Frames of the whole video that the target sees; captions take their place when it cannot see."""
    frame_side: int = Field(default=448, ge=64, le=2048)
    """Longest side of those frames in pixels."""


class AssembleConfig(Model):
    """From verified questions to samples with splits."""

    eval_fraction: Fraction = 0.06
    """Share of source videos kept for evaluation (about 1,000 of 18,000)."""
    sft_fraction: Fraction = 1 / 3
    """Share of the other videos that goes to CoT-SFT; the rest goes to RL (LongVideo-Reason: 1/3 and 2/3)."""
    near_duplicate_bits: int = Field(default=40, ge=0, le=512)
    """Videos whose 512-bit perceptual hashes differ in at most this many bits share a split."""


class Media(StrEnum):
    """What of each video goes into the shards. See `ShardConfig.media`."""

    ORIGINAL = "original"
    PROXY = "proxy"
    NONE = "none"


class ShardConfig(Model):
    """From samples to WebDataset shards."""

    media: Media = Media.ORIGINAL
    """`original` puts the source videos into the tars, `proxy` two frames of them a second, 640 pixels long, without
    sound (about 20 MB an hour), `none` leaves the tars text only."""
    videos_per_tar: int = Field(default=64, ge=1)
    """Source videos in a tar, at most; tars of a split differ by at most one."""


class ModelConfig(Model):
    """Which model plays a role. Empty: the one that the role's endpoint names, or the embedded default."""

    model: str = ""
    """Its name on the server. Empty: the one that the endpoint names, or the embedded default."""
    vision: bool | None = None
    """Can it look at frames? Left open: yes for the captioner's and target's endpoint, no for the embedded model."""
    concurrency: int = Field(default=16, ge=1, le=4096)
    """Requests under way at once, from one process. Caption has a process for each video that it works on."""
    timeout_seconds: float = Field(default=600.0, gt=0.0)
    """Longest wait for one answer."""


class Role(StrEnum):
    """What models are asked to do."""

    CAPTIONER = "captioner"
    REASONER = "reasoner"
    JUDGE = "judge"
    TARGET = "target"


class ModelsConfig(Model):
    """One model per role."""

    captioner: ModelConfig = ModelConfig()
    """Describes clips from frames. Embedded default: measurements, no model."""
    reasoner: ModelConfig = ModelConfig()
    """Writes questions and chains of thought from captions."""
    judge: ModelConfig = ModelConfig()
    """Answers blind and from the evidence, and compares open answers."""
    target: ModelConfig = ModelConfig()
    """The model to be trained: its pass rate is a question's difficulty."""

    def of(self, role: Role) -> ModelConfig:
        return getattr(self, role.value)


class BuildConfig(Model):
    """One dataset build."""

    source: str = Field(min_length=1)
    """Folder of videos, a CSV or JSON manifest, or a Shot2Story annotation file; a local path or an fsspec URL."""
    media_root: str = ""
    """Folder of the full videos that a manifest or annotation file names; empty: relative to the manifest itself."""
    allowed_roots: tuple[str, ...] = ()
    """What a manifest may name besides what lies below its own folder, bucket or site, or below `media_root`: folders
    (`/mnt/films`), buckets and prefixes (`s3://films`), sites (`https://media.example.org`; also those on a private
    network are opened when they are named) or all of a scheme (`https://`). No video becomes stale by it."""
    out: str = Field(min_length=1)
    """Where the build works and publishes; a local path or an fsspec URL such as s3://bucket/prefix."""
    name: Name = "longvideo"
    """The dataset's name, in file names and on its card."""
    seed: int = Field(default=0, ge=0)
    """Every choice that is not the data's own follows from it."""
    lane_videos: int = Field(default=64, ge=1, le=4096)
    """Source videos per lane: one lane runs all per-video stages, independently of the others."""
    split: SplitConfig = SplitConfig()
    caption: CaptionConfig = CaptionConfig()
    question: QuestionConfig = QuestionConfig()
    verify: VerifyConfig = VerifyConfig()
    difficulty: DifficultyConfig = DifficultyConfig()
    assemble: AssembleConfig = AssembleConfig()
    shard: ShardConfig = ShardConfig()
    models: ModelsConfig = ModelsConfig()

    @model_validator(mode="after")
    def _sections_agree(self) -> BuildConfig:
        if self.shard.media is Media.PROXY and self.split.decode is Decode.KEY_FRAMES:
            raise ValueError(
                "shard.media proxy needs frames that split.decode key_frames does not decode: set one of them otherwise"
            )
        return self
