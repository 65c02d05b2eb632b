"""The names of all stages, in the order in which they run. No other module lists them all."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # this module must be cheap to import: every DAG parse imports it
    from operators.execution.stage import Stage

VIDEO_STAGES = ("ingest", "split", "caption", "outline", "question", "reason", "difficulty", "package")
"""Stages that run for each source video, in this order. Partitions run them independently of each other."""

BUILD_STAGES = ("assemble", "shard")
"""Stages that run once over all videos, in this order."""


@cache
def stage(name: str) -> Stage:
    """The stage with this name. Its module is imported on the first call."""
    found: Stage = import_module(f"operators.stages.{name}").STAGE
    assert found.name == name and (found.scope.value == "video") == (name in VIDEO_STAGES), f"{name}: see its STAGE"
    return found
