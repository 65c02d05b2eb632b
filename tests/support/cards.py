"""A small real video that a build can write questions about: title cards with one word each."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from tests.support.videos import make

WIDTH, HEIGHT, FPS = 640, 360, 5
SHOWN_SECONDS, GAP_SECONDS = 4, 4
WORDS = ("HARBOUR", "VIOLIN", "MOUNTAIN", "LANTERN")
PLACES = ((40, 70), (330, 200), (180, 330))
"""Start of each word's text baseline (x, y), in pixels from the top left corner."""


def cards_video(target: Path, words: Sequence[str] = WORDS, background: int = 40) -> Path:
    """Write a video that shows each word for four seconds after a blank of four seconds.

    The background is plain. Its blue level is `background`, from 0 to 255.
    """
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
