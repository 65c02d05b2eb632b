"""Single frames of a video at requested times, as a viewer sees them, in the size that a model needs.

A frame is converted by `schemas.video.display`, with square pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream
from numpy.typing import NDArray

from operators.video.decode.packets import (
    DecodedFrame,
    PacketIndex,
    UnreadableVideo,
    open_video,
    read_packets,
    sample_aspect,
)
from operators.video.decode.probe import displayed_size
from operators.video.decode.ranges import decode_from
from schemas.video.display import displayed_rgb

PATCH = 28
"""Default multiple for both sides: Qwen2-VL's patches of 14 pixels, merged two by two. Qwen3-VL has patches of 16
pixels and needs 32."""


@dataclass(frozen=True)
class VideoFrame:
    """A frame as displayed."""

    time_us: int
    """Presentation time in microseconds."""
    rgb: NDArray[np.uint8]
    """Shape [height, width, 3]."""


def frames_at(
    path: Path, times_us: Sequence[int], side: int | tuple[int, int] | None = None, multiple: int = PATCH
) -> Iterator[VideoFrame]:
    """Yield the frame presented at each requested time, in ascending order of time, in one forward pass.

    Request all frames of a video in one call, because every call reads the packet index again.

    Args:
        times_us: times in `[0, duration)`, in any order. A repeated time yields its frame again.
        side: longest side in pixels. Both sides are then multiples of `multiple`, and the frame is not enlarged beyond
            rounding. Or width and height in pixels. None keeps the displayed size.
        multiple: the sides are multiples of this many pixels if the longest side is given.

    Raises:
        UnreadableVideo: the file cannot be read, or none of its frames can be decoded.
        ValueError: a time lies outside the video.
    """
    requested_us = sorted(times_us)
    with open_video(path) as (container, stream):
        index = read_packets(container, stream, path)
        if requested_us and not (requested_us[0] >= 0 and requested_us[-1] < index.duration_us):
            raise ValueError(
                f"{path.name}: frames were requested at {requested_us[0]} to {requested_us[-1]} us, outside of "
                f"[0, {index.duration_us}); request times of the video"
            )
    # Opened again, so that the decoder and the demuxer begin with the first of an MP4's decoder configurations.
    with open_video(path) as (container, stream):
        for time_us, frame in decode_at(container, stream, index, requested_us, path):
            width, height = displayed_size(frame, sample_aspect(frame))
            if isinstance(side, tuple):
                width, height = side
            elif side is not None:
                width, height = fitted_size(width, height, side, multiple)
            yield VideoFrame(time_us, displayed_rgb(frame, (width, height)))


def frame_times(path: Path) -> NDArray[np.int64]:
    """Start times of a video's frames in microseconds. Shape [frames], ascending, the first 0.

    Raises:
        UnreadableVideo: the file cannot be read.
    """
    with open_video(path) as (container, stream):
        return read_packets(container, stream, path).frame_times_us


def decode_at(
    container: InputContainer, stream: VideoStream, index: PacketIndex, times_us: Sequence[int], path: Path
) -> Iterator[DecodedFrame]:
    """Yield the time (us) and the decoded frame for each requested time; the times must ascend.

    Decoding runs forward. It jumps to a key frame when one lies between its position and the requested time.

    Raises:
        UnreadableVideo: `damaged` when no frame can be decoded at a requested time.
    """
    frames: Iterator[DecodedFrame] = iter(())
    current: DecodedFrame | None = None
    following: DecodedFrame | None = None
    for time_us in times_us:
        key_frame = index.key_frame(time_us)
        if current is None or (following and following[0] < index.key_frame_times_us[key_frame]):
            frames = decode_from(container, stream, index, key_frame)
            current, following = next(frames, None), next(frames, None)
        while following and following[0] <= time_us:
            current, following = following, next(frames, None)
        if current is None:
            raise UnreadableVideo("damaged", f"{path.name}: nothing can be decoded at {time_us} us; fetch it again")
        yield current


def to_jpeg(rgb: NDArray[np.uint8], quality: int = 90) -> bytes:
    """Encode an RGB frame, shape [height, width, 3], as a JPEG file."""
    _, data = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    return data.tobytes()


def fitted_size(width: int, height: int, side: int, multiple: int = PATCH) -> tuple[int, int]:
    """Width and height as multiples of `multiple`, the longest at most `side`.

    Each side is at least `multiple`. The aspect ratio is kept as closely as that allows, and the frame is not enlarged
    beyond rounding.
    """
    limit = max(multiple, side // multiple * multiple)
    scale = min(1.0, limit / max(width, height))
    fitted_width, fitted_height = (
        min(limit, max(multiple, round(pixels * scale / multiple) * multiple)) for pixels in (width, height)
    )
    return fitted_width, fitted_height
