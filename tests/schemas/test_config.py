import pytest
from pydantic import ValidationError

from schemas.config import BuildConfig, Decode, Detector, ModelConfig, SplitConfig
from schemas.provenance import Sampling, SamplingOverrides


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


@pytest.mark.parametrize(
    ("settings", "room"), [({}, 0), ({"thinking": True}, 8192), ({"thinking": True, "thinking_tokens": 100}, 100)]
)
def test_a_thinking_model_has_room_for_thinking(settings, room):
    assert ModelConfig(**settings).thinking_room == room


def test_only_settings_that_change_answers_are_named():
    assert ModelConfig(model="m", vision=True, concurrency=2, timeout_seconds=1.0).answer_settings == ""
    settings = ModelConfig(thinking=True, sampling={"top_k": 20, "chat_template_kwargs": {"b": 1, "a": False}})
    assert settings.answer_settings == (
        r'{"sampling":{"chat_template_kwargs":"{\"a\":false,\"b\":1}","top_k":20},"thinking":true}'
    )
    assert ModelConfig.model_validate_json(settings.model_dump_json()) == settings


@pytest.mark.parametrize("given", [{"enable_thinking": False}, '{ "enable_thinking" :false }'])
def test_variables_of_a_chat_template_are_an_object_or_its_text(given):
    assert Sampling(chat_template_kwargs=given).chat_template_kwargs == '{"enable_thinking":false}'


@pytest.mark.parametrize("given", ["enable_thinking", "[1]", "", "3"])
def test_variables_of_a_chat_template_are_nothing_else(given):
    with pytest.raises(ValidationError, match="it must be a JSON object such as"):
        SamplingOverrides(chat_template_kwargs=given)
