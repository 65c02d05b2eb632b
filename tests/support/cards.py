"""A small real film that a build can ask questions about: words on cards, one after another."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from tests.support.videos import make

WIDTH, HEIGHT, FPS = 640, 360, 5
SHOWN_SECONDS, GAP_SECONDS = 4, 4
WORDS = ("HARBOUR", "VIOLIN", "MOUNTAIN", "LANTERN")
PLACES = ((40, 70), (330, 200), (180, 330))
"""Baselines of the words, in pixels from the top left."""


def cards_video(target: Path, words: Sequence[str] = WORDS, background: int = 40) -> Path:
    """Each word for four seconds, four seconds apart, on a plain ground of this blue."""
    frames: list[np.ndarray] = []
    for index, word in enumerate(words):
        blank = np.full((HEIGHT, WIDTH, 3), (background, 30 + 20 * index, 60), np.uint8)
        card = blank.copy()
        place = PLACES[index % len(PLACES)]
        cv2.putText(card, word, place, cv2.FONT_HERSHEY_DUPLEX, 1.8, (255, 255, 255), 3, cv2.LINE_AA)
        frames += [blank] * (GAP_SECONDS * FPS) + [card] * (SHOWN_SECONDS * FPS)
    raw = target.with_suffix(".raw")
    raw.write_bytes(b"".join(frame.tobytes() for frame in frames))
    source = ["-f", "rawvideo", "-pix_fmt", "bgr24", "-s", f"{WIDTH}x{HEIGHT}", "-r", str(FPS), "-i", str(raw)]
    make(target, *source, "-c:v", "libx264", "-preset", "ultrafast", "-g", "10", "-pix_fmt", "yuv420p")
    raw.unlink()
    return target
