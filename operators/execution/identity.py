"""What determines the rows of a work item: its inputs, and the key under which a store keeps its rows.

Whether a finished work item is reused is decided in `operators.execution.runner.run_work_item`, which searches the
store for a commit of this key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from operators.execution.stage import SOURCE, Stage
from operators.models.prompts import Prompt, load_prompt
from operators.sources.access import SourceFiles
from schemas.base import canonical_json, digest
from schemas.config import BuildConfig, Role
from schemas.run import (
    InputIdentity,
    ModelIdentity,
    PromptIdentity,
    StageKey,
)
from schemas.tables import Source

WHOLE_BUILD = "all"
"""Name of the only work item of a stage that runs over the whole build."""


@dataclass(frozen=True)
class WorkItem:
    """Input of one work item of a stage."""

    unit: str
    tables: Mapping[str, tuple[str, ...]]
    """sha256 of the tables' objects by stage, for `Stage.tables`. Each contributing video has one table."""
    sources: tuple[Source, ...] = ()
    """Source videos sorted by id, for stages that read the source list or open the video."""
    empty: bool = False
    """Whether the first input, or the stage `Stage.requires_rows_of`, has no rows. Then the work item has none either,
    and nothing is decoded."""
    files: SourceFiles = field(default_factory=SourceFiles)
    """Access to the source files."""
    isolated: bool = False
    """Whether the work item is computed in a child process, which opens the video."""


def stage_key(stage: Stage, config: BuildConfig, item: WorkItem) -> StageKey:
    """The key of a work item, which covers everything that its rows depend on.

    Prompts and models are part of the key only if the stage uses them under this configuration.
    """
    uses_models = stage.uses_models(config)
    parts = {name: list(item.tables[name]) for name in stage.tables}
    if stage.reads_source:
        columns = set(stage.source_columns)
        parts[SOURCE] = [digest(source.model_dump(mode="json", include=columns)) for source in item.sources]
    inputs = [_input_identity(name, parts[name]) for name in stage.reads.values()]
    if stage.requires_rows_of:
        inputs.append(InputIdentity(stage=stage.requires_rows_of, rows_sha256=digest(not item.empty)))
    return StageKey(
        stage=stage.name,
        version=stage.version,
        unit=item.unit,
        seed=config.seed,
        section=canonical_json(stage.section(config)),
        prompts=tuple(prompt_identity(load_prompt(prompt)) for prompt in stage.prompts) if uses_models else (),
        models=tuple(_model_identity(config, role) for role in stage.roles) if uses_models else (),
        inputs=tuple(inputs),
        tools=tuple(tool() for tool in stage.tools),
    )


def _input_identity(name: str, parts: list[str]) -> InputIdentity:
    """Identity of one input from the hashes of its tables, or of the source videos."""
    return InputIdentity(stage=name, rows_sha256=parts[0] if len(parts) == 1 else digest(parts))


def prompt_identity(prompt: Prompt) -> PromptIdentity:
    """Identity of a prompt: a hash of its text and of its answer's JSON schema, as both are sent to the model."""
    schemas = [output.model_json_schema() for _, output in prompt.outputs]
    return PromptIdentity(prompt_id=prompt.id, sha256=digest([prompt.sha256, *schemas]))


def _model_identity(config: BuildConfig, role: Role) -> ModelIdentity:
    model = config.models.of(role)
    return ModelIdentity(role=role, model=model.model, vision=bool(model.vision), settings=model.answer_settings)
