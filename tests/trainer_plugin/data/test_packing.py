import json
import random
from collections import Counter
from itertools import islice

import pytest
import torch
import torch.distributed as dist

from schemas.errors import BadInput
from tests.support.properties import given, st
from tests.trainer_plugin.runs import collect_log
from trainer_plugin.data.packing import RowStream, mask_labels
from trainer_plugin.types import IGNORED, Example, UnusableSample

BUDGET = 100


class Lengths:
    """Samples whose content is irrelevant; only the lengths matter."""

    def __init__(self, lengths):
        self.lengths = lengths

    def __len__(self):
        return len(self.lengths)

    def key(self, number):
        return f"q{number}"

    def length(self, number, max_tokens):
        if self.lengths[number] > max_tokens:
            raise UnusableSample(self.key(number), "too_long", f"{self.lengths[number]} tokens")
        return self.lengths[number]

    def example(self, number, max_tokens):
        ids = torch.full((self.length(number, max_tokens),), number)
        return Example(self.key(number), ids, ids, ids[None])


def keys(row):
    return [example.key for example in row.examples]


def has_loss(row):
    return any((example.labels != IGNORED).any() for example in row.examples)


def streams(lengths, ranks, **options):
    return [RowStream(Lengths(lengths), BUDGET, seed=1, rank=rank, ranks=ranks, **options) for rank in range(ranks)]


some_lengths = st.lists(st.integers(1, 120), min_size=1, max_size=40).filter(lambda found: min(found) <= BUDGET)


@given(some_lengths, st.integers(1, 4), st.integers(1, 8), st.integers(1, 3))
def test_each_epoch_has_every_sample_once_and_rows_stay_within_the_budget(lengths, ranks, ahead, epochs):
    steps = list(zip(*streams(lengths, ranks, epochs=epochs, look_ahead=ahead), strict=True))  # equal numbers of rows
    rows = [row for step in steps for row in step]
    assert all(0 < sum(len(example.input_ids) for example in row.examples) <= BUDGET for row in rows)
    seen = Counter(key for row in rows if has_loss(row) for key in keys(row))
    assert seen == {f"q{number}": epochs for number, length in enumerate(lengths) if length <= BUDGET}
    assert all(has_loss(row) for step in steps[:-1] for row in step)


@given(some_lengths, st.integers(1, 4), st.integers(1, 80), st.integers(0, 30))
def test_short_and_long_samples_are_seen_equally_often_after_every_row_also_across_a_resume(
    lengths, ranks, ahead, resumed_after
):
    every = streams(lengths, ranks, look_ahead=ahead)
    usable = [f"q{number}" for number, length in enumerate(lengths) if length <= BUDGET]
    seen = Counter(dict.fromkeys(usable, 0))
    for step in range(40):
        if step == resumed_after:
            state = json.loads(json.dumps(every[0].state_dict()))
            every = streams(lengths, ranks, look_ahead=ahead)
            for stream in every:
                stream.load_state_dict(state)
        for row in map(next, every):
            assert len(keys(row)) == len(set(keys(row)))
            seen.update(keys(row))
            assert max(seen.values()) - min(seen.values()) <= 1


def test_few_short_and_long_samples_are_seen_equally_often_when_steps_are_counted():
    """Read 70 rows of fourteen samples, with a look-ahead of more than four epochs."""
    [stream] = streams([20] * 7 + [90] * 7, 1)
    seen = Counter(key for row in islice(stream, 70) for key in keys(row))
    assert len(seen) == 14 and set(seen.values()) <= {8, 9}
    assert seen.total() == 115


def test_rows_stay_as_full_as_the_samples_ahead_allow():
    """Pack a thousand videos with log-normal lengths: a third of a row on average, a whole row at most."""
    drawn = random.Random(0)
    lengths = [min(BUDGET * 1000, int(drawn.lognormvariate(10.1, 0.8))) for _ in range(1000)]
    rows = list(RowStream(Lengths(lengths), BUDGET * 1000, seed=1, epochs=3))
    tokens = sum(len(example.input_ids) for row in rows for example in row.examples)
    assert tokens / (BUDGET * 1000 * len(rows)) > 0.97


@given(some_lengths, st.integers(0, 12), st.integers(1, 3), st.integers(1, 3))
def test_a_stream_resumes_exactly_where_another_stopped(lengths, before, ranks, more_ranks):
    whole = RowStream(Lengths(lengths), BUDGET, seed=7, look_ahead=5)
    list(islice(whole, before))
    state = json.loads(json.dumps(whole.state_dict()))
    rest = list(islice(whole, 6))
    again = RowStream(Lengths(lengths), BUDGET, seed=7, look_ahead=5)
    again.load_state_dict(state)
    assert [(keys(row), row.epoch) for row in islice(again, 6)] == [(keys(row), row.epoch) for row in rest]
    assert again.skipped == whole.skipped
    for rank in range(more_ranks):  # and so do more ranks
        part = RowStream(Lengths(lengths), BUDGET, seed=7, look_ahead=5, rank=rank, ranks=more_ranks)
        part.load_state_dict(state)
        assert keys(next(part)) == keys(rest[rank])


def test_the_order_depends_on_seed_and_epoch_and_nothing_else():
    def order(seed):
        rows = list(RowStream(Lengths([60] * 20), BUDGET, seed=seed, epochs=2))
        return [keys(row)[0] for row in rows]

    assert order(1) == order(1)
    assert order(1)[:20] != order(1)[20:]
    assert order(1)[:20] != order(2)[:20]
    assert order(1)[:3] == ["q0", "q17", "q8"]


def test_shorter_samples_ahead_fill_a_row():
    [first, *_] = list(RowStream(Lengths([70] * 5 + [30] * 5), BUDGET, seed=1, epochs=1))
    assert sorted(len(example.input_ids) for example in first.examples) in ([30, 30, 30], [30, 70])


def test_a_step_that_runs_out_of_samples_is_filled_with_rows_without_labels():
    first, second = (list(stream) for stream in streams([BUDGET] * 3, ranks=2, epochs=1))
    assert [has_loss(row) for row in first] == [True, True]
    assert [has_loss(row) for row in second] == [True, False]
    assert keys(second[1]) == keys(first[1])


def test_a_sample_that_does_not_fit_is_skipped_and_named():
    stream = RowStream(Lengths([10, 500, 20]), BUDGET, seed=1, epochs=2)
    assert Counter(key for row in stream for key in keys(row)) == {"q0": 2, "q2": 2}
    assert stream.skipped == {"q1": "too_long"}


def messages_about_skips(groups: int) -> list[str]:
    """Messages that this rank logs for a stream of three samples, two of which are too long."""
    rank = dist.get_rank() * groups // dist.get_world_size()
    with collect_log("trainer_plugin.data.packing") as messages:
        list(RowStream(Lengths([10, 500, 600]), BUDGET, seed=1, rank=rank, ranks=groups, epochs=2))
    return messages


@pytest.mark.parametrize("groups", [1, 2])
def test_a_sample_that_is_skipped_is_logged_by_one_rank(ranks, groups):
    first, other = ranks[2].run(messages_about_skips, groups)
    assert len(first) == 1 and other == []


def test_a_waiting_sample_that_does_not_fit_a_smaller_budget_is_skipped():
    before = RowStream(Lengths([90, 60, 20, 80]), BUDGET, seed=1, epochs=1)
    first_row = keys(next(before))
    after = RowStream(Lengths([90, 60, 20, 80]), 50, seed=1, epochs=1)
    after.load_state_dict(before.state_dict())
    rest = [key for row in after for key in keys(row)]
    assert sorted([*first_row, *rest, *after.skipped]) == ["q0", "q1", "q2", "q3"]
    assert len(after.skipped) >= 2


def test_a_skipped_sample_that_fits_a_larger_budget_is_used_again():
    before = RowStream(Lengths([90, 60, 20]), 70, seed=1, epochs=3, look_ahead=1)
    while not before.skipped:
        next(before)
    assert list(before.skipped) == ["q0"]
    after = RowStream(Lengths([90, 60, 20]), BUDGET, seed=1, epochs=3, look_ahead=1)
    after.load_state_dict(before.state_dict())
    assert "q0" in [key for row in after for key in keys(row)]
    assert after.skipped == {}


def test_a_stream_without_usable_samples_is_refused():
    with pytest.raises(BadInput, match="no samples to train on"):
        RowStream(Lengths([]), BUDGET, seed=1)
    with pytest.raises(BadInput, match=r"not one of the 2 samples can be trained on: \{'too_long': 2\}"):
        next(RowStream(Lengths([500, 500]), BUDGET, seed=1))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            RowStream(Lengths([1, 2, 3]), BUDGET, seed=1),
            "^the saved position is one among other samples than these 3; ",
        ),
        (RowStream(Lengths([1]), BUDGET, seed=2), "^seed is 2, but the saved position is of seed 1; set seed to that$"),
    ],
    ids=["samples", "seed"],
)
def test_a_position_among_other_samples_or_of_another_seed_is_refused_by_what_differs(other, message):
    with pytest.raises(BadInput, match=message):
        other.load_state_dict(RowStream(Lengths([1]), BUDGET, seed=1).state_dict())


def test_failed_examples_lose_their_labels_and_nothing_else():
    [row] = RowStream(Lengths([10, 20, 30]), BUDGET, seed=1, epochs=1)
    masked = mask_labels(row, torch.tensor([False, True, False]))
    assert [bool((example.labels == IGNORED).all()) for example in masked.examples] == [False, True, False]
    assert all(torch.equal(a.input_ids, b.input_ids) for a, b in zip(row.examples, masked.examples, strict=True))
