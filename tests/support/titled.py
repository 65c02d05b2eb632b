"""Short videos with on-screen text at known times, small enough to build a dataset from in seconds."""

from pathlib import Path

import av
import cv2
import numpy as np

WIDTH, HEIGHT, FPS = 320, 180, 8

TITLES = (
    "THE HARBOUR", "FRESH BREAD", "LOST PARCEL", "NORA RUNS", "RED BICYCLE", "QUIET STREET", "LAST FERRY", "GOOD NIGHT",
)  # fmt: skip


def titled_video(path: Path, titles=TITLES, seed: int = 0) -> Path:
    """Write a video that shows each title for three seconds, then none for two. Each title has its own scene colour.

    A dot jumps when a title goes. In between the picture stands still, so that its text is recognised only once.
    """
    rng = np.random.default_rng(seed)
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as output:
        stream = output.add_stream("libx264", rate=FPS, options={"preset": "ultrafast", "threads": "1"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for title in titles:
            scene = np.full((HEIGHT, WIDTH, 3), rng.integers(40, 200, 3), np.uint8)
            for number in range(5 * FPS):
                picture = scene.copy()
                has_title = number < 3 * FPS
                cv2.circle(picture, (20 if has_title else 140, 150), 12, (250, 240, 90), -1)
                if has_title:
                    cv2.rectangle(picture, (30, 60), (290, 110), (10, 10, 10), -1)
                    cv2.putText(
                        picture, title, (44, 95), cv2.FONT_HERSHEY_SIMPLEX, 0.9, (255, 255, 255), 2, cv2.LINE_AA
                    )
                output.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        output.mux(stream.encode())
    return path
