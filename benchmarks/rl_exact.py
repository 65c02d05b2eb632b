"""How exact sampling and gradients are: against the trainer's forward pass, plain Hugging Face, and float32.

    torchrun --standalone --nproc-per-node 1 benchmarks/rl_exact.py exact
    torchrun --standalone --nproc-per-node 1 benchmarks/rl_exact.py gradients

`exact` compares log-probabilities of the samplers with those of the trainer's forward pass, in float32 with tiny models
and in bfloat16 with 4 layers of the shapes of Qwen2.5-VL-7B and Qwen3-VL-8B. `gradients` compares a shared row in
bfloat16, and plain Hugging Face sequences in bfloat16, with plain float32. Each line of the output is JSON.
"""

from __future__ import annotations

import argparse
import statistics
from copy import deepcopy
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen3VLForConditionalGeneration

from benchmarks.rl import Features, make_prompt, print_values, qwen3_config
from benchmarks.trainer import _config
from trainer_plugin.distributed.mesh import init_distributed, parallelize
from trainer_plugin.distributed.sequence_plan import SequencePlan
from trainer_plugin.model import LongVideoModel, RankInput, RunOptions, shard_parameters
from trainer_plugin.recipe import TrainableParts
from trainer_plugin.rl.rollout import RolloutRequest, SamplingSettings
from trainer_plugin.rl.sampler import HfSampler
from trainer_plugin.rl.scoring import whole_row
from trainer_plugin.rl.shared_prefix_sampler import SharedPrefixSampler
from trainer_plugin.training.weights import prepare
from trainer_plugin.types import PromptGroup


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=COMMANDS)
    COMMANDS[parser.parse_args().what]()
    dist.destroy_process_group()


@torch.no_grad()
def _exact() -> None:
    """Log-probabilities of the sampler against those of the trainer's forward pass, and both against float32."""
    device = init_distributed()
    for name in ("qwen2_5_vl", "qwen3_vl"):
        _compare(name, device, torch.float32, tiny=True, prompt_tokens=3000, prefill=512)
        _compare(name, device, torch.bfloat16, tiny=False, prompt_tokens=4096, prefill=512)


def _compare(
    name: str, device: torch.device, dtype: torch.dtype, *, tiny: bool, prompt_tokens: int, prefill: int
) -> None:
    config = _exact_config(name, tiny)
    kind = Qwen2_5_VLForConditionalGeneration if name == "qwen2_5_vl" else Qwen3VLForConditionalGeneration
    inner = _build_plain(kind, config, device, dtype)
    found: list[Any] = []
    values = {}
    for precision in dict.fromkeys((dtype, torch.float32)):
        inner = inner.to(precision)
        parallel = parallelize(1, config.get_text_config(), device)
        model = shard_parameters(LongVideoModel(inner, parallel, RunOptions(compile=False)), compute=precision)
        prompt = make_prompt(model.family, prompt_tokens)
        features = Features(model.family, prompt, model.feature_width)
        request = RolloutRequest(prompt, (), 7)
        settings = SamplingSettings(max_tokens=64, temperature=0.7)
        if not found:
            engines = {
                "shared_prefix": SharedPrefixSampler(model, features.request, (), 1, prefill),
                "sharded": HfSampler(model, features.request, ()),
            }
            for engine, each in engines.items():
                found.append((engine, each.generate([request], 8, settings)[0]))
        for engine, row in found:
            group = PromptGroup(prompt, tuple(each.token_ids for each in row))
            plan = SequencePlan([group], model.family, parallel.layout, model.costs)
            share = plan.rank_plan(0)
            pixels = tuple(features.clip(prompt.videos[0], part.first, part.end) for part in share.frames)
            own = RankInput(share, tuple(each.to(precision) for each in pixels)).to(device)
            values[engine, precision] = whole_row(model, plan, own, model(own, settings.temperature)[0]).cpu()
        inner = _build_plain(kind, config, device, dtype)
    for engine, row in found:
        sampled = torch.cat([each.log_probs for each in row])
        trainer, truth = values[engine, dtype], values[engine, torch.float32]
        print_values(
            what="exact",
            model=name,
            tiny=tiny,
            dtype=str(dtype),
            engine=engine,
            engine_trainer_max=float((sampled - trainer).abs().max()),
            engine_trainer_mean=float((sampled - trainer).abs().mean()),
            trainer_truth_mean=float((trainer - truth).abs().mean()),
            engine_truth_mean=float((sampled - truth).abs().mean()),
        )


def _build_plain(kind: Any, config: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """A Hugging Face model, each time with the same weights, because sharding changes a model in place."""
    torch.manual_seed(0)
    with torch.device(device):
        inner = kind._from_config(deepcopy(config), dtype=torch.float32)
    with torch.no_grad():
        inner.lm_head.weight.mul_(3.5)  # so that logits spread
    return inner.to(dtype)


def _exact_config(name: str, tiny: bool) -> Any:
    if name == "qwen2_5_vl":
        config = _config(2 if tiny else 4)
        config.vision_config.depth = 1
    else:
        config = qwen3_config(4)
    text = config.get_text_config()
    if tiny:
        text.hidden_size, text.intermediate_size, text.num_hidden_layers = 256, 512, 2
        text.num_attention_heads, text.num_key_value_heads, text.head_dim = 4, 2, 64
        text.rope_parameters["mrope_section"] = [8, 12, 12]
        config.vision_config.out_hidden_size = 256
    return config


def _gradients() -> None:
    for way, errors in measure_gradients(init_distributed()).items():
        print_values(what="gradients", way=way, parameters=len(errors), mean=statistics.mean(errors.values()),
                     largest=max(errors.values()), of=max(errors, key=lambda name: errors[name]))  # fmt: skip


def measure_gradients(device: torch.device) -> dict[str, dict[str, float]]:
    """Errors of gradients in bfloat16 of a shared row, `shared row`, and of plain Hugging Face sequences, `plain`.

    The model has 4 layers of the 7B shape, or a tiny one on a CPU, and the group 4 responses of 64 tokens.

    Returns:
        For each way, by parameter of the decoder, the norm of the difference to plain float32 over the norm of that.
    """
    config = _exact_config("qwen2_5_vl", tiny=device.type != "cuda")
    config._attn_implementation = "sdpa"
    kind = Qwen2_5_VLForConditionalGeneration
    parallel = parallelize(1, config.get_text_config(), device)
    inner = _build_plain(kind, config, device, torch.float32)
    prepare(inner, TrainableParts(vision_tower=False, projector=False))
    model = shard_parameters(LongVideoModel(inner, parallel, RunOptions(compile=False)))
    prompt = make_prompt(model.family, 2048)
    features = Features(model.family, prompt, model.feature_width)
    generator = torch.Generator().manual_seed(4)
    vocabulary = config.get_text_config().vocab_size
    group = PromptGroup(prompt, tuple(torch.randint(0, vocabulary, (64,), generator=generator) for _ in range(4)))
    weights = torch.randn(len(group.responses), 64, generator=generator).to(device)

    plan = SequencePlan([group], model.family, parallel.layout, model.costs)
    share = plan.rank_plan(0)
    pixels = tuple(features.clip(prompt.videos[0], part.first, part.end) for part in share.frames)
    log_probs = model(RankInput(share, pixels).to(device))[0]
    (log_probs * weights.flatten()[share.supervised_index.to(device)]).sum().backward()
    shared = {name.removeprefix("model."): each.grad for name, each in model.named_parameters()}
    plain, truth = (
        _plain_gradients(_build_plain(kind, config, device, dtype), group, features, weights)
        for dtype in (torch.bfloat16, torch.float32)
    )
    found = {"shared row": {name: shared[name].full_tensor() for name in truth}, "plain": plain}
    return {
        way: {name: float((gradients[name].float() - each).norm() / each.norm()) for name, each in truth.items()}
        for way, gradients in found.items()
    }


def _plain_gradients(inner: Any, group: PromptGroup, features: Features, weights: Tensor) -> dict[str, Tensor]:
    """Gradients of the decoder in plain Hugging Face, a sequence at a time."""
    device = inner.device
    for name, parameter in inner.named_parameters():
        parameter.requires_grad_("visual" not in name)
    prompt = group.prompt
    clip = prompt.videos[0]
    values = features.clip(clip, 0, clip.grid.t).to(device, inner.dtype)
    for ids, weight in zip(group.responses, weights, strict=True):
        whole = torch.cat([prompt.input_ids, ids]).to(device)
        positions = torch.cat([prompt.positions, prompt.positions[:, -1:] + torch.arange(1, len(ids) + 1)], dim=1)
        embeddings = inner.get_input_embeddings()(whole)
        visual = torch.zeros_like(whole, dtype=torch.bool)
        visual[: len(prompt.input_ids)] = (prompt.input_ids == inner.config.video_token_id).to(device)
        embeddings = embeddings.masked_scatter(visual[:, None], values)
        decoder = inner.model.language_model
        [hidden] = decoder(inputs_embeds=embeddings[None], position_ids=positions[:, None].to(device)).last_hidden_state
        logits = inner.lm_head(hidden[len(prompt.input_ids) - 1 : -1]).float()
        log_probs = logits.log_softmax(-1).gather(1, ids[:, None].to(device))[:, 0]
        (log_probs * weight).sum().backward()
    return {name: each.grad for name, each in inner.named_parameters() if each.grad is not None}


COMMANDS = {"exact": _exact, "gradients": _gradients}


if __name__ == "__main__":
    main()
