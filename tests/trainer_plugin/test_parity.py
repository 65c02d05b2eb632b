"""Loss, log-probabilities and the gradients of all parameters match those of the plain Hugging Face model.

The plain model runs in one process, one sample at a time, with its own eager attention, its own vision path and, where
they are correct, its own positions. Our model runs unpatched on 1, 2, 3, 4 and 8 gloo ranks, in float32, under FSDP2.

The default run tests every number of ranks in every layout for every family, and covers all pairs of values of the
other switches. The following command runs all combinations, each with the given number of random inputs. It takes hours
on two cores; `-k 4-` selects four ranks:

    PARITY_EXAMPLES=5 python -m pytest tests/trainer_plugin/test_parity.py
"""

import os
from functools import cache, partial
from itertools import combinations, product

import pytest

from tests.support.properties import HealthCheck, Phase, example, given, settings, st
from tests.trainer_plugin.parity import (
    FAMILIES,
    Case,
    Clip,
    Draft,
    count_supervised_tokens,
    make_samples,
    reference,
    stepped,
    tiny_family,
)
from trainer_plugin.distributed.sequence_plan import Layout
from trainer_plugin.model import Head, RunOptions

EXAMPLES = int(os.environ.get("PARITY_EXAMPLES", "0"))
TOLERANCE = 1e-5
"""Maximum difference relative to the largest entry of each tensor; float32 resolves 1.2e-7."""

WORLDS = (1, 2, 3, 4, 8)
PLACES = [
    # ranks, layout of the ranks of a row (the rest is data-parallel), query and key-value heads
    (1, Layout(1, 1), (4, 2)),
    (2, Layout(2, 1), (4, 2)),
    (2, Layout(1, 2), (4, 2)),
    (2, Layout(1, 1), (4, 2)),
    (3, Layout(3, 1), (6, 3)),
    (3, Layout(1, 3), (4, 2)),
    (4, Layout(4, 1), (4, 2)),
    (4, Layout(1, 4), (4, 2)),
    (4, Layout(2, 2), (4, 2)),
    (4, Layout(2, 1), (4, 1)),
    (8, Layout(8, 1), (8, 2)),
    (8, Layout(1, 8), (4, 2)),
    (8, Layout(4, 2), (12, 4)),
    (8, Layout(2, 4), (4, 2)),
    (8, Layout(2, 2), (4, 2)),
]
SWITCHES = {
    "packed": (True, False),
    "frozen": (True, False),
    "head": tuple(Head),
    "replicated": (False, True),
    "layers": ("kept", "recomputed", "attention kept", "one recomputed"),
}
Choice = dict[str, object]


def choices() -> list[Choice]:
    """Every place with every family, with switches chosen so that all pairs of values occur.

    With `PARITY_EXAMPLES`, all combinations.
    """
    switches = [dict(zip(SWITCHES, values, strict=True)) for values in product(*SWITCHES.values())]
    options = [
        [{"place": place, "family": family, **how} for how in switches] for place in PLACES for family in FAMILIES
    ]
    everything = [option for some in options for option in some]
    if EXAMPLES:
        return everything
    met: set[object] = set()
    chosen = []

    def take(some: list[Choice]) -> None:
        # Greedy: the most new pairs; among equals, the most new triples at this number of ranks.
        found = max(some, key=partial(news, met))
        met.update(pairs(found) | triples(found))
        chosen.append(found)

    for some in options:
        take(some)
    wanted = set().union(*map(pairs, everything))
    while not met >= wanted:
        take(everything)
    return sorted(chosen, key=lambda choice: choice["place"][0])


def news(met: set[object], choice: Choice) -> tuple[int, int]:
    return len(pairs(choice) - met), len(triples(choice) - met)


def pairs(choice: Choice) -> set[object]:
    """Pairs of values in a choice.

    There are more values of `layers` than families, so `layers` is paired with the number of ranks, not the place.
    """
    place, layers = choice["place"], choice["layers"]
    of_layout = (("place", place), ("layers", layers))
    return set(combinations(choice.items(), 2)) - {of_layout} | {("ranks", place[0], layers)}


def triples(choice: Choice) -> set[object]:
    """Triples of values in a choice, with the number of ranks in place of the layout."""
    return set(combinations({**choice, "place": choice["place"][0]}.items(), 3))


def name(choice: Choice) -> str:
    (world, layout, _), *rest = choice.values()
    return "-".join(map(str, [world, f"{layout.ulysses}x{layout.ring}", *rest]))


def test_the_choices_cover_every_pair_of_values():
    axes = {"place": PLACES, "family": FAMILIES, **SWITCHES}
    wanted = {
        ((one, value), (other, another))
        for (one, values), (other, others) in combinations(axes.items(), 2)
        for value, another in product(values, others)
        if (one, other) != ("place", "layers")
    }
    wanted |= {("ranks", world, layers) for world in WORLDS for layers in SWITCHES["layers"]}
    assert set().union(*map(pairs, choices())) == wanted


clips = st.builds(
    Clip, st.integers(1, 6), st.integers(1, 3), st.integers(1, 3), step_us=st.sampled_from([40_000, 500_000])
)
drafts = st.builds(
    Draft,
    st.tuples(st.integers(1, 9), st.lists(clips | st.integers(1, 5), max_size=3), st.integers(1, 40)).map(
        lambda parts: (parts[0], *parts[1], parts[2])
    ),
    supervised=st.sampled_from([1.0, 0.3, 0.0]),
    seed=st.integers(0, 999),
)
steps = st.lists(drafts, min_size=1, max_size=4).filter(lambda drafts: any(draft.supervised == 1 for draft in drafts))

RICH = [
    Draft((5, Clip(5), 7, Clip(1, 1, 1, 40_000), 23), seed=1),  # two videos, the first spans several ranks
    Draft((31,), supervised=1.0, seed=2),
    Draft((2, Clip(3, 3, 1, 40_000), 4), supervised=0.0, seed=3),  # frames to encode, no supervised tokens
    Draft((1, Clip(2, 1, 2), 9), supervised=1.0, seed=4),
]


@cache
def expected(family, drafts, heads, frozen):
    return reference(family, drafts, heads, frozen)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("choice", choices(), ids=name)
def test_loss_and_gradients_are_those_of_the_plain_model(ranks_of, choice):
    world, layout, heads = choice["place"]

    # The first example is always the simplest: fewer tokens than ranks. More would be too slow for 8 ranks on 2 cores.
    @settings(
        max_examples=EXAMPLES or (1 if world == 8 else 2),
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(steps, st.sampled_from([24, 16_384]))
    @example(RICH, 24)
    def check(drafts, vision_patches):
        options = RunOptions(
            head=choice["head"],
            checkpointed_layers={"kept": 0, "one recomputed": 1}.get(choice["layers"]),
            save_attention_output=choice["layers"] != "recomputed",
            mlp_tile_tokens=5 if choice["layers"] == "recomputed" else None,
            vision_patches=vision_patches,
        )
        case = Case(
            choice["family"],
            tuple(drafts),
            layout,
            heads,
            rows=1 if choice["packed"] else len(drafts),
            frozen=choice["frozen"],
            options=options,
            replicated=choice["replicated"],
        )
        found = stepped(ranks_of(world), case)
        plain = expected(case.family, case.drafts, heads, case.frozen)
        assert int((found.scores < 0).sum()) == count_supervised_tokens(make_samples(tiny_family(case.family), drafts))
        assert found.gradients.keys() - plain.gradients.keys() == set()
        differences = found.differences(plain, floor=1e-4 if drafts == RICH else 1e-2)
        assert {name: error for name, error in differences.items() if not error <= TOLERANCE} == {}

    check()


@pytest.mark.parametrize("family", FAMILIES)
def test_another_pixel_is_another_loss(ranks_of, family):
    drafts = [(Draft((4, Clip(4), 9), seed=5, touched=touched),) for touched in (False, True)]
    before, after = (stepped(ranks_of(3), Case(family, pair, Layout(1, 3))).loss for pair in drafts)
    assert before != after
    assert after == pytest.approx(reference(family, drafts[1]).loss, rel=1e-6)
