"""Which file to look at for the frames of a video: its proxy where that shows enough, else the source."""

from __future__ import annotations

from pathlib import Path

from operators.stage import Context
from operators.store import SourceGone, sha256_of_file
from operators.video.proxy import FPS, SIDE
from operators.video.unpack import unpack
from schemas.tables import Video
from schemas.uri import shown_uri


def footage(context: Context, video: Video, fps: float, side: int) -> Path:
    """A local file with at least so many frames a second and pixels on the longest side, if the source has them.

    Raises:
        SourceGone: the source is needed, and gone or not the file any more that was ingested.
    """
    enough = fps <= FPS and min(side, max(video.width, video.height)) <= SIDE
    if video.proxy_uri is not None and enough:
        return context.files.fetch(video.proxy_uri, context.scratch)
    source = context.sources.fetch(video.video_id, video.uri, context.scratch)
    if sha256_of_file(source) != video.sha256:
        message = f"{shown_uri(video.uri)} has changed since it was ingested; run the build again"
        raise SourceGone("source_changed", message)
    return unpack(source, context.scratch / "unpacked")
