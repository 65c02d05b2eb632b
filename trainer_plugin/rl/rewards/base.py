"""The call shape of a reward, its loader, and the responses and results of a step.

A reward is a function, a coroutine function, or an object with such a `__call__`. It has the shape of TRL's reward
functions: it is called with keyword arguments only, one list each with one item per response, and returns one value
per response. A function gets the arguments that its parameters name, and all of them if it takes `**columns`:

- `prompts`: the rendered prompts; `completions`: the responses as text, without special tokens; `completion_ids`:
  their token ids, without padding.
- every field of `schemas.sample.Sample`: `problem`, `options`, `answer`, `answer_text`, `kind`, `duration_us`, …

A value is a number, or None if the reward does not apply to the response. An exception in place of a value states
why this response's reward failed.

A coroutine function with the attribute `per_response = True` is called for each response alone, as soon as that
response ends. The other functions are called once all responses have ended.
"""

from __future__ import annotations

import asyncio
import difflib
import functools
import hashlib
import importlib
import importlib.util
import inspect
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from schemas.errors import BadInput
from schemas.sample import Sample
from trainer_plugin.rl.advantages import combine_rewards

BUILT_IN = {
    "format": "trainer_plugin.rl.rewards.format:format_reward",
    "accuracy": "trainer_plugin.rl.rewards.accuracy:accuracy_reward",
    "judge": "trainer_plugin.rl.rewards.judge:Judge",
    "length": "trainer_plugin.rl.rewards.length:SoftOverlong",
    "letters": "trainer_plugin.rl.rewards.letters:letters_reward",
}
"""Paths of the built-in rewards by their short names."""


@dataclass(frozen=True)
class Reward:
    """A loaded reward."""

    name: str
    """Its short name or path, for messages and metrics."""
    function: Callable[..., Any]

    def __post_init__(self) -> None:
        """
        Raises:
            BadInput: the function is `per_response`, but not a coroutine function.
        """
        if self.per_response and not self.is_async:
            raise BadInput(
                f"reward {self.name}: it has per_response = True and is not a coroutine function; define it with "
                f"`async def`, or remove per_response"
            )

    @property
    def per_response(self) -> bool:
        """Whether the function is called for each response alone, as soon as it ends."""
        function = self.function
        return bool(getattr(getattr(function, "func", function), "per_response", False))  # options make it a partial

    @property
    def is_async(self) -> bool:
        """Whether the function is a coroutine function."""
        call = getattr(self.function, "__call__", None)  # noqa: B004 - an object may have an async __call__
        return inspect.iscoroutinefunction(self.function) or inspect.iscoroutinefunction(call)

    @functools.cached_property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop of a coroutine function, in a thread of its own.

        It outlives a call, because a function may keep a client that belongs to it. Its thread is a daemon, so that a
        function that blocks it does not keep the trainer from ending.
        """
        loop = asyncio.new_event_loop()
        threading.Thread(target=loop.run_forever, name=f"reward {self.name}", daemon=True).start()
        return loop

    def select_arguments(self, columns: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
        """The keyword arguments that the function gets: lists of its own.

        Raises:
            BadInput: the function needs an argument that is no column.
        """
        parameters = inspect.signature(self.function).parameters
        takes_all = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values())
        options = getattr(self.function, "keywords", {})
        for name, each in parameters.items():
            named = each.kind in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
            if not named and each.kind is not inspect.Parameter.VAR_KEYWORD:
                raise BadInput(f"reward {self.name}: its parameter {each} takes no keyword argument; drop it")
            if named and each.default is inspect.Parameter.empty and name not in columns:
                raise BadInput(
                    f"reward {self.name}: there is no column for its argument {name!r}; the columns are "
                    f"{', '.join(columns)}; give it a default or set it in the reward's options"
                )
        return {
            name: list(column)
            for name, column in columns.items()
            if name not in options and (takes_all or name in parameters)
        }


def load_reward(path: str, **options: Any) -> Reward:
    """Load a reward by its short name, or from a Python path.

    Args:
        path: `format`, `accuracy`, `judge` or `length`; or `package.module:name`; or `folder/file.py:name`, relative
            to the working directory.
        options: a class is constructed with them; a function gets them as further keyword arguments.

    Raises:
        BadInput: there is no such module, file or function; importing it fails; it is not callable; a class rejects
            the options; or a function with `per_response` is no coroutine function.
    """
    place = BUILT_IN.get(path, path)
    where, _, name = place.rpartition(":")
    if not where or not name:
        near = difflib.get_close_matches(path, BUILT_IN, 1)
        hint = f"did you mean {near[0]!r}? Otherwise " if near else ""
        raise BadInput(
            f"reward {path!r}: {hint}use {', '.join(BUILT_IN)}, package.module:function, or path/to/file.py:function"
        )
    module = _import_module(path, where)
    found = getattr(module, name, None)
    if not callable(found):
        own = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        problem = "has no" if found is None else f"has a {type(found).__name__}, which cannot be called, as"
        raise BadInput(f"reward {path!r}: {where} {problem} {name!r}; it defines {', '.join(own) or 'no functions'}")
    if not options and not inspect.isclass(found):
        return Reward(path, found)
    try:
        function: Any = found(**options) if inspect.isclass(found) else functools.partial(found, **options)
        inspect.signature(function)
    except (TypeError, ValueError) as error:
        raise BadInput(f"reward {path!r}: the options {options} do not fit: {error}") from error
    return Reward(path, function)


def _import_module(path: str, where: str) -> ModuleType:
    if not where.endswith(".py"):
        try:
            return importlib.import_module(where)
        except Exception as error:
            raise BadInput(f"reward {path!r}: importing {where} fails: {type(error).__name__}: {error}") from error
    file = Path(where).resolve()
    if not file.is_file():
        raise BadInput(f"reward {path!r}: there is no file {file}; give its path from {Path.cwd()}")
    # The name is the file's own, so that two files of one name do not replace each other. It is entered before the
    # import, because dataclasses and pickle search for their module there.
    name = f"reward_{file.stem}_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise BadInput(f"reward {path!r}: running {file} fails: {type(error).__name__}: {error}") from error
    return module


@dataclass(frozen=True)
class RewardBatch:
    """R responses and what the rewards get with them. Responses of one sample are neighbours."""

    keys: Sequence[str]
    """The question's id of each response, for messages."""
    columns: Mapping[str, Sequence[Any]]
    """Keyword arguments of the rewards, R items each."""

    def __post_init__(self) -> None:
        for name in ("prompts", "completions", "completion_ids"):
            if name not in self.columns:
                raise ValueError(f"a batch of rewards lacks {name}; it has {', '.join(self.columns)}")
        for name, column in self.columns.items():
            if len(column) != len(self.keys):
                raise ValueError(f"column {name} has {len(column)} items for {len(self.keys)} responses")

    def __len__(self) -> int:
        return len(self.keys)

    @classmethod
    def of_samples(
        cls,
        samples: Sequence[Sample],
        prompts: Sequence[str],
        completions: Sequence[str],
        completion_ids: Sequence[Sequence[int]],
    ) -> RewardBatch:
        """The batch of R responses, with the sample of each response."""
        columns: dict[str, Sequence[Any]] = {
            name: [getattr(sample, name) for sample in samples] for name in Sample.model_fields
        }
        columns |= {"prompts": prompts, "completions": completions, "completion_ids": completion_ids}
        return cls([sample.question_id for sample in samples], columns)

    def select(self, index: int) -> RewardBatch:
        """The batch of one response."""
        return RewardBatch([self.keys[index]], {name: [column[index]] for name, column in self.columns.items()})


@dataclass(frozen=True)
class RewardFailure:
    """A reward that a function failed to give to a response."""

    key: str
    """The question's id."""
    response: int
    """Index of the response among those of all ranks."""
    function: str
    """Name of the reward; empty if no reward applies to the response."""
    message: str
    """Sample, function, value, and what to do."""


@dataclass(frozen=True)
class Rewards:
    """The rewards of R responses by F functions."""

    names: tuple[str, ...]
    weights: Tensor
    """[F] float32."""
    values: Tensor
    """[R, F] float32. NaN where a function does not apply. All of a response's values are NaN if a function with a
    weight failed for it, so that it is in no statistic of its group."""
    failures: tuple[RewardFailure, ...]
    empty: tuple[int, ...]
    """Indices of responses without text: nothing, white space, or only special tokens."""

    @property
    def totals(self) -> Tensor:
        """Weighted sums [R] float32, NaN where no reward is known."""
        return combine_rewards(self.values, self.weights)

    @property
    def metrics(self) -> dict[str, float]:
        """Mean value and number of failures of each function, and the part of responses without text.

        A function without values has no mean.
        """
        found = {"empty_responses": len(self.empty) / max(1, len(self.values))}
        for name, column in zip(self.names, self.values.unbind(1), strict=True):
            known = column[~column.isnan()]
            found |= {f"{name}/mean": float(known.double().mean())} if len(known) else {}
            found[f"{name}/failures"] = sum(failure.function == name for failure in self.failures)
        found["without_reward"] = float(torch.isnan(self.totals).sum())
        return found
