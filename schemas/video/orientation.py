"""Orientation in which a video is displayed, from its display matrix: quarter turns, mirrored or not.

Phones write such a matrix instead of rotating pixels. Selfie and rear-view cameras write one that mirrors. The matrix
is stored in the container or, as display orientation SEI, in the coded video. Decoders attach either to each frame.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, cast

import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

_TURNS = {0: (), 90: (("transpose", "clock"),), 180: (("hflip",), ("vflip",)), 270: (("transpose", "cclock"),)}


class Orientation(NamedTuple):
    """Transformation of a stored frame for display: first mirror it, then rotate it."""

    mirrored: bool
    """True if left and right are exchanged."""
    rotation: int
    """Clockwise rotation in degrees: 0, 90, 180 or 270."""

    @property
    def swaps_sides(self) -> bool:
        """Whether the stored width is the displayed height."""
        return self.rotation in (90, 270)

    def upright(self, pictures: NDArray[np.uint8], axes: tuple[int, int] = (0, 1)) -> NDArray[np.uint8]:
        """Transform stored pictures to how they are displayed. The result is contiguous in memory.

        Args:
            axes: the vertical and the horizontal axis.
        """
        mirrored = np.flip(pictures, axes[1]) if self.mirrored else pictures
        return np.ascontiguousarray(np.rot90(mirrored, k=-self.rotation // 90, axes=axes))

    @property
    def filters(self) -> tuple[tuple[str, ...], ...]:
        """The transformation as ffmpeg filters, each with its arguments."""
        return (*((("hflip",),) if self.mirrored else ()), *_TURNS[self.rotation])


AS_STORED = Orientation(mirrored=False, rotation=0)


def orientation(frame: VideoFrame) -> Orientation:
    """Orientation of a decoded frame, as ffmpeg and players show it, but rounded to the nearest quarter turn.

    The matrix maps the axes of the stored picture, x to the right and y down, to (a, b) and (c, d) (ISO/IEC 14496-12,
    8.5.2). Its determinant is negative where it mirrors. The angle is that of the nearest rotation.
    """
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return AS_STORED
    (a, b, _), (c, d, _), _ = np.frombuffer(cast(Any, matrix), dtype=np.int32).reshape(3, 3).tolist()
    mirrored = a * d < b * c
    if mirrored:
        a, b = -a, -b
    return Orientation(mirrored, round(math.degrees(math.atan2(b - c, a + d)) / 90) % 4 * 90)
