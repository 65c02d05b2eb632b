"""Responses of the sampler that reads prompts once: they are those of the sampler on sharded weights, on any ranks.

`test_sampler` compares that sampler with the plain Hugging Face model.
"""

import gc
import json
import subprocess
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
import torch

from schemas.errors import BadInput
from tests.trainer_plugin import parity
from tests.trainer_plugin.parity import FAMILIES, OPTIONS, Draft, make_samples
from tests.trainer_plugin.rl import test_sampler
from tests.trainer_plugin.rl.test_sampler import (
    DRAFTS,
    LAYOUTS,
    RESPONSES,
    SETTINGS,
    TOLERANCE,
    Case,
    assert_equal,
    compared,
    model_of,
    refused,
    replace_tokens,
    run,
    sampled,
    sampled_and_compared,
    sampled_from_features,
    sampled_with_calls,
    sampler_of,
    stopped_by_a_call,
)
from trainer_plugin.distributed.sequence_plan import Layout
from trainer_plugin.model import LongVideoModel
from trainer_plugin.recipe import Lora
from trainer_plugin.rl import shared_prefix_sampler
from trainer_plugin.rl.decoder import TokenDecoder
from trainer_plugin.rl.prefill import PromptPool, split_prompt
from trainer_plugin.rl.rollout import SamplingSettings
from trainer_plugin.rl.shared_prefix_sampler import SharedPrefixSampler, needed_bytes
from trainer_plugin.training.weights import add_adapters

ENGINE = "shared_prefix"


@pytest.mark.parametrize("family", FAMILIES)
def test_responses_are_those_of_the_sharded_sampler(ranks, family):
    """Prompts run in chunks of 12 tokens, and the responses of three of them in the same steps."""
    [(found, difference)] = ranks[1].run(sampled_and_compared, Case(family, batch_requests=3, engine=ENGINE))
    assert_equal(found, run(ranks[1], Case(family)), TOLERANCE)
    assert difference < TOLERANCE


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_layouts_do_not_change_responses(ranks, layout):
    expected = run(ranks[1], Case("qwen3_vl"))
    for found, _ in ranks[layout.size].run(
        sampled_and_compared, Case("qwen3_vl", layout, batch_requests=2, engine=ENGINE)
    ):
        assert_equal(found, expected, TOLERANCE)


@pytest.mark.parametrize("counts", [(3, 1), (0, 4)], ids=str)
def test_data_parallel_ranks_may_have_different_numbers_of_requests(ranks, counts):
    found = run(ranks[2], Case("qwen2_5_vl", counts=counts, batch_requests=2, engine=ENGINE))
    assert_equal(found, run(ranks[1], Case("qwen2_5_vl")), TOLERANCE)


@pytest.mark.parametrize(
    "case",
    [
        Case("qwen3_vl", Layout(2, 1), heads=(4, 1), batch_requests=4, engine=ENGINE),
        Case("smolvlm", Layout(3, 1), heads=(6, 3), engine=ENGINE),
        Case("qwen2_5_vl", Layout(1, 3), counts=(1,), responses=2, drafts=DRAFTS[:1], engine=ENGINE),
    ],
    ids=["a key head on two ranks", "three key heads", "fewer responses than ranks"],
)
def test_log_probs_are_those_of_the_forward_pass(ranks, case):
    assert max(difference for _, difference in ranks[case.layout.size].run(sampled_and_compared, case)) < TOLERANCE


def test_features_give_the_responses_of_their_frames(ranks):
    [found, _] = ranks[2].run(sampled_from_features, Case("qwen3_vl", Layout(1, 2), batch_requests=4, engine=ENGINE))
    assert_equal(found, run(ranks[1], Case("qwen3_vl")), TOLERANCE)


def test_greedy_responses_are_those_of_the_sharded_sampler(ranks):
    settings = SamplingSettings(greedy=True, max_tokens=8)
    cases = [Case("qwen2_5_vl", settings=settings, responses=1, engine=engine) for engine in (ENGINE, "sharded")]
    assert_equal(run(ranks[1], cases[0]), run(ranks[1], cases[1]), TOLERANCE)


def adapted() -> float:
    inner = parity.tiny_model("qwen2_5_vl")
    add_adapters(inner, Lora(rank=2, alpha=4))
    for name, parameter in inner.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    model = parity.shard_parameters(LongVideoModel(inner, parity.groups(Layout()), OPTIONS), compute=None).train()
    case = Case("qwen2_5_vl", engine=ENGINE)
    engine, mine = sampler_of(model, case)
    return compared(model, make_samples(model.family, DRAFTS), engine.generate(mine, RESPONSES, SETTINGS))


def test_log_probs_are_those_of_a_model_with_adapters(ranks):
    assert ranks[1].run(adapted)[0] < 5 * TOLERANCE  # the adapters are as large as the weights


# --- mistakes that the comparison must find


def _late_positions() -> AbstractContextManager[object]:
    right = TokenDecoder.start

    def late(decoder: TokenDecoder, slots: slice, last_id: int, position: int, uniforms: torch.Tensor) -> None:
        right(decoder, slots, last_id, position + 1, uniforms)

    return patch.object(TokenDecoder, "start", late)


def _unseen_chunk() -> AbstractContextManager[object]:
    """A chunk of the prompt does not attend to the earlier ones."""
    return patch.object(PromptPool, "earlier", _zeros)


def _zeros(pool: PromptPool, region: int, tokens: int):
    for layer in pool.keys:
        k, v = layer[:, region, :, :tokens].transpose(1, 2)
        yield torch.zeros_like(k), torch.zeros_like(v)


def wrong_by(case: Case, mistake: str) -> float:
    model = model_of(case)
    with {"late positions": _late_positions, "unseen chunk": _unseen_chunk}.get(mistake, nullcontext)():
        found = sampled(case)
    return compared(model, make_samples(model.family, case.drafts), found)


@pytest.mark.parametrize("mistake", ["late positions", "unseen chunk"])
def test_a_mistake_is_found(ranks, mistake):
    assert ranks[1].run(wrong_by, Case("qwen3_vl", engine=ENGINE), mistake)[0] > 100 * TOLERANCE


# --- scheduling


def test_each_response_is_passed_on_once(ranks):
    first, second = ranks[2].run(sampled_with_calls, Case("qwen2_5_vl", Layout(1, 2), batch_requests=2, engine=ENGINE))
    assert sorted(first[0]) == sorted(each for row in first[1] for each in row)
    assert second == ([], first[1])


def prompts_in_memory(case: Case) -> list[tuple[int, int]]:
    """Number of prompts in memory and of responses that have ended, whenever a prompt is admitted."""
    engine, mine = sampler_of(model_of(case), case)
    ended: list[int] = []
    found: list[tuple[int, int]] = []
    right = TokenDecoder.start

    def count(decoder: TokenDecoder, *arguments) -> None:
        found.append((int((decoder._keys[0].prompt_lengths > 0).sum()), len(ended)))
        right(decoder, *arguments)

    with patch.object(TokenDecoder, "start", count), patch.object(shared_prefix_sampler, "CHECK_STEPS", 1):
        engine.generate(mine, case.responses, case.settings, lambda *_: ended.append(1))
    return found


def test_a_prompt_is_admitted_when_all_responses_of_another_have_ended(ranks):
    drafts = (*DRAFTS[:2], DRAFTS[3], Draft((20,), supervised=0.0, seed=5))
    [admitted] = ranks[1].run(
        prompts_in_memory,
        Case("qwen2_5_vl", batch_requests=2, settings=replace_tokens(80), drafts=drafts, engine=ENGINE),
    )
    assert [prompts for prompts, _ in admitted] == [1, 2, 2, 2]
    assert [ended for _, ended in admitted[:2]] == [0, 0]
    assert all(ended >= RESPONSES for _, ended in admitted[2:])
    assert admitted[2][1] < 2 * RESPONSES or admitted[3][1] < 3 * RESPONSES  # one does not wait for both


def test_an_error_in_a_call_ends_sampling_on_every_rank(ranks):
    first, second = ranks[2].run(stopped_by_a_call, Case("qwen2_5_vl", counts=(2, 2), engine=ENGINE), KeyError)
    assert first[1] == "KeyError: 'no key; set MY_KEY'" and second[1].startswith("RuntimeError: rank 0 has failed")


def kept_tensors(case: Case) -> list[int]:
    """Number of tensors as large as a region's keys before and after sampling."""
    engine, mine = sampler_of(model_of(case), case)

    def large() -> int:
        return sum(1 for each in gc.get_objects() if issubclass(type(each), torch.Tensor) and each.ndim == 6)

    before = large()
    engine.generate(mine, case.responses, case.settings)
    gc.collect()
    return [before, large()]


def test_keys_and_weights_are_freed(ranks):
    assert ranks[1].run(kept_tensors, Case("qwen2_5_vl", settings=replace_tokens(3), engine=ENGINE)) == [[0, 0]]


# --- chunks of a prompt


@pytest.mark.parametrize("tokens", [1, 7, 12, 1000])
@pytest.mark.parametrize("family", FAMILIES)
def test_chunks_divide_no_temporal_patch_and_leave_nothing_out(family, tokens):
    kind = parity.tiny_family(family)
    for sample in make_samples(kind, DRAFTS):
        prompt = sample.example
        chunks = split_prompt(prompt, kind, tokens)
        assert torch.equal(torch.cat([chunk.example.input_ids for chunk in chunks]), prompt.input_ids)
        assert torch.equal(torch.cat([chunk.example.positions for chunk in chunks], dim=1), prompt.positions)
        starts = [chunk.start for chunk in chunks]
        lengths = [len(chunk.example.input_ids) for chunk in chunks]
        assert starts == [sum(lengths[:number]) for number in range(len(chunks))]
        shown = [part for chunk in chunks for part in chunk.patches]
        patches = [(part.video, patch) for part in shown for patch in range(part.first, part.end)]
        assert patches == [(number, patch) for number, clip in enumerate(prompt.videos) for patch in range(clip.grid.t)]
        for chunk, length in zip(chunks, lengths, strict=True):
            placeholders = int((chunk.example.input_ids == kind.video_token_id).sum()) if prompt.videos else 0
            clips = chunk.example.videos
            assert placeholders == sum(clip.grid.t * kind.tokens_per_temporal_patch(clip.grid) for clip in clips)
            assert length <= tokens or sum(clip.grid.t for clip in clips) == 1
            for clip, part in zip(clips, chunk.patches, strict=True):
                whole = prompt.videos[part.video]
                frames = whole.frames_per_patch
                assert clip.frame_times_us == whole.frame_times_us[part.first * frames : part.end * frames]


# --- bad input


@pytest.mark.parametrize(
    ("case", "change", "message"),
    [
        (Case("qwen2_5_vl", engine=ENGINE), "damaged weights", "sample s0: the log-probability of token 0 of response"),
        (
            Case("qwen2_5_vl", Layout(1, 2), engine=ENGINE),
            "unreadable video",
            "sample s0: no such video",
        ),
        (Case("qwen2_5_vl", counts=(0,), engine=ENGINE), "", "no rank has a request to sample"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_sampled_is_an_error_on_all_ranks(ranks, case, change, message):
    for found in ranks[case.layout.size].run(refused, case, change):
        assert message in found


def with_memory(case: Case, free: int) -> str:
    model = model_of(case)
    engine, _ = sampler_of(model, case)
    engine.model = SimpleNamespace(
        model=model.model,
        family=model.family,
        compute_dtype=model.compute_dtype,
        parallel=replace(model.parallel, device=torch.device("cuda", 0)),
    )
    with (
        patch.object(torch.cuda, "mem_get_info", lambda device: (free, free)),
        patch.object(torch.cuda, "memory_reserved", lambda device: 0),
        patch.object(torch.cuda, "memory_allocated", lambda device: 0),
    ):
        try:
            engine._check_memory(2, 30, RESPONSES, case.settings)
        except BadInput as error:
            return str(error)
    return ""


def test_too_little_memory_names_the_parts_and_the_settings(ranks):
    case = Case("qwen2_5_vl", engine=ENGINE)
    [message] = ranks[1].run(with_memory, case, 1000)
    assert "sampling 4 responses of 20 tokens to 2 prompts of up to 30 tokens needs at least" in message
    assert "keys of prompts 0.0 GiB" in message and "rollout.engine=sharded" in message
    assert ranks[1].run(with_memory, case, 1 << 40) == [""]


def out_of_memory(case: Case) -> str:
    engine, mine = sampler_of(model_of(case), case)
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
    with patch.object(TokenDecoder, "run", side_effect=error), pytest.raises(BadInput) as raised:
        engine.generate(mine, case.responses, case.settings)
    return str(raised.value)


def test_running_out_of_memory_names_the_settings(ranks):
    [message] = ranks[1].run(out_of_memory, Case("qwen2_5_vl", engine=ENGINE))
    assert "ran out of memory while sampling" in message and "rollout.batch_requests" in message


def bytes_of_model(case: Case) -> tuple[dict[str, int], int]:
    model = model_of(case)
    decoder = model.family.language_model(model.model)
    return needed_bytes(model, 100, 8, 20, 12), 4 * sum(p.numel() for p in decoder.parameters())


def test_needed_bytes_are_those_of_weights_and_keys(ranks):
    [(found, decoder)] = ranks[1].run(bytes_of_model, Case("qwen2_5_vl"))
    text = parity.tiny_model("qwen2_5_vl").config.get_text_config()
    d = text.hidden_size // text.num_attention_heads
    token = text.num_hidden_layers * 2 * text.num_key_value_heads * d * 4
    assert found["keys of prompts"] == 100 * token and found["keys of responses"] == 8 * 20 * token
    assert decoder <= found["weights"] <= decoder + 4 * text.vocab_size * text.hidden_size


def refused_decoder(case: Case) -> str:
    model = model_of(case)
    layer = model.family.language_model(model.model).layers[0]
    layer.mlp.shared_expert = torch.nn.Linear(2, 2)
    try:
        SharedPrefixSampler(model, test_sampler.pixel_source(model.family, []), (1,), 1, 12)
    except BadInput as error:
        return str(error)
    finally:
        del layer.mlp.shared_expert
    return ""


def test_an_unknown_decoder_is_refused(ranks):
    [message] = ranks[1].run(refused_decoder, Case("qwen2_5_vl"))
    assert "does not know this decoder" in message and "shared_expert" in message
    assert "rollout.engine=sharded" in message


# --- on a GPU


GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]


@pytest.fixture(scope="module")
def distances() -> list[dict[str, Any]]:
    """Distances of log-probabilities between the sampler, the trainer and float32: `benchmarks/rl_exact.py exact`."""
    command = [sys.executable, "-m", "benchmarks.rl_exact", "exact"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return [each for each in found if each["engine"] == ENGINE]


@pytest.mark.parametrize("family", [pytest.param(name, marks=GPU) for name in ("qwen2_5_vl", "qwen3_vl")])
def test_on_a_gpu_float32_log_probs_are_those_of_the_trainer(distances, family):
    [found] = [each for each in distances if each["tiny"] and each["model"] == family]
    assert found["engine_trainer_max"] < 1e-4


@pytest.mark.parametrize("family", [pytest.param(name, marks=GPU) for name in ("qwen2_5_vl", "qwen3_vl")])
def test_on_a_gpu_bfloat16_is_no_farther_from_the_trainer_than_the_trainer_from_float32(distances, family):
    [found] = [each for each in distances if not each["tiny"] and each["model"] == family]
    assert found["engine_trainer_mean"] < 1.5 * found["trainer_truth_mean"]
