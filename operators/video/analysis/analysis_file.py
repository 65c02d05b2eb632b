"""Stores an analysis as a file, so that later stages need not decode the video again.

Arrays are stored in numpy's compressed `.npz`: about 35 bytes per frame. Equal content gives equal bytes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from operators.video.analysis.analysis import Analysis
from operators.video.analysis.shots import Scores
from schemas.tables import PictureFormat

_ARRAYS = {
    "times_us": "times_us",
    "motion": "motion",
    "sharpness": "sharpness",
    "brightness": "brightness",
    "dark": "dark",
    "looks": "descriptors",
    "transition": "transition",
    "damaged_us": "damaged_us",
}
"""Attribute of `Analysis` by the array's name in the file. Stores hold files with these names: do not rename them."""


def write_analysis(analysis: Analysis, target: Path) -> None:
    """Write an analysis. `target` must end in `.npz`."""
    np.savez_compressed(
        target,
        allow_pickle=False,
        duration_us=np.int64(analysis.duration_us),
        unreadable_us=np.int64(analysis.unreadable_us),
        scored_us=analysis.scores.times_us,
        content_scores=analysis.scores.content,
        formats=np.array([each.model_dump_json() for each in analysis.formats]),
        **{name: getattr(analysis, attribute) for name, attribute in _ARRAYS.items()},
    )


def read_analysis(path: Path) -> Analysis:
    """Read an analysis that `write_analysis` wrote."""
    with np.load(path, allow_pickle=False) as stored:
        return Analysis(
            duration_us=int(stored["duration_us"]),
            unreadable_us=int(stored["unreadable_us"]),
            scores=Scores(stored["scored_us"], stored["content_scores"]),
            formats=tuple(PictureFormat.model_validate_json(each) for each in stored["formats"].tolist()),
            **{attribute: stored[name] for name, attribute in _ARRAYS.items()},
        )
