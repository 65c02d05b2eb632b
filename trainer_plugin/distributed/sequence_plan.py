"""The sequence plan of one row: which rank owns which tokens, encodes which frames and sends features to which ranks.

A plan is index arithmetic on the CPU, identical on every rank and computed once per row. It uses no collectives, no
globals and no device.

Guarantees: Every token has one owner, and every temporal patch is encoded once. Every rank owns at least one token,
because models fail on empty input. A rank's cost differs from the mean by at most the cost of two tokens or of one
temporal patch, unless the row is too short. Targets are shifted before the row is split. Attention never crosses
samples, except that the responses of a `PromptGroup` attend to their prompt.

Terms: a *row* is one packed micro-batch of several *segments* (samples). The P ranks of a sequence-parallel group are
`ulysses x ring`. The row is split into `ring` parts of equal cost. Each part has two pieces, one from either half of
the row (zigzag), so that causal attention is balanced. `ulysses` ranks share the tokens of a part and exchange tokens
for heads.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor
from transformers import PretrainedConfig

from trainer_plugin.families.base import Family
from trainer_plugin.types import IGNORED, Block, Example, FrameRange, Grid, PromptGroup

Range = tuple[int, int]
"""Half-open range [start, end)."""


@dataclass(frozen=True)
class Layout:
    """Division of attention over a sequence-parallel group. Rank r is number r % ulysses in part r // ulysses."""

    ulysses: int = 1
    ring: int = 1

    @property
    def size(self) -> int:
        """Number of ranks in a sequence-parallel group."""
        return self.ulysses * self.ring


def choose_layout(size: int, query_heads: int, kv_heads: int, ranks_per_host: int) -> tuple[Layout, str]:
    """Choose the layout for `size` ranks, and explain it.

    It has as many Ulysses ranks as the heads and the host allow, because their exchange is the simplest and perfectly
    balanced. The remaining factor gathers keys and values (28 heads on 8 ranks: 4 x 2).

    Args:
        size: number of ranks in a sequence-parallel group.
        query_heads, kv_heads: numbers of the language model's heads.
        ranks_per_host: number of ranks on a host; Ulysses groups lie inside one.

    Returns:
        The layout, and the explanation for the log.
    """
    for ulysses in range(size, 0, -1):
        divides = size % ulysses == 0 and query_heads % ulysses == 0
        heads_fit = kv_heads % ulysses == 0 or ulysses % kv_heads == 0
        if divides and heads_fit and ranks_per_host % ulysses == 0:
            break
    layout = Layout(ulysses, size // ulysses)
    repeated = f", each kv head on {ulysses // kv_heads} ranks" if ulysses > kv_heads else ""
    return layout, (
        f"{size} sequence-parallel ranks = {layout.ulysses} (Ulysses) x {layout.ring} (gather-KV): {ulysses} is the "
        f"largest divisor of {size} that divides {query_heads} query heads, agrees with {kv_heads} kv heads{repeated} "
        f"and lies inside a host of {ranks_per_host}"
    )


@dataclass(frozen=True)
class Costs:
    """Floating-point operations of the forward pass, for load balancing."""

    linear: float
    """Operations per token in the decoder's matrix products."""
    attention: float
    """Operations per query-key pair, over all layers and heads."""
    head: float
    """Operations per supervised token in the output head."""

    @classmethod
    def of(cls, config: PretrainedConfig) -> Costs:
        """Costs of a dense decoder with grouped-query attention and a gated MLP, from its configuration."""
        layers, hidden = config.num_hidden_layers, config.hidden_size
        head_dim = getattr(config, "head_dim", None) or hidden // config.num_attention_heads
        queries, keys = config.num_attention_heads * head_dim, config.num_key_value_heads * head_dim
        weights = hidden * (2 * queries + 2 * keys) + 3 * hidden * config.intermediate_size
        return cls(2.0 * layers * weights, 4.0 * layers * queries, 2.0 * hidden * config.vocab_size)


@dataclass(frozen=True)
class AttentionPlan:
    """The part of the plan that one rank's attention needs."""

    layout: Layout
    ulysses_sizes: tuple[int, ...]
    """Number of tokens of each rank of its Ulysses group. In rank order these tokens are the part, ascending."""
    ring_sizes: tuple[int, ...]
    """Number of tokens of each part."""
    ring_order: tuple[Range, ...]
    """Slices of the concatenated parts that, joined in this order, give the row."""
    blocks: tuple[Block, ...]
    """Attention blocks: query rows are tokens of this rank's part, key rows are tokens of the row. With a prompt in
    a row of its own, the key rows of that row come first."""
    prompt_ring_sizes: tuple[int, ...] = ()
    """`ring_sizes` of the prompt's own row; empty if there is none."""
    prompt_ring_order: tuple[Range, ...] = ()
    """`ring_order` of the prompt's own row."""


@dataclass(frozen=True)
class RankPlan:
    """One rank's part of a row's plan."""

    input_ids: Tensor
    """int64 [S_local]: ids of the local tokens."""
    positions: Tensor
    """int64 [rope rows, S_local]: rotary positions of the local tokens."""
    visual: Tensor
    """bool [S_local]: True at placeholders."""
    supervised: Tensor
    """int64 [N]: indices of the local tokens whose successor is supervised."""
    targets: Tensor
    """int64 [N]: the ids of those successors."""
    supervised_index: Tensor
    """int64 [N]: the index of each of them among the supervised tokens of the whole row."""
    frames: tuple[FrameRange, ...]
    """The temporal patches that this rank encodes."""
    grids: tuple[Grid, ...]
    """The grid (end - first, h, w) of each element of `frames`."""
    keys: tuple[str, ...]
    """The key of the sample that each element of `frames` belongs to."""
    send_order: Tensor
    """int64: indices of the features that this rank encodes, ordered by the rank that owns their token. If every rank
    encodes all frames (`replicated`): indices of the features of its own tokens."""
    send_sizes: tuple[int, ...]
    """Number of features to send to each rank; empty if nothing is sent."""
    receive_sizes: tuple[int, ...]
    """Number of features to receive from each rank; empty if nothing is sent."""
    attention: AttentionPlan


@dataclass(frozen=True)
class _Segment:
    """Consecutive tokens of a row that attend to each other causally, and possibly to a prefix."""

    example: Example
    response: int | None = None
    """Number of the response within the row; None for a sample or a prompt."""
    prefix: int | None = None
    """Number of the segment whose tokens all tokens of this one attend to; None if there is none."""


class SequencePlan:
    """The plan of one row. It is deterministic, so that every rank of the group computes the same plan."""

    def __init__(
        self,
        items: Sequence[Example | PromptGroup],
        family: Family,
        layout: Layout,
        costs: Costs,
        prompt: SequencePlan | None = None,
        earlier_tokens: int = 0,
    ) -> None:
        """
        A row with fewer than two tokens per rank is padded with a sample without labels.

        Args:
            items: the row's samples and groups, in order.
            family: the model's family.
            layout: division of the sequence-parallel group.
            costs: costs to balance.
            prompt: the plan of a row that begins with `PromptGroup.prefix`. Then `items` is that group with some or all
                of its responses, and this row holds the responses alone, which attend to the keys and values of that
                row (`trainer_plugin.training.chunked_groups`).
            earlier_tokens: number of tokens of the first sample that earlier rows hold. Its tokens here attend to their
                keys, which every rank has (`trainer_plugin.rl.prefill`).

        Raises:
            ValueError: there are no items, or one has tensors of different lengths, video tokens that do not fit its
                grids, or ids or labels outside the vocabulary; or a group has no responses, or a prompt with labels or
                without a last token of text.
        """
        if not items:
            raise ValueError("a row of no samples: a rank with nothing to train on takes one without labels")
        if prompt is not None and not (len(items) == 1 and isinstance(items[0], PromptGroup)):
            raise ValueError(f"{len(items)} items for one prompt in a row of its own; give its group alone")
        for item in items:
            check_item(item, family)
        segments = list(_segments(items, with_prompts=prompt is None))
        missing = 2 * layout.size - sum(len(segment.example.input_ids) for segment in segments)
        if missing > 0:
            segments.append(_Segment(_padding(missing, family)))
        examples = [segment.example for segment in segments]
        self.layout = layout
        self.costs = costs
        self.prompt = prompt
        self.input_ids = torch.cat([example.input_ids for example in examples])
        self.positions = torch.cat([example.positions for example in examples], dim=1)
        self.targets = torch.cat([_shifted(example.labels) for example in examples])
        self.visual = torch.zeros(len(self.input_ids), dtype=torch.bool)
        self.segments = _ranges(len(example.input_ids) for example in examples)
        """Token ranges of the row's samples, prompts (without their last token) and responses."""
        for example, (start, end) in zip(examples, self.segments, strict=True):
            if example.videos:
                self.visual[start:end] = example.input_ids == family.video_token_id
        self._key_offset = earlier_tokens if prompt is None else len(prompt)
        self._prefixes = [
            prompt.segments[0]
            if prompt is not None and segment.response is not None
            else None
            if segment.prefix is None
            else self.segments[segment.prefix]
            for segment in segments
        ]
        if earlier_tokens:
            self._prefixes[0] = (0, earlier_tokens)
        counts = [int((_shifted(example.labels) != IGNORED).sum()) for example in examples]
        numbers = [-1 if segment.response is None else segment.response for segment in segments]
        self.responses = torch.repeat_interleave(torch.tensor(numbers), torch.tensor(counts))
        """int64 [supervised tokens]: the number of each one's response within the row, -1 outside of groups."""
        self.response_count = sum(segment.response is not None for segment in segments)
        videos = [video for example in examples for video in example.videos]
        self._keys = [example.key for example in examples for _ in example.videos]
        self.grids = tuple(video.grid for video in videos)
        self._tokens_per_patch = [family.tokens_per_temporal_patch(grid) for grid in self.grids]
        encoded = [video.grid for video in videos if video.features is None]
        self.encoded_patches = sum(grid.t * grid.h * grid.w for grid in encoded)
        """Number of patches that the vision tower encodes: those of videos without precomputed features."""
        self.encoded_tokens = sum(grid.t * family.tokens_per_temporal_patch(grid) for grid in encoded)
        """Number of tokens that the projector outputs for these patches."""

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def supervised_count(self) -> int:
        """Number of supervised tokens in the row."""
        return int((self.targets != IGNORED).sum())

    @property
    def attention_pairs(self) -> int:
        """Number of query-key pairs of the row."""
        return int(self._depths.sum())

    @cached_property
    def _depths(self) -> Tensor:
        """Number of keys that each token attends to, int64 [S]."""
        depths = [
            torch.arange(1, end - start + 1) + (0 if prefix is None else prefix[1] - prefix[0])
            for (start, end), prefix in zip(self.segments, self._prefixes, strict=True)
        ]
        return torch.cat(depths)

    @cached_property
    def token_costs(self) -> Tensor:
        """Operations of each token outside attention, float64 [S]."""
        return self.costs.linear + self.costs.head * (self.targets != IGNORED).double()

    @cached_property
    def parts(self) -> tuple[tuple[Range, ...], ...]:
        """The pieces of the row that each ring rank owns, ascending."""
        ring = self.layout.ring
        if ring == 1:
            return (((0, len(self)),),)
        depth = self._depths
        cuts = balanced_cuts(self.token_costs + self.costs.attention * depth, 2 * ring, self.layout.ulysses)
        return tuple((cuts[part], cuts[2 * ring - 1 - part]) for part in range(ring))

    @cached_property
    def shards(self) -> tuple[tuple[Range, ...], ...]:
        """The pieces of the row that each rank owns, ascending."""
        shards: list[tuple[Range, ...]] = []
        for part in self.parts:
            costs = torch.cat([self.token_costs[start:end] for start, end in part])
            shards += [_within(part, share) for share in balanced_cuts(costs, self.layout.ulysses, least=1)]
        return tuple(shards)

    @cached_property
    def frame_ranges(self) -> tuple[tuple[FrameRange, ...], ...]:
        """The temporal patches that each rank encodes: about equal numbers of patches, with videos in order."""
        sizes = [grid.h * grid.w for grid in self.grids for _ in range(grid.t)]
        videos = _ranges(grid.t for grid in self.grids)
        shares = []
        for first, end in balanced_cuts(torch.tensor(sizes, dtype=torch.float64), self.layout.size):
            overlaps = [(number, max(first, start), min(end, stop)) for number, (start, stop) in enumerate(videos)]
            shares.append(tuple(FrameRange(n, a - videos[n][0], b - videos[n][0]) for n, a, b in overlaps if a < b))
        return tuple(shares)

    def rank_plan(self, rank: int, replicated: bool = False) -> RankPlan:
        """The part of the plan for one rank of the group.

        Args:
            rank: rank in the sequence-parallel group.
            replicated: every rank encodes all frames, as most trainers do, and no features are sent.
        """
        pieces = self.shards[rank]
        targets = _cut(self.targets, pieces)
        supervised = (targets != IGNORED).nonzero()[:, 0]
        index = torch.cumsum(self.targets != IGNORED, 0) - 1
        encoder, owner = self._feature_encoders, self._feature_owners
        mine = (encoder == rank).nonzero()[:, 0]
        order = torch.argsort(owner[mine], stable=True)
        size = self.layout.size
        frames = self.frame_ranges[rank]
        if replicated:
            frames = tuple(FrameRange(number, 0, grid.t) for number, grid in enumerate(self.grids))
            order = (owner == rank).nonzero()[:, 0]
        return RankPlan(
            input_ids=_cut(self.input_ids, pieces),
            positions=_cut(self.positions, pieces),
            visual=_cut(self.visual, pieces),
            supervised=supervised,
            targets=targets[supervised],
            supervised_index=_cut(index, pieces)[supervised],
            frames=frames,
            grids=tuple(self._grid(share) for share in frames),
            keys=tuple(self._keys[share.video] for share in frames),
            send_order=order,
            send_sizes=() if replicated else _counts(owner[mine], size),
            receive_sizes=() if replicated else _counts(encoder[owner == rank], size),
            attention=self._attention(rank),
        )

    def _grid(self, share: FrameRange) -> Grid:
        grid = self.grids[share.video]
        return Grid(share.end - share.first, grid.h, grid.w)

    @cached_property
    def _feature_encoders(self) -> Tensor:
        """The rank that encodes each placeholder of the row, in order."""
        counts = [
            sum((share.end - share.first) * self._tokens_per_patch[share.video] for share in shares)
            for shares in self.frame_ranges
        ]
        return torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))

    @cached_property
    def _feature_owners(self) -> Tensor:
        """The rank that owns the token of each placeholder of the row, in order."""
        owners = torch.empty(len(self), dtype=torch.int64)
        for rank, pieces in enumerate(self.shards):
            for start, end in pieces:
                owners[start:end] = rank
        return owners[self.visual]

    def _attention(self, rank: int) -> AttentionPlan:
        ulysses = self.layout.ulysses
        number = rank // ulysses
        part = self.parts[number]
        group = self.shards[number * ulysses : (number + 1) * ulysses]
        return AttentionPlan(
            layout=self.layout,
            ulysses_sizes=tuple(_length(pieces) for pieces in group),
            ring_sizes=self.ring_sizes,
            ring_order=self.ring_order,
            blocks=tuple(self._blocks(part)),
            prompt_ring_sizes=() if self.prompt is None else self.prompt.ring_sizes,
            prompt_ring_order=() if self.prompt is None else self.prompt.ring_order,
        )

    @cached_property
    def ring_sizes(self) -> tuple[int, ...]:
        """Number of tokens of each part."""
        return tuple(_length(part) for part in self.parts)

    @cached_property
    def ring_order(self) -> tuple[Range, ...]:
        """Slices of the concatenated parts that, joined in this order, give the row."""
        offsets = _ranges(self.ring_sizes)
        slots = sorted(
            (start, slot)
            for (offset, _), part in zip(offsets, self.parts, strict=True)
            for (start, _), slot in zip(part, _shifted_ranges(part, offset), strict=True)
        )
        return tuple(slot for _, slot in slots)

    def _blocks(self, part: tuple[Range, ...]) -> Iterable[Block]:
        """The blocks of a part: each segment with itself, then adjacent responses with the prompt that they share."""
        prefixes: list[tuple[Range, Range]] = []
        for (first, end), (offset, _) in zip(part, _shifted_ranges(part, 0), strict=True):
            for (start, stop), prefix in zip(self.segments, self._prefixes, strict=True):
                a, b = max(first, start), min(end, stop)
                if a >= b:
                    continue
                query = (offset + a - first, offset + b - first)
                yield Block(query, (self._key_offset + start, self._key_offset + b))
                if prefix is None or prefix[0] == prefix[1]:
                    continue
                if prefixes and prefixes[-1][1] == prefix and prefixes[-1][0][1] == query[0]:
                    query = (prefixes.pop()[0][0], query[1])
                prefixes.append((query, prefix))
        for query, prefix in prefixes:
            yield Block(query, prefix, causal=False)


def balanced_cuts(costs: Tensor, parts: int, least: int = 0) -> list[Range]:
    """Split [0, n) into consecutive ranges whose sums of `costs` differ from the mean by at most the largest cost.

    Args:
        costs: cost of each item, shape [n].
        parts: number of ranges.
        least: minimum number of items in a range. It takes precedence over balance and requires n >= parts * least.
    """
    sums = torch.cumsum(costs.double(), 0)
    total = float(sums[-1]) if len(sums) else 0.0
    wanted = torch.arange(1, parts, dtype=torch.float64) * (total / parts)
    # An item that contains a cut belongs to the side with the larger part of it.
    inner = torch.searchsorted(sums - costs.double() / 2, wanted) if len(sums) else torch.zeros(parts - 1)
    bounds = [0]
    for number, cut in enumerate(inner.tolist(), 1):
        bounds.append(min(max(int(cut), bounds[-1] + least), len(sums) - (parts - number) * least))
    return list(pairwise([*bounds, len(sums)]))


def _padding(tokens: int, family: Family) -> Example:
    """A sample without labels. It is a separate segment, so that no other token attends to it."""
    ids = torch.zeros(tokens, dtype=torch.int64)
    return Example("padding", ids, torch.full_like(ids, IGNORED), ids.expand(family.rope_rows, -1))


def _counts(ranks: Tensor, size: int) -> tuple[int, ...]:
    return tuple(torch.bincount(ranks, minlength=size).tolist())


def _segments(items: Sequence[Example | PromptGroup], with_prompts: bool) -> Iterable[_Segment]:
    """The segments of a row; with `with_prompts` false, those of the responses alone."""
    number, response = 0, 0
    for item in items:
        if isinstance(item, Example):
            yield _Segment(item)
            number += 1
            continue
        prefix = number if with_prompts else None
        if with_prompts:
            yield _Segment(item.prefix)
            number += 1
        for ids in item.responses:
            yield _Segment(_continued(item.prompt, ids), response, prefix)
            number, response = number + 1, response + 1


def _continued(prompt: Example, ids: Tensor) -> Example:
    """The last token of a prompt and a response to it, whose positions follow that token's."""
    return Example(
        prompt.key,
        input_ids=torch.cat([prompt.input_ids[-1:], ids]),
        labels=torch.cat([ids.new_full((1,), IGNORED), ids]),
        positions=prompt.positions[:, -1:] + torch.arange(len(ids) + 1),
    )


def check_item(item: Example | PromptGroup, family: Family) -> None:
    """Check that a row can hold a sample or a group.

    Raises:
        ValueError: as `SequencePlan`.
    """
    if isinstance(item, Example):
        _check_example(item, family)
        return
    _check_example(item.prompt, family)
    prompt, key = item.prompt, item.key
    if not item.responses:
        raise ValueError(f"group {key}: no responses; drop the group")
    if prompt.has_loss:
        raise ValueError(f"group {key}: its prompt has labels; only responses are supervised, set them to {IGNORED}")
    if not len(prompt.input_ids) or (prompt.videos and int(prompt.input_ids[-1]) == family.video_token_id):
        raise ValueError(
            f"group {key}: its prompt of {len(prompt.input_ids)} tokens does not end with a token of text; add the "
            f"start of the assistant's turn"
        )
    for number, ids in enumerate(item.responses):
        if ids.ndim != 1 or ids.dtype != torch.int64:
            raise ValueError(f"group {key}: response {number} is {ids.dtype} {tuple(ids.shape)}; give int64 [R]")
        _check_ids(key, f"response {number}: token ids", ids, family)


def _check_example(example: Example, family: Family) -> None:
    length = len(example.input_ids)
    expected = {"labels": (length,), "positions": (family.rope_rows, length)}
    for name, shape in expected.items():
        if tuple(getattr(example, name).shape) != shape:
            found = tuple(getattr(example, name).shape)
            raise ValueError(f"sample {example.key}: {name} has shape {found}, its {length} tokens need {shape}")
    _check_ids(example.key, "input_ids", example.input_ids, family)
    _check_ids(example.key, "labels", example.labels[example.labels != IGNORED], family)
    if not example.videos:
        return
    wanted = sum(video.grid.t * family.tokens_per_temporal_patch(video.grid) for video in example.videos)
    if (count := int((example.input_ids == family.video_token_id).sum())) != wanted:
        grids = [video.grid for video in example.videos]
        raise ValueError(f"sample {example.key}: {count} video tokens, but its grids {grids} make {wanted}")


def _check_ids(key: str, name: str, ids: Tensor, family: Family) -> None:
    """Check that ids are in the vocabulary.

    On a GPU an invalid id would end the process with a device-side assertion that names no sample.

    Raises:
        ValueError: an id is outside the vocabulary.
    """
    if len(ids) and (int(ids.min()) < 0 or int(ids.max()) >= family.vocab_size):
        raise ValueError(
            f"sample {key}: {name} go from {int(ids.min())} to {int(ids.max())}, outside [0, {family.vocab_size}); "
            f"was it tokenized for another model?"
        )


def _shifted(labels: Tensor) -> Tensor:
    return torch.cat([labels[1:], labels.new_full((min(1, len(labels)),), IGNORED)])


def _ranges(lengths: Iterable[int]) -> list[Range]:
    bounds = [0]
    for length in lengths:
        bounds.append(bounds[-1] + length)
    return list(pairwise(bounds))


def _length(pieces: Iterable[Range]) -> int:
    return sum(end - start for start, end in pieces)


def _shifted_ranges(pieces: Iterable[Range], offset: int) -> list[Range]:
    """The positions of the pieces when they are concatenated, starting at `offset`."""
    return [(start + offset, end + offset) for start, end in _ranges(end - start for start, end in pieces)]


def _within(pieces: tuple[Range, ...], share: Range) -> tuple[Range, ...]:
    """The sub-range `share` of the tokens of `pieces`, counted from their first token."""
    found = []
    for (start, end), (offset, _) in zip(pieces, _shifted_ranges(pieces, 0), strict=True):
        first, last = max(start, start + share[0] - offset), min(end, start + share[1] - offset)
        if first < last:
            found.append((first, last))
    return tuple(found)


def _cut(tensor: Tensor, pieces: Iterable[Range]) -> Tensor:
    """The given pieces of the last axis, concatenated. There may be no pieces."""
    return torch.cat([tensor[..., :0], *[tensor[..., start:end] for start, end in pieces]], dim=-1)
