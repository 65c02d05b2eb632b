"""Limits for opening a file that may be damaged or hostile, and the choice of its video stream.

The choice depends only on the container's list of streams, so it is the same whenever the same bytes are opened.
"""

from __future__ import annotations

from typing import Any

import av
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

CONTAINERS = "mov,matroska,avi,mpegts,mpeg,flv,asf,ogg,mxf,nut,gif,rm,wtv,ivf,dv"
"""Demuxers that may open a source. Playlists and concatenation scripts (hls, dash, concat, sdp, ...) are excluded
because they refer to other files and addresses."""

LARGEST_FRAME_PIXELS = 100_000_000
"""Limit for the pixels of a decoded frame. A larger frame counts as damage or an attack. 8K video has 33 million
pixels, 16K video 133 million."""

FILL_IN_TIMES = {"fflags": "+genpts"}
"""Option of the demuxer that fills in timestamps that the packets of a broadcast lack. Everything that opens a video
sets it, so that all see the same times."""

ANY_TITLE: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
"""Options of `av.open` that accept a title in an old encoding, which does not concern the frames. PyAV 19 accepts one
by default."""

_STILL = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image | Disposition.dependent
"""Covers, previews and pictures for single times; also enhancement layers, which show nothing by themselves."""


def moving_pictures(container: InputContainer) -> list[VideoStream]:
    """The decodable video streams with moving pictures, best first.

    The best is the `default` stream where exactly one is marked so (Matroska marks all streams by default). Otherwise
    it is the stream with the most pixels, and of several such streams the first in the container. A stream with a frame
    count of 1 comes last.
    """
    streams = [stream for stream in container.streams.video if not stream.disposition & _STILL]
    streams = [stream for stream in streams if stream.codec_context is not None]
    defaults = [stream for stream in streams if stream.disposition & Disposition.default]

    def rank(stream: VideoStream) -> tuple[bool, bool, int, int]:
        pixels = stream.codec_context.width * stream.codec_context.height
        return stream.frames == 1, [stream] != defaults, -pixels, stream.index

    return sorted(streams, key=rank)


def has_moving_picture(container: InputContainer) -> bool:
    """Whether any video stream has moving pictures, decodable or not."""
    return any(not stream.disposition & _STILL for stream in container.streams.video)
