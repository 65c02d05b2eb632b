"""Planned training samples: token ids, positions, and which frames their videos show.

An `Example` is cheap: it holds indices and no pixels. Frames are decoded later, and each rank decodes only those
that it encodes (`trainer_plugin.data.row_loader`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor

IGNORED = -100
"""Label of a token that is not supervised (PyTorch's `ignore_index`)."""


@dataclass(frozen=True)
class Grid:
    """Size of a clip in patches of the vision tower: temporal patches, rows, columns."""

    t: int
    h: int
    w: int


@dataclass(frozen=True)
class VideoSource:
    """Location of a video's bytes, for any process. It is small and picklable."""

    key: str
    """The video's id, for messages and for the names of feature files."""
    url: str
    """Local path or fsspec URL of the video file, or of the tar that contains it."""
    offset: int = 0
    """Byte at which the video begins in that file."""
    size: int | None = None
    """Length of the video in bytes; None: up to the end of the file."""
    sha256: str | None = None
    """Hash of the source video's bytes, from the release's record; None for a file that belongs to no release. A
    release may publish the source in another container or size, so it identifies the content only with `size`."""


@dataclass(frozen=True)
class VideoInfo:
    """What must be known of a video to lay it out as tokens."""

    source: VideoSource
    duration_us: int
    """From the first presented frame to the end of the last, in microseconds."""
    fps: float
    """Mean frames per second."""
    width: int
    """Displayed width in pixels."""
    height: int
    """Displayed height in pixels."""


@dataclass(frozen=True)
class FeatureRef:
    """Location of a clip's precomputed features (`trainer_plugin.data.features`)."""

    url: str
    """Local path or fsspec URL of a safetensors file."""
    tower: str
    """Identity of the weights and preprocessing (`trainer_plugin.training.model_identity.tower_identity`)."""


@dataclass(frozen=True)
class VideoClip:
    """The chosen frames of one video, all in one size."""

    video: VideoSource
    frame_times_us: tuple[int, ...]
    """Microseconds from the first presented frame; the last is repeated to fill whole temporal patches. They ascend,
    except in the baseline with shuffled frames (`trainer_plugin.data.samples.PromptVariant`)."""
    size: tuple[int, int]
    """Height and width in pixels after resizing."""
    grid: Grid
    features: FeatureRef | None = None
    """Precomputed features of these frames; None: the frames are decoded and encoded during training."""

    @property
    def frames_per_patch(self) -> int:
        """Number of frames in a temporal patch."""
        return len(self.frame_times_us) // self.grid.t


@dataclass(frozen=True)
class Example:
    """One training sample of S tokens."""

    key: str
    """Name for messages: the question's id, or the location of a document."""
    input_ids: Tensor
    """int64, shape [S]."""
    labels: Tensor
    """int64, shape [S], not shifted: `labels[i]` is `input_ids[i]` or `IGNORED`."""
    positions: Tensor
    """int64, shape [n, S]: position ids for the model's rotary embedding; n is 1, or 3 for mRoPE."""
    videos: tuple[VideoClip, ...] = ()
    """Clips in the order of their placeholders."""

    @property
    def has_loss(self) -> bool:
        """Whether any of its tokens is supervised."""
        return bool((self.labels != IGNORED).any())


@dataclass(frozen=True)
class PromptGroup:
    """A prompt and its sampled responses, which share the prompt's keys and values in one row.

    In a row it is laid out as `[prompt without its last token] [last prompt token, response 1] ... [last prompt token,
    response G]`. Each response attends to the prompt and to itself. Its copy of the last prompt token has that token's
    position and predicts the response's first token.
    """

    prompt: Example
    """The prompt, without labels. It ends with a token of text."""
    responses: tuple[Tensor, ...]
    """Token ids of each response, int64 [R]; R may be 0. They may contain placeholder ids, which are then text."""

    @property
    def key(self) -> str:
        """Name for messages: the prompt's key."""
        return self.prompt.key

    @property
    def prefix(self) -> Example:
        """The prompt without its last token, as a sample of its own."""
        prompt = self.prompt
        return replace(
            prompt,
            input_ids=prompt.input_ids[:-1],
            labels=prompt.labels[:-1],
            positions=prompt.positions[:, :-1],
        )

    def split(self) -> tuple[PromptGroup, ...]:
        """One group for each response, in which nothing is shared: the comparison for the shared prompt."""
        return tuple(replace(self, responses=(response,)) for response in self.responses)


@dataclass(frozen=True)
class PackedRow:
    """One packed micro-batch: several training samples in one sequence of tokens."""

    examples: tuple[Example, ...]
    epoch: int
    """Zero-based epoch of its first example."""
    skipped: Mapping[str, str] = field(default_factory=dict)
    """Documents that were skipped before this row because they are not valid text: reason by key
    (`trainer_plugin.data.texts`)."""


class UnusableSample(ValueError):
    """A sample that cannot be trained on.

    It is skipped, counted by `reason` (one of a fixed set of words) and named by `key`. The message has the details.
    """

    def __init__(self, key: str, reason: str, message: str) -> None:
        super().__init__(f"sample {key}: {message}")
        self.key = key
        self.reason = reason
        self.message = message


@dataclass(frozen=True)
class FrameRange:
    """Temporal patches `[first, end)` of one video of the row."""

    video: int
    """Index of the video in the row."""
    first: int
    end: int


@dataclass(frozen=True)
class Block:
    """Query rows [start, end) of q that attend to key rows [start, end) of k.

    The causal mask is aligned bottom-right: query row i of n attends to key rows 0 .. (m - n) + i of m. A segment
    [a, b) is `Block((a, b), (a, b))`. Rows [a, b) of a segment that starts at s are `Block((a, b), (s, b))`.

    Raises:
        ValueError: a range is empty, or a causal block has fewer keys than queries.
    """

    query: tuple[int, int]
    key: tuple[int, int]
    causal: bool = True

    def __post_init__(self) -> None:
        if min(self.queries, self.keys) < 1:
            raise ValueError(f"{self}: a block needs at least one query row and one key row; drop it")
        if self.causal and self.keys < self.queries:
            raise ValueError(f"{self}: {self.queries} causal query rows need as many key rows, not {self.keys}")

    @property
    def queries(self) -> int:
        """Number of query rows."""
        return self.query[1] - self.query[0]

    @property
    def keys(self) -> int:
        """Number of key rows."""
        return self.key[1] - self.key[0]
