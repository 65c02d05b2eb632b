"""The engine gets every weight of the decoder, and each kind of wrong weight is found."""

from collections.abc import Iterable

import pytest
import torch
from torch import Tensor, nn

from schemas.errors import BadInput
from tests.trainer_plugin.in_vllm import CONFIGS
from tests.trainer_plugin.rl.test_vllm_engine import make_model
from trainer_plugin.model import LongVideoModel
from trainer_plugin.recipe import Lora, TrainableParts
from trainer_plugin.rl.vllm_weights import AdapterFolder, WrongWeights, push_weights

JOINED = {"qkv_proj": ["q_proj", "k_proj", "v_proj"], "gate_up_proj": ["gate_proj", "up_proj"]}


class Names:
    """vLLM's mapping of names, in the way of its `WeightsMapper`."""

    def apply_list(self, names: list[str]) -> list[str]:
        return [
            name.replace("lm_head.", "language_model.lm_head.").replace(
                "model.language_model.", "language_model.model."
            )
            for name in names
        ]


class JoinedModel:
    """The decoder's weights as vLLM holds them: joined, under its names, with a vocabulary of 64 rows more."""

    packed_modules_mapping = JOINED
    hf_to_vllm_mapper = Names()

    def __init__(self, model: LongVideoModel) -> None:
        self.weights: dict[str, nn.Parameter] = {"visual.patch_embed.weight": nn.Parameter(torch.zeros(2))}
        self.places: dict[str, tuple[str, int, int]] = {}
        rows: dict[str, int] = {}
        shapes: dict[str, torch.Size] = {}
        for name, parameter in model.model.named_parameters():
            if "visual" in name or ".lora_" in name:
                continue
            [mapped] = self.hf_to_vllm_mapper.apply_list([name])
            for joined, parts in JOINED.items():
                for part in parts:
                    mapped = mapped.replace(f".{part}.", f".{joined}.")
            start = rows.get(mapped, 0)
            rows[mapped] = start + parameter.shape[0]
            shapes[mapped] = parameter.shape[1:]
            self.places[name] = (mapped, start, rows[mapped])
        for name, count in rows.items():
            padding = 64 if "embed_tokens" in name or "lm_head" in name else 0
            self.weights[name] = nn.Parameter(torch.full((count + padding, *shapes[name]), torch.nan))

    def named_parameters(self) -> Iterable[tuple[str, nn.Parameter]]:
        return self.weights.items()

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        for name, weight in weights:
            place, start, end = self.places[name]
            self.weights[place].data[start:end] = weight


@pytest.mark.parametrize("name", CONFIGS)
def test_every_weight_of_the_decoder_arrives(alone, name):
    model = make_model(alone, name)
    check_push(model)


def check_push(model: LongVideoModel) -> None:
    engine = JoinedModel(model)
    push_weights(model, engine)
    names = {name for name, _ in model.model.named_parameters() if "visual" not in name and ".lora_" not in name}
    assert names == engine.places.keys()
    for name, (place, start, end) in engine.places.items():
        expected = model.model.get_parameter(name).full_tensor()
        assert torch.equal(engine.weights[place].data[start:end], expected)


def test_base_weights_under_adapters_arrive(alone):
    parts = TrainableParts(language_model=False, projector=False, lora=Lora(rank=4, alpha=8))
    model = make_model(alone, "qwen2_5_vl", parts)
    check_push(model)


def test_a_weight_that_the_engine_loads_wrongly_is_named(alone):
    model = make_model(alone, "qwen2_5_vl")
    engine = JoinedModel(model)
    name = "model.language_model.layers.1.self_attn.k_proj.weight"
    place, start, end = engine.places[name]
    engine.places[name] = (place, start - 1, end - 1)
    with pytest.raises(WrongWeights, match=r"weight .*\.layers\.1\.self_attn\.qkv_proj\.weight .* is not"):
        push_weights(model, engine)


def test_a_weight_that_only_one_side_has_is_named(alone):
    model = make_model(alone, "qwen2_5_vl")
    engine = JoinedModel(model)
    engine.weights["language_model.model.layers.0.extra.weight"] = nn.Parameter(torch.zeros(2))
    with pytest.raises(WrongWeights, match=r"has 1 weights that the trainer's has not, e.g. .*\.extra\.weight"):
        push_weights(model, engine)
    engine = JoinedModel(model)
    place, *_ = engine.places["model.language_model.norm.weight"]
    engine.load_weights = lambda weights: None
    del engine.weights[place]
    with pytest.raises(WrongWeights, match=r"has no weight language_model\.model\.norm\.weight"):
        push_weights(model, engine)


def test_adapters_of_a_rank_that_vllm_has_not_are_given_room_or_refused(alone, tmp_path):
    for rank, room in ((4, 8), (16, 16), (48, 64)):
        parts = TrainableParts(language_model=False, projector=False, lora=Lora(rank=rank, alpha=8))
        assert AdapterFolder(make_model(alone, "qwen2_5_vl", parts), tmp_path).rank == room
    parts = TrainableParts(language_model=False, projector=False, lora=Lora(rank=520, alpha=8))
    with pytest.raises(BadInput, match=r"trained\.lora\.rank is 520, and vLLM takes at most 512"):
        AdapterFolder(make_model(alone, "qwen2_5_vl", parts), tmp_path)


def test_adapters_are_written_under_a_new_name_and_the_old_ones_removed(alone, tmp_path):
    from safetensors.torch import load_file

    parts = TrainableParts(language_model=False, projector=False, lora=Lora(rank=4, alpha=8))
    model = make_model(alone, "qwen2_5_vl", parts)
    folder = AdapterFolder(model, tmp_path)
    folder.write(1)
    folder.write(2)
    assert [path.name for path in tmp_path.iterdir()] == ["adapters-2"]
    written = load_file(tmp_path / "adapters-2" / "adapter_model.safetensors")
    own = {
        f"base_model.model.{name.replace('.default.', '.')}": parameter.full_tensor()
        for name, parameter in model.model.named_parameters()
        if ".lora_" in name
    }
    assert written.keys() == own.keys()
    assert all(torch.equal(written[name], own[name]) for name in own)
