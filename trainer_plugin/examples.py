"""What a training sample is once it is planned: token ids, positions, and which frames its videos show.

An `Example` is cheap: it holds index facts only, no pixels. Frames are decoded later, and each rank decodes only those
that it encodes (`trainer_plugin.batches`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

IGNORED = -100
"""The label of a token that is not learned (PyTorch's `ignore_index`)."""


@dataclass(frozen=True)
class Grid:
    """The size of a clip in the vision tower's patches: temporal patches, rows, columns."""

    t: int
    h: int
    w: int


@dataclass(frozen=True)
class VideoSource:
    """How any process reaches a video's bytes. Tiny and picklable."""

    key: str
    """The video's id, for messages."""
    url: str
    """Local path or fsspec URL of the video file, or of the tar that it lies in."""
    offset: int = 0
    """Where the video begins in that file."""
    size: int | None = None
    """Its length in bytes; None: to the end of the file."""


@dataclass(frozen=True)
class FeatureRef:
    """Features of a clip's frames that were computed before (`trainer_plugin.features`)."""

    url: str
    """A safetensors file: local path or fsspec URL."""
    tower: str
    """The weights and the processing that they are of."""


@dataclass(frozen=True)
class VideoClip:
    """The chosen frames of one video, in one size."""

    video: VideoSource
    frame_times_us: tuple[int, ...]
    """Ascending, from the first presented frame; the last is repeated up to whole temporal patches."""
    size: tuple[int, int]
    """Height and width in pixels after resizing."""
    grid: Grid
    features: FeatureRef | None = None

    @property
    def frames_per_patch(self) -> int:
        """Frames in a temporal patch."""
        return len(self.frame_times_us) // self.grid.t


@dataclass(frozen=True)
class Example:
    """One training sample of S tokens."""

    key: str
    """Names it in messages: the question's id, or where a text comes from."""
    input_ids: Tensor
    """int64, shape [S]."""
    labels: Tensor
    """int64, shape [S], not shifted: `labels[i]` is `input_ids[i]` or IGNORED."""
    positions: Tensor
    """int64, shape [n, S]: the rows that the model's rotary embedding takes, 1 or 3."""
    videos: tuple[VideoClip, ...] = ()
    """In the order of their placeholders."""

    @property
    def is_learned(self) -> bool:
        """Whether any token of it is."""
        return bool((self.labels != IGNORED).any())


@dataclass(frozen=True)
class Row:
    """One packed micro-batch: training samples one after the other."""

    examples: tuple[Example, ...]
    epoch: int
    """Of its first example, from 0."""
    passed_over: Mapping[str, str] = field(default_factory=dict)
    """Reasons by key of what came before it in its file and is no sample (`trainer_plugin.texts`)."""


class Unusable(ValueError):
    """A sample that cannot be trained on. It is skipped, counted by `reason`, a typed word, and named by `key`; the
    message has the details."""

    def __init__(self, key: str, reason: str, message: str) -> None:
        super().__init__(f"sample {key}: {message}")
        self.key = key
        self.reason = reason
        self.message = message
