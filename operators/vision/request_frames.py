"""Decides which file the frames of a model request are read from, decodes and encodes them. It does not choose them.

A clip's frames are chosen in `operators.vision.frame_selection`, the target's in `operators.stages.difficulty`, and the
viewer's in `operators.questions.gates.frames`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from operators.execution.stage import Context
from operators.models.client import TimedFrame
from operators.process.isolate import run_isolated
from operators.video.analysis.proxy import FPS, SIDE
from operators.video.decode.frames import VideoFrame, frames_at, to_jpeg
from operators.video.decode.unpack import unpack
from operators.vision.frame_selection import ClipFrame
from schemas.tables import Video

DECODE_SECONDS = 3600.0
"""Time limit for decoding the frames of one video, in seconds."""


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


def decode_frames(path: Path, times_us: Sequence[int], side: int | tuple[int, int]) -> tuple[TimedFrame, ...]:
    """The frames at these times, in a child process, so that a decoder that crashes or hangs does not stop the stage.

    Args:
        path: the video or its proxy.
        times_us: times in microseconds, ascending.
        side: longest side of the frames in pixels, or their width and height.

    Raises:
        UnreadableVideo: the file cannot be read.
        ChildFailed: the child process crashed or exceeded a limit, such as `DECODE_SECONDS`.
    """
    return run_isolated(_decode, path, times_us, side, timeout_seconds=DECODE_SECONDS)


def _decode(path: Path, times_us: Sequence[int], side: int | tuple[int, int]) -> tuple[TimedFrame, ...]:
    return encode_frames(frames_at(path, times_us, side))


def encode_frames(frames: Iterable[ClipFrame | VideoFrame]) -> tuple[TimedFrame, ...]:
    """The frames as JPEG files with their times, as a request takes them."""
    return tuple(TimedFrame(frame.time_us, to_jpeg(frame.rgb)) for frame in frames)
