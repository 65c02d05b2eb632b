"""Runs rejects again, by removing their commits and the journaled answers that they came from."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

from operators.execution.pipeline import BUILD_STAGES, VIDEO_STAGES
from operators.execution.rejects import RejectGroup, group_by_reason, read_rejects
from operators.models.embedded import EMBEDDED_MODEL
from operators.models.journal import Journal
from operators.models.session import MEASURED, resolve
from operators.store.run_folder import RunFolder
from schemas.config import ModelConfig, Role
from schemas.errors import BadInput
from schemas.run import Run
from schemas.tables import Reject


class OtherModels(BadInput):
    """The models that a run requested resolve to other models here than those that it was built with."""


def assert_same_models(run: Run, environ: Mapping[str, str] = os.environ) -> None:
    """Check that replaying the run in this environment uses the same models as the run.

    Raises:
        OtherModels: a model differs. The message names each such role, both models and the variables to set.
        EndpointError: a requested model has no endpoint here.
    """
    here = resolve(run.requested.models, environ)
    problems = [line for role in Role for line in _differences(role, run.config.models.of(role), here.of(role))]
    if problems:
        raise OtherModels(f"run {run.run_id} cannot be replayed here: {'; '.join(problems)}")


def _differences(role: Role, before: ModelConfig, here: ModelConfig) -> Iterator[str]:
    variables = f"LVR_{role.name}"
    if before.model != here.model:
        fix = (
            f"unset {variables}_URL and LVR_MODEL_URL"
            if before.model in {MEASURED, EMBEDDED_MODEL, ""}
            else f"set {variables}_URL to its server and {variables}_MODEL={before.model}"
        )
        yield f"{role.value}: it was built with {before.model!r}, here it would be {here.model!r}; {fix}"
    elif bool(before.vision) != bool(here.vision):  # unset in runs from before the role existed
        was, flag = ("with", 1) if before.vision else ("without", 0)
        yield f"{role.value}: {before.model!r} was asked {was} vision; set {variables}_VISION={flag}"


def forget_rejects(folder: RunFolder, stage: str | None = None, reason: str | None = None) -> list[RejectGroup]:
    """Remove the commit of every work item of the run that has a matching reject, so that it runs again.

    A work item that has been tried again since, and now has no matching reject, keeps its commit. Other answers of the
    work items stay in the journal, so that only the requests about rejected rows are sent again.

    Args:
        stage: match only rejects of this stage. None matches all stages.
        reason: match only rejects with this reason. None matches all reasons.

    Returns:
        The run's matching rejects, including those removed by an earlier replay.

    Raises:
        BadInput: there is no stage with that name.
    """
    matching: list[Reject] = []
    if stage not in (None, *VIDEO_STAGES, *BUILD_STAGES):
        raise BadInput(f"no stage is called {stage!r}; there are {', '.join((*VIDEO_STAGES, *BUILD_STAGES))}")
    for record in folder.records():
        for unit, commit in record.commits.items():
            if stage not in (None, record.stage):
                continue
            found = [each for each in read_rejects(folder.store, commit) if reason in (None, each.reason)]
            matching += found
            current = folder.store.find_commit(record.stage, commit.key_sha256) if found else None
            if current is None:
                continue
            if again := [each for each in read_rejects(folder.store, current) if reason in (None, each.reason)]:
                requests = [reject.request_sha256 for reject in again if reject.request_sha256]
                with Journal(f"{folder.store.url}/journal/{record.stage}/{unit}") as journal:
                    journal.forget(requests, keys=[reject.key for reject in again])
                folder.store.forget_commit(record.stage, current.key_sha256)
    return group_by_reason((reject.stage, reject.reason, reject.message) for reject in matching)
