"""Tests of sequence plans for any samples and layouts: what each rank owns, encodes, sends and attends to."""

from dataclasses import replace

import pytest
import torch

from tests.support.properties import assume, given, settings, st
from tests.trainer_plugin.parity import FAMILIES, VIDEO_ID, Clip, Draft, make_samples, tiny_config, tiny_family
from trainer_plugin.distributed.sequence_plan import Costs, Layout, SequencePlan, balanced_cuts, choose_layout
from trainer_plugin.types import IGNORED, Block, Grid, PromptGroup

families = {name: tiny_family(name) for name in FAMILIES}
COSTS = Costs.of(tiny_config("qwen2_5_vl").get_text_config())

clips = st.builds(Clip, st.integers(1, 5), st.integers(1, 3), st.integers(1, 3))
pieces = st.tuples(st.integers(1, 6), st.lists(clips | st.integers(1, 6), max_size=3), st.integers(0, 30))
drafts = st.builds(
    Draft,
    pieces.map(lambda parts: (parts[0], *parts[1], parts[2])),
    supervised=st.sampled_from([0.0, 0.5, 1.0]),
    seed=st.integers(0, 99),
)


layouts = st.builds(Layout, st.integers(1, 4), st.integers(1, 4))


responses = st.lists(st.integers(0, 9), min_size=1, max_size=5)


@st.composite
def items(draw, family):
    """Random samples, and prompts with random responses."""
    samples = make_samples(family, draw(st.lists(drafts, min_size=1, max_size=4)))
    return [
        group_of(sample.example, draw(responses)) if draw(st.booleans()) else sample.example
        for sample in samples
        if int(sample.example.input_ids[-1]) != VIDEO_ID
    ] or [samples[0].example]


def group_of(example, lengths):
    """A group of responses of these lengths to an example as the prompt. They hold ids of placeholders, too."""
    prompt = replace(example, labels=torch.full_like(example.labels, IGNORED))
    return PromptGroup(prompt, tuple(torch.arange(VIDEO_ID - 2, VIDEO_ID - 2 + length) for length in lengths))


@st.composite
def plans(draw):
    """Sequence plans of random samples and groups, families and layouts."""
    family = families[draw(st.sampled_from(FAMILIES))]
    return SequencePlan(draw(items(family)), family, draw(layouts), COSTS)


def masks(plan):
    """Whether each token attends to each other, bool [S, S], from the definition of segments and prefixes."""
    wanted = torch.zeros(len(plan), len(plan), dtype=torch.bool)
    for (start, end), prefix in zip(plan.segments, plan._prefixes, strict=True):
        wanted[start:end, start:end] = torch.ones(end - start, end - start, dtype=torch.bool).tril()
        if prefix is not None:
            wanted[start:end, slice(*prefix)] = True
    return wanted


def indices(pieces):
    return torch.cat([torch.arange(0), *(torch.arange(start, end) for start, end in pieces)])


def shares(plan, **options):
    return [plan.rank_plan(rank, **options) for rank in range(plan.layout.size)]


def lengths(pieces):
    return [end - start for start, end in pieces]


some = settings(deadline=None, max_examples=60)


@some
@given(plans())
def test_every_token_is_owned_once_in_ascending_pieces(plan):
    owned = [indices(pieces) for pieces in plan.shards]
    assert torch.equal(torch.cat(owned).sort().values, torch.arange(len(plan)))
    assert all(len(each) > 0 and torch.equal(each, each.sort().values) for each in owned)
    for each, share in zip(owned, shares(plan), strict=True):
        assert torch.equal(share.input_ids, plan.input_ids[each])
        assert torch.equal(share.positions, plan.positions[:, each])
        assert torch.equal(share.visual, plan.visual[each])


@some
@given(plans())
def test_every_temporal_patch_is_encoded_once_in_order(plan):
    encoded = [
        (part.video, patch) for parts in plan.frame_ranges for part in parts for patch in range(part.first, part.end)
    ]
    assert encoded == [(number, patch) for number, grid in enumerate(plan.grids) for patch in range(grid.t)]
    for share in shares(plan):
        assert [grid.t for grid in share.grids] == [part.end - part.first for part in share.frames]
        assert all((grid.h, grid.w) == (plan.grids[part.video].h, plan.grids[part.video].w)
                   for grid, part in zip(share.grids, share.frames, strict=True))  # fmt: skip


@some
@given(plans())
def test_costs_are_balanced(plan):
    patches = [sum(grid.t * grid.h * grid.w for grid in share.grids) for share in shares(plan)]
    assert spread(patches) <= max((grid.h * grid.w for grid in plan.grids), default=0)
    depth = masks(plan).sum(1)
    assert plan.attention_pairs == int(depth.sum())
    alone = [COSTS.linear + (COSTS.head if target != IGNORED else 0) for target in plan.targets.tolist()]
    alone = torch.tensor(alone, dtype=torch.float64)
    costs = alone + COSTS.attention * depth
    if len(plan) * float(costs.min()) < 2 * plan.layout.size * float(costs.max()):
        return  # too short: some ranks would have no token
    assert spread([float(costs[indices(part)].sum()) for part in plan.parts]) <= 2 * float(costs.max()) * (1 + 1e-9)
    ulysses = plan.layout.ulysses
    for first in range(0, plan.layout.size, ulysses):
        group = [float(alone[indices(pieces)].sum()) for pieces in plan.shards[first : first + ulysses]]
        assert spread(group) <= float(alone.max()) * (1 + 1e-9)


def spread(costs):
    """Largest distance from the mean."""
    mean = sum(costs) / len(costs)
    return max(abs(cost - mean) for cost in costs)


@some
@given(plans())
def test_each_supervised_token_learns_its_successor_in_its_own_sample(plan):
    found = torch.full((len(plan),), IGNORED)
    for pieces, share in zip(plan.shards, shares(plan), strict=True):
        found[indices(pieces)[share.supervised]] = share.targets
    assert torch.equal(found, plan.targets)
    for start, end in plan.segments:
        assert start == end or plan.targets[end - 1] == IGNORED
    learned = (plan.targets != IGNORED).nonzero()[:, 0]
    assert torch.equal(plan.targets[learned], plan.input_ids[1:][learned])
    assert sum(len(share.targets) for share in shares(plan)) == plan.supervised_count


@some
@given(plans())
def test_features_reach_the_owners_of_their_tokens_in_order(plan):
    everyone = shares(plan)
    number = torch.full((len(plan),), -1)
    number[plan.visual] = torch.arange(int(plan.visual.sum()))
    counts = [
        sum((part.end - part.first) * plan._tokens_per_patch[part.video] for part in share.frames) for share in everyone
    ]
    encoded = torch.arange(int(plan.visual.sum())).split(counts)  # features, numbered like their placeholders
    sent = [mine[share.send_order].split(list(share.send_sizes)) for mine, share in zip(encoded, everyone, strict=True)]
    for rank, (pieces, share) in enumerate(zip(plan.shards, everyone, strict=True)):
        assert [len(parts[rank]) for parts in sent] == list(share.receive_sizes)
        received = torch.cat([parts[rank] for parts in sent])
        assert torch.equal(received, number[indices(pieces)][share.visual])


@some
@given(plans())
def test_replicated_ranks_keep_what_they_need_of_all_frames(plan):
    number = torch.full((len(plan),), -1)
    number[plan.visual] = torch.arange(int(plan.visual.sum()))
    for pieces, share in zip(plan.shards, shares(plan, replicated=True), strict=True):
        assert [(part.video, part.first, part.end) for part in share.frames] == [
            (video, 0, grid.t) for video, grid in enumerate(plan.grids)
        ]
        assert (share.send_sizes, share.receive_sizes) == ((), ())
        assert torch.equal(share.send_order, number[indices(pieces)][share.visual])


@some
@given(plans())
def test_attention_sees_the_row_in_order_and_is_causal_inside_each_segment(plan):
    wanted = masks(plan)
    found = torch.zeros_like(wanted)
    ulysses = plan.layout.ulysses
    parts = torch.cat([indices(part) for part in plan.parts])
    for rank, share in enumerate(shares(plan)):
        attention = share.attention
        part = plan.parts[rank // ulysses]
        assert attention.ring_sizes == tuple(sum(lengths(other)) for other in plan.parts)
        assert attention.ulysses_sizes[rank % ulysses] == len(share.input_ids)
        assert torch.equal(
            torch.cat([parts[start:end] for start, end in attention.ring_order]), torch.arange(len(plan))
        )
        group = plan.shards[rank // ulysses * ulysses :][:ulysses]
        assert torch.equal(torch.cat([indices(pieces) for pieces in group]), indices(part))
        covered = []
        for block in attention.blocks:
            queries, keys = indices(part)[slice(*block.query)], torch.arange(*block.key)
            seen = torch.ones(block.queries, block.keys, dtype=torch.bool)
            seen = seen.tril(block.keys - block.queries) if block.causal else seen
            assert not (found[queries[:, None], keys[None]] & seen).any() or rank % ulysses
            found[queries[:, None], keys[None]] |= seen
            if block.causal:
                covered.append(block.query)
        assert torch.equal(indices(covered), torch.arange(sum(lengths(part))))
    assert torch.equal(found, wanted)


@some
@given(plans())
def test_every_rank_computes_the_same_plan(plan):
    again = SequencePlan.__new__(SequencePlan)
    again.__dict__.update({name: value for name, value in vars(plan).items() if name not in ("parts", "shards")})
    assert (again.parts, again.shards, again.frame_ranges) == (plan.parts, plan.shards, plan.frame_ranges)


def test_a_group_is_a_prompt_and_responses_that_share_it():
    family = families["qwen2_5_vl"]
    [sample] = make_samples(family, [Draft((5, Clip(2), 4), seed=1)])
    group = group_of(sample.example, (3, 0, 2))
    tokens, last = len(sample.example.input_ids), sample.example.input_ids[-1]
    plan = SequencePlan([group], family, Layout(), COSTS)
    assert plan.segments == [
        (0, tokens - 1),
        (tokens - 1, tokens + 3),
        (tokens + 3, tokens + 4),
        (tokens + 4, tokens + 7),
    ]
    assert [plan.input_ids[start] for start, _ in plan.segments[1:]] == [last] * 3
    at = int(sample.example.positions[0, -1])
    assert (
        plan.positions[:, plan.segments[1][0] :].tolist() == [[at, at + 1, at + 2, at + 3, at, at, at + 1, at + 2]] * 3
    )
    assert plan.targets[tokens - 1 :].tolist() == [189, 190, 191, IGNORED, IGNORED, 189, 190, IGNORED]
    assert plan.responses.tolist() == [0, 0, 0, 2, 2]
    assert int(plan.visual.sum()) == 12
    *own, shared = plan.rank_plan(0).attention.blocks
    assert len(own) == 4
    # All responses attend to the prompt in one rectangular block.
    assert shared == Block((tokens - 1, tokens + 7), (0, tokens - 1), causal=False)


@some
@given(plans())
def test_values_of_supervised_tokens_are_cut_as_targets_are(plan):
    values = plan.targets[plan.targets != IGNORED]
    for share in shares(plan):
        assert torch.equal(values[share.supervised_index], share.targets)


@some
@given(st.data())
def test_responses_in_rows_of_their_own_attend_to_the_prompt_and_to_themselves(data):
    family = families[data.draw(st.sampled_from(FAMILIES))]
    [sample] = make_samples(family, [replace(data.draw(drafts), supervised=0.0)])
    assume(int(sample.example.input_ids[-1]) != VIDEO_ID)
    group, layout = group_of(sample.example, data.draw(responses)), data.draw(layouts)
    whole = SequencePlan([group], family, layout, COSTS)
    prompt = SequencePlan([group.prefix], family, layout, COSTS)
    plan = SequencePlan([group], family, layout, COSTS, prompt)
    first, end = whole.segments[0][1], whole.segments[len(group.responses)][1]
    tokens = end - first
    assert torch.equal(plan.input_ids[:tokens], whole.input_ids[first:end])
    assert torch.equal(plan.positions[:, :tokens], whole.positions[:, first:end])
    assert torch.equal(plan.responses, whole.responses)
    assert not plan.visual.any()
    for rank, share in enumerate(shares(plan)):
        attention = share.attention
        assert attention.prompt_ring_sizes == prompt.rank_plan(rank).attention.ring_sizes
        assert attention.prompt_ring_order == prompt.rank_plan(rank).attention.ring_order
        found = torch.zeros(sum(lengths(plan.parts[rank // layout.ulysses])), len(prompt) + len(plan), dtype=torch.bool)
        for block in attention.blocks:
            seen = torch.ones(block.queries, block.keys, dtype=torch.bool)
            found[slice(*block.query), slice(*block.key)] |= (
                seen.tril(block.keys - block.queries) if block.causal else seen
            )
        part = indices(plan.parts[rank // layout.ulysses])
        here = part < tokens  # the rest is padding
        wanted = masks(whole)[first:end][part[here]]
        assert torch.equal(found[here][:, :first], wanted[:, :first])
        assert not found[:, first : len(prompt)].any()
        assert torch.equal(found[here][:, len(prompt) : len(prompt) + tokens], wanted[:, first:end])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda group: {"responses": ()}, "group s0: no responses; drop the group"),
        (lambda group: {"responses": (torch.tensor([1.0]),)}, r"response 0 is torch.float32 \(1,\); give int64"),
        (lambda group: {"responses": (torch.tensor([1]), torch.tensor([200]))}, "response 1: token ids go from 200 to"),
        (
            lambda group: {"prompt": replace(group.prompt, labels=group.prompt.input_ids)},
            "group s0: its prompt has labels; only responses are supervised",
        ),
    ],
)
def test_wrong_groups_are_named(change, message):
    family = families["qwen2_5_vl"]
    [sample] = make_samples(family, [Draft((5, Clip(2), 7), seed=1)])
    group = group_of(sample.example, (3,))
    with pytest.raises(ValueError, match=message):
        SequencePlan([replace(group, **change(group))], family, Layout(), COSTS)


def test_a_prompt_ends_with_text():
    family = families["smolvlm"]
    [sample] = make_samples(family, [Draft((5, Clip(2)), supervised=0.0, seed=1)])
    end = int((sample.example.input_ids == VIDEO_ID).nonzero()[-1]) + 1
    cut = replace(
        sample.example,
        input_ids=sample.example.input_ids[:end],
        labels=sample.example.labels[:end],
        positions=sample.example.positions[:, :end],
    )
    with pytest.raises(ValueError, match="does not end with a token of text; add the start of the assistant's turn"):
        SequencePlan([group_of(cut, (3,))], family, Layout(), COSTS)


def test_a_prompt_in_a_row_of_its_own_has_one_group():
    family = families["smolvlm"]
    [sample] = make_samples(family, [Draft((5,), supervised=0.0, seed=1)])
    group = group_of(sample.example, (3,))
    prompt = SequencePlan([group.prefix], family, Layout(), COSTS)
    with pytest.raises(ValueError, match="2 items for one prompt"):
        SequencePlan([group, group], family, Layout(), COSTS, prompt)


def test_placeholders_of_a_text_are_words():
    family = families["qwen3_vl"]
    [sample] = make_samples(family, [Draft((4,), supervised=1.0)])
    ids = torch.tensor([5, VIDEO_ID, 7, 9])
    plan = SequencePlan([replace(sample.example, input_ids=ids)], family, Layout(1, 2), COSTS)
    assert not plan.visual.any()
    assert [share.frames for share in shares(plan)] == [(), ()]


@given(st.lists(st.floats(0, 1e6), min_size=12, max_size=30), st.integers(1, 4), st.integers(1, 3))
def test_no_range_is_shorter_than_wanted(costs, parts, least):
    cuts = balanced_cuts(torch.tensor(costs, dtype=torch.float64), parts, least)
    assert indices(cuts).tolist() == list(range(len(costs)))
    assert min(lengths(cuts)) >= least


def test_a_row_shorter_than_its_ranks_is_padded_with_what_nobody_sees():
    family = families["qwen3_vl"]
    [sample] = make_samples(family, [Draft((3,), supervised=1.0)])
    plan = SequencePlan([sample.example], family, Layout(2, 2), COSTS)
    assert (len(plan), plan.segments, plan.supervised_count) == (8, [(0, 3), (3, 8)], 2)


@given(st.lists(st.floats(0, 1e6, allow_subnormal=False), max_size=30), st.integers(1, 9))
def test_cuts_cover_all_and_are_balanced(costs, parts):
    cuts = balanced_cuts(torch.tensor(costs, dtype=torch.float64), parts)
    assert len(cuts) == parts
    assert indices(cuts).tolist() == list(range(len(costs)))
    assert spread([sum(costs[start:end]) for start, end in cuts]) <= max(costs, default=0) * (1 + 1e-9)


@pytest.mark.parametrize(
    ("ranks", "heads", "kv_heads", "per_host", "layout"),
    [
        (1, 28, 4, 8, Layout(1, 1)),
        (4, 28, 4, 8, Layout(4, 1)),
        (8, 28, 4, 8, Layout(4, 2)),  # 28 heads are not divisible by 8
        (8, 32, 8, 8, Layout(8, 1)),
        (16, 32, 8, 8, Layout(8, 2)),  # gather-KV across hosts
        (8, 16, 2, 8, Layout(8, 1)),  # each KV head on 4 ranks
        (8, 32, 8, 4, Layout(4, 2)),
        (6, 12, 4, 6, Layout(2, 3)),  # 6 and 3 divide the query heads, but 4 KV heads fit neither
        (3, 16, 2, 8, Layout(1, 3)),
        (7, 28, 4, 7, Layout(1, 7)),
        (7, 28, 1, 7, Layout(7, 1)),
    ],
)
def test_the_layout_follows_from_heads_and_hosts(ranks, heads, kv_heads, per_host, layout):
    found, reason = choose_layout(ranks, heads, kv_heads, per_host)
    assert found == layout
    assert reason.startswith(
        f"{ranks} sequence-parallel ranks = {layout.ulysses} (Ulysses) x {layout.ring} (gather-KV)"
    )
    assert f"{heads} query heads" in reason
    assert f"host of {per_host}" in reason


def test_the_layout_says_when_kv_heads_are_repeated():
    assert "2 kv heads, each kv head on 4 ranks" in choose_layout(8, 16, 2, 8)[1]
    assert "each kv head" not in choose_layout(4, 28, 4, 8)[1]


def test_costs_are_those_of_qwen2_5_7b():
    config = tiny_config("qwen2_5_vl").get_text_config()
    config.update({"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "vocab_size": 152_064})
    config.update({"num_attention_heads": 28, "num_key_value_heads": 4})
    costs = Costs.of(config)
    assert costs.linear == pytest.approx(2 * 6.525e9, rel=1e-3)
    assert costs.head == pytest.approx(2 * 0.545e9, rel=1e-3)
    assert costs.attention * 131_072**2 / 2 == pytest.approx(3.45e15, rel=1e-2)  # one causal forward pass at 128k


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: {"labels": e.labels[:-1]}, r"sample s0: labels has shape \(25,\), its 26 tokens need \(26,\)"),
        (lambda e: {"labels": e.labels[None]}, r"labels has shape \(1, 26\)"),
        (lambda e: {"positions": e.positions[:1]}, r"positions has shape \(1, 26\), its 26 tokens need \(3, 26\)"),
        (
            lambda e: {"input_ids": e.input_ids + 100},
            r"sample s0: input_ids go from 1\d\d to 2\d\d, outside \[0, 200\)",
        ),
        (lambda e: {"labels": e.labels.clamp(min=0) - 1}, r"sample s0: labels go from -1 to .* another model\?"),
        (lambda e: {"labels": torch.full_like(e.labels, 200)}, "labels go from 200 to 200, outside"),
        (
            lambda e: {"input_ids": torch.where(torch.arange(26) == 0, VIDEO_ID, e.input_ids)},
            r"sample s0: 13 video tokens, but its grids \[Grid\(t=2, h=4, w=6\)\] make 12",
        ),
        (
            lambda e: {"videos": (replace(e.videos[0], grid=Grid(3, 4, 6)),)},
            r"sample s0: 12 video tokens, but its grids \[Grid\(t=3, h=4, w=6\)\] make 18",
        ),
    ],
)
def test_wrong_samples_are_named(change, message):
    family = families["qwen2_5_vl"]
    [sample] = make_samples(family, [Draft((5, Clip(2), 7), supervised=0.9, seed=1)])
    with pytest.raises(ValueError, match=message):
        SequencePlan([replace(sample.example, **change(sample.example))], family, Layout(), COSTS)


def test_a_row_has_a_sample():
    with pytest.raises(ValueError, match="takes one without labels"):
        SequencePlan([], families["smolvlm"], Layout(), COSTS)
