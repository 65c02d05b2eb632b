"""Says in the log how far the work on one long thing has come: how fast it goes, and how long it will still take."""

from __future__ import annotations

import logging
import time

log = logging.getLogger(__name__)

EVERY_SECONDS = 15.0
"""Between two lines. Airflow's watchdog takes a long silence for a hang."""


class Pace:
    """Follows the work on one video along its timeline.

    Args:
        what: what is done to which video, e.g. `ingest film_1`.
    """

    def __init__(self, what: str, duration_us: int, every_seconds: float = EVERY_SECONDS) -> None:
        self._what = what
        self._duration_us = duration_us
        self._every_seconds = every_seconds
        self._started = self._told = time.monotonic()

    def reached(self, time_us: int) -> None:
        """Everything up to this time of the video is done."""
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
