"""Encodes each video once: its frames are spread over all ranks, and every pass of a step reads the results.

The results are the features of a frozen vision tower. The features of a trainable tower change with every step, so the
decoded frames are held instead. Each host holds one copy in memory, whatever its number of ranks
(`trainer_plugin.rl.host_folder`). A folder of feature files may keep features for later runs.

A clip is known by the content of its video, its frame times, its frame size and the tower. Questions that show the same
frames share a copy.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import astuple, dataclass, replace
from functools import partial
from math import prod
from pathlib import Path
from typing import Literal, NoReturn, TypeVar

import fsspec
import torch
import torch.distributed as dist
from fsspec.implementations.local import LocalFileSystem
from pydantic import Field
from torch import Tensor

from schemas.base import Model
from schemas.errors import BadInput
from schemas.uri import shown_uri
from trainer_plugin.atomic_files import FullDisk, locked
from trainer_plugin.data.decode_pool import Decoders, Frames, Piece
from trainer_plugin.data.features import FeatureFolder, from_float8, is_float8, read_features, to_float8
from trainer_plugin.data.video_decode import BadVideo, read_frames
from trainer_plugin.distributed.collectives import gather
from trainer_plugin.distributed.mesh import broadcast_from_rank_zero, run_on_all_ranks
from trainer_plugin.model import LongVideoModel, reshard
from trainer_plugin.rl.host_folder import HostFolder
from trainer_plugin.training.checkpoint import LOCK
from trainer_plugin.training.model_identity import tower_identity
from trainer_plugin.types import FeatureRef, VideoClip

T = TypeVar("T")

log = logging.getLogger(__name__)

_PIECE_FRAMES = 128
"""Number of frames that one process decodes at a time."""

_AHEAD_BYTES = 2 << 30
"""Limit on the decoded frames that a rank holds in memory before they are needed. One clip may exceed it."""


class CacheSettings(Model):
    """Where the features of videos are held."""

    host_gib: float = Field(default=64.0, gt=0)
    """Limit on the features (or frames, if the tower is trainable) in a host's memory, in GiB."""
    disk: str | None = None
    """Folder or URL, which all hosts share, that keeps features for later runs. It has the format of
    `trainer_plugin.encode_features`. If another process writes to it, this run only reads."""
    disk_dtype: Literal["model", "float8"] = "model"
    """Format on disk: the compute dtype, or float8, which is half of bfloat16 and has a relative error of 2.7%
    (`trainer_plugin.data.features.to_float8`). With float8 the copy in memory has the same rounding, so that results do
    not depend on where the features come from."""


class VideoCache:
    """Features or frames of clips, on every host. Close it, or use it as a context manager."""

    def __init__(
        self, model: LongVideoModel, settings: CacheSettings, *, workers: int, folder: Path | None = None
    ) -> None:
        """Every rank must create it.

        Args:
            model: the model, sharded (`shard_parameters`).
            workers: number of decoder processes of each rank; 0: decode in this process, without a time limit.
            folder: existing folder on the host for its copy; None as in `HostFolder`.

        Raises:
            BadInput: on every rank, if `settings.disk` is set although the tower is trainable, if it holds features of
                another tower, or if it cannot be written.
        """
        self._model = model
        self._settings = settings
        self._encodes = not model.vision_tower_is_trainable()
        if not self._encodes and settings.disk is not None:
            raise BadInput(
                f"cache.disk is {shown_uri(settings.disk)}, but the vision tower or its projector is trainable, so "
                f"stored features would be stale after a step; set cache.disk to null, or freeze both"
            )
        family = model.family
        identity = tower_identity(model) if self._encodes else f"frames, {family.resample}"
        self._identity = f"{identity}, {family.square}"
        self._entries: dict[str, _Entry] = {}
        """By key, those that were loaded least recently first. Equal on all ranks."""
        self._unusable: dict[str, str] = {}
        """Reasons by key. Such clips are not decoded again."""
        self._prefetched: set[str] = set()
        self._disk: FeatureFolder | None = None
        self._on_disk: set[str] = set()
        """Keys of clips that rank 0 stored in the disk folder."""
        self._stores = True
        """Whether rank 0 still writes to the disk folder."""
        with ExitStack() as held:
            self._ahead = _DecodeAhead(workers)
            held.callback(self._ahead.close)
            self._host = HostFolder(self._limit, folder)
            held.callback(self._host.close)
            if settings.disk is not None:
                self._disk = run_on_all_ranks(partial(self._open_disk, settings.disk, identity, held))
            self._held = held.pop_all()

    def __enter__(self) -> VideoCache:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End the decoder processes, and remove the host's copy. Not collective; ranks must not read after it."""
        self._held.close()

    @property
    def held_bytes(self) -> int:
        """Size of all entries of the host's copy."""
        return sum(entry.size for entry in self._entries.values())

    def prefetch(self, clips: Iterable[VideoClip]) -> None:
        """Begin to decode the frames of clips that this rank will encode. Not collective.

        Clips of earlier calls that were not loaded since and are not among these are dropped. Decoding ahead stops at
        2 GiB of frames and continues when frames are taken.
        """
        wanted = {self._key(clip): clip for clip in clips if clip.features is None}
        self._prefetched = set(wanted)
        self._ahead.expect({key: self._pieces(clip) for key, clip in wanted.items() if self._must_decode(key, clip)})

    @torch.no_grad()
    def load(self, clips: Iterable[VideoClip], ahead: Iterable[VideoClip] = ()) -> dict[VideoClip, str]:
        """Decode and encode the clips that are not held. Every rank must call it with the same clips.

        Afterwards each host holds these clips. Others, the least recently loaded first, are removed if room is needed;
        pass again the clips that are still in use. The model's parameters are sharded afterwards.

        Args:
            clips: the clips that are needed now.
            ahead: clips that will be needed soon. They are loaded in order until the next one would exceed the limit.

        Returns:
            Clips that cannot be used because their video is missing or cannot be decoded on some rank: a reason of
            `BadVideo`, equal on all ranks. They are not decoded again. Clips with precomputed features are not opened.

        Raises:
            BadInput: on every rank, if ranks pass different clips, if the clips exceed `CacheSettings.host_gib`, or if
                a file of the disk folder is damaged, of another tower or of another video.
            OSError: storage failed, or a disk is full. Ranks on which it did not fail raise RuntimeError.
        """
        needed = {clip: self._key(clip) for clip in clips if clip.features is None}
        later = {clip: self._key(clip) for clip in ahead if clip.features is None}
        run_on_all_ranks(partial(_check_equal, [*needed.values(), "", *later.values()]))
        plan = broadcast_from_rank_zero(partial(self._plan, self._usable(needed), self._usable(later)))
        found = self._usable(needed | later)
        usable = {key: found[key] for key in plan.chosen}
        for key in plan.evicted:
            self._remove(key)
        missing = {key: replace(clip, features=plan.stored.get(key)) for key, clip in usable.items()}
        for key in [key for key in usable if key in self._entries]:
            self._entries[key] = self._entries.pop(key)  # most recently loaded
            del missing[key]
        pieces = {key: self._pieces(clip) for key, clip in missing.items()}
        expected = {**pieces, **self._ahead.expected}
        self._ahead.expect({key: each for key, each in expected.items() if key not in plan.stored})
        try:
            for key, clip in missing.items():
                self._add(key, clip)
        finally:
            reshard(self._model)
        if self._disk is not None:
            made = {key: clip for key, clip in missing.items() if key in self._entries and clip.features is None}
            self._on_disk.update(broadcast_from_rank_zero(partial(self._store, made)))
        return {clip: self._unusable[key] for clip, key in (needed | later).items() if key in self._unusable}

    def read(self, clip: VideoClip, first: int, end: int) -> Tensor:
        """Features or frames of temporal patches `[first, end)`, in the form of `RankInput.pixels`. Not collective.

        Returns:
            Features [tokens, hidden * levels] in the compute dtype; or frames, uint8 [frames, height, width, 3], if the
            tower is trainable. They are in pinned memory if there is a GPU.

        Raises:
            ValueError: the clip was not loaded or has been removed since, or it has no such temporal patches.
            BadInput: the clip's precomputed features do not match it (`read_features`).
        """
        if clip.features is not None:
            found = read_features(clip, first, end)
            return found.pin_memory() if torch.cuda.is_available() else found
        entry = self._entries.get(self._key(clip))
        if entry is None:
            raise ValueError(f"video {clip.video.key} is not held; load all clips of a step before they are read")
        return entry.read(first, end, pinned=torch.cuda.is_available())

    # --- decisions

    @property
    def _limit(self) -> int:
        return int(self._settings.host_gib * 2**30)

    def _key(self, clip: VideoClip) -> str:
        return clip_key(clip, self._identity)

    def _usable(self, keys: Mapping[VideoClip, str]) -> dict[str, VideoClip]:
        return {key: clip for clip, key in keys.items() if key not in self._unusable}

    def _must_decode(self, key: str, clip: VideoClip) -> bool:
        stored = self._disk is not None and (key in self._on_disk or (_is_known(clip) and clip in self._disk))
        return not (stored or key in self._entries or key in self._unusable)

    def _plan(self, needed: Mapping[str, VideoClip], later: Mapping[str, VideoClip]) -> _LoadPlan:
        """Decide what to hold, what to remove and what to read from disk. Called on rank 0 only.

        Raises:
            BadInput: the needed clips exceed the limit, or the disk folder's file of a clip cannot be used.
        """
        clips = {**later, **needed}
        sizes = {key: self._entry(key, clip).size for key, clip in clips.items()}
        room = self._limit - sum(sizes[key] for key in needed)
        if room < 0:
            self._refuse(needed, sizes)
        chosen = list(needed)
        for key in [key for key in later if key not in needed]:
            room -= sizes[key]
            if room < 0:
                break
            chosen.append(key)
        excess = self.held_bytes + sum(sizes[key] for key in chosen if key not in self._entries) - self._limit
        others = [key for key in self._entries if key not in chosen]
        evicted = []
        for key in sorted(others, key=self._prefetched.__contains__):  # stable: prefetched ones last
            if excess <= 0:
                break
            evicted.append(key)
            excess -= self._entries[key].size
        stored = self._find_stored({key: clips[key] for key in chosen})
        return _LoadPlan(tuple(chosen), tuple(evicted), stored)

    def _refuse(self, needed: Mapping[str, VideoClip], sizes: Mapping[str, int]) -> NoReturn:
        key = max(needed, key=sizes.__getitem__)
        total = sum(sizes[key] for key in needed)
        kind = "features" if self._encodes else "frames, which are held because the tower is trainable"
        raise BadInput(
            f"the {len(needed)} videos that are in use take {total / 2**30:.3g} GiB as {kind}, but cache.host_gib is "
            f"{self._settings.host_gib:.3g}; the largest, {needed[key].video.key}, takes {sizes[key] / 2**30:.3g} GiB. "
            f"Raise cache.host_gib up to the host's free memory, use fewer prompts per step, or fewer or smaller frames"
        )

    def _find_stored(self, usable: Mapping[str, VideoClip]) -> dict[str, FeatureRef]:
        """Location in the disk folder of the clips that are only there."""
        found: dict[str, FeatureRef] = {}
        if self._disk is None:
            return found
        for key, clip in usable.items():
            if key in self._entries or not _is_known(clip) or clip not in self._disk:
                continue
            ref = self._disk.find(clip)
            assert ref is not None
            if is_float8(replace(clip, features=ref)) and self._settings.disk_dtype != "float8":
                raise BadInput(
                    f"{shown_uri(ref.url)}: its features are in float8, but cache.disk_dtype is "
                    f"{self._settings.disk_dtype}; set it to float8, or choose another folder as cache.disk"
                )
            found[key] = ref
        return found

    # --- the host's copy

    def _entry(self, key: str, clip: VideoClip) -> _Entry:
        family, grid = self._model.family, clip.grid
        shape: tuple[int, ...] = (family.tokens_per_temporal_patch(grid), self._model.feature_width)
        dtype = self._model.compute_dtype
        if not self._encodes:
            shape, dtype = (clip.frames_per_patch, *(family.square or clip.size), 3), torch.uint8
        return _Entry(self._host.path / key, grid.t, shape, dtype)

    def _remove(self, key: str) -> None:
        entry = self._entries.pop(key)
        if self._host.is_owner:
            entry.path.unlink()

    def _add(self, key: str, clip: VideoClip) -> None:
        """Write a clip into the copies of all hosts, or note why it cannot be used."""
        entry = self._entry(key, clip)
        taken = run_on_all_ranks(partial(self._prepare, key, clip, entry))
        if clip.features is not None:
            run_on_all_ranks(partial(self._copy_stored, clip, entry))
        else:
            bad = [each for each in _all_gather(taken if isinstance(taken, BadVideo) else None) if each is not None]
            if bad:
                if self._model.parallel.rank == 0:
                    log.warning("%s; skipping it (%s)", bad[0], bad[0].reason)
                self._unusable[key] = bad[0].reason
                if self._host.is_owner:
                    entry.path.unlink()
                return
            assert isinstance(taken, Tensor)
            run_on_all_ranks(partial(_raise, self._write_encoded(clip, taken, entry)))
        self._entries[key] = entry

    def _prepare(self, key: str, clip: VideoClip, entry: _Entry) -> Tensor | BadVideo | None:
        """Create the host's file and take this rank's frames; None if features are stored."""
        if self._host.is_owner:
            entry.create()
        if clip.features is not None:
            return None
        no_frames = torch.empty(0, *(self._model.family.square or clip.size), 3, dtype=torch.uint8)
        try:
            return torch.cat([no_frames, *map(torch.from_numpy, self._ahead.take(key))])
        except BadVideo as bad:
            return bad

    def _copy_stored(self, clip: VideoClip, entry: _Entry) -> None:
        """Copy this rank's part of a clip's stored features. The ranks of each host share the work."""
        first, end = _divide(clip.grid.t, len(self._host.ranks))[self._host.ranks.index(self._model.parallel.rank)]
        step = self._model.temporal_patches_per_call(clip.grid)
        for start in range(first, end, step):
            entry.write(start, read_features(clip, start, min(start + step, end)).to(entry.dtype))

    def _write_encoded(self, clip: VideoClip, frames: Tensor, entry: _Entry) -> OSError | None:
        """Encode this rank's part and write the results into the copies of all hosts, one call of the tower at a time.

        Returns:
            The first error of writing on this rank. It is not raised here, because the other ranks continue.
        """
        parallel = self._model.parallel
        ranges = _divide(clip.grid.t, parallel.world_size)
        step = self._model.temporal_patches_per_call(clip.grid)
        shared = len(self._host.ranks) < parallel.world_size
        problem: OSError | None = None
        for offset in range(0, max(end - first for first, end in ranges), step):
            parts = [(min(first + offset, end), min(first + offset + step, end)) for first, end in ranges]
            first, end = parts[parallel.rank]
            own_first = ranges[parallel.rank][0]
            count = clip.frames_per_patch
            rows = frames[(first - own_first) * count : (end - own_first) * count]
            if self._encodes:
                rows = self._model.encode_frames(rows if end > first else None)
                if self._settings.disk is not None and self._settings.disk_dtype == "float8":
                    rows = from_float8(*to_float8(rows), rows.dtype)
            written = {first: rows}
            if shared:
                sizes = [(end - first) * entry.shape[0] for first, end in parts]
                everything = gather(rows, sizes, dist.group.WORLD).split(sizes)
                if self._host.is_owner:
                    others = set(range(parallel.world_size)) - set(self._host.ranks)
                    written |= {parts[rank][0]: everything[rank] for rank in others if sizes[rank]}
            try:
                for patch, part in written.items():
                    entry.write(patch, part.cpu())
            except OSError as error:
                problem = problem or error
        return problem

    def _pieces(self, clip: VideoClip) -> list[Piece]:
        """This rank's frames of a clip, in pieces for the decoder processes."""
        parallel, family = self._model.parallel, self._model.family
        first, end = _divide(clip.grid.t, parallel.world_size)[parallel.rank]
        count = clip.frames_per_patch
        return [
            (
                clip.video,
                clip.frame_times_us[start : min(start + _PIECE_FRAMES, end * count)],
                clip.size,
                family.resample,
                family.square,
            )
            for start in range(first * count, end * count, _PIECE_FRAMES)
        ]

    # --- the disk folder

    def _open_disk(self, url: str, tower: str, held: ExitStack) -> FeatureFolder:
        filesystem, path = fsspec.core.url_to_fs(url)
        if self._model.parallel.rank == 0 and isinstance(filesystem, LocalFileSystem):
            try:
                Path(path).mkdir(parents=True, exist_ok=True)
                held.enter_context(locked(Path(path) / LOCK, Path(path)))
            except BadInput as used:
                log.warning("cache.disk is only read, because %s", used)
                self._stores = False
            except OSError as error:
                raise BadInput(
                    f"cache.disk is {path}, which cannot be written: {error}; choose another folder"
                ) from error
        folder = FeatureFolder(url, tower)
        folder.check_tower()
        return folder

    def _store(self, clips: Mapping[str, VideoClip]) -> list[str]:
        """Store clips in the disk folder. Called on rank 0 only.

        A full disk does not end the run, which needs no stored features. Nothing more is stored then.

        Returns:
            Keys of the stored clips.
        """
        assert self._disk is not None
        stored = []
        for key, clip in clips.items():
            if not self._stores or not _is_known(clip):
                continue
            try:
                features = self._entries[key].read(0, clip.grid.t, pinned=False)
                self._disk.write(clip, features, float8=self._settings.disk_dtype == "float8")
            except FullDisk as full:
                log.warning("cache.disk: %s. No more features are stored in this run", full)
                self._stores = False
                break
            stored.append(key)
        return stored


def clip_key(clip: VideoClip, encoder: str) -> str:
    """Name under which a clip's features are held: a hash of the video, the frames and what encodes them.

    The video is known by its hash and its length, or by its address if it belongs to no release. Its id, and the
    address of a video with a hash, do not matter.

    Args:
        encoder: identity of the tower and the preprocessing.
    """
    video = clip.video
    content = [video.sha256, video.size] if _is_known(clip) else [video.url, video.offset, video.size]
    parts = [content, clip.frame_times_us, clip.size, astuple(clip.grid), encoder]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


@dataclass(frozen=True)
class _LoadPlan:
    """Rank 0's decisions for a load."""

    chosen: tuple[str, ...]
    """Keys of the clips to hold, in the order in which they are encoded."""
    evicted: tuple[str, ...]
    """Keys of the clips to remove."""
    stored: Mapping[str, FeatureRef]
    """Locations in the disk folder, by key, of clips that are read from there."""


@dataclass(frozen=True)
class _Entry:
    """The file of a clip in the host's folder: raw values of its temporal patches in order."""

    path: Path
    patches: int
    """Number of temporal patches."""
    shape: tuple[int, ...]
    """Shape of one temporal patch: [tokens, width] or [frames, height, width, 3]."""
    dtype: torch.dtype

    @property
    def patch_bytes(self) -> int:
        """Size of one temporal patch."""
        return prod(self.shape) * self.dtype.itemsize

    @property
    def size(self) -> int:
        """Size of the file in bytes."""
        return self.patches * self.patch_bytes

    def create(self) -> None:
        """Create the file with its size.

        Raises:
            FullDisk: there is no room for it.
        """
        if shutil.disk_usage(self.path.parent).free < self.size:
            raise FullDisk(self.path.parent, self.size)
        with self.path.open("wb") as file:
            file.truncate(self.size)

    def write(self, first: int, values: Tensor) -> None:
        """Write temporal patches from number `first` on."""
        left = values.contiguous().view(torch.uint8).view(-1).numpy().data
        with self.path.open("r+b", buffering=0) as file:
            file.seek(first * self.patch_bytes)
            while left:
                left = left[file.write(left) :]

    def read(self, first: int, end: int, pinned: bool) -> Tensor:
        """Temporal patches `[first, end)`, [(end - first) * shape[0], ...].

        Args:
            pinned: whether to read into pinned memory. PyTorch keeps it for later reads.
        """
        if not 0 <= first <= end <= self.patches:
            raise ValueError(f"temporal patches {first} to {end} of a clip that has {self.patches}")
        shape = ((end - first) * self.shape[0], *self.shape[1:])
        values = torch.empty(shape, dtype=self.dtype, pin_memory=pinned)
        left = values.view(torch.uint8).view(-1).numpy().data
        with self.path.open("rb", buffering=0) as file:
            file.seek(first * self.patch_bytes)
            while left:
                count = file.readinto(left)
                if not count:
                    raise OSError(f"{self.path}: it is shorter than {self.size} bytes; another process changed it")
                left = left[count:]
        return values


class _DecodeAhead:
    """Decodes pieces of videos before they are needed, within a limit of bytes."""

    def __init__(self, workers: int) -> None:
        self._decoders = Decoders(workers) if workers else None
        self.expected: dict[str, list[Piece]] = {}
        """Pieces by key, in the order in which they are decoded."""
        self._begun: dict[str, list[Future[Frames]]] = {}

    def expect(self, expected: Mapping[str, list[Piece]]) -> None:
        """Replace the expected pieces. Those that were begun and are still expected are kept."""
        for key in self._begun.keys() - expected.keys():
            self._cancel(key)
        self.expected = dict(expected)
        self._begin_ahead()

    def take(self, key: str) -> list[Frames]:
        """Decoded frames of an expected key's pieces, each uint8 [n, height, width, 3].

        Raises:
            BadVideo, OSError: as `Decoders.submit`.
        """
        pieces = self.expected.pop(key)
        if self._decoders is None:
            return [read_frames(*piece) for piece in pieces]
        self._begin(key, pieces)
        try:
            return [future.result() for future in self._begun[key]]
        finally:
            self._cancel(key)
            self._begin_ahead()

    def close(self) -> None:
        """End the processes, even while they decode."""
        if self._decoders is not None:
            self._decoders.close()

    def _begin_ahead(self) -> None:
        """Begin expected pieces, in order, up to the limit."""
        room = _AHEAD_BYTES - sum(_decoded_bytes(self.expected[key]) for key in self._begun)
        for key, pieces in self.expected.items():
            if key in self._begun:
                continue
            room -= _decoded_bytes(pieces)
            if room < 0 and self._begun:
                return
            self._begin(key, pieces)

    def _begin(self, key: str, pieces: Sequence[Piece]) -> None:
        if self._decoders is not None and key not in self._begun:
            self._begun[key] = [self._decoders.submit(piece) for piece in pieces]

    def _cancel(self, key: str) -> None:
        for future in self._begun.pop(key):
            future.cancel()


def _decoded_bytes(pieces: Sequence[Piece]) -> int:
    return sum(len(times) * prod(square or size) * 3 for _, times, size, _, square in pieces)


def _divide(patches: int, parts: int) -> list[tuple[int, int]]:
    """Ranges of temporal patches of each of `parts` ranks. Their sizes differ by at most one."""
    return [(patches * part // parts, patches * (part + 1) // parts) for part in range(parts)]


def _is_known(clip: VideoClip) -> bool:
    """Whether the video's content is known, so that a later run recognizes it."""
    return clip.video.sha256 is not None


def _check_equal(keys: Sequence[str]) -> None:
    everyone = _all_gather(hashlib.sha256("".join(keys).encode()).hexdigest())
    if len(set(everyone)) > 1:
        raise BadInput(f"ranks load different clips or in another order (hashes {everyone}); pass them the same ones")


def _all_gather(value: T) -> list[T]:
    everyone = [value] * dist.get_world_size()
    dist.all_gather_object(everyone, value)
    return everyone


def _raise(error: Exception | None) -> None:
    if error is not None:
        raise error
