"""Boxes as a model family writes them, and as fractions of the picture.

Qwen2.5-VL was trained on absolute pixels of the picture that it is given, Qwen3-VL on thousandths of its sides. Other
models get a prompt that requests fractions. A box is always read in the convention that was requested: numbers
of one convention may also be valid in another, so none is guessed from its values.
"""

from __future__ import annotations

from collections.abc import Sequence

from schemas.base import Box
from schemas.config import BoxFormat
from schemas.tables import BoxConvention

SLACK = 0.02
"""Tolerance for a box's edges outside the picture, as a fraction of its side. Such edges are moved to the border."""
_FAMILIES = {"qwen2.5-vl": BoxConvention.PIXELS, "qwen3-vl": BoxConvention.THOUSANDTHS}
"""Conventions by a part of the model's name, in lower case and with hyphens."""


def box_convention(model: str, format: BoxFormat, *, is_size_known: bool = True) -> BoxConvention:
    """The convention of a model's boxes: as configured, else its family's, else fractions.

    Args:
        model: the model's name.
        format: the configured convention.
        is_size_known: whether the size of its pictures is known. If not, fractions replace a family's pixels.
    """
    if format is not BoxFormat.AUTO:
        return BoxConvention(format.value)
    name = model.casefold().replace("_", "-")
    found = next((found for family, found in _FAMILIES.items() if family in name), BoxConvention.FRACTIONS)
    return found if is_size_known or found is not BoxConvention.PIXELS else BoxConvention.FRACTIONS


def read_box(corners: Sequence[float], convention: BoxConvention, width: int, height: int) -> Box | None:
    """A box as fractions of the picture; None when it is incomplete, empty or outside of the picture.

    Args:
        corners: left, top, right and bottom edge.
        convention: the convention that the prompt requested.
        width: the picture's width in pixels.
        height: the picture's height in pixels.
    """
    if len(corners) != 4:
        return None
    scale_x, scale_y = {
        BoxConvention.PIXELS: (width, height),
        BoxConvention.THOUSANDTHS: (1000, 1000),
        BoxConvention.FRACTIONS: (1, 1),
    }[convention]
    x0, y0, x1, y1 = corners
    edges = (x0 / scale_x, y0 / scale_y, x1 / scale_x, y1 / scale_y)
    if not all(-SLACK <= edge <= 1 + SLACK for edge in edges):
        return None
    left, top, right, bottom = (min(max(edge, 0.0), 1.0) for edge in edges)
    return Box(x0=left, y0=top, x1=right, y1=bottom) if left < right and top < bottom else None
