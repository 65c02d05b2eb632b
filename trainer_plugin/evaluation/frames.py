"""Decodes the frames of a request's videos in worker processes, for `trainer_plugin.rl.sampler.HfSampler`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from schemas.errors import BadInput
from trainer_plugin.data.decode_pool import Decoders
from trainer_plugin.data.features import read_features
from trainer_plugin.data.video_decode import BadVideo, read_frames
from trainer_plugin.families.base import Family
from trainer_plugin.rl.rollout import RolloutRequest
from trainer_plugin.types import FrameRange, VideoClip

_PIECE_FRAMES = 128
"""Number of frames that one process decodes at a time."""


class FrameSource:
    """A `trainer_plugin.rl.sampler.PixelSource`. Close it to end its processes.

    It keeps the frames of the last clip, so that questions about one video that follow each other decode it once.
    """

    def __init__(self, family: Family, workers: int) -> None:
        """
        Args:
            family: the model's family, which decides how frames are resized.
            workers: number of decoder processes, each started when it is first needed; 0: decode in this process.
        """
        self._family = family
        self._decoders = Decoders(workers) if workers else None
        self._clip: VideoClip | None = None
        self._patches: dict[int, Tensor] = {}
        """Decoded frames of `_clip` by temporal patch."""

    def __call__(self, request: RolloutRequest, frames: FrameRange) -> Tensor:
        """The frames of some temporal patches, uint8 [frames, height, width, 3]; or their precomputed features.

        Raises:
            BadInput: the video cannot be decoded. The message names the sample.
        """
        clip = request.prompt.videos[frames.video]
        if clip.features is not None:
            return read_features(clip, frames.first, frames.end)
        if clip != self._clip:
            self._clip, self._patches = clip, {}
        missing = [patch for patch in range(frames.first, frames.end) if patch not in self._patches]
        if missing:
            try:
                found = self._decode(clip, missing)
            except BadVideo as bad:
                raise BadInput(f"sample {request.prompt.key}: {bad}") from bad
            self._patches |= zip(missing, found.split(clip.frames_per_patch), strict=True)
        return torch.cat([self._patches[patch] for patch in range(frames.first, frames.end)])

    def _decode(self, clip: VideoClip, patches: Sequence[int]) -> Tensor:
        """The frames of some temporal patches."""
        count = clip.frames_per_patch
        times = [time for patch in patches for time in clip.frame_times_us[patch * count : (patch + 1) * count]]
        pieces = [
            (clip.video, times[first : first + _PIECE_FRAMES], clip.size, self._family.resample, self._family.square)
            for first in range(0, len(times), _PIECE_FRAMES)
        ]
        if self._decoders is None:
            found = [read_frames(*piece) for piece in pieces]
        else:
            found = [future.result() for future in [self._decoders.submit(piece) for piece in pieces]]
        return torch.cat([torch.from_numpy(each) for each in found])

    def close(self) -> None:
        """End the processes."""
        if self._decoders is not None:
            self._decoders.close()
