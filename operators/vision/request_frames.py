"""Decides which file the frames of a model request are read from, and encodes them. It does not choose the frames.

A clip's frames are chosen in `operators.vision.frame_selection`, the target's in `operators.stages.difficulty`.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from operators.execution.stage import Context
from operators.models.client import TimedFrame
from operators.video.analysis.proxy import FPS, SIDE
from operators.video.decode.frames import VideoFrame, to_jpeg
from operators.video.decode.unpack import unpack
from operators.vision.frame_selection import ClipFrame
from schemas.tables import Video


def fetch_frame_source(context: Context, video: Video, fps: float, side: int) -> Path:
    """A local file from which a video's frames can be read at the requested rate and size.

    This is the proxy if it reaches both, otherwise the source file, which may itself have less than requested.

    Args:
        fps: frames per second that are needed.
        side: pixels that are needed on the longest side.

    Raises:
        SourceUnavailable: the source file is needed, but it is missing or differs from the one that was ingested.
    """
    if video.proxy_uri is not None and proxy_suffices(video, fps, side):
        return context.files.fetch(video.proxy_uri, context.scratch)
    return fetch_source(context, video)


def fetch_source(context: Context, video: Video) -> Path:
    """A local file of a source video.

    Raises:
        SourceUnavailable: it is missing or differs from the file that was ingested.
    """
    return unpack(context.sources.fetch_video(video, context.scratch), context.scratch / "unpacked")


def proxy_suffices(video: Video, fps: float, side: int) -> bool:
    """Whether a video has a proxy that reaches the requested rate and size."""
    return video.proxy_uri is not None and fps <= FPS and min(side, max(video.width, video.height)) <= SIDE


def encode_frames(frames: Iterable[ClipFrame | VideoFrame]) -> tuple[TimedFrame, ...]:
    """The frames as JPEG files with their times, as a request takes them."""
    return tuple(TimedFrame(frame.time_us, to_jpeg(frame.rgb)) for frame in frames)
