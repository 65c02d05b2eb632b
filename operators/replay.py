"""Give rejects another chance: take back the commits and the journaled answers behind them, so that they run again."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping

from operators.models.embedded import EMBEDDED_MODEL
from operators.models.journal import Journal
from operators.models.session import MEASURED, resolve
from operators.pipeline import BUILD_STAGES, VIDEO_STAGES
from operators.runs import RunFolder
from operators.store import Store
from schemas.config import ModelConfig, Role
from schemas.errors import BadInput
from schemas.run import Commit, Run
from schemas.tables import Reject


class OtherModels(BadInput):
    """What a run requested means other models here than those that it was built with."""


def assert_same_models(run: Run, environ: Mapping[str, str] = os.environ) -> None:
    """Replaying the run's request in this environment asks the models that the run asked.

    Raises:
        OtherModels: it does not; the message names each role, both models and the variables to set.
        EndpointError: a requested model has no endpoint here.
    """
    here = resolve(run.requested.models, environ)
    problems = [line for role in Role for line in _differences(role, run.config.models.of(role), here.of(role))]
    if problems:
        raise OtherModels(f"run {run.run_id} cannot be replayed here: {'; '.join(problems)}")


def _differences(role: Role, before: ModelConfig, here: ModelConfig) -> Iterator[str]:
    variables = f"LVR_{role.name}"
    if before.model != here.model:
        way_out = (
            f"unset {variables}_URL and LVR_MODEL_URL"
            if before.model in {MEASURED, EMBEDDED_MODEL}
            else f"set {variables}_URL to its server and {variables}_MODEL={before.model}"
        )
        yield f"{role.value}: it was built with {before.model!r}, here it would be {here.model!r}; {way_out}"
    elif before.vision != here.vision:
        was, flag = ("with", 1) if before.vision else ("without", 0)
        yield f"{role.value}: {before.model!r} was asked {was} vision; set {variables}_VISION={flag}"


def forget_rejects(
    folder: RunFolder, stage: str | None = None, reason: str | None = None
) -> dict[tuple[str, str], int]:
    """Take back every unit of the run that holds a matching reject, unless it has been tried again and came out well.

    The units' other answers stay in the journal: only what was asked about the rejected rows is asked again.

    Args:
        stage: only rejects of this stage; None: of all.
        reason: only rejects with this reason; None: with any.

    Returns:
        The run's matching rejects counted by (stage, reason), also those that an earlier replay has taken back.

    Raises:
        BadInput: no stage has that name.
    """
    counts: Counter[tuple[str, str]] = Counter()
    if stage not in (None, *VIDEO_STAGES, *BUILD_STAGES):
        raise BadInput(f"no stage is called {stage!r}; there are {', '.join((*VIDEO_STAGES, *BUILD_STAGES))}")
    for record in folder.records():
        for unit, commit in record.commits.items():
            if stage not in (None, record.stage):
                continue
            matching = _rejects(folder.store, commit, reason)
            counts.update((reject.stage, reject.reason) for reject in matching)
            standing = folder.store.find_commit(record.stage, commit.key_sha256) if matching else None
            if standing and (again := _rejects(folder.store, standing, reason)):
                _forget(folder.store, record.stage, unit, standing, again)
    return dict(counts)


def _rejects(store: Store, commit: Commit, reason: str | None) -> list[Reject]:
    if not commit.rejects:
        return []
    return [each for each in store.get_rows(commit.rejects_sha256, Reject) if reason in (None, each.reason)]


def _forget(store: Store, stage: str, unit: str, commit: Commit, rejects: list[Reject]) -> None:
    asked = [reject.request_sha256 for reject in rejects if reject.request_sha256]
    with Journal(f"{store.url}/journal/{stage}/{unit}") as journal:
        journal.forget(asked, keys=[reject.key for reject in rejects])
    store.forget_commit(stage, commit.key_sha256)
