"""Runs several rewards over the responses of a step, and keeps a failure from costing more than its own response.

A function fails for a response if it raises, gives no value within the timeout, or returns NaN, an infinite number or
something that is no number. If a call with all responses fails as a whole, each response is tried alone. A response
with a failure has no reward at all: scored 0 it would count as wrong, and without the failed part it would be compared
with responses that have it.

Every call runs in a daemon thread, which the trainer abandons after the timeout. A function that hangs in C code and
holds Python's global lock cannot be abandoned.
"""

from __future__ import annotations

import asyncio
import math
import queue
import threading
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from numbers import Real
from pathlib import Path
from typing import Any

import torch

from schemas.base import shown_value
from schemas.errors import BadInput, Outage
from trainer_plugin.distributed.mesh import broadcast_from_rank_zero
from trainer_plugin.rl.rewards.base import Reward, RewardBatch, RewardFailure, Rewards

MOST_HANGS = 3
"""A function that hangs for so many single responses is not called for the others."""

_GRACE_SECONDS = 1.0
"""Time for a coroutine to end after its timeout, before its event loop counts as blocked."""

_Values = list[float | Exception | None]


def run_rewards(
    functions: Sequence[Reward], weights: Sequence[float], batch: RewardBatch, timeout_seconds: float
) -> Rewards:
    """Call F rewards for R responses.

    Coroutine functions run concurrently with each other and with the other functions, which run one after another.
    At worst, each of these takes `(2 + MOST_HANGS) * timeout_seconds`.

    Args:
        weights: one per function. 0 only measures a function: its failure excludes no response.
        timeout_seconds: limit of one call.

    Raises:
        Outage: a function has no value for any response, and one failed for an outage or for the timeout.
        BadInput: a function failed for all responses of more than one sample, raised BadInput, or needs an argument
            that is no column.
        ValueError: the number of weights is wrong, or one is not finite.
    """
    if len(weights) != len(functions) or not all(map(math.isfinite, weights)):
        raise ValueError(f"the weights {list(weights)} do not fit {len(functions)} rewards; give a finite one for each")
    for function in functions:
        function.select_arguments(batch.columns)
    started = time.monotonic()
    futures: dict[int, Future[_Values]] = {
        index: asyncio.run_coroutine_threadsafe(_await_all(function, batch, timeout_seconds), function.loop)
        for index, function in enumerate(functions)
        if function.is_async
    }
    found: list[_Values] = []
    for index, function in enumerate(functions):
        if index in futures:
            end = started + 2 * timeout_seconds + _GRACE_SECONDS
            found.append(_wait_for(futures[index], function, max(_GRACE_SECONDS, end - time.monotonic()), len(batch)))
        else:
            found.append(_call_all(function, batch, timeout_seconds))
    failures = [
        RewardFailure(batch.keys[row], row, function.name, _describe(function, batch, row, value))
        for function, values in zip(functions, found, strict=True)
        for row, value in enumerate(values)
        if isinstance(value, Exception)
    ]
    for function, values in zip(functions, found, strict=True):
        _check_outage(function, batch, values, [each for each in failures if each.function == function.name])
    table = torch.full((len(batch), len(functions)), torch.nan)
    for row, given in enumerate(zip(*found, strict=True)):
        if not any(isinstance(value, Exception) and weight for value, weight in zip(given, weights, strict=True)):
            known = [value if isinstance(value, float) else torch.nan for value in given]
            table[row] = torch.tensor(known)
            if all(value is None for value, weight in zip(given, weights, strict=True) if weight):
                message = f"question {batch.keys[row]}, response {row}: no reward applies to it; add one, such as judge"
                failures.append(RewardFailure(batch.keys[row], row, "", f"{message} for open questions"))
    empty = tuple(row for row, text in enumerate(batch.columns["completions"]) if not text.strip())
    names = tuple(function.name for function in functions)
    return Rewards(names, torch.tensor(list(weights), dtype=torch.float32), table, tuple(failures), empty)


def run_rewards_on_rank_zero(
    functions: Sequence[Reward], weights: Sequence[float], batch: RewardBatch | None, timeout_seconds: float
) -> Rewards:
    """Call `run_rewards` on rank 0 of all ranks and return its result on every rank. Every rank must call it.

    A judge does not answer equally twice, so ranks that share a row must not each call it. One rank for all, and not
    one for each data-parallel group, because then one limit of concurrent requests holds, equal requests are sent
    once, and an outage is seen as one: a group whose few requests all fail cannot distinguish it from bad samples.

    Args:
        batch: the responses of all ranks, in the order of ranks; used on rank 0 only.
        timeout_seconds: as in `run_rewards`. The other ranks wait in a collective, so all calls must end within its
            timeout (`parallel.timeout_minutes`).

    Raises:
        BadInput, Outage: on every rank, as `run_rewards`.
    """

    def run() -> Rewards:
        if batch is None:
            raise ValueError("rank 0 has no batch of rewards; gather the responses of all ranks to it")
        return run_rewards(functions, weights, batch, timeout_seconds)

    return broadcast_from_rank_zero(run)


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


def _wait_for(future: Future[_Values], function: Reward, seconds: float, count: int) -> _Values:
    try:
        return future.result(seconds)
    except FutureTimeoutError:
        future.cancel()
        del function.__dict__["loop"]  # the next call starts a new one
        return [Outage("it blocks its event loop; await everything that takes time, or write no coroutine")] * count


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
    for row in range(len(batch)):
        if hangs == MOST_HANGS:
            values.append(Outage(f"it was not called, because it had hung for {hangs} responses; correct the function"))
            continue
        started = time.monotonic()
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


def _describe(function: Reward, batch: RewardBatch, row: int, error: Exception) -> str:
    what = f"{error}"
    frames = traceback.extract_tb(error.__traceback__)
    if frames and frames[-1].filename != __file__:  # the function raised it
        what = f"{type(error).__name__}: {error} ({Path(frames[-1].filename).name}:{frames[-1].lineno}); correct it"
    response = shown_value(batch.columns["completions"][row])
    return (
        f"reward {function.name} failed for question {batch.keys[row]}, response {row} ({response}): {what}; the "
        f"response is excluded from its group"
    )


def _check_outage(function: Reward, batch: RewardBatch, values: _Values, failures: Sequence[RewardFailure]) -> None:
    """Raise if a function has no value for any response for a reason that is not the samples'."""
    if not failures or any(isinstance(value, float) for value in values):
        return
    message = f"reward {function.name} has no value for any of {len(batch)} responses; the first: {failures[0].message}"
    if any(isinstance(value, Outage) for value in values):
        raise Outage(message)
    if len(failures) == len(batch) and len(set(batch.keys)) > 1:
        raise BadInput(message)
