from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from schemas.errors import BadInput
from trainer_plugin.distributed.mesh import parallelize
from trainer_plugin.recipe import load_recipe
from trainer_plugin.rl.recipe import GrpoRecipe, load_grpo_recipe
from trainer_plugin.training.memory_check import check_memory, needed_bytes
from trainer_plugin.training.weights import read_config

GIB = 2**30
QWEN_7B = {
    "model_type": "qwen2_5_vl",
    "text_config": {
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152064,
    },
    "vision_config": {
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "out_hidden_size": 3584,
    },
}


def needed(name: str, ranks: int, *settings: str) -> float:
    data = "texts.files=t" if name.startswith("extend") else "videos.release=r"
    recipe = load_recipe(name, ["out=o", data, *settings])
    recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"path": None, "config": QWEN_7B})})
    return (
        needed_bytes(read_config(recipe.model), recipe, ranks, recipe.micro_steps(max(1, ranks // recipe.parallel.sp)))
        / GIB
    )


def test_the_memory_is_the_sum_of_the_tensors_of_a_7b_model():
    # 8.29e9 parameters at 16 bytes each, the head's 0.545e9 at 2, and 2 x 28 tensors of 131,072 / 4 x 3,584 at 2.
    settings = ("row_tokens=131072", "parallel.sp=4", "model.path=m")
    whole = needed("long_video_sft", 4, *settings)
    assert whole == pytest.approx((8.29e9 * 16 / 4 + 0.545e9 * 2 + 56 * 32768 * 3584 * 2) / GIB, rel=0.01)


def test_with_one_row_per_step_gradients_reuse_the_memory_of_activations():
    settings = ("row_tokens=131072", "parallel.sp=4", "model.path=m", "step_tokens=null")
    assert needed("long_video_sft", 4, *settings) == pytest.approx(
        (8.29e9 * 12 / 4 + 0.545e9 * 2 + 56 * 32768 * 3584 * 2) / GIB, rel=0.01
    )
    few = (*settings, "memory.offload_activations=true")
    assert needed("long_video_sft", 4, *few) == pytest.approx(8.29e9 * 16 / 4 / GIB, rel=0.01)


def test_layers_that_are_not_recomputed_keep_their_mlp():
    whole = needed("cot_sft", 4, "model.path=m")
    four = needed("cot_sft", 4, "model.path=m", "memory.checkpointed_layers=24")
    assert four - whole == pytest.approx(4 * 2 * 18944 * 32768 * 2 / GIB)


def test_more_ranks_adapters_and_the_host_need_less():
    whole = needed("cot_sft", 4, "model.path=m")
    assert needed("cot_sft", 8, "model.path=m") < 0.7 * whole
    lora = "trained={lora: {}, language_model: false, projector: false}"
    assert needed("cot_sft", 4, "model.path=m", lora) < 0.6 * whole
    assert needed("cot_sft", 4, "model.path=m", "memory.offload_activations=true") == pytest.approx(
        whole - 12.25, abs=0.1
    )
    assert needed("cot_sft", 4, "model.path=m", "memory={offload_activations: true, offload_parameters: true}") < 3


def test_a_recipe_that_cannot_fit_is_refused_with_settings_that_need_less(alone, monkeypatch):
    recipe = load_recipe("cot_sft", ["out=o", "model.path=m", "videos.release=r"])
    recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"path": None, "config": QWEN_7B})})
    config = read_config(recipe.model)
    parallel = parallelize(1, config.get_text_config(), alone)
    check_memory(config, recipe, parallel, 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=80 * GIB))
    with pytest.raises(BadInput, match=r"at least 1\d\d GiB and has 80: 1 devices are too few .* parallel.sp"):
        check_memory(config, recipe, replace(parallel, device=torch.device("cuda", 0)), 1)


def grpo_recipe(*settings: str) -> GrpoRecipe:
    recipe = load_grpo_recipe("recommended", ["out=o", "model.path=m", "videos.release=r", *settings])
    return recipe.model_copy(update={"model": recipe.model.model_copy(update={"path": None, "config": QWEN_7B})})


def test_a_reference_model_is_counted_where_one_is_needed():
    def needed_by(*settings: str) -> float:
        recipe = grpo_recipe(*settings)
        return needed_bytes(read_config(recipe.model), recipe, 4, None) / GIB

    assert needed_by("objective.beta=0.01") - needed_by() == pytest.approx(8.29e9 * 2 / 4 / GIB, rel=0.01)
    host = "memory.offload_parameters=true"
    assert needed_by("objective.beta=0.01", host) == needed_by(host)
    lora = "trained={lora: {}, language_model: false, projector: false}"
    assert needed_by("objective.beta=0.01", lora) == needed_by(lora)


def test_a_run_whose_reference_model_does_not_fit_is_refused(alone, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=130 * GIB))
    for settings in ((), ("objective.beta=0.01",)):
        recipe = grpo_recipe("row_tokens=16384", "parallel.sp=1", *settings)
        config = read_config(recipe.model)
        parallel = parallelize(1, config.get_text_config(), alone)
        device = replace(parallel, device=torch.device("cuda", 0))
        if settings:
            with pytest.raises(BadInput, match=r"has 130: .* or objective.beta=0, which needs no reference model$"):
                check_memory(config, recipe, device, None)
        else:
            check_memory(config, recipe, device, None)
