"""Measures a GRPO step on long videos on one GPU: sampling, the update, and both against usual practice and vLLM.

    torchrun --standalone --nproc-per-node 1 benchmarks/rl.py update --prompts 32768 65536 131072 --lora 16
    torchrun --standalone --nproc-per-node 1 benchmarks/rl.py rollout --prompts 65536 131072 --group 8
    torchrun --standalone --nproc-per-node 1 benchmarks/rl.py step --prompts 65536 --lora 16
    torchrun --standalone --nproc-per-node 1 benchmarks/rl.py lengths --lora 16
    torchrun --standalone --nproc-per-node 1 benchmarks/rl.py frames --lora 16 --group 5 --response 256
    torchrun --standalone --nproc-per-node 1 benchmarks/rl.py memory --lora 16 --prompts 16384 32768
    python benchmarks/rl.py vllm --prompts 65536 131072 --group 8

The model has the shapes of Qwen2.5-VL-7B and random weights in bfloat16. A prompt is one video of precomputed features,
as the video cache holds them, and a question. All responses have `--response` tokens. With `--spread`, `update` has
lengths of a long tail, and `rollout` and `vllm` stop at so many token ids that the mean is a third of `--response`.

`update` takes whole steps of `PolicyUpdate` on one group. Its ways:
    shared    the prompt once, in one row with all responses
    chunked   the prompt once, two responses at a time
    separate  a row for each response. One of the equal responses is timed, and its time multiplied by the group's size.
    usual     separate, with FlashAttention 2, all logits in one tensor, and a pass for old log-probabilities
    sft       no group: one sample with as many tokens as the shared row, of which as many are supervised

`lengths` takes ten updates of different lengths, to find recompilation. `frames` compares videos of 8 to 1,024 frames
with our own way without sharing: the tower encodes the frames for each response, which has a prompt of its own. One of
the equal responses is timed and multiplied. `memory` draws the peaks of the first two `--prompts` on in a
straight line, to the longest prompt that fits. How exact sampling and gradients are: `benchmarks/rl_exact.py`.

MFU counts what the model needs without recomputation (`training_flops`), over 989 TFLOP/s (bf16, dense, H100 and H200).
Each line of the output is JSON.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen3VLConfig, Qwen3VLForConditionalGeneration

from benchmarks.trainer import FRAME, PEAK, TEXT_ID, _config, _trainable_parts
from trainer_plugin.distributed.mesh import init_distributed, parallelize
from trainer_plugin.distributed.sequence_plan import SequencePlan
from trainer_plugin.families.base import Family
from trainer_plugin.model import Head, LongVideoModel, RankInput, RunOptions, shard_parameters
from trainer_plugin.ops.attention_kernels import Kernel
from trainer_plugin.rl.decoder import TokenDecoder, gather_weights
from trainer_plugin.rl.objective import Objective
from trainer_plugin.rl.rollout import RolloutRequest, SamplingSettings
from trainer_plugin.rl.shared_prefix_sampler import SharedPrefixSampler
from trainer_plugin.rl.update import CorrectionSettings, PolicyUpdate, RolloutBatch, UpdateSettings
from trainer_plugin.training.flops import training_flops
from trainer_plugin.training.optimizer_step import adamw, cross_entropy, train_step
from trainer_plugin.training.weights import prepare
from trainer_plugin.types import IGNORED, Example, FrameRange, PromptGroup, VideoClip, VideoSource

QUESTION = 256
VOCABULARY = 152_064
WAYS = ("shared", "chunked", "separate", "usual", "sft")
BANDWIDTH = 4.3e12
"""Bytes per second that an H200 reads from its memory, as measured by copies."""


def main() -> None:
    """Run the command line."""
    arguments = _arguments()
    COMMANDS[arguments.what](arguments)
    if dist.is_initialized():
        dist.destroy_process_group()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=COMMANDS)
    parser.add_argument("--shape", choices=["qwen2.5-7b", "qwen3-8b"], default="qwen2.5-7b")
    parser.add_argument("--prompts", type=int, nargs="+", default=[65_536], help="tokens of the prompt")
    parser.add_argument("--response", type=int, default=1024, help="tokens of a response")
    parser.add_argument("--group", type=int, nargs="+", default=[8], help="responses to a prompt")
    parser.add_argument("--cases", nargs="+", type=_case, help="prompt:responses:tokens of `rollout` and `vllm`")
    parser.add_argument("--spread", action="store_true", help="responses of different lengths, up to --response")
    parser.add_argument("--layers", type=int, help="decoder layers (all of the shape)")
    parser.add_argument("--lora", type=int, help="train adapters of this rank, not the decoder's weights")
    parser.add_argument("--checkpointed", type=int, help="decoder layers with activation checkpointing (all)")
    parser.add_argument("--mlp-tokens", type=int, help="tokens of which an MLP computes in one piece (all)")
    parser.add_argument("--row-tokens", type=int, help="tokens of a row; what is longer runs in chunks (two responses)")
    parser.add_argument("--ways", nargs="+", default=["shared", "separate"], choices=WAYS)
    parser.add_argument("--profile", type=int, default=0, help="print so many kernels of an update, longest first")
    parser.add_argument("--correction", action="store_true", help="a pass for old log-probabilities before the update")
    parser.add_argument("--prefill", type=int, default=32_768, help="tokens of a prompt that run in one pass")
    parser.add_argument("--whole", action="store_true", help="no token steps alone, only whole groups")
    parser.add_argument("--regions", type=int, default=1, help="prompts that are decoded in the same steps")
    parser.add_argument("--frames", type=int, nargs="+", default=[8, 16, 32, 64, 128, 256, 512, 1024])
    parser.add_argument(
        "--steps", type=int, default=2, help="steps after the first, of which the median is taken; 0 for the first"
    )
    return parser.parse_args()


def _case(text: str) -> tuple[int, int, int]:
    prompt, group, response = map(int, text.split(":"))
    return prompt, group, response


def _cases(arguments: argparse.Namespace) -> list[tuple[int, int, int]]:
    """Tokens of the prompt, number of responses, and their tokens."""
    pairs = product(arguments.prompts, arguments.group)
    return arguments.cases or [(prompt, group, arguments.response) for prompt, group in pairs]


def print_values(**values: Any) -> None:
    short = {name: float(f"{value:.4g}") if isinstance(value, float) else value for name, value in values.items()}
    print(json.dumps(short), flush=True)


def _options(arguments: argparse.Namespace) -> RunOptions:
    return RunOptions(checkpointed_layers=arguments.checkpointed, mlp_tile_tokens=arguments.mlp_tokens)


def qwen3_config(layers: int) -> Qwen3VLConfig:
    """The decoder of Qwen/Qwen3-VL-8B-Instruct with a different number of layers, and a small tower."""
    text = {
        "hidden_size": 4096,
        "intermediate_size": 12_288,
        "num_hidden_layers": layers,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151_936,
        "max_position_embeddings": 1_048_576,
        "rope_parameters": {
            "rope_type": "default",
            "mrope_section": [24, 20, 20],
            "mrope_interleaved": True,
            "rope_theta": 5e6,
        },
    }
    vision = {"depth": 1, "deepstack_visual_indexes": [0], "out_hidden_size": 4096, "patch_size": 14}
    special = {"video_token_id": 151_656, "vision_start_token_id": 151_652, "vision_end_token_id": 151_653}
    return Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=False, **special)


def _build(
    arguments: argparse.Namespace, device: torch.device, options: RunOptions, tower_layers: int = 1
) -> LongVideoModel:
    torch.manual_seed(0)
    seven = arguments.shape == "qwen2.5-7b"
    layers = arguments.layers or (28 if seven else 36)
    config = _config(layers) if seven else qwen3_config(layers)
    config.vision_config.depth = tower_layers
    kind = Qwen2_5_VLForConditionalGeneration if seven else Qwen3VLForConditionalGeneration
    with torch.device(device):
        inner = kind._from_config(config, dtype=torch.bfloat16)
    prepare(inner, _trainable_parts(arguments.lora))
    for parameter in inner.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    parallel = parallelize(1, config.get_text_config(), device)
    model = shard_parameters(LongVideoModel(inner, parallel, options)).train()
    began = time.perf_counter()
    model.warm_up()
    torch.cuda.synchronize()
    print_values(what="warm-up", seconds=time.perf_counter() - began)
    return model


def make_prompt(family: Family, tokens: int) -> Example:
    """A prompt of about `tokens` tokens: a question and a video."""
    grid = family.grid(*FRAME, 2)
    grid = replace(grid, t=max(1, (tokens - QUESTION - 2) // family.tokens_per_temporal_patch(grid)))
    times = tuple(range(0, 2 * grid.t * 500_000, 500_000))
    clip = VideoClip(VideoSource("benchmark", ""), times, FRAME, grid)
    count = grid.t * family.tokens_per_temporal_patch(grid)
    ids = torch.tensor(
        [TEXT_ID, family.vision_start_id, *[family.video_token_id] * count, family.vision_end_id]  # type: ignore[attr-defined]
        + [TEXT_ID] * (QUESTION - 1)
    )
    return Example(
        f"prompt of {len(ids)}", ids, torch.full_like(ids, IGNORED), family.positions(ids, [(grid, times)]), (clip,)
    )


class Features:
    """Random features of the benchmark's video in pinned memory, as the cache returns them."""

    def __init__(self, family: Family, prompt: Example, width: int) -> None:
        grid = prompt.videos[0].grid
        self._per_patch = family.tokens_per_temporal_patch(grid)
        generator = torch.Generator().manual_seed(1)
        values = torch.randn(grid.t * self._per_patch, width, generator=generator) * 0.02
        self._values = values.to(torch.bfloat16)
        if torch.cuda.is_available():
            self._values = self._values.pin_memory()

    def clip(self, clip: VideoClip, first: int, end: int) -> Tensor:
        return self._values[first * self._per_patch : end * self._per_patch]

    def request(self, request: RolloutRequest, part: FrameRange) -> Tensor:
        return self.clip(request.prompt.videos[part.video], part.first, part.end)


def _lengths(arguments: argparse.Namespace, group: int) -> list[int]:
    if not arguments.spread:
        return [arguments.response] * group
    # A long tail, as responses of reasoning models have: medians near a third of the longest.
    shares = torch.distributions.LogNormal(-1.1, 0.6).icdf((torch.arange(group) + 0.5) / group)
    return [max(1, min(arguments.response, int(share * arguments.response))) for share in shares]


def _stop_ids(arguments: argparse.Namespace) -> range:
    """Token ids that end a response; with random weights all of them are about equally likely."""
    return range(150_000, 150_000 + 3 * VOCABULARY // arguments.response) if arguments.spread else range(0)


def _group(arguments: argparse.Namespace, prompt: Example, group: int) -> PromptGroup:
    generator = torch.Generator().manual_seed(2)
    return PromptGroup(
        prompt, tuple(torch.randint(0, 150_000, (n,), generator=generator) for n in _lengths(arguments, group))
    )


def _seconds(call: Callable[[], object]) -> float:
    torch.cuda.synchronize()
    began = time.perf_counter()
    call()
    torch.cuda.synchronize()
    return time.perf_counter() - began


# --- the update


def _update(arguments: argparse.Namespace) -> None:
    device = init_distributed()
    options = _options(arguments)
    model = _build(arguments, device, options)
    optimizer = adamw(model, learning_rate=1e-6)
    for tokens in arguments.prompts:
        prompt = make_prompt(model.family, tokens)
        features = Features(model.family, prompt, model.feature_width)
        for group in arguments.group:
            whole = _group(arguments, prompt, group)
            for way in arguments.ways:
                try:
                    _measure_way(arguments, model, optimizer, whole, features, way, options)
                except torch.OutOfMemoryError as error:
                    print_values(what="update", way=way, prompt=len(prompt.input_ids), error=str(error).split(".")[0])
                gc.collect()
                torch.cuda.empty_cache()


def _measure_way(
    arguments: argparse.Namespace,
    model: LongVideoModel,
    optimizer: torch.optim.Optimizer,
    group: PromptGroup,
    features: Features,
    way: str,
    options: RunOptions,
) -> None:
    usual = way == "usual"
    model.options = replace(options, kernel=Kernel.FLASH2, head=Head.FULL) if usual else options
    alone = way in ("separate", "usual")
    part = group.split()[0] if alone else group
    trainable = arguments.lora is None
    if way == "sft":
        run, plans = _sft(model, optimizer, group, features)
    else:
        longest = max(len(ids) for ids in part.responses)
        chunk = 2 * (longest + 1) if way == "chunked" else sum(len(ids) + 1 for ids in part.responses)
        row_tokens = len(part.prompt.input_ids) + chunk
        if way == "chunked" and arguments.row_tokens:
            row_tokens = arguments.row_tokens
        correction = CorrectionSettings() if usual or arguments.correction else None
        update = PolicyUpdate(
            model,
            optimizer,
            features.clip,
            objective=Objective(),
            correction=correction,
            update=UpdateSettings(),
            row_tokens=row_tokens,
            temperature=1.0,
            max_response_tokens=longest,
            max_norm=1.0,
        )
        count = len(part.responses)
        batch = RolloutBatch(
            (part,),
            tuple(torch.full((len(ids),), -11.9) for ids in part.responses),
            torch.linspace(-1, 1, count) if count > 1 else torch.ones(1),
            torch.ones(count, dtype=torch.bool),
            torch.zeros(count, dtype=torch.bool),
        )
        if correction is not None:
            object.__setattr__(update.correction, "geometric", None)  # random log-probabilities fit no bounds
        run = partial(update.run, batch)
        plans = [SequencePlan([part], model.family, model.parallel.layout, model.costs)]
    torch.cuda.reset_peak_memory_stats()
    first = _seconds(run)
    seconds = statistics.median([_seconds(run) for _ in range(arguments.steps)] or [first])
    flops = training_flops(plans, model.costs, weights_trainable=trainable)
    times = len(group.responses) if alone else 1
    print_values(
        what="update",
        way=way,
        prompt=len(group.prompt.input_ids),
        group=len(group.responses),
        response=max(len(ids) for ids in group.responses),
        shape=arguments.shape,
        layers=arguments.layers,
        checkpointed=arguments.checkpointed,
        mlp_tokens=arguments.mlp_tokens,
        lora=arguments.lora,
        seconds=seconds * times,
        multiplied=times,
        first_seconds=first,
        mfu=flops / seconds / PEAK,
        pflop=flops * times / 1e15,
        peak_gb=torch.cuda.max_memory_allocated() / 1e9,
    )
    if arguments.profile:
        _print_kernels(run, arguments.profile)


def _print_kernels(run: Callable[[], object], count: int) -> None:
    """Run once more, and print the `count` kernels that take longest."""
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        _seconds(run)
    kernels = sorted(profiler.key_averages(), key=lambda each: each.self_device_time_total, reverse=True)
    for kernel in kernels[:count]:
        print_values(what="kernel", ms=kernel.self_device_time_total / 1e3, calls=kernel.count, name=kernel.key[:90])


def _sft(
    model: LongVideoModel, optimizer: torch.optim.Optimizer, group: PromptGroup, features: Features
) -> tuple[Callable[[], object], list[SequencePlan]]:
    prompt = group.prompt
    answer = torch.cat(group.responses)
    ids = torch.cat([prompt.input_ids, answer])
    positions = torch.cat([prompt.positions, prompt.positions[:, -1:] + torch.arange(1, len(answer) + 1)], dim=1)
    sample = replace(prompt, input_ids=ids, labels=torch.cat([prompt.labels, answer]), positions=positions)
    plan = SequencePlan([sample], model.family, model.parallel.layout, model.costs)
    share = plan.rank_plan(0)
    row = RankInput(share, tuple(features.clip(prompt.videos[0], each.first, each.end) for each in share.frames))
    return lambda: train_step(model, optimizer, [row], cross_entropy(len(answer))), [plan]


def _memory(arguments: argparse.Namespace) -> None:
    """The longest prompt that fits by way of training, drawn on in a straight line from the peaks of two prompts."""
    device = init_distributed()
    total = torch.cuda.get_device_properties(device).total_memory
    base = _options(arguments)
    tiled = replace(base, mlp_tile_tokens=8192)
    ways = {
        "shared": ("shared", base),
        "shared, MLPs in tiles": ("shared", tiled),
        "shared, MLPs in tiles, activations in host memory": ("shared", replace(tiled, offload=True)),
        "usual": ("usual", base),
    }
    for name, (way, options) in ways.items():
        model = _build(arguments, device, options)
        optimizer = adamw(model, learning_rate=1e-6)
        peaks = []
        for tokens in arguments.prompts[:2]:
            prompt = make_prompt(model.family, tokens)
            group = _group(arguments, prompt, arguments.group[0])
            _measure_way(arguments, model, optimizer, group, Features(model.family, prompt, model.feature_width), way,
                         options)  # fmt: skip
            peaks.append((len(prompt.input_ids), torch.cuda.max_memory_allocated()))
        (short, low), (long, high) = peaks
        slope = (high - low) / (long - short)
        print_values(
            what="memory", way=name, gb_per_1k_tokens=slope / 1e6, longest=int(long + (0.97 * total - high) / slope)
        )
        del model, optimizer
        gc.collect()
        torch.cuda.empty_cache()


# --- sampling


def _rollout(arguments: argparse.Namespace) -> None:
    device = init_distributed()
    model = _build(arguments, device, RunOptions())
    for tokens, group, response in _cases(arguments):
        arguments.response = response
        prompt = make_prompt(model.family, tokens)
        features = Features(model.family, prompt, model.feature_width)
        if not arguments.whole:
            print_values(**_decode_alone(arguments, model, prompt, group))
            gc.collect()
            torch.cuda.empty_cache()
        print_values(**_whole_group(arguments, model, prompt, features, group))
        gc.collect()
        torch.cuda.empty_cache()


@torch.no_grad()
def _decode_alone(arguments: argparse.Namespace, model: LongVideoModel, prompt: Example, group: int) -> dict[str, Any]:
    """Milliseconds of a token step in each quarter of a response."""
    device, tokens = model.parallel.device, len(prompt.input_ids) - 1
    weights = gather_weights(model)
    keys = torch.randn(
        len(weights.layers), 2, arguments.regions, weights.kv_heads, tokens, weights.head_dim,
        device=device, dtype=torch.bfloat16,
    )  # fmt: skip
    lengths = torch.full((arguments.regions,), tokens, dtype=torch.int32, device=device)
    slots = arguments.regions * group
    settings = SamplingSettings(max_tokens=arguments.response)
    decoder = TokenDecoder(model, weights, keys, lengths, slots, (), settings)
    uniforms = torch.rand(slots, arguments.response, dtype=torch.float64)
    decoder.start(slice(0, slots), TEXT_ID, tokens, uniforms)
    first = _seconds(lambda: decoder.run(1))
    quarter = (arguments.response - 1) // 4
    took = [1e3 * _seconds(lambda: decoder.run(quarter)) / quarter for _ in range(4)]
    own = len(weights.layers) * 2 * slots * weights.kv_heads * weights.head_dim * 2 * arguments.response / 2
    embeddings = weights.embeddings.nbytes
    return {
        "what": "decode",
        "prompt": tokens + 1,
        "group": group,
        "regions": arguments.regions,
        "response": arguments.response,
        "ms_by_quarter": [round(each, 3) for each in took],
        "ms": statistics.mean(took),
        "floor_ms": 1e3 * (weights.nbytes - embeddings + keys.nbytes + own) / BANDWIDTH,
        "first_step_s": first,
        "gb": torch.cuda.max_memory_allocated() / 1e9,
    }


def _whole_group(
    arguments: argparse.Namespace, model: LongVideoModel, prompt: Example, features: Features, group: int
) -> dict[str, Any]:
    """Seconds of whole calls of the sampler, with weights, prefill, stop tokens and the host."""
    engine = SharedPrefixSampler(model, features.request, _stop_ids(arguments), arguments.regions, arguments.prefill)
    took = {}
    for name, tokens in (("warm", 2), ("prefill", 1), ("whole", arguments.response)):
        requests = [RolloutRequest(prompt, (), seed) for seed in range(arguments.regions)]
        found: list[Any] = []
        settings = SamplingSettings(max_tokens=tokens)
        took[name] = _seconds(lambda: found.extend(engine.generate(requests, group, settings)))  # noqa: B023
    lengths = [len(each.token_ids) for row in found for each in row]
    return {
        "what": "group",
        "prompt": len(prompt.input_ids),
        "group": group,
        "regions": arguments.regions,
        "response": arguments.response,
        "lengths": [min(lengths), int(statistics.median(lengths)), max(lengths)],
        "tokens": sum(lengths),
        "prefill_s": took["prefill"],
        "whole_s": took["whole"],
        "peak_gb": torch.cuda.max_memory_allocated() / 1e9,
    }


# --- a whole step


def _step(arguments: argparse.Namespace) -> None:
    """Seconds of a whole step by phase: sampling and update of one group, and how long no kernel runs."""
    device = init_distributed()
    model = _build(arguments, device, _options(arguments))
    optimizer = adamw(model, learning_rate=1e-6)
    for tokens in arguments.prompts:
        prompt = make_prompt(model.family, tokens)
        features = Features(model.family, prompt, model.feature_width)
        engine = SharedPrefixSampler(model, features.request, (), 1, arguments.prefill)
        took: dict[str, float] = {}

        def step(tokens: int, features: Features, engine: SharedPrefixSampler, took: dict[str, float]) -> None:
            group = arguments.group[0]
            request = RolloutRequest(prompt, (), 3)  # noqa: B023
            began = time.perf_counter()
            [row] = engine.generate([request], group, SamplingSettings(max_tokens=tokens))
            torch.cuda.synchronize()
            took["rollout"] = time.perf_counter() - began
            whole = PromptGroup(prompt, tuple(each.token_ids for each in row))  # noqa: B023
            update = PolicyUpdate(
                model, optimizer, features.clip, objective=Objective(), correction=CorrectionSettings(geometric=None),
                update=UpdateSettings(), row_tokens=1 << 20, temperature=1.0, max_response_tokens=tokens, max_norm=1.0,
            )  # fmt: skip
            batch = RolloutBatch(
                (whole,), tuple(each.log_probs for each in row), torch.linspace(-1, 1, group),
                torch.ones(group, dtype=torch.bool), torch.zeros(group, dtype=torch.bool),
            )  # fmt: skip
            began = time.perf_counter()
            report = update.run(batch)
            torch.cuda.synchronize()
            took["update"] = time.perf_counter() - began
            took |= {name: report.policy[name] for name in ("ratio_min", "ratio_max")}

        run = partial(step, arguments.response, features, engine, took)
        run()
        seconds = _seconds(run)
        # In the profiled step responses are shorter, because a profile of all replays does not fit the host's memory.
        with profile(activities=[ProfilerActivity.CUDA]) as profiler:
            short = _seconds(partial(step, 128, features, engine, {}))
        spans = sorted(
            (event.time_range.start, event.time_range.end)
            for event in profiler.events()
            if event.device_type == torch.autograd.DeviceType.CUDA
        )
        busy, reached = 0.0, float("-inf")
        for begin, end in spans:
            busy += max(0.0, end - max(begin, reached))
            reached = max(reached, end)
        print_values(
            what="step",
            prompt=len(prompt.input_ids),
            group=arguments.group[0],
            response=arguments.response,
            seconds=seconds,
            idle_share=1 - busy / 1e6 / short,
            profiled_seconds=short,
            peak_gb=torch.cuda.max_memory_allocated() / 1e9,
            **took,
        )


def _make_update(model: LongVideoModel, optimizer: torch.optim.Optimizer, read: Any, tokens: int) -> PolicyUpdate:
    return PolicyUpdate(
        model, optimizer, read, objective=Objective(), correction=None, update=UpdateSettings(), row_tokens=1 << 20,
        temperature=1.0, max_response_tokens=tokens, max_norm=1.0,
    )  # fmt: skip


def _make_batch(groups: Sequence[PromptGroup]) -> RolloutBatch:
    responses = [ids for group in groups for ids in group.responses]
    known = torch.ones(len(responses), dtype=torch.bool)
    log_probs = tuple(torch.full((len(ids),), -11.9) for ids in responses)
    return RolloutBatch(tuple(groups), log_probs, torch.linspace(-1, 1, len(responses)), known, ~known)


def _steps_of_lengths(arguments: argparse.Namespace) -> None:
    """Updates of different lengths: seconds of each against what its operations take at the median speed."""
    device = init_distributed()
    model = _build(arguments, device, _options(arguments))
    optimizer = adamw(model, learning_rate=1e-6)
    generator = torch.Generator().manual_seed(5)
    seconds, flops, shapes = [], [], []
    for _ in range(10):
        tokens, longest = (int(each) for each in torch.randint(8_000, 40_000, (2,), generator=generator))
        prompt = make_prompt(model.family, tokens)
        features = Features(model.family, prompt, model.feature_width)
        lengths = torch.randint(1, 200 + longest // 50, (arguments.group[0],), generator=generator).tolist()
        group = PromptGroup(prompt, tuple(torch.randint(0, 150_000, (each,), generator=generator) for each in lengths))
        update = _make_update(model, optimizer, features.clip, max(lengths))
        seconds.append(_seconds(partial(update.run, _make_batch([group]))))
        plan = SequencePlan([group], model.family, model.parallel.layout, model.costs)
        flops.append(training_flops([plan], model.costs, weights_trainable=arguments.lora is None))
        shapes.append((len(prompt.input_ids), sum(lengths)))
    speed = statistics.median(each / second for each, second in zip(flops[1:], seconds[1:], strict=True))
    against = [round(second * speed / each, 3) for each, second in zip(flops, seconds, strict=True)]
    print_values(what="lengths", shapes=shapes, seconds=[round(each, 3) for each in seconds], against_predicted=against)


def _read_part(read: Callable[[VideoClip, int, int], Tensor], request: RolloutRequest, part: FrameRange) -> Tensor:
    return read(request.prompt.videos[part.video], part.first, part.end)


def _frames_grid(arguments: argparse.Namespace) -> None:
    """A whole step, from frames, of videos of 8 to 1,024 frames: encoded and run once, or for each response."""
    device = init_distributed()
    model = _build(arguments, device, _options(arguments), tower_layers=32)
    optimizer = adamw(model, learning_rate=1e-6)
    count, response = arguments.group[0], arguments.response
    settings = SamplingSettings(max_tokens=response)
    for frames in arguments.frames:
        prompt = make_prompt(model.family, frames // 2 * 144 + QUESTION + 2)
        clip = prompt.videos[0]
        pixels = torch.randint(0, 256, (frames, *FRAME, 3), dtype=torch.uint8).pin_memory()

        def encode(clip: VideoClip = clip, pixels: Tensor = pixels) -> Callable[[VideoClip, int, int], Tensor]:
            per_call = 2 * model.temporal_patches_per_call(clip.grid)
            features = torch.cat([model.encode_frames(piece).cpu() for piece in pixels.split(per_call)]).pin_memory()
            return lambda _, first, end: features[first * 144 : end * 144]

        def shared(prompt: Example = prompt, encode: Any = encode) -> None:
            read = encode()
            engine = SharedPrefixSampler(model, partial(_read_part, read), (), 1, arguments.prefill)
            [row] = engine.generate([RolloutRequest(prompt, (), 1)], count, settings)
            group = PromptGroup(prompt, tuple(each.token_ids for each in row))
            _make_update(model, optimizer, read, response).run(_make_batch([group]))

        def alone(prompt: Example = prompt, encode: Any = encode) -> None:
            """One of the responses, with a prompt of its own that is encoded for it alone."""
            read = encode()
            engine = SharedPrefixSampler(model, partial(_read_part, read), (), 1, arguments.prefill)
            [row] = engine.generate([RolloutRequest(prompt, (), 1)], 1, settings)
            group = PromptGroup(prompt, (row[0].token_ids,))
            _make_update(model, optimizer, read, response).run(_make_batch([group]))

        times = 1 if frames >= 512 else 2
        ours, theirs = ([_seconds(way) for _ in range(times)][-1] for way in (shared, alone))
        print_values(
            what="frames", frames=frames, prompt=len(prompt.input_ids), group=count, response=response,
            seconds=ours, seconds_alone=theirs, times=theirs * count / ours,
        )  # fmt: skip


# --- vLLM


def _vllm(arguments: argparse.Namespace) -> None:
    """The decoder alone in vLLM: prompts of as many text tokens, so neither a tower nor features run."""
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    import tempfile

    from transformers import Qwen2Config
    from vllm import LLM, SamplingParams
    from vllm import __version__ as version

    text = _config(arguments.layers or 28).get_text_config()
    kept = (
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "vocab_size",
    )
    folder = tempfile.mkdtemp()
    cases = _cases(arguments)
    longest = max(tokens + response for tokens, _, response in cases) + 64
    config = Qwen2Config(
        **{name: getattr(text, name) for name in kept}, max_position_embeddings=longest, rope_theta=1e6,
        tie_word_embeddings=False, architectures=["Qwen2ForCausalLM"], dtype="bfloat16",
    )  # fmt: skip
    config.save_pretrained(folder)
    engine = LLM(
        folder, load_format="dummy", skip_tokenizer_init=True, dtype="bfloat16", max_model_len=longest,
        max_num_batched_tokens=16_384, gpu_memory_utilization=0.9, enable_prefix_caching=True,
        compilation_config={"cudagraph_capture_sizes": [1, 2, 4, 8, 16, 32]}, disable_log_stats=True,
    )  # fmt: skip

    counts: list[int] = []

    def run(tokens: int, group: int, ids: list[int]) -> float:
        params = SamplingParams(
            n=group, max_tokens=tokens, ignore_eos=True, temperature=1.0, logprobs=0, detokenize=False,
            stop_token_ids=list(_stop_ids(arguments)),
        )  # fmt: skip
        found: list[Any] = []
        took = _seconds(lambda: found.extend(engine.generate([{"prompt_token_ids": ids}], params, use_tqdm=False)))
        counts[:] = [len(each.token_ids) for each in found[0].outputs]
        return took

    for tokens, group, response in cases:
        arguments.response = response
        ids = torch.randint(0, 150_000, (tokens,)).tolist()
        run(8, group, ids)
        engine.reset_prefix_cache()
        prefill = run(1, group, ids)
        engine.reset_prefix_cache()
        whole = run(arguments.response, group, ids)
        print_values(
            what="vllm",
            version=version,
            prompt=tokens,
            group=group,
            response=arguments.response,
            spread=arguments.spread,
            prefill_s=prefill,
            ms=1e3 * (whole - prefill) / (arguments.response - 1),
            whole_s=whole,
            tokens=sum(counts),
        )


COMMANDS = {
    "update": _update,
    "rollout": _rollout,
    "memory": _memory,
    "step": _step,
    "lengths": _steps_of_lengths,
    "frames": _frames_grid,
    "vllm": _vllm,
}


if __name__ == "__main__":
    main()
