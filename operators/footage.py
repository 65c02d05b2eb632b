"""Chooses the file to read a video's frames from: the proxy if its rate and size suffice, otherwise the source."""

from __future__ import annotations

from pathlib import Path

from operators.execution.stage import Context
from operators.video.analysis.proxy import FPS, SIDE
from operators.video.decode.unpack import unpack
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
    enough = fps <= FPS and min(side, max(video.width, video.height)) <= SIDE
    if video.proxy_uri is not None and enough:
        return context.files.fetch(video.proxy_uri, context.scratch)
    return unpack(context.sources.fetch_video(video, context.scratch), context.scratch / "unpacked")
