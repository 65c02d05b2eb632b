from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scenedetect import AdaptiveDetector, ContentDetector, FrameTimecode
from scenedetect.common import Timecode

from operators.video.analysis import shots
from operators.video.analysis.measures import FrameMeasures, Measurer
from operators.video.analysis.shots import SHORTEST_SHOT_US, Scores, shot_starts
from operators.video.decode.packets import decode, open_video
from operators.video.decode.probe import probe
from schemas.config import Detector
from tests.support.videos import shots_video

PYSCENEDETECT = {
    Detector.ADAPTIVE: lambda: AdaptiveDetector(adaptive_threshold=3.0, min_scene_len=SHORTEST_SHOT_US / 1e6),
    Detector.CONTENT: lambda: ContentDetector(threshold=27.0, min_scene_len=SHORTEST_SHOT_US / 1e6),
}
THRESHOLDS = {Detector.ADAPTIVE: 3.0, Detector.CONTENT: 27.0}


def found_by_pyscenedetect(detector, times_us, pictures):
    """Shot starts (microseconds) that PySceneDetect finds when it reads the pictures itself."""
    theirs = PYSCENEDETECT[detector]()
    codes = [FrameTimecode(Timecode(time_us, Fraction(1, 1_000_000)), 25.0) for time_us in times_us]
    cuts = [cut for code, bgr in zip(codes, pictures, strict=True) for cut in theirs.process_frame(code, bgr)]
    return (0, *(cut.pts for cut in [*cuts, *theirs.post_process(codes[-1])]))


def found_by_scores(detector, times_us, pictures):
    measures = FrameMeasures()
    measures.add(times_us, np.stack(pictures), 0)
    return shot_starts(Scores(np.array(measures.times_us), np.array(measures.score)), detector, THRESHOLDS[detector])


@pytest.mark.parametrize("detector", list(THRESHOLDS))
@settings(deadline=None, max_examples=40)
@given(
    shades=st.lists(st.tuples(st.integers(0, 255), st.integers(1, 40)), min_size=1, max_size=12),
    steps_us=st.lists(st.integers(1_000, 90_000), min_size=1, max_size=3),
)
def test_shots_are_those_of_pyscenedetect(detector, shades, steps_us):
    """The pictures are plain, each shade lasts some frames, and the durations of frames vary."""
    pictures = [np.full((4, 4, 3), (shade, 255 - shade, 90), np.uint8) for shade, count in shades for _ in range(count)]
    steps = np.resize(steps_us, len(pictures))
    times_us = (np.cumsum(steps) - steps[0]).tolist()
    expected = found_by_pyscenedetect(detector, times_us, pictures)
    assert found_by_scores(detector, times_us, pictures) == expected


@pytest.mark.parametrize("detector", list(THRESHOLDS))
def test_shots_of_a_film_are_those_of_pyscenedetect(tmp_path, detector):
    video = probe(shots_video(tmp_path / "v.mp4", [1.5, 0.3, 2.0, 1.0]))
    with open_video(video.path) as (container, stream):
        decoded = list(decode(container, stream, video.index.timeline))
    times_us = [time_us for time_us, _ in decoded]
    pictures = []
    measurer = Measurer(video, lambda picture: pictures.append(picture.copy()))
    for time_us, frame in decoded:
        measurer.add(time_us, frame)
    measurer.finish()
    expected = found_by_pyscenedetect(detector, times_us, pictures)
    assert len(expected) >= 3
    assert found_by_scores(detector, times_us, pictures) == expected


class Scored(AdaptiveDetector):
    def _calculate_frame_score(self, timecode, frame_img):
        return frame_img


@given(st.lists(st.sampled_from([0.0, 1.0, 4.0, 9.0, 14.9, 15.0, 30.0, 90.0]), min_size=1, max_size=60))
def test_frames_that_the_detector_is_not_shown_would_change_nothing(scores):
    theirs = Scored(adaptive_threshold=3.0, min_scene_len=0.1)
    times_us = [40_000 * number for number in range(len(scores))]
    codes = [FrameTimecode(Timecode(time_us, Fraction(1, 1_000_000)), 25.0) for time_us in times_us]
    expected = [cut.pts for code, score in zip(codes, scores, strict=True) for cut in theirs.process_frame(code, score)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shots, "SHORTEST_SHOT_US", 100_000)
        ours = shot_starts(Scores(np.array(times_us), np.array(scores)), Detector.ADAPTIVE, 3.0)
    assert ours == (0, *expected)


@pytest.mark.parametrize("detector", list(THRESHOLDS))
def test_nothing_has_one_shot_and_so_has_one_frame(detector):
    for times_us in ([], [0], [40_000]):
        scores = Scores(np.array(times_us, np.int64), np.zeros(len(times_us), np.float32))
        assert shot_starts(scores, detector, THRESHOLDS[detector]) == (0,)


def test_a_detector_that_is_not_of_pyscenedetect_is_an_error():
    scores = Scores(np.array([0, 40_000]), np.zeros(2, np.float32))
    with pytest.raises(ValueError, match="'transnet' does not use PySceneDetect's scores"):
        shot_starts(scores, Detector.TRANSNET, 0.5)
