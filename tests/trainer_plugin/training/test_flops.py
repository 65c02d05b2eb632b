"""FLOPs of a step by hand, and the peak of a device."""

from dataclasses import replace

import pytest
import torch

from tests.trainer_plugin.parity import Clip, Draft, freeze_tower, make_samples, tiny_config, tiny_model
from trainer_plugin.distributed.sequence_plan import Costs, Layout, SequencePlan
from trainer_plugin.families import family_of
from trainer_plugin.training.flops import TowerCosts, peak_flops, training_flops
from trainer_plugin.training.metrics import peak_memory
from trainer_plugin.types import FeatureRef


def test_flops_are_three_passes_of_six_per_weight_and_causal_pairs():
    config = tiny_config("qwen2_5_vl")
    family, costs = family_of(config), Costs.of(config.get_text_config())
    samples = make_samples(family, [Draft((15,), 1.0), Draft((10,), 1.0)])
    plan = SequencePlan([sample.example for sample in samples], family, Layout(), costs)
    hidden, inner, layers, vocabulary = 64, 96, 2, 200
    weights = layers * (hidden * (64 + 32 + 32 + 64) + 3 * hidden * inner)
    pairs = 15 * 16 / 2 + 10 * 11 / 2
    supervised = 14 + 9
    expected = 6 * weights * 25 + 6 * hidden * vocabulary * supervised + 12 * layers * 64 * pairs
    assert training_flops([plan], costs) == pytest.approx(expected)
    frozen = training_flops([plan], costs, weights_trainable=False)
    assert expected - frozen == pytest.approx(2 * weights * 25 + 2 * hidden * vocabulary * supervised)


@pytest.mark.parametrize("frozen", [True, False])
def test_a_tower_counts_once_if_frozen_thrice_if_trainable_and_not_with_features(frozen):
    model = tiny_model("qwen2_5_vl")
    family, costs = family_of(model.config), Costs.of(model.config.get_text_config())
    if frozen:
        freeze_tower(model)
    for part in family.projectors(model):
        part.requires_grad_(True)
    hidden, inner, patch, merged, text = 32, 48, 3 * 2 * 14 * 14, 4 * 32, 64
    of_patch = patch * hidden + 2 * (4 * hidden * hidden + 3 * hidden * inner)
    of_token = merged * merged + merged * text
    samples = make_samples(family, [Draft((3, Clip(2, 2, 3), Clip(1, 1, 2), 9))])
    patches = 4 * (2 * 2 * 3 + 1 * 1 * 2)

    def flops(example, tower):
        return training_flops([SequencePlan([example], family, Layout(), costs)], costs, tower)

    tower = TowerCosts.of(model, family)
    example = samples[0].example
    found = flops(example, tower) - flops(example, None)
    assert found == pytest.approx(2 * (1 if frozen else 3) * of_patch * patches + 6 * of_token * patches / 4)
    read = replace(example, videos=tuple(replace(clip, features=FeatureRef("", "")) for clip in example.videos))
    assert flops(read, tower) == flops(example, None)


def test_the_peak_is_given_or_known_by_name(monkeypatch):
    cpu, cuda = torch.device("cpu"), torch.device("cuda", 0)
    assert peak_flops(cpu) is None
    assert peak_flops(cpu, 100.0) == 1e14
    names = {"NVIDIA H100 80GB HBM3": 989e12, "NVIDIA H100 PCIe": 756e12, "NVIDIA H200": 989e12, "Voodoo 2": None}
    for name, expected in names.items():
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device, name=name: name)
        assert peak_flops(cuda) == expected
    assert 10 << 20 < peak_memory(cpu) < 64 << 30
