"""Names of the dominant colours of frames.

Each pixel gets the name of the nearest of a few dozen reference colours in CIELAB, where distances are close to
perceived differences. Several references share a name, because "brown" or "blue" is a region of that space and not a
point.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

MAX_COLOURS = 3
"""Maximum number of names."""
MIN_SHARE = 0.12
"""Fraction of all pixels that a colour must cover. Smaller areas are details of a picture."""
_SIDE = 64
_BITS = 5
"""Bits kept of each channel. The 32 levels are finer than the distances between names."""

# Reference colours by name. Most are CSS colours (W3C CSS Color 4, section 6.1), some are darker or paler shades.
_REFERENCES: dict[str, tuple[str, ...]] = {
    "black": ("000000", "161616", "101820"),
    "grey": ("404040", "606060", "808080", "a0a0a0", "c0c0c0", "708090"),
    "white": ("ffffff", "ececec", "f5f5f0"),
    "red": ("ff0000", "dc143c", "b22222", "8b0000", "d83a3a"),
    "orange": ("ff8c00", "ff6a00", "f4a340", "e2711d"),
    "yellow": ("ffff00", "ffd700", "f2e35e", "d8b400"),
    "green": ("008000", "00c000", "228b22", "006400", "90c060", "6b8e23", "2e8b57", "98d898", "4f7942"),
    "cyan": ("00ffff", "40e0d0", "20b2aa", "008b8b", "a0e8e8"),
    "blue": ("0000ff", "1e50c8", "00008b", "4682b4", "87ceeb", "1e90ff", "12284c", "5b8fd9", "24466e"),
    "purple": ("800080", "8a2be2", "4b0082", "9370db", "5a2d6e"),
    "pink": ("ffc0cb", "ff69b4", "ff1493", "e8a0b8"),
    "brown": ("8b4513", "5c3a21", "a0522d", "6f4e37", "3b2414", "8b6b4a"),
    "beige": ("f5deb3", "d2b48c", "e8dcc0", "c8b490"),
}


def dominant_colours(frames: Iterable[NDArray[np.uint8]]) -> tuple[str, ...]:
    """Names of the one to three colours that cover most of the frames, largest area first.

    Args:
        frames: RGB images of shape (height, width, 3).

    Raises:
        ValueError: there are no frames.
    """
    names, lookup = _lookup()
    counts = np.zeros(len(names), np.int64)
    for rgb in frames:
        counts += np.bincount(lookup[_codes(_subsample(rgb))], minlength=len(names))
    if not counts.any():
        raise ValueError("dominant colours of no frames; pass at least one")
    ranking = np.argsort(-counts, kind="stable")[:MAX_COLOURS]
    large = [names[i] for i in ranking if counts[i] >= MIN_SHARE * counts.sum()]
    return tuple(large or [names[ranking[0]]])


def _subsample(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The frame subsampled to 64 x 64 pixels. Averaging would count red next to green as brown."""
    return cv2.resize(rgb, (_SIDE, _SIDE), interpolation=cv2.INTER_NEAREST).astype(np.uint8, copy=False)


def _codes(rgb: NDArray[np.uint8]) -> NDArray[np.int32]:
    """One integer per pixel, made of the upper bits of its channels."""
    red, green, blue = (rgb.reshape(-1, 3) >> (8 - _BITS)).astype(np.int32).T
    return (red << 2 * _BITS) | (green << _BITS) | blue


@cache
def _lookup() -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """The colour names, and an array that maps a pixel code to the index of its name."""
    names = tuple(_REFERENCES)
    owners = np.array([index for index, name in enumerate(names) for _ in _REFERENCES[name]])
    references = np.array([list(bytes.fromhex(colour)) for name in names for colour in _REFERENCES[name]])
    levels = (np.arange(1 << _BITS) << (8 - _BITS)) + (1 << (7 - _BITS))
    every_code = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    distances = np.linalg.norm(_lab(every_code)[:, None] - _lab(references)[None], axis=-1)
    return names, owners[distances.argmin(axis=1)]


def _lab(rgb: NDArray[np.integer]) -> NDArray[np.float32]:
    """CIELAB values (D65) of 8-bit sRGB colours, both of shape (n, 3)."""
    return cv2.cvtColor((rgb[None] / 255).astype(np.float32), cv2.COLOR_RGB2Lab)[0]
