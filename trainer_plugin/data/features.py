"""Precomputed features of videos from a frozen vision tower (`trainer_plugin.encode_features`): one safetensors file
per clip.

A file's metadata names the frames, the frame size, the tower and, where known, the video's content. A file that does
not match the request raises an error and is never used. A folder that holds a video only with other frames or in
another size raises an error too. Local files are written atomically. Features are read by byte range, so each rank
reads only those that it would have encoded.

A file may hold its features in float8 (`write`), half the size of bfloat16.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
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

_DTYPES = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
}

_SUFFIX = ".safetensors"

_LEAST_EXPONENT = -126
"""Minimum exponent of a scale: that of normal numbers in float32 and bfloat16."""

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
            names = [name.rpartition("/")[2] for name in filesystem.ls(path, detail=False)]
        except FileNotFoundError:
            names = []
        self._names = {name for name in names if name.endswith(_SUFFIX)}
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
            with _open_of_clip(self._ref(clip), clip):
                pass

    def check_tower(self) -> None:
        """Check one file of the folder, if there is one, so that a folder of another tower is refused early.

        Raises:
            BadInput: the file is of another tower, damaged or missing.
        """
        for name in sorted(self._names)[:1]:
            ref = FeatureRef(f"{self.url}/{name}", self.tower)
            with _open_stored(ref) as stored:
                _check_description(ref, stored.metadata, {"tower": self.tower}, {})

    def write(self, clip: VideoClip, features: Tensor, float8: bool = False) -> FeatureRef:
        """Write a clip's features and return their location.

        Args:
            features: shape [tokens, width], in the order of the tokens.
            float8: store them as `to_float8` converts them. They are read in their own dtype, with its rounding.

        Raises:
            FullDisk: the folder is local and its disk is full.
        """
        ref = self._ref(clip)
        metadata = {**_description(clip, self.tower), **_content(clip)}
        tensors = {"features": features.contiguous()}
        if float8:
            metadata["dtype"] = next(name for name, dtype in _DTYPES.items() if dtype == features.dtype)
            tensors["features"], tensors["scales"] = to_float8(features)
        data = safetensors.torch.save(tensors, metadata)
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


def to_float8(features: Tensor) -> tuple[Tensor, Tensor]:
    """Convert features to float8, each token with a scale of its own.

    The scale is the power of two that brings the token's largest value into (224, 448], float8's upper half. Values are
    rounded to 4 significant bits. Measured on normal random features, the relative error of a value is at most 5.9%
    (1/17), and the root mean square of the errors 2.7% of that of the features; bfloat16's is 0.17%. Values below 2^-14
    of the token's largest are less exact. `from_float8(*to_float8(...))` changes nothing the second time.

    Args:
        features: [tokens, width], of a floating-point dtype.

    Returns:
        float8_e4m3fn [tokens, width], and the scales, float32 [tokens].
    """
    wide = _exact_dtype(features.dtype)
    largest = features.abs().amax(-1).float()
    mantissa, exponent = torch.frexp(largest / torch.finfo(torch.float8_e4m3fn).max)
    exponent = (exponent - (mantissa == 0.5).int()).clamp(min=_LEAST_EXPONENT)
    scales = torch.ldexp(torch.ones_like(mantissa), exponent)
    return (features.to(wide) / scales[:, None].to(wide)).to(torch.float8_e4m3fn), scales


def from_float8(features: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """The inverse of `to_float8`, up to its rounding: [tokens, width] in a dtype."""
    wide = _exact_dtype(dtype)
    return (features.to(wide) * scales[:, None].to(wide)).to(dtype)


def _exact_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which values are scaled: their own if it holds every scale, because conversion costs time."""
    return torch.float32 if dtype is torch.float16 else dtype


def read_features(clip: VideoClip, first: int, end: int) -> Tensor:
    """Features of temporal patches `[first, end)` of a clip whose `features` are set.

    Returns:
        Shape [(end - first) * tokens per temporal patch, width], in the file's dtype, or in that which the features had
        before they were stored in float8.

    Raises:
        BadInput: the file is of other frames, another size, another tower or another video; or it is damaged or
            missing.
    """
    assert clip.features is not None, f"{clip.video.key}: no features"
    with _open_of_clip(clip.features, clip) as stored:
        per_patch = stored.tensors["features"].shape[0] // clip.grid.t
        rows = stored.read("features", first * per_patch, end * per_patch)
        if rows.dtype is not torch.float8_e4m3fn:
            return rows
        scales = stored.read("scales", first * per_patch, end * per_patch)
        return from_float8(rows, scales, _DTYPES[stored.metadata["dtype"]])


def is_float8(clip: VideoClip) -> bool:
    """Whether the features of a clip whose `features` are set are stored in float8. Raises as `read_features`."""
    assert clip.features is not None, f"{clip.video.key}: no features"
    with _open_of_clip(clip.features, clip) as stored:
        return stored.tensors["features"].dtype is torch.float8_e4m3fn


@dataclass(frozen=True)
class _TensorPlace:
    """A tensor inside a file."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    """Byte of the file at which it begins."""


@dataclass(frozen=True)
class _Stored:
    """An open file, and the content of its header."""

    ref: FeatureRef
    file: IO[bytes]
    metadata: Mapping[str, str]
    tensors: Mapping[str, _TensorPlace]

    def read(self, name: str, first: int, end: int) -> Tensor:
        """Rows `[first, end)` of a tensor.

        Raises:
            BadInput: the file is cut off.
        """
        place = self.tensors[name]
        row = place.dtype.itemsize * math.prod(place.shape[1:])
        self.file.seek(place.start + first * row)
        data = self.file.read((end - first) * row)
        if len(data) != (end - first) * row:
            raise BadInput(f"{shown_uri(self.ref.url)}: it is cut off; remove it, and encode the video again")
        return torch.frombuffer(bytearray(data), dtype=place.dtype).view(-1, *place.shape[1:])


@contextmanager
def _open_of_clip(ref: FeatureRef, clip: VideoClip) -> Iterator[_Stored]:
    """Open a clip's file.

    Raises:
        BadInput: the file does not match the clip, is damaged or is missing.
    """
    with _open_stored(ref) as stored:
        _check_description(ref, stored.metadata, _description(clip, ref.tower), _content(clip))
        yield stored


@contextmanager
def _open_stored(ref: FeatureRef) -> Iterator[_Stored]:
    filesystem, path = fsspec.core.url_to_fs(ref.url)
    try:
        file = filesystem.open(path, "rb")
    except FileNotFoundError:
        raise BadInput(f"{shown_uri(ref.url)}: deleted since the run began; encode the video again") from None
    with file:
        yield _read_header(file, ref)


def _read_header(file: IO[bytes], ref: FeatureRef) -> _Stored:
    size = int.from_bytes(file.read(8), "little")
    try:
        header = json.loads(file.read(min(size, _LONGEST_HEADER)))
        metadata = header.pop("__metadata__")
        tensors = {
            name: _TensorPlace(_DTYPES[each["dtype"]], tuple(each["shape"]), 8 + size + each["data_offsets"][0])
            for name, each in header.items()
        }
        _, _ = tensors["features"].shape
        if tensors["features"].dtype is torch.float8_e4m3fn:
            _ = tensors["scales"], _DTYPES[metadata["dtype"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(
            f"{shown_uri(ref.url)}: its header is damaged ({error!r}); remove it, and encode the video again"
        ) from error
    return _Stored(ref, file, metadata, tensors)


def _check_description(
    ref: FeatureRef, stored: Mapping[str, str], expected: Mapping[str, str], content: Mapping[str, str]
) -> None:
    """Compare a file's metadata with what is requested. A content that the file does not name is not compared."""
    other = [name for name in expected if stored.get(name) != expected[name]]
    other += [name for name in content if stored.get(name, content[name]) != content[name]]
    if other:
        towers = f" (its tower is {stored.get('tower')}, this model's is {ref.tower})" if "tower" in other else ""
        raise BadInput(
            f"{shown_uri(ref.url)}: other {', '.join(other)} than requested; encode the videos into another folder, or "
            f"remove the file{towers}"
        )


def _name(clip: VideoClip) -> str:
    digest = hashlib.sha256(json.dumps([clip.frame_times_us, clip.size]).encode()).hexdigest()
    return f"{clip.video.key}.{digest[:16]}{_SUFFIX}"


def _description(clip: VideoClip, tower: str) -> dict[str, str]:
    return {
        "frame_times_us": json.dumps(clip.frame_times_us),
        "size": json.dumps(clip.size),
        "tower": tower,
    }


def _content(clip: VideoClip) -> dict[str, str]:
    """What is known of the video's content; files of earlier versions do not name it."""
    video = clip.video
    known = {"sha256": video.sha256, "bytes": None if video.size is None else str(video.size)}
    return {name: value for name, value in known.items() if value is not None}
