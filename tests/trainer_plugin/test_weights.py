import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.torch_version import TorchVersion
from transformers import AutoModelForImageTextToText

from schemas.errors import BadInput
from tests.trainer_plugin.parity import tiny_config, tiny_model
from tests.trainer_plugin.runs import model_folder
from trainer_plugin.model import LongVideoModel
from trainer_plugin.parallel import parallelize, start
from trainer_plugin.recipe import Lora, ModelSource, Trained
from trainer_plugin.weights import (
    add_adapters,
    build_model,
    build_tower,
    empty_model,
    prepare,
    read_config,
    read_tokenizer,
    tower_identity,
)

EVERYTHING = Trained(vision_tower=True)


def built(source: ModelSource, trained: Trained = EVERYTHING, **options) -> LongVideoModel:
    config = read_config(source)
    parallel = parallelize(1, config.get_text_config(), start())
    return build_model(source, trained, config, parallel, **options)


def tensors_of(model: LongVideoModel) -> dict[str, torch.Tensor]:
    found = {name: parameter.detach().full_tensor() for name, parameter in model.model.named_parameters()}
    return {**found, **dict(model.model.named_buffers())}


def built_tensors(source: ModelSource, trained: Trained = EVERYTHING) -> dict[str, torch.Tensor]:
    return tensors_of(built(source, trained, compute=torch.float32))


@pytest.mark.parametrize("world", [1, 3])
def test_all_ranks_get_the_folders_weights_and_buffers(ranks, tmp_path, world):
    folder = model_folder(tmp_path / "model")
    everyone = ranks[world].run(built_tensors, ModelSource(path=str(folder)))
    plain = AutoModelForImageTextToText.from_pretrained(folder)
    expected = {**dict(plain.named_parameters()), **dict(plain.named_buffers())}
    for found in everyone:
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_random_weights_follow_from_the_seed_alone(ranks):
    source = ModelSource(config=json.loads(tiny_config("qwen3_vl").to_json_string()))
    one = ranks[1].run(built_tensors, source)[0]
    two = ranks[2].run(built_tensors, source)[0]
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert one["lm_head.weight"].std() > 0


def towers(source: ModelSource) -> list[tuple[str, bool]]:
    """A frozen tower's name, and whether the decoder has no storage: inside a sharded model, and alone."""
    config = read_config(source)
    parallel = parallelize(1, config.get_text_config(), start())
    frozen = Trained(projector=False)
    sharded = build_model(source, frozen, config, parallel, compute=torch.float32)
    alone = build_tower(source, config, parallel, compute=torch.float32)
    return [(tower_identity(model), model.model.get_output_embeddings().weight.is_meta) for model in (sharded, alone)]


def test_a_tower_has_one_name_sharded_or_alone_on_any_ranks(ranks, tmp_path):
    source = ModelSource(path=str(model_folder(tmp_path / "model")))
    [(name, held), (same, empty)] = ranks[1].run(towers, source)[0]
    assert (name, held, empty) == (same, False, True)
    assert ranks[3].run(towers, source) == [[(name, False), (name, True)]] * 3
    assert ranks[1].run(towers, ModelSource(path=str(model_folder(tmp_path / "other", seed=6))))[0][0][0] != name


@pytest.mark.parametrize(("family", "same"), [("qwen2_5_vl", True), ("smolvlm", False)])
def test_a_tower_whose_frames_are_resized_otherwise_has_another_name(alone, monkeypatch, family, same):
    source = ModelSource(config=json.loads(tiny_config(family).to_json_string()))
    config = read_config(source)
    model = build_tower(source, config, parallelize(1, config.get_text_config(), alone), compute=torch.float32)
    names = set()
    for version in ("2.11.0", "2.12.0"):
        monkeypatch.setattr(torch, "__version__", TorchVersion(version))
        names.add(tower_identity(model))
    assert (len(names) == 1) is same


def test_tied_embeddings_stay_tied(alone, tmp_path):
    source = ModelSource(path=str(model_folder(tmp_path / "model")))
    config = read_config(source)
    config.tie_word_embeddings = config.get_text_config().tie_word_embeddings = True
    parallel = parallelize(1, config.get_text_config(), alone)
    model = build_model(source, EVERYTHING, config, parallel).model
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert model.get_input_embeddings().weight.to_local().abs().max() > 0


def test_what_is_learned_is_float32_and_what_is_frozen_is_of_the_computation(alone, tmp_path):
    source = ModelSource(path=str(model_folder(tmp_path / "model")))
    model = built(source, Trained(language_model=False, projector=True), compute=torch.bfloat16)
    learned = {name for name, parameter in model.model.named_parameters() if parameter.requires_grad}
    assert learned == {name for name, _ in model.model.named_parameters() if "visual.merger" in name}
    for name, parameter in model.model.named_parameters():
        assert parameter.dtype == (torch.float32 if name in learned else torch.bfloat16)


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl", "smolvlm"])
def test_parts_are_frozen_apart(family):
    def learned(**parts: bool) -> set[str]:
        model = prepare(tiny_model(family), Trained(**parts))
        return {name for name, parameter in model.named_parameters() if parameter.requires_grad}

    decoder = learned(projector=False)
    projector = learned(language_model=False)
    tower = learned(language_model=False, projector=False, vision_tower=True)
    assert decoder and projector and tower
    assert not (decoder & projector or projector & tower or decoder & tower)
    assert decoder | projector | tower == {name for name, _ in tiny_model(family).named_parameters()}
    assert any("lm_head" in name for name in decoder)


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl", "smolvlm"])
def test_adapters_are_on_the_decoders_linear_layers_only(family):
    model = tiny_model(family)
    add_adapters(model, Lora(rank=2, alpha=4))
    learned = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert all(".lora_" in name for name in learned)
    assert len(learned) == 2 * 7 * 2  # layers; q, k, v, o, gate, up, down; A and B
    assert not any("vis" in name or "connector" in name for name in learned)


def test_the_rotary_base_and_the_positions_are_raised(tmp_path):
    folder = model_folder(tmp_path / "model")
    config = read_config(ModelSource(path=str(folder), rope_theta=15.3e6, max_positions=131072))
    text = config.get_text_config()
    assert text.rope_parameters["rope_theta"] == 15.3e6
    assert text.rope_parameters["mrope_section"] == [2, 3, 3]
    assert text.max_position_embeddings == 131072
    before = empty_model(read_config(ModelSource(path=str(folder)))).model.language_model.rotary_emb
    assert empty_model(config).model.language_model.rotary_emb.config.rope_parameters != before.config.rope_parameters


def test_weights_that_are_not_the_models_are_refused(alone, tmp_path):
    folder = model_folder(tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if "k_proj.weight" in name)
    save_file(
        {key: value for key, value in weights.items() if key != name}, folder / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(BadInput, match=r"1 missing keys in its weights, e\.g\. .*k_proj\.weight"):
        built(ModelSource(path=str(folder)))


def test_an_unsupported_model_says_what_a_family_must_provide():
    with pytest.raises(BadInput, match=r"model_type 'llava' is not supported .* provide .*encode.*projectors"):
        read_config(ModelSource(config={"model_type": "llava"}))


def test_a_folder_that_lacks_something_is_named(tmp_path):
    with pytest.raises(BadInput, match=r"^Qwen/Qwen3-VL-8B: no such folder"):
        read_tokenizer(ModelSource(path="Qwen/Qwen3-VL-8B"))
    with pytest.raises(BadInput, match=r"^Qwen/Qwen3-VL-8B: no such folder"):
        read_config(ModelSource(path="Qwen/Qwen3-VL-8B"))
    with pytest.raises(BadInput, match=rf"there is no tokenizer in {tmp_path}; name its folder in model\.tokenizer"):
        read_tokenizer(ModelSource(path=str(tmp_path)))
    with pytest.raises(BadInput, match=rf"model {tmp_path}: "):
        read_config(ModelSource(path=str(tmp_path)))
