"""The objective of an update on real models: the same on any ranks, and exact at the first update."""

from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from pydantic import ValidationError

from tests.trainer_plugin import parity
from tests.trainer_plugin.parity import Clip, Draft, family_of, rank_pixels
from tests.trainer_plugin.rl.groups import GroupDraft, SampledGroup, make_groups
from trainer_plugin.distributed.sequence_plan import Layout, SequencePlan
from trainer_plugin.model import LongVideoModel, RankInput
from trainer_plugin.recipe import Lora
from trainer_plugin.rl.losses import count_kept, token_weights
from trainer_plugin.rl.objective import Objective, RowValues, row_loss
from trainer_plugin.rl.scoring import adapters_off, score, whole_row
from trainer_plugin.training.chunked_groups import ChunkedInput, plan_chunks
from trainer_plugin.training.optimizer_step import add_gradients
from trainer_plugin.training.weights import add_adapters

DRAFT = GroupDraft(Draft((5, Clip(5), 9), seed=1), (4, 9, 0, 12, 6))
ADVANTAGES = torch.tensor([1.0, -0.5, 0.3, 0.8, -1.1])
KEPT = torch.tensor([True, True, True, True, True])
OBJECTIVES = {
    "dapo": Objective(),
    "gspo": Objective(policy="gspo", aggregation="sequence_mean", clip_low=3e-4, clip_high=4e-4),
    "cispo": Objective(policy="cispo"),
    "reinforce": Objective(policy="reinforce", aggregation="sequence_sum_mean"),
    "grpo with a reference": Objective(aggregation="sequence_mean", beta=0.1, kl="k3", clip_high=0.2),
    "entropy bonus": Objective(entropy_coefficient=0.01),
}


def model_of(layout: Layout) -> LongVideoModel:
    return parity._sharded_model("qwen2_5_vl", parity.HEADS, layout, True, parity.OPTIONS)


def one_group(draft: GroupDraft = DRAFT) -> SampledGroup:
    [group] = make_groups(family_of(parity.tiny_config("qwen2_5_vl")), [draft])
    return group


def row_of(model: LongVideoModel, each: SampledGroup) -> tuple[SequencePlan, RankInput]:
    plan = SequencePlan([each.group], model.family, model.parallel.layout, model.costs)
    share = plan.rank_plan(model.parallel.sp_rank)
    return plan, RankInput(share, rank_pixels(model.family, share, [each.prompt]))


def values_of(plan: SequencePlan, objective: Objective, advantages: torch.Tensor, kept: torch.Tensor) -> RowValues:
    """Values of a row with random old log-probabilities, from -5 to -4."""
    lengths = torch.bincount(plan.responses, minlength=len(advantages))
    weights = token_weights(objective.aggregation, lengths, kept, count_kept(lengths, kept))
    random = torch.Generator().manual_seed(5)
    old = -4 - torch.rand(len(plan.responses), generator=random)
    return RowValues(plan.responses, lengths, advantages, weights, old=old, reference=old + 0.1)


def updated(layout: Layout, name: str, swap: bool = False) -> tuple[float, torch.Tensor]:
    """Loss and whole gradient of one update."""
    model, objective = model_of(layout), OBJECTIVES[name]
    model.zero_grad()
    plan, row = row_of(model, one_group())
    advantages = ADVANTAGES.flip(0) if swap else ADVANTAGES
    values = values_of(plan, objective, advantages, KEPT)
    loss = row_loss(objective, values, model.parallel.sp_group)
    [part] = add_gradients(model, [row], loss, entropy=objective.needs_entropy)
    dist.all_reduce(part)
    gradients = [p.grad.full_tensor().flatten() for p in model.parameters() if p.grad is not None]
    return float(part), torch.cat(gradients)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_update_is_the_same_on_any_ranks(ranks, name):
    loss, gradient = ranks[1].run(updated, Layout(), name)[0]
    for layout in (Layout(2, 1), Layout(1, 2), Layout(1, 3)):
        found, other = ranks[layout.size].run(updated, layout, name)[0]
        assert found == pytest.approx(loss, rel=1e-5, abs=1e-6)
        assert float((other - gradient).abs().max()) < 1e-5 * float(gradient.abs().max())


def test_swapped_advantages_are_another_update(ranks):
    (_, right), (_, swapped) = (ranks[1].run(updated, Layout(), "dapo", swap)[0] for swap in (False, True))
    assert float((right - swapped).abs().max()) > 0.1 * float(right.abs().max())


def rejected(in_row: bool, in_counts: bool) -> torch.Tensor:
    """Gradient of a group whose second response is rejected, or is not there at all."""
    model, objective = model_of(Layout()), Objective()
    model.zero_grad()
    group, advantages, kept = one_group(), ADVANTAGES, torch.tensor([True, False, True, True, True])
    if not in_row:
        responses = tuple(response for number, response in enumerate(group.group.responses) if number != 1)
        group = replace(group, group=replace(group.group, responses=responses))
        advantages, kept = advantages[kept], kept[kept]
    plan, row = row_of(model, group)
    lengths = torch.bincount(plan.responses, minlength=len(advantages))
    counts = count_kept(lengths, torch.ones_like(kept) if in_counts else kept)
    weights = token_weights("token_mean", lengths, kept, counts)
    values = RowValues(plan.responses, lengths, advantages, weights)
    add_gradients(model, [row], row_loss(objective, values))
    return torch.cat([p.grad.full_tensor().flatten() for p in model.parameters() if p.grad is not None])


def test_a_rejected_response_is_in_no_denominator(ranks):
    absent = ranks[1].run(rejected, False, False)[0]
    masked = ranks[1].run(rejected, True, False)[0]
    counted = ranks[1].run(rejected, True, True)[0]
    largest = float(absent.abs().max())
    assert float((masked - absent).abs().max()) < 1e-5 * largest
    assert float((counted - absent).abs().max()) > 0.1 * largest  # slime #657


def ratios(layout: Layout, chunked: bool) -> tuple[bool, float, float]:
    """Whether old log-probabilities of a pass of their own equal the update's bit for bit, and the metrics of both."""
    model = model_of(layout)
    each = one_group()
    recorded = []
    if chunked:
        prompt, chunks = plan_chunks(each.group, 16, model.family, model.parallel.layout, model.costs)
        shares = [plan.rank_plan(model.parallel.sp_rank) for plan in (prompt, *chunks)]
        whole, *parts = (RankInput(share, rank_pixels(model.family, share, [each.prompt])) for share in shares)
        row, plans = ChunkedInput(whole, tuple(parts)), list(chunks)
    else:
        plan, row = row_of(model, each)
        parts, plans = [row], [plan]
    olds = [log_probs for log_probs, _ in score(model, row)]
    olds = [whole_row(model, *found) for found in zip(plans, parts, olds, strict=True)]
    objective = Objective(beta=0.1)
    losses = []
    for plan, old in zip(plans, olds, strict=True):
        values = values_of(plan, objective, ADVANTAGES, KEPT)
        values = replace(values, old=old, reference=old)
        losses.append(row_loss(objective, values, model.parallel.sp_group, recorded.append))
    waiting = iter(losses)

    def loss(*given):
        return next(waiting)(*given)

    add_gradients(model, [row], loss)
    metrics = [each.means() for each in recorded if each.means()]
    return (
        all(each["ratio_min"] == each["ratio_max"] == each["ratio"] == 1.0 for each in metrics),
        max((abs(each["kl_reference_k3"]) for each in metrics), default=0.0),
        max((abs(each["kl_old_k1"]) for each in metrics), default=0.0),
    )


@pytest.mark.parametrize("chunked", [False, True], ids=["one row", "chunks"])
@pytest.mark.parametrize("layout", [Layout(), Layout(2, 1), Layout(1, 3)], ids=str)
def test_at_the_first_update_every_ratio_is_exactly_1_and_the_kl_exactly_0(ranks, layout, chunked):
    assert ranks[layout.size].run(ratios, layout, chunked) == [(True, 0.0, 0.0)] * layout.size


def adapted() -> tuple[bool, bool, bool]:
    """Whether a model without its adapters scores as before it had any, otherwise with them, and they still train."""
    each = one_group()
    inner = parity.tiny_model("qwen2_5_vl")
    context = parity.groups(Layout())
    plain = parity.shard_parameters(LongVideoModel(inner, context, parity.OPTIONS), compute=None).train()
    [(before, _)] = score(plain, row_of(plain, each)[1])
    inner = parity.tiny_model("qwen2_5_vl")
    add_adapters(inner, Lora(rank=2, alpha=4))
    for name, parameter in inner.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    model = parity.shard_parameters(LongVideoModel(inner, context, parity.OPTIONS), compute=None).train()
    _, row = row_of(model, each)
    with adapters_off(model):
        [(off, _)] = score(model, row)
    [(on, _)] = score(model, row)
    model(row)[0].sum().backward()
    trained = all((p.grad is not None) == p.requires_grad for name, p in model.named_parameters() if "lora" in name)
    return bool(torch.equal(off, before)), bool((on - before).abs().max() > 1e-3), trained


def test_the_reference_of_adapters_is_the_model_without_them(ranks):
    assert ranks[1].run(adapted)[0] == (True, True, True)


def without_adapters() -> str:
    with pytest.raises(ValueError) as raised, adapters_off(model_of(Layout())):
        pass
    return str(raised.value)


def test_a_reference_without_adapters_is_refused(ranks):
    assert "no LoRA adapters; load a reference model of its own, or set beta to 0" in ranks[1].run(without_adapters)[0]


def test_a_missing_reference_is_named():
    values = RowValues(torch.tensor([0]), torch.tensor([1]), torch.ones(1), torch.ones(1))
    loss = row_loss(Objective(beta=0.1), values)
    plan = SequencePlan(
        [one_group(GroupDraft(Draft((3,)), (1,))).group],
        family_of(parity.tiny_config("qwen2_5_vl")),
        Layout(),
        parity.Costs.of(parity.tiny_config("qwen2_5_vl").get_text_config()),
    )
    with pytest.raises(ValueError, match=r"beta is 0.1, but there are no reference log-probabilities; compute them"):
        loss(RankInput(plan.rank_plan(0), ()), torch.zeros(1, requires_grad=True), None)


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"ratio_min": 5.0}, "ratio_min 5.0 must be below ratio_max"), ({"delta": 1.1}, "delta 1.1 must be above 1 \\+")],
)
def test_bounds_that_do_not_fit_are_refused(fields, message):
    with pytest.raises(ValidationError, match=message):
        Objective(**fields)
