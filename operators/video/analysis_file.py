"""An analysis as a file: what the one decode of a video has shown, for later stages to decide on without decoding.

Columns of numbers in numpy's `.npz`, compressed: some 25 bytes a frame. Equal content gives equal bytes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from operators.video.analysis import Analysis

_COLUMNS = ("times_us", "motion", "sharpness", "brightness", "dark", "looks", "damaged_us")


def write_analysis(analysis: Analysis, target: Path) -> None:
    """Write all of it. `target` ends in `.npz`."""
    np.savez_compressed(
        target,
        allow_pickle=False,
        shot_starts_us=np.array(analysis.shot_starts_us, dtype=np.int64),
        duration_us=np.int64(analysis.duration_us),
        unreadable_us=np.int64(analysis.unreadable_us),
        **{name: getattr(analysis, name) for name in _COLUMNS},
    )


def read_analysis(path: Path) -> Analysis:
    """What `write_analysis` has written."""
    with np.load(path, allow_pickle=False) as stored:
        return Analysis(
            shot_starts_us=tuple(stored["shot_starts_us"].tolist()),
            duration_us=int(stored["duration_us"]),
            unreadable_us=int(stored["unreadable_us"]),
            **{name: stored[name] for name in _COLUMNS},
        )
