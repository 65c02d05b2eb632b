"""Give rejects another chance: take back the commits and the journaled answers behind them, so that they run again."""

from __future__ import annotations

from collections import Counter

from operators.models.journal import Journal
from operators.pipeline import BUILD_STAGES, VIDEO_STAGES
from operators.runs import RunFolder
from schemas.errors import BadInput
from schemas.tables import Reject


def forget_rejects(
    folder: RunFolder, stage: str | None = None, reason: str | None = None
) -> dict[tuple[str, str], int]:
    """Take back every unit of the run that holds a matching reject.

    The units' other answers stay in the journal: only what was asked about the rejected rows is asked again.

    Args:
        stage: only rejects of this stage; None: of all.
        reason: only rejects with this reason; None: with any.

    Returns:
        Matching rejects counted by (stage, reason).

    Raises:
        BadInput: no stage has that name.
    """
    counts: Counter[tuple[str, str]] = Counter()
    if stage not in (None, *VIDEO_STAGES, *BUILD_STAGES):
        raise BadInput(f"no stage is called {stage!r}; there are {', '.join((*VIDEO_STAGES, *BUILD_STAGES))}")
    for record in folder.records():
        for unit, commit in record.commits.items():
            if not commit.rejects or stage not in (None, record.stage):
                continue
            rejects = folder.store.get_rows(commit.rejects_sha256, Reject)
            matching = [reject for reject in rejects if reason in (None, reject.reason)]
            if not matching:
                continue
            counts.update((reject.stage, reject.reason) for reject in matching)
            asked = [reject.request_sha256 for reject in matching if reject.request_sha256]
            with Journal(f"{folder.store.url}/journal/{record.stage}/{unit}") as journal:
                journal.forget(asked, keys=[reject.key for reject in matching])
            folder.store.forget_commit(record.stage, commit.key_sha256)
    return dict(counts)
