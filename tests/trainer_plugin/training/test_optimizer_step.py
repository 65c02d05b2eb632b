from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist

from tests.trainer_plugin.parity import (
    OPTIONS,
    Clip,
    Draft,
    count_supervised_tokens,
    groups,
    make_samples,
    plan_of,
    rank_pixels,
    tiny_family,
    tiny_model,
)
from trainer_plugin.distributed.sequence_plan import Layout
from trainer_plugin.model import LongVideoModel, RankInput, shard_parameters
from trainer_plugin.training.optimizer_step import (
    NotFinite,
    StepResult,
    adamw,
    cross_entropy,
    gradient_norm,
    supervised_tokens,
    train_step,
    trainable_parameters,
)

DRAFTS = (Draft((3, Clip(2), 9)), Draft((34,), seed=1), Draft((2, Clip(3), 5), seed=2), Draft((6, Clip(1), 17), seed=3))


def sharded(layout: Layout) -> LongVideoModel:
    parallel = groups(layout)
    return shard_parameters(LongVideoModel(tiny_model("qwen3_vl"), parallel, OPTIONS), compute=None).train()


def rows_of(model: LongVideoModel, micro_steps: int) -> list[RankInput]:
    """Rank inputs of this rank: the four samples distributed over `micro_steps` rows per data-parallel rank."""
    parallel = model.parallel
    samples = make_samples(model.family, DRAFTS)
    rows = []
    for number in range(micro_steps):
        mine = samples[number * parallel.dp + parallel.dp_rank :: micro_steps * parallel.dp]
        share = plan_of(model, mine).rank_plan(parallel.sp_rank)
        rows.append(RankInput(share, rank_pixels(model.family, share, mine)))
    return rows


def curve(layout: Layout, micro_steps: int, steps: int = 5) -> list[float]:
    model = sharded(layout)
    optimizer = adamw(model, 3e-3)
    found = []
    for _ in range(steps):
        rows = rows_of(model, micro_steps)
        found.append(train_step(model, optimizer, iter(rows), cross_entropy(supervised_tokens(rows)), max_norm=0.5))
    return [number for result in found for number in (result.loss, result.grad_norm)]


def test_the_curve_depends_neither_on_ranks_nor_on_accumulation_and_falls(ranks):
    alone = ranks[1].run(curve, Layout(), 1)[0]
    assert alone[-2] < 0.85 * alone[0]
    for layout, world, micro_steps in [(Layout(), 1, 4), (Layout(), 2, 1), (Layout(2, 1), 2, 2), (Layout(1, 3), 3, 1)]:
        assert ranks[world].run(curve, layout, micro_steps)[0] == pytest.approx(alone, rel=1e-4)


def norms() -> tuple[float, float, float]:
    model = sharded(Layout(2, 1))
    rows = rows_of(model, 1)
    tokens = supervised_tokens(rows)
    for row in rows:
        (-model(row)[0].sum() / tokens).backward()
    whole = [p.grad.full_tensor().flatten() for p in model.parameters() if p.grad is not None]
    norm = gradient_norm(model.parameters())
    model.zero_grad()
    return float(norm), float(torch.cat(whole).norm()), tokens


def test_the_norm_is_of_the_whole_gradient(ranks):
    found, expected, tokens = ranks[2].run(norms)[0]
    assert found == pytest.approx(expected, rel=1e-5)
    assert tokens == count_supervised_tokens(make_samples(tiny_family("qwen3_vl"), DRAFTS))


def moved(max_norm: float | None) -> tuple[float, float]:
    """Norm of the change of all parameters after an SGD step with learning rate 1, and the gradient norm."""
    model = sharded(Layout())
    before = torch.cat([p.detach().full_tensor().flatten() for p in model.parameters()])
    rows = rows_of(model, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    result = train_step(model, optimizer, rows, cross_entropy(supervised_tokens(rows)), max_norm=max_norm)
    after = torch.cat([p.detach().full_tensor().flatten() for p in model.parameters()])
    return float((after - before).norm()), result.grad_norm


def test_clipping_scales_down_to_the_norm_and_never_up(ranks):
    for max_norm in (None, 0.01, 1e6):
        distance, norm = ranks[1].run(moved, max_norm)[0]
        assert norm > 1
        assert distance == pytest.approx(min(norm, max_norm or norm), rel=1e-3)


def not_finite() -> tuple[tuple[int, ...], bool, bool]:
    model = sharded(Layout())
    rows = rows_of(model, 2)
    width = 64 * model.family.levels
    tokens = [grid.t * model.family.tokens_per_temporal_patch(grid) for grid in rows[1].plan.grids]
    bad = RankInput(rows[1].plan, tuple(torch.full((count, width), torch.nan) for count in tokens))
    before = [p.detach().full_tensor().clone() for p in model.parameters()]
    optimizer = adamw(model, 1e-3)
    mine = [rows[0], bad if dist.get_rank() == 0 else rows[1]]
    with pytest.raises(NotFinite) as raised:
        train_step(model, optimizer, mine, cross_entropy(supervised_tokens(rows)))
    same = all(torch.equal(p.detach().full_tensor(), b) for p, b in zip(model.parameters(), before, strict=True))
    return raised.value.rows, same, all(p.grad is None for p in model.parameters())


def test_what_is_not_finite_changes_nothing_and_names_the_row(ranks):
    assert ranks[2].run(not_finite)[0] == ((1,), True, True)


def interrupted() -> tuple[StepResult, StepResult]:
    """Results of a step after one that was interrupted between its rows, and of the same step without it."""

    def broken_off(rows: list[RankInput]) -> Iterator[RankInput]:
        yield rows[0]
        raise KeyboardInterrupt

    found = []
    for before in (True, False):
        model = sharded(Layout())
        optimizer, rows = adamw(model, 1e-3), rows_of(model, 2)
        if before:
            with pytest.raises(KeyboardInterrupt):
                train_step(model, optimizer, broken_off(rows), cross_entropy(supervised_tokens(rows)))
        found.append(train_step(model, optimizer, rows, cross_entropy(supervised_tokens(rows))))
    return found[0], found[1]


def test_a_step_that_broke_off_leaves_nothing_to_the_next(ranks):
    after, alone = ranks[1].run(interrupted)[0]
    assert after == alone


def nothing_to_learn() -> tuple[str, str, bool]:
    model = sharded(Layout())
    optimizer = adamw(model, 1e-3, weight_decay=0.1)
    before = [p.detach().full_tensor().clone() for p in model.parameters()]
    messages = []
    for rows, tokens in (([], 5), (rows_of(model, 1), 0)):
        with pytest.raises(ValueError) as raised:
            train_step(model, optimizer, iter(rows), cross_entropy(tokens))
        messages.append(str(raised.value))
    same = all(torch.equal(p.detach().full_tensor(), b) for p, b in zip(model.parameters(), before, strict=True))
    return messages[0], messages[1], same


def test_a_step_of_nothing_names_what_is_missing_and_changes_nothing(ranks):
    no_rows, no_tokens, same = ranks[1].run(nothing_to_learn)[0]
    assert no_rows == "rows is empty: every rank takes equally many, one without labels where it has none left"
    assert no_tokens == "tokens is 0: skip a step in which no rank has supervised tokens (supervised_tokens)"
    assert same


def test_only_what_is_learned_is_optimised_and_only_matrices_decay():
    model = tiny_model("qwen3_vl").requires_grad_(False)
    model.lm_head.requires_grad_(True)
    model.model.language_model.norm.requires_grad_(True)
    assert list(trainable_parameters(model)) == ["model.language_model.norm.weight", "lm_head.weight"]
    matrices, vectors = adamw(model, 1e-3, 0.1).param_groups
    assert (matrices["weight_decay"], len(matrices["params"])) == (0.1, 1)
    assert (vectors["weight_decay"], len(vectors["params"])) == (0.0, 1)
