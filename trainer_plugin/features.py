"""Features of videos that a frozen vision tower computed before: one safetensors file per video.

A file says which frames, in which size, and which tower its features are of; one that says something else than what is
asked is an error, never used. Rows are read by range, so each rank reads only those that it would have encoded.
"""

from __future__ import annotations

import json
from typing import Any

import fsspec
import safetensors.torch
import torch
from torch import Tensor

from schemas.errors import BadInput
from trainer_plugin.examples import FeatureRef, VideoClip

_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class FeatureFolder:
    """The feature files of one tower: `{url}/{video}.safetensors`."""

    def __init__(self, url: str, tower: str) -> None:
        """`tower` names the weights and the processing, e.g. a hash."""
        self.url = url.rstrip("/")
        self.tower = tower
        filesystem, path = fsspec.core.url_to_fs(self.url)
        try:
            self._names = {name.rpartition("/")[2] for name in filesystem.ls(path, detail=False)}
        except FileNotFoundError:
            self._names = set()

    def find(self, video: str) -> FeatureRef | None:
        """The video's features, if there were some when this folder was opened."""
        name = f"{video}.safetensors"
        return FeatureRef(f"{self.url}/{name}", self.tower) if name in self._names else None

    def write(self, clip: VideoClip, features: Tensor) -> FeatureRef:
        """Keep a clip's features, shape [tokens, width], tokens in order."""
        name = f"{clip.video.key}.safetensors"
        data = safetensors.torch.save({"features": features.contiguous()}, _description(clip, self.tower))
        with fsspec.open(f"{self.url}/{name}", "wb", auto_mkdir=True) as file:
            file.write(data)
        self._names.add(name)
        return FeatureRef(f"{self.url}/{name}", self.tower)


def read_features(clip: VideoClip, first: int, end: int) -> Tensor:
    """The features of temporal patches `first` to `end` of a clip that has some.

    Returns:
        Shape [(end - first) * tokens per temporal patch, width], in the file's dtype.

    Raises:
        BadInput: the file's features are of other frames, another size or another tower.
    """
    ref = clip.features
    assert ref is not None, f"{clip.video.key}: no features"
    filesystem, path = fsspec.core.url_to_fs(ref.url)
    with filesystem.open(path, "rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        header: dict[str, Any] = json.loads(file.read(header_bytes))
        found, wanted = header.get("__metadata__"), _description(clip, ref.tower)
        if found != wanted:
            other = [name for name in wanted if (found or {}).get(name) != wanted[name]]
            raise BadInput(f"{ref.url}: other {', '.join(other)} than asked; compute the features again")
        tokens, width = header["features"]["shape"]
        dtype = _DTYPES[header["features"]["dtype"]]
        row_bytes, per_patch = width * dtype.itemsize, tokens // clip.grid.t
        file.seek(8 + header_bytes + first * per_patch * row_bytes)
        data = file.read((end - first) * per_patch * row_bytes)
    return torch.frombuffer(bytearray(data), dtype=dtype).view(-1, width)


def _description(clip: VideoClip, tower: str) -> dict[str, str]:
    return {
        "frame_times_us": json.dumps(clip.frame_times_us),
        "size": json.dumps(clip.size),
        "tower": tower,
    }
