"""A decoded frame as a viewer sees it: upright, in the colours of an ordinary screen, of one moment.

Of an interlaced frame only the top field is shown, stretched to the full height, because its two fields show two
different times.
"""

from __future__ import annotations

from typing import cast

import av
import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from schemas.video.colour import to_rgb
from schemas.video.orientation import orientation


def displayed_rgb(frame: VideoFrame, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """Convert a decoded frame to RGB as displayed, shape [height, width, 3].

    Args:
        size: displayed width and height, whatever the frame's own aspect ratio. None keeps the stored pixels, which
            need not be square.
    """
    shown = orientation(frame)
    width, height = (frame.width, frame.height) if size is None else size[::-1] if shown.swaps_sides else size
    return shown.upright(to_rgb(_top_field(frame) if frame.interlaced_frame else frame, width, height))


def _top_field(frame: VideoFrame) -> VideoFrame:
    """Every other line of a frame, starting with the first. Nothing is copied."""
    graph = av.filter.Graph()
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base)
    graph.link_nodes(source, graph.add("field", "top"), graph.add("buffersink")).configure()
    graph.push(frame)
    return cast(VideoFrame, graph.pull())
