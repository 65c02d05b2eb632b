"""The stages in order: the one place that names them all."""

from __future__ import annotations

from functools import cache
from importlib import import_module

from operators.stage import Scope, Stage

VIDEO_STAGES = ("ingest", "split", "caption", "question", "reason", "verify", "difficulty")
"""Run for each source video, in this order, every lane for itself."""

BUILD_STAGES = ("assemble", "shard")
"""Run once over all videos."""

MODEL_STAGES = ("caption", "question", "reason", "verify", "difficulty")
"""Stages that may ask a model: they share the model pool's slots."""


@cache
def stage(name: str) -> Stage:
    """A stage by its name. Imported when first asked for, so that naming stages costs nothing."""
    found: Stage = import_module(f"operators.stages.{name}").STAGE
    scope = Scope.VIDEO if name in VIDEO_STAGES else Scope.BUILD
    assert (found.name, found.scope) == (name, scope), f"{name}: declared as {found.name}, {found.scope}"
    return found
