"""Log-probabilities and gradients of groups are those of plain sequences of prompt and response.

The plain model runs each prompt with each response in one process, one sequence at a time, with its own attention,
vision path and, where they are correct, its own positions. Our model runs on 1 to 4 gloo ranks, in float32, under
FSDP2: all responses of a prompt in one row, one row of separate sequences, or chunks of responses.

The default run covers all pairs of values. The following command runs all combinations (19 minutes of CPU time):

    PARITY_EXAMPLES=1 python -m pytest -n 8 --dist worksteal tests/trainer_plugin/rl/test_parity.py
"""

import os
from functools import cache
from itertools import combinations, product

import pytest

from tests.trainer_plugin.parity import FAMILIES, OPTIONS, Clip, Draft
from tests.trainer_plugin.rl.groups import MISTAKES, GroupCase, GroupDraft, reference, stepped
from trainer_plugin.distributed.sequence_plan import Layout
from trainer_plugin.model import RunOptions

TOLERANCE = 1e-5
"""Maximum difference relative to the largest entry of each tensor; float32 resolves 1.2e-7."""

ONE_VIDEO = Draft((5, Clip(5), 9), seed=1)
TWO_VIDEOS = Draft((3, Clip(3), 4, Clip(1, 1, 1, 40_000), 6), seed=2)
GROUPS = {
    "one response": (GroupDraft(ONE_VIDEO, (7,)),),
    "eight of different lengths": (GroupDraft(ONE_VIDEO, (4, 9, 1, 12, 6, 2, 17, 3)),),
    "two videos, one empty, placeholders": (GroupDraft(TWO_VIDEOS, (5, 0, 11), placeholders=True),),
    "two groups": (GroupDraft(TWO_VIDEOS, (3, 8)), GroupDraft(ONE_VIDEO, (10, 2, 5))),
    "no video, one token": (GroupDraft(Draft((1,), seed=3), (4, 6)),),
}
AXES = {
    "place": (
        # ranks, layout of the ranks of a row (the rest is data-parallel), query and key-value heads
        (1, Layout(1, 1), (4, 2)),
        (2, Layout(2, 1), (4, 2)),
        (2, Layout(1, 2), (4, 2)),
        (3, Layout(1, 3), (4, 2)),
        (4, Layout(4, 1), (4, 2)),
        (4, Layout(1, 4), (4, 2)),
        (4, Layout(2, 2), (4, 2)),
        (4, Layout(1, 2), (4, 1)),
    ),
    "family": FAMILIES,
    "schedule": ("shared", "separate", "chunked"),
    "groups": tuple(GROUPS),
    "frozen": (True, False),
    "layers": ("kept", "recomputed", "attention kept"),
}
Choice = dict[str, object]


def choices() -> list[Choice]:
    """All combinations with `PARITY_EXAMPLES`, otherwise combinations that cover all pairs of values (greedily)."""
    everything = [dict(zip(AXES, values, strict=True)) for values in product(*AXES.values())]
    if os.environ.get("PARITY_EXAMPLES"):
        return everything
    missing = set().union(*(combinations(choice.items(), 2) for choice in everything))
    chosen = []
    while missing:
        best = max(everything, key=lambda choice: len(missing.intersection(combinations(choice.items(), 2))))
        missing.difference_update(combinations(best.items(), 2))
        chosen.append(best)
    return sorted(chosen, key=lambda choice: choice["place"][0])


def name(choice: Choice) -> str:
    (world, layout, _), *rest = choice.values()
    return "-".join(map(str, [world, f"{layout.ulysses}x{layout.ring}", *rest]))


@cache
def expected(family, groups, heads, frozen):
    return reference(family, GROUPS[groups], heads, frozen)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("choice", choices(), ids=name)
def test_groups_have_the_gradients_of_separate_sequences(ranks_of, choice):
    world, layout, heads = choice["place"]
    options = RunOptions(
        checkpointed_layers=0 if choice["layers"] == "kept" else None,
        save_attention_output=choice["layers"] == "attention kept",
        vision_patches=OPTIONS.vision_patches,
    )
    case = GroupCase(
        choice["family"],
        GROUPS[choice["groups"]],
        layout,
        heads,
        schedule=choice["schedule"],
        frozen=choice["frozen"],
        options=options,
    )
    found = stepped(ranks_of(world), case)
    plain = expected(case.family, choice["groups"], heads, case.frozen)
    assert found.gradients.keys() - plain.gradients.keys() == set()
    differences = found.differences(plain, floor=1e-3)
    assert {name: error for name, error in differences.items() if not error <= TOLERANCE} == {}


@pytest.mark.parametrize("schedule", ["shared", "chunked"])
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_found(ranks_of, mistake, schedule):
    groups = GROUPS["eight of different lengths"]
    case = GroupCase("qwen2_5_vl", groups, Layout(1, 2), schedule=schedule, mistake=mistake, options=OPTIONS)
    differences = stepped(ranks_of(2), case).differences(reference("qwen2_5_vl", groups), floor=1e-3)
    assert differences["(log-probabilities)"] > 5 * TOLERANCE
