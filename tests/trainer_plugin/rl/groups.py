"""Groups of responses to prompts about videos, and one step on them by Hugging Face's code and by our ranks."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cache
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import Shard

from tests.trainer_plugin import parity
from tests.trainer_plugin.parity import HEADS, OPTIONS, TEXT_IDS, VIDEO_ID, Draft, Result, Sample, make_samples
from tests.trainer_plugin.ranks import Ranks
from trainer_plugin.distributed import sequence_plan
from trainer_plugin.distributed.sequence_plan import Layout, SequencePlan
from trainer_plugin.families import family_of
from trainer_plugin.families.base import Family
from trainer_plugin.model import LongVideoModel, RankInput, RunOptions
from trainer_plugin.training.chunked_groups import ChunkedInput, add_chunked_gradients, plan_chunks
from trainer_plugin.types import IGNORED, Block, Example, PromptGroup

TWIN_ID = 199
"""A text token that has the embedding of the video placeholder. It stands for a placeholder in a response, for which
Hugging Face's code would expect a video."""


@dataclass(frozen=True)
class GroupDraft:
    """Specification of a prompt and its responses."""

    prompt: Draft
    lengths: tuple[int, ...]
    """Number of tokens of each response."""
    placeholders: bool = False
    """Whether one token of each response that has three is the video placeholder."""


@dataclass(frozen=True)
class SampledGroup:
    """A group, the frames of its prompt's videos, and the weight of each response token in the loss."""

    prompt: Sample
    group: PromptGroup
    weights: tuple[Tensor, ...]


def make_groups(family: Family, drafts: Sequence[GroupDraft]) -> list[SampledGroup]:
    """Make the groups, which are the same in every process."""
    prompts = make_samples(family, [replace(draft.prompt, supervised=0.0) for draft in drafts])
    return [
        _make_group(prompt, draft, number) for number, (prompt, draft) in enumerate(zip(prompts, drafts, strict=True))
    ]


def _make_group(prompt: Sample, draft: GroupDraft, number: int) -> SampledGroup:
    random = torch.Generator().manual_seed(number)
    responses = [torch.randint(0, TEXT_IDS, (length,), generator=random) for length in draft.lengths]
    for ids in responses:
        if draft.placeholders and len(ids) > 2:
            ids[1] = VIDEO_ID
    # Signs differ, as those of advantages.
    weights = tuple(torch.rand(length, generator=random) - 0.5 for length in draft.lengths)
    return SampledGroup(prompt, PromptGroup(prompt.example, tuple(responses)), weights)


# --- Hugging Face's side: each prompt with each response as a sequence of its own


def reference(name: str, drafts: Sequence[GroupDraft], heads: tuple[int, int] = HEADS, frozen: bool = False) -> Result:
    """Result of the plain model in one process: one sequence at a time, with eager attention."""
    model = parity.tiny_model(name, heads)
    if frozen:
        parity.freeze_tower(model)
    _pair_twins(model)
    model.set_attn_implementation("eager")
    scores, loss, terms = [], torch.zeros(()), 0.0
    for each in make_groups(family_of(model.config), drafts):
        for ids, weights in zip(each.group.responses, each.weights, strict=True):
            whole = _sequence(each.prompt, ids)
            inputs = parity._plain_inputs(model, whole)
            logits = model(input_ids=whole.example.input_ids[None], use_cache=False, **inputs).logits[0]
            log_probs = logits.log_softmax(-1)[len(whole.example.input_ids) - len(ids) - 1 : -1]
            scores.append(log_probs.gather(1, ids[:, None])[:, 0])
            loss = loss - (scores[-1] * weights).sum()
            terms += (scores[-1] * weights).abs().sum().item()
    loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    embeddings = model.get_input_embeddings().weight.grad
    embeddings[VIDEO_ID] += embeddings[TWIN_ID]
    embeddings[TWIN_ID] = 0
    return Result(loss.item(), torch.cat(scores).detach(), gradients, terms)


def _sequence(prompt: Sample, ids: Tensor) -> Sample:
    example = prompt.example
    written = torch.where(ids == VIDEO_ID, TWIN_ID, ids)
    input_ids = torch.cat([example.input_ids, written])
    after = example.positions[:, -1:] + torch.arange(1, len(ids) + 1)
    positions = torch.cat([example.positions, after], dim=1)
    labels = torch.full_like(input_ids, IGNORED)
    return Sample(replace(example, input_ids=input_ids, labels=labels, positions=positions), prompt.frames)


def _pair_twins(model: torch.nn.Module) -> None:
    with torch.no_grad():
        embeddings = model.get_input_embeddings().weight
        embeddings[TWIN_ID] = embeddings[VIDEO_ID]


# --- our side


@dataclass(frozen=True)
class GroupCase:
    """One step on groups that the ranks of a process group run."""

    family: str
    drafts: tuple[GroupDraft, ...]
    layout: Layout
    heads: tuple[int, int] = HEADS
    schedule: str = "shared"
    """`shared`: all groups of a data-parallel rank in one row. `separate`: one row of groups of one response, in which
    nothing is shared. `chunked`: the prompt of each group in a row of its own, and its responses in chunks."""
    chunk_tokens: int = 24
    frozen: bool = False
    options: RunOptions = OPTIONS
    mistake: str | None = None
    """Name of a deliberate mistake in `MISTAKES`."""


def _late_positions() -> AbstractContextManager[object]:
    """The positions of responses are one too high."""
    right = sequence_plan._continued

    def late(prompt: Example, ids: Tensor) -> Example:
        example = right(prompt, ids)
        return replace(example, positions=example.positions + 1)

    return patch.object(sequence_plan, "_continued", late)


def _seen_neighbours() -> AbstractContextManager[object]:
    """Each response also attends to the first token of the one before it."""
    right = SequencePlan._blocks

    def wrong(plan: SequencePlan, part: tuple[tuple[int, int], ...]) -> list[Block]:
        blocks = list(right(plan, part))
        own = [block for block in blocks if block.causal]
        neighbours = [Block(block.query, (block.key[0] - 1, block.key[0]), causal=False) for block in own[2:]]
        return blocks + neighbours

    return patch.object(SequencePlan, "_blocks", wrong)


def _unseen_prompt() -> AbstractContextManager[object]:
    """Responses do not attend to the prompt."""
    right = SequencePlan._blocks

    def wrong(plan: SequencePlan, part: tuple[tuple[int, int], ...]) -> list[Block]:
        return [block for block in right(plan, part) if block.causal]

    return patch.object(SequencePlan, "_blocks", wrong)


MISTAKES = {"late positions": _late_positions, "neighbour seen": _seen_neighbours, "prompt unseen": _unseen_prompt}
"""Deliberate mistakes, which the comparison with separate sequences must find."""


def stepped(ranks: Ranks, case: GroupCase) -> Result:
    """Result of one step on all ranks, with whole gradients."""
    shares = ranks.run(sharded, case)
    names = shares[0].gradients
    gradients = {name: torch.cat([share.gradients[name] for share in shares]) for name in names}
    return Result(shares[0].loss, shares[0].scores, gradients)


def sharded(case: GroupCase) -> Result:
    """Result of the process group, with this rank's shard of the gradients."""
    model = _model(case.family, case.heads, case.layout, case.frozen, case.options)
    if case.mistake:
        with MISTAKES[case.mistake]():
            return _sharded(model, case)
    return _sharded(model, case)


def _sharded(model: LongVideoModel, case: GroupCase) -> Result:
    groups = make_groups(model.family, case.drafts)
    scores = [torch.zeros(sum(map(len, each.weights))) for each in groups]
    model.zero_grad()
    dp, dp_rank = model.parallel.dp, model.parallel.dp_rank
    mine = list(range(dp_rank, len(groups), dp))
    if case.schedule == "chunked":
        # All ranks make the same calls, so a rank without a group repeats the first one without weights.
        for number in range(-(-len(groups) // dp)):
            index = number * dp + dp_rank
            each = groups[index] if index < len(groups) else _without_weights(groups[0])
            target = scores[index] if index < len(groups) else torch.zeros_like(scores[0])
            _add_chunks(model, each, target, case.chunk_tokens)
    else:
        row = [groups[index] for index in mine] or [_without_weights(groups[0])]
        targets = [scores[index] for index in mine] or [torch.zeros_like(scores[0])]
        _add_row(model, row, targets, shared=case.schedule == "shared")
    found = torch.cat(scores)
    dist.all_reduce(found)
    weights = torch.cat([weight for each in groups for weight in each.weights])
    gradients = {name: p.grad for name, p in model.model.named_parameters() if p.grad is not None}
    assert {gradient.placements for gradient in gradients.values()} == {(Shard(0),)}
    loss = -(found * weights).sum().item()
    return Result(loss, found, {name: p.to_local() for name, p in gradients.items()})


@cache
def _model(name: str, heads: tuple[int, int], layout: Layout, frozen: bool, options: RunOptions) -> LongVideoModel:
    model = parity._sharded_model(name, heads, layout, frozen, options)
    # The shared rows of the embeddings are those of a shard, so the twins are paired in the whole weights.
    embeddings = model.model.get_input_embeddings().weight
    whole = embeddings.full_tensor().detach()
    whole[TWIN_ID] = whole[VIDEO_ID]
    with torch.no_grad():
        local = embeddings.to_local()
        first = torch.tensor([len(local)])
        sizes = [torch.zeros_like(first) for _ in range(dist.get_world_size())]
        dist.all_gather(sizes, first)
        start = int(sum(sizes[: dist.get_rank()], torch.zeros(1)))
        local.copy_(whole[start : start + len(local)])
    return model


def _add_row(model: LongVideoModel, row: Sequence[SampledGroup], targets: Sequence[Tensor], shared: bool) -> None:
    items = [part for each in row for part in ((each.group,) if shared else each.group.split())]
    plan = SequencePlan(items, model.family, model.parallel.layout, model.costs)
    videos = [each.prompt for each in row for _ in range(1 if shared else len(each.group.responses))]
    rank_input = _input(model, plan, videos)
    log_probs, _ = model(rank_input)
    weights = torch.cat([weight for each in row for weight in each.weights])
    index = rank_input.plan.supervised_index
    (-(log_probs * weights[index]).sum()).backward()
    scores = torch.zeros(len(weights)).index_copy(0, index, log_probs.detach())
    for target, part in zip(targets, scores.split([len(target) for target in targets]), strict=True):
        target += part


def _add_chunks(model: LongVideoModel, each: SampledGroup, target: Tensor, chunk_tokens: int) -> None:
    prompt, chunks = plan_chunks(each.group, chunk_tokens, model.family, model.parallel.layout, model.costs)
    weights = torch.cat(each.weights).split([chunk.supervised_count for chunk in chunks])
    parts = target.split([len(weight) for weight in weights])
    waiting = iter(zip(weights, parts, strict=True))

    def loss(row: RankInput, log_probs: Tensor, _: Tensor | None) -> Tensor:
        weight, part = next(waiting)
        part.index_add_(0, row.plan.supervised_index, log_probs.detach())
        return -(log_probs * weight[row.plan.supervised_index]).sum()

    inputs = tuple(_input(model, chunk, []) for chunk in chunks)
    add_chunked_gradients(model, ChunkedInput(_input(model, prompt, [each.prompt]), inputs), loss)


def _input(model: LongVideoModel, plan: SequencePlan, prompts: Sequence[Sample]) -> RankInput:
    share = plan.rank_plan(model.parallel.sp_rank)
    return RankInput(share, parity.rank_pixels(model.family, share, prompts))


def _without_weights(each: SampledGroup) -> SampledGroup:
    return replace(each, weights=tuple(torch.zeros_like(weight) for weight in each.weights))
