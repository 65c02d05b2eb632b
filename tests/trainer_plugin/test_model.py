"""Tests of what the model computes: which ranks encode, what is recomputed, and which tensors never exist."""

from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from schemas.errors import BadInput
from tests.trainer_plugin.parity import (
    FAMILIES,
    Clip,
    Draft,
    freeze_tower,
    groups,
    make_samples,
    plan_of,
    rank_pixels,
    reference,
    tiny_config,
    tiny_model,
)
from tests.trainer_plugin.ranks import Ranks
from trainer_plugin import versions
from trainer_plugin.distributed.mesh import init_distributed, parallelize
from trainer_plugin.distributed.sequence_plan import Layout
from trainer_plugin.model import WARM_UP_TOKENS, Head, LongVideoModel, RankInput, RunOptions, shard_parameters
from trainer_plugin.ops import log_probs as head
from trainer_plugin.ops.sequence_parallel_attention import SEQUENCE_PARALLEL
from trainer_plugin.ops.vision_attention import VISION_ATTENTION

DRAFT = Draft((5, Clip(3), 20), supervised=1.0, seed=3)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def alone():
    """Process group of this process only."""
    init_distributed()
    yield parallelize(1, tiny_config("qwen2_5_vl").get_text_config(), CPU)
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    running = Ranks(3, tmp_path_factory.mktemp("ranks"))
    yield running
    running.stop()


def wrap_model(name, parallel, frozen=False, **options) -> LongVideoModel:
    model = tiny_model(name)
    if frozen:
        freeze_tower(model)
    return LongVideoModel(model, parallel, RunOptions(**options)).train()


def row_of(model, *drafts) -> RankInput:
    samples = make_samples(model.family, drafts or [DRAFT])
    rank_plan = plan_of(model, samples).rank_plan(model.parallel.sp_rank)
    return RankInput(rank_plan, rank_pixels(model.family, rank_plan, samples))


def record_forward_passes(modules):
    """A list that gets one entry per forward pass of the modules: whether gradients are enabled."""
    calls = []
    for module in modules:
        # A pre-hook, because a recomputation stops early, as soon as all needed tensors exist.
        module.register_forward_pre_hook(lambda _, __: calls.append(torch.is_grad_enabled()))
    return calls


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("again", [None, 1, 0])
def test_a_trained_tower_is_recomputed_and_a_frozen_one_encodes_once_without_a_graph(alone, name, again):
    for frozen in (True, False):
        model = wrap_model(name, alone, frozen, checkpointed_layers=again, vision_patches=10**6)
        layers = list(model.family.vision_layers(model.model))
        calls, decoder = (
            record_forward_passes(layers),
            record_forward_passes(model.family.language_model(model.model).layers),
        )
        log_probs, _ = model(row_of(model))
        assert len(calls) == len(layers)
        log_probs.sum().backward()
        recomputed = again != 0 and not frozen
        assert len(calls) == len(layers) * (2 if recomputed else 1)
        assert set(calls) == {not frozen}
        assert len(decoder) == 2 + (2 if again is None else again)
        tower = model.family.vision_tower(model.model)
        assert all((parameter.grad is None) is frozen for parameter in tower.parameters())


class Shapes(TorchDispatchMode):
    """Records the shapes of all tensors that operations return."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.seen |= {tuple(each.shape) for each in tree_leaves(result) if isinstance(each, torch.Tensor)}
        return result


@pytest.mark.parametrize(("kind", "whole"), [(Head.CHUNKED, False), (Head.FULL, True)])
def test_no_tensor_of_sequence_times_vocabulary_exists(alone, kind, whole, monkeypatch):
    monkeypatch.setattr(head, "CHUNK_BYTES", 8 * 200 * 4)
    model = wrap_model("qwen2_5_vl", alone, head=kind)
    row = row_of(model, Draft((90,), supervised=1.0))
    hidden, vocabulary = 64, 200
    with Shapes() as shapes:
        log_probs, entropies = model(row, entropy=True)
        (log_probs.sum() + entropies.sum()).backward()
    of_vocabulary = {shape for shape in shapes.seen if vocabulary in shape} - {
        (vocabulary, hidden),
        (hidden, vocabulary),
    }
    assert of_vocabulary
    assert any(max(shape[0], shape[-1] if shape[-1] != vocabulary else 0) > 8 for shape in of_vocabulary) is whole


def test_no_tensor_of_sequence_times_sequence_exists(alone):
    model = wrap_model("qwen3_vl", alone)
    with Shapes() as shapes, torch.no_grad():
        model(row_of(model, *[Draft((29,), seed=seed) for seed in range(4)]))
    assert not [shape for shape in shapes.seen if shape.count(4 * 29) > 1]


def test_attention_is_set_for_each_tower(alone):
    config = wrap_model("qwen2_5_vl", alone).model.config
    assert config.text_config._attn_implementation == SEQUENCE_PARALLEL
    assert config.vision_config._attn_implementation == VISION_ATTENTION


@pytest.mark.parametrize("kind", list(Head))
def test_temperature_and_entropy_are_those_of_the_logits(alone, kind):
    model = wrap_model("qwen2_5_vl", alone, head=kind).eval()
    row = row_of(model)
    log_probs, entropies = model(row, temperature=0.7, entropy=True)
    plain = tiny_model("qwen2_5_vl")
    scores = reference("qwen2_5_vl", [DRAFT]).scores
    cold, _ = model(row)
    torch.testing.assert_close(cold, scores[row.plan.supervised], rtol=1e-5, atol=1e-6)
    assert plain.config.text_config.vocab_size == 200
    assert (log_probs <= 0).all()
    assert ((entropies > 0) & (entropies < torch.tensor(200.0).log())).all()
    assert model(row)[1] is None


@pytest.mark.parametrize("name", FAMILIES)
def test_features_that_were_computed_before_pass_through(alone, name):
    model = wrap_model(name, alone, frozen=True)
    row = row_of(model, DRAFT, Draft((3, Clip(2), 9), supervised=1.0, seed=4))
    expected, _ = model(row)
    grid = row.plan.grids[0]
    with torch.no_grad():
        features = model.family.encode(model.model, model.family.patches(row.pixels[0]), [grid]).packed()
    found, _ = model(replace(row, pixels=(features, *row.pixels[1:])))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    "spoiled",
    [
        lambda frames: torch.cat([frames, frames[:2]]),
        lambda frames: frames[:2],
        lambda frames: frames.transpose(1, 2),
        lambda frames: frames / 255,
        lambda frames: torch.zeros(frames.shape[0], 7),
    ],
)
def test_frames_that_are_not_of_their_grid_are_refused(alone, spoiled):
    model = wrap_model("qwen2_5_vl", alone)
    row = row_of(model, DRAFT, Draft((3, Clip(2), 9), supervised=1.0, seed=4))
    with pytest.raises(ValueError, match=r"sample s0: pixels of shape .* do not make its Grid\(t=3, h=4, w=6\)"):
        model(replace(row, pixels=(spoiled(row.pixels[0]), *row.pixels[1:])))


def test_missing_pixels_are_refused(alone):
    model = wrap_model("qwen2_5_vl", alone)
    with pytest.raises(BadInput, match=r"samples \('s0',\): 0 pixels for 1 frame ranges"):
        model(replace(row_of(model), pixels=()))


def test_with_a_frozen_decoder_text_alone_gives_the_tower_zero_gradients(alone):
    model = wrap_model("qwen2_5_vl", alone)
    model.model.requires_grad_(False)
    tower = model.model.model.visual.requires_grad_(True)
    log_probs, _ = model(row_of(model, Draft((30,), supervised=1.0)))
    log_probs.sum().backward()
    assert all(not parameter.grad.any() for parameter in tower.parameters())


def test_a_rank_input_moves_with_all_its_tensors(alone):
    model = wrap_model("qwen3_vl", alone)
    row = row_of(model)
    moved = row.to(torch.device("meta"))
    tensors = [*vars(moved.plan).values(), *moved.pixels]
    devices = {each.device.type for each in tensors if isinstance(each, torch.Tensor)}
    assert devices == {"meta"}
    assert moved.pixels[0].dtype == torch.uint8
    assert moved.plan.attention is row.plan.attention


def test_weights_stay_float32_under_bfloat16(alone):
    model = shard_parameters(wrap_model("qwen2_5_vl", alone), compute=torch.bfloat16)
    log_probs, _ = model(row_of(model))
    loss = -log_probs.mean()
    loss.backward()
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert {parameter.grad.dtype for parameter in model.parameters()} == {torch.float32}
    assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
    assert loss.item() == pytest.approx(reference("qwen2_5_vl", [DRAFT]).loss, rel=2e-2)


def test_a_warm_up_runs_each_kind_of_pass_at_two_lengths_and_leaves_no_trace(alone):
    model = shard_parameters(wrap_model("qwen3_vl", alone)).train()
    model.family.vision_tower(model.model).eval()
    modes = [module.training for module in model.modules()]
    mlp = model.family.language_model(model.model).layers[-1].mlp
    seen = []
    handle = mlp.register_forward_pre_hook(
        lambda module, given: seen.append((module.training, torch.is_grad_enabled(), given[0].shape[1]))
    )
    model.warm_up()
    handle.remove()
    passes = [(True, True), (True, False), (False, False)]
    assert set(seen) == {(*each, tokens) for each in passes for tokens in WARM_UP_TOKENS}
    assert [module.training for module in model.modules()] == modes
    assert all(parameter.grad is None for parameter in model.parameters())


def test_unknown_versions_are_refused(alone, monkeypatch):
    monkeypatch.setitem(versions.SUPPORTED, "transformers", ("5.1", "5.2"))
    with pytest.raises(RuntimeError, match=r"transformers 5.* is not supported"):
        wrap_model("qwen2_5_vl", alone)


def test_dropout_in_attention_is_refused(alone):
    model = tiny_model("qwen2_5_vl")
    model.config.text_config.attention_dropout = 0.1
    for layer in model.model.language_model.layers:
        layer.self_attn.attention_dropout = 0.1
    with pytest.raises(ValueError, match=r"attention_dropout is 0\.1, which is not supported"):
        LongVideoModel(model, alone)


# --- on several ranks


def steps_of(drafts, frozen):
    """Calls of this rank's tower, number of its frames, and sum of the absolute gradients (None if frozen)."""
    model = tiny_model("qwen2_5_vl")
    if frozen:
        freeze_tower(model)
    model = LongVideoModel(model, groups(Layout(1, 3)), RunOptions(vision_patches=24)).train()
    calls = record_forward_passes([model.model.model.visual])
    row = row_of(model, *drafts)
    log_probs, _ = model(row)
    log_probs.sum().backward()
    gradients = [parameter.grad for parameter in model.model.model.visual.parameters()]
    size = None if frozen else sum(float(gradient.abs().sum()) for gradient in gradients if gradient is not None)
    return len(calls), sum(len(pixels) for pixels in row.pixels), size


def test_a_blank_keeps_ranks_without_frames_in_step(ranks):
    assert ranks.run(steps_of, [Draft((4, Clip(1), 30), supervised=1.0)], True) == [
        (1, 0, None),
        (1, 2, None),
        (1, 0, None),
    ]
    (one, _, none), (two, frames, some), (three, _, nothing) = ranks.run(
        steps_of, [Draft((4, Clip(1), 30), supervised=1.0)], False
    )
    assert (one, two, three, frames) == (1, 1, 1, 2)
    assert none == nothing == 0 < some


def error_of_wrong_frames(drafts):
    """Error of this rank if the frames of the last rank do not match their grid."""
    model = LongVideoModel(tiny_model("qwen2_5_vl"), groups(Layout()), RunOptions(vision_patches=24)).train()
    row = row_of(model, *drafts[dist.get_rank()])
    if dist.get_rank() == 2:
        row = replace(row, pixels=(row.pixels[0][:, 1:],))
    with pytest.raises(BadInput) as raised:
        model(row)
    return str(raised.value)


def test_frames_that_are_wrong_on_one_rank_are_refused_on_every_rank(ranks):
    text = Draft((30,), supervised=1.0)
    drafts = [(DRAFT,), (text,), (text, Draft((3, Clip(2), 9), supervised=1.0))]
    messages = ranks.run(error_of_wrong_frames, drafts)
    assert len(set(messages)) == 1
    assert messages[0].startswith("sample s1: pixels of shape (4, 55, 84, 3) (torch.uint8) do not make its Grid(t=2,")


def test_without_any_frame_no_tower_runs(ranks):
    assert ranks.run(steps_of, [Draft((34,), supervised=1.0)], False) == [(0, 0, 0.0)] * 3
