"""Chooses the file to read a video's frames from: the proxy if its rate and size suffice, otherwise the source."""

from __future__ import annotations

from pathlib import Path

from operators.execution.stage import Context
from operators.store.content_store import SourceGone, sha256_of_file
from operators.video.analysis.proxy import FPS, SIDE
from operators.video.decode.unpack import unpack
from schemas.tables import Video
from schemas.uri import shown_uri


def footage(context: Context, video: Video, fps: float, side: int) -> Path:
    """A local file from which a video's frames can be read at the requested rate and size.

    This is the proxy if it reaches both, otherwise the source file, which may itself have less than requested.

    Args:
        fps: frames per second that are needed.
        side: pixels that are needed on the longest side.

    Raises:
        SourceGone: the source file is needed, but it is missing or differs from the one that was ingested.
    """
    enough = fps <= FPS and min(side, max(video.width, video.height)) <= SIDE
    if video.proxy_uri is not None and enough:
        return context.files.fetch(video.proxy_uri, context.scratch)
    source = context.sources.fetch(video.video_id, video.uri, context.scratch)
    if sha256_of_file(source) != video.sha256:
        message = f"{shown_uri(video.uri)} has changed since it was ingested; run the build again"
        raise SourceGone("source_changed", message)
    return unpack(source, context.scratch / "unpacked")
