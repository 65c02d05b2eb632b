"""Single frames of a video at asked times: what a viewer sees then, upright, in the size that a model wants."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, dropwhile
from pathlib import Path

import av
import cv2
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream
from numpy.typing import NDArray

from operators.video.packets import SECOND_US, PacketIndex, UnreadableVideo, decode, open_video, read_packets
from operators.video.probe import clockwise_rotation, displayed_size

PATCH = 28
"""Sides are multiples of this: Qwen2-VL's grid of 14-pixel patches, merged two by two."""


@dataclass(frozen=True)
class VideoFrame:
    """A frame as it is displayed."""

    time_us: int
    """When its presentation starts."""
    rgb: NDArray[np.uint8]
    """Shape [height, width, 3]."""


def frames_at(path: Path, times_us: Sequence[int], side: int | None = None) -> Iterator[VideoFrame]:
    """For each asked time, in ascending order, the frame being presented then. One forward pass over the video.

    Ask for all frames of a video at once: every call reads the packet index anew.

    Args:
        times_us: times in `[0, duration)`, in any order; an equal time gives an equal frame again.
        side: longest side in pixels; both sides are then multiples of 28 and the frame is not enlarged beyond rounding.
            None keeps the displayed size.

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
        for time_us, frame in _presented(container, stream, index, asked, path):
            yield VideoFrame(time_us, _upright(frame, stream, side))


def to_jpeg(rgb: NDArray[np.uint8], quality: int = 90) -> bytes:
    """A frame of shape [height, width, 3] as a JPEG file."""
    _, data = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    return data.tobytes()


def fitted_size(width: int, height: int, side: int) -> tuple[int, int]:
    """Width and height in multiples of 28, at most `side` (but at least 28), the aspect kept as well as that allows."""
    limit = max(PATCH, side // PATCH * PATCH)
    scale = min(1.0, limit / max(width, height))
    fitted_width, fitted_height = (
        min(limit, max(PATCH, round(pixels * scale / PATCH) * PATCH)) for pixels in (width, height)
    )
    return fitted_width, fitted_height


def _presented(
    container: InputContainer, stream: VideoStream, index: PacketIndex, asked: Sequence[int], path: Path
) -> Iterator[tuple[int, av.VideoFrame]]:
    """Walks forward; jumps to a key frame when one lies between the walk's position and the asked time."""
    walk: Iterator[tuple[int, av.VideoFrame]] = iter(())
    current: tuple[int, av.VideoFrame] | None = None
    following: tuple[int, av.VideoFrame] | None = None
    for time_us in asked:
        key_frame = index.key_frame(time_us)
        if current is None or (following and following[0] < index.key_frame_times_us[key_frame]):
            walk = _decode_from(container, stream, index, key_frame)
            current, following = next(walk, None), next(walk, None)
        while following and following[0] <= time_us:
            current, following = following, next(walk, None)
        if current is None:
            raise UnreadableVideo("damaged", f"{path.name}: nothing can be decoded at {time_us} us; fetch it again")
        yield current


def _decode_from(
    container: InputContainer, stream: VideoStream, index: PacketIndex, key_frame: int
) -> Iterator[tuple[int, av.VideoFrame]]:
    """Frames from a key frame on, or from an earlier one when the container's seek or damage makes that necessary."""
    back = 1
    while True:
        key_us = int(index.key_frame_times_us[key_frame])
        container.seek(round(index.timeline.seconds(index.seek_target_us(key_frame)) * SECOND_US))
        # Frames before the key frame may refer to pictures that the seek has skipped.
        frames = dropwhile(partial(_is_before, key_us), decode(container, stream, index.timeline))
        first = next(frames, None)
        if first and (first[0] == key_us or key_frame == 0):
            return chain([first], frames)
        if key_frame == 0:
            return iter(())
        key_frame = max(0, key_frame - back)
        back *= 2


def _is_before(time_us: int, timed_frame: tuple[int, av.VideoFrame]) -> bool:
    return timed_frame[0] < time_us


def _upright(frame: av.VideoFrame, stream: VideoStream, side: int | None) -> NDArray[np.uint8]:
    """The frame as RGB in its displayed orientation and size, shape [height, width, 3]."""
    width, height = displayed_size(frame, stream)
    if side is not None:
        width, height = fitted_size(width, height, side)
    rotation = clockwise_rotation(frame)
    if rotation in (90, 270):
        width, height = height, width
    rgb = frame.reformat(width=width, height=height, format="rgb24", interpolation="AREA").to_ndarray()
    return np.ascontiguousarray(np.rot90(rgb, k=-rotation // 90), dtype=np.uint8)
