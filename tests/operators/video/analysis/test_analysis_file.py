import dataclasses

import numpy as np

from operators.video.analysis.analysis import analyse
from operators.video.analysis.analysis_file import read_analysis, write_analysis
from operators.video.decode.probe import probe
from tests.support.videos import shots_video


def values(analysis):
    own = [getattr(analysis, field.name) for field in dataclasses.fields(analysis) if field.name != "scores"]
    return [*own, analysis.scores.times_us, analysis.scores.content]


def test_what_was_written_is_read_back_and_takes_the_same_bytes_again(tmp_path):
    analysis = analyse(probe(shots_video(tmp_path / "v.mp4", [1.0, 1.0])))
    for name in ("a.npz", "b.npz"):
        write_analysis(analysis, tmp_path / name)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    again = read_analysis(tmp_path / "a.npz")
    for written, read in zip(values(analysis), values(again), strict=True):
        np.testing.assert_array_equal(read, written)
        assert type(read) is type(written)
        if isinstance(written, np.ndarray):
            assert read.dtype == written.dtype
