"""Running rewards: weights, failures of every kind, outages, and one result for all ranks."""

import asyncio
import math
import subprocess
import sys
import threading

import numpy
import pytest
import torch

from schemas.errors import BadInput, Outage
from trainer_plugin.rl.rewards.base import Reward, RewardBatch, load_reward
from trainer_plugin.rl.rewards.run import run_rewards, run_rewards_on_rank_zero

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


def random_rewards(completions):
    return [float(value) if value > 0 else None for value in torch.randn(len(completions))]


def rewards_of_rank(broken):
    batch = BATCH if torch.distributed.get_rank() == 0 else None
    torch.manual_seed(torch.distributed.get_rank())
    noise = Reward("noise", bad({}) if broken else random_rewards)
    failing = Reward("bad", (lambda completions: 1 / 0) if broken else bad({"bad": math.nan}))
    try:
        rewards = run_rewards_on_rank_zero([noise, failing], [1.0, 1.0], batch, LONG)
    except BadInput as error:
        return str(error)
    return rewards.values.nan_to_num(-1).tolist(), rewards.failures, rewards.empty


def test_two_ranks_get_equal_rewards_and_failures(ranks):
    first, second = ranks[2].run(rewards_of_rank, False)
    assert first == second and len(first[1]) >= 1


def test_two_ranks_raise_equal_errors(ranks):
    first, second = ranks[2].run(rewards_of_rank, True)
    assert first == second and "ZeroDivisionError" in first
