"""Hypothesis, or stand-ins if it is not installed, with which property tests are collected and skipped with a reason.

The trainer's tests import it from here, because a GPU host has little more than pytest and the trainer's requirements.
"""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest

try:
    from hypothesis import HealthCheck, Phase, assume, example, given, settings
    from hypothesis import strategies as st
except ModuleNotFoundError:

    class _Anything:
        """Stand-in for strategies and constants. Every attribute and every call returns the same object."""

        def __getattr__(self, name: str) -> Any:
            return self

        def __call__(self, *arguments: object, **named: object) -> Any:
            return self

        def __or__(self, other: object) -> Any:
            return self

        def __iter__(self) -> Iterator[Any]:
            return iter(())

    class _Unchanged(_Anything):
        """Stand-in for `@settings(...)` and `@example(...)`, which leaves the test unchanged."""

        def __call__(self, *arguments: object, **named: object) -> Any:
            return lambda test: test

    def given(*positional: object, **named: object) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Skip the test. Parameters that hypothesis does not draw (fixtures and parametrized values) are kept."""

        def skip(test: Callable[..., Any]) -> Callable[..., Any]:
            def skipped(*_: object, **__: object) -> None:
                pytest.skip("a property test: install hypothesis to run it")

            kept = [value for name, value in inspect.signature(test).parameters.items() if name not in named]
            skipped.__signature__ = inspect.Signature(kept[: len(kept) - len(positional)])
            skipped.__name__, skipped.__doc__ = test.__name__, test.__doc__
            return skipped

        return skip

    st = HealthCheck = Phase = assume = _Anything()
    settings = example = _Unchanged()

__all__ = ["HealthCheck", "Phase", "assume", "example", "given", "settings", "st"]
