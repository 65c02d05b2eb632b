import pytest
from pydantic import ValidationError

from schemas.config import BuildConfig, Decode, Detector, SplitConfig


@pytest.mark.parametrize("detector, usual", [("adaptive", 3.0), ("content", 27.0), ("transnet", 0.5)])
def test_a_detector_has_its_usual_threshold_unless_another_is_given(detector, usual):
    assert SplitConfig(detector=detector).shot_threshold == usual
    assert SplitConfig(detector=detector, threshold=usual * 1.1).shot_threshold == usual * 1.1


@pytest.mark.parametrize("detector, threshold", [("adaptive", 27), ("content", 3), ("transnet", 3)])
def test_a_threshold_must_suit_its_detector(detector, threshold):
    with pytest.raises(ValidationError, match=f"does not suit detector {detector}"):
        SplitConfig(detector=detector, threshold=threshold)


def test_a_detector_without_a_range_is_an_error():
    with pytest.raises(AssertionError, match="histogram"):
        Detector.accepts("histogram", 3.0)


def test_settings_that_need_every_frame_are_refused_with_key_frames_alone():
    with pytest.raises(ValidationError, match="needs every frame"):
        SplitConfig(decode=Decode.KEY_FRAMES, detector=Detector.TRANSNET)
    with pytest.raises(ValidationError, match="needs frames that"):
        BuildConfig.model_validate(
            {"source": "a", "out": "b", "split": {"decode": "key_frames"}, "shard": {"media": "proxy"}}
        )
