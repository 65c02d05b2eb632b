import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.torch_version import TorchVersion
from transformers import AutoModelForImageTextToText

from schemas.errors import BadInput
from tests.trainer_plugin.parity import tiny_config, tiny_model
from tests.trainer_plugin.runs import change_config, model_folder, tied_folder
from trainer_plugin.data.byte_tokenizer import bytes_tokenizer
from trainer_plugin.data.chat import CHAT_TEMPLATES, CHATML
from trainer_plugin.distributed.mesh import init_distributed, parallelize
from trainer_plugin.model import LongVideoModel, shard_parameters
from trainer_plugin.recipe import Lora, ModelSource, TrainableParts
from trainer_plugin.training.model_identity import tower_identity
from trainer_plugin.training.weights import (
    add_adapters,
    build_model,
    build_tower,
    empty_model,
    prepare,
    read_config,
    read_family,
    read_tokenizer,
)

EVERYTHING = TrainableParts(vision_tower=True)


def build(source: ModelSource, trained: TrainableParts = EVERYTHING, **options) -> LongVideoModel:
    config = read_config(source)
    parallel = parallelize(1, config.get_text_config(), init_distributed())
    return build_model(source, trained, config, parallel, **options)


def tensors_of(model: LongVideoModel) -> dict[str, torch.Tensor]:
    found = {name: parameter.detach().full_tensor() for name, parameter in model.model.named_parameters()}
    return {**found, **dict(model.model.named_buffers())}


def build_tensors(source: ModelSource, trained: TrainableParts = EVERYTHING) -> dict[str, torch.Tensor]:
    return tensors_of(build(source, trained, compute=torch.float32))


@pytest.mark.parametrize("world", [1, 3])
def test_all_ranks_get_the_folders_weights_and_buffers(ranks, tmp_path, world):
    folder = model_folder(tmp_path / "model")
    everyone = ranks[world].run(build_tensors, ModelSource(path=str(folder)))
    plain = AutoModelForImageTextToText.from_pretrained(folder)
    expected = {**dict(plain.named_parameters()), **dict(plain.named_buffers())}
    for found in everyone:
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_random_weights_follow_from_the_seed_alone(ranks):
    source = ModelSource(config=json.loads(tiny_config("qwen3_vl").to_json_string()))
    one = ranks[1].run(build_tensors, source)[0]
    two = ranks[2].run(build_tensors, source)[0]
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert one["lm_head.weight"].std() > 0


def towers(source: ModelSource) -> list[tuple[str, bool]]:
    """Identity of a frozen tower and whether the decoder is on the meta device: in a sharded model, and alone."""
    config = read_config(source)
    parallel = parallelize(1, config.get_text_config(), init_distributed())
    frozen = TrainableParts(projector=False)
    sharded = build_model(source, frozen, config, parallel, compute=torch.float32)
    alone = build_tower(source, config, parallel, compute=torch.float32)
    return [(tower_identity(model), model.model.get_output_embeddings().weight.is_meta) for model in (sharded, alone)]


def test_a_tower_has_one_name_sharded_or_alone_on_any_ranks(ranks, tmp_path):
    source = ModelSource(path=str(model_folder(tmp_path / "model")))
    [(name, held), (same, empty)] = ranks[1].run(towers, source)[0]
    assert (name, held, empty) == (same, False, True)
    assert ranks[3].run(towers, source) == [[(name, False), (name, True)]] * 3
    assert ranks[1].run(towers, ModelSource(path=str(model_folder(tmp_path / "other", seed=6))))[0][0][0] != name


def names_around_a_call(source: ModelSource) -> list[str]:
    """Identity of a frozen tower before and after it has encoded frames in another dtype than its weights have."""
    config = read_config(source)
    parallel = parallelize(1, config.get_text_config(), init_distributed())
    inner = AutoModelForImageTextToText.from_config(config).requires_grad_(False)
    model = shard_parameters(LongVideoModel(inner, parallel), torch.bfloat16)
    before = tower_identity(model)
    model.encode_frames(None)
    return [before, tower_identity(model)]


def test_a_tower_has_one_name_before_and_after_a_call(ranks):
    source = ModelSource(config=json.loads(tiny_config("qwen2_5_vl").to_json_string()))
    for before, after in ranks[2].run(names_around_a_call, source):
        assert before == after


def test_a_tower_whose_frames_are_normalized_otherwise_has_another_name(alone, tmp_path):
    source = ModelSource(path=str(model_folder(tmp_path / "model")))
    names = []
    for std in ([0.26862954, 0.26130258, 0.27577711], [0.5, 0.5, 0.5]):
        config = read_config(source)
        names.append(tower_identity(build_tower(source, config, parallelize(1, config.get_text_config(), alone))))
        (tmp_path / "model" / "preprocessor_config.json").write_text(json.dumps({"image_std": std}))
    names.append(tower_identity(build_tower(source, config, parallelize(1, config.get_text_config(), alone))))
    assert names[0] == names[1] != names[2]


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


@pytest.mark.parametrize("kept", ["model.embed_tokens.weight", "lm_head.weight", "both"])
def test_tied_embeddings_are_one_whichever_is_in_the_files(alone, tmp_path, kept):
    folder = tied_folder(tmp_path / "model")
    embeddings = load_file(folder / "model.safetensors")["model.embed_tokens.weight"]
    both = {"model.embed_tokens.weight": embeddings, "lm_head.weight": embeddings.clone()}
    rewrite_weights(folder, {name: tensor if kept in (name, "both") else None for name, tensor in both.items()})
    model = build(ModelSource(path=str(folder)), compute=torch.float32).model
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert model.config.tie_word_embeddings
    assert torch.equal(model.get_output_embeddings().weight.full_tensor(), embeddings)


def heads(source: ModelSource) -> tuple[bool, dict[str, torch.Tensor]]:
    model = build(source, compute=torch.float32)
    return model.model.config.tie_word_embeddings, tensors_of(model)


@pytest.mark.parametrize("world", [1, 2])
def test_a_tied_configuration_whose_files_hold_another_head_is_untied_as_in_transformers(ranks, tmp_path, world):
    folder = tied_folder(tmp_path / "model")
    plain = AutoModelForImageTextToText.from_pretrained(folder)
    assert not torch.equal(plain.lm_head.weight, plain.get_input_embeddings().weight)
    for tied, found in ranks[world].run(heads, ModelSource(path=str(folder))):
        assert not tied
        assert torch.equal(found["lm_head.weight"], plain.lm_head.weight)
        assert found.keys() == {**dict(plain.named_parameters()), **dict(plain.named_buffers())}.keys()


def test_trainable_weights_are_float32_and_frozen_ones_have_the_compute_type(alone, tmp_path):
    source = ModelSource(path=str(model_folder(tmp_path / "model")))
    model = build(source, TrainableParts(language_model=False, projector=True), compute=torch.bfloat16)
    trainable = {name for name, parameter in model.model.named_parameters() if parameter.requires_grad}
    assert trainable == {name for name, _ in model.model.named_parameters() if "visual.merger" in name}
    for name, parameter in model.model.named_parameters():
        assert parameter.dtype == (torch.float32 if name in trainable else torch.bfloat16)


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl", "smolvlm"])
def test_each_part_can_be_frozen_without_the_others(family):
    def trainable(**parts: bool) -> set[str]:
        model = prepare(tiny_model(family), TrainableParts(**parts))
        return {name for name, parameter in model.named_parameters() if parameter.requires_grad}

    decoder = trainable(projector=False)
    projector = trainable(language_model=False)
    tower = trainable(language_model=False, projector=False, vision_tower=True)
    assert decoder and projector and tower
    assert not (decoder & projector or projector & tower or decoder & tower)
    assert decoder | projector | tower == {name for name, _ in tiny_model(family).named_parameters()}
    assert any("lm_head" in name for name in decoder)


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl", "smolvlm"])
def test_adapters_are_on_the_decoders_linear_layers_only(family):
    model = tiny_model(family)
    add_adapters(model, Lora(rank=2, alpha=4))
    trainable = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert all(".lora_" in name for name in trainable)
    assert len(trainable) == 2 * 7 * 2  # layers; q, k, v, o, gate, up, down; A and B
    assert not any("vis" in name or "connector" in name for name in trainable)


def test_the_rotary_base_and_the_positions_are_raised(tmp_path):
    folder = model_folder(tmp_path / "model")
    config = read_config(ModelSource(path=str(folder), rope_theta=15.3e6, max_positions=131072))
    text = config.get_text_config()
    assert text.rope_parameters["rope_theta"] == 15.3e6
    assert text.rope_parameters["mrope_section"] == [2, 3, 3]
    assert text.max_position_embeddings == 131072
    before = empty_model(read_config(ModelSource(path=str(folder)))).model.language_model.rotary_emb
    assert empty_model(config).model.language_model.rotary_emb.config.rope_parameters != before.config.rope_parameters


def rewrite_weights(folder: Path, changes: Mapping[str, torch.Tensor | None]) -> Path:
    """Add, replace or (None) remove tensors in the files of a model folder, and return the folder."""
    weights = {**load_file(folder / "model.safetensors"), **changes}
    kept = {name: tensor for name, tensor in weights.items() if tensor is not None}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lm_head.weight": None}, r"1 weights of the model are missing in its files, e\.g\. lm_head\.weight; fetch"),
        (
            {"lm_head.weight": torch.ones(3, 4)},
            r"1 weights are not of config\.json's shapes, e\.g\. lm_head\.weight "
            r"\(\[3, 4\] instead of \[263, 64\]\)",
        ),
        (
            {"model.layers.0.mlp.up_proj.weight_scale_inv": torch.ones(1)},
            r"1 tensors in its files are no weights of the model, e\.g\. .*weight_scale_inv; give .* unquantized",
        ),
    ],
    ids=["missing", "shape", "scales"],
)
def test_weights_that_are_not_the_models_are_refused(alone, tmp_path, changes, message):
    folder = rewrite_weights(model_folder(tmp_path / "model"), changes)
    with pytest.raises(BadInput, match=message):
        build(ModelSource(path=str(folder)))


def test_buffers_that_were_once_saved_and_heads_that_nobody_runs_are_ignored(alone, tmp_path):
    extra = {
        "visual.rotary_pos_emb.inv_freq": torch.ones(4),
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8),
        "mtp.layers.0.mlp.up_proj.weight": torch.ones(2, 2),
    }
    expected = build_tensors(ModelSource(path=str(model_folder(tmp_path / "plain"))))
    found = build_tensors(ModelSource(path=str(rewrite_weights(model_folder(tmp_path / "model"), extra))))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("damage", [lambda whole: whole[: len(whole) // 2], lambda whole: b"not a model"])
def test_damaged_files_of_weights_are_named(alone, tmp_path, damage):
    file = model_folder(tmp_path / "model") / "model.safetensors"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(BadInput, match=rf"model {tmp_path}/model: "):
        build(ModelSource(path=str(tmp_path / "model")))


@pytest.mark.parametrize(
    ("method", "values"),
    [
        ("fp8", {"weight_block_size": [128, 128], "activation_scheme": "dynamic"}),
        ("gptq", {"bits": 4, "group_size": 128}),
        ("awq", {"bits": 4, "zero_point": True}),
        ("bitsandbytes", {"load_in_4bit": True}),
        ("compressed-tensors", {"format": "pack-quantized"}),
        ("torchao", {"quant_type": "int4_weight_only"}),
        ("mxfp4", {}),
    ],
)
def test_quantized_models_are_refused_from_their_configuration(tmp_path, method, values):
    quantization = {"quant_method": method, **values}
    whole = change_config(model_folder(tmp_path / "whole"), quantization_config=quantization)
    (whole / "model.safetensors").unlink()  # nothing of it is read
    text = json.loads((whole / "config.json").read_text())["text_config"]
    inside = change_config(
        model_folder(tmp_path / "inside"),
        text_config={**text, "quantization_config": quantization},
        quantization_config=None,
    )
    for folder in (whole, inside):
        with pytest.raises(BadInput, match=rf"its weights are quantized \({method}\), .* bfloat16 or float32"):
            read_config(ModelSource(path=str(folder)))


def test_a_model_with_a_quantizers_own_file_is_refused(tmp_path):
    folder = model_folder(tmp_path / "model")
    (folder / "hf_quant_config.json").write_text("{}")
    with pytest.raises(BadInput, match=r"quantized \(hf_quant_config\.json\)"):
        read_config(ModelSource(path=str(folder)))


def test_a_folder_of_adapters_is_refused_as_a_model(tmp_path):
    folder = model_folder(tmp_path / "model")
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "/models/base"}')
    with pytest.raises(BadInput, match=r"it holds adapters of '/models/base' .* merge them first"):
        read_config(ModelSource(path=str(folder)))


@pytest.mark.parametrize(
    ("files", "pixels"),
    [
        ({}, 768 * 28**2),
        ({"preprocessor_config.json": {"max_pixels": 11_000}}, 11_000),
        (
            {"preprocessor_config.json": {}, "video_preprocessor_config.json": {"size": {"longest_edge": 12_000}}},
            12_000,
        ),
        (
            {
                "preprocessor_config.json": {},
                "processor_config.json": {"video_processor": {"size": {"longest_edge": 13_000}}},
            },
            13_000,
        ),
        (
            {"preprocessor_config.json": {"max_pixels": 11_000}, "processor_config.json": {"processor_class": "P"}},
            11_000,
        ),
    ],
)
def test_frames_have_the_size_limit_of_the_folders_processor(tmp_path, files, pixels):
    source = ModelSource(path=str(model_folder(tmp_path / "model")))
    for name, values in files.items():
        (tmp_path / "model" / name).write_text(json.dumps(values))
    assert read_family(source, read_config(source)).most_pixels == pixels


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"do_rescale": false}', "its video processor has do_rescale: False, but frames are always"),
        ('{"image_mean": ["a"]}', "could not convert string to float"),
        ('{"size', "Unterminated string"),
        ("[1]", "'list' object has no attribute 'get'"),
    ],
)
def test_a_processor_that_is_not_followed_is_refused_where_it_is_read(alone, tmp_path, text, message):
    source = ModelSource(path=str(model_folder(tmp_path / "model")))
    (tmp_path / "model" / "preprocessor_config.json").write_text(text)
    config = read_config(source)
    with pytest.raises(BadInput, match=f"^model {tmp_path}/model: preprocessor_config.json: .*{message}"):
        read_family(source, config)
    with pytest.raises(BadInput, match=f"^model {tmp_path}/model: preprocessor_config.json: .*{message}"):
        build_model(source, TrainableParts(), config, parallelize(1, config.get_text_config(), alone))


def test_a_chat_template_is_of_the_recipe_or_of_the_tokenizer(tmp_path):
    folder = str(model_folder(tmp_path / "model"))
    own = tmp_path / "own.jinja"
    own.write_text("You see.")
    named = {None: CHATML, "chatml_no_think": CHAT_TEMPLATES["chatml_no_think"], str(own): "You see."}
    assert {
        template: read_tokenizer(ModelSource(path=folder, chat_template=template)).chat_template for template in named
    } == named
    with pytest.raises(
        BadInput, match=r"model\.chat_template qwen: .*; give a Jinja file, or chatml or chatml_no_think"
    ):
        read_tokenizer(ModelSource(path=folder, chat_template="qwen"))


def test_the_processors_chat_template_wins_over_the_tokenizers_as_in_serving(tmp_path):
    folder = model_folder(tmp_path / "model")
    source, file = ModelSource(path=str(folder)), folder / "chat_template.json"
    (folder / "chat_template.jinja").unlink()
    assert read_tokenizer(source).chat_template is None
    file.write_text(json.dumps({"chat_template": "You see."}))
    assert read_tokenizer(source).chat_template == "You see."
    bytes_tokenizer().save_pretrained(folder)
    assert read_tokenizer(source).chat_template == "You see."
    assert read_tokenizer(source.model_copy(update={"chat_template": "chatml"})).chat_template == CHATML
    file.write_text("[]")
    with pytest.raises(BadInput, match=r"chat_template\.json holds no chat_template \(TypeError.*; fix it, or"):
        read_tokenizer(source)


@pytest.mark.parametrize(
    ("part", "values", "complaint"),
    [
        (
            "text_config",
            {"attention_dropout": 0.1},
            r"text_config\.attention_dropout is 0\.1, .* set it to 0 in config",
        ),
        ("vision_config", {"attention_dropout": 0.1}, r"vision_config\.attention_dropout is 0\.1, .* set it to 0"),
        (
            "text_config",
            {"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 1, "layer_types": None},
            r"has layers of sliding_attention \(sliding_window 64\), .* set use_sliding_window to false",
        ),
        ("text_config", {"layer_types": ["full_attention", "chunked_attention"]}, "layers of chunked_attention"),
        ("text_config", {"final_logit_softcapping": 30.0}, r"final_logit_softcapping is 30\.0, which is not supported"),
        ("text_config", {"attn_logit_softcapping": 50.0}, r"attn_logit_softcapping is 50\.0, which is not supported"),
        ("text_config", {"alibi": True}, r"alibi is True, which is not supported"),
    ],
    ids=["dropout", "vision_dropout", "window", "chunks", "final_softcap", "softcap", "alibi"],
)
def test_an_attention_that_is_not_computed_is_refused_from_the_configuration(tmp_path, part, values, complaint):
    folder = model_folder(tmp_path / "model")
    (folder / "model.safetensors").unlink()  # nothing of it is read
    change_config(folder, **{part: {**json.loads((folder / "config.json").read_text())[part], **values}})
    with pytest.raises(BadInput, match=complaint):
        read_config(ModelSource(path=str(folder)))


def test_a_sliding_window_of_every_layer_is_refused():
    text = {"model_type": "mistral", "sliding_window": 4096}
    with pytest.raises(BadInput, match=r"every layer's attention \(sliding_window 4096\)"):
        read_config(ModelSource(config={"model_type": "smolvlm", "text_config": text}))


def test_an_unsupported_model_is_refused_with_what_a_family_must_provide():
    with pytest.raises(BadInput, match=r"model_type 'llava' is not supported .* provide .*encode.*projectors"):
        read_config(ModelSource(config={"model_type": "llava"}))


def test_a_folder_without_a_model_or_tokenizer_is_refused_by_name(tmp_path):
    with pytest.raises(BadInput, match=r"^Qwen/Qwen3-VL-8B: no such folder"):
        read_tokenizer(ModelSource(path="Qwen/Qwen3-VL-8B"))
    with pytest.raises(BadInput, match=r"^Qwen/Qwen3-VL-8B: no such folder"):
        read_config(ModelSource(path="Qwen/Qwen3-VL-8B"))
    with pytest.raises(BadInput, match=rf"there is no tokenizer in {tmp_path}; name its folder in model\.tokenizer"):
        read_tokenizer(ModelSource(path=str(tmp_path)))
    with pytest.raises(BadInput, match=rf"model {tmp_path}: "):
        read_config(ModelSource(path=str(tmp_path)))
