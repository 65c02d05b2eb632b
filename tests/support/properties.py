"""Hypothesis, or stand-ins where it is not installed: tests collect, and property tests are skipped with the reason.

The trainer's tests take it from here, because a GPU host has the trainer's requirements and pytest, and little else.
"""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest

try:
    from hypothesis import HealthCheck, Phase, example, given, settings
    from hypothesis import strategies as st
except ModuleNotFoundError:

    class _Anything:
        """Stands for strategies and constants: every attribute and every call gives the same again."""

        def __getattr__(self, name: str) -> Any:
            return self

        def __call__(self, *arguments: object, **named: object) -> Any:
            return self

        def __or__(self, other: object) -> Any:
            return self

        def __iter__(self) -> Iterator[Any]:
            return iter(())

    class _Unchanged(_Anything):
        """Stands for `@settings(...)` and `@example(...)`: the test stays as it is."""

        def __call__(self, *arguments: object, **named: object) -> Any:
            return lambda test: test

    def given(*positional: object, **named: object) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Skip the test. Its parameters that hypothesis does not draw, fixtures and parametrized ones, stay."""

        def skip(test: Callable[..., Any]) -> Callable[..., Any]:
            def skipped(*_: object, **__: object) -> None:
                pytest.skip("a property test: install hypothesis to run it")

            kept = [value for name, value in inspect.signature(test).parameters.items() if name not in named]
            skipped.__signature__ = inspect.Signature(kept[: len(kept) - len(positional)])
            skipped.__name__, skipped.__doc__ = test.__name__, test.__doc__
            return skipped

        return skip

    st = HealthCheck = Phase = _Anything()
    settings = example = _Unchanged()

__all__ = ["HealthCheck", "Phase", "example", "given", "settings", "st"]
