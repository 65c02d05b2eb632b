"""What vLLM gets of a prompt, and the wrong inputs that it would accept or that would break its step."""

import json
from dataclasses import replace

import pytest
import torch
from transformers import AutoConfig, AutoTokenizer

from schemas.errors import BadInput
from tests.trainer_plugin.in_vllm import CONFIGS
from tests.trainer_plugin.rl.test_vllm_engine import Features, make_clip, make_model, make_request
from trainer_plugin.data.byte_tokenizer import bytes_tokenizer
from trainer_plugin.rl.vllm_inputs import check_family, make_prompt, write_model_folder


@pytest.mark.parametrize("name", CONFIGS)
def test_a_prompt_has_features_grids_and_times_of_its_videos(alone, name):
    model = make_model(alone, name)
    clips = [make_clip(model, 3, 700_000), make_clip(model, 2, 1_500_000)]
    request, features = make_request(model, clips, "What?"), Features(model)
    made = make_prompt(request, [features.of(clip) for clip in clips], ["a", "b"], model)
    assert made["prompt_token_ids"] == list(request.unexpanded_ids)
    assert made["multi_modal_uuids"] == {"video": ["a", "b"]}
    video = made["multi_modal_data"]["video"]
    assert torch.equal(video["video_embeds"], torch.cat([features.of(clip) for clip in clips]))
    assert video["video_grid_thw"].tolist() == [[3, 8, 12], [2, 8, 12]]
    if name == "qwen2_5_vl":
        assert set(video) == {"video_embeds", "video_grid_thw", "second_per_grid_ts"}
        torch.testing.assert_close(video["second_per_grid_ts"], torch.tensor([1.4, 3.0]), rtol=0, atol=0)
    else:
        assert set(video) == {"video_embeds", "video_grid_thw", "timestamps"}
        assert video["timestamps"] == [pytest.approx([0.35, 1.75, 3.15]), pytest.approx([0.75, 3.75])]


def test_a_prompt_without_a_video_is_its_ids(alone):
    model = make_model(alone, "qwen3_vl")
    request = make_request(model, [], "What?")
    assert make_prompt(request, [], [], model) == {"prompt_token_ids": list(request.unexpanded_ids)}


WRONG = {
    "a row too few": lambda each: each[:-1],
    "a row too many": lambda each: torch.cat([each, each[:1]]),
    "half of the width": lambda each: each[:, : each.shape[1] // 2],
    "a level too many": lambda each: torch.cat([each, each], dim=1),
    "another dtype": lambda each: each.bfloat16(),
}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("wrong", WRONG)
def test_features_that_do_not_fit_are_refused(alone, name, wrong):
    model = make_model(alone, name)
    clip = make_clip(model, 3, 500_000)
    features = WRONG[wrong](Features(model).of(clip))
    with pytest.raises(BadInput, match=r"sample What\?: video film: its features (have the shape|are torch.bfloat16)"):
        make_prompt(make_request(model, [clip], "What?"), [features], ["a"], model)


@pytest.mark.parametrize("times", [(0, 1, 2, 3, 4), (0, 1, 2, 3, 5, 4)])
def test_frame_times_that_do_not_fit_are_refused(alone, times):
    model = make_model(alone, "qwen2_5_vl")
    clip = make_clip(model, 3, 500_000)
    request = make_request(model, [clip], "What?")
    other = replace(clip, frame_times_us=times)
    wrong = replace(request, prompt=replace(request.prompt, videos=(other,)))
    with pytest.raises(BadInput, match=rf"has {len(times)} frame times for 3 temporal patches of 2 frames"):
        make_prompt(wrong, [Features(model).of(clip)], ["a"], model)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_folder_describes_the_model_and_has_room_for_the_largest_video(alone, tmp_path, name):
    model = make_model(alone, name)
    write_model_folder(tmp_path, model, bytes_tokenizer(), video_tokens=5000, max_tokens=40_000)
    config = AutoConfig.from_pretrained(tmp_path)
    assert config.architectures == [type(model.model).__name__]
    text, own = config.get_text_config(), model.model.config.get_text_config()
    assert text.max_position_embeddings == max(40_000, own.max_position_embeddings)
    assert text.rope_parameters == own.rope_parameters
    text = "<|video_pad|>x"
    assert AutoTokenizer.from_pretrained(tmp_path).encode(text) == bytes_tokenizer().encode(text)
    for file in ("preprocessor_config.json", "video_preprocessor_config.json"):
        written = json.loads((tmp_path / file).read_text())
        assert written["size"]["longest_edge"] >= 5000 * model.family.factor**2


def test_another_family_is_refused():
    with pytest.raises(BadInput, match="knows the models qwen2_5_vl, qwen3_vl, not smolvlm"):
        check_family(AutoConfig.for_model("smolvlm"))
