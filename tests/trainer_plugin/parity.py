"""Tiny versions of real model classes, samples for them, and the results of Hugging Face's code and of our ranks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache

import torch
import torch.distributed as dist
import torch.nn.functional as F
import transformers as hf
from packaging.version import Version
from torch import Tensor
from torch.distributed.tensor import Shard
from transformers import PretrainedConfig, PreTrainedModel

from tests.trainer_plugin.ranks import Ranks
from trainer_plugin.data.packing import mask_labels
from trainer_plugin.distributed.mesh import RankContext, parallelize
from trainer_plugin.distributed.sequence_plan import Costs, Layout, RankPlan, SequencePlan
from trainer_plugin.families import family_of
from trainer_plugin.families.base import Family
from trainer_plugin.model import LongVideoModel, RankInput, RunOptions, shard_parameters
from trainer_plugin.types import IGNORED, Example, PackedRow, VideoClip, VideoSource

VIDEO_ID, START_ID, END_ID = 191, 192, 193
TEXT_IDS = 150
FAMILIES = ("qwen2_5_vl", "qwen3_vl", "smolvlm")
HEADS = (4, 2)
"""Number of query heads and of key-value heads."""
OPTIONS = RunOptions(vision_patches=24)
LEAST = 1e-30
"""Minimum denominator of relative differences, so that the difference of two zeros is 0."""

MODELS: dict[str, type[PreTrainedModel]] = {
    "qwen2_5_vl": hf.Qwen2_5_VLForConditionalGeneration,
    "qwen3_vl": hf.Qwen3VLForConditionalGeneration,
    "smolvlm": hf.SmolVLMForConditionalGeneration,
}


def tiny_model(name: str, heads: tuple[int, int] = HEADS) -> PreTrainedModel:
    """A tiny model in float32 with random weights that are the same in every process."""
    torch.manual_seed(1)
    return MODELS[name](tiny_config(name, heads)).float()


def tiny_family(name: str) -> Family:
    """The family of a tiny model, without the model."""
    return family_of(tiny_config(name))


def tiny_config(name: str, heads: tuple[int, int] = HEADS) -> PretrainedConfig:
    """Configuration with 2 layers, a head dimension of 16 and a vocabulary of 200 tokens."""
    text = {
        "hidden_size": 16 * heads[0],
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": heads[0],
        "num_key_value_heads": heads[1],
        "vocab_size": 200,
        "max_position_embeddings": 512,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    special = {
        "image_token_id": 190,
        "video_token_id": VIDEO_ID,
        "vision_start_token_id": START_ID,
        "vision_end_token_id": END_ID,
    }
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 16 * heads[0]}
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e4}
    if name == "qwen2_5_vl":
        vision |= {"fullatt_block_indexes": [1], "window_size": 56, "tokens_per_second": 2, "patch_size": 14}
        return hf.Qwen2_5_VLConfig(text_config={**text, "rope_parameters": rope}, vision_config=vision, **special)
    if name == "qwen3_vl":
        vision |= {"deepstack_visual_indexes": [0, 1], "num_position_embeddings": 64, "patch_size": 16}
        rope["mrope_interleaved"] = True
        text |= {"head_dim": 16, "rope_parameters": rope}
        return hf.Qwen3VLConfig(text_config=text, vision_config=vision, **special)
    siglip = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 4,
    }
    return hf.SmolVLMConfig(
        text_config={"model_type": "llama", "pad_token_id": 0, **text},
        vision_config=siglip,
        image_token_id=VIDEO_ID,
        scale_factor=4,
        pad_token_id=0,
    )


# --- samples


@dataclass(frozen=True)
class Clip:
    """A video of random pixels."""

    patches: int
    """Number of temporal patches."""
    rows: int = 2
    columns: int = 3
    """Columns of tokens per temporal patch. SmolVLM always has 2 x 2 tokens, whatever `rows` and `columns` are."""
    step_us: int = 500_000
    """Microseconds between frames."""


@dataclass(frozen=True)
class Draft:
    """Specification of a sample for `make_samples`."""

    pieces: tuple[int | Clip, ...]
    """Numbers of text tokens, and clips, in order."""
    supervised: float = 0.4
    """Fraction of the non-placeholder tokens that have a label; the tokens are chosen at random."""
    seed: int = 0
    touched: bool = False
    """Whether one value of the last frame is changed."""


@dataclass(frozen=True)
class Sample:
    """An example with the pixels of its videos."""

    example: Example
    frames: tuple[Tensor, ...]
    """uint8 [n, height, width, 3] of each video."""


class Words:
    """Tokenizer for the tests: one token per character."""

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        return [ord(character) % TEXT_IDS for character in text]


def make_samples(family: Family, drafts: Sequence[Draft]) -> list[Sample]:
    """Make the samples, which are the same in every process."""
    return [_make_sample(family, draft, f"s{number}") for number, draft in enumerate(drafts)]


def _make_sample(family: Family, draft: Draft, key: str) -> Sample:
    random = torch.Generator().manual_seed(draft.seed)
    ids: list[int] = []
    clips: list[VideoClip] = []
    videos: list[Tensor] = []
    for piece in draft.pieces:
        if isinstance(piece, int):
            ids += torch.randint(0, TEXT_IDS, (piece,), generator=random).tolist()
            continue
        count, size = piece.patches * family.temporal_patch, _size(family, piece)
        times = tuple(number * piece.step_us for number in range(count))
        grid = family.grid(*size, count)
        videos.append(torch.randint(0, 256, (count, *size, 3), dtype=torch.uint8, generator=random))
        clips.append(VideoClip(VideoSource(f"{key}-{len(clips)}", ""), times, size, grid))
        ids += family.video_ids(Words(), grid, times, count * piece.step_us)
    if draft.touched:
        videos[-1][-1, 0, 0, 0] ^= 128
    tokens = torch.tensor(ids)
    supervised = (torch.rand(len(ids), generator=random) < draft.supervised) & (tokens != VIDEO_ID)
    positions = family.positions(tokens, [(clip.grid, clip.frame_times_us) for clip in clips])
    return Sample(
        Example(key, tokens, torch.where(supervised, tokens, IGNORED), positions, tuple(clips)), tuple(videos)
    )


def _size(family: Family, clip: Clip) -> tuple[int, int]:
    factor = getattr(family, "factor", None)
    return (32, 32) if factor is None else (clip.rows * factor, clip.columns * factor)


def count_supervised_tokens(samples: Iterable[Sample]) -> int:
    """Number of tokens in the loss. The first token of a sample is never predicted."""
    return sum(int((sample.example.labels[1:] != IGNORED).sum()) for sample in samples)


# --- results of both sides


@dataclass(frozen=True)
class Result:
    """Loss, log-probabilities and gradients of one optimizer step."""

    loss: float
    scores: Tensor
    """Log-probability of each token's successor, [tokens of all samples]; 0 where the successor is not in the loss."""
    gradients: dict[str, Tensor]
    loss_terms: float = 0.0
    """Sum of the absolute values of the loss's terms, if they have different signs and may cancel."""

    def differences(self, other: Result, floor: float) -> dict[str, float]:
        """Largest difference of each tensor, relative to the largest entry of the other result, by name.

        A gradient that cancels to zero, like that of a query with one key, is only rounding noise of its summands.
        Therefore the denominator is at least the fraction `floor` of the largest gradient of the step, and that of the
        loss at least `loss_terms`. NaN counts as an infinite difference, because a maximum would ignore it.
        """
        zero = torch.zeros(1)
        names = self.gradients.keys() | other.gradients.keys()
        pairs = {name: (self.gradients.get(name, zero), other.gradients.get(name, zero)) for name in names}
        pairs |= {"(loss)": (torch.tensor([self.loss]), torch.tensor([other.loss]))}
        pairs |= {"(log-probabilities)": (self.scores, other.scores)}
        largest = max(float(gradient.abs().max()) for gradient in other.gradients.values())
        least = {name: max(floor * largest, LEAST) for name in pairs} | {"(loss)": max(other.loss_terms, LEAST)}
        fractions = {
            name: float((found - expected).abs().max()) / max(float(expected.abs().max()), least[name])
            for name, (found, expected) in pairs.items()
        }
        return {name: math.inf if math.isnan(fraction) else fraction for name, fraction in fractions.items()}


def freeze_tower(model: PreTrainedModel) -> None:
    family_of(model.config).vision_tower(model).requires_grad_(False)


# --- Hugging Face's side: only the layout of tokens is ours


def reference(name: str, drafts: Sequence[Draft], heads: tuple[int, int] = HEADS, frozen: bool = False) -> Result:
    """Result of the plain model in one process: one sample at a time, with eager attention.

    The model computes its own positions where they are correct.
    """
    model = tiny_model(name, heads)
    if frozen:
        freeze_tower(model)
    return reference_of(model, make_samples(family_of(model.config), drafts))


def reference_of(model: PreTrainedModel, samples: Sequence[Sample]) -> Result:
    """Result of a given plain model for given samples, as in `reference`."""
    model.set_attn_implementation("eager")
    scores = []
    for sample in samples:
        inputs = _plain_inputs(model, sample)
        logits = model(input_ids=sample.example.input_ids[None], use_cache=False, **inputs).logits[0]
        labels = F.pad(sample.example.labels[1:], (0, 1), value=IGNORED)
        scores.append(-F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="none"))
    loss = -torch.cat(scores).sum() / count_supervised_tokens(samples)
    loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return Result(loss.item(), torch.cat(scores).detach(), gradients)


def _plain_inputs(model: PreTrainedModel, sample: Sample) -> dict[str, Tensor]:
    vision = model.config.vision_config
    if not sample.frames:
        return {}
    if model.config.model_type == "smolvlm":
        pixels = torch.cat(sample.frames).permute(0, 3, 1, 2) / 255
        return {"pixel_values": ((pixels - 0.5) / 0.5)[None]}
    family = family_of(model.config)
    values = [_plain_patches(frames, vision.patch_size, family.mean, family.std) for frames in sample.frames]
    clips = sample.example.videos
    seconds = torch.tensor([2 * (clip.frame_times_us[1] - clip.frame_times_us[0]) / 1e6 for clip in clips])
    inputs = {
        "pixel_values_videos": torch.cat(values),
        "video_grid_thw": torch.tensor([[clip.grid.t, clip.grid.h, clip.grid.w] for clip in clips]),
    }
    if not positions_are_right(model, sample.example):
        return {**inputs, "position_ids": sample.example.positions[:, None]}
    if model.config.model_type == "qwen2_5_vl":
        inputs["second_per_grid_ts"] = seconds
    return {**inputs, "mm_token_type_ids": 2 * (sample.example.input_ids == VIDEO_ID).int()[None]}


def positions_are_right(model: PreTrainedModel, example: Example) -> bool:
    """Whether the positions that transformers computes equal Qwen's.

    Since 5.3 they are wrong after a video that is longer than it is wide. Before 5.18 they truncate fractions of
    seconds.
    """
    if model.config.model_type == "qwen3_vl":
        return True
    cuts = Version(hf.__version__) < Version("5.18")
    for clip in example.videos:
        seconds = 2 * clip.frame_times_us[1] / 1e6
        too_long = (clip.grid.t - 1) * 2 * seconds >= max(clip.grid.h, clip.grid.w) // 2
        if too_long or (cuts and not seconds.is_integer()):
            return False
    return True


def _plain_patches(frames: Tensor, patch: int, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Rows of `pixel_values_videos`, built one by one as described in Qwen2-VL's paper and processor."""
    pixels = (frames / 255 - torch.tensor(mean)) / torch.tensor(std)
    count, height, width, _ = pixels.shape
    rows = [
        pixels[t : t + 2, y : y + patch, x : x + patch].permute(3, 0, 1, 2).flatten()
        for t in range(0, count, 2)
        for block_y in range(0, height, 2 * patch)
        for block_x in range(0, width, 2 * patch)
        for y in (block_y, block_y + patch)
        for x in (block_x, block_x + patch)
    ]
    return torch.stack(rows)


# --- our side


@dataclass(frozen=True)
class Case:
    """One optimizer step that the ranks of a process group run."""

    family: str
    drafts: tuple[Draft, ...]
    layout: Layout
    heads: tuple[int, int] = HEADS
    rows: int = 1
    """Number of packed rows per data-parallel rank over which the samples are distributed, one row after the other."""
    frozen: bool = False
    options: RunOptions = OPTIONS
    replicated: bool = False


def stepped(ranks: Ranks, case: Case) -> Result:
    """Result of one step on all ranks, with whole gradients."""
    results = ranks.run(sharded, case)
    names = results[0].gradients
    # FSDP shards parameters by rows, in rank order. Concatenating the shards here is cheap; a collective per parameter,
    # as in DTensor.full_tensor, would take as long as the step.
    gradients = {name: torch.cat([result.gradients[name] for result in results]) for name in names}
    return Result(results[0].loss, results[0].scores, gradients)


def sharded(case: Case) -> Result:
    """Result of the process group, with this rank's shard of the gradients."""
    model = _sharded_model(
        case.family, case.heads, case.layout, case.frozen, replace(case.options, vision_patches=OPTIONS.vision_patches)
    )
    model.options = case.options
    samples = make_samples(model.family, case.drafts)
    total = count_supervised_tokens(samples)
    lengths = [len(sample.example.input_ids) for sample in samples]
    scores = list(torch.zeros(sum(lengths)).split(lengths))
    model.zero_grad()
    dp, dp_rank = model.parallel.dp, model.parallel.dp_rank
    for number in range(case.rows):
        mine = range(number * dp + dp_rank, len(samples), case.rows * dp)
        row, targets = [samples[index] for index in mine], [scores[index] for index in mine]
        # As in the data pipeline, a rank without samples repeats one with its labels masked.
        row = row or [_unlabelled(samples[0])]
        plan = plan_of(model, row)
        rank_plan = plan.rank_plan(model.parallel.sp_rank, case.replicated)
        log_probs, _ = model(RankInput(rank_plan, rank_pixels(model.family, rank_plan, row)))
        (-log_probs.sum() / total).backward()
        _scatter_scores(plan, model.parallel.sp_rank, rank_plan, log_probs.detach(), targets)
    found = torch.cat(scores)
    dist.all_reduce(found)
    gradients = {name: p.grad for name, p in model.model.named_parameters() if p.grad is not None}
    assert {gradient.placements for gradient in gradients.values()} == {(Shard(0),)}
    return Result(-found.sum().item() / total, found, {name: p.to_local() for name, p in gradients.items()})


@cache
def _sharded_model(
    name: str, heads: tuple[int, int], layout: Layout, frozen: bool, options: RunOptions
) -> LongVideoModel:
    inner = tiny_model(name, heads)
    if frozen:
        freeze_tower(inner)
    return shard_parameters(LongVideoModel(inner, groups(layout, heads), options), compute=None).train()


@cache
def groups(layout: Layout, heads: tuple[int, int] = HEADS) -> RankContext:
    """Process groups of this rank, cached because their creation is a collective and slow."""
    config = tiny_config("qwen2_5_vl", heads).get_text_config()
    return parallelize(layout.size, config, torch.device("cpu"), layout)


def plan_of(model: LongVideoModel, row: Sequence[Sample]) -> SequencePlan:
    """Sequence plan of one row of samples."""
    costs = Costs.of(model.model.config.get_text_config())
    return SequencePlan([sample.example for sample in row], model.family, model.parallel.layout, costs)


def rank_pixels(family: Family, rank_plan: RankPlan, row: Sequence[Sample]) -> tuple[Tensor, ...]:
    """Frames that one rank encodes, uint8 [n, height, width, 3] per frame range."""
    videos = [frames for sample in row for frames in sample.frames]
    step = family.temporal_patch
    return tuple(videos[part.video][part.first * step : part.end * step] for part in rank_plan.frames)


def _unlabelled(sample: Sample) -> Sample:
    [example] = mask_labels(PackedRow((sample.example,), 0)).examples
    return Sample(example, sample.frames)


def _scatter_scores(
    plan: SequencePlan, rank: int, rank_plan: RankPlan, log_probs: Tensor, targets: Sequence[Tensor]
) -> None:
    """Add this rank's log-probabilities at the positions of their tokens to the `targets` of each sample, in place."""
    row = torch.zeros(len(plan))
    owned = torch.cat([torch.arange(start, end) for start, end in plan.shards[rank]] or [torch.arange(0)])
    row[owned[rank_plan.supervised]] = log_probs
    for (start, end), target in zip(plan.segments, targets, strict=False):
        target += row[start:end]
