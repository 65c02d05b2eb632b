"""The updates of a rollout on real models: the same on any ranks, in any rows, and exact where the engine is."""

from dataclasses import replace

import pytest
import torch
from torch.distributed.tensor import distribute_tensor
from torch.optim import SGD

from tests.trainer_plugin import parity
from tests.trainer_plugin.parity import Clip, Draft, family_of, rank_pixels
from tests.trainer_plugin.rl.groups import GroupDraft, SampledGroup, make_groups
from trainer_plugin.distributed.sequence_plan import Layout, SequencePlan
from trainer_plugin.model import LongVideoModel, RankInput
from trainer_plugin.rl.objective import Objective
from trainer_plugin.rl.scoring import score, whole_row
from trainer_plugin.rl.update import CorrectionSettings, PolicyUpdate, RolloutBatch, UpdateReport, UpdateSettings
from trainer_plugin.training.optimizer_step import NotFinite, trainable_parameters
from trainer_plugin.types import PromptGroup

DRAFTS = (
    GroupDraft(Draft((5, Clip(5), 9), seed=1), (4, 9, 0, 12, 6)),
    GroupDraft(Draft((4, Clip(2), 3), seed=2), (7, 7)),
    GroupDraft(Draft((3, Clip(3), 5), seed=3), (1, 8, 20)),
)
LENGTHS = [length for draft in DRAFTS for length in draft.lengths]
RESPONSES = len(LENGTHS)
WHOLE, CHUNKED = 400, 64
"""Tokens of a row that has room for all groups, and of one in which two of the three groups are in chunks."""
RATE = 0.05
TEMPERATURE = 1.3


def run(
    layout: Layout,
    objective: Objective,
    correction: CorrectionSettings | None = None,
    update: UpdateSettings | None = None,
    row_tokens: int = WHOLE,
    drafts: tuple[GroupDraft, ...] = DRAFTS,
    error: float = 0.0,
    shifted: tuple[int, ...] = (),
    truncated: tuple[int, ...] = (),
    damaged: int | None = None,
) -> tuple[UpdateReport, torch.Tensor]:
    """Update a tiny model. Returns the report, and how far the parameters moved, divided by the learning rate.

    Args:
        error: size of the random differences between the engine's log-probabilities and the trainer's.
        shifted: responses for which they differ by 0.5.
        truncated: responses that are masked because they ended at the length limit.
        damaged: number of a group whose prompt lacks a token of its video.
    """
    model = parity._sharded_model("qwen2_5_vl", parity.HEADS, layout, True, parity.OPTIONS)
    groups = make_groups(family_of(parity.tiny_config("qwen2_5_vl")), drafts)
    frames = {
        clip.video.key: pixels
        for each in groups
        for clip, pixels in zip(each.prompt.example.videos, each.prompt.frames, strict=True)
    }

    def read(clip, first, end):
        return frames[clip.video.key][first * clip.frames_per_patch : end * clip.frames_per_patch]

    before = {name: p.detach().clone() for name, p in trainable_parameters(model).items()}
    updates = PolicyUpdate(
        model,
        SGD(model.parameters(), lr=RATE),
        read,
        objective=objective,
        correction=correction,
        update=update or UpdateSettings(),
        row_tokens=row_tokens,
        temperature=TEMPERATURE,
        max_response_tokens=20,
        max_norm=None,
        reference=model if objective.beta else None,
    )
    random = torch.Generator().manual_seed(3)
    count = sum(len(draft.lengths) for draft in drafts)
    advantages = torch.randn(count, generator=random)
    log_probs = [values for each in groups for values in engine_log_probs(model, each)]
    for number, values in enumerate(log_probs):
        values += error * (torch.rand(len(values), generator=random) - 0.5) + (0.5 if number in shifted else 0)
    batch = RolloutBatch(
        tuple(drop_video_token(each.group) if number == damaged else each.group for number, each in enumerate(groups)),
        tuple(log_probs),
        advantages,
        torch.ones(count, dtype=torch.bool),
        torch.tensor([number in truncated for number in range(count)]),
    )
    report = updates.run(batch)
    moved = []
    for name, p in trainable_parameters(model).items():
        moved.append((p.detach() - before[name]).full_tensor().flatten() / -RATE)
        p.detach().copy_(before[name])  # other tests use the same model
    return report, torch.cat(moved)


def drop_video_token(group: PromptGroup) -> PromptGroup:
    """The group with another token in place of its video's first one."""
    prompt = group.prompt
    ids = prompt.input_ids.clone()
    ids[(ids == family_of(parity.tiny_config("qwen2_5_vl")).video_token_id).nonzero()[0]] = 0
    return replace(group, prompt=replace(prompt, input_ids=ids))


def engine_log_probs(model: LongVideoModel, each: SampledGroup) -> list[torch.Tensor]:
    """The trainer's own log-probabilities of each response of a group."""
    plan = SequencePlan([each.group], model.family, model.parallel.layout, model.costs)
    mine = plan.rank_plan(model.parallel.sp_rank)
    row = RankInput(mine, rank_pixels(model.family, mine, [each.prompt]))
    [(log_probs, _)] = score(model, row, temperature=TEMPERATURE)
    whole = whole_row(model, plan, row, log_probs)
    return [values.clone() for values in whole.split([len(ids) for ids in each.group.responses])]


def assert_equal(found: tuple[UpdateReport, torch.Tensor], expected: tuple[UpdateReport, torch.Tensor]) -> None:
    (report, moved), (wanted, direction) = found, expected
    assert float((moved - direction).abs().max()) < 2e-5 * float(direction.abs().max())
    assert torch.equal(report.kept, wanted.kept) and torch.equal(report.accepted, wanted.accepted)
    assert report.mismatch == pytest.approx(wanted.mismatch, abs=1e-6)
    assert report.policy == pytest.approx(wanted.policy, rel=1e-4, abs=1e-5)
    assert torch.allclose(report.response_means, wanted.response_means, atol=1e-5)
    assert [step.loss for step in report.steps] == pytest.approx([step.loss for step in wanted.steps], abs=1e-5)


CASES = {
    "dapo": (Objective(), None, UpdateSettings()),
    "correction": (
        Objective(aggregation="sequence_mean"),
        CorrectionSettings(cap=1.2, geometric=(0.9, 1.1)),
        UpdateSettings(),
    ),
    "several updates": (Objective(beta=0.1, top_entropy=0.5), None, UpdateSettings(minibatches=2, passes=2)),
    "gspo": (
        Objective(policy="gspo", aggregation="sequence_mean", clip_low=3e-4, clip_high=4e-4),
        CorrectionSettings(weights="mask", low=0.9, high=1.1, geometric=None),
        UpdateSettings(passes=2),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_updates_are_the_same_on_any_ranks_and_in_any_rows(ranks, case):
    given = {"error": 0.4, "shifted": (3,)}
    expected = ranks[1].run(run_case, Layout(), case, WHOLE, given)[0]
    for layout, world, row_tokens in (
        (Layout(), 1, CHUNKED),
        (Layout(2, 1), 2, CHUNKED),
        (Layout(), 2, WHOLE),
        (Layout(), 2, CHUNKED),
        (Layout(1, 3), 3, WHOLE),
        (Layout(), 3, CHUNKED),
    ):
        for found in ranks[world].run(run_case, layout, case, row_tokens, given):
            assert_equal(found, expected)


def run_case(layout: Layout, case: str, row_tokens: int, given: dict) -> tuple[UpdateReport, torch.Tensor]:
    return run(layout, *CASES[case], row_tokens, **given)


@pytest.mark.parametrize("row_tokens", [WHOLE, CHUNKED])
def test_an_exact_engine_has_no_mismatch_and_the_first_ratio_is_one(ranks, row_tokens):
    objective, correction = Objective(beta=0.1), CorrectionSettings()
    report, _ = ranks[1].run(run, Layout(), objective, correction, UpdateSettings(), row_tokens)[0]
    assert report.policy["ratio_min"] == report.policy["ratio_max"] == 1
    assert report.policy["kl_reference_k3"] == 0
    assert abs(report.mismatch["k3"]) < 1e-6 and report.mismatch["unscored"] == 0
    assert report.accepted.all()
    assert report.kept.tolist() == [length > 0 for length in LENGTHS]
    assert float(report.response_means[:, 0].abs().max()) < 1e-5
    assert (report.response_means[report.kept, 2] > 1).all()
    mean = float((report.response_means[:, 2] * torch.tensor(LENGTHS)).sum() / sum(LENGTHS))
    assert report.policy["entropy"] == pytest.approx(mean)


def test_a_pass_for_the_old_log_probabilities_changes_nothing_on_policy(ranks):
    plain = ranks[1].run(run, Layout(), Objective())[0]
    exact = CorrectionSettings(weights="none", geometric=None)
    assert_equal(ranks[1].run(run, Layout(), Objective(), exact)[0], plain)


def test_the_loss_of_the_first_step_is_that_of_its_formula(ranks):
    advantages = torch.randn(RESPONSES, generator=torch.Generator().manual_seed(3))
    lengths = torch.tensor(LENGTHS)
    report, _ = ranks[1].run(run, Layout(), Objective())[0]  # DAPO: the mean over all tokens, at ratios of 1
    assert report.steps[0].loss == pytest.approx(-float((advantages * lengths).sum() / lengths.sum()), rel=1e-5)
    report, _ = ranks[1].run(run, Layout(), Objective(aggregation="sequence_mean"))[0]
    assert report.steps[0].loss == pytest.approx(-float(advantages[lengths > 0].mean()), rel=1e-5)


def test_a_minibatch_is_normalized_by_its_own_responses(ranks):
    alone, _ = ranks[1].run(run, Layout(), Objective(), None, None, WHOLE, DRAFTS[:1])[0]
    parts, _ = ranks[1].run(run, Layout(), Objective(), None, UpdateSettings(minibatches=3))[0]
    assert len(parts.steps) == 3
    assert parts.steps[0].loss == pytest.approx(alone.steps[0].loss, rel=1e-5)
    assert parts.steps[0].grad_norm == pytest.approx(alone.steps[0].grad_norm, rel=1e-4)


def test_a_response_that_does_not_count_is_as_if_it_were_not_there(ranks):
    shorter = (GroupDraft(DRAFTS[0].prompt, DRAFTS[0].lengths), DRAFTS[1], GroupDraft(DRAFTS[2].prompt, (1, 8)))
    correction = CorrectionSettings(weights="none")
    _, absent = ranks[1].run(run, Layout(), Objective(), correction, None, WHOLE, shorter)[0]
    rejected, without = ranks[1].run(run, Layout(), Objective(), correction, None, WHOLE, DRAFTS, 0.0, (9,))[0]
    masked, hidden = ranks[2].run(run, Layout(), Objective(), correction, None, CHUNKED, DRAFTS, 0.0, (), (9,))[0]
    assert not rejected.kept[9] and not rejected.accepted[9] and rejected.kept.sum() == 8
    assert not masked.kept[9] and masked.accepted.all()
    # The advantages of the other responses are the same random numbers in all three.
    for other in (without, hidden):
        assert float((other - absent).abs().max()) < 2e-5 * float(absent.abs().max())


def test_without_a_kept_response_no_step_is_taken(ranks):
    everything = tuple(range(RESPONSES))
    for found, moved in ranks[2].run(run, Layout(), Objective(), None, None, WHOLE, DRAFTS, 0.0, (), everything):
        assert found.steps == () and found.policy == {} and not found.kept.any()
        assert found.mismatch == {} and found.response_means.isnan().all()  # there was no pass to measure them
        assert float(moved.abs().max()) == 0


@pytest.mark.parametrize("correction", [None, CorrectionSettings()], ids=["in the update", "before it"])
def test_log_probabilities_that_are_not_finite_are_an_error_on_all_ranks(ranks, correction):
    """Of two data-parallel ranks, only the one with the second group has them."""
    assert ranks[2].run(run_without_a_number, correction) == [True, True]


def run_without_a_number(correction: CorrectionSettings | None) -> bool:
    """Whether updates with a model that has no number for a token of the second group raise NotFinite."""
    model = parity._sharded_model("qwen2_5_vl", parity.HEADS, Layout(), True, parity.OPTIONS)
    groups = make_groups(family_of(parity.tiny_config("qwen2_5_vl")), DRAFTS[:2])
    first, second = (set(torch.cat([each.group.prompt.input_ids, *each.group.responses]).tolist()) for each in groups)
    weight = model.model.get_input_embeddings().weight
    before = weight.detach().full_tensor()
    changed = before.clone()
    changed[min(second - first)] = torch.nan
    try:
        with torch.no_grad():
            weight.copy_(distribute_tensor(changed, weight.device_mesh, weight.placements))
        with pytest.raises(NotFinite):
            run(Layout(), Objective(), correction, drafts=DRAFTS[:2])
    finally:
        with torch.no_grad():
            weight.copy_(distribute_tensor(before, weight.device_mesh, weight.placements))
    return True


def test_a_group_that_fits_no_row_is_named(ranks):
    with pytest.raises(AssertionError, match=r"sample s0: its prompt of .* do not fit a row of 30; raise row_tokens"):
        ranks[1].run(run, Layout(), Objective(), None, None, 30)


@pytest.mark.parametrize("row_tokens", [WHOLE, CHUNKED])
def test_a_group_that_one_rank_cannot_plan_ends_the_update_on_all_ranks(ranks, row_tokens):
    """Of two data-parallel ranks, only one plans the damaged group."""
    given = {"drafts": DRAFTS[::2], "damaged": 1}
    own, other = sorted(ranks[2].run(find_update_error, row_tokens, given), key=lambda found: found[0], reverse=True)
    assert own[0] == "ValueError" and own[1].startswith("sample s1: ")
    assert other[0] == "RuntimeError" and other[1].endswith(f"has failed: {own[1]}")


def find_update_error(row_tokens: int, given: dict) -> tuple[str, str]:
    """Type and message of the error of an update."""
    with pytest.raises((ValueError, RuntimeError)) as raised:
        run(Layout(), Objective(), row_tokens=row_tokens, **given)
    return type(raised.value).__name__, str(raised.value)


def test_bounds_that_exclude_exact_engines_are_refused():
    with pytest.raises(ValueError, match=r"geometric \[1.1, 1.2\] must be bounds around 1"):
        CorrectionSettings(geometric=(1.1, 1.2))
