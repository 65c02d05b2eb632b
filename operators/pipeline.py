"""The stages in order: the one place that names them all."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # naming stages must cost nothing: every DAG parse does
    from operators.stage import Stage

VIDEO_STAGES = ("ingest", "split", "caption", "question", "reason", "verify", "difficulty", "package")
"""Run for each source video, in this order, every lane for itself."""

BUILD_STAGES = ("assemble", "shard")
"""Run once over all videos."""


@cache
def stage(name: str) -> Stage:
    """A stage by its name; its module is imported when it is first asked for."""
    found: Stage = import_module(f"operators.stages.{name}").STAGE
    assert found.name == name and (found.scope.value == "video") == (name in VIDEO_STAGES), f"{name}: see its STAGE"
    return found
