"""`Recipe`: all that a supervised run may be told. Its YAML files in `recipes/` are the published stages' values.

Lengths are tokens; the unit of work is the row, a packed micro-batch of at most `row_tokens` that `parallel.sp` ranks
share. What contradicts itself, or does not fit the ranks that were started, is refused before anything is loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from schemas.base import Fraction, Model
from schemas.errors import BadInput
from schemas.settings import ConfigError, read_fields, set_field, validated
from schemas.tables import Split
from trainer_plugin.dataset import FramePolicy, Target
from trainer_plugin.kernels import Kernel
from trainer_plugin.model import Head

_Decay = Annotated[float, Field(ge=0, lt=1)]


class ModelSource(Model):
    """Which model is trained: a folder, or random weights."""

    path: str | None = None
    """A Hugging Face folder with configuration, weights and tokenizer."""
    config: dict[str, Any] | None = None
    """Instead: a Hugging Face configuration (`model_type` and what differs from its defaults) for random weights."""
    tokenizer: str | None = None
    """The tokenizer's folder; None: the model's own, or one token per byte where there is no folder."""
    chat_template: str | None = None
    """A Jinja file, `chatml`, or `chatml_no_think`, whose prompt holds an empty thought (`trainer_plugin.chat`); None:
    the folder's chat_template.json, else the tokenizer's own. The exported folder carries it."""
    rope_theta: float | None = Field(default=None, gt=0)
    """Raise the rotary base to this: how LongVILA extends the context, without any other scaling."""
    max_positions: int | None = Field(default=None, ge=1)
    """`max_position_embeddings` that the exported configuration says; None leaves the model's own."""

    @model_validator(mode="after")
    def _is_one_of_both(self) -> ModelSource:
        if (self.path is None) == (self.config is None):
            got = "neither" if self.path is None else f"both (path={self.path})"
            raise ValueError(f"give either path or config and leave the other null, got {got}")
        return self


class Lora(Model):
    """Low-rank adapters on every linear layer of the decoder; everything else is frozen. No dropout."""

    rank: int = Field(default=16, ge=1)
    alpha: int = Field(default=32, ge=1)
    """Adapters are scaled by alpha / rank."""


class Trained(Model):
    """What is learned."""

    language_model: bool = True
    """Decoder and head, all weights."""
    lora: Lora | None = None
    """Instead of all of the decoder's weights: adapters."""
    projector: bool = True
    """What maps the tower's features into the decoder."""
    vision_tower: bool = False

    @model_validator(mode="after")
    def _agrees(self) -> Trained:
        whole = [name for name in ("language_model", "projector", "vision_tower") if getattr(self, name)]
        if self.lora and whole:
            raise ValueError(f"with lora only adapters are learned; set {' and '.join(whole)} to false, not true")
        if not (self.lora or whole):
            raise ValueError("nothing is learned; set one of language_model, lora, projector, vision_tower")
        return self


class Features(Model):
    """What a frozen tower and projector made of videos before."""

    url: str
    """Folder that `trainer_plugin.encode` wrote."""
    tower: str
    """Which weights and processing they must be of, as that command says."""


class VideoData(Model):
    """Questions about videos, from a published release."""

    release: str
    """Path or URL, `.../releases/{name}/v0001`."""
    split: Split = Split.SFT
    target: Target = Target.REASONING
    """`reasoning` learns the chain of thought and the answer, `answer` the answer alone."""
    frames: FramePolicy = FramePolicy()
    media: str | None = None
    """Folder or URL of the videos, if the release was published without."""
    features: Features | None = None
    """Read instead of encoding, for videos that have some."""
    workers: int = Field(default=4, ge=0)
    """Processes of each rank that decode; 0: the rank itself."""


class TextData(Model):
    """Long texts, for extending the context."""

    files: str
    """Path or URL, with wildcards, of .parquet, .jsonl, .jsonl.gz or .tar files; one or more per data-parallel rank."""
    column: str = "text"
    """The column or field that holds a document."""


class Schedule(StrEnum):
    """After the warm-up: `cosine` falls to 0, `constant` stays."""

    COSINE = "cosine"
    CONSTANT = "constant"


class Optimizer(Model):
    """AdamW and its schedule."""

    learning_rate: float = Field(default=2e-5, gt=0)
    """The peak."""
    schedule: Schedule = Schedule.COSINE
    warmup: Fraction = 0.03
    """Share of the training in which the learning rate rises from 0."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Of matrices; norms and biases never decay."""
    betas: tuple[_Decay, _Decay] = (0.9, 0.999)
    max_grad_norm: float | None = Field(default=1.0, gt=0)
    """Gradients are scaled down to this norm over all parameters; None: never."""


class ParallelPlan(Model):
    """How ranks share the work."""

    sp: int = Field(default=1, ge=1)
    """Ranks that share a row; the others take other rows."""
    timeout_minutes: float = Field(default=10.0, gt=0)
    """A rank that waits longer for the others ends with an error. Longer than a checkpoint takes, and than
    the first rank's reading of the weights."""


class Memory(Model):
    """What is kept, computed again, or moved to the host."""

    recomputed_layers: int | None = Field(default=None, ge=0)
    """Decoder layers, from the first, that are computed again in the backward pass; None: all. Each that is not takes
    130 KB of memory for each of a rank's tokens (7B model, bfloat16) and saves a seventh of its time."""
    keep_attention: bool = True
    """But not their attention, whose outputs are kept."""
    mlp_tokens: int | None = Field(default=None, ge=1)
    """Tokens of which the MLPs of those layers are computed at once; None: all. For rows that do not fit otherwise."""
    offload_activations: bool = False
    """Hold what is kept for the backward pass in the host's memory."""
    offload_parameters: bool = False
    """Hold parameters, gradients and optimizer in the host's memory, and update them there."""
    vision_patches: int = Field(default=65_536, ge=1)
    """Patches that the vision tower encodes at once."""


class Checkpoints(Model):
    """When the state is saved, and how many are kept."""

    every_steps: int = Field(default=100, ge=1)
    keep: int = Field(default=2, ge=1)


class Export(StrEnum):
    """What `{out}/export` is: a whole model (adapters merged into it), PEFT's adapters, or nothing."""

    MODEL = "model"
    ADAPTER = "adapter"
    NONE = "none"


_LEARNING = ("row_tokens", "step_tokens", "epochs", "steps", "precision", "optimizer")
MAY_CHANGE = (*_LEARNING, *(f"optimizer.{name}" for name in Optimizer.model_fields))
"""What `resume_changes` may name: with anything else changed, it would be another run."""


class Recipe(Model):
    """One supervised run."""

    out: str
    """Folder of checkpoints, metrics and export, on a disk that all hosts share. Run it again and it goes on there."""
    model: ModelSource
    trained: Trained = Trained()
    videos: VideoData | None = None
    texts: TextData | None = None
    row_tokens: int = Field(ge=8)
    """The longest row, so also the longest sample."""
    step_tokens: int | None = Field(default=None, ge=8)
    """Tokens of one optimizer step at most, over all ranks: a multiple of row_tokens. None: one row per
    data-parallel rank."""
    epochs: int | None = Field(default=None, ge=1)
    """How often every sample is seen; of videos only."""
    steps: int | None = Field(default=None, ge=1)
    """Optimizer steps, instead of epochs."""
    optimizer: Optimizer = Optimizer()
    parallel: ParallelPlan = ParallelPlan()
    memory: Memory = Memory()
    precision: Literal["bfloat16", "float32"] = "bfloat16"
    """What the model computes in. Learned weights and their gradients are float32 in any case."""
    kernel: Kernel = Kernel.AUTO
    head: Head = Head.CHUNKED
    compile: bool = True
    """On a GPU, fuse with torch.compile what is no matrix product."""
    seed: int = 0
    resume_changes: tuple[str, ...] = ()
    """What may differ from the settings with which a run in `out` was last saved: some of those in `MAY_CHANGE`. The
    model, what is trained of it, the data and the seed stay; everything else may differ unsaid."""
    checkpoints: Checkpoints = Checkpoints()
    export: Export = Export.MODEL
    wandb_project: str | None = None
    """Also log to this project of Weights & Biases."""
    peak_tflops: float | None = Field(default=None, gt=0)
    """What MFU is a share of: dense TFLOP/s of one device in this precision; None: looked up by its name."""

    @model_validator(mode="after")
    def _agrees(self) -> Recipe:
        if (self.videos is None) == (self.texts is None):
            got = "both" if self.videos else "neither"
            raise ValueError(f"give either videos or texts as data and leave the other null, got {got}")
        if (self.epochs is None) == (self.steps is None):
            raise ValueError(
                f"give either epochs or steps and leave the other null, got epochs={self.epochs} and steps={self.steps}"
            )
        if self.texts and self.epochs:
            raise ValueError(
                f"texts have no end that is known beforehand; give steps instead of epochs, got epochs={self.epochs}"
            )
        tower = [f"trained.{name}" for name in ("projector", "vision_tower") if getattr(self.trained, name)]
        if self.videos and self.videos.features and tower:
            raise ValueError(f"videos.features are of a frozen tower; set {' and '.join(tower)} to false, not true")
        if self.step_tokens is not None and self.step_tokens % self.row_tokens:
            more = -(-self.step_tokens // self.row_tokens) * self.row_tokens
            raise ValueError(
                f"step_tokens {self.step_tokens} is not a multiple of row_tokens {self.row_tokens}; set it to {more}"
            )
        if other := set(self.resume_changes) - set(MAY_CHANGE):
            raise ValueError(
                f"resume_changes may name {', '.join(MAY_CHANGE)}, not {', '.join(sorted(other))}: model, data and "
                f"seed are the run's own, and all else may change without"
            )
        if self.export is Export.ADAPTER and not self.trained.lora:
            raise ValueError("export is adapter, but trained.lora is not set; set it, or export to model")
        return self

    def settings(self) -> dict[str, Any]:
        """What decides how the run learns, besides model, data and seed, as JSON values by name."""
        return {name: value for name, value in self.model_dump(mode="json").items() if name in _LEARNING}

    def micro_steps(self, ranks: int) -> int:
        """Rows of each data-parallel rank in one optimizer step.

        Raises:
            BadInput: the step's rows cannot be dealt out evenly to so many ranks.
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
    "gradient_checkpointing": "memory.recomputed_layers",
    "bf16": "precision",
    "dtype": "precision",
    "torch_dtype": "precision",
    "attn_implementation": "kernel",
    "torch_compile": "compile",
    "save_steps": "checkpoints.every_steps",
    "save_interval": "checkpoints.every_steps",
    "save_total_limit": "checkpoints.keep",
    "report_to": "wandb_project",
    "random_seed": "seed",
}
"""What other trainers (transformers, TRL, LLaMA-Factory, LongVILA, Megatron) call some of the fields, or what serves
the purpose here."""


def load_recipe(name: str, settings: Sequence[str] = ()) -> Recipe:
    """A recipe from a file, or one of the package's own by its name (`recipe_names`).

    Args:
        name: path of a YAML file, or a name such as `cot_sft`.
        settings: `section.field=value`, values in YAML; they win over the file.

    Raises:
        ConfigError: no such recipe, an unknown field, a value that does not fit, or values that contradict.
    """
    path = Path(name)
    if path.suffix != ".yaml":
        if name not in recipe_names():
            raise ConfigError(f"no recipe {name!r}; there are {', '.join(recipe_names())}, or give a .yaml file")
        path = _folder() / f"{name}.yaml"
    values = read_fields(path)
    for setting in settings:
        set_field(values, setting)
    return validated(values, Recipe, _SYNONYMS)


def recipe_names() -> list[str]:
    """The package's own recipes."""
    return sorted(path.stem for path in _folder().glob("*.yaml"))


def _folder() -> Path:
    return Path(str(files("trainer_plugin") / "recipes"))
