import pytest
from pydantic import ValidationError

from schemas.config import BuildConfig, Decode, Detector, SplitConfig
from schemas.settings import ConfigError, validated


@pytest.mark.parametrize("detector, usual", [("adaptive", 3.0), ("content", 27.0), ("transnet", 0.5)])
def test_a_detector_has_its_usual_threshold_unless_another_is_given(detector, usual):
    assert SplitConfig(detector=detector).shot_threshold == usual
    assert SplitConfig(detector=detector, threshold=usual * 1.1).shot_threshold == usual * 1.1


@pytest.mark.parametrize("detector, threshold", [("adaptive", 27), ("content", 3), ("transnet", 3)])
def test_a_threshold_must_suit_its_detector(detector, threshold):
    with pytest.raises(ValidationError, match=f"does not suit detector {detector}"):
        SplitConfig(detector=detector, threshold=threshold)


def test_what_needs_every_frame_is_refused_with_key_frames_alone():
    with pytest.raises(ValidationError, match="looks at every frame"):
        SplitConfig(decode=Decode.KEY_FRAMES, detector=Detector.TRANSNET)
    with pytest.raises(ValidationError, match="needs frames that"):
        BuildConfig.model_validate(
            {"source": "a", "out": "b", "split": {"decode": "key_frames"}, "shard": {"media": "proxy"}}
        )


@pytest.mark.parametrize("field", ["source", "media_root", "out", "allowed_roots"])
@pytest.mark.parametrize("address", ["https://me:PASSWORD@host/a.csv", "s3://bucket/a.csv?SECRET", "https://h/#SECRET"])
def test_an_address_with_a_secret_is_refused_without_showing_it(field, address):
    value = [address] if field == "allowed_roots" else address
    with pytest.raises(
        ConfigError, match=f"{field}: .*would be stored with every run.*environment variables"
    ) as refused:
        validated({"source": "/films", "out": "/data", field: value}, BuildConfig)
    cause = refused.value.__cause__
    assert not any(word in f"{refused.value}{cause}" for word in ("SECRET", "PASSWORD"))
