"""Precomputed features of videos from a frozen vision tower (`trainer_plugin.encode_features`): one safetensors file
per clip.

A file's metadata names the frames, the frame size and the tower of its features. A file that does not match the request
raises an error and is never used. A folder that holds a video only with other frames or in another size raises an error
too. Local files are written atomically. Features are read by byte range, so each rank reads only those that it would
have encoded.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import fsspec
import safetensors.torch
import torch
from fsspec.implementations.local import LocalFileSystem
from torch import Tensor

from schemas.errors import BadInput
from schemas.uri import shown_uri
from trainer_plugin.atomic_files import atomic_write_bytes
from trainer_plugin.types import FeatureRef, VideoClip

_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}

_LONGEST_HEADER = 100_000_000
"""Maximum length of a header in bytes: safetensors' own limit."""


class FeatureFolder:
    """The feature files of one tower, named `{url}/{video}.{hash of frame times and size}.safetensors`."""

    def __init__(self, url: str, tower: str) -> None:
        """List the folder, which need not exist yet.

        Args:
            tower: identity of the weights and preprocessing (`trainer_plugin.training.model_identity.tower_identity`).
        """
        self.url = url.rstrip("/")
        self.tower = tower
        filesystem, path = fsspec.core.url_to_fs(self.url)
        try:
            self._names = {name.rpartition("/")[2] for name in filesystem.ls(path, detail=False)}
        except FileNotFoundError:
            self._names = set()
        self._videos = {name.partition(".")[0] for name in self._names}

    def __contains__(self, clip: VideoClip) -> bool:
        """Whether the clip's features existed when the folder was listed, or were written since by this instance."""
        return _name(clip) in self._names

    def find(self, clip: VideoClip) -> FeatureRef | None:
        """Location of the clip's features; None if the video has no features.

        Raises:
            BadInput: the video has features, but only of other frames or another size.
        """
        if clip in self:
            return self._ref(clip)
        if clip.video.key in self._videos:
            raise BadInput(
                f"{shown_uri(self.url)}: its features of video {clip.video.key} are of other frames or another size "
                f"than requested ({len(clip.frame_times_us)} frames of {clip.size}); encode the videos for this recipe "
                f"(python -m trainer_plugin.encode_features)"
            )
        return None

    def check(self, clips: Iterable[VideoClip]) -> None:
        """Check the files of clips that the folder contains.

        Raises:
            BadInput: a file is of another tower, damaged or missing.
        """
        for clip in clips:
            with _open_at_features(self._ref(clip), clip):
                pass

    def write(self, clip: VideoClip, features: Tensor) -> FeatureRef:
        """Write a clip's features and return their location.

        Args:
            features: shape [tokens, width], in the order of the tokens.

        Raises:
            FullDisk: the folder is local and its disk is full.
        """
        ref = self._ref(clip)
        data = safetensors.torch.save({"features": features.contiguous()}, _description(clip, self.tower))
        filesystem, path = fsspec.core.url_to_fs(ref.url)
        if isinstance(filesystem, LocalFileSystem):
            atomic_write_bytes(Path(path), data)
        else:
            filesystem.pipe_file(path, data)
        self._names.add(_name(clip))
        self._videos.add(clip.video.key)
        return ref

    def _ref(self, clip: VideoClip) -> FeatureRef:
        return FeatureRef(f"{self.url}/{_name(clip)}", self.tower)


def read_features(clip: VideoClip, first: int, end: int) -> Tensor:
    """Features of temporal patches `[first, end)` of a clip whose `features` are set.

    Returns:
        Shape [(end - first) * tokens per temporal patch, width], in the file's dtype.

    Raises:
        BadInput: the file is of other frames, another size or another tower; or it is damaged or missing.
    """
    ref = clip.features
    assert ref is not None, f"{clip.video.key}: no features"
    with _open_at_features(ref, clip) as (file, (tokens, width), dtype):
        per_patch = tokens // clip.grid.t
        file.seek(first * per_patch * width * dtype.itemsize, os.SEEK_CUR)
        size = (end - first) * per_patch * width * dtype.itemsize
        data = file.read(size)
    if len(data) != size:
        raise BadInput(f"{shown_uri(ref.url)}: it is cut off; remove it, and encode the video again")
    return torch.frombuffer(bytearray(data), dtype=dtype).view(-1, width)


@contextmanager
def _open_at_features(ref: FeatureRef, clip: VideoClip) -> Iterator[tuple[IO[bytes], tuple[int, int], torch.dtype]]:
    """Open a clip's file at the first byte of its features. Yields it with their shape [tokens, width] and dtype.

    Raises:
        BadInput: the file does not match the clip, is damaged or is missing.
    """
    filesystem, path = fsspec.core.url_to_fs(ref.url)
    try:
        file = filesystem.open(path, "rb")
    except FileNotFoundError:
        raise BadInput(f"{shown_uri(ref.url)}: deleted since the run began; encode the video again") from None
    with file:
        stored, shape, dtype = _header(file, ref)
        expected = _description(clip, ref.tower)
        if other := [name for name in expected if stored.get(name) != expected[name]]:
            raise BadInput(
                f"{shown_uri(ref.url)}: other {', '.join(other)} than requested; encode the videos into another "
                f"folder, or remove the file"
            )
        yield file, shape, dtype


def _header(file: IO[bytes], ref: FeatureRef) -> tuple[dict[str, str], tuple[int, int], torch.dtype]:
    """Metadata, shape and dtype from a file's header. Reads up to the first byte of the features."""
    size = int.from_bytes(file.read(8), "little")
    try:
        header = json.loads(file.read(min(size, _LONGEST_HEADER)))
        tokens, width = header["features"]["shape"]
        return header["__metadata__"], (tokens, width), _DTYPES[header["features"]["dtype"]]
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(
            f"{shown_uri(ref.url)}: its header is damaged ({error!r}); remove it, and encode the video again"
        ) from error


def _name(clip: VideoClip) -> str:
    digest = hashlib.sha256(json.dumps([clip.frame_times_us, clip.size]).encode()).hexdigest()
    return f"{clip.video.key}.{digest[:16]}.safetensors"


def _description(clip: VideoClip, tower: str) -> dict[str, str]:
    return {
        "frame_times_us": json.dumps(clip.frame_times_us),
        "size": json.dumps(clip.size),
        "tower": tower,
    }
