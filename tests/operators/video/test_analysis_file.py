import dataclasses

import numpy as np

from operators.video.analysis import analyse
from operators.video.analysis_file import read_analysis, write_analysis
from operators.video.probe import probe
from schemas.config import Detector
from tests.support.videos import shots_video


def test_what_was_written_is_read_back_and_takes_the_same_bytes_again(tmp_path):
    analysis = analyse(probe(shots_video(tmp_path / "v.mp4", [1.0, 1.0])), Detector.ADAPTIVE, 3.0)
    for name in ("a.npz", "b.npz"):
        write_analysis(analysis, tmp_path / name)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    again = read_analysis(tmp_path / "a.npz")
    for field in dataclasses.fields(analysis):
        written, read = getattr(analysis, field.name), getattr(again, field.name)
        np.testing.assert_array_equal(read, written)
        assert type(read) is type(written)
        if isinstance(written, np.ndarray):
            assert read.dtype == written.dtype
