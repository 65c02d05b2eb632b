"""Real model classes in tiny, samples for them, what Hugging Face's own code makes of these, and ranks to compare with."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from trainer_plugin.examples import IGNORED, Example, Grid, VideoClip, VideoSource
from trainer_plugin.families import family_of
from trainer_plugin.model import LongVideoModel, RowShare, RunOptions, shard_parameters
from trainer_plugin.parallel import parallelize, start
from trainer_plugin.plan import Costs, Layout, SequencePlan

VIDEO_ID, START_ID, END_ID = 191, 192, 193
TEXT_IDS = 150
FAMILIES = ("qwen2_5_vl", "qwen3_vl", "smolvlm")


def tiny_model(name: str) -> PreTrainedModel:
    """Random weights, the same in every process; 4 query and 2 kv heads, 3 layers, float32."""
    import transformers as hf

    text = {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 200,
        "max_position_embeddings": 512,
    }
    special = {
        "image_token_id": 190,
        "video_token_id": VIDEO_ID,
        "vision_start_token_id": START_ID,
        "vision_end_token_id": END_ID,
    }
    vision = {"depth": 3, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 64}
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e4}
    torch.manual_seed(1)
    if name == "qwen2_5_vl":
        vision |= {"fullatt_block_indexes": [1], "window_size": 56, "tokens_per_second": 2, "patch_size": 14}
        config = hf.Qwen2_5_VLConfig(text_config={**text, "rope_parameters": rope}, vision_config=vision, **special)
        return hf.Qwen2_5_VLForConditionalGeneration(config).float()
    if name == "qwen3_vl":
        vision |= {"deepstack_visual_indexes": [0, 1], "num_position_embeddings": 64, "patch_size": 16}
        rope["mrope_interleaved"] = True
        config = hf.Qwen3VLConfig(
            text_config={**text, "head_dim": 16, "rope_parameters": rope}, vision_config=vision, **special
        )
        return hf.Qwen3VLForConditionalGeneration(config).float()
    siglip = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
    }
    config = hf.SmolVLMConfig(
        text_config={"model_type": "llama", "pad_token_id": 0, **text},
        vision_config=siglip,
        image_token_id=VIDEO_ID,
        scale_factor=2,
        pad_token_id=0,
    )
    return hf.SmolVLMForConditionalGeneration(config).float()


@dataclass(frozen=True)
class Sample:
    """An example with the pixels of its videos."""

    example: Example
    frames: tuple[Tensor, ...]
    """uint8 [n, height, width, 3] of each video."""


def make_samples(name: str, lengths: Sequence[tuple[int, int, int]], seed: int = 0) -> list[Sample]:
    """For each (temporal patches, words before, words after) a sample; 0 temporal patches: text only."""
    model_config = tiny_model(name).config
    family = family_of(model_config)
    random = torch.Generator().manual_seed(seed)
    samples = []
    for number, (patches, before, after) in enumerate(lengths):
        words = torch.randint(0, TEXT_IDS, (before + after,), generator=random).tolist()
        ids, clips, frames = words[:before], [], []
        if patches:
            count = patches * family.temporal_patch
            size = (56, 84) if name != "smolvlm" else (32, 32)
            size = (64, 96) if name == "qwen3_vl" else size
            times = tuple(range(0, count * 500_000, 500_000))
            grid = family.grid(*size, count)
            frames.append(torch.randint(0, 256, (count, *size, 3), dtype=torch.uint8, generator=random))
            clips.append(VideoClip(VideoSource(f"v{number}", ""), times, size, grid))
            ids = ids + family.video_ids(_Words(), grid, times)
        learned_from = len(ids)
        ids = torch.tensor(ids + words[before:])
        labels = torch.where(torch.arange(len(ids)) >= learned_from, ids, IGNORED)
        positions = family.positions(ids, [(clip.grid, clip.frame_times_us) for clip in clips])
        samples.append(Sample(Example(f"s{number}", ids, labels, positions, tuple(clips)), tuple(frames)))
    return samples


class _Words:
    """A tokenizer of the tests' alphabet: one token per character."""

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        return [ord(character) % TEXT_IDS for character in text]


def reference_gradients(model: PreTrainedModel, samples: Sequence[Sample]) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients of the plain model: one sample at a time, eager attention, none of our code but the layout."""
    model.set_attn_implementation("eager")
    family = family_of(model.config)
    total = sum(int((sample.example.labels[1:] != IGNORED).sum()) for sample in samples)
    loss = torch.zeros(())
    for sample in samples:
        example = sample.example
        pixels: dict[str, Any] = {}
        if sample.frames:
            patches = torch.cat([family.patches(frames) for frames in sample.frames])
            if family.rope_rows == 1:
                pixels = {"pixel_values": patches[None]}
            else:
                grids = [[clip.grid.t, clip.grid.h, clip.grid.w] for clip in example.videos]
                pixels = {"pixel_values_videos": patches.flatten(0, 1), "video_grid_thw": torch.tensor(grids)}
        positions = example.positions if family.rope_rows == 1 else example.positions[:, None]
        logits = model(input_ids=example.input_ids[None], position_ids=positions, use_cache=False, **pixels).logits[0]
        loss = loss + F.cross_entropy(logits[:-1], example.labels[1:], ignore_index=IGNORED, reduction="sum") / total
    loss.backward()
    return loss.item(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@dataclass(frozen=True)
class Case:
    """One comparison."""

    family: str
    lengths: tuple[tuple[int, int, int], ...]
    layout: Layout
    rows: int = 1
    """Samples are dealt out over so many rows (packed micro-batches) for each data-parallel rank, one after the other."""
    frozen: bool = False
    options: RunOptions = RunOptions(vision_patches=24)
    replicated: bool = False


def freeze_tower(model: PreTrainedModel) -> None:
    family_of(model.config).vision_tower(model).requires_grad_(False)


def sharded_gradients(case: Case) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients as the ranks of a running process group compute them together; whole on every rank."""
    inner = tiny_model(case.family)
    if case.frozen:
        freeze_tower(inner)
    parallel = parallelize(case.layout.size, inner.config.get_text_config(), torch.device("cpu"), case.layout)
    model = shard_parameters(LongVideoModel(inner, parallel, case.options), compute=None).train()
    samples = make_samples(case.family, case.lengths)
    total = sum(int((sample.example.labels[1:] != IGNORED).sum()) for sample in samples)
    costs = Costs.of(inner.config.get_text_config())
    loss = torch.zeros(())
    for row in range(case.rows):
        mine = samples[row * parallel.dp + parallel.dp_rank :: case.rows * parallel.dp]
        plan = SequencePlan([sample.example for sample in mine], model.family, parallel.layout, costs)
        share = plan.share(parallel.sp_rank, case.replicated)
        videos = [frames for sample in mine for frames in sample.frames]
        step = model.family.temporal_patch
        pixels = tuple(videos[part.video][part.first * step : part.end * step] for part in share.frames)
        log_probs, _ = model(RowShare(share, pixels))
        part = -log_probs.sum() / total
        part.backward()
        loss += part.detach()
    dist.all_reduce(loss)
    gradients = {
        name.removeprefix("model."): p.grad.full_tensor() for name, p in model.named_parameters() if p.grad is not None
    }
    return loss.item(), gradients


def run_ranks(world: int, function: Callable[..., Any], *arguments: Any, folder: Path, timeout: float = 240) -> Any:
    """`function(*arguments)` on `world` gloo processes at once; rank 0's result, or the first error."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.trainer_plugin.parity"])
    results = context.SimpleQueue()
    rendezvous = folder / f"rendezvous-{os.urandom(4).hex()}"
    ranks = [
        context.Process(target=_rank, args=(results, rank, world, rendezvous, function, arguments), daemon=True)
        for rank in range(world)
    ]
    for process in ranks:
        process.start()
    try:
        found: dict[int, Any] = {}
        while len(found) < world:
            if not results._reader.poll(timeout):  # type: ignore[attr-defined]
                raise TimeoutError(f"ranks {sorted(set(range(world)) - set(found))} of {world} gave no result")
            rank, error, value = results.get()
            if error:
                raise AssertionError(f"rank {rank} of {world}:\n{error}")
            found[rank] = value
        return pickle.loads(found[0])
    finally:
        for process in ranks:
            process.join(5)
            process.kill()


def _rank(results: Any, rank: int, world: int, rendezvous: Path, function: Any, arguments: Any) -> None:
    torch.set_num_threads(1)
    os.environ.pop("RANK", None)
    try:
        store = dist.FileStore(str(rendezvous), world)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=world)
        start()
        value = function(*arguments)
        # As bytes: torch would hand over shared memory of a process that is about to end.
        results.put((rank, "", pickle.dumps(value) if rank == 0 else b""))
        dist.barrier()
    except BaseException:
        results.put((rank, traceback.format_exc(), b""))
        raise


def relative_error(found: dict[str, Tensor], expected: dict[str, Tensor]) -> tuple[float, str]:
    """The largest difference of a gradient, relative to that gradient's largest entry, and whose it is."""
    worst, name = 0.0, ""
    for key, gradient in expected.items():
        other = found.get(key, torch.zeros_like(gradient))
        error = float((other - gradient).abs().max() / gradient.abs().max().clamp_min(1e-6))
        if not error <= worst:
            worst, name = error, key
    return worst, name
