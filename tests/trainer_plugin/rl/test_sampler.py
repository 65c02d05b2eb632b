"""Responses of the sampler: their log-probabilities, that ranks do not change them, how they end, and what is refused.

The plain Hugging Face model runs each prompt with each response in one process. The sampler runs on 1 to 3 gloo ranks,
in float32, under FSDP2.
"""

import gc
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cache
from typing import NamedTuple
from unittest.mock import patch

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from schemas.errors import BadInput
from tests.support.openai_server import OpenAIServer
from tests.trainer_plugin import parity
from tests.trainer_plugin.parity import FAMILIES, HEADS, OPTIONS, VIDEO_ID, Clip, Draft, Sample, make_samples
from tests.trainer_plugin.rl import groups
from tests.trainer_plugin.rl.groups import GroupCase, GroupDraft
from trainer_plugin.distributed.sequence_plan import Layout, SequencePlan
from trainer_plugin.families.base import Family
from trainer_plugin.model import LongVideoModel, RankInput
from trainer_plugin.ops.decode_attention import DecodeKeys
from trainer_plugin.recipe import Lora
from trainer_plugin.rl import sampler
from trainer_plugin.rl.rewards.base import RewardBatch, load_reward
from trainer_plugin.rl.rewards.run import RewardCalls
from trainer_plugin.rl.rollout import Finish, RolloutRequest, RolloutResponse, SamplingSettings
from trainer_plugin.rl.sampler import HfSampler
from trainer_plugin.rl.sampling import PixelSource, sample_tokens, uniform_number
from trainer_plugin.rl.scoring import whole_row
from trainer_plugin.rl.shared_prefix_sampler import SharedPrefixSampler
from trainer_plugin.training.weights import add_adapters
from trainer_plugin.types import FrameRange, PromptGroup

TOLERANCE = 1e-5
"""Maximum difference of log-probabilities; float32 resolves 5e-7 at -5."""

DRAFTS = (
    Draft((5, Clip(3), 9), supervised=0.0, seed=1),
    Draft((3, Clip(2), 4, Clip(1, 1, 1, 40_000), 6), supervised=0.0, seed=2),
    Draft((1,), supervised=0.0, seed=3),
    Draft((30,), supervised=0.0, seed=4),
)
STOP_IDS = range(12)
SETTINGS = SamplingSettings(temperature=0.2, max_tokens=20)
RESPONSES = 4
ALONE = Layout()
LAYOUTS = (Layout(2, 1), Layout(1, 2), Layout(1, 3))


def replace_tokens(tokens: int) -> SamplingSettings:
    return SETTINGS.model_copy(update={"max_tokens": tokens})


@dataclass(frozen=True)
class Case:
    """A call of the sampler on all ranks."""

    family: str
    layout: Layout = ALONE
    counts: tuple[int, ...] = (4,)
    """Number of requests of each data-parallel rank: consecutive ones of `DRAFTS`."""
    batch_requests: int = 1
    seed: int = 4
    settings: SamplingSettings = SETTINGS
    responses: int = RESPONSES
    stop_ids: tuple[int, ...] = tuple(STOP_IDS)
    heads: tuple[int, int] = HEADS
    frozen: bool = False
    drafts: tuple[Draft, ...] = DRAFTS
    engine: str = "sharded"


def requests_of(samples: list[Sample], seed: int) -> list[RolloutRequest]:
    return [RolloutRequest(sample.example, (), 1000 * seed + number) for number, sample in enumerate(samples)]


def pixel_source(family: Family, samples: list[Sample]) -> PixelSource:
    """The frames of samples, by the keys of requests."""
    frames = {sample.example.key: sample.frames for sample in samples}

    def read(request: RolloutRequest, part: FrameRange) -> Tensor:
        step = family.temporal_patch
        return frames[request.prompt.key][part.video][part.first * step : part.end * step]

    return read


def model_of(case: Case) -> LongVideoModel:
    return groups._model(case.family, case.heads, case.layout, case.frozen, OPTIONS)


def sampler_of(model: LongVideoModel, case: Case) -> tuple[HfSampler | SharedPrefixSampler, list[RolloutRequest]]:
    """The sampler and this rank's requests."""
    samples = make_samples(model.family, case.drafts)
    number = model.parallel.dp_rank
    start = sum(case.counts[:number])
    mine = requests_of(samples, case.seed)[start : start + case.counts[number]]
    pixels = pixel_source(model.family, samples)
    if case.engine == "shared_prefix":
        return SharedPrefixSampler(model, pixels, case.stop_ids, case.batch_requests, prefill_tokens=12), mine
    return HfSampler(model, pixels, case.stop_ids, case.batch_requests), mine


def sampled(case: Case) -> list[list[RolloutResponse]]:
    """The responses to this rank's requests."""
    engine, mine = sampler_of(model_of(case), case)
    return engine.generate(mine, case.responses, case.settings)


@cache
def run(ranks, case: Case) -> list[list[RolloutResponse]]:
    """The responses to all requests. Ranks that share a row have the same."""
    found = ranks.run(sampled, case)
    sp = case.layout.size
    rows = []
    for first in range(0, len(found), sp):
        for other in found[first : first + sp]:
            assert_equal(other, found[first], tolerance=0)
        rows += found[first]
    return rows


def assert_equal(found: list[list[RolloutResponse]], expected: list[list[RolloutResponse]], tolerance: float) -> None:
    assert [[each.token_ids.tolist() for each in row] for row in found] == [
        [each.token_ids.tolist() for each in row] for row in expected
    ]
    for row, other in zip(found, expected, strict=True):
        for each, same in zip(row, other, strict=True):
            assert each.finish is same.finish
            torch.testing.assert_close(each.log_probs, same.log_probs, rtol=0, atol=tolerance)


# --- log-probabilities


@cache
def plain_model(name: str):
    model = parity.tiny_model(name)
    groups._pair_twins(model)
    model.set_attn_implementation("eager")
    return model.eval()


@torch.no_grad()
def plain_logits(name: str, sample: Sample, ids: Tensor) -> Tensor:
    """Logits of the plain model from the prompt's last token on, [R + 1, V]."""
    model = plain_model(name)
    whole = groups._sequence(sample, ids)
    inputs = parity._plain_inputs(model, whole)
    logits = model(input_ids=whole.example.input_ids[None], use_cache=False, **inputs).logits[0]
    return logits[len(logits) - len(ids) - 1 :]


@pytest.mark.parametrize("family", FAMILIES)
def test_log_probs_are_those_of_plain_hugging_face(ranks, family):
    samples = make_samples(parity.tiny_family(family), DRAFTS)
    responses = run(ranks[1], Case(family))
    scores = [score for pair in zip(samples, responses, strict=True) for score in plain_differences(family, *pair)]
    assert max(score.difference for score in scores) < TOLERANCE
    assert max(score.log_prob for score in scores) > -3  # far from uniform, so that a mistake would change it


@pytest.mark.parametrize("family", FAMILIES)
def test_sampled_placeholders_are_text(ranks, family):
    """The plain model gets another token with the same embedding, for which it expects no video."""
    settings = replace_tokens(40)
    case = Case(family, counts=(2,), batch_requests=2, responses=8, drafts=DRAFTS[:2], stop_ids=(), settings=settings)
    samples = make_samples(parity.tiny_family(family), case.drafts)
    pairs = [
        (sample, [each for each in row if VIDEO_ID in each.token_ids[:-1]])
        for sample, row in zip(samples, run(ranks[1], case), strict=True)
    ]
    scores = [score for pair in pairs for score in plain_differences(family, *pair)]
    assert max(score.difference for score in scores) < TOLERANCE


class Score(NamedTuple):
    """A response compared with the plain model."""

    difference: float
    """Largest difference of the log-probabilities."""
    log_prob: float
    """Largest log-probability."""


def plain_differences(name: str, sample: Sample, responses: list[RolloutResponse]) -> list[Score]:
    scores = []
    for each in responses:
        logits = plain_logits(name, sample, each.token_ids)[:-1] / SETTINGS.temperature
        expected = logits.log_softmax(-1).gather(1, each.token_ids[:, None])[:, 0]
        scores.append(Score(float((each.log_probs - expected).abs().max()), float(expected.max())))
    return scores


def differences(case: Case, mistake: str | None = None) -> float:
    """Largest difference of sampled log-probabilities to those of `LongVideoModel.forward` on the groups."""
    model = model_of(case)
    with MISTAKES[mistake]() if mistake else nullcontext():
        found = sampled(case)
    return compared(model, make_samples(model.family, case.drafts), found)


def compared(model: LongVideoModel, samples: list[Sample], found: list[list[RolloutResponse]]) -> float:
    largest = 0.0
    for sample, row in zip(samples, found, strict=True):
        assert all(torch.equal(each.prompt_ids, sample.example.input_ids) for each in row)
        group = PromptGroup(sample.example, tuple(each.token_ids for each in row))
        plan = SequencePlan([group], model.family, model.parallel.layout, model.costs)
        share = plan.rank_plan(model.parallel.sp_rank)
        rank_input = RankInput(share, parity.rank_pixels(model.family, share, [sample]))
        with torch.no_grad():
            log_probs, _ = model(rank_input, SETTINGS.temperature)
        expected = whole_row(model, plan, rank_input, log_probs)
        largest = max(largest, float((torch.cat([each.log_probs for each in row]) - expected).abs().max()))
    return largest


def _late_positions() -> AbstractContextManager[object]:
    right = sampler._Response.position.fget
    return patch.object(sampler._Response, "position", property(lambda response: right(response) + 1))


def _unseen_prompt() -> AbstractContextManager[object]:
    return patch.object(sampler, "_local_ranges", lambda plan, part: [(0, 0) for _ in plan.segments])


def _one_seen_twice() -> AbstractContextManager[object]:
    """Every ring rank adds the responses' own keys."""
    right = DecodeKeys.__init__

    def wrong(keys: DecodeKeys, prompts, ranges, responses, layout, rank, *rest) -> None:
        right(keys, prompts, ranges, responses, layout, 0, *rest)

    return patch.object(DecodeKeys, "__init__", wrong)


MISTAKES: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "late positions": _late_positions,
    "prompt unseen": _unseen_prompt,
    "own keys of every ring rank": _one_seen_twice,
}


@pytest.mark.parametrize("family", FAMILIES)
def test_log_probs_are_those_of_the_forward_pass(ranks, family):
    assert ranks[1].run(differences, Case(family, batch_requests=3))[0] < TOLERANCE


def sampled_and_compared(case: Case) -> tuple[list[list[RolloutResponse]], float]:
    model = model_of(case)
    found = sampled(case)
    return found, compared(model, make_samples(model.family, case.drafts), found)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_layouts_and_batches_do_not_change_responses(ranks, family, layout):
    expected = run(ranks[1], Case(family))
    results = ranks[layout.size].run(sampled_and_compared, Case(family, layout, batch_requests=3))
    for found, difference in results:
        assert_equal(found, expected, TOLERANCE)
        assert_equal(found, results[0][0], tolerance=0)
        assert difference < TOLERANCE


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_found(ranks, mistake):
    assert min(ranks[2].run(differences, Case("qwen3_vl", Layout(1, 2), batch_requests=4), mistake)) > 100 * TOLERANCE


@pytest.mark.parametrize(
    "case",
    [
        Case("qwen2_5_vl", frozen=True),
        Case("qwen3_vl", Layout(2, 1), heads=(4, 1), batch_requests=4),
        Case("smolvlm", Layout(3, 1), heads=(6, 3), batch_requests=4),
    ],
    ids=["frozen tower", "a key head on two ranks", "three key heads"],
)
def test_log_probs_are_those_of_the_forward_pass_for_other_models(ranks, case):
    assert max(ranks[case.layout.size].run(differences, case)) < TOLERANCE


def adapted() -> float:
    inner = parity.tiny_model("qwen2_5_vl")
    add_adapters(inner, Lora(rank=2, alpha=4))
    for name, parameter in inner.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    model = parity.shard_parameters(LongVideoModel(inner, parity.groups(Layout()), OPTIONS), compute=None).train()
    case = Case("qwen2_5_vl")
    engine, mine = sampler_of(model, case)
    return compared(model, make_samples(model.family, DRAFTS), engine.generate(mine, RESPONSES, SETTINGS))


def test_log_probs_are_those_of_a_model_with_adapters(ranks):
    assert ranks[1].run(adapted)[0] < TOLERANCE


def sampled_from_features(case: Case) -> list[list[RolloutResponse]]:
    """Responses to requests with encoded frames."""
    model = model_of(case)
    engine, mine = sampler_of(model, case)
    tower, read = parity.tiny_model(case.family), engine.pixels

    def encode(request: RolloutRequest, part: FrameRange) -> Tensor:
        grid = replace(request.prompt.videos[part.video].grid, t=part.end - part.first)
        return model.family.encode(tower, model.family.patches(read(request, part)), [grid]).packed()

    engine.pixels = encode
    return engine.generate(mine, case.responses, case.settings)


def test_features_give_the_responses_of_their_frames(ranks):
    case = Case("qwen3_vl", Layout(1, 2), batch_requests=4)
    expected = run(ranks[1], Case("qwen3_vl"))
    for found in ranks[2].run(sampled_from_features, case):
        assert_equal(found, expected, TOLERANCE)


# --- seeds


@pytest.mark.parametrize("counts", [(3, 1), (0, 4)], ids=str)
def test_data_parallel_ranks_may_have_different_numbers_of_requests(ranks, counts):
    found = run(ranks[2], Case("qwen2_5_vl", counts=counts, batch_requests=2))
    assert_equal(found, run(ranks[1], Case("qwen2_5_vl")), TOLERANCE)


def test_the_number_of_responses_does_not_change_the_first_ones(ranks):
    found = run(ranks[1], Case("smolvlm", responses=2))
    assert_equal(found, [row[:2] for row in run(ranks[1], Case("smolvlm"))], TOLERANCE)


def test_responses_and_seeds_differ(ranks):
    row = run(ranks[1], Case("smolvlm"))[0]
    other = run(ranks[1], Case("smolvlm", seed=5))[0]
    assert len({tuple(each.token_ids.tolist()) for each in row + other}) == 2 * RESPONSES


def test_uniform_numbers_are_uniform_and_depend_on_each_argument():
    numbers = [uniform_number(seed, 3, index) for seed in range(10) for index in range(1000)]
    assert len(set(numbers)) == len(numbers)
    assert 0 <= min(numbers) < 0.001 and 0.999 < max(numbers) < 1
    counts = torch.histc(torch.tensor(numbers), 10, 0, 1)
    assert float(((counts - 1000) ** 2 / 1000).sum()) < 27.9  # 0.1% of chi-square with 9 degrees of freedom
    assert uniform_number(12, 3, 4) != uniform_number(1, 23, 4)
    assert uniform_number(0, 0, 0) == pytest.approx(0.08234954794796834, abs=1e-15)  # on every machine


# --- the distribution


def test_frequencies_match_the_probabilities():
    probabilities = torch.tensor([0.1, 0.2, 0.7, 0.0])
    draws = 20_000
    uniforms = torch.tensor([uniform_number(1, 2, index) for index in range(draws)], dtype=torch.float64)
    ids, log_probs = sample_tokens(probabilities.log().expand(draws, -1), uniforms)
    counts = Counter(ids.tolist())
    assert counts[3] == 0
    expected = probabilities[:3] * draws
    found = torch.tensor([counts[token] for token in range(3)])
    assert float(((found - expected) ** 2 / expected).sum()) < 13.8  # 0.1% of chi-square with 2 degrees of freedom
    torch.testing.assert_close(log_probs, probabilities.log()[ids])


def test_tokens_are_found_at_the_edges_of_their_intervals():
    logits = torch.tensor([0.0, 0.25, 0.25, 0.5, 0.0]).log().expand(5, -1)
    uniforms = torch.tensor([0.0, 0.2499, 0.25, 0.5, 1 - 2**-52], dtype=torch.float64)
    assert sample_tokens(logits, uniforms)[0].tolist() == [1, 1, 2, 3, 3]


@torch.no_grad()
def greedy_loop(name: str, sample: Sample, tokens: int) -> tuple[list[int], list[float]]:
    """Greedy decoding by the plain model, which runs the whole sequence for each token."""
    ids, log_probs = torch.empty(0, dtype=torch.int64), []
    while len(ids) < tokens and (not len(ids) or int(ids[-1]) not in STOP_IDS):
        scores = plain_logits(name, sample, ids)[-1].log_softmax(-1)
        ids = torch.cat([ids, scores.argmax()[None]])
        log_probs.append(float(scores.max()))
    return ids.tolist(), log_probs


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_sampling_is_that_of_plain_hugging_face(ranks, family):
    samples = make_samples(parity.tiny_family(family), DRAFTS)
    settings = SamplingSettings(greedy=True, max_tokens=8)
    case = Case(family, Layout(1, 2), responses=1, settings=settings, batch_requests=4)
    for sample, [response] in zip(samples, run(ranks[2], case), strict=True):
        ids, log_probs = greedy_loop(family, sample, 8)
        assert response.token_ids.tolist() == ids
        torch.testing.assert_close(response.log_probs, torch.tensor(log_probs), rtol=0, atol=TOLERANCE)


# --- how responses end


def test_responses_end_with_their_first_stop_token_or_at_the_limit(ranks):
    responses = [each for row in run(ranks[1], Case("qwen2_5_vl")) for each in row]
    assert {each.finish for each in responses} == {Finish.STOP, Finish.LENGTH}
    for each in responses:
        ids = each.token_ids.tolist()
        assert not set(ids[:-1]) & set(STOP_IDS)
        assert (ids[-1] in STOP_IDS) == (each.finish is Finish.STOP)
        assert len(ids) == SETTINGS.max_tokens if each.finish is Finish.LENGTH else len(ids) <= SETTINGS.max_tokens
        assert each.token_ids.dtype == torch.int64 and each.log_probs.dtype == torch.float32


def test_a_response_may_be_one_token(ranks):
    case = Case("qwen2_5_vl", settings=SamplingSettings(max_tokens=1), stop_ids=tuple(range(100)))
    responses = [each for row in run(ranks[1], case) for each in row]
    assert {len(each.token_ids) for each in responses} == {1}
    assert all((int(each.token_ids[0]) < 100) == (each.finish is Finish.STOP) for each in responses)


def test_long_responses_keep_their_keys(ranks):
    """The room for a response's keys grows several times."""
    case = Case(
        "qwen2_5_vl", Layout(1, 2), (1,), responses=2, drafts=DRAFTS[:1], stop_ids=(1,), settings=replace_tokens(70)
    )
    assert max(ranks[2].run(differences, case)) < TOLERANCE


# --- calls as responses end


class Call(NamedTuple):
    """A call of `on_response`."""

    key: str
    number: int
    token_ids: list[int]
    finish: Finish


def sampled_with_calls(case: Case) -> tuple[list[Call], list[list[Call]]]:
    """The calls on this rank, and the responses that it returns, by request."""
    engine, mine = sampler_of(model_of(case), case)
    calls: list[Call] = []

    def call(request: RolloutRequest, number: int, response: RolloutResponse) -> Call:
        return Call(request.prompt.key, number, response.token_ids.tolist(), response.finish)

    found = engine.generate(mine, case.responses, case.settings, lambda *response: calls.append(call(*response)))
    rows = [
        [call(request, number, response) for number, response in enumerate(row)]
        for request, row in zip(mine, found, strict=True)
    ]
    return calls, rows


def test_each_response_is_passed_on_when_it_ends(ranks):
    [(calls, rows)] = ranks[1].run(sampled_with_calls, Case("qwen2_5_vl", batch_requests=2))
    batches = [sorted(rows[0] + rows[1]), sorted(rows[2] + rows[3])]
    half = len(calls) // 2
    assert [sorted(calls[:half]), sorted(calls[half:])] == batches
    for part in (calls[:half], calls[half:]):
        lengths = [len(each.token_ids) for each in part]
        assert lengths == sorted(lengths) and lengths[0] < lengths[-1]


def test_the_first_rank_of_those_that_share_a_row_passes_responses_on(ranks):
    first, second = ranks[2].run(sampled_with_calls, Case("qwen2_5_vl", Layout(1, 2)))
    assert sorted(first[0]) == sorted(each for row in first[1] for each in row)
    assert second == ([], first[1])


def stopped_by_a_call(case: Case, kind: type[Exception]) -> tuple[int, str]:
    """The number of calls on this rank, and the error."""
    engine, mine = sampler_of(model_of(case), case)
    calls: list[int] = []

    def fail(request: RolloutRequest, number: int, response: RolloutResponse) -> None:
        calls.append(number)
        if engine.model.parallel.rank == 0:
            raise kind("no key; set MY_KEY")

    with pytest.raises((kind, RuntimeError)) as raised:
        engine.generate(mine, case.responses, case.settings, fail)
    return len(calls), f"{type(raised.value).__name__}: {raised.value}"


@pytest.mark.parametrize(
    "case", [Case("qwen2_5_vl", Layout(1, 2)), Case("qwen2_5_vl", counts=(2, 2))], ids=["one row", "two rows"]
)
def test_an_error_in_a_call_ends_sampling_on_every_rank(ranks, case):
    first, second = ranks[2].run(stopped_by_a_call, case, BadInput)
    assert first == (1, "BadInput: no key; set MY_KEY") and second[1] == first[1]
    first, second = ranks[2].run(stopped_by_a_call, case, KeyError)
    assert first[1] == "KeyError: 'no key; set MY_KEY'" and second[1].startswith("RuntimeError: rank 0 has failed")
    assert_equal(run(ranks[1], Case("qwen2_5_vl")), run.__wrapped__(ranks[1], Case("qwen2_5_vl")), 0)


def judged_while_sampled(case: Case) -> tuple[bool, list[float]]:
    """Whether the judge gets a request before another response ends, and the rewards."""
    engine, mine = sampler_of(model_of(case), case)
    arrived = threading.Event()
    ended: list[bool] = []

    def make_batch(texts: list[str]) -> RewardBatch:
        columns = {
            "prompts": ["p"],
            "completion_ids": [()],
            "question": ["?"],
            "answer_text": ["one"],
            "kind": ["open"],
        }
        repeated = {name: column * len(texts) for name, column in columns.items()}
        return RewardBatch(["q"] * len(texts), {"completions": texts, **repeated})

    def text(response: RolloutResponse) -> str:
        return " ".join(map(str, response.token_ids.tolist()))

    with OpenAIServer(script=lambda body: arrived.set() or {"same": True}) as server:
        judge = load_reward("judge", url=server.url, model="fake-model")
        calls = RewardCalls([judge], [1.0], 60)

        def begin(request: RolloutRequest, number: int, response: RolloutResponse) -> None:
            calls.begin(make_batch([text(response)]))
            ended.append(arrived.wait(60))

        [row] = engine.generate(mine, case.responses, case.settings, begin)
        rewards = calls.finish(make_batch([text(response) for response in row]))
    return ended[0], rewards.values[:, 0].tolist()


def test_a_judge_is_called_while_other_responses_are_sampled(ranks):
    pytest.importorskip("openai")
    assert ranks[1].run(judged_while_sampled, Case("qwen2_5_vl", counts=(1,))) == [(True, [1.0] * RESPONSES)]


# --- the model afterwards


def trained_around(case: Case) -> tuple[bool, bool]:
    """Whether modules keep their mode, and a step after sampling has the gradients of the one before."""
    step = GroupCase(case.family, (GroupDraft(DRAFTS[0], (4, 7)),), case.layout)
    model = model_of(case)
    before = groups.sharded(step)
    tower = model.family.vision_tower(model.model)
    tower.eval()
    modes = [module.training for module in model.modules()]
    sampled(case)
    kept = modes == [module.training for module in model.modules()] and len(set(modes)) == 2
    tower.train()
    after = groups.sharded(step)
    same = all(torch.equal(before.gradients[name], gradient) for name, gradient in after.gradients.items())
    return kept, same and before.gradients.keys() == after.gradients.keys()


def test_a_step_after_sampling_is_unchanged(ranks):
    assert ranks[2].run(trained_around, Case("qwen3_vl", Layout(2, 1), batch_requests=4)) == [(True, True)] * 2


def held_shapes(case: Case) -> list[list[tuple[int, ...]]]:
    """Shapes of tensors like keys and frames before and after sampling, without the garbage collector."""
    engine, mine = sampler_of(model_of(case), case)
    gc.collect()
    gc.disable()
    try:
        before = _tensor_shapes()
        engine.generate(mine, case.responses, case.settings)
        return [before, _tensor_shapes()]
    finally:
        gc.enable()


def _tensor_shapes() -> list[tuple[int, ...]]:
    # Not all tensors, because gloo holds those of the last collectives for a moment.
    tensors = [each for each in gc.get_objects() if issubclass(type(each), Tensor)]
    return sorted(tuple(each.shape) for each in tensors if each.ndim >= 3 and each.shape[-1] in (3, 16))


def test_keys_and_frames_are_freed(ranks):
    case = Case("qwen2_5_vl", Layout(1, 2), batch_requests=2, settings=replace_tokens(3))
    for before, after in ranks[2].run(held_shapes, case):
        assert before == after


# --- bad input


def refused(case: Case, change: str = "") -> str:
    """The message of the error that this rank raises."""
    model = model_of(case)
    engine, mine = sampler_of(model, case)
    if change == "last token a placeholder":
        prompt = mine[0].prompt
        end = int((prompt.input_ids == VIDEO_ID).nonzero()[-1]) + 1
        cut = {name: getattr(prompt, name)[..., :end] for name in ("input_ids", "labels", "positions")}
        mine[0] = replace(mine[0], prompt=replace(prompt, **cut))
    if change == "another vocabulary":
        ids = mine[1].prompt.input_ids.clone()
        ids[0] = 5000
        mine[1] = replace(mine[1], prompt=replace(mine[1].prompt, input_ids=ids))
    if change == "frames of another size" and model.parallel.rank == 0:
        engine.pixels = lambda request, part: torch.zeros(2, 8, 8, 3, dtype=torch.uint8)
    if change == "unreadable video" and model.parallel.rank == 1:

        def fail(request: RolloutRequest, part: FrameRange) -> Tensor:
            raise BadInput(f"sample {request.prompt.key}: no such video")

        engine.pixels = fail
    if change == "different seeds":
        mine = [replace(each, seed=model.parallel.rank) for each in mine]
    if change == "damaged weights":
        norm = model.family.language_model(model.model).norm
        norm.weight.data.to_local().fill_(float("nan"))
    with pytest.raises(BadInput) as raised:
        engine.generate(mine, case.responses, case.settings)
    if change == "damaged weights":
        norm.weight.data.to_local().fill_(1.0)
    return str(raised.value)


SHARED = Case("qwen2_5_vl", Layout(1, 2))


@pytest.mark.parametrize(
    ("case", "change", "message"),
    [
        (replace(SHARED, counts=(0,)), "", "no rank has a request"),
        (Case("qwen2_5_vl", counts=(0, 0)), "", "no rank has a request"),
        (replace(SHARED, responses=0), "", "0 responses to each request; sample at least 1"),
        (replace(SHARED, settings=replace_tokens(484)), "", "sample s3: its prompt of 30 tokens and a response of 484"),
        (SHARED, "last token a placeholder", "s0: its prompt of"),
        (SHARED, "another vocabulary", "sample s1: input_ids go from"),
        (SHARED, "frames of another size", "sample s0: pixels of shape (2, 8, 8, 3)"),
        (SHARED, "unreadable video", "sample s0: no such video"),
        (SHARED, "different seeds", "ranks that share a row sample different requests"),
        (Case("qwen2_5_vl", counts=(0, 3)), "damaged weights", "sample s0: the log-probability of token 0 of response"),
    ],
)
def test_bad_input_is_named_on_every_rank(ranks, case, change, message):
    found = ranks[2].run(refused, case, change)
    assert len(found) == 2
    assert all(message in each for each in found), found


def test_greedy_sampling_has_no_temperature():
    with pytest.raises(ValueError, match=r"greedy sampling with temperature 0.5; set temperature to 1"):
        SamplingSettings(greedy=True, temperature=0.5)


def test_a_response_may_reach_the_last_position(ranks):
    draft = Draft((508,), supervised=0.0)
    case = Case("smolvlm", drafts=(draft,), counts=(1,), settings=replace_tokens(5), stop_ids=())
    [row] = run(ranks[1], case)
    assert {len(each.token_ids) for each in row} == {5}
    message = ranks[1].run(refused, replace(case, settings=replace_tokens(6)))[0]
    assert "need 513 positions, and the model has 512; take fewer frames, or lower max_tokens" in message


def test_batches_without_requests_are_refused(alone):
    model = LongVideoModel(parity.tiny_model("qwen2_5_vl"), parity.groups.__wrapped__(ALONE), OPTIONS)
    with pytest.raises(BadInput, match="batch_requests is 0; set it to at least 1"):
        HfSampler(model, pixel_source(model.family, []), (), batch_requests=0)


@pytest.mark.parametrize("setting", ["top_p", "top_k", "repetition_penalty"])
def test_settings_that_change_the_distribution_are_refused(setting):
    with pytest.raises(ValidationError, match=setting):
        SamplingSettings(**{setting: 1})
