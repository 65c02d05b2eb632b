"""Logs the progress through one long video: position, speed and remaining time."""

from __future__ import annotations

import logging
import time

log = logging.getLogger(__name__)

EVERY_SECONDS = 15.0
"""Default time between two log lines. Airflow's watchdog treats a long silence as a hang."""


class ProgressLogger:
    """Tracks how much of one video's timeline has been processed.

    Args:
        what: the work and the video, for example `ingest film_1`.
        duration_us: duration of the video in microseconds.
        every_seconds: minimum time between two log lines.
    """

    def __init__(self, what: str, duration_us: int, every_seconds: float = EVERY_SECONDS) -> None:
        self._what = what
        self._duration_us = duration_us
        self._every_seconds = every_seconds
        self._started = self._told = time.monotonic()

    def update(self, time_us: int) -> None:
        """Report that the video has been processed up to `time_us`, in microseconds. A line is logged if one is due."""
        now = time.monotonic()
        if time_us <= 0 or now - self._told < self._every_seconds:
            return
        self._told = now
        done, whole = time_us / 1e6, self._duration_us / 1e6
        rate = done / (now - self._started)
        log.info(
            "%s: %.0f of %.0f s of video, %.1f s a second, %.0f s left", self._what, done, whole, rate,
            max(0.0, whole - done) / rate,
        )  # fmt: skip
