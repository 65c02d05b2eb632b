"""Decodes ahead, in worker processes, the frames of each row that this rank encodes, and yields rows in order.

Rows keep their order whatever the number of workers. The state is that of the rows yielded, not of those decoded ahead.
A video that cannot be decoded, even one that crashes or hangs its decoder, does not stop the training: its frames are
black, its example is marked as failed, and all ranks of the group mask the example's labels.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from trainer_plugin.data.decode_pool import Decoders, Piece
from trainer_plugin.data.features import read_features
from trainer_plugin.data.video_decode import BadVideo, read_frames
from trainer_plugin.ops.preprocess import Resample
from trainer_plugin.types import PackedRow, VideoClip

if TYPE_CHECKING:
    from trainer_plugin.types import FrameRange

P = TypeVar("P")

log = logging.getLogger(__name__)

_PIECE_FRAMES = 128
"""Frames decoded by one task: enough that starting at the key frame before them costs little, and few enough that a
long range keeps all workers busy."""

_SLOW_SECONDS = 60.0
"""Interval in seconds at which a rank that waits for a piece logs which one it is."""


class RowSource(Protocol):
    """A resumable stream of rows."""

    def __next__(self) -> PackedRow: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@dataclass(frozen=True)
class PreparedRow(Generic[P]):
    """A row, its plan, and the frames that this rank encodes."""

    packed: PackedRow
    plan: P
    frame_ranges: tuple[FrameRange, ...]
    """The temporal patches that this rank encodes."""
    pixels: tuple[Tensor, ...]
    """Per range: uint8 frames, shape [frames, height, width, 3]; or, if the clip has precomputed features, those, shape
    [tokens, width]."""
    failures: dict[str, BadVideo]
    """Errors of the videos that this rank could not decode, by key of the example."""
    failed: Tensor
    """bool, shape [examples]: examples with frames that this rank could not decode. Those frames are black in `pixels`.
    Before the forward pass, all ranks of the sequence-parallel group reduce it by maximum and mask the labels of these
    examples (`trainer_plugin.data.packing.mask_labels`)."""


class RowLoader(Generic[P]):
    """Iterator over rows with their decoded frames. Close it, or use it as a context manager, to end its processes."""

    def __init__(
        self,
        row_stream: RowSource,
        plan: Callable[[PackedRow], tuple[P, Sequence[FrameRange]]],
        *,
        resample: Resample = "bicubic",
        square: tuple[int, int] | None = None,
        workers: int = 4,
        ahead: int = 2,
    ) -> None:
        """
        Args:
            row_stream: the stream of rows.
            plan: returns a row's plan, and the temporal patches that this rank encodes.
            resample, square: the family's, as in `trainer_plugin.data.video_decode.read_frames`.
            workers: number of decoder processes; 0: decode in this process when a row is requested, without a time
                limit.
            ahead: number of rows whose frames are decoded, and held in memory, before they are requested.
        """
        self._row_stream = row_stream
        self._plan = plan
        self._resample: Resample = resample
        self._square = square
        self._decoder = _Decoder(workers)
        self._ahead = ahead
        self._pending: deque[_PendingRow[P]] = deque()
        self._state = row_stream.state_dict()

    def __enter__(self) -> RowLoader[P]:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End the worker processes, even while they decode. Frames decoded ahead are dropped."""
        self._cancel_pending()
        self._decoder.close()

    def __iter__(self) -> Iterator[PreparedRow[P]]:
        return self

    def __next__(self) -> PreparedRow[P]:
        while len(self._pending) <= self._ahead and (row := next(self._row_stream, None)) is not None:
            plan, frame_ranges = self._plan(row)
            self._pending.append(self._begin(row, plan, tuple(frame_ranges)))
        if not self._pending:
            raise StopIteration
        pending = self._pending.popleft()
        self._state = pending.state
        return self._finish(pending)

    def state_dict(self) -> dict[str, Any]:
        """State of the stream of rows after the rows yielded."""
        return self._state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from a state. Frames decoded ahead are dropped."""
        self._cancel_pending()
        self._row_stream.load_state_dict(state)
        self._state = state

    def _cancel_pending(self) -> None:
        for pending in self._pending:
            for task in chain.from_iterable(pending.tasks):
                if task.future is not None:
                    task.future.cancel()
        self._pending.clear()

    def _begin(self, row: PackedRow, plan: P, frame_ranges: tuple[FrameRange, ...]) -> _PendingRow[P]:
        clips = [clip for example in row.examples for clip in example.videos]
        tasks = tuple(
            tuple(
                self._decoder.submit(piece)
                for piece in _split(clips[frames.video], frames, self._resample, self._square)
            )
            for frames in frame_ranges
        )
        return _PendingRow(row, plan, frame_ranges, tasks, self._row_stream.state_dict())

    def _finish(self, pending: _PendingRow[P]) -> PreparedRow[P]:
        owners = [number for number, example in enumerate(pending.packed.examples) for _ in example.videos]
        failed = torch.zeros(len(pending.packed.examples), dtype=torch.bool)
        failures: dict[str, BadVideo] = {}
        pixels = []
        for frames, tasks in zip(pending.frame_ranges, pending.tasks, strict=True):
            parts = []
            for task in tasks:
                try:
                    parts.append(self._decoder.result(task))
                except BadVideo as bad:
                    example = owners[frames.video]
                    key = pending.packed.examples[example].key
                    log.warning("%s; masking example %s", bad, key)
                    failures[key] = bad
                    failed[example] = True
                    size = self._square or task.piece.clip.size
                    parts.append(torch.zeros(len(task.piece.times_us), *size, 3, dtype=torch.uint8))
            pixels.append(torch.cat(parts))
        return PreparedRow(pending.packed, pending.plan, pending.frame_ranges, tuple(pixels), failures, failed)


@dataclass(frozen=True)
class _Piece:
    """Temporal patches `[first, end)` of a clip."""

    clip: VideoClip
    first: int
    end: int
    resample: Resample
    square: tuple[int, int] | None

    @property
    def times_us(self) -> tuple[int, ...]:
        frames = self.clip.frames_per_patch
        return self.clip.frame_times_us[self.first * frames : self.end * frames]

    @property
    def arguments(self) -> Piece:
        """The arguments of `read_frames`."""
        return self.clip.video, self.times_us, self.clip.size, self.resample, self.square


@dataclass(frozen=True)
class _Task:
    piece: _Piece
    future: Future[Any] | None
    """None: the piece is decoded when its result is requested."""


@dataclass(frozen=True)
class _PendingRow(Generic[P]):
    """A row whose frames are being decoded, and the state of the stream after it."""

    packed: PackedRow
    plan: P
    frame_ranges: tuple[FrameRange, ...]
    tasks: tuple[tuple[_Task, ...], ...]
    state: dict[str, Any]


class _Decoder:
    """Decodes pieces in worker processes, and reads precomputed features in a thread."""

    def __init__(self, workers: int) -> None:
        self._decoders = Decoders(workers) if workers else None
        self._reader = ThreadPoolExecutor(1)

    def submit(self, piece: _Piece) -> _Task:
        if piece.clip.features is not None:
            return _Task(piece, self._reader.submit(read_features, piece.clip, piece.first, piece.end))
        return _Task(piece, self._decoders.submit(piece.arguments) if self._decoders else None)

    def result(self, task: _Task) -> Tensor:
        if task.future is None:
            return torch.from_numpy(read_frames(*task.piece.arguments))
        while not wait([task.future], _SLOW_SECONDS).done:
            name, frames = task.piece.clip.video.key, len(task.piece.times_us)
            log.warning("video %s: still waiting for %d frames after another %g s", name, frames, _SLOW_SECONDS)
        found = task.future.result()
        return found if isinstance(found, Tensor) else torch.from_numpy(found)

    def close(self) -> None:
        if self._decoders is not None:
            self._decoders.close()
        self._reader.shutdown(cancel_futures=True)


def _split(clip: VideoClip, frames: FrameRange, resample: Resample, square: tuple[int, int] | None) -> list[_Piece]:
    """The pieces of a range of a clip; a clip with features is one piece."""
    patches = frames.end - frames.first if clip.features else max(1, _PIECE_FRAMES // clip.frames_per_patch)
    return [
        _Piece(clip, first, min(first + patches, frames.end), resample, square)
        for first in range(frames.first, frames.end, max(1, patches))
    ]
