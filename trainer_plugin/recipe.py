"""`Recipe`: the configuration of a supervised run. The YAML files in `recipes/sft/` hold the published stages' values.

`RunSettings` are those of every kind of run; `trainer_plugin.rl.recipe` has those of GRPO.

Lengths are in tokens. A row is a packed micro-batch of at most `row_tokens` tokens that `parallel.sp` ranks share.
Settings that contradict each other, or do not fit the number of ranks, are rejected before anything is loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import Field, model_validator

from schemas.answer_format import Target
from schemas.base import Fraction, Model, accept_earlier_names
from schemas.errors import BadInput
from schemas.frame_policy import FramePolicy
from schemas.settings import ConfigError, read_fields, set_field, validate
from schemas.tables import Split
from trainer_plugin.data.samples import PromptVariant
from trainer_plugin.evaluation.settings import EvaluationSettings
from trainer_plugin.model import Head
from trainer_plugin.ops.attention_kernels import Kernel

_Decay = Annotated[float, Field(ge=0, lt=1)]


class ModelSource(Model):
    """The model to train: a folder, or random weights."""

    path: str | None = None
    """A Hugging Face folder with configuration, weights and tokenizer."""
    config: dict[str, Any] | None = None
    """Instead of `path`: a Hugging Face configuration (`model_type` and non-default values) for random weights."""
    tokenizer: str | None = None
    """Folder of the tokenizer; None: the model's own, or one token per byte if there is no model folder."""
    chat_template: str | None = None
    """A Jinja file, `chatml`, or `chatml_no_think`, whose prompt contains an empty thought
    (`trainer_plugin.data.chat`).
    None: the folder's chat_template.json, else the tokenizer's own template. It is saved in the exported folder."""
    rope_theta: float | None = Field(default=None, gt=0)
    """New base of the rotary embedding. LongVILA extends the context with this alone, without any other scaling."""
    max_positions: int | None = Field(default=None, ge=1)
    """`max_position_embeddings` of the exported configuration; None: the model's own."""

    @model_validator(mode="after")
    def _check_one_source(self) -> ModelSource:
        if (self.path is None) == (self.config is None):
            got = "neither" if self.path is None else f"both (path={self.path})"
            raise ValueError(f"give either path or config and leave the other null, got {got}")
        return self


class Lora(Model):
    """Low-rank adapters on every linear layer of the decoder. All other weights are frozen. There is no dropout."""

    rank: int = Field(default=16, ge=1)
    alpha: int = Field(default=32, ge=1)
    """Adapters are scaled by alpha / rank."""


class TrainableParts(Model):
    """Which weights are trainable."""

    language_model: bool = True
    """All weights of the decoder and the head."""
    lora: Lora | None = None
    """Adapters, instead of all weights of the decoder."""
    projector: bool = True
    """The layers that map the tower's features into the decoder."""
    vision_tower: bool = False
    """The vision tower without its projector."""

    @model_validator(mode="after")
    def _check_consistency(self) -> TrainableParts:
        parts = [name for name in ("language_model", "projector", "vision_tower") if getattr(self, name)]
        if self.lora and parts:
            raise ValueError(f"with lora only adapters are trainable; set {' and '.join(parts)} to false, not true")
        if not (self.lora or parts):
            raise ValueError("nothing is trainable; set one of language_model, lora, projector, vision_tower")
        return self


class FeatureSource(Model):
    """Precomputed features of videos, from a frozen tower and projector."""

    url: str
    """Folder or URL that `trainer_plugin.encode_features` wrote."""
    tower: str
    """Identity of the weights and preprocessing that the features must be of, as `trainer_plugin.encode_features` logs
    it."""


class VideoData(Model):
    """Questions about videos, from a published release."""

    release: str
    """Path or URL, `.../releases/{name}/v0001`."""
    split: Split = Split.SFT
    target: Target = Target.REASONING
    """`reasoning` supervises the chain of thought and the answer, `answer` the answer alone."""
    skip_hinted: bool = False
    """Skip samples whose chain of thought was written by a model that was given the answer (`reasoning_hinted`)."""
    frames: FramePolicy = FramePolicy()
    media: str | None = None
    """Folder or URL of the videos, if the release was published without media."""
    features: FeatureSource | None = None
    """Precomputed features. Videos that have some are not encoded."""
    workers: int = Field(default=4, ge=0)
    """Decoder processes per rank; 0: the rank decodes in its own process."""


class TextData(Model):
    """Long text data, for extending the context."""

    files: str
    """Path or URL, with wildcards, of .parquet, .jsonl, .jsonl.gz or .tar files; one or more per data-parallel rank."""
    column: str = "text"
    """The column or field that holds a document."""


class Schedule(StrEnum):
    """Learning rate after the warm-up: `cosine` decays to 0, `constant` stays at the peak."""

    COSINE = "cosine"
    CONSTANT = "constant"


class Optimizer(Model):
    """AdamW and its learning rate schedule."""

    learning_rate: float = Field(default=2e-5, gt=0)
    """The peak learning rate."""
    schedule: Schedule = Schedule.COSINE
    warmup: Fraction = 0.03
    """Fraction of the training in which the learning rate rises from 0."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Weight decay of matrices; norms and biases have none."""
    betas: tuple[_Decay, _Decay] = (0.9, 0.999)
    max_grad_norm: float | None = Field(default=1.0, gt=0)
    """Gradients are clipped to this norm over all parameters; None: no clipping."""


class Parallelism(Model):
    """How ranks share the work."""

    sp: int = Field(default=1, ge=1)
    """Number of ranks that share a row. Each further group of this size takes other rows."""
    timeout_minutes: float = Field(default=10.0, gt=0)
    """A rank that waits longer than this for the others fails with an error. It must exceed the time that a checkpoint
    takes, and the time in which rank 0 reads the weights."""


class Memory(Model):
    """Activation checkpointing, tiled MLPs, and offloading to host memory."""

    _earlier_names = accept_earlier_names(
        recomputed_layers="checkpointed_layers", keep_attention="save_attention_output", mlp_tokens="mlp_tile_tokens"
    )

    checkpointed_layers: int | None = Field(default=None, ge=0)
    """Number of decoder layers, from the first, with activation checkpointing; None: all. Each layer without it takes
    130 KB of memory per token of a rank (7B model, bfloat16) and saves a seventh of the layer's time."""
    save_attention_output: bool = True
    """Save the attention output of those layers, so that recomputation skips the attention kernels."""
    mlp_tile_tokens: int | None = Field(default=None, ge=1)
    """Maximum tokens per tile in the MLPs of those layers; None: no tiling. For rows that do not fit otherwise."""
    offload_activations: bool = False
    """Hold tensors saved for the backward pass in host memory."""
    offload_parameters: bool = False
    """Hold parameters, gradients and optimizer state in host memory, and run the optimizer there."""
    vision_patches: int = Field(default=65_536, ge=1)
    """Maximum number of patches that the vision tower encodes in one forward pass."""


class Checkpoints(Model):
    """When a checkpoint is saved, and how many are kept."""

    every_steps: int = Field(default=100, ge=1)
    keep: int = Field(default=2, ge=1)


class PeriodicEvaluationSettings(EvaluationSettings):
    """When the model is evaluated while it is trained, and how.

    The frames, the target and the decoder processes are those of the run's `videos`. Settings out of
    `RunSettings.evaluation_defaults` are the run's own unless they are set. Evaluations do not affect the training.
    """

    split: Split = Split.EVAL
    release: str | None = None
    """Path or URL of the release that holds the questions; None: that of the run's `videos`."""
    media: str | None = None
    """Folder or URL of the videos, if `release` was published without media."""
    every_steps: int | None = Field(default=None, ge=1)
    """Evaluate after every so many steps; None: only before and at the end."""
    before: bool = True
    """Evaluate before the first step."""
    at_end: bool = True
    """Evaluate after the last step."""
    baselines: tuple[PromptVariant, ...] = ()
    """As in `EvaluationSettings`, but none by default."""

    @model_validator(mode="after")
    def _check_consistency(self) -> Self:
        if not (self.every_steps or self.before or self.at_end):
            raise ValueError("nothing is evaluated; set every_steps, or before or at_end to true")
        if self.media and not self.release:
            raise ValueError(f"media {self.media} is for evaluation.release, which is not set; set both, or neither")
        return self


class Export(StrEnum):
    """Content of `{out}/export`: the whole model with merged adapters, PEFT's adapters alone, or nothing."""

    MODEL = "model"
    ADAPTER = "adapter"
    NONE = "none"


class RunSettings(Model):
    """Settings that every kind of run has."""

    folder: ClassVar[str]
    """Folder in `recipes/` of the package's own recipes of this kind."""
    training_settings: ClassVar[tuple[str, ...]]
    """Names of the settings, besides model, data and seed, that affect the training."""

    out: str
    """Folder for checkpoints, metrics and the export, on a disk that all hosts share.

    A run that is started again resumes from there.
    """
    model: ModelSource
    trained: TrainableParts = TrainableParts()
    row_tokens: int = Field(ge=8)
    """Maximum number of tokens of a row, and therefore of a sample."""
    epochs: int | None = Field(default=None, ge=1)
    """Number of passes over the samples; for video data only."""
    steps: int | None = Field(default=None, ge=1)
    """Number of optimizer steps, instead of epochs."""
    optimizer: Optimizer = Optimizer()
    parallel: Parallelism = Parallelism()
    memory: Memory = Memory()
    precision: Literal["bfloat16", "float32"] = "bfloat16"
    """Compute type of the model. Trainable weights and their gradients are always float32."""
    kernel: Kernel = Kernel.AUTO
    head: Head = Head.CHUNKED
    compile: bool = True
    """On a GPU, fuse everything except matrix products with torch.compile."""
    seed: int = 0
    resume_changes: tuple[str, ...] = ()
    """Settings out of `may_change` that may differ from those with which the run in `out` was last saved.

    The model, which of its weights are trainable, the data and the seed must not change. All other settings may change
    without being named.
    """
    checkpoints: Checkpoints = Checkpoints()
    evaluation: PeriodicEvaluationSettings | None = None
    """Evaluation of the model while it is trained; None: none."""
    export: Export = Export.MODEL
    wandb_project: str | None = None
    """Project of Weights & Biases to which metrics are logged in addition."""

    @model_validator(mode="after")
    def _check_run(self) -> Self:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError(
                f"give either epochs or steps and leave the other null, got epochs={self.epochs} and steps={self.steps}"
            )
        if other := set(self.resume_changes) - set(self.may_change()):
            raise ValueError(
                f"resume_changes may name {', '.join(self.may_change())}, not {', '.join(sorted(other))}: model, data "
                f"and seed are the run's own, and all else may change without"
            )
        if self.export is Export.ADAPTER and not self.trained.lora:
            raise ValueError("export is adapter, but trained.lora is not set; set it, or export to model")
        return self

    @classmethod
    def may_change(cls) -> tuple[str, ...]:
        """Fields that `resume_changes` may name: they affect the training, but a resumed run may change them."""
        names = list(cls.training_settings)
        for name in cls.training_settings:
            section = cls.model_fields[name].annotation
            if isinstance(section, type) and issubclass(section, Model):
                names += [f"{name}.{field}" for field in section.model_fields]
        return tuple(names)

    @property
    def evaluation_defaults(self) -> dict[str, int]:
        """Values of `EvaluationSettings` that fit the training."""
        return {"prompt_tokens": self.row_tokens}

    @property
    def needs_reference(self) -> bool:
        """Whether a second model with the weights before the training is held next to the one that is trained."""
        return False

    def settings(self) -> dict[str, Any]:
        """Settings besides model, data and seed that affect the training, as JSON values by name."""
        return {name: value for name, value in self.model_dump(mode="json").items() if name in self.training_settings}


class Recipe(RunSettings):
    """Configuration of one supervised run."""

    folder = "sft"
    training_settings = ("row_tokens", "step_tokens", "epochs", "steps", "precision", "optimizer")

    videos: VideoData | None = None
    texts: TextData | None = None
    step_tokens: int | None = Field(default=None, ge=8)
    """Maximum number of tokens of one optimizer step over all ranks: a multiple of row_tokens. None: one row per
    data-parallel rank."""
    peak_tflops: float | None = Field(default=None, gt=0)
    """Dense TFLOP/s of one device in this precision, the base of MFU; None: derived from the device's name."""

    @model_validator(mode="after")
    def _check_consistency(self) -> Recipe:
        if (self.videos is None) == (self.texts is None):
            got = "both" if self.videos else "neither"
            raise ValueError(f"give either videos or texts as data and leave the other null, got {got}")
        if self.texts and self.evaluation and not self.evaluation.release:
            raise ValueError("text data has no questions to evaluate on: set evaluation.release, got null")
        if self.texts and self.epochs:
            raise ValueError(f"text data has no fixed length: set steps instead of epochs, got epochs={self.epochs}")
        tower = [f"trained.{name}" for name in ("projector", "vision_tower") if getattr(self.trained, name)]
        if self.videos and self.videos.features and tower:
            raise ValueError(f"videos.features are of a frozen tower; set {' and '.join(tower)} to false, not true")
        if self.step_tokens is not None and self.step_tokens % self.row_tokens:
            more = -(-self.step_tokens // self.row_tokens) * self.row_tokens
            raise ValueError(
                f"step_tokens {self.step_tokens} is not a multiple of row_tokens {self.row_tokens}; set it to {more}"
            )
        return self

    def micro_steps(self, ranks: int) -> int:
        """Number of rows of each data-parallel rank in one optimizer step.

        Args:
            ranks: number of data-parallel ranks.

        Raises:
            BadInput: the step's rows cannot be distributed evenly over the ranks.
        """
        if self.step_tokens is None:
            return 1
        rows = self.step_tokens // self.row_tokens
        if rows % ranks:
            raise BadInput(
                f"step_tokens {self.step_tokens} are {rows} rows of {self.row_tokens} tokens, which {ranks} "
                f"data-parallel ranks cannot share evenly; set it to a multiple of {ranks * self.row_tokens}, or start "
                f"{self.parallel.sp} processes for each of a divisor of {rows}"
            )
        return rows // ranks


_SYNONYMS = {
    "output_dir": "out",
    "model_name_or_path": "model.path",
    "tokenizer_name_or_path": "model.tokenizer",
    "dataset": "videos.release",
    "data_path": "videos.release",
    "release": "videos.release",
    "split": "videos.split",
    "media": "videos.media",
    "max_frames_num": "videos.frames.max_frames",
    "nframes": "videos.frames.frames",
    "dataloader_num_workers": "videos.workers",
    "num_workers": "videos.workers",
    "max_length": "row_tokens",
    "max_seq_length": "row_tokens",
    "model_max_length": "row_tokens",
    "cutoff_len": "row_tokens",
    "batch_size": "step_tokens",
    "global_batch_size": "step_tokens",
    "train_batch_size": "step_tokens",
    "per_device_train_batch_size": "step_tokens",
    "gradient_accumulation_steps": "step_tokens",
    "num_train_epochs": "epochs",
    "max_steps": "steps",
    "train_iters": "steps",
    "lr": "optimizer.learning_rate",
    "lr_scheduler": "optimizer.schedule",
    "lr_scheduler_type": "optimizer.schedule",
    "warmup_ratio": "optimizer.warmup",
    "warmup_steps": "optimizer.warmup",
    "wd": "optimizer.weight_decay",
    "adam_beta1": "optimizer.betas",
    "adam_beta2": "optimizer.betas",
    "grad_clip": "optimizer.max_grad_norm",
    "clip_grad": "optimizer.max_grad_norm",
    "gradient_clip_val": "optimizer.max_grad_norm",
    "lora_rank": "trained.lora.rank",
    "lora_r": "trained.lora.rank",
    "r": "trained.lora.rank",
    "lora_alpha": "trained.lora.alpha",
    "freeze_vision_tower": "trained.vision_tower",
    "tune_mm_vision": "trained.vision_tower",
    "tune_mm_mlp": "trained.projector",
    "tune_mm_llm": "trained.language_model",
    "sp_size": "parallel.sp",
    "sequence_parallel_size": "parallel.sp",
    "seq_parallel_size": "parallel.sp",
    "context_parallel_size": "parallel.sp",
    "gradient_checkpointing": "memory.checkpointed_layers",
    "bf16": "precision",
    "dtype": "precision",
    "torch_dtype": "precision",
    "attn_implementation": "kernel",
    "torch_compile": "compile",
    "save_steps": "checkpoints.every_steps",
    "save_interval": "checkpoints.every_steps",
    "save_total_limit": "checkpoints.keep",
    "eval_steps": "evaluation.every_steps",
    "eval_interval": "evaluation.every_steps",
    "test_freq": "evaluation.every_steps",
    "eval_on_start": "evaluation.before",
    "val_before_train": "evaluation.before",
    "eval_dataset": "evaluation.release",
    "report_to": "wandb_project",
    "random_seed": "seed",
}
"""Names that other trainers (transformers, TRL, LLaMA-Factory, LongVILA, Megatron, verl) use for some of the fields, or
for settings that a field replaces here, and names without their section that several sections have. Errors about
unknown fields suggest the field."""


R = TypeVar("R", bound=RunSettings)


def load_recipe(name: str, settings: Sequence[str] = ()) -> Recipe:
    """Load a supervised recipe from a file, or one of the package's own by its name (`recipe_names`).

    Args:
        name: path of a YAML file, or a name such as `cot_sft`.
        settings: overrides of the form `section.field=value`, with values in YAML. They take precedence over the file.

    Raises:
        ConfigError: there is no such recipe, a field is unknown, a value is invalid, or values contradict each other.
    """
    return load_recipe_of(Recipe, name, settings)


def load_recipe_of(kind: type[R], name: str, settings: Sequence[str] = ()) -> R:
    """Load a recipe of any kind, as `load_recipe`."""
    path, names = Path(name), recipe_names(kind)
    if path.suffix != ".yaml":
        if name not in names:
            raise ConfigError(f"no recipe {name!r}; there are {', '.join(names)}, or give a .yaml file")
        path = _folder(kind) / f"{name}.yaml"
    values = read_fields(path)
    for setting in settings:
        set_field(values, setting)
    return validate(values, kind, _SYNONYMS)


def recipe_names(kind: type[RunSettings] = Recipe) -> list[str]:
    """Names of the package's own recipes of a kind."""
    return sorted(path.stem for path in _folder(kind).glob("*.yaml"))


def _folder(kind: type[RunSettings]) -> Path:
    return Path(str(files("trainer_plugin") / "recipes" / kind.folder))
