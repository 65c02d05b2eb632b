"""Progress of a stage and through one long video: position, speed and remaining time."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

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
        self._started = self._logged = time.monotonic()

    def update(self, time_us: int) -> None:
        """Report that the video has been processed up to `time_us`, in microseconds. A line is logged if one is due."""
        now = time.monotonic()
        if time_us <= 0 or now - self._logged < self._every_seconds:
            return
        self._logged = now
        done, total = time_us / 1e6, self._duration_us / 1e6
        rate = done / (now - self._started)
        log.info(
            "%s: %.0f of %.0f s of video, %.1f s a second, %.0f s left", self._what, done, total, rate,
            max(0.0, total - done) / rate,
        )  # fmt: skip


@dataclass(frozen=True)
class StageProgress:
    """Progress of a stage: finished, reused and total work items, and the rejects so far."""

    stage: str
    partition: int | None
    """None for a stage over the whole build, whose only work item is all videos."""
    done: int
    reused: int
    total: int
    rejects: int
    seconds: float

    def __str__(self) -> str:
        if self.partition is None:
            state = "reused" if self.reused else f"done in {self.seconds:.0f} s" if self.done else "running"
            return f"{self.stage} over all videos: {state}, {self.rejects} rejects"
        parts = [f"{self.stage} partition {self.partition}: {self.done}/{self.total} videos"]
        parts += [f"{self.reused} of them reused"] if self.reused else []
        if (computed := self.done - self.reused) and self.seconds:
            rate = computed / self.seconds  # the time to look up a reused commit is negligible
            parts += [f"{rate * 60:.1f} a minute", f"{(self.total - self.done) / rate:.0f} s left"]
        return ", ".join([*parts, f"{self.rejects} rejects"])
