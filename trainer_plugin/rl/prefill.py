"""Runs prompts in chunks and keeps their keys and values whole on every rank, in the layout of the decode kernels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from trainer_plugin.distributed.collectives import gather
from trainer_plugin.distributed.mesh import RankContext
from trainer_plugin.distributed.sequence_plan import AttentionPlan
from trainer_plugin.families.base import Family
from trainer_plugin.ops.decode_attention import heads_of_each_rank
from trainer_plugin.ops.sequence_parallel_attention import KeysValues, gather_row
from trainer_plugin.types import Example, FrameRange, VideoClip


@dataclass(frozen=True)
class PromptChunk:
    """Consecutive tokens of a prompt, with the whole temporal patches among them."""

    example: Example
    """The tokens as a sample of their own, whose clips have only these temporal patches."""
    start: int
    """Number of the prompt's tokens before it."""
    patches: tuple[FrameRange, ...]
    """For each clip of `example`: the prompt's video and temporal patches that it is."""

    def locate(self, part: FrameRange) -> FrameRange:
        """The prompt's video and temporal patches that a part of the chunk's clips is."""
        origin = self.patches[part.video]
        return FrameRange(origin.video, origin.first + part.first, origin.first + part.end)


def split_prompt(prompt: Example, family: Family, tokens: int) -> list[PromptChunk]:
    """Split a prompt into chunks of at most `tokens` tokens, or of one temporal patch if that has more.

    No temporal patch is divided, because the vision tower encodes it as a whole.
    """
    visual = prompt.input_ids == family.video_token_id if prompt.videos else torch.zeros_like(prompt.input_ids).bool()
    sizes = [
        family.tokens_per_temporal_patch(video.grid) for video in prompt.videos for _ in range(video.grid.t)
    ]  # placeholders of each temporal patch
    owners = [
        FrameRange(number, patch, patch + 1)
        for number, video in enumerate(prompt.videos)
        for patch in range(video.grid.t)
    ]
    ends = torch.tensor([0, *sizes]).cumsum(0)
    before = torch.cat([torch.zeros(1, dtype=torch.int64), visual.cumsum(0)])
    cuts = torch.isin(before, ends).nonzero()[:, 0]  # places between two tokens that divide no temporal patch
    chunks, start = [], 0
    while start < len(visual):
        later = cuts[cuts > start]
        fitting = later[later <= start + tokens]
        end = int(fitting[-1] if len(fitting) else later[0])
        first, stop = (int(torch.searchsorted(ends, before[place])) for place in (start, end))
        chunks.append(_cut(prompt, start, end, owners[first:stop]))
        start = end
    return chunks


def _cut(prompt: Example, start: int, end: int, owners: Sequence[FrameRange]) -> PromptChunk:
    patches: list[FrameRange] = []
    for each in owners:
        if patches and patches[-1].video == each.video:
            patches[-1] = FrameRange(each.video, patches[-1].first, each.end)
        else:
            patches.append(each)
    example = replace(
        prompt,
        input_ids=prompt.input_ids[start:end],
        labels=prompt.labels[start:end],
        positions=prompt.positions[:, start:end],
        videos=tuple(_cut_clip(prompt.videos[part.video], part) for part in patches),
    )
    return PromptChunk(example, start, tuple(patches))


def _cut_clip(clip: VideoClip, part: FrameRange) -> VideoClip:
    frames = clip.frames_per_patch
    times = clip.frame_times_us[part.first * frames : part.end * frames]
    return replace(clip, frame_times_us=times, grid=replace(clip.grid, t=part.end - part.first))


class PromptPool:
    """Keys and values of several prompts, each in a region of its own, the same on all ranks that share rows."""

    def __init__(
        self, layers: int, regions: int, kv_heads: int, room: int, head_dim: int, dtype: torch.dtype, ranks: RankContext
    ) -> None:
        """
        Args:
            room: maximum number of tokens of a prompt.
        """
        shape = (layers, 2, regions, kv_heads, room, head_dim)
        self.keys = torch.empty(shape, dtype=dtype, device=ranks.device)
        """[layers, 2, regions, kv heads, room, d]"""
        self.lengths = torch.zeros(regions, dtype=torch.int32, device=ranks.device)
        """int32 [regions]: number of tokens that a region holds."""
        self._ranks = ranks

    def earlier(self, region: int, tokens: int) -> Iterator[KeysValues]:
        """This rank's heads of the first tokens of a region, [tokens, h, d], by layer."""
        ulysses = self._ranks.layout.ulysses
        for layer in self.keys:
            k, v = layer[:, region, :, :tokens].transpose(1, 2)
            number = self._ranks.sp_rank % ulysses
            yield heads_of_each_rank(k, ulysses)[:, number], heads_of_each_rank(v, ulysses)[:, number]

    def store(self, region: int, start: int, tokens: int, plan: AttentionPlan) -> StoreKeys:
        """What stores the keys of a row in a region.

        Args:
            start, tokens: the place of the row's tokens in the region. Further tokens of the row are padding.
            plan: attention of the row.
        """
        return StoreKeys(self.keys[:, :, region, :, start : start + tokens], plan, self._ranks)


class StoreKeys:
    """Gathers the keys and values of a row's layers from all ranks and stores them; a `KeepKeys`."""

    def __init__(self, target: Tensor, plan: AttentionPlan, ranks: RankContext) -> None:
        self._target = target
        self._plan = plan
        self._ranks = ranks

    def put(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Store [tokens of this rank's part, kv heads of this rank, d]."""
        plan, ranks = self._plan, self._ranks
        both = torch.stack(gather_row(k, v, plan.ring_sizes, plan.ring_order, ranks.ring_group))
        ulysses = ranks.layout.ulysses
        kv_heads, tokens = self._target.shape[2:4]
        # [heads of all ranks, 2, tokens, d]; adjacent ranks may share a head
        heads = gather(both[:, :tokens].permute(2, 0, 1, 3), [k.shape[1]] * ulysses, ranks.ulysses_group)
        self._target[layer].copy_(heads[:: len(heads) // kv_heads].transpose(0, 1))
