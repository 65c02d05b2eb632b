"""Running rewards: weights, failures, outages, calls for single responses, and one result for all ranks."""

import asyncio
import itertools
import math
import pickle
import subprocess
import sys
import threading
from functools import partial

import numpy
import pytest
import torch

from schemas.errors import BadInput, Outage
from tests.support.properties import given, st
from tests.trainer_plugin import parity
from trainer_plugin.distributed.sequence_plan import Layout
from trainer_plugin.rl.rewards.base import Reward, RewardBatch, load_reward
from trainer_plugin.rl.rewards.run import RewardCalls, gather_rewards, merge_results, run_rewards

LONG = 60.0
"""A timeout that nothing reaches."""


def make_batch(*completions: str, keys: str = "aabb", **columns) -> RewardBatch:
    """Responses to two samples."""
    count = len(completions)
    ids = [list(text.encode()) for text in completions]
    named = {"prompts": ["Where?"] * count, "completions": list(completions), "completion_ids": ids, **columns}
    return RewardBatch(list(keys[:count]), named)


BATCH = make_batch("one", "two", "bad", "four")


def run(*functions, batch=BATCH, weights=None, timeout=LONG):
    loaded = [each if isinstance(each, Reward) else Reward(each.__name__, each) for each in functions]
    return run_rewards(loaded, weights or [1.0] * len(loaded), batch, timeout)


def lengths(completions):
    return [len(text) for text in completions]


def bad(values):
    """Make a function that gives `values[text]` for each response, or raises it."""

    def function(completions):
        found = [values.get(text, 1.0) for text in completions]
        for value in found:
            if isinstance(value, type):
                raise value("boom")
        return found

    return function


def show(values: torch.Tensor) -> list:
    return [[None if math.isnan(value) else value for value in row] for row in values.tolist()]


def test_rewards_are_weighted_and_none_does_not_apply():
    def first(completions):
        return [None, 1, True, numpy.float32(2)]

    def second(completions, **columns):
        return torch.tensor([1.0, 2.0, 3.0, 4.0])

    rewards = run(first, second, weights=[1.0, 0.5])
    assert show(rewards.values) == [[None, 1], [1, 2], [1, 3], [2, 4]]
    assert rewards.totals.tolist() == [0.5, 2, 2.5, 4]
    assert rewards.failures == () and rewards.names == ("first", "second")
    assert rewards.metrics["second/mean"] == 2.5 and rewards.metrics["first/failures"] == 0


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (RuntimeError, "RuntimeError: boom (test_run.py:"),
        (SystemExit, "it raised SystemExit: boom"),
        (math.nan, "it returned nan; return a finite number"),
        (math.inf, "it returned inf; return a finite number"),
        (1e300, "it returned 1e+300; return a finite number"),
        (10**400, "it returned a number of"),
        ("1.0", "it returned '1.0'; return a finite number"),
        ([1.0], "it returned [1.0]; return a finite number"),
        (torch.tensor([1.0, 2.0]), "it returned tensor([1., 2.])"),
        (ValueError("no frame at 3 s; drop it"), "no frame at 3 s; drop it"),
    ],
)
def test_a_failure_costs_only_its_own_response(value, message):
    rewards = run(bad({"bad": value}), lengths)
    assert show(rewards.values) == [[1, 3], [1, 3], [None, None], [1, 4]]
    (failure,) = rewards.failures
    assert (failure.key, failure.response, failure.function) == ("b", 2, "function")
    assert failure.message.startswith("reward function failed for question b, response 2 ('bad'): ")
    assert message in failure.message
    assert math.isnan(rewards.totals[2]) and rewards.metrics["function/failures"] == 1


def test_a_failed_measurement_without_weight_excludes_no_response():
    rewards = run(bad({"bad": math.nan}), lengths, weights=[0.0, 1.0])
    assert show(rewards.values)[2] == [None, 3] and rewards.totals.tolist() == [3, 3, 3, 4]
    assert len(rewards.failures) == 1


def test_a_wrong_number_of_values_is_tried_again_one_by_one():
    rewards = run(lambda completions: [1.0 for text in completions if text != "bad"])
    assert show(rewards.values) == [[1], [1], [None], [1]]
    assert "it returned 0 values for 1 responses; return one value per response" in rewards.failures[0].message


@pytest.mark.parametrize(("result", "message"), [(1.0, "it returned 1.0"), (None, "it returned None")])
def test_a_function_that_returns_no_list_stops_the_run(result, message):
    with pytest.raises(BadInput, match=f"{message}; return a list"):
        run(lambda completions: result)


def test_a_function_that_fails_for_all_samples_stops_the_run():
    with pytest.raises(BadInput, match=r"has no value for any of 4 responses; the first: .*ZeroDivisionError"):
        run(lambda completions: 1 / 0)


def test_one_broken_sample_does_not_stop_the_run():
    rewards = run(lambda completions: 1 / 0, lengths, batch=make_batch("one", "two", keys="aa"))
    assert show(rewards.values) == [[None, None]] * 2 and len(rewards.failures) == 2


def test_bad_input_of_a_function_stops_the_run():
    def function(completions):
        raise BadInput("no key; set MY_KEY")

    async def coroutine(completions):
        raise BadInput("no key; set MY_KEY")

    for each in (function, coroutine):
        with pytest.raises(BadInput, match="set MY_KEY"):
            run(each)


@pytest.fixture
def released():
    """An event that ends hanging functions after the test."""
    event = threading.Event()
    yield event
    event.set()


def test_a_function_that_hangs_costs_only_its_own_response(released):
    def hang(completions):
        if "bad" in completions:
            released.wait()
        return [1.0] * len(completions)

    rewards = run(hang, timeout=1.0)
    assert show(rewards.values) == [[1], [1], [None], [1]]
    assert "it gave no value within 1.0 s; make it faster" in rewards.failures[0].message


def test_a_function_that_hangs_often_is_not_called_again(released):
    calls = []

    def hang(completions):
        calls.append(completions)
        if completions != ["good"]:
            released.wait()
        return [1.0]

    rewards = run(hang, batch=make_batch("good", *"abcdef", keys="aabbccd"), timeout=0.5)
    assert len(calls) == 5 and len(rewards.failures) == 6
    assert "it had hung for 3 responses" in rewards.failures[-1].message


def test_a_function_that_hangs_for_all_is_an_outage(released):
    with pytest.raises(Outage, match=r"reward r has no value for any of 4 responses; .*no value within 0.05 s"):
        run(Reward("r", lambda completions: released.wait()), timeout=0.05)


def test_coroutine_functions_run_concurrently():
    meeting = threading.Barrier(2)

    def make(name):
        async def meet(completions):
            await asyncio.to_thread(meeting.wait)
            return [1.0] * len(completions)

        return Reward(name, meet)

    assert run(make("one"), make("other"), lengths).totals.tolist() == [5, 5, 5, 6]


def test_a_coroutine_that_hangs_costs_only_its_own_response():
    async def hang(completions):
        if "bad" in completions:
            await asyncio.Event().wait()
        return [1.0] * len(completions)

    rewards = run(hang, timeout=1.0)
    assert show(rewards.values) == [[1], [1], [None], [1]]
    assert "it gave no value within 1.0 s" in rewards.failures[0].message


def test_a_coroutine_that_raises_or_times_out_itself_costs_only_its_own_response():
    async def own(completions):
        if "bad" in completions:
            raise TimeoutError("the database")
        return [1.0] * len(completions)

    assert "TimeoutError: the database" in run(own).failures[0].message


def test_a_coroutine_that_blocks_its_loop_is_an_outage_and_works_again_later(released):
    async def block(completions):
        released.wait()
        return [1.0] * len(completions)

    reward = Reward("block", block)
    with pytest.raises(Outage, match="it blocks its event loop; await everything"):
        run(reward, lengths, timeout=0.05)
    released.set()
    assert run(reward).totals.tolist() == [1, 1, 1, 1]


def test_a_client_may_stay_with_its_loop_between_steps():
    loops = []

    async def keep(completions):
        loops.append(asyncio.get_running_loop())
        return [1.0] * len(completions)

    reward = Reward("keep", keep)
    run(reward)
    run(reward)
    assert loops[0] is loops[1] and loops[0].is_running()


HANGING = """
import threading
from schemas.errors import Outage
from trainer_plugin.rl.rewards.base import Reward, RewardBatch
from trainer_plugin.rl.rewards.run import run_rewards

async def block(completions):
    threading.Event().wait()

def hang(completions):
    threading.Event().wait()

batch = RewardBatch(["k"], {"prompts": ["p"], "completions": ["c"], "completion_ids": [[1]]})
try:
    run_rewards([Reward("block", block), Reward("hang", hang)], [1.0, 1.0], batch, 0.05)
except Outage:
    print("outage")
"""


def test_hanging_functions_do_not_keep_the_trainer_from_ending():
    ended = subprocess.run([sys.executable, "-c", HANGING], capture_output=True, text=True, timeout=200)
    assert (ended.stdout, ended.returncode) == ("outage\n", 0), ended.stderr


def test_a_function_cannot_change_the_batch():
    def spoil(completions):
        completions[:] = [""] * len(completions)
        return [0.0] * 4

    assert run(spoil, lengths).totals.tolist() == [3, 3, 3, 4]


def test_a_response_to_which_no_reward_applies_is_named():
    rewards = run(lambda completions: [1.0, 1.0, None, None])
    assert [(failure.key, failure.response, failure.function) for failure in rewards.failures] == [
        ("b", 2, ""),
        ("b", 3, ""),
    ]
    assert "no reward applies to it; add one" in rewards.failures[0].message
    assert rewards.metrics["without_reward"] == 2


def test_empty_responses_and_broken_samples_are_different():
    columns = {
        "options": [("dog", "cat")] * 2 + [()] * 2,
        "answer": ["<answer>B</answer>"] * 4,
        "kind": ["choice"] * 4,
    }
    rewards = run(load_reward("accuracy"), batch=make_batch("", " \n", "B", "B", **columns))
    assert show(rewards.values) == [[0], [0], [None], [None]]
    assert rewards.empty == (0, 1) and rewards.metrics["empty_responses"] == 0.5
    assert [failure.response for failure in rewards.failures] == [2, 3]
    assert "a choice question has no options" in rewards.failures[0].message


def test_weights_must_fit():
    for weights in ([1.0, 1.0], [math.nan]):
        with pytest.raises(ValueError, match="do not fit 1 rewards"):
            run(lengths, weights=weights)


# --- calls for single responses


def per_response(function, name="single") -> Reward:
    function.per_response = True
    return Reward(name, function)


def begin(calls: RewardCalls, batch: RewardBatch, *rows: int) -> None:
    for row in rows:
        calls.begin(batch.select(row))


def test_a_call_for_one_response_begins_before_the_others_end():
    begun, seen = threading.Event(), []

    async def single(completions):
        begun.set()
        return [float(len(completions[0]))]

    def whole(completions):
        seen.append(completions)
        return [0.0] * len(completions)

    calls = RewardCalls([per_response(single), Reward("whole", whole)], [1.0, 1.0], LONG)
    begin(calls, BATCH, 2)
    assert begun.wait(LONG) and not seen
    assert calls.finish(BATCH).values.tolist() == [[3, 0], [3, 0], [3, 0], [4, 0]]
    assert seen == [BATCH.columns["completions"]]


TEXTS = st.sampled_from(["", "one", "three", "bad", "none", "inf", "late"])


def score(text: str) -> float | Exception | None:
    values = {"bad": ValueError("no frame"), "none": None, "inf": math.inf, "late": Outage("down")}
    return values.get(text, float(len(text)))


async def score_alone(completions):
    return [score(text) for text in completions]


async def score_all(completions):
    return [score(text) for text in completions]


def outcome(function, *arguments):
    """A function's rewards or error, as values that can be compared."""
    try:
        rewards = function(*arguments)
    except (BadInput, Outage) as error:
        return type(error), str(error)
    return show(rewards.values), rewards.failures, rewards.empty


ALONE = [per_response(score_alone, "score"), Reward("length", lengths)]
ALL = [Reward("score", score_all), Reward("length", lengths)]


@given(texts=st.lists(st.tuples(st.sampled_from("abc"), TEXTS), max_size=8), data=st.data())
def test_results_do_not_depend_on_when_calls_begin_or_which_group_made_them(texts, data):
    batch = make_batch(*(text for _, text in texts), keys="".join(key for key, _ in texts))
    expected = outcome(run_rewards, ALL, [1.0, 1.0], batch, LONG)
    order = data.draw(st.permutations(range(len(batch))))
    calls = RewardCalls(ALONE, [1.0, 1.0], LONG)
    begin(calls, batch, *order[: data.draw(st.integers(0, len(batch)))])
    assert outcome(merge_results, calls.functions, calls.weights, [calls.finish(batch)]) == expected
    cut = data.draw(st.integers(0, len(batch)))
    parts = []
    for rows in (range(cut), range(cut, len(batch))):
        columns = {name: [column[row] for row in rows] for name, column in batch.columns.items()}
        part = RewardBatch([batch.keys[row] for row in rows], columns)
        parts.append(pickle.loads(pickle.dumps(RewardCalls(ALONE, [1.0, 1.0], LONG).finish(part))))
    assert outcome(merge_results, calls.functions, calls.weights, parts) == expected


def test_equal_responses_have_calls_of_their_own():
    numbers = itertools.count()

    async def count(completions):
        return [float(next(numbers))]

    calls = RewardCalls([per_response(count)], [1.0], LONG)
    batch = make_batch("one", "one", "one", keys="aab")
    begin(calls, batch, 1, 0)
    assert sorted(calls.finish(batch).values[:, 0].tolist()) == [0, 1, 2]


def test_a_call_is_found_again_whatever_holds_the_token_ids():
    calls_of = []

    async def single(completions):
        calls_of.extend(completions)
        return [1.0]

    calls = RewardCalls([per_response(single)], [1.0], LONG)
    columns = BATCH.columns | {"completion_ids": [torch.tensor(ids) for ids in BATCH.columns["completion_ids"]]}
    begin(calls, RewardBatch(BATCH.keys, columns), 0, 1)
    assert calls.finish(BATCH).values[:, 0].tolist() == [1, 1, 1, 1]
    assert sorted(calls_of) == sorted(BATCH.columns["completions"])


def test_a_call_for_one_response_that_hangs_or_raises_costs_only_its_own_response():
    async def single(completions):
        if completions == ["bad"]:
            await asyncio.Event().wait()
        if completions == ["four"]:
            raise KeyError("x")
        return [1.0]

    calls = RewardCalls([per_response(single)], [1.0], 0.5)
    begin(calls, BATCH, 2, 3)
    results = calls.finish(BATCH)
    assert show(results.values) == [[1], [1], [None], [None]]
    assert [(failure.response, failure.is_outage) for failure in results.failures] == [(2, True), (3, False)]
    assert "it gave no value within 0.5 s" in results.failures[0].reason
    assert "KeyError: 'x' (test_run.py:" in results.failures[1].reason


def test_a_call_for_one_response_that_blocks_its_loop_is_an_outage(released):
    async def block(completions):
        if completions == ["bad"]:
            released.wait()
        return [1.0]

    reward = per_response(block)
    calls = RewardCalls([reward], [1.0], 0.05)
    begin(calls, BATCH, 2, 0)
    with pytest.raises(Outage, match="it blocks its event loop"):
        merge_results(calls.functions, calls.weights, [calls.finish(BATCH)])
    released.set()
    assert run(reward).totals.tolist() == [1, 1, 1, 1]


def test_bad_input_of_a_call_for_one_response_stops_the_run():
    async def single(completions):
        raise BadInput("no key; set MY_KEY")

    calls = RewardCalls([per_response(single)], [1.0], LONG)
    begin(calls, BATCH, 0)
    with pytest.raises(BadInput, match="set MY_KEY"):
        calls.finish(BATCH)


def test_a_call_for_a_response_that_is_not_in_the_batch_is_cancelled():
    cancelled = threading.Event()

    async def single(completions):
        try:
            if completions == ["bad"]:
                await asyncio.Event().wait()
            return [1.0]
        except asyncio.CancelledError:
            cancelled.set()
            raise

    calls = RewardCalls([per_response(single)], [1.0], LONG)
    begin(calls, BATCH, 2)
    assert calls.finish(make_batch("one")).values.tolist() == [[1]]
    assert cancelled.wait(LONG)


def test_what_begins_is_one_response_with_the_arguments_of_every_function():
    calls = RewardCalls([Reward("lengths", lengths)], [1.0], LONG)
    with pytest.raises(ValueError, match="a batch of 4 responses; begin each response alone"):
        calls.begin(BATCH)
    calls = RewardCalls([Reward("missing", lambda answers: [1.0])], [1.0], LONG)
    with pytest.raises(BadInput, match="there is no column for its argument 'answers'"):
        begin(calls, BATCH, 0)


def test_a_group_without_responses_calls_nothing():
    def never(completions):
        raise AssertionError

    calls = RewardCalls([Reward("never", never)], [1.0], LONG)
    assert calls.finish(make_batch()).values.shape == (0, 1)


def test_calls_end_within_the_longest_time(released):
    """The first calls hang; each later one takes most of the timeout."""
    slow = Reward(
        "slow", lambda completions: released.wait(0.18) or [1.0] if len(completions) == 1 else released.wait()
    )
    calls = RewardCalls([slow, per_response(score_alone)], [1.0, 1.0], 0.2)
    assert calls.longest_seconds == 5 * 0.2 + 1
    results = calls.finish(make_batch(*"abcdefghijkl", keys="abcdefghijkl"))
    assert results.failures[-1].response == 11 and results.failures[-1].reason.startswith("it was not called, because")


# --- several ranks


def part_of(number: int, groups: int) -> RewardBatch:
    rows = range(4 * number // groups, 4 * (number + 1) // groups)
    return make_batch(
        *(BATCH.columns["completions"][row] for row in rows), keys="".join(BATCH.keys[row] for row in rows)
    )


class Down:
    """A judge that is out on some ranks."""

    per_response = True

    def __init__(self, *ranks: int) -> None:
        self.ranks = ranks

    async def __call__(self, completions):
        if torch.distributed.get_rank() in self.ranks:
            raise Outage(f"rank {torch.distributed.get_rank()} has no network")
        return [1.0]


def rewards_of_rank(layout: Layout, kind: str):
    parallel = parity.groups(layout)
    batch = part_of(parallel.dp_rank, parallel.dp)
    rank = parallel.rank
    functions = {
        "values": Reward("rank", lambda completions: [float("bad" not in text) + rank for text in completions]),
        "failures": Reward("bad", bad({"bad": math.nan, "one": ValueError("no frame")})),
        "outage on one": Reward("down", Down(1)),
        "outage on all": Reward("down", Down(0, 1)),
        "error": Reward("error", lambda completions: 1 / 0),
        "bad input on one": Reward("bad", bad({"four": BadInput})),
    }
    calls = RewardCalls([functions[kind]], [1.0], LONG)
    begin(calls, batch, *(row for row in range(len(batch)) if parallel.sp_rank == 0 and row != 1))
    return outcome(gather_rewards, calls, partial(calls.finish, batch), parallel)


def rewards_of_ranks(ranks, kind: str, layout: Layout = Layout()):  # noqa: B008 - it is frozen
    first, second = ranks[2].run(rewards_of_rank, layout, kind)
    assert first == second
    return first


def test_every_rank_has_the_rewards_of_all(ranks):
    values, failures, empty = rewards_of_ranks(ranks, "values")
    assert values == [[1], [1], [1], [2]] and failures == () and empty == ()


def test_the_first_rank_of_those_that_share_a_row_calls_the_functions(ranks):
    assert rewards_of_ranks(ranks, "values", Layout(2, 1))[0] == [[1], [1], [0], [1]]


def test_failures_are_numbered_over_all_ranks(ranks):
    values, failures, _ = rewards_of_ranks(ranks, "failures")
    assert values == [[None], [1], [None], [1]]
    assert [(failure.key, failure.response) for failure in failures] == [("a", 0), ("b", 2)]
    assert "question b, response 2 ('bad'): it returned nan" in failures[1].message


def test_an_outage_on_one_rank_costs_its_responses_and_one_on_all_ranks_stops_the_run(ranks):
    values, failures, _ = rewards_of_ranks(ranks, "outage on one")
    assert values == [[1], [1], [None], [None]]
    assert ["rank 1 has no network" in failure.message for failure in failures] == [True, True]
    kind, message = rewards_of_ranks(ranks, "outage on all")
    assert kind is Outage and "reward down has no value for any of 4 responses; the first:" in message


@pytest.mark.parametrize(("kind", "message"), [("error", "ZeroDivisionError"), ("bad input on one", "boom")])
def test_two_ranks_raise_equal_errors(ranks, kind, message):
    error, text = rewards_of_ranks(ranks, kind)
    assert error is BadInput and message in text
