"""Which frames of a video a model sees in training and evaluation: how many, at which times, and in which size.

Frames are evenly spread over the whole video. If they need more tokens than there is room for, first their size becomes
smaller, down to the family's smallest, and then their number.

Not here: the frame that is shown at a time (`trainer_plugin.data.video_decode`), and the frames that the pipeline's
captioner sees (`operators/vision/frame_selection.py`).
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING

from transformers import PreTrainedTokenizerBase

from schemas.frame_policy import FramePolicy, frame_times
from trainer_plugin.types import VideoClip, VideoInfo

if TYPE_CHECKING:
    from trainer_plugin.families.base import Family


def select_frames(
    video: VideoInfo, room: int, policy: FramePolicy, family: Family, tokenizer: PreTrainedTokenizerBase
) -> tuple[VideoClip, list[int]] | None:
    """Choose a video's frames and their size so that the video takes at most `room` tokens.

    Returns:
        The clip and its token ids; None if not even the fewest and smallest frames fit.

    Raises:
        ValueError: the family has no size for such frames.
    """
    allowed = min(policy.max_video_tokens or room, room)
    while (clip := _largest_clip(video, allowed, policy, family)) is not None:
        video_ids = family.video_ids(tokenizer, clip.grid, clip.frame_times_us, video.duration_us)
        if len(video_ids) <= room:
            return clip, video_ids
        # Markers and timestamps between the features take tokens too, so the features get a proportional share.
        allowed = _tokens(clip, family) * room // len(video_ids)
    return None


def _largest_clip(video: VideoInfo, allowed: int, policy: FramePolicy, family: Family) -> VideoClip | None:
    """A clip of as many frames as the policy wants and `allowed` features can show.

    Returns None if not even the fewest frames fit.
    """
    patch = family.temporal_patch
    count = policy.count(video.duration_us, video.fps)
    clip = _resize_clip(video, count, allowed, policy, family)
    if clip is not None:
        return clip
    fewer = range(1, -(-count // patch))  # temporal patches
    fitting = bisect_right(
        fewer, False, key=lambda few: _resize_clip(video, few * patch, allowed, policy, family) is None
    )
    return _resize_clip(video, fitting * patch, allowed, policy, family) if fitting else None


def _resize_clip(video: VideoInfo, count: int, allowed: int, policy: FramePolicy, family: Family) -> VideoClip | None:
    """A clip of `count` frames, in the family's size for them or smaller.

    Returns None if the family's smallest size needs more than `allowed` features.
    """
    times = frame_times(video.duration_us, count)
    times += times[-1:] * (-count % family.temporal_patch)
    # First the size from the processor or the policy, then one that fits into `allowed`, in whole temporal patches.
    for limit, frames in ((policy.max_video_tokens, count), (max(allowed, 1), len(times))):
        size = family.frame_size(video.height, video.width, frames, limit)
        clip = VideoClip(video.source, times, size, family.grid(*size, len(times)))
        if _tokens(clip, family) <= allowed:
            return clip
    return None


def _tokens(clip: VideoClip, family: Family) -> int:
    return clip.grid.t * family.tokens_per_temporal_patch(clip.grid)


def shuffle_frames(clip: VideoClip, seed: str) -> VideoClip:
    """The clip with its frames in a random order that depends on `seed` alone. It has no precomputed features."""
    times = list(dict.fromkeys(clip.frame_times_us))
    Random(seed).shuffle(times)
    times += times[-1:] * (len(clip.frame_times_us) - len(times))
    return replace(clip, frame_times_us=tuple(times), features=None)
