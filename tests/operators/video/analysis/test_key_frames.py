import numpy as np
import pytest

from operators.video.analysis.analysis import analyse
from operators.video.analysis.key_frames import propose, refine
from operators.video.analysis.shots import shot_starts
from operators.video.decode.probe import probe
from schemas.config import Detector
from tests.support.videos import make, shots_video


@pytest.fixture(scope="module")
def shots(tmp_path_factory):
    """A video of four shots with a key frame every second, whatever the content."""
    source = shots_video(tmp_path_factory.mktemp("shots") / "source.mp4", [2.5, 3.0, 3.2, 2.3])
    options = ("-c:v", "libx264", "-preset", "ultrafast", "-g", "30", "-x264-params", "scenecut=0", "-bf", "2")
    return probe(make(source.with_name("regular.mp4"), "-i", str(source), *options))


def test_a_proposal_names_the_key_frames_between_which_shots_begin(shots):
    proposal = propose(shots)
    assert proposal.times_us.tolist() == [second * 1_000_000 for second in range(11)]
    assert proposal.shot_starts_us == (0, 3_000_000, 6_000_000, 9_000_000)
    assert proposal.changes_us == [(2_000_000, 3_000_000), (5_000_000, 6_000_000), (8_000_000, 9_000_000)]
    assert len(proposal.descriptors) == len(proposal.sharpness) == len(proposal.brightness) == len(proposal.dark) == 11


def test_key_frames_measure_what_they_do_in_a_whole_decode(shots):
    proposal, analysis = propose(shots), analyse(shots)
    keys = np.searchsorted(analysis.times_us, proposal.times_us)
    np.testing.assert_array_equal(proposal.descriptors, analysis.descriptors[keys])
    np.testing.assert_array_equal(proposal.brightness, analysis.brightness[keys])


@pytest.mark.parametrize("detector, threshold", [(Detector.ADAPTIVE, 3.0), (Detector.CONTENT, 27.0)])
def test_refining_finds_the_frames(shots, detector, threshold):
    starts_us = shot_starts(refine(shots, propose(shots)), detector, threshold)
    assert starts_us == (0, 2_500_000, 5_500_000, 8_700_000)
    assert starts_us == analyse(shots).shot_starts(detector, threshold)


def test_a_shot_that_begins_with_a_key_frame_is_found(tmp_path):
    source = shots_video(tmp_path / "source.mp4", [2.0, 2.0, 2.0])
    video = probe(make(tmp_path / "v.mp4", "-i", str(source), "-force_key_frames", "2,4", "-preset", "ultrafast"))
    assert video.index.key_frame_times_us.tolist() == [0, 2_000_000, 4_000_000]
    proposal = propose(video)
    assert proposal.shot_starts_us == (0, 2_000_000, 4_000_000)
    assert shot_starts(refine(video, proposal), Detector.ADAPTIVE, 3.0) == (0, 2_000_000, 4_000_000)


def test_shots_behind_the_last_key_frame_are_found(tmp_path):
    source = shots_video(tmp_path / "source.mp4", [1.0, 1.0, 1.0])
    options = ("-c:v", "libx264", "-preset", "ultrafast", "-g", "45", "-x264-params", "scenecut=0")
    video = probe(make(tmp_path / "v.mp4", "-i", str(source), *options))
    proposal = propose(video)
    assert proposal.shot_starts_us == (0, 1_500_000)
    assert shot_starts(refine(video, proposal), Detector.ADAPTIVE, 3.0) == (0, 1_000_000, 2_000_000)


def test_only_stretches_that_differ_are_decoded(shots, monkeypatch):
    from operators.video.analysis import key_frames

    spans = []

    class Watched(key_frames.SpanReader):
        def frames(self, start_us, end_us):
            spans.append((start_us, end_us))
            return super().frames(start_us, end_us)

    monkeypatch.setattr(key_frames, "SpanReader", Watched)
    refine(shots, propose(shots))
    assert spans == [(2_000_000, 3_100_000), (5_000_000, 6_100_000), (8_000_000, 9_100_000), (10_000_000, 11_000_000)]


def test_crowded_key_frames_are_skipped(tmp_path):
    video = probe(shots_video(tmp_path / "v.mp4", [2.0, 2.0]))
    intra = probe(make(tmp_path / "intra.mkv", "-i", str(video.path), "-c:v", "mjpeg", "-q:v", "3"))
    assert len(intra.index.key_frame_times_us) == 120
    assert propose(intra).times_us.tolist() == [0, 1_000_000, 2_000_000, 3_000_000]
