"""Runs several rewards over the responses of a round, and keeps a failure from costing more than its own response.

Calls for single responses begin as each response ends (`RewardCalls.begin`); the others follow once all have ended
(`RewardCalls.finish`). The first rank of each data-parallel group calls the rewards of the group's responses, and
`gather_rewards` gives every rank the rewards of all.

A function fails for a response if it raises, gives no value within the timeout, or returns NaN, an infinite number or
something that is no number. If a call with all responses fails as a whole, each response is tried alone. A response
with a failure has no reward at all: scored 0 it would count as wrong, and without the failed part it would be compared
with responses that have it.

Every call runs in a daemon thread, which the trainer abandons after the timeout. A function that hangs in C code and
holds Python's global lock cannot be abandoned.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import math
import queue
import threading
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from schemas.base import shown_value
from schemas.errors import BadInput, Outage
from trainer_plugin.distributed.mesh import RankContext, run_on_all_ranks
from trainer_plugin.rl.rewards.base import Reward, RewardBatch, RewardFailure, Rewards

MOST_HANGS = 3
"""A function that hangs for so many single responses is not called for the others."""

_GRACE_SECONDS = 1.0
"""Time for a coroutine to end after its timeout, before its event loop counts as blocked."""

_Values = list[float | Exception | None]


@dataclass(frozen=True)
class FailedCall:
    """A response for which a function failed."""

    response: int
    """Index of the response among those of its data-parallel group."""
    function: int
    """Index of the function."""
    text: str
    """The response, shortened for a message."""
    reason: str
    is_outage: bool
    """Whether the reason is an outage or the timeout."""


@dataclass(frozen=True)
class RewardResults:
    """What F functions returned for the R responses of one data-parallel group. It can be pickled."""

    keys: tuple[str, ...]
    """The question's id of each response."""
    values: Tensor
    """[R, F] float32, NaN where a function does not apply or failed."""
    failures: tuple[FailedCall, ...]
    empty: tuple[int, ...]
    """Indices of responses without text."""


class RewardCalls:
    """The calls of F rewards for the responses of one round, on one rank."""

    def __init__(self, functions: Sequence[Reward], weights: Sequence[float], timeout_seconds: float) -> None:
        """
        Args:
            weights: one per function. 0 only measures a function: its failure excludes no response.
            timeout_seconds: limit of one call.

        Raises:
            ValueError: the number of weights is wrong, or one is not finite.
        """
        _check_weights(functions, weights)
        self.functions = tuple(functions)
        self.weights = tuple(weights)
        self.timeout_seconds = timeout_seconds
        self._begun: defaultdict[tuple[object, ...], list[dict[int, Future[_Values]]]] = defaultdict(list)

    @property
    def longest_seconds(self) -> float:
        """The time after which `finish` has ended, in seconds.

        A caller whose other ranks wait in a collective keeps it below the collective's timeout
        (`parallel.timeout_minutes`).
        """
        coroutines = sum(function.is_async for function in self.functions)
        others = len(self.functions) - coroutines
        calls = max(2 if coroutines else 0, others * (2 + MOST_HANGS))
        return calls * self.timeout_seconds + coroutines * _GRACE_SECONDS

    def begin(self, batch: RewardBatch) -> None:
        """Start the calls of `per_response` functions for one response that has ended. It does not wait for them.

        Args:
            batch: the response alone. It is found again in the batch of `finish` by key, text and token ids.

        Raises:
            BadInput: a function needs an argument that is no column.
            ValueError: the batch does not hold one response.
        """
        if len(batch) != 1:
            raise ValueError(f"a batch of {len(batch)} responses; begin each response alone")
        for function in self.functions:
            function.select_arguments(batch.columns)
        self._begun[_identify(batch)].append(self._start(batch))

    def finish(self, batch: RewardBatch) -> RewardResults:
        """Call everything that has not begun, and wait for all values. It may run in another thread.

        Coroutine functions run concurrently with each other and with the other functions, which run one after another.
        It ends within `longest_seconds`.

        Args:
            batch: all R responses of this rank's data-parallel group. Calls that began for other responses are
                cancelled.

        Raises:
            BadInput: a function raised it, or needs an argument that is no column.
        """
        for function in self.functions:
            function.select_arguments(batch.columns)
        started = time.monotonic()
        single: list[dict[int, Future[_Values]]] = []
        for row in range(len(batch)):
            response = batch.select(row)
            begun = self._begun.get(_identify(response))
            single.append(begun.pop(0) if begun else self._start(response))
        for calls in self._begun.values():
            for future in (future for each in calls for future in each.values()):
                future.cancel()
        self._begun.clear()
        found: dict[int, _Values] = {}
        if len(batch):
            whole = {
                index: asyncio.run_coroutine_threadsafe(
                    _await_all(function, batch, self.timeout_seconds), function.loop
                )
                for index, function in enumerate(self.functions)
                if function.is_async and not function.per_response
            }
            for index, function in enumerate(self.functions):
                if not function.is_async:
                    found[index] = _call_all(function, batch, self.timeout_seconds)
            end = started + 2 * self.timeout_seconds + _GRACE_SECONDS
            for index, function in enumerate(self.functions):
                if function.is_async:
                    futures = [whole[index]] if index in whole else [each[index] for each in single]
                    found[index] = _wait_for(futures, function, max(_GRACE_SECONDS, end - time.monotonic()), len(batch))
        values = torch.full((len(batch), len(self.functions)), torch.nan)
        failures = []
        for index, column in sorted(found.items()):
            for row, value in enumerate(column):
                if isinstance(value, Exception):
                    text = shown_value(batch.columns["completions"][row])
                    failures.append(FailedCall(row, index, text, _describe(value), isinstance(value, Outage)))
                elif value is not None:
                    values[row, index] = value
        empty = tuple(row for row, text in enumerate(batch.columns["completions"]) if not text.strip())
        return RewardResults(tuple(batch.keys), values, tuple(failures), empty)

    def _start(self, response: RewardBatch) -> dict[int, Future[_Values]]:
        """Start the `per_response` functions, by index, for a batch of one."""
        return {
            index: asyncio.run_coroutine_threadsafe(_await_all(function, response, self.timeout_seconds), function.loop)
            for index, function in enumerate(self.functions)
            if function.per_response
        }


def run_rewards(
    functions: Sequence[Reward], weights: Sequence[float], batch: RewardBatch, timeout_seconds: float
) -> Rewards:
    """Call F rewards for R responses, in this process alone.

    Args:
        weights, timeout_seconds: as in `RewardCalls`.

    Raises:
        BadInput, Outage, ValueError: as `RewardCalls` and `merge_results`.
    """
    results = RewardCalls(functions, weights, timeout_seconds).finish(batch)
    return merge_results(functions, weights, [results])


def gather_rewards(calls: RewardCalls, finish: Callable[[], RewardResults], parallel: RankContext) -> Rewards:
    """The rewards of all ranks' responses, in the order of data-parallel ranks. Every rank must call it.

    A judge does not answer equally twice, so only the first rank of those that share a row calls the functions.

    Args:
        calls: this rank's calls, of the same functions with the same weights on every rank.
        finish: returns the results of the group's responses: `partial(calls.finish, batch)`, or the `result` of a
            future if that runs in a thread. It is called on the first rank of each group only. The other ranks wait in
            a collective, so `RewardCalls.longest_seconds` must be below its timeout (`parallel.timeout_minutes`).

    Raises:
        BadInput, Outage: on every rank, as `RewardCalls.finish` and `merge_results`.
    """
    mine = run_on_all_ranks(lambda: finish() if parallel.sp_rank == 0 else None)
    everyone: list[RewardResults | None] = [None] * parallel.world_size
    dist.all_gather_object(everyone, mine)
    return merge_results(calls.functions, calls.weights, [each for each in everyone if each is not None])


def merge_results(functions: Sequence[Reward], weights: Sequence[float], results: Sequence[RewardResults]) -> Rewards:
    """The rewards of the responses of several groups, one after another.

    Failures count over all groups: a group whose few requests all fail cannot distinguish an outage from bad samples.

    Args:
        functions, weights: as in `RewardCalls`.

    Raises:
        Outage: a function has no value for any response, and one failed for an outage or for the timeout.
        BadInput: a function failed for all responses of more than one sample.
        ValueError: the number of weights is wrong, or one is not finite.
    """
    _check_weights(functions, weights)
    keys: list[str] = []
    empty: list[int] = []
    calls: list[tuple[int, int, FailedCall]] = []
    for each in results:
        calls += [(call.function, len(keys) + call.response, call) for call in each.failures]
        empty += [len(keys) + row for row in each.empty]
        keys += each.keys
    values = torch.cat([each.values for each in results])
    calls.sort(key=lambda each: each[:2])
    failures = [
        RewardFailure(
            keys[row],
            row,
            functions[index].name,
            f"reward {functions[index].name} failed for question {keys[row]}, response {row} ({call.text}): "
            f"{call.reason}",
        )
        for index, row, call in calls
    ]
    for index, function in enumerate(functions):
        own = [number for number, (other, _, _) in enumerate(calls) if other == index]
        if not own or not values[:, index].isnan().all():
            continue
        message = (
            f"reward {function.name} has no value for any of {len(keys)} responses; the first: "
            f"{failures[own[0]].message}"
        )
        if any(calls[number][2].is_outage for number in own):
            raise Outage(message)
        if len(own) == len(keys) and len(set(keys)) > 1:
            raise BadInput(message)
    excluded = sorted({row for index, row, _ in calls if weights[index]})
    values[excluded] = torch.nan
    weighted = [index for index, weight in enumerate(weights) if weight]
    for row in values[:, weighted].isnan().all(1).nonzero()[:, 0].tolist():
        if row not in excluded:
            message = f"question {keys[row]}, response {row}: no reward applies to it; add one, such as judge"
            failures.append(RewardFailure(keys[row], row, "", f"{message} for open questions"))
    names = tuple(function.name for function in functions)
    return Rewards(names, torch.tensor(list(weights), dtype=torch.float32), values, tuple(failures), tuple(empty))


def _check_weights(functions: Sequence[Reward], weights: Sequence[float]) -> None:
    if len(weights) != len(functions) or not all(map(math.isfinite, weights)):
        raise ValueError(f"the weights {list(weights)} do not fit {len(functions)} rewards; give a finite one for each")


def _identify(batch: RewardBatch) -> tuple[object, ...]:
    """What distinguishes a batch of one from others. Equal ones have equal arguments, so their calls are alike."""
    [key], [text], [ids] = batch.keys, batch.columns["completions"], batch.columns["completion_ids"]
    return key, text, tuple(map(int, ids))  # ids may be a tensor, whose elements are never equal as keys


async def _await_all(function: Reward, batch: RewardBatch, timeout_seconds: float) -> _Values:
    try:
        return await _await_once(function, batch, timeout_seconds)
    except BadInput:
        raise
    except Exception as error:  # noqa: BLE001 - it becomes the failure of a response
        if len(batch) == 1:
            return [error]

    async def try_alone(row: int) -> float | Exception | None:
        try:
            return (await _await_once(function, batch.select(row), timeout_seconds))[0]
        except Exception as error:  # noqa: BLE001 - as above
            return error

    return list(await asyncio.gather(*map(try_alone, range(len(batch)))))


async def _await_once(function: Reward, batch: RewardBatch, timeout_seconds: float) -> _Values:
    try:
        async with asyncio.timeout(timeout_seconds) as limit:
            result = await function.function(**function.select_arguments(batch.columns))
    except TimeoutError:
        if limit.expired():
            raise _hang(timeout_seconds) from None
        raise
    return _read_values(result, len(batch))


def _wait_for(futures: Sequence[Future[_Values]], function: Reward, seconds: float, count: int) -> _Values:
    """The values of `count` responses, from a future for each of them or one for all."""
    _, late = concurrent.futures.wait(futures, seconds)
    if late:
        for future in late:
            future.cancel()
        function.__dict__.pop("loop", None)  # the next call starts a new one
    blocked: _Values = [Outage("it blocks its event loop; await everything that takes time, or write no coroutine")]
    each = count // len(futures)
    return [value for future in futures for value in (blocked * each if future in late else future.result())]


def _call_all(function: Reward, batch: RewardBatch, timeout_seconds: float) -> _Values:
    try:
        return _call_once(function, batch, timeout_seconds)
    except BadInput:
        raise
    except Exception as error:  # noqa: BLE001 - it becomes the failure of a response
        if len(batch) == 1:
            return [error]
    values: _Values = []
    hangs = 0
    end = time.monotonic() + MOST_HANGS * timeout_seconds
    for row in range(len(batch)):
        started = time.monotonic()
        if hangs == MOST_HANGS:
            values.append(Outage(f"it was not called, because it had hung for {hangs} responses; correct the function"))
            continue
        if started > end:
            values.append(Outage("it was not called, because earlier responses took too long; make it faster"))
            continue
        try:
            values += _call_once(function, batch.select(row), timeout_seconds)
        except Exception as error:  # noqa: BLE001 - as above
            values.append(error)
            hangs += isinstance(error, Outage) and time.monotonic() - started >= timeout_seconds
    return values


def _call_once(function: Reward, batch: RewardBatch, timeout_seconds: float) -> _Values:
    """Call a function in a daemon thread. Raises what it raises, and Outage after the timeout."""
    results: queue.SimpleQueue[_Values | BaseException] = queue.SimpleQueue()

    def call() -> None:
        try:
            result = function.function(**function.select_arguments(batch.columns))
            results.put(_read_values(result, len(batch)))
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            results.put(error)

    threading.Thread(target=call, name=f"reward {function.name}", daemon=True).start()
    try:
        found = results.get(timeout=timeout_seconds)
    except queue.Empty:
        raise _hang(timeout_seconds) from None
    if isinstance(found, Exception):
        raise found
    if isinstance(found, BaseException):  # SystemExit and the like are no reason to end the trainer
        raise RuntimeError(f"it raised {type(found).__name__}: {found}") from found
    return found


def _hang(timeout_seconds: float) -> Outage:
    return Outage(f"it gave no value within {timeout_seconds} s; make it faster, or raise the timeout of rewards")


def _read_values(result: Any, count: int) -> _Values:
    """The values of a call. Raises ValueError if these are not `count` values."""
    try:
        items = list(result)
    except TypeError:
        raise ValueError(f"it returned {shown_value(result)}; return a list of one value per response") from None
    if len(items) != count:
        raise ValueError(f"it returned {len(items)} values for {count} responses; return one value per response")
    return [_read_value(item) for item in items]


def _read_value(item: Any) -> float | Exception | None:
    if item is None or isinstance(item, Exception):
        return item
    try:
        number = item.item() if hasattr(item, "item") else item  # of torch and numpy
        if isinstance(number, Real) and abs(value := float(number)) <= torch.finfo(torch.float32).max:
            return value
    except (ValueError, RuntimeError, OverflowError):  # several numbers, or one that is no float
        number = item
    return ValueError(f"it returned {shown_value(number)}; return a finite number, or None where it does not apply")


def _describe(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    if frames and frames[-1].filename != __file__:  # the function raised it
        return f"{type(error).__name__}: {error} ({Path(frames[-1].filename).name}:{frames[-1].lineno}); correct it"
    return f"{error}"
