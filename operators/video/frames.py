"""Single frames of a video at asked times: what a viewer sees then, in the size that a model wants.

A frame is shown as `operators.video.orientation` says, with square pixels and in the colours of
`operators.video.colour`. Of an interlaced frame one field is shown, stretched to the full height: its two fields are
pictures of two moments.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import av
import cv2
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream
from numpy.typing import NDArray

from operators.video.colour import to_rgb
from operators.video.orientation import orientation
from operators.video.packets import PacketIndex, UnreadableVideo, open_video, read_packets, sample_aspect
from operators.video.probe import displayed_size
from operators.video.ranges import decode_from

PATCH = 28
"""Sides are multiples of this unless asked otherwise: Qwen2-VL's patches of 14 pixels, merged two by two. Qwen3-VL's
patches are of 16 pixels: 32."""


@dataclass(frozen=True)
class VideoFrame:
    """A frame as it is displayed."""

    time_us: int
    """When its presentation starts."""
    rgb: NDArray[np.uint8]
    """Shape [height, width, 3]."""


def frames_at(
    path: Path, times_us: Sequence[int], side: int | None = None, multiple: int = PATCH
) -> Iterator[VideoFrame]:
    """For each asked time, in ascending order, the frame being presented then. One forward pass over the video.

    Ask for all frames of a video at once: every call reads the packet index anew.

    Args:
        times_us: times in `[0, duration)`, in any order; an equal time gives an equal frame again.
        side: longest side in pixels; both sides are then multiples of `multiple` and the frame is not enlarged beyond
            rounding. None keeps the displayed size.

    Raises:
        UnreadableVideo: the file cannot be read, or nothing of it can be decoded.
        ValueError: a time lies outside the video.
    """
    asked = sorted(times_us)
    with open_video(path) as (container, stream):
        index = read_packets(container, stream, path)
        if asked and not (asked[0] >= 0 and asked[-1] < index.duration_us):
            raise ValueError(
                f"{path.name}: asked for frames at {asked[0]} to {asked[-1]} us of [0, {index.duration_us})"
            )
        for time_us, frame in presented(container, stream, index, asked, path):
            width, height = displayed_size(frame, sample_aspect(frame))
            if side is not None:
                width, height = fitted_size(width, height, side, multiple)
            yield VideoFrame(time_us, displayed(frame, width, height))


def frame_times(path: Path) -> NDArray[np.int64]:
    """When each frame of a video starts, in microseconds; shape [frames], ascending, the first 0.

    Raises:
        UnreadableVideo: the file cannot be read.
    """
    with open_video(path) as (container, stream):
        return read_packets(container, stream, path).frame_times_us


def presented(
    container: InputContainer, stream: VideoStream, index: PacketIndex, asked: Sequence[int], path: Path
) -> Iterator[tuple[int, av.VideoFrame]]:
    """Times (us) and decoded frames for asked times, which ascend.

    Walks forward; jumps to a key frame when one lies between the walk's position and the asked time.

    Raises:
        UnreadableVideo: `damaged` when nothing can be decoded.
    """
    walk: Iterator[tuple[int, av.VideoFrame]] = iter(())
    current: tuple[int, av.VideoFrame] | None = None
    following: tuple[int, av.VideoFrame] | None = None
    for time_us in asked:
        key_frame = index.key_frame(time_us)
        if current is None or (following and following[0] < index.key_frame_times_us[key_frame]):
            walk = decode_from(container, stream, index, key_frame)
            current, following = next(walk, None), next(walk, None)
        while following and following[0] <= time_us:
            current, following = following, next(walk, None)
        if current is None:
            raise UnreadableVideo("damaged", f"{path.name}: nothing can be decoded at {time_us} us; fetch it again")
        yield current


def displayed(frame: av.VideoFrame, width: int, height: int) -> NDArray[np.uint8]:
    """A decoded frame as it is displayed, shape [height, width, 3], whatever its own aspect."""
    shown = orientation(frame)
    if shown.swaps_sides:
        width, height = height, width
    rgb = to_rgb(_one_field(frame) if frame.interlaced_frame else frame, width, height)
    return shown.upright(rgb)


def to_jpeg(rgb: NDArray[np.uint8], quality: int = 90) -> bytes:
    """A frame of shape [height, width, 3] as a JPEG file."""
    _, data = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    return data.tobytes()


def fitted_size(width: int, height: int, side: int, multiple: int = PATCH) -> tuple[int, int]:
    """Width and height in multiples of `multiple`, at most `side` (but at least one), the aspect kept as well as that
    allows."""
    limit = max(multiple, side // multiple * multiple)
    scale = min(1.0, limit / max(width, height))
    fitted_width, fitted_height = (
        min(limit, max(multiple, round(pixels * scale / multiple) * multiple)) for pixels in (width, height)
    )
    return fitted_width, fitted_height


def _one_field(frame: av.VideoFrame) -> av.VideoFrame:
    """Every other line of a frame, from the first on; nothing is copied."""
    graph = av.filter.Graph()
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base)
    graph.link_nodes(source, graph.add("field", "top"), graph.add("buffersink")).configure()
    graph.push(frame)
    return cast(av.VideoFrame, graph.pull())
