"""Which way up a video is to be shown: what its display matrix asks for, rounded to quarter turns, mirrored or not.

Phones write such a matrix instead of turning pixels, selfie and rear-view cameras one that mirrors. It stands in the
container or, as display orientation SEI, in the coded video; decoders put either beside each frame.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, cast

import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

_TURNS = {0: (), 90: (("transpose", "clock"),), 180: (("hflip",), ("vflip",)), 270: (("transpose", "cclock"),)}


class Orientation(NamedTuple):
    """What to do with a stored frame to show it: first mirror it, then turn it."""

    mirrored: bool
    """Left and right are exchanged."""
    rotation: int
    """Degrees clockwise: 0, 90, 180 or 270."""

    @property
    def swaps_sides(self) -> bool:
        """What is stored as width is shown as height."""
        return self.rotation in (90, 270)

    def upright(self, pictures: NDArray[np.uint8], axes: tuple[int, int] = (0, 1)) -> NDArray[np.uint8]:
        """Stored pictures as they are shown, contiguous in memory.

        Args:
            axes: the vertical and the horizontal one.
        """
        mirrored = np.flip(pictures, axes[1]) if self.mirrored else pictures
        return np.ascontiguousarray(np.rot90(mirrored, k=-self.rotation // 90, axes=axes))

    @property
    def filters(self) -> tuple[tuple[str, ...], ...]:
        """The same as filters of ffmpeg, each with its arguments."""
        return (*((("hflip",),) if self.mirrored else ()), *_TURNS[self.rotation])


AS_STORED = Orientation(mirrored=False, rotation=0)


def orientation(frame: VideoFrame) -> Orientation:
    """How a decoded frame is to be shown: as ffmpeg and players do, but any angle to the nearest quarter turn.

    The matrix maps the stored picture's axes, x to the right and y down, to (a, b) and (c, d) (ISO/IEC 14496-12,
    8.5.2). Its determinant is negative where it mirrors. The angle is that of the rotation nearest to it.
    """
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return AS_STORED
    (a, b, _), (c, d, _), _ = np.frombuffer(cast(Any, matrix), dtype=np.int32).reshape(3, 3).tolist()
    mirrored = a * d < b * c
    if mirrored:
        a, b = -a, -b
    return Orientation(mirrored, round(math.degrees(math.atan2(b - c, a + d)) / 90) % 4 * 90)
