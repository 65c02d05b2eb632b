"""`BuildConfig`: every setting of a build. The Airflow form, `lvr build --set` and the config file derive from it.

Sections mirror the stages. A stage's key covers only the stage's own section, so that a changed setting makes stale
only the results that depend on it. Addresses and API keys of model servers are not settings: they are Airflow
Connections or environment variables. Sampling parameters are set in each prompt's front matter, next to the text that
they were tuned for.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, assert_never

from pydantic import Field, StringConstraints, model_validator

from schemas.base import Fraction, Model, accept_earlier_names, canonical_json
from schemas.frame_policy import FramePolicy
from schemas.provenance import SamplingOverrides
from schemas.tables import QuestionCategory, QuestionKind, Split

DEFAULT_THINKING_TOKENS = 8192
"""Room for the thoughts of a thinking model if none is set."""

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,40}$")]


class Decode(StrEnum):
    """Which frames of a video are decoded for shot detection and measurements. See `SplitConfig.decode`."""

    EVERY_FRAME = "every_frame"
    KEY_FRAMES = "key_frames"


class Detector(StrEnum):
    """Shot detectors: two of PySceneDetect's, and the network TransNetV2. See `SplitConfig.detector`."""

    ADAPTIVE = "adaptive"
    CONTENT = "content"
    TRANSNET = "transnet"

    @property
    def default_threshold(self) -> float:
        """Default threshold, as chosen by the detector's authors."""
        return {Detector.ADAPTIVE: 3.0, Detector.CONTENT: 27.0, Detector.TRANSNET: 0.5}[self]

    def accepts(self, threshold: float) -> bool:
        """Whether a threshold is in this detector's range: adaptive below 10, content from 10 on, transnet below 1."""
        match self:
            case Detector.ADAPTIVE:
                return threshold < 10
            case Detector.CONTENT:
                return threshold >= 10
            case Detector.TRANSNET:
                return threshold < 1
            case _:
                assert_never(self)


class ClipMode(StrEnum):
    """How clips are cut: `shots` at shot boundaries near the target length, `fixed` every `clip_seconds`."""

    SHOTS = "shots"
    FIXED = "fixed"


class SplitConfig(Model):
    """From a video to clips."""

    mode: ClipMode = ClipMode.SHOTS
    """`shots` ends clips at shot boundaries near the target length. `fixed` cuts every clip_seconds."""
    clip_seconds: float = Field(default=10.0, ge=1.0, le=120.0)
    """Target length of a clip in seconds (LongVideo-Reason: about 10 s)."""
    min_seconds: float = Field(default=8.0, ge=0.5)
    """Shortest clip in seconds, for `shots`. Exceptions: a shorter video is one clip, and a video longer than
    max_seconds but shorter than 2 x min_seconds is not divided. Both hold for each part of a video in one picture
    format, too."""
    max_seconds: float = Field(default=12.0, ge=1.0)
    """Longest clip in seconds, for `shots`; a longer shot is divided. For the exception see min_seconds."""
    decode: Decode = Decode.EVERY_FRAME
    """`key_frames` decodes only key frames, in a tenth of the time. Shot boundaries are then searched only where
    neighbouring key frames differ. Motion is not measured and no proxy is written, so that captions decode the source
    again."""
    detector: Detector = Detector.ADAPTIVE
    """`adaptive` (PySceneDetect) tolerates fast camera movement. `content` (PySceneDetect) is more sensitive.
    `transnet` (TransNetV2, needs torch) also detects gradual transitions. Switching to or from `transnet` decodes all
    videos again."""
    threshold: float = Field(default=0.0, ge=0.0)
    """Threshold of the detector. 0 selects its default: 3 (adaptive), 27 (content), 0.5 (transnet). After a change,
    clips are cut again, but videos are not analysed again."""
    write_clips: bool = True
    """Write every clip as its own MP4, exact to the frame. Frames are copied if a read-back check confirms the copy,
    and re-encoded otherwise. If off, clips are only spans of their source."""

    @property
    def shot_threshold(self) -> float:
        """The threshold in use: `threshold`, or the detector's default if that is 0."""
        return self.threshold or self.detector.default_threshold

    @model_validator(mode="after")
    def _values_agree(self) -> SplitConfig:
        if not self.detector.accepts(self.shot_threshold):
            raise ValueError(
                f"threshold {self.threshold} does not suit detector {self.detector}: adaptive's is about 3 (below 10), "
                f"content's about 27 (from 10 on), transnet's about 0.5 (below 1)"
            )
        if self.decode is Decode.KEY_FRAMES and self.detector is Detector.TRANSNET:
            raise ValueError("detector transnet needs every frame: set decode to every_frame, or another detector")
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


class BoxFormat(StrEnum):
    """How the captioner writes boxes. See `CaptionConfig.boxes` and `schemas.tables.BoxConvention`."""

    AUTO = "auto"
    PIXELS = "pixels"
    THOUSANDTHS = "thousandths"
    FRACTIONS = "fractions"


class CaptionInput(StrEnum):
    """What a captioning model sees of a clip. See `CaptionConfig.input`."""

    FRAMES = "frames"
    CLIP = "clip"


class Speech(StrEnum):
    """Where the speech of captions comes from. See `CaptionConfig.speech`."""

    NONE = "none"
    ANNOTATIONS = "annotations"
    ENDPOINT = "endpoint"


class CaptionSource(StrEnum):
    """Where captions come from. See `CaptionConfig.source`."""

    MODEL = "model"
    ANNOTATIONS = "annotations"


class CaptionConfig(Model):
    """From a clip to its caption."""

    source: CaptionSource = CaptionSource.MODEL
    """Where captions come from: the captioning `model`, or measurements without one; or dense captions in the
    `annotations` of the source list. A clip that none of them covers has a measured caption."""
    input: CaptionInput = CaptionInput.FRAMES
    """What the captioning model sees: `frames` with their times, or the `clip` as an MP4, for servers that accept video
    (Qwen-VL) and sample it themselves. `clip` needs split.write_clips; clips without a file are shown as frames."""
    frames_per_clip: int = Field(default=8, ge=1, le=64)
    """Frames of a clip that the captioning model sees: at least one of every shot while the number allows, the rest
    evenly spaced."""
    frame_side: int = Field(default=448, ge=64, le=2048)
    """Longest side of those frames in pixels. Both sides are rounded to multiples of 28 (Qwen-VL's patch grid)."""
    boxes: BoxFormat = BoxFormat.AUTO
    """How the captioning model writes boxes: in `pixels` of the picture (Qwen2.5-VL), in `thousandths` of its sides
    (Qwen3-VL) or in `fractions` of them. `auto` chooses by the model's name: fractions for other families."""
    ocr: bool = True
    """Also read on-screen text by program where captions come from a model or from annotations, so that questions about
    it exist in every build. Where captions are measured, text is always read."""
    text_fps: float = Field(default=1.0, gt=0.0, le=10.0)
    """Frames per second that are searched for on-screen text."""
    speech: Speech = Speech.ANNOTATIONS
    """Where speech comes from: `annotations` of the source list, or a transcription `endpoint` (LVR_SPEECH_URL,
    LVR_SPEECH_MODEL, LVR_SPEECH_API_KEY) that gets the main audio track."""
    speech_model: str = ""
    """The transcription model's name on its server, for `speech=endpoint`. Empty: LVR_SPEECH_MODEL."""


class Writer(StrEnum):
    """How questions are written: `program` derives them from on-screen text, `annotations` from the source's facts, and
    `model` uses the reasoner."""

    PROGRAM = "program"
    ANNOTATIONS = "annotations"
    MODEL = "model"


class CategoryMix(Model):
    """Target shares of the categories. Only their proportions count."""

    temporal: float = Field(default=0.36, ge=0.0)
    """LongVideo-Reason: 36 %."""
    goal: float = Field(default=0.36, ge=0.0)
    """LongVideo-Reason: 36 %."""
    plot: float = Field(default=0.24, ge=0.0)
    """LongVideo-Reason: 24 %."""
    spatial: float = Field(default=0.04, ge=0.0)
    """LongVideo-Reason: 4 %."""

    def weight(self, category: QuestionCategory) -> float:
        """The share of one category."""
        return float(getattr(self, category.value))


class QuestionConfig(Model):
    """From captions to questions."""

    writers: tuple[Writer, ...] = Field(default=tuple(Writer), min_length=1)
    """Writers of questions. `program` derives them from on-screen text that was read by program, `annotations` from the
    facts of videos that have some; `model` is the reasoner."""
    categories: tuple[QuestionCategory, ...] = Field(default=tuple(QuestionCategory), min_length=1)
    """Categories of questions. `program` has no goal questions."""
    kinds: tuple[QuestionKind, ...] = Field(default=tuple(QuestionKind), min_length=1)
    """Multiple choice, open, or both."""
    per_template: int = Field(default=2, ge=1, le=50)
    """Maximum number of questions by `program` and by `annotations` per video, for each template and kind."""
    max_per_category: int = Field(default=0, ge=0, le=1000)
    """Maximum number of questions by `program` and by `annotations` per video, for each category and kind, chosen at
    random. 0: no limit but `per_template`."""
    seconds_per_question: float = Field(default=120.0, gt=0.0)
    """Seconds of video per question that the reasoner writes, between the two limits below."""
    min_questions: int = Field(default=6, ge=0, le=1000)
    """Smallest number of questions of the reasoner that are planned for a video."""
    max_questions: int = Field(default=40, ge=1, le=1000)
    """Largest number of questions of the reasoner that are planned for a video."""
    mix: CategoryMix = CategoryMix()
    """Target shares of the categories among the reasoner's questions."""
    choice_share: Fraction = 52 / 124
    """Target share of multiple choice among the reasoner's questions (LongVideo-Reason: 52 K choice, 72 K open)."""
    far_share: Fraction = 0.3
    """Target share of the reasoner's questions whose evidence has parts at least a third of the video apart."""
    rounds: int = Field(default=3, ge=1, le=10)
    """Rounds in which questions are written. After each, those that failed a check are requested again."""

    @model_validator(mode="after")
    def _can_be_planned(self) -> QuestionConfig:
        if self.min_questions > self.max_questions:
            raise ValueError(
                f"min_questions ({self.min_questions}) must not exceed max_questions ({self.max_questions})"
            )
        if not any(self.mix.weight(category) for category in self.categories):
            raise ValueError(f"mix gives none of the categories {[each.value for each in self.categories]} a share")
        return self


class ReasonConfig(Model):
    """From questions to chains of thought."""

    chains: int = Field(default=3, ge=1, le=16)
    """Chains of thought that the reasoner writes for each of its questions without knowing the answer. The best of
    those that arrive at it is used. If there is none, one is written with the answer, and marked `hinted`."""
    refine: bool = True
    """Whether a second request rewrites the chosen chain as the thoughts of somebody who watches the video."""


class VerifyConfig(Model):
    """Checks that a question must pass."""

    blind_trials: int = Field(default=32, ge=0, le=256)
    """Maximum number of answers requested without the video, with the options in a new order each time. Most questions
    need 5 to 12. 0 switches the check off."""
    blind_share: float = Field(default=0.6, ge=0.3, le=0.99)
    """A question is rejected if the judge would answer this share of the trials rightly without the video."""
    agreement_trials: int = Field(default=9, ge=1, le=64)
    """Maximum number of answers requested from the evidence, from the whole video, from frames, and without each part
    of the evidence. 3 equal answers decide, and 4 are needed in the mean."""
    timeline: bool = True
    """Whether questions must have the same answer over the whole video as in their evidence."""
    frames: int = Field(default=16, ge=1, le=512)
    """Frames of the evidence that the viewer sees, if there is one."""
    frame_side: int = Field(default=448, ge=64, le=2048)
    """Longest side of those frames in pixels. Both sides are rounded to multiples of 28."""
    parts: bool = True
    """Whether parts of the evidence without which the question is still answered are removed from it."""
    review: bool = True
    """Whether the judge reviews each question's wording: talk of captions, instructions, category."""


class DifficultyConfig(Model):
    """How often the target model answers each question correctly."""

    trials: int = Field(default=10, ge=1, le=128)
    """Answers of the target per question (LongVideo-Reason: 10)."""
    fps: float = Field(default=2.0, gt=0.0)
    """Frames per second of the whole video that the target sees, up to max_frames. Give what it will be trained with
    (`videos.frames` of the recipe); the defaults are those of the recipes for CoT-SFT and GRPO. A target without vision
    gets the captions instead."""
    max_frames: int = Field(default=256, ge=1, le=4096)
    """Largest number of frames that the target sees. For a fixed number, set it, and fps to 1000."""
    max_video_tokens: int | None = Field(default=None, ge=1)
    """Largest number of tokens of those frames, as in the recipe; it decides their size. Unset: as Qwen3-VL's own
    processor (12,288), or Qwen2.5-VL's for a model of that name."""

    @property
    def frame_policy(self) -> FramePolicy:
        """The trainer's policy with these settings."""
        return FramePolicy(fps=self.fps, max_frames=self.max_frames, max_video_tokens=self.max_video_tokens)


class PassRates(Model):
    """The pass rates of each split's questions, limits included. Questions with others are rejected.

    A question that the target never answered rightly may be wrong itself. Where `sft_min` or `eval_min` excludes it, it
    is kept if the viewer answers it rightly, as a hard question.
    """

    eval_min: Fraction = 0.005
    """Lowest pass rate in `eval`. 0.005 is any above 0, as trials are at most 128."""
    eval_max: Fraction = 1.0
    """Highest pass rate in `eval`."""
    sft_min: Fraction = 0.005
    """Lowest pass rate in `sft`. 0.005 is any above 0."""
    sft_max: Fraction = 1.0
    """Highest pass rate in `sft`."""
    rl_min: Fraction = 0.2
    """Lowest pass rate in `rl`. Of groups of 8 responses, 83 % have right and wrong ones at 0.2, and 57 % at 0.1."""
    rl_max: Fraction = 0.8
    """Highest pass rate in `rl`, likewise. LongVILA-R1 drops 0 and 1 only, Qwen3-VL 0 and above 15 of 16."""

    def of(self, split: Split) -> tuple[float, float]:
        """Lowest and highest pass rate of a split."""
        return getattr(self, f"{split}_min"), getattr(self, f"{split}_max")

    @model_validator(mode="after")
    def _ranges_are_not_empty(self) -> PassRates:
        for split in Split:
            lowest, highest = self.of(split)
            if lowest > highest:
                raise ValueError(f"{split}_min ({lowest}) must not exceed {split}_max ({highest})")
        return self


class AssembleConfig(Model):
    """From verified questions to samples with splits."""

    eval_fraction: Fraction = 0.06
    """Share of source videos in the eval split (about 1,000 of 18,000)."""
    sft_fraction: Fraction = 1 / 3
    """Share of the other videos that goes to CoT-SFT. The rest goes to RL (LongVideo-Reason: 1/3 and 2/3)."""
    near_duplicate_bits: int = Field(default=40, ge=0, le=512)
    """Videos share a split if their 512-bit perceptual hashes differ in at most this many bits."""
    duplicate_similarity: float = Field(default=0.8, ge=0.7, le=1.0)
    """Questions about different videos with the same answer are duplicates if this share of their words and word pairs
    is common (Jaccard similarity). 1: only the same words."""
    decontamination: tuple[str, ...] = ()
    """Lists of evaluation videos and questions (.jsonl, .json, .csv or .txt): local paths or fsspec URLs. A listed
    video is only used for eval, and a listed question is rejected. See docs/generation.md for the columns."""
    contamination_overlap: float = Field(default=0.5, gt=0.0, le=1.0)
    """A question is rejected if more than this share of its words is in 8-grams of a listed question (Tulu 3: 0.5)."""
    balance_length: bool = False
    """Whether choice questions are rejected until the longest option is right no more often than by guessing. If not,
    the report shows it."""
    pass_rates: PassRates = PassRates()
    """The pass rates of each split's questions."""


class Media(StrEnum):
    """The video files that go into the shards. See `ShardConfig.media`."""

    ORIGINAL = "original"
    PROXY = "proxy"
    NONE = "none"


class ShardConfig(Model):
    """From samples to WebDataset shards."""

    media: Media = Media.ORIGINAL
    """`original` puts the source videos into the tars. `proxy` puts small copies without sound: two frames per second,
    at most 640 pixels on the longer side, about 20 MB per hour. `none` makes text-only tars."""
    videos_per_tar: int = Field(default=64, ge=1)
    """Maximum number of source videos per tar. Tars of one split differ by at most one video."""


class ModelConfig(Model):
    """The model that plays one role."""

    model: str = ""
    """The model's name on the server. Empty: the endpoint's model. Without an endpoint, captions are then measured,
    there is no viewer, and the other roles use the embedded model."""
    vision: bool | None = None
    """Whether the model accepts frames. Unset (automatic): as its endpoint is set, by default yes for captioner, target
    and viewer. The embedded model accepts none."""
    concurrency: int = Field(default=16, ge=1, le=4096)
    """Maximum number of concurrent requests per process. The caption stage has one process for each video in work."""
    timeout_seconds: float = Field(default=600.0, gt=0.0)
    """Longest wait for one answer, in seconds."""
    patience_seconds: float = Field(default=300.0, ge=0.0)
    """Longest wait for a server that cannot be reached or answers nothing, as when it restarts, in seconds."""
    context_tokens: int = Field(default=0, ge=0)
    """Length of the model's context in tokens. 0: as its server states it, else 32,768."""
    thinking: bool = False
    """Whether the model thinks before it answers. It then never decodes greedily, as thinking models end in
    repetitions."""
    thinking_tokens: int = Field(default=0, ge=0)
    """Tokens for thinking, in addition to the answer's. 0: 8,192 for a thinking model, none for others."""
    sampling: SamplingOverrides = SamplingOverrides()
    """Sampling parameters that replace those of the prompts."""

    @property
    def thinking_room(self) -> int:
        """Tokens for thinking in every answer."""
        return self.thinking_tokens or (DEFAULT_THINKING_TOKENS if self.thinking else 0)

    @property
    def answer_settings(self) -> str:
        """The settings that change answers, as JSON; empty if all are unset."""
        names = {"context_tokens", "thinking", "thinking_tokens", "sampling"}
        values = self.model_dump(mode="json", include=names, exclude_defaults=True)
        return canonical_json(values) if values else ""


class Role(StrEnum):
    """Purpose that a model is used for."""

    CAPTIONER = "captioner"
    REASONER = "reasoner"
    JUDGE = "judge"
    TARGET = "target"
    VIEWER = "viewer"


class ModelsConfig(Model):
    """One model per role."""

    captioner: ModelConfig = ModelConfig()
    """Describes clips from their frames. Default: measurements, without a model."""
    reasoner: ModelConfig = ModelConfig()
    """Writes questions and chains of thought from captions."""
    judge: ModelConfig = ModelConfig()
    """Answers questions without the video and from the evidence, and compares open answers."""
    target: ModelConfig = ModelConfig()
    """The model to be trained. Its pass rate is a question's difficulty."""
    viewer: ModelConfig = ModelConfig()
    """Checks questions from frames of their evidence, and answers what the target never does. It should not be the
    captioner's model, and stronger than the target. Without an endpoint both are skipped."""

    def of(self, role: Role) -> ModelConfig:
        """The settings of one role's model."""
        return getattr(self, role.value)


class BuildConfig(Model):
    """One dataset build."""

    _earlier_names = accept_earlier_names(lane_videos="partition_videos")

    source: str = Field(min_length=1)
    """Folder of videos, CSV or JSON manifest, or Shot2Story annotation file: a local path or an fsspec URL."""
    media_root: str = ""
    """Folder of the full videos that a manifest or annotation file names. Empty: the manifest's own folder."""
    allowed_roots: tuple[str, ...] = ()
    """Addresses that a manifest may name in addition to those below its own folder, bucket or site and those below
    `media_root`. Give folders (`/mnt/films`), buckets and prefixes (`s3://films`), sites (`https://media.example.org`)
    or a whole scheme (`https://`). A site on a private network is opened only if it is named. Changing this makes no
    video stale."""
    out: str = Field(min_length=1)
    """Folder where the build works and publishes: a local path or an fsspec URL such as s3://bucket/prefix."""
    name: Name = "longvideo"
    """The dataset's name, in file names and on its card."""
    seed: int = Field(default=0, ge=0)
    """Random seed. Every choice that the data does not determine follows from it."""
    partition_videos: int = Field(default=64, ge=1, le=4096)
    """Source videos per partition. A partition runs all per-video stages, independently of the others."""
    split: SplitConfig = SplitConfig()
    caption: CaptionConfig = CaptionConfig()
    question: QuestionConfig = QuestionConfig()
    reason: ReasonConfig = ReasonConfig()
    verify: VerifyConfig = VerifyConfig()
    difficulty: DifficultyConfig = DifficultyConfig()
    assemble: AssembleConfig = AssembleConfig()
    shard: ShardConfig = ShardConfig()
    models: ModelsConfig = ModelsConfig()

    @model_validator(mode="after")
    def _sections_agree(self) -> BuildConfig:
        if self.shard.media is Media.PROXY and self.split.decode is Decode.KEY_FRAMES:
            raise ValueError(
                "shard.media proxy needs frames that split.decode key_frames does not decode: change one of them"
            )
        if self.caption.input is CaptionInput.CLIP and not self.split.write_clips:
            raise ValueError(
                "caption.input clip sends the files of clips, and split.write_clips=false writes none: set "
                "split.write_clips=true, or caption.input=frames"
            )
        if self.caption.input is CaptionInput.CLIP and self.caption.boxes is BoxFormat.PIXELS:
            raise ValueError(
                "caption.boxes pixels needs the size of the pictures, which the server chooses for caption.input clip: "
                "set caption.boxes to auto, thousandths or fractions, or caption.input=frames"
            )
        return self
